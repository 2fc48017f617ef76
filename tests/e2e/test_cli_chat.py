"""`ninestory chat` through a real pseudo-terminal, in a pipe, and by a running server."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.api_server import MODEL, ApiServer
from tests.e2e.test_cli import ENVIRON, run

pytestmark = [pytest.mark.slow, pytest.mark.starter]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


class Terminal:
    """A chat on a pseudo-terminal: type a line, wait for words."""

    def __init__(self, home: Path, *flags: str, **environ: str) -> None:
        self.leader, follower = pty.openpty()
        ours = {"NINESTORY_HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}
        command = [sys.executable, "-m", "ninestory", "chat", *flags]
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, **ENVIRON, **ours, **environ},
            cwd=home,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(follower)
        self.seen = ""

    def until(self, pattern: str, seconds: float = 90) -> str:
        """Wait for a pattern; returns what was printed before it."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.leader], [], [], 0.2)[0]:
                self.seen += _ESCAPES.sub("", os.read(self.leader, 65536).decode("utf-8", errors="replace"))
        before, self.seen = self.seen[: found.start()], self.seen[found.end() :]
        return before

    def say(self, line: str) -> None:
        os.write(self.leader, line.encode() + b"\r")

    def interrupt(self) -> None:
        os.write(self.leader, b"\x03")

    def leave(self, word: str = "/exit") -> int:
        self.say(word)
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self.leader], [], [], 0.1)[0]:
                try:
                    os.read(self.leader, 65536)
                except OSError:
                    break  # the terminal closes with its last process
        return self.process.wait(10)


def _take_terminal() -> None:
    """Make the pseudo-terminal the controlling one, so that its Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    chat = Terminal(tmp_path, "--max-tokens", "6", "--temperature", "0", "--seed", "1")
    assert chat.until("> ").strip() == f"{MODEL} · llama.cpp · 512 tokens of context\n/help lists the commands."
    yield chat
    chat.process.kill()
    chat.process.wait()


def saved(terminal: Terminal, home: Path, name: str) -> dict[str, object]:
    """What /save writes; it comes after the answer that is being written."""
    terminal.say(f"/save {name}")
    deadline = time.monotonic() + 60
    while not (home / name).exists() or not (home / name).read_text().endswith("}"):
        assert time.monotonic() < deadline
        if select.select([terminal.leader], [], [], 0.1)[0]:
            terminal.seen += os.read(terminal.leader, 65536).decode("utf-8", errors="replace")
    return json.loads((home / name).read_text())


def test_a_conversation_is_remembered_saved_loaded_cleared_and_answered_again(
    terminal: Terminal, tmp_path: Path
) -> None:
    terminal.say("/help")
    terminal.until("/regenerate")
    terminal.say("/system Be short.")
    terminal.say("Say hello.")
    first = saved(terminal, tmp_path, "first.json")
    assert first["system"] == "Be short."
    assert [(t["role"], bool(t["content"])) for t in first["messages"]] == [("user", True), ("assistant", True)]
    terminal.say("/regenerate")
    assert saved(terminal, tmp_path, "again.json") == first  # greedy: the same answer, and no further turn
    terminal.say("/clear")
    assert saved(terminal, tmp_path, "empty.json")["messages"] == []
    terminal.say("/load first.json")
    assert saved(terminal, tmp_path, "loaded.json") == first
    assert terminal.leave() == 0
    assert "Say hello." in (tmp_path / "chat_history").read_text()


def test_a_chat_begins_with_one_line_in_the_user_s_language(tmp_path: Path) -> None:
    chat = Terminal(tmp_path, NINESTORY_LANGUAGE="zh")
    assert chat.until("> ").strip() == f"{MODEL} · llama.cpp · 上下文 512 词元\n/help 列出全部命令。"
    assert chat.leave("/quit") == 0


def test_a_line_that_ends_with_a_backslash_goes_on(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("Say \\")
    terminal.say("hello.")
    assert saved(terminal, tmp_path, "talk.json")["messages"][0]["content"] == "Say \nhello."
    assert terminal.leave() == 0


def test_mistakes_in_commands_are_said_and_the_chat_goes_on(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[1]")
    for line, said in [
        ("/nonsense", "no command /nonsense"),
        ("/params temperature=hot", "NAME=NUMBER"),
        ("/params warmth=1", "Unknown generation option 'warmth'"),
        ("/load nothing.json", "cannot be read"),
        ("/load broken.json", "not a saved conversation"),
        ("/save", "Name a file"),
        ("/regenerate", "no answer to write again"),
        ("/model vicunna", "vicuna"),
    ]:
        terminal.say(line)
        terminal.until(said)
    terminal.say("/params max_tokens=2")
    terminal.until("'max_tokens': 2")
    terminal.say(f"/model {MODEL}")
    terminal.until("llama.cpp")
    terminal.say("Hi")
    assert len(saved(terminal, tmp_path, "talk.json")["messages"]) == 2
    assert terminal.leave() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_came(tmp_path: Path) -> None:
    chat = Terminal(tmp_path, "--max-tokens", "400", "--temperature", "0", "--system", "You tell very long stories.")
    chat.until("> ")
    chat.say("1?")
    chat.until(r"1\.|[A-Za-z]{3}")  # the question has neither: the answer has begun
    chat.interrupt()
    chat.until(r"\[stopped\]")
    assert saved(chat, tmp_path, "talk.json")["messages"][1]["content"]
    assert chat.leave() == 0


def test_all_lines_of_a_pipe_are_one_question(tmp_path: Path) -> None:
    flags = ["--max-tokens", "3", "--temperature", "0", "--json"]
    one = json.loads(run(tmp_path, "chat", *flags, given="Name a colour.\nOnly one word.\n").stdout)
    assert one["usage"]["completion_tokens"] <= 3
    other = json.loads(run(tmp_path, "chat", *flags, given="Name a colour.\n").stdout)
    assert one["usage"]["prompt_tokens"] > other["usage"]["prompt_tokens"]


def test_an_empty_pipe_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "chat", given=" \n", check=False).returncode == 2


def test_a_running_server_answers_the_same(tmp_path: Path, api_server: ApiServer) -> None:
    flags = ["--max-tokens", "6", "--temperature", "0", "--prompt", "What is the capital of France?"]
    asked = run(tmp_path, "--server", api_server.url, "chat", *flags)
    assert asked.stdout == run(tmp_path, "chat", *flags).stdout
    assert asked.stderr == "" and MODEL in run(tmp_path, "ps", "--server", api_server.url).stdout
    missing = run(tmp_path, "chat", "vicuna:7b-v1.5", "--server", api_server.url, "-p", "Hi", check=False)
    assert missing.returncode != 0 and "vicuna" in missing.stderr and "Traceback" not in missing.stderr

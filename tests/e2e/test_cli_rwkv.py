"""ChatRWKV's chat program by `ninestory chat`: a small release with the World vocabulary, random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninestory.core.errors import InvalidRequest
from ninestory.floors.chat.rwkv_session import Prompt, read_prompt_file
from tests.e2e.test_cli import run
from tests.e2e.test_cli_chat import Terminal
from tests.tiny_rwkv import write_release

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("rwkv") / "RWKV-6-World-tiny.pth", "6", width=32)


def test_a_conversation_with_its_commands(tmp_path: Path, release: Path) -> None:
    chat = Terminal(tmp_path, str(release), "--max-tokens", "6", "--seed", "1", "--threads", "1")
    chat.until("ChatRWKV")
    chat.until("> ")
    chat.say("++")
    chat.until("no free text to carry on")
    chat.say("hello")
    chat.until("Assistant:")
    chat.until("> ")
    chat.say("+")
    chat.until("Assistant:")
    chat.until("> ")
    chat.say("+gen Once upon a time")
    chat.until("\n> ")
    chat.say("+++")
    chat.until("\n> ")
    chat.say("-temp=warm hello")
    chat.until("is no number")
    chat.say("+reset")
    chat.until("Assistant: Chat reset")
    (tmp_path / "English.py").write_text(
        'interface = ":"\nuser = "Question"\nbot = "Answer"\ninit_prompt = f"{user}{interface} hi\\n\\n{bot}{interface} Hello.\\n"\n'
    )
    chat.say(f"+prompt {tmp_path / 'English.py'}")
    chat.until("Answer: Prompt set up")
    chat.say("hello")
    chat.until("Answer:")
    chat.until("> ")
    assert chat.leave() == 0


def test_one_command_in_a_pipe_is_the_same_for_the_same_seed(tmp_path: Path, release: Path) -> None:
    flags = ("--max-tokens", "6", "--seed", "3", "--threads", "1")
    first, second = (run(tmp_path, "chat", str(release), *flags, given="+i Write a poem") for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stdout.strip()


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--strategy", "cuda:9 fp16i8 *2 -> cpu fp32"), "'cuda:9'"),
        (("--strategy", "gpu fp16"), "strategy 'gpu fp16' is invalid"),
        (("--min-p", "0.1"), "has no --min-p"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, release: Path, flags: tuple[str, ...], cause: str) -> None:
    done = run(tmp_path, "chat", str(release), "-p", "+gen a", *flags, check=False)
    assert done.returncode == 2
    assert cause in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.starter
def test_a_strategy_is_for_rwkv_alone(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", "-p", "hi", "--strategy", "cpu fp32", check=False)
    assert done.returncode == 2
    assert "A strategy is for RWKV" in done.stderr


def test_a_prompt_file_is_read_and_never_run(tmp_path: Path) -> None:
    file, canary = tmp_path / "prompt.py", tmp_path / "canary"
    file.write_text('user = "Bob"\nbot = "Alice"\ninit_prompt = f"""\n{user}: hi\n\n{bot}: Hello.\n"""\n')
    assert read_prompt_file(file) == Prompt("Bob", "Alice", "\nBob: hi\n\nAlice: Hello.\n", ":")
    for text in (
        f"import pathlib; pathlib.Path({str(canary)!r}).touch()",
        f"user = open({str(canary)!r}, 'w').name",
        'user = "Bob"\nbot = f"{user!r:>{user}}"\ninit_prompt = ""',
        'user = "Bob"\nbot = "Alice"',
        "user = (",
    ):
        file.write_text(text)
        with pytest.raises(InvalidRequest, match="no prompt file"):
            read_prompt_file(file)
    assert not canary.exists()
    with pytest.raises(InvalidRequest, match="no prompt file"):
        read_prompt_file(tmp_path / "missing.py")

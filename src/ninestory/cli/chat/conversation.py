"""The loop of `ninestory chat` on a terminal: questions, streamed answers, and commands that start with a slash."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ninestory.cli.app import explain, language
from ninestory.core.errors import Cancelled, InvalidRequest, NinestoryError
from ninestory.core.paths import Home
from ninestory.core.regular_file import read_regular_text
from ninestory.floors.chat import ChatModel, chat_request
from ninestory.runtimes.protocol import Text

HELP = """/help  this list          /clear  forget the conversation   /system TEXT  set the system message
/save FILE  write it as JSON   /load FILE  read one               /regenerate  answer again
/params KEY=VALUE …  set sampling, e.g. temperature=0.2 seed=7    /model REFERENCE  go on with another model
/exit, /quit  leave            End a line with \\ to write another. Ctrl-C stops an answer."""

_LEAVE = ("/exit", "/quit")
_COMMAND_HINTS = {
    "en": {"/help": "/help lists the commands.", "/exit": "/exit ends the conversation."},
    "zh": {"/help": "/help 列出全部命令。", "/exit": "/exit 结束对话。"},
}


class Conversation:
    """A conversation and the model that answers it; closes the model at its end.

    Args:
        open_model: a reference → a loaded model (for /model).
    """

    def __init__(
        self, open_model: Callable[[str], ChatModel], reference: str, system: str, options: dict[str, Any]
    ) -> None:
        self._open = open_model
        self.model, self.system, self.options = open_model(reference), system, options
        self.turns: list[dict[str, str]] = []

    def loop(self) -> None:
        """Read, answer, until the conversation is left."""
        try:
            for line in terminal_lines("/help"):
                try:
                    if line.startswith("/"):
                        self._command(line)
                    elif line.strip():
                        self._answer(line)
                except NinestoryError as error:
                    explain(error)
        finally:
            self.model.close()

    def _answer(self, question: str) -> None:
        """Stream an answer; Ctrl-C keeps what came, an error leaves no turn behind."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        turns = [*self.turns, {"role": "user", "content": question}]
        cancel, text = threading.Event(), ""
        try:
            with interrupts(cancel):
                for chunk in self.model.run(chat_request([*head, *turns], self.options), cancel):
                    if isinstance(chunk, Text):
                        print(chunk.text, end="", flush=True)
                        text += "" if chunk.reasoning else chunk.text
        except Cancelled:
            print(" [stopped]", end="")
        print()
        self.turns = [*turns, {"role": "assistant", "content": text}]

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name == "clear":
            self.turns = []
        elif name == "system":
            self.system = rest
        elif name == "save":
            save(_file(rest), self.system, self.turns)
        elif name == "load":
            self.system, self.turns = read(_file(rest))
        elif name == "params":
            self.options = self.options | parameters(rest)
            print(self.options)
        elif name == "model":
            self._change_model(rest)
        elif name == "regenerate":
            self._regenerate()
        elif name == "help":
            print(HELP)
        else:
            raise InvalidRequest(
                f"There is no command /{name}.", hint="/help lists the commands.", hint_zh="/help 列出全部命令。"
            )

    def _change_model(self, reference: str) -> None:
        """The new one is loaded before the old one is let go: a mistyped name costs nothing."""
        model = self._open(reference)
        self.model.close()
        self.model = model

    def _regenerate(self) -> None:
        if len(self.turns) < 2:
            raise InvalidRequest(
                "There is no answer to write again.", hint="Ask something first.", hint_zh="请先提一个问题。"
            )
        kept = self.turns
        self.turns, question = kept[:-2], kept[-2]["content"]
        try:
            self._answer(question)
        except NinestoryError:
            self.turns = kept
            raise


@contextlib.contextmanager
def interrupts(cancel: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `cancel`, so that it is never raised in a place that swallows it; a second one ends the program."""

    def stop(number: int, frame: Any) -> None:
        if cancel.is_set():
            signal.default_int_handler(number, frame)
        cancel.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def terminal_lines(command: Literal["/help", "/exit"] = "/exit") -> Iterator[str]:
    """What is typed, with a history, until the end of input, /exit or /quit; a line goes on after a backslash.

    Args:
        command: the one that is named at the beginning.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    history = Home.default().ensure().root / "chat_history"
    session: Any = PromptSession(history=FileHistory(str(history)))
    print(_COMMAND_HINTS[language()][command], file=sys.stderr)
    while True:
        try:
            line = session.prompt("> ")
            while line.endswith("\\"):
                line = line[:-1] + "\n" + session.prompt("… ")
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        if line in _LEAVE:
            return
        yield line


def parameters(text: str) -> dict[str, Any]:
    """`temperature=0.2 seed=7` as generation options.

    Raises:
        InvalidRequest: an unknown name, or a value that is not a number.
    """
    options: dict[str, Any] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        try:
            options[name] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            raise InvalidRequest(
                f"/params takes NAME=NUMBER, and {item!r} is not that.",
                hint="For example: /params temperature=0.2 seed=7",
                hint_zh="例如：/params temperature=0.2 seed=7",
            ) from None
    chat_request("", options)  # refuses unknown names
    return options


def save(path: Path, system: str, turns: list[dict[str, str]]) -> None:
    """Write a conversation as JSON: `system` and `messages`."""
    try:
        path.write_text(
            json.dumps({"system": system, "messages": turns}, ensure_ascii=False, indent=1), encoding="utf-8"
        )
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from error


def read(path: Path) -> tuple[str, list[dict[str, str]]]:
    """The system message and the turns of a saved conversation.

    Raises:
        InvalidRequest: no such file, or it is not a conversation.
    """
    try:
        saved = json.loads(read_regular_text(path))
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in saved["messages"]]
        return str(saved.get("system", "")), turns
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{path} is not a saved conversation.",
            hint="/save writes the form that /load reads.",
            hint_zh="/load 读取 /save 写出的格式。",
        ) from error


def _file(text: str) -> Path:
    if not text:
        raise InvalidRequest("Name a file.", hint="For example: /save talk.json", hint_zh="例如：/save talk.json")
    return Path(text).expanduser()

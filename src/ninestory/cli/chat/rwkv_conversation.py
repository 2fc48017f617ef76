"""ChatRWKV's chat program on a terminal, or one message in a pipe: text, and commands that start with a plus."""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import Any

from ninestory.cli.app import explain
from ninestory.cli.chat.conversation import interrupts, terminal_lines
from ninestory.cli.chat.open_chat import print_first_line
from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.floors.chat import RWKV_CHAT_SAMPLING as CHAT_SAMPLING
from ninestory.floors.chat import RWKV_HELP as HELP
from ninestory.floors.chat import RwkvSession, open_session
from ninestory.models.resolved import ResolvedModel

_COMMANDS = ("+", "-temp=", "-top_p=")  # with which a message is for the program rather than for the model
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "presence_penalty": "presence",
    "frequency_penalty": "frequency",
}


def chat_program(model: ResolvedModel, settings: RuntimeSettings, options: dict[str, Any], message: str | None) -> bool:
    """Hold a conversation (no message) or follow one command; False: the message is a plain question."""
    if message is not None and not message.startswith(_COMMANDS):
        return False
    session = open_rwkv(model, settings, options)
    print_first_line(model.reference, "ChatRWKV", None)
    loop(session) if message is None else say(session, message)
    return True


def open_rwkv(model: ResolvedModel, settings: RuntimeSettings, options: dict[str, Any]) -> RwkvSession:
    """A session with the command line's options.

    Raises:
        InvalidRequest: an option that the program's own sampling rule does not have.
    """
    unknown = sorted(set(options) - set(_SAMPLING) - {"seed", "max_tokens"})
    if unknown:
        name = unknown[0].replace("_", "-")
        raise InvalidRequest(
            f"ChatRWKV's conversation has no --{name}.",
            hint="Leave it out, or ask one question with --prompt, which goes through the batching engine.",
            hint_zh="请去掉该选项，或用 --prompt 单次提问（经由批处理引擎）。",
            param=unknown[0],
        )
    sampling = {_SAMPLING[name]: value for name, value in options.items() if name in _SAMPLING}
    limits = {}
    if "max_tokens" in options:
        limits = {"chat_tokens": options["max_tokens"], "free_tokens": options["max_tokens"]}
    return open_session(
        model, settings, sampling=dataclasses.replace(CHAT_SAMPLING, **sampling), seed=options.get("seed"), **limits
    )


def say(session: RwkvSession, message: str) -> None:
    """Print the answer as it comes; Ctrl-C ends it, and the session stays where it was."""
    cancel = threading.Event()
    with interrupts(cancel):
        for piece in session.say(message):
            print(piece, end="", flush=True)
            if cancel.is_set():
                print(" [stopped]")
                return


def loop(session: RwkvSession) -> None:
    """Read and answer until the conversation is left."""
    for line in terminal_lines("/help"):
        try:
            if line == "/help":
                print(HELP)
            elif line.strip():
                say(session, line)
        except NinestoryError as error:
            explain(error)
            sys.stdout.flush()

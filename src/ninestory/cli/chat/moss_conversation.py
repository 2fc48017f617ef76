"""MOSS with plugins on a terminal, or one question in a pipe: `ninestory chat moss:sft-plugin --plugin calculator`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ninestory.cli.app import explain
from ninestory.cli.chat.conversation import terminal_lines
from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.tools import Tool

if TYPE_CHECKING:
    from ninestory.floors.chat import ChatModel, MossDialogue
    from ninestory.models.resolved import ResolvedModel

COMMAND_SECONDS = 60


def plugin_chat(
    model: ResolvedModel | None,
    loaded: ChatModel,
    plugins: Sequence[str],
    options: dict[str, Any],
    question: str | None,
) -> None:
    """Answer one question, or hold a conversation until it is left.

    Args:
        model: None for a server's.
        plugins: `calculator`, `solver`, `search=COMMAND`, `draw=COMMAND`; a command is given the model's words on its
            input and prints one result a line.

    Raises:
        InvalidRequest: another model than MOSS, or an unknown plugin.
    """
    from ninestory.floors.chat import MossDialogue, chat_request, completer
    from ninestory.tokenizers.load import load_tokenizer

    if model is None or model.architecture != "moss" or model.path is None:
        other = f"{model.reference} is {model.architecture}" if model else "this one runs in a server"
        raise InvalidRequest(
            f"Plugins are for a MOSS in this process, and {other}.",
            hint="Leave --plugin or --server out; other models take tools through the API.",
            hint_zh="请去掉 --plugin 或 --server；其他模型可通过 API 使用工具。",
            param="plugin",
        )
    request = chat_request("", options)
    generation = {"sampling": request.sampling, "max_tokens": request.max_tokens or 512}
    complete = completer(loaded, load_tokenizer(model.path), **generation)
    dialogue = MossDialogue(complete, [plugin(text) for text in plugins])
    if question is not None:
        _say(dialogue, question)
        return
    for line in terminal_lines():
        try:
            if line.strip():
                _say(dialogue, line)
        except NinestoryError as error:
            explain(error)


def plugin(text: str) -> Tool:
    """A plugin by its word on the command line.

    Raises:
        InvalidRequest: an unknown one, or one that wants a command and has none.
    """
    from ninestory.floors.chat import calculator, drawing_plugin, equation_solver, search_plugin

    name, _, command = text.partition("=")
    if text == "calculator":
        return calculator()
    if text == "solver":
        return equation_solver()
    if name in ("search", "draw") and command.strip():
        return (search_plugin if name == "search" else drawing_plugin)(_program(command))
    raise InvalidRequest(
        f"There is no plugin {text[:80]!r}.",
        hint="Take calculator, solver, search=COMMAND or draw=COMMAND.",
        hint_zh="可用：calculator、solver、search=命令、draw=命令。",
        param="plugin",
    )


def _program(command: str) -> Callable[[str], str]:
    """The caller's own program, without a shell; the model's words reach it on its input only."""

    def run(words: str) -> str:
        try:
            done = subprocess.run(
                shlex.split(command), input=words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise NinestoryError(f"The plugin's command {command!r} failed: {error}.", code="plugin_failed") from error
        return done.stdout

    return run


def _say(dialogue: MossDialogue, question: str) -> None:
    """The answer on the output; what the plugins did beside it."""
    made = dialogue.ask(question)
    for result in made.results:
        print(f"{result.command.written} → {result.error or '; '.join(result.lines)}", file=sys.stderr)
    print(made.text)
    for number, snippet in made.citations.items():
        print(f"[{number}] {snippet}")
    sys.stdout.flush()

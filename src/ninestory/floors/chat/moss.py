"""MOSS's dialogue with plugins: it thinks, writes commands, is given their results, and answers with citations.

    dialogue = MossDialogue(completer(model, tokenizer), [search(my_search), calculator(), equation_solver()])
    print(dialogue.ask("What is 12 % of 250?").text)

The wire text is `models/moss_format`; through the API the caller runs the commands (`runtimes/moss_calling`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.tools import Tool
from ninestory.floors.chat.arithmetic import calculate, solve
from ninestory.floors.chat.model import ChatModel
from ninestory.models.moss_format import (
    COMMANDS,
    Command,
    Result,
    Round,
    Segment,
    meta_instruction,
    parse_commands,
    parse_thoughts,
    question_segments,
    round_segments,
)
from ninestory.runtimes.protocol import CompletionRequest, Text
from ninestory.tokenizers.tokenizer import Tokenizer

Complete = Callable[[list[Segment], str], str]  # a prompt and the mark that ends the answer → the text before the mark


class MossDialogue:
    """A conversation that remembers its rounds.

    Args:
        complete: runs the model (see `completer`).
        tools: plugins by the names Search, Calculate, Solve and Text2Image; those that are here are switched on.

    Raises:
        InvalidRequest: a tool of another name, which MOSS was never taught.
    """

    def __init__(self, complete: Complete, tools: Sequence[Tool] = ()) -> None:
        self._complete = complete
        self._tools = {tool.name: tool for tool in tools}
        for name in self._tools:
            if name not in COMMANDS:
                raise InvalidRequest(
                    f"MOSS knows no command {name!r}.",
                    hint=f"It was trained on {', '.join(COMMANDS)}.",
                    hint_zh=f"它只学过 {'、'.join(COMMANDS)}。",
                    param="tools",
                )
        self.rounds: list[Round] = []

    def ask(self, question: str) -> Round:
        """Answer; a failure leaves no trace in the conversation."""
        head = [(meta_instruction(COMMANDS[name] for name in self._tools), True)]
        for past in self.rounds:
            head += round_segments(past)
        thoughts, commands = parse_thoughts(self._complete([*head, *question_segments(question)], "<eoc>"))
        results = [self._run(command) for command in parse_commands(commands)]
        made = Round(question, thoughts, commands, results)
        prompt = [*head, *round_segments(made, answered=False)]
        made = Round(question, thoughts, commands, results, self._complete(prompt, "<eom>").strip())
        self.rounds.append(made)
        return made

    def _run(self, command: Command) -> Result:
        tool = self._tools.get(command.name)
        if tool is None:
            return Result(command, [], f"the plugin {command.name} is not switched on")
        (parameter,) = tool.parameters["properties"]
        try:
            text = tool.run({parameter: command.argument})
        except NinestoryError as error:  # the model is told that nothing was found; the caller is told why
            return Result(command, [], error.message)
        return Result(command, [line for line in text.splitlines() if line.strip()])


def search(run: Callable[[str], str]) -> Tool:
    """Web search, by the caller: a query → one snippet a line."""
    return _tool("Search", "Search the web.", "query", run)


def calculator() -> Tool:
    """Arithmetic, worked out here."""
    return _tool("Calculate", "Work out an expression.", "expression", calculate)


def equation_solver() -> Tool:
    """Equations, solved here."""
    return _tool("Solve", "Solve an equation.", "equation", solve)


def text_to_image(run: Callable[[str], str]) -> Tool:
    """A picture, by the caller: a description → where the picture is."""
    return _tool("Text2Image", "Draw a picture.", "description", run)


def completer(model: ChatModel, tokenizer: Tokenizer, **generation: Any) -> Complete:
    """`MossDialogue`'s way to a loaded model.

    Args:
        tokenizer: the model's (`tokenizers.load`), for prompts whose marks are special tokens.
        generation: fields of the protocol's `Generation`, such as max_tokens and sampling.
    """

    def complete(prompt: list[Segment], stop: str) -> str:
        ids = [*tokenizer.bos_ids, *tokenizer.encode_segments(prompt)]
        chunks = model.run(CompletionRequest(prompt=ids, stop=[stop], **generation), threading.Event())
        return "".join(chunk.text for chunk in chunks if isinstance(chunk, Text))

    return complete


def _tool(name: str, description: str, parameter: str, run: Callable[[str], str]) -> Tool:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return Tool(name, description, schema, lambda arguments: run(arguments[parameter]))

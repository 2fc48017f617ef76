"""MOSS's dialogue with plugins: it thinks, writes commands, is given their results, and answers with citations.

    dialogue = MossDialogue(completer(model, tokenizer), [search(my_search), calculator(), equation_solver()])
    print(dialogue.ask("What is 12 % of 250?").text)

Two passes a round: the prompt ends after the question, and the model writes its thoughts and commands up to `<eoc>`;
the commands are run, and with their results before it the model writes the answer up to `<eom>`. Source: the SFT data
and README of OpenLMLab/MOSS (no code there renders a round).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.tools import Tool
from ninestory.floors.chat.arithmetic import calculate, solve
from ninestory.floors.chat.model import ChatModel
from ninestory.models.templates import find_template
from ninestory.runtimes.protocol import CompletionRequest, Text
from ninestory.tokenizers.tokenizer import Segment, Tokenizer

Complete = Callable[[list[Segment], str], str]  # a prompt and the mark that ends the answer → the text before the mark

# What the meta instruction switches on → the command that the model then knows. The last two were never trained.
PLUGINS: dict[str, str] = {
    "Web search": "Search(query)",
    "Calculator": "Calculate(expression)",
    "Equation solver": "Solve(equation)",
    "Text-to-image": "Text2Image(description)",
    "Image edition": "",
    "Text-to-speech": "",
}
MOST_COMMANDS = 10
NOTHING_FOUND = "No result."
_COMMAND = re.compile(r'(Search|Calculate|Solve|Text2Image)\((?:"((?:[^"\\]|\\.)*)"|“([^”]*)”)\)')
_COMMANDS = {form.partition("(")[0]: name for name, form in PLUGINS.items() if form}


@dataclass(frozen=True)
class Command:
    """`written` as the model wrote it."""

    name: str
    argument: str
    written: str


@dataclass(frozen=True)
class Result:
    """What a command gave: lines, numbered across the round where they can be cited. `error`: why there are none."""

    command: Command
    lines: list[str]
    error: str = ""


@dataclass(frozen=True)
class Round:
    """One question and all that followed; `citations` are the snippets that `<sup><|1|></sup>` means."""

    human: str
    thoughts: str = "None"
    commands: str = "None"
    results: list[Result] = field(default_factory=list)
    text: str = ""

    @property
    def citations(self) -> dict[int, str]:
        lines = [line for result in self.results if result.command.name == "Search" for line in result.lines]
        return dict(enumerate(lines, 1))


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
            if name not in _COMMANDS:
                raise InvalidRequest(
                    f"MOSS knows no command {name!r}.",
                    hint=f"It was trained on {', '.join(_COMMANDS)}.",
                    hint_zh=f"它只学过 {'、'.join(_COMMANDS)}。",
                    param="tools",
                )
        self.rounds: list[Round] = []

    def ask(self, question: str) -> Round:
        """Answer; a failure leaves no trace in the conversation."""
        head = [(meta_instruction(_COMMANDS[name] for name in self._tools), True)]
        for past in self.rounds:
            head += round_segments(past)
        asked = [*head, ("<|Human|>: ", True), (question, False), ("<eoh>\n", True)]
        thoughts, commands = parse_thoughts(self._complete(asked, "<eoc>"))
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


def meta_instruction(enabled: Any = (), *, inner_thoughts: bool | None = None) -> str:
    """The fixed text and the switches.

    Args:
        enabled: plugins, by the names in `PLUGINS`.
        inner_thoughts: how that line is written; left out for None, unless a plugin is on: so are all of the SFT data.
    """
    names = set(enabled)
    thoughts = (True if names else None) if inner_thoughts is None else inner_thoughts
    return find_template("moss").system + "\n" + switches(names, thoughts)


def switches(enabled: set[str], inner_thoughts: bool | None) -> str:
    """One line a plugin."""
    lines = [] if inner_thoughts is None else [f"- Inner thoughts: {'enabled' if inner_thoughts else 'disabled'}."]
    for name, form in PLUGINS.items():
        lines.append(f"- {name}: enabled. API: {form}" if name in enabled else f"- {name}: disabled.")
    return "".join(f"{line}\n" for line in lines)


def round_segments(made: Round, *, answered: bool = True) -> list[Segment]:
    """A round's wire text; only MOSS's own marks may become special tokens, not what people or tools wrote."""
    segments: list[Segment] = [("<|Human|>: ", True), (made.human, False), ("<eoh>\n<|Inner Thoughts|>: ", True)]
    segments += [(made.thoughts, False), ("<eot>\n<|Commands|>: ", True), (made.commands, False), ("<eoc>\n", True)]
    if made.results:
        segments += [("<|Results|>:\n", True), (_result_text(made.results), False), ("\n<eor>\n<|MOSS|>:", True)]
    else:
        segments.append(("<|Results|>: None<eor>\n<|MOSS|>:", True))
    return [*segments, (f" {made.text}", False), ("<eom>\n", True)] if answered else segments


def parse_thoughts(text: str) -> tuple[str, str]:
    """The thoughts and the commands of a first pass, `None` where there are none."""
    thoughts, _, commands = text.partition("<|Commands|>:")
    thoughts = thoughts.partition("<|Inner Thoughts|>:")[2] or thoughts
    return thoughts.replace("<eot>", "").strip() or "None", commands.replace("<eoc>", "").strip() or "None"


def parse_commands(text: str) -> list[Command]:
    """The first `MOST_COMMANDS` commands; `None`, and what is no command, gives none.

    >>> [c.argument for c in parse_commands('Search("tea"), Calculate("1+1")')]
    ['tea', '1+1']
    """
    found = list(_COMMAND.finditer(text))[:MOST_COMMANDS]
    return [Command(m[1], re.sub(r'\\(["\\])', r"\1", m[2]) if m[3] is None else m[3], m[0]) for m in found]


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


def _result_text(results: Sequence[Result]) -> str:
    """Search results are numbered, and the numbers run on across the commands of a round."""
    lines, number = [], 0
    for result in results:
        found = result.lines or [NOTHING_FOUND]
        if result.command.name == "Calculate":
            lines.append(f"{result.command.written} => {found[0]}")
            continue
        lines.append(f"{result.command.written} =>")
        for line in found:
            cited = result.command.name == "Search" and bool(result.lines)
            number += cited
            lines.append(f'<|{number}|>: "{line}"' if cited else line)
    return "\n".join(lines)

"""MOSS's plugin format, byte for byte: thoughts, commands, results and the answer.

A round goes through two passes: the prompt ends after the question, and the model writes thoughts and commands up to
`<eoc>`; with the commands' results before it the model writes the answer up to `<eom>`. Source: the SFT data and README
of OpenLMLab/MOSS (no code there renders a round).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ninestory.models.templates import find_template

Segment = tuple[str, bool]  # a text, and whether MOSS's own marks in it are special tokens

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
COMMANDS = {form.partition("(")[0]: name for name, form in PLUGINS.items() if form}


@dataclass(frozen=True)
class Command:
    """A plugin call. `written`: the text as the model generated it."""

    name: str
    argument: str
    written: str


@dataclass(frozen=True)
class Result:
    """Result of a command: lines, numbered across the round if they can be cited. `error`: why there are none."""

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


def meta_instruction(enabled: Any = (), *, inner_thoughts: bool | None = None, system: str = "") -> str:
    """MOSS's meta instruction: the fixed text and the plugin switches.

    Args:
        enabled: plugins, by the names in `PLUGINS`.
        inner_thoughts: how that line is written; left out for None, unless a plugin is on: so are all of the SFT data.
        system: takes the place of the fixed text.
    """
    names = set(enabled)
    thoughts = (True if names else None) if inner_thoughts is None else inner_thoughts
    return (system or find_template("moss").system) + "\n" + switches(names, thoughts)


def question_segments(question: str) -> list[Segment]:
    """The question of a round whose thoughts and commands are to come."""
    return [("<|Human|>: ", True), (question, False), ("<eoh>\n", True)]


def switches(enabled: set[str], inner_thoughts: bool | None) -> str:
    """Plugin switches, one line per plugin."""
    lines = [] if inner_thoughts is None else [f"- Inner thoughts: {'enabled' if inner_thoughts else 'disabled'}."]
    for name, form in PLUGINS.items():
        lines.append(f"- {name}: enabled. API: {form}" if name in enabled else f"- {name}: disabled.")
    return "".join(f"{line}\n" for line in lines)


def round_segments(made: Round, *, answered: bool = True) -> list[Segment]:
    """A round's wire text; only MOSS's own marks may become special tokens, not what people or tools wrote."""
    segments = [*question_segments(made.human), ("<|Inner Thoughts|>: ", True), (made.thoughts, False)]
    segments += [("<eot>\n<|Commands|>: ", True), (made.commands, False), ("<eoc>\n", True)]
    if made.results:
        segments += [("<|Results|>:\n", True), (_result_text(made.results), False), ("\n<eor>\n<|MOSS|>:", True)]
    else:
        segments.append(("<|Results|>: None<eor>\n<|MOSS|>:", True))
    return [*segments, (f" {made.text}", False), ("<eom>\n", True)] if answered else segments


def parse_thoughts(text: str) -> tuple[str, str]:
    """Parse the thoughts and the commands of a first pass; `None` for a missing one."""
    thoughts, _, commands = text.partition("<|Commands|>:")
    thoughts = thoughts.partition("<|Inner Thoughts|>:")[2] or thoughts
    return thoughts.replace("<eot>", "").strip() or "None", commands.replace("<eoc>", "").strip() or "None"


def parse_commands(text: str) -> list[Command]:
    """Parse the first `MOST_COMMANDS` commands; anything that is not a command is skipped.

    >>> [c.argument for c in parse_commands('Search("tea"), Calculate("1+1")')]
    ['tea', '1+1']
    """
    found = list(_COMMAND.finditer(text))[:MOST_COMMANDS]
    return [Command(m[1], re.sub(r'\\(["\\])', r"\1", m[2]) if m[3] is None else m[3], m[0]) for m in found]


def written_command(name: str, argument: str) -> Command:
    """A command as the model would have written it.

    >>> written_command("Search", 'say "tea"').written
    'Search("say \\\\"tea\\\\"")'
    """
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"')
    return Command(name, argument, f'{name}("{escaped}")')


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

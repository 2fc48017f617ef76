"""Task prompts as data: typed variables, delimiters that data cannot close, examples, an answer's schema, test cases.

The library lies in `catalog/prompts`; a file of the same form is a prompt too. Method: the short courses on prompt
engineering for developers (clear instructions, time to think, iterate on measured cases).
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.core.regular_file import read_regular_text
from ninestory.models.catalogue import Text, build

LANGUAGES = ("en", "zh")
TYPES = ("text", "string", "integer", "choice", "list", "phrase")
TASKS = ("summarise", "infer", "transform", "expand", "translate", "correct", "classify", "extract", "other")
_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True)
class Variable:
    """One thing to fill in.

    Attributes:
        type: text (data, put between delimiters), string, integer, choice, list (of words, separated by commas) or
            phrase (its `phrase` with {value}, or nothing where it is left empty).
        labels: how a choice is written in Chinese.
    """

    name: str
    type: str
    about: Text
    default: str | None = None
    choices: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    phrase: Text | None = None

    @property
    def required(self) -> bool:
        return self.default is None and self.type != "phrase"


@dataclass(frozen=True)
class Example:
    """A finished case that the model is shown."""

    language: str
    values: dict[str, str]
    answer: str


@dataclass(frozen=True)
class Case:
    """What `bench` tries: values, and checks on the answer (evaluation/checks.py)."""

    language: str
    values: dict[str, str]
    checks: list[dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """A task prompt in both languages. `schema`: what a JSON answer must match; `json`: it is JSON without one."""

    id: str
    task: str
    version: str
    title: Text
    text: Text
    variables: list[Variable]
    temperature: float = 0.0
    schema: str = ""
    json: bool = False
    examples: list[Example] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)


@lru_cache(maxsize=1)
def load_prompts() -> dict[str, Prompt]:
    """id → prompt of the library.

    Raises:
        Damaged: a file of the library is not of its form.
    """
    prompts: dict[str, Prompt] = {}
    for file in sorted((resources.files("ninestory.catalog") / "prompts").iterdir(), key=lambda f: f.name):
        for prompt in _read(file.read_text(encoding="utf-8"), f"prompts/{file.name}"):
            prompts[prompt.id] = prompt
    return prompts


def find_prompt(reference: str) -> Prompt:
    """A prompt of the library by its id, or the first of a TOML file by its path (`FILE#ID` names another).

    Raises:
        NotFound: with the nearest ids. Damaged: the file is not of the library's form.
    """
    path, _, wanted = reference.partition("#")
    if path.endswith(".toml"):
        try:
            prompts = _read(read_regular_text(Path(path).expanduser()), path)
        except (OSError, UnicodeDecodeError) as error:
            raise NotFound(
                f"The prompt file {path} cannot be read: {error}.", hint="Check the path.", hint_zh="请检查路径。"
            ) from error
        chosen = [prompt for prompt in prompts if wanted in ("", prompt.id)]
        if chosen:
            return chosen[0]
        raise NotFound(f"{path} has no prompt {wanted!r}.", hint="Check the id.", hint_zh="请检查 id。")
    library = load_prompts()
    if reference in library:
        return library[reference]
    near = difflib.get_close_matches(reference, library, n=3) or list(library)
    raise NotFound(
        f"There is no prompt {reference[:80]!r}.",
        hint=f"Take one of: {', '.join(near)}; or name a .toml file.",
        hint_zh=f"可用的提示：{'、'.join(near)}；或指定 .toml 文件。",
        param="prompt",
        code="unknown_prompt",
    )


def compose(prompt: Prompt, values: Mapping[str, str], language: str = "en") -> list[dict[str, str]]:
    """The messages: each example as a question and its answer, then the question itself.

    Raises:
        InvalidRequest: an unknown, missing or wrong value; names it.
    """
    if language not in LANGUAGES:
        raise _wrong("language", f"{language!r}, and en or zh was due")
    messages: list[dict[str, str]] = []
    for example in prompt.examples:
        if example.language == language:
            messages.append({"role": "user", "content": _filled(prompt, example.values, language)})
            messages.append({"role": "assistant", "content": example.answer})
    return [*messages, {"role": "user", "content": _filled(prompt, values, language)}]


def answer_schema(prompt: Prompt) -> dict[str, Any] | None:
    """The JSON schema of an answer, {} for any object, None where the answer is text."""
    if prompt.schema:
        schema: dict[str, Any] = json.loads(prompt.schema)
        return schema
    return {"type": "object"} if prompt.json else None


def json_fault(answer: str, schema: dict[str, Any]) -> str:
    """Why an answer is not the JSON that was asked for; "" when it is. A fence around it is allowed."""
    import jsonschema

    try:
        jsonschema.validate(json.loads(unfenced(answer)), schema)
    except ValueError as error:
        return f"it is not JSON: {error}"
    except jsonschema.ValidationError as error:
        return error.message
    return ""


def unfenced(answer: str) -> str:
    """The inside of a ```json fence, or the text itself."""
    fence = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", answer, re.DOTALL)
    return fence[1] if fence else answer


def as_dict(prompt: Prompt) -> dict[str, Any]:
    """Plain JSON data, for the API and the page."""
    import dataclasses

    data = dataclasses.asdict(prompt)
    data["schema"] = answer_schema(prompt)
    for variable, made in zip(data["variables"], prompt.variables, strict=True):
        variable["required"] = made.required
    return data


def _filled(prompt: Prompt, values: Mapping[str, str], language: str) -> str:
    known = {variable.name: variable for variable in prompt.variables}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise _wrong(unknown[0], f"unknown; {prompt.id} has {', '.join(known)}")
    written = {name: _written(variable, values.get(name), language) for name, variable in known.items()}
    return _SLOT.sub(lambda slot: written.get(slot[1], slot[0]), getattr(prompt.text, language))


def _written(variable: Variable, given: str | None, language: str) -> str:
    """A value as it stands in the prompt."""
    if given is None and variable.required:
        raise _wrong(variable.name, "missing")
    value = (variable.default or "") if given is None else given
    if variable.type == "text":
        # the delimiter inside the data is spelled apart, so that data cannot end it and go on as an instruction
        inside = re.sub(rf"<(/?\s*{variable.name}\s*)>", r"‹\1›", value, flags=re.IGNORECASE)
        return f"<{variable.name}>\n{inside}\n</{variable.name}>"
    if variable.type == "phrase":
        phrase = getattr(variable.phrase, language) if variable.phrase else "{value}"
        return phrase.replace("{value}", value) if value else ""
    if variable.type == "integer" and not re.fullmatch(r"\d{1,9}", value):
        raise _wrong(variable.name, f"{value[:40]!r}, and a whole number was due")
    if variable.type == "choice" and value not in variable.choices:
        raise _wrong(variable.name, f"{value[:40]!r}, and one of {', '.join(variable.choices)} was due")
    if variable.type == "list":
        return ", ".join(part.strip() for part in re.split(r"[,，]", value) if part.strip())
    return variable.labels.get(value, value) if language == "zh" else value


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The variable {name[:80]} is {why}.",
        hint="'ninestory prompt show ID' lists the variables and what they take.",
        hint_zh="ninestory prompt show ID 可列出全部变量及取值。",
        param=name,
        code="wrong_variable",
    )


def _read(text: str, where: str) -> list[Prompt]:
    try:
        tables = tomllib.loads(text)["prompts"]
        prompts = [build(Prompt, table, where) for table in tables]
        for prompt in prompts:
            if prompt.schema:
                json.loads(prompt.schema)
    except (Damaged, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        why = error.message.removeprefix(f"catalog/{where}").lstrip(": ") if isinstance(error, Damaged) else repr(error)
        raise Damaged(
            f"{where} is not a file of prompts: {why}",
            hint="'ninestory prompt show summarise --toml' prints one to begin with.",
            hint_zh="ninestory prompt show summarise --toml 可输出一个示例。",
        ) from error
    for prompt in prompts:
        fault = _fault(prompt)
        if fault:
            raise Damaged(
                f"{where}: the prompt {prompt.id!r} {fault}.", hint="Correct the file.", hint_zh="请修改文件。"
            )
    return prompts


def _fault(prompt: Prompt) -> str:
    names = [variable.name for variable in prompt.variables]
    for language in LANGUAGES:
        slots = set(_SLOT.findall(getattr(prompt.text, language)))
        if slots - set(names):
            return f"has the slot {{{min(slots - set(names))}}} in its {language} text, and no such variable"
        if set(names) - slots:
            return f"has the variable {min(set(names) - slots)!r}, which its {language} text does not use"
    wrong = [v for v in prompt.variables if v.type not in TYPES or (v.type == "choice" and v.default not in v.choices)]
    if wrong:
        return f"has the variable {wrong[0].name!r} of type {wrong[0].type!r}, or with a default that is no choice"
    return "" if prompt.task in TASKS else f"has the task {prompt.task!r}"

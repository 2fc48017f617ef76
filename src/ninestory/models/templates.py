"""The chat families' prompt formats: data in `catalog/chat_templates`, rendered byte for byte like the originals.

A checkpoint that brings its own Jinja is rendered by `chat_template`; this module is for the families of 2023 whose
format stood in their code. `segments` also tells which characters are the assistant's, so that training learns those.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.models.catalogue import build

_SLOT = re.compile(r"\{(content|input|system|round)\}")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Template:
    """A prompt format. Its texts may contain the slots {content}, {input}, {system} and {round}.

    Attributes:
        aliases: the names that other programs give to the same format, as "program:name".
        system: the text that stands where the caller gives no system message.
        system_with_input: the same where the first question has an input of its own.
        user_after_system: the form of the first question behind a system text, where it differs.
        user_alone: the whole prompt of a single question without system text, where it differs.
        assistant: what precedes an answer that is there; `generation`: what precedes one that is to come.
        end: what closes an answer and is learned with it; `after`: what separates it from the next question.
        last_end: what closes the last answer of a training text, in place of `end` and `after`, where it differs.
        opening: [role, content] of turns that the format always begins with; they are not learned.
        begin_token: the tokenizer's begin token stands before the prompt, where the family has one.
        full_width_marks: half-width marks of an answer next to a Chinese character become full-width (ChatGLM's chat).
        joins_paragraphs: blank lines end a turn in this format, so those inside a message become single ones.
    """

    id: str
    version: str
    source: str
    user: str
    generation: str
    assistant: str
    end: str = ""
    after: str = ""
    last_end: str = ""
    system: str = ""
    system_format: str = ""
    system_with_input: str = ""
    user_with_input: str = ""
    user_after_system: str = ""
    user_alone: str = ""
    first_round: int = 0
    begin_token: bool = True
    full_width_marks: bool = False
    joins_paragraphs: bool = False
    opening: list[list[str]] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    stop_ids: list[int] = field(default_factory=list)

    @property
    def lead(self) -> str:
        """Text between the assistant's role prefix and the answer: part of the format, not of the answer."""
        return self.assistant.removeprefix(self.generation) if self.assistant.startswith(self.generation) else ""


@lru_cache(maxsize=1)
def load_templates() -> dict[str, Template]:
    """id → template.

    Raises:
        Damaged: a file misses a key, has an unknown one, or names an id that another has.
    """
    templates: dict[str, Template] = {}
    folder = resources.files("ninestory.catalog") / "chat_templates"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        where = f"chat_templates/{file.name}"
        for table in tomllib.loads(file.read_text(encoding="utf-8"))["templates"]:
            template = build(Template, table, where)
            if template.id in templates:
                raise Damaged(f"catalog/{where}: the id {template.id!r} is duplicated.")
            templates[template.id] = template
    return templates


def find_template(template_id: str) -> Template:
    """Find a template by its id.

    Raises:
        NotFound: with the nearest ids.
    """
    templates = load_templates()
    if template_id in templates:
        return templates[template_id]
    near = difflib.get_close_matches(template_id, templates, n=3) or sorted(templates)
    raise NotFound(
        f"The prompt template {template_id!r} does not exist.",
        hint=f"Take one of: {', '.join(near)}.",
        hint_zh=f"可用的模板：{'、'.join(near)}。",
        param="template",
        code="unknown_template",
    )


def render(template: Template | str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
    """Render the prompt as one string; see `segments`."""
    return "".join(text for text, _ in segments(template, messages, add_generation_prompt))


def stops(template: Template | str) -> list[str]:
    """Stop strings of this format, in addition to the model's EOS token."""
    return list((find_template(template) if isinstance(template, str) else template).stops)


def segments(
    template: Template | str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> list[tuple[str, bool]]:
    """[(text, whether it is trained on)] in order: answers and their end tokens are, everything else is masked.

    Args:
        messages: OpenAI-shaped, with string content; a user's may carry `input`, as instruction data do. The last
            system message replaces the format's own text, as the originals' servers have it.

    Raises:
        InvalidRequest: a role, content or input that the format has no place for.
    """
    form = find_template(template) if isinstance(template, str) else template
    turns = pieces_of(form, messages, add_generation_prompt)
    joined = [("".join(text for text, _ in parts), learned) for parts, learned in turns]
    return [(text, learned) for text, learned in joined if text]


def prompt_segments(
    template: Template | str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> list[tuple[str, bool]]:
    """[(text, whether the format wrote it)] in order: special tokens are parsed only in the format's own text.

    Raises:
        InvalidRequest: as `segments`.
    """
    form = find_template(template) if isinstance(template, str) else template
    turns = pieces_of(form, messages, add_generation_prompt)
    return [(text, own) for parts, _ in turns for text, own in parts if text]


# Parts of a prompt: [(text, whether the format wrote it)], and whether training learns them.
Piece = tuple[list[tuple[str, bool]], bool]


def pieces_of(form: Template, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> list[Piece]:
    for index, message in enumerate(messages):
        _check(form, message, index)
    given = [m["content"] for m in messages if m["role"] == "system"]
    turns: list[Mapping[str, Any]] = [m for m in messages if m["role"] != "system"]
    own = form.system_with_input if turns and turns[0].get("input") and form.system_with_input else form.system
    system = given[-1] if given else own
    opening: list[Mapping[str, Any]] = [{"role": role, "content": content} for role, content in form.opening]
    made: list[Piece] = [(_fill(form.system_format, own=() if given else ("system",), system=system), False)]
    made = made if system else []
    if form.user_alone and len(turns) == 1 and not system and add_generation_prompt and turns[0]["role"] == "user":
        return [(_fill(form.user_alone, content=turns[0]["content"]), False)]
    asked = 0
    for index, turn in enumerate(opening + turns):
        content = _joined(turn["content"]) if form.joins_paragraphs else turn["content"]
        if turn["role"] == "assistant":
            learned = index >= len(opening)
            last = not add_generation_prompt and index == len(opening) + len(turns) - 1
            end, after = (form.last_end, "") if last and form.last_end else (form.end, form.after)
            made += [([(form.assistant, True)], False), ([(content, False), (end, True)], learned)]
            made.append(([(after, True)], False))
            continue
        text = _user_format(form, turn, after_system=bool(system) and asked == 0)
        number = str(form.first_round + asked)
        made.append((_fill(text, content=content, input=turn.get("input") or "", round=number), False))
        asked += 1
    if add_generation_prompt:
        made.append(([(form.generation, True)], False))
    return made


def _user_format(form: Template, turn: Mapping[str, Any], *, after_system: bool) -> str:
    if turn.get("input"):
        return form.user_with_input
    return form.user_after_system if after_system and form.user_after_system else form.user


def _check(form: Template, message: Mapping[str, Any], index: int) -> None:
    role, where = message.get("role"), f"messages[{index}]"
    if role not in _ROLES:
        raise InvalidRequest(
            f"{where} has the role {role!r}; expected system, user or assistant (prompt format {form.id!r}).",
            hint="Use one of these roles, or a model whose own template supports more.",
            hint_zh="请使用 system、user 或 assistant，或换用自带模板支持该角色的模型。",
            param=f"{where}.role",
        )
    if not isinstance(message.get("content"), str):
        raise InvalidRequest(
            f"{where} has content of type {type(message.get('content')).__name__}; expected a string.",
            hint="Send the content as one string.",
            hint_zh="请以单个字符串发送 content。",
            param=f"{where}.content",
        )
    if role == "system" and not form.system_format:
        raise InvalidRequest(
            f"The prompt format {form.id!r} does not support a system message.",
            hint="Put its text into the first user message.",
            hint_zh="请写进第一个问题。",
            param=where,
        )
    if message.get("input") and not (role == "user" and form.user_with_input):
        raise InvalidRequest(
            f"{where} has an input, which the prompt format {form.id!r} does not support for this role.",
            hint="Put the input into the content.",
            hint_zh="请把 input 写入 content。",
            param=f"{where}.input",
        )


def _joined(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\n\n", "\n")


def _fill(text: str, own: Sequence[str] = ("round",), **values: str) -> list[tuple[str, bool]]:
    """Fill the slots in one pass, so that braces in a message are kept: [(text, whether the format wrote it)].

    Args:
        own: slots whose value is the format's own text.
    """
    parts: list[tuple[str, bool]] = []
    for i, part in enumerate(_SLOT.split(text)):
        if i % 2 == 0:
            parts.append((part, True))
        else:
            parts.append((values.get(part, f"{{{part}}}"), part in own or part not in values))
    return parts

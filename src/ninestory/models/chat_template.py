"""A checkpoint's own chat template (Jinja), rendered in a sandbox, with the user's text kept from becoming tokens.

A template's text may hold special tokens (`<|im_end|>`); a user's text may only look like them. `render_segments`
therefore gives the prompt in pieces marked as template or as user text, so that the tokenizer can tell.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


def render_segments(
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    special_tokens: Iterable[str],
    add_generation_prompt: bool = True,
    tools: Sequence[dict[str, Any]] = (),
    cancel: threading.Event | None = None,
    **variables: Any,
) -> list[tuple[str, bool]]:
    """Render and return [(text, may hold special tokens)] in order.

    No string of `messages` and `tools`, at any depth, brings a special token along or begins one that the next string
    ends. A template that itself writes a part of a special token around a user's words is not guarded against.

    Args:
        messages: OpenAI-shaped dicts with string content.
        special_tokens: spellings that only the template may write.
        cancel: ends the rendering when it is set.
        variables: what the template may ask for (bos_token, enable_thinking, …).

    Raises:
        InvalidRequest: the template refuses the conversation (its own words are in the message).
        Unsupported: the template takes more steps, time or memory than a rendering may.
        Cancelled: `cancel` was set.
    """
    disguise = _Disguise(_spellings(tuple(special_tokens)), (template, messages, tools, variables))
    given = {
        "messages": disguise.hide(list(messages)),
        "add_generation_prompt": add_generation_prompt,
        "tools": disguise.hide(list(tools)) or None,
        **variables,
    }
    return disguise.reveal(_render(template, given, cancel))


class _Spellings:
    """Special-token texts, prepared for searching user text. White space is ignored."""

    def __init__(self, spellings: Iterable[str]) -> None:
        squeezed = {"".join(spelling.split()) for spelling in spellings} - {""}
        self._whole = squeezed
        self._beginnings = {s[:n] for s in squeezed for n in range(1, len(s))}
        self._lengths = sorted({len(s) for s in squeezed})
        pairs = [re.escape(pair) for pair in sorted({s[:2] for s in squeezed})]
        cut_off = [rf"{re.escape(first)}\Z" for first in sorted({s[0] for s in squeezed})]
        self._first = re.compile(f"(?=({'|'.join(pairs + cut_off)}))") if squeezed else None

    def starts(self, text: str) -> list[int]:
        """Offsets in `text` at which a special token starts, complete or cut off by the end of the text."""
        if self._first is None:
            return []
        squeezed = "".join(text.split())
        longest = self._lengths[-1]
        found = [
            match.start()
            for match in self._first.finditer(squeezed)
            if any(squeezed[match.start() : match.start() + n] in self._whole for n in self._lengths)
            or (len(squeezed) - match.start() < longest and squeezed[match.start() :] in self._beginnings)
        ]
        if not found or len(squeezed) == len(text):
            return found
        places = [place for place, character in enumerate(text) if not character.isspace()]
        return [places[at] for at in found]


@lru_cache(maxsize=16)
def _spellings(spellings: tuple[str, ...]) -> _Spellings:
    return _Spellings(spellings)


class _Disguise:
    """Replaces each character that starts a special token in user text by a private-use character.

    One character for one, so that lengths, slices and `trim` are as they were.

    Args:
        inputs: everything that the rendering is given: the stand-ins are characters that occur in none of it.
    """

    def __init__(self, spellings: _Spellings, inputs: Any) -> None:
        self._found, self._inputs = spellings, inputs
        self._stand_ins: dict[str, str] = {}  # character → its stand-in
        self._free: Iterator[str] | None = None

    def hide(self, value: Any) -> Any:
        """Disguise every string of a JSON value."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(part) for part in value]
        return value

    def reveal(self, text: str) -> list[tuple[str, bool]]:
        """Undo the disguise: [(text, may contain special tokens)], with each disguised character as its own segment."""
        if not self._stand_ins:
            return [(text, True)] if text else []
        original = {stand_in: character for character, stand_in in self._stand_ins.items()}
        parts = re.split(f"([{''.join(original)}])", text)
        return [(original.get(part, part), part not in original) for part in parts if part]

    def _hidden(self, text: str) -> str:
        starts = self._found.starts(text)
        if not starts:
            return text
        letters = list(text)
        for at in starts:
            letters[at] = self._stand_in(text[at])
        return "".join(letters)

    def _stand_in(self, character: str) -> str:
        if character not in self._stand_ins:
            if self._free is None:
                used = set(itertools.chain.from_iterable(_strings(self._inputs)))
                self._free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
            self._stand_ins[character] = next(self._free)
        return self._stand_ins[character]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(_strings(part) for pair in value.items() for part in pair)
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_strings, value))


def _render(template: str, variables: dict[str, Any], cancel: threading.Event | None) -> str:
    import jinja2

    from ninestory.models import template_sandbox

    try:
        return template_sandbox.render(template, variables, cancel)
    except template_sandbox.TemplateLimit as error:
        raise Unsupported(
            f"The model's chat template cannot be rendered: {error}.",
            hint="Choose a template of the catalogue with --template.",
            hint_zh="请用 --template 选择目录中的模板。",
            param="messages",
            code="template_limit",
        ) from error
    except (jinja2.TemplateError, TypeError, LookupError, ValueError, ArithmeticError, AttributeError, SyntaxError) as error:  # fmt: skip
        raise InvalidRequest(
            f"The model's chat template rejects this conversation: {str(error)[:1000]}",
            hint="Check the order and the roles of the messages, or choose a template with --template.",
            hint_zh="请检查消息的顺序与角色，或用 --template 指定模板。",
            param="messages",
            code="template_refused",
        ) from error

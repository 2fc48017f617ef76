"""A checkpoint's own chat template (Jinja), rendered in a sandbox, with the user's text kept from becoming tokens.

A template's text may hold special tokens (`<|im_end|>`); a user's text may only look like them. `render_segments`
therefore gives the prompt in pieces marked as template or as user text, so that the tokenizer can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from ninestory.core.errors import InvalidRequest

# Private-use characters stand for a special token's spelling inside user text while the template runs.
_SENTINEL_START, _SENTINEL_END = "\U000f0000", "\U000f0001"


def render_segments(
    template: str,
    messages: Sequence[dict[str, Any]],
    *,
    special_tokens: Iterable[str],
    add_generation_prompt: bool = True,
    tools: Sequence[dict[str, Any]] = (),
    **variables: Any,
) -> list[tuple[str, bool]]:
    """Render and return [(text, may hold special tokens)] in order.

    Args:
        messages: OpenAI-shaped dicts with string content.
        special_tokens: spellings that only the template may write.
        variables: what the template may ask for (bos_token, enable_thinking, …).

    Raises:
        InvalidRequest: the template refuses the conversation (its own words are in the message).
    """
    spellings = sorted((t for t in special_tokens if t), key=len, reverse=True)
    hidden = [_hide(message, spellings) for message in messages]
    text = _render(template, hidden, add_generation_prompt, list(tools), variables)
    segments: list[tuple[str, bool]] = []
    while _SENTINEL_START in text:
        before, _, rest = text.partition(_SENTINEL_START)
        number, _, text = rest.partition(_SENTINEL_END)
        segments += [(before, True), (spellings[int(number)], False)]
    segments.append((text, True))
    return [segment for segment in segments if segment[0]]


def _hide(message: dict[str, Any], spellings: Sequence[str]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    content = content.replace(_SENTINEL_START, "").replace(_SENTINEL_END, "")
    for i, spelling in enumerate(spellings):
        content = content.replace(spelling, f"{_SENTINEL_START}{i}{_SENTINEL_END}")
    return {**message, "content": content}


def _render(
    template: str,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool,
    tools: list[dict[str, Any]],
    variables: dict[str, Any],
) -> str:
    import jinja2

    try:
        return str(
            _compiled(template).render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=tools or None, **variables
            )
        )
    except (jinja2.TemplateError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"The model's chat template refuses this conversation: {error}",
            hint="Check the order and the roles of the messages, or choose a template with --template.",
            hint_zh="请检查消息的顺序与角色，或用 --template 指定模板。",
            param="messages",
            code="template_refused",
        ) from error


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """Compile in Jinja's immutable sandbox: a template is data from a stranger's file."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _raise(message: str) -> None:
    raise ValueError(message)

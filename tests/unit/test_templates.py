"""Prompt formats: what holds for every one of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.models.templates import Template, find_template, load_templates, render, segments, stops

TEMPLATES = load_templates()
# The thinking modes, a bare single question and the web demo's closing blank differ by design.
ALIKE = [t for t in TEMPLATES.values() if t.assistant.startswith(t.generation) and not t.user_alone]
# Slots, braces and a role's prefix in a message are text like any other.
ODD = "a {content} {system} {0} {round}}"


def user(content: Any, **more: str) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.id)
def test_messages_stand_in_the_prompt_as_they_are(template: Template) -> None:
    text = render(template, [user(ODD), assistant("{input}"), user("再见")])
    assert text.index(ODD) < text.index("{input}") < text.index("再见")
    assert text.endswith(template.generation)
    assert text.replace(ODD, "").replace("{input}", "").count("{") == template.system.count("{")


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.id)
def test_only_answers_and_their_end_are_learned(template: Template) -> None:
    pieces = segments(template, [user("one"), assistant("two"), user("three"), assistant("four")], False)
    learned = [text for text, is_learned in pieces if is_learned]
    assert learned == ["two" + template.end, "four" + (template.last_end or template.end)]


@pytest.mark.parametrize("template", ALIKE, ids=lambda t: t.id)
def test_a_prompt_with_its_answer_continues_the_prompt_without(template: Template) -> None:
    """Training and use must not differ in a single character before the answer."""
    prompt, whole = render(template, [user("one")]), render(template, [user("one"), assistant("two")], False)
    assert whole.startswith(prompt)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.id)
def test_a_system_message_is_placed_or_refused(template: Template) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("one")]
    if template.system_format:
        assert "Be brief." in render(template, messages)
        assert not template.system or template.system not in render(template, messages)
    else:
        with pytest.raises(InvalidRequest, match="system"):
            render(template, messages)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        (user(["x"]), "messages[0].content"),
        (user(None), "messages[0].content"),
        (user("x", input="y"), "messages[0].input"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        render("vicuna-v1.1", [message])
    assert caught.value.param == param and caught.value.hint and caught.value.hint_zh != caught.value.hint


def test_blank_lines_of_a_message_do_not_end_its_turn() -> None:
    text = render("rwkv-world", [user("one\r\n\r\ntwo\n\nthree")])
    assert "one\ntwo\nthree" in text


def test_an_unknown_template_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFound) as caught:
        find_template("vicuna-1.1")
    assert "vicuna-v1.1" in caught.value.hint and "vicuna-v1.1" in caught.value.hint_zh


def test_stops_are_a_copy() -> None:
    stops("moss").append("x")
    assert stops("moss") == ["<eom>"]

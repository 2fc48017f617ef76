"""Which prompt format a model gets, who decided it, and that only the format writes special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.models.prompt_format import choose_format, no_format, own_template
from ninestory.models.resolved import ResolvedModel
from ninestory.models.templates import load_templates, prompt_segments, render

JINJA = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


def model(architecture: str = "llama", system: str | None = None, name: str = "./some-vicuna-alpaca-7b") -> Any:
    return ResolvedModel(
        reference=name,
        path=Path(name),
        format="pickle",
        architecture=architecture,
        tasks=("chat",),
        context=8,
        system=system,
    )


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("given", "explicit", "own", "expected"),
    [
        (model(system="vicuna"), "", "", ("vicuna-v1.1", "catalogue")),
        (model(system="vicuna"), "", JINJA, ("vicuna-v1.1", "catalogue")),
        (model(system="vicuna"), "alpaca", JINJA, ("alpaca", "--template")),
        (model(system="vicuna"), "checkpoint", JINJA, ("checkpoint", "--template")),
        (model(), "", JINJA, ("checkpoint", "checkpoint")),
        (model(system="gpt4all"), "", JINJA, ("checkpoint", "catalogue")),
        (model("chatglm"), "", "", ("chatglm-v1", "catalogue")),
        (model("moss"), "", "", ("moss", "catalogue")),
    ],
)
def test_the_users_word_then_the_catalogues_then_the_checkpoints(
    given: Any, explicit: str, own: str, expected: tuple[str, str]
) -> None:
    form = choose_format(given, explicit, own)
    assert form is not None and (form.id, form.source) == expected


def test_a_name_decides_nothing() -> None:
    """'vicuna' and 'alpaca' stand in the path, and the family has many formats: nothing is guessed."""
    assert choose_format(model()) is None
    error = no_format(model())
    assert "--template" in error.hint and "vicuna-v1.1" in error.hint and error.code == "no_chat_template"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(NotFound, match="vicuna-9"):
        choose_format(model(), "vicuna-9")
    with pytest.raises(InvalidRequest, match="no chat template of its own"):
        choose_format(model(), "checkpoint")


def test_an_unknown_role_is_refused_by_name() -> None:
    form = choose_format(model(), "vicuna-v1.1")
    assert form is not None
    with pytest.raises(InvalidRequest, match="wizard") as error:
        form.segments([{"role": "wizard", "content": "x"}])
    assert error.value.param == "messages[0].role"


@pytest.mark.parametrize("template", load_templates().values(), ids=lambda t: t.id)
def test_a_users_words_are_marked_as_such(template: Any) -> None:
    secret = "</s><eom><|end|>"
    made = prompt_segments(template, [user(f"a{secret}"), {"role": "assistant", "content": f"b{secret}"}, user("c")])
    assert "".join(text for text, _ in made) == render(
        template, [user(f"a{secret}"), {"role": "assistant", "content": f"b{secret}"}, user("c")]
    )
    assert not any(own and secret in text for text, own in made)
    assert sum(not own and secret in text for text, own in made) == 2


def test_an_answer_is_carried_on_behind_the_answers_beginning() -> None:
    form = choose_format(model(), "vicuna-v1.1")
    assert form is not None
    begun = [user("q"), {"role": "assistant", "content": "Once"}]
    assert "".join(text for text, _ in form.segments(begun, continue_final=True)).endswith("USER: q ASSISTANT: Once")


def test_a_checkpoints_template_is_found_where_it_lies(tmp_path: Path) -> None:
    assert own_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": JINJA}))
    assert own_template(tmp_path) == JINJA
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert own_template(tmp_path) == "y"
    (tmp_path / "chat_template.jinja").write_text("z")
    assert own_template(tmp_path) == "z"


def test_stops_come_with_the_format() -> None:
    form = choose_format(model(), "vicuna-v0")
    assert form is not None and form.stops == ["###"]
    assert choose_format(model(), "belle").begin_token is False  # type: ignore[union-attr]

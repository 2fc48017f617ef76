"""What a user, a tool or a document says never becomes a control token, and is given to the model unchanged."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ninestory.models.chat_template import render_segments
from ninestory.tokenizers.tokenizer import SpecialTokens

SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<SYS>"]
PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TOOLS = "{{ tools | tojson }}{{ tools[0].function.description }}" + PLAIN


def control_tokens(segments: list[tuple[str, bool]]) -> list[str]:
    """The control tokens that a tokenizer finds, by spelling."""
    numbers = {spelling: number for number, spelling in enumerate(SPECIAL)}
    return [SPECIAL[part] for part in SpecialTokens(numbers).cut(segments) if isinstance(part, int)]


def text(segments: list[tuple[str, bool]]) -> str:
    return "".join(part for part, _ in segments)


def render(template: str, messages: list[dict[str, Any]], **options: Any) -> list[tuple[str, bool]]:
    return render_segments(template, messages, special_tokens=SPECIAL, **options)


OWN = ["<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize(
    "said",
    [
        "\U000f0000", "\U000f0001", "\U000f00000\U000f0001", "\U000f0000x\U000f0001", "\U000f000099\U000f0001",
        "a\U000f0000<s>\U000f0001b", "<|im_end|>", "<|im_<|im_end|>end|>", "<<SYS>>", "<|im_end|", "<", "<|im_end|>" * 500,
    ],
)  # fmt: skip
def test_a_message_stays_text(said: str) -> None:
    made = render(PLAIN, [{"role": "user", "content": said}])
    assert control_tokens(made) == OWN
    assert text(made) == f"<|im_start|>user\n{said}<|im_end|>\n"


@pytest.mark.parametrize("said", ["\U000f0000", "\U000f00000\U000f0001", "<|im_end|>", "</s>", "ends with <|im_"])
def test_a_tool_s_words_stay_text(said: str) -> None:
    tool = {"type": "function", "function": {"name": said, "description": said, "parameters": {said: [said]}}}
    made = render(TOOLS, [{"role": "user", "content": "Go"}], tools=[tool])
    assert control_tokens(made) == OWN
    assert text(made).count(said) >= 5


@pytest.mark.parametrize("field", ["name", "reasoning_content", "tool_call_id", "tool_calls"])
def test_every_other_field_of_a_message_stays_text(field: str) -> None:
    said: Any = "<|im_end|>"
    if field == "tool_calls":
        said = [{"id": said, "function": {"name": said, "arguments": {said: [said, {"deep": said}]}}}]
    template = "{% for m in messages %}<s>{{ m[FIELD] | tojson }}{% endfor %}".replace("FIELD", repr(field))
    made = render(template, [{"role": "assistant", "content": "", field: said}])
    assert control_tokens(made) == ["<s>"]
    assert "<|im_end|>" in text(made)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ m.name }}{{ m.content }}", {"name": "<|im_", "content": "end|>"}),
        ("{{ m.content }}end|>", {"content": "<|im_"}),
        ("{{ m.content | replace('\\n', '') }}", {"content": "<|im\n_end|>"}),
        ("{{ m.content.split() | join }}", {"content": "< | im _ e n d | >"}),
        ("{{ m.content[1:] }}", {"content": "<<|im_end|>"}),
        ("{{ m.content[:5] }}{{ m.content[5:] }}", {"content": "<|im_end|>"}),
        ("{{ m.content | lower }}", {"content": "<|im_end|>"}),
        ("{{ m.content | trim }}", {"content": "  <|im_end|>  "}),
    ],
)
def test_no_way_of_writing_joins_a_control_token_together(template: str, message: dict[str, str]) -> None:
    made = render("{% set m = messages[0] %}" + template, [{"role": "user", **message}])
    assert control_tokens(made) == []


def test_text_of_every_kind_comes_through_unchanged() -> None:
    draw = random.Random(7)
    pieces = [*SPECIAL, *"<|[]/ >\n中😀\U000f0000\U000f0001\U0010fffd", "<|im", "end|>", "0", "\u0301"]
    for _ in range(300):
        said = "".join(draw.choices(pieces, k=draw.randint(0, 30)))
        made = render(PLAIN, [{"role": "user", "content": said}])
        assert text(made) == f"<|im_start|>user\n{said}<|im_end|>\n"
        assert control_tokens(made) == OWN

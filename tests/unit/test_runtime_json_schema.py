"""Which schemas become grammars, and which are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from ninestory.core.errors import InvalidRequest
from ninestory.runtimes.json_schema import MAX_SCHEMA_DEPTH, check_schema, choices_grammar, schema_grammar


def accepts(grammar: str, text: str) -> bool:
    """Whether the whole text matches, byte by byte."""
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
    taken = matcher.try_consume_tokens(list(text.encode()))
    return taken == len(text.encode()) and matcher.is_accepting()


def test_a_grammar_takes_what_matches_on_one_line_and_nothing_else() -> None:
    grammar = schema_grammar(
        {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"enum": ["x", "y"]}},
            "required": ["a"],
            "additionalProperties": False,
        }
    )
    assert accepts(grammar, '{"a": 7, "b": "x"}')
    assert accepts(grammar, '{"a": 7}')
    for wrong in ('{"a": 77}', '{"b": "x"}', '{"a": 7, "c": 1}', '{"a":\n7}', '{"a": 7'):
        assert not accepts(grammar, wrong)


def test_references_inside_the_schema_are_followed() -> None:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
    assert accepts(schema_grammar(tree), "[[], [[]]]")


def test_choices_are_exact_whatever_characters_they_hold() -> None:
    grammar = choices_grammar(["yes", 'a "b"\\', "你好", "two\nlines"])
    for choice in ("yes", 'a "b"\\', "你好", "two\nlines"):
        assert accepts(grammar, choice)
    assert not accepts(grammar, "ye")
    for wrong in ([], [""]):
        with pytest.raises(InvalidRequest):
            choices_grammar(wrong)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (nested(MAX_SCHEMA_DEPTH + 1), "nested deeper"),
        (nested(100_000), "nested deeper"),
        ({"description": "x" * 70_000}, "larger than"),
        ({"$ref": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"properties": {"a": {"$ref": "https://example.com/s.json"}}}, "example.com"),
    ],
)
def test_what_the_gateway_refuses_without_compiling(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named) as refused:
        check_schema(schema, "response_format")
    assert refused.value.param == "response_format"

"""JSON schemas as constraints: what is too large or cannot be held is refused by name before anything runs.

llama.cpp (this build decides tokens with llguidance) answers a schema that it cannot take with *unconstrained* text and
no error, so every schema is compiled here first by the same library; the torch engine compiles the same grammar.
`check_schema` alone is cheap and is what the gateway calls; `schema_grammar` is for engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ninestory.core.errors import InvalidRequest

MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH = 65_536, 32
# Free white space lets a small model write blanks without end; these are the separators it saw most in training.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def check_schema(schema: dict[str, Any], where: str) -> None:
    """Refuse a JSON schema that is too large, too deep, or points outside itself.

    Raises:
        InvalidRequest: naming `where` and the reason.
    """
    try:
        size = len(json.dumps(schema))
    except RecursionError:
        size = MAX_SCHEMA_BYTES + 1
    if size > MAX_SCHEMA_BYTES or _depth(schema) > MAX_SCHEMA_DEPTH:
        raise InvalidRequest(
            f"The schema of {where} is larger than {MAX_SCHEMA_BYTES} bytes or nested deeper than {MAX_SCHEMA_DEPTH}.",
            hint="Use a smaller schema.",
            hint_zh="请使用更小的 schema。",
            param=where,
        )
    if outside := [ref for ref in _references(schema) if not ref.startswith("#")]:
        raise InvalidRequest(
            f"The schema of {where} refers to {outside[0]!r}; only references inside it (#/…) are followed.",
            hint="Write the referenced schema out under $defs.",
            hint_zh="请将引用的 schema 写入 $defs。",
            param=where,
        )


def schema_grammar(schema: dict[str, Any], where: str = "response_format") -> str:
    """A Lark grammar (llguidance) whose texts are the JSON values that match `schema`, written on one line.

    >>> print(schema_grammar({"type": "boolean"}))
    start: %json {"type": "boolean", "x-guidance": {"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}}

    Raises:
        InvalidRequest: the schema holds a keyword, format or reference that cannot be enforced, by name.
    """
    check_schema(schema, where)
    compact = json.dumps({**schema, "x-guidance": _COMPACT})
    if problem := _problem(compact):
        raise InvalidRequest(
            f"The schema of {where} cannot be enforced: {problem}.",
            hint="Leave that part out and check it in the answer.",
            hint_zh="请去掉这一部分，并在得到回答后自行检查。",
            param=where,
            code="unsupported_schema",
        )
    return f"start: %json {compact}"


def choices_grammar(choices: Sequence[str]) -> str:
    """A Lark grammar of exactly these strings.

    Raises:
        InvalidRequest: there are none, or one of them is empty.
    """
    if not choices or not all(choices):
        raise InvalidRequest("choices must hold at least one string, and no empty one.", param="choices")
    return "start: " + " | ".join(json.dumps(choice) for choice in choices)


@lru_cache(maxsize=256)
def _problem(schema: str) -> str:
    """What cannot be enforced in a schema (JSON text), in the library's words, or ""."""
    from llguidance import LLMatcher, LLTokenizer

    grammar = LLMatcher.grammar_from_json_schema(schema)
    if problem := LLMatcher.validate_grammar(grammar):
        return problem.strip().splitlines()[-1].rstrip(".")
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    matcher.compute_bitmask()  # a reference that only leads to itself shows here
    return "no text matches it" if matcher.is_error() else ""


def _depth(node: Any, level: int = 0) -> int:
    if level > MAX_SCHEMA_DEPTH:
        return level
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return max((_depth(child, level + 1) for child in children), default=level)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)

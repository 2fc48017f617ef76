"""OpenAI's attribute filters, judged on a file's attributes."""

from __future__ import annotations

from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase

MAX_DEPTH = 8
_COMPARED: dict[str, Any] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def chosen_files(base: KnowledgeBase, condition: dict[str, Any]) -> tuple[str, ...]:
    """Ids of a knowledge base's files whose attributes pass."""
    return tuple(file.id for file in base.files("indexed") if matches(file.attributes, condition))


def matches(attributes: dict[str, Any], condition: dict[str, Any], depth: int = 0) -> bool:
    """Whether a file with `attributes` passes: {"type": "eq", "key", "value"}, or {"type": "and", "filters": […]}.

    A missing attribute passes only "ne" and "nin"; values of different kinds do not compare.

    Raises:
        InvalidRequest: an unknown type, or nesting deeper than eight.
    """
    kind = condition.get("type")
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"The filter is nested deeper than {MAX_DEPTH}.", param="filters")
    if kind in ("and", "or"):
        results = [matches(attributes, inner, depth + 1) for inner in condition["filters"]]
        return all(results) if kind == "and" else any(results)
    value, wanted = attributes.get(condition["key"]), condition["value"]
    if kind in ("eq", "ne"):
        return bool(value == wanted) == (kind == "eq")
    if kind in ("in", "nin"):
        return (value in wanted) == (kind == "in")
    if kind in _COMPARED:
        numbers = isinstance(value, (int, float)) and isinstance(wanted, (int, float))
        return (numbers or (isinstance(value, str) and isinstance(wanted, str))) and bool(
            _COMPARED[kind](value, wanted)
        )
    raise InvalidRequest(f"There is no filter of type {kind!r}.", param="filters")

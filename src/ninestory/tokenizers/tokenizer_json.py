"""Validation of a `tokenizer.json` before it reaches the `tokenizers` library.

The file comes with a downloaded model and can make the library run regular expressions of exponential time,
replacements that multiply a text, or padding to a billion tokens. That is native code: it cannot be interrupted, and
a failed allocation aborts the process.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ninestory.core.errors import Damaged

MAX_ADDED_TOKENS = 50_000  # ChatGLM's 20,000 image tokens are the most of the published ones
MAX_SPELLING = 1_000  # characters of an added token
MAX_GROWTH = 64  # times that the normalizers may lengthen a text
MAX_PREFIX = 64  # characters put before a text
MAX_EXPRESSION = 20_000  # characters of a regular expression
MAX_SURROUNDING = 1_000  # tokens put around a text
MAX_UNIGRAM_PIECE = 1_000  # characters: the library tries every piece at every place
MAX_WORDPIECE_WORD = 1_000  # characters: the library tries every ending of a word
MAX_PARTS = 1_000  # of a section
_SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")
Result = TypeVar("Result")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


def check_tokenizer_json(description: dict[str, Any]) -> dict[str, Any]:
    """Validate a description; return it without truncation and padding, which only concern training batches.

    Raises:
        Damaged: a setting needs unbounded time or memory; the message holds the value.
    """
    try:
        _check_added(description.get("added_tokens") or [])
        growth = 1
        for part in _parts(description.get("normalizer")):
            growth *= _growth(part)
        _require(growth <= MAX_GROWTH, f"its normalizers lengthen a text {growth} times; expected at most {MAX_GROWTH}")
        for section in ("normalizer", "pre_tokenizer", "decoder"):
            for part in _parts(description.get(section)):
                _check_expression(part)
        for part in _parts(description.get("post_processor")):
            _check_surrounding(part)
        _check_model(description.get("model") or {})
    except (AttributeError, TypeError, KeyError, RecursionError) as error:
        raise _refused(f"its structure is malformed ({type(error).__name__}: {error})") from error
    return {**description, "truncation": None, "padding": None}


def call_native(function: Callable[[], Result]) -> Result:
    """Call the library and turn its panics, which do not derive from `Exception`, into `Damaged`.

    Raises:
        Damaged: the library panicked, for example on excessive backtracking.
    """
    try:
        return function()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _refused(str(error)[:300]) from error


def _parts(section: Any) -> Iterator[dict[str, Any]]:
    """Iterate over a section's components in order, flattening sequences."""
    stack = [] if section is None else [section]
    for _ in range(MAX_PARTS):
        if not stack:
            return
        part = stack.pop()
        nested = list(itertools.chain.from_iterable(part.get(name) or [] for name in _SEQUENCES))
        if nested:
            stack += reversed(nested)
        else:
            yield part
    raise _refused(f"a section has more than {MAX_PARTS:,} parts")


def _check_added(added: list[dict[str, Any]]) -> None:
    _require(len(added) <= MAX_ADDED_TOKENS, f"it adds {len(added):,} tokens; expected at most {MAX_ADDED_TOKENS:,}")
    longest = max((len(token["content"]) for token in added), default=0)
    _require(longest <= MAX_SPELLING, f"an added token has {longest:,} characters; expected at most {MAX_SPELLING:,}")


def _growth(part: dict[str, Any]) -> int:
    """Upper bound of the factor by which the component lengthens a text."""
    if part.get("type") == "Prepend":
        length = len(part["prepend"])
        _require(length <= MAX_PREFIX, f"it puts {length:,} characters before a text; expected at most {MAX_PREFIX}")
    if part.get("type") != "Replace":
        return 1
    pattern, content = part["pattern"], len(part["content"])
    shortest = len(pattern["String"]) if "String" in pattern else 1
    return max(1, content if shortest == 0 else -(-content // shortest))


def _check_expression(part: dict[str, Any]) -> None:
    pattern = part.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if expression is None:
        return
    length = len(expression)
    _require(length <= MAX_EXPRESSION, f"an expression has {length:,} characters; expected at most {MAX_EXPRESSION:,}")
    fault = backtracking_fault(expression)
    _require(not fault, f"the expression {expression[:80]!r} {fault}, which can take exponential time")


def backtracking_fault(expression: str) -> str:
    """Why an expression can take exponential time, "" for one that cannot: a repeated group that repeats inside.

    >>> backtracking_fault(r"(?i:'s|'t)|[^\\r\\n\\p{L}]?\\p{L}+|\\p{N}{1,3}(?=(?:\\d{3})*\\b)|\\s+(?!\\S)")
    ''
    >>> backtracking_fault("(a+)+$")
    'repeats a group that repeats inside'
    """
    repeats = [False]  # for each open group: whether something inside has no upper bound or an alternative
    at = 0
    while at < len(expression):
        character = expression[at]
        if character == "\\":
            if expression[at + 1 : at + 2] in tuple("123456789k"):
                return "refers back to a group"
            at += 2
            continue
        if character == "[":
            at = _end_of_class(expression, at)
            continue
        if character == "(":
            repeats.append(False)
        elif character == ")" and len(repeats) > 1:
            inside = repeats.pop()
            repeated = _UNBOUNDED.match(expression, at + 1) is not None
            if repeated and inside:
                return "repeats a group that repeats inside"
            repeats[-1] |= inside or repeated
        elif (character == "|" and len(repeats) > 1) or _UNBOUNDED.match(expression, at):
            repeats[-1] = True
        at += 1
    return ""


def _end_of_class(expression: str, at: int) -> int:
    """Index after a character class, which may be nested and may start with a literal "]"."""
    depth, at = 1, at + 1
    at += expression[at : at + 1] == "^"
    at += expression[at : at + 1] == "]"
    while at < len(expression) and depth:
        if expression[at] == "\\":
            at += 1
        else:
            depth += {"[": 1, "]": -1}.get(expression[at], 0)
        at += 1
    return at


def _check_surrounding(part: dict[str, Any]) -> None:
    tokens = part.get("special_tokens") or {}
    widths = {name: len(token["ids"]) for name, token in tokens.items()} if isinstance(tokens, dict) else {}
    for form in ("single", "pair"):
        pieces = part.get(form) or []
        width = sum(widths.get(piece["SpecialToken"]["id"], 1) for piece in pieces if "SpecialToken" in piece)
        width += len(pieces)
        _require(
            width <= MAX_SURROUNDING, f"it puts {width:,} tokens around a text; expected at most {MAX_SURROUNDING:,}"
        )


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type") == "Unigram" or isinstance(model.get("vocab"), list):
        longest = max((len(piece) for piece, _ in model["vocab"]), default=0)
        _require(
            longest <= MAX_UNIGRAM_PIECE, f"a piece has {longest:,} characters; expected at most {MAX_UNIGRAM_PIECE:,}"
        )
    word = model.get("max_input_chars_per_word", 100)
    _require(
        type(word) is int and 0 <= word <= MAX_WORDPIECE_WORD,
        f"max_input_chars_per_word is {word!r}; expected at most {MAX_WORDPIECE_WORD:,}",
    )


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise _refused(why)


def _refused(why: str) -> Damaged:
    return Damaged(
        f"tokenizer.json is invalid: {why}.",
        hint="Download it again (ninestory pull), or use the tokenizer of the model's publisher.",
        hint_zh="请重新下载（ninestory pull），或使用模型发布者的分词器。",
        code="damaged_tokenizer",
    )

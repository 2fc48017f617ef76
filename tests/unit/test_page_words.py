"""The tables of the page's words, as they are written: JavaScript keeps the last of two equal keys and says nothing."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

STATIC = Path(__file__).parents[2] / "src/ninestory/webui/static"
_TOKENS = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\w+|[{}:]", re.DOTALL
)


def keys(text: str, language: str = "") -> Counter[tuple[str, str]]:
    """How often each (language, key) with a text stands in a table.

    Args:
        language: of a file that holds one table; other files have tables called `en` and `zh`.
    """
    found: Counter[tuple[str, str]] = Counter()
    tables: list[str] = []
    before: tuple[str, str] = ("", "")  # the two tokens before this one
    for token in _TOKENS.findall(text):
        if token.startswith(("//", "/*")):
            continue
        name = before[0].strip("\"'") if before[1] == ":" else ""
        if token == "{":
            tables.append(name if name in ("en", "zh") else language)
        elif token == "}":
            tables.pop()
        elif name and token[0] in "\"'`" and tables and tables[-1]:
            found[tables[-1], name] += 1
        before = (before[1], token)
    return found


def test_the_reader_of_tables_counts_keys() -> None:
    both = 'addWords({ en: { a: "x: {n}", "b": "y", a: "z" }, // a: "no"\n zh: { a: "甲" } });'
    assert keys(both) == {("en", "a"): 2, ("en", "b"): 1, ("zh", "a"): 1}
    assert keys('export default { a: "x", a: "y" };', "zh") == {("zh", "a"): 2}


def test_no_key_stands_twice_in_the_page_s_words() -> None:
    """The tables of all folders become one."""
    files = [file for file in STATIC.rglob("*.js") if "i18n" in (file.stem, file.parent.name)]
    total: Counter[tuple[str, str]] = Counter()
    for file in files:
        total += keys(file.read_text(encoding="utf-8"), file.stem if file.stem in ("en", "zh") else "")
    assert len(total) > 500
    assert {key for key, times in total.items() if times > 1} == set()

"""HTML by lexbor (selectolax): headings, paragraphs, lists, listings and tables; navigation and scripts are left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import BlockKind, Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode

_SKIPPED = frozenset(
    ["script", "style", "template", "noscript", "nav", "head", "svg", "iframe", "object", "button", "select"]
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
        "-text",
    ]
)
_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([A-Za-z0-9_-]+)", re.IGNORECASE)


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    add_html(builder, decode_html(path.read_bytes(), builder.notes))
    return builder.build()


def _is_skipped(node: Any) -> bool:
    """Scripts, navigation, and tables of contents, whose lines are found again as headings."""
    if node.tag in _SKIPPED or node.tag.startswith(("!", "-")):
        return True
    return node.tag in ("div", "ul", "ol", "section") and "toc" in (node.attributes.get("class") or "").lower().split()


def decode_html(data: bytes, notes: list[str]) -> str:
    """Text of a page: what it declares if that holds, else what is detected."""
    declared = _CHARSET.search(data[:4096])
    if declared:
        name = declared.group(1).decode("ascii")
        try:
            return data.decode("gb18030" if name.lower() in ("gb2312", "gbk") else name)
        except (UnicodeDecodeError, LookupError):
            notes.append(f"declared encoding {name} does not hold")
    text, encoding = decode(data)
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"encoding: {encoding}")
    return text


def add_html(builder: DocumentBuilder, html: str, page: int | None = None) -> None:
    """Blocks of a page, in reading order.

    Raises:
        Damaged: there is no body at all.
    """
    from selectolax.lexbor import LexborHTMLParser

    body = LexborHTMLParser(html).body
    if body is None:
        raise Damaged("The page has no body.", code="damaged_html")
    _Walk(builder, page).run(body)


class _Walk:
    """Document order with a stack of its own: a page may be nested deeper than Python's."""

    def __init__(self, builder: DocumentBuilder, page: int | None) -> None:
        self._builder, self._page = builder, page
        self._inline: list[str] = []
        self._rows: list[str] = []
        self._tables = self._listings = 0

    def run(self, root: Any) -> None:
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, left = stack.pop()
            if left:
                self._leave(node.tag)
                continue
            if node.tag == "-text":
                self._text(node.text_content or "")
            elif not _is_skipped(node):
                self._enter(node.tag)
                stack.append((node, True))
                stack += [(child, False) for child in reversed(list(node.iter(include_text=True)))]
        self._flush()

    def _text(self, text: str) -> None:
        self._inline.append(text if self._listings else re.sub(r"\s+", " ", text))

    def _enter(self, tag: str) -> None:
        if self._tables:
            if tag in ("td", "th") and "".join(self._inline).strip():
                self._inline.append(" | ")
            elif tag == "table":
                self._tables += 1
            elif tag not in _INLINE:
                self._inline.append(" ")
            return
        if tag == "br":
            self._inline.append("\n")
        elif tag not in _INLINE:
            self._flush()
            if tag == "li":
                self._inline.append("- ")
        self._tables += tag == "table"
        self._listings += tag in ("pre", "textarea")

    def _leave(self, tag: str) -> None:
        if self._tables:
            if tag == "tr":
                row = re.sub(r"\s+", " ", "".join(self._inline)).strip()
                self._inline.clear()
                if row:
                    self._rows.append(row)
            if tag == "table":
                self._tables -= 1
                if not self._tables:
                    self._rows += [caption] if (caption := "".join(self._inline).strip()) else []
                    self._inline.clear()
                    self._builder.add("\n".join(self._rows), "table", page=self._page)
                    self._rows.clear()
            return
        if re.fullmatch(r"h[1-6]", tag):
            self._flush("heading", int(tag[1]))
        elif tag in ("pre", "textarea"):
            self._flush("code")
            self._listings -= 1
        elif tag not in _INLINE:
            self._flush()

    def _flush(self, kind: BlockKind = "text", level: int = 0) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if not self._listings:
            text = re.sub(r" *\n *", "\n", re.sub(r"[ \t\u00a0]+", " ", text)).strip()
        if kind == "heading":
            text = text.replace("\n", " ").rstrip("¶ ")
        if text.strip("- \n"):
            self._builder.add(text, kind, level=level, page=self._page)

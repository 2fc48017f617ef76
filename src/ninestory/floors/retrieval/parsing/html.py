"""HTML by lexbor (selectolax): headings, paragraphs, lists, listings and tables; navigation and scripts are left out."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import BlockKind, Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode

_SKIPPED = frozenset(["head", "nav", "svg", "object", "button", "select"])
_VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track"])
_ATTRIBUTES = r'[^>"]*(?:"[^"]*"[^>"]*)*'
# The tree is written out again by lexbor, so tags are whole, attributes quoted and text escaped: patterns are safe.
_RAW = re.compile(r"<!--.*?-->|<(script|style|template|noscript|iframe|noembed|noframes)\b.*?</\1>", re.DOTALL)
# Tags that begin no block: inline ones, and of tables what says nothing of rows and cells.
_INLINE = re.compile(
    r"</?(?:a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strike"
    rf"|strong|sub|sup|time|tt|u|var|wbr|tbody|thead|tfoot|colgroup|col)(?:\s{_ATTRIBUTES})?>|</t[dh]>"
)
_TAG = re.compile(rf"<(/?)([a-z][^\s/>]*)({_ATTRIBUTES})>")
_HEADINGS = frozenset(["h1", "h2", "h3", "h4", "h5", "h6"])
_CLASS = re.compile(r'\bclass="([^"]*)"')
_LINE = "\0"  # a line break asked for by <br>, until the block is whole; parsing replaces the character itself
_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([A-Za-z0-9_-]+)", re.IGNORECASE)


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    add_html(builder, decode_html(path.read_bytes(), builder.notes))
    return builder.build()


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
    # Python sees each block's tag and text once; spans, links and scripts are taken out before.
    _Walk(builder, page).run(_TAG.split(_INLINE.sub("", _RAW.sub("", body.html or ""))))


class _Walk:
    """The blocks of a page from its text and tags in order."""

    def __init__(self, builder: DocumentBuilder, page: int | None) -> None:
        self._builder, self._page = builder, page
        self._inline: list[str] = []
        self._rows: list[str] = []
        self._tables = self._listings = 0

    def run(self, parts: list[str]) -> None:
        """`parts`: text, then ("/" or "", tag, attributes, text) again and again."""
        self._text(parts[0])
        skipped, depth = "", 0  # the tag that is left out with all that stands in it, and how often it is open
        for closing, tag, attributes, text in zip(parts[1::4], parts[2::4], parts[3::4], parts[4::4], strict=True):
            if skipped:
                depth += (tag == skipped) * (-1 if closing else 1)
                if depth:
                    continue
                skipped = ""
            elif closing:
                self._leave(tag)
            elif _is_skipped(tag, attributes):
                skipped, depth = tag, 1
                continue
            else:
                self._enter(tag)
                if tag in _VOID and tag != "br":
                    self._leave(tag)
            self._text(text)
        self._flush()

    def _text(self, text: str) -> None:
        if text:
            self._inline.append(unescape(text) if "&" in text else text)

    def _enter(self, tag: str) -> None:
        if self._tables:
            if tag in ("td", "th") and "".join(self._inline).strip():
                self._inline.append(" | ")
            elif tag == "table":
                self._tables += 1
            else:
                self._inline.append(" ")
            return
        if tag == "br":
            self._inline.append(_LINE)
            return
        self._flush()
        if tag == "li":
            self._inline.append("- ")
        self._tables += tag == "table"
        self._listings += tag in ("pre", "textarea")

    def _leave(self, tag: str) -> None:
        if self._tables:
            if tag == "tr":
                self._end_row()
            if tag == "table":
                self._tables -= 1
                if not self._tables:
                    self._end_row()
                    self._builder.add("\n".join(self._rows), "table", page=self._page)
                    self._rows.clear()
        elif len(tag) == 2 and tag in _HEADINGS:
            self._flush("heading", int(tag[1]))
        elif tag in ("pre", "textarea"):
            self._flush("code")
            self._listings -= 1
        else:
            self._flush()

    def _end_row(self) -> None:
        if row := " ".join("".join(self._inline).split()):
            self._rows.append(row)
        self._inline.clear()

    def _flush(self, kind: BlockKind = "text", level: int = 0) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if self._listings:
            text = text.replace(_LINE, "\n")
        else:
            text = "\n".join(" ".join(line.split()) for line in text.split(_LINE)).strip()
        if kind == "heading":
            text = text.replace("\n", " ").rstrip("¶ ")
        if text.strip("- \n"):
            self._builder.add(text, kind, level=level, page=self._page)


def _is_skipped(tag: str, attributes: str) -> bool:
    """Navigation, and tables of contents, whose lines are found again as headings."""
    if tag in _SKIPPED:
        return True
    if not attributes or tag not in ("div", "ul", "ol", "section"):
        return False
    named = _CLASS.search(attributes)
    return named is not None and "toc" in named.group(1).lower().split()

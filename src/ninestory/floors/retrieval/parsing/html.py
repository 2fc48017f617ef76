"""HTML by lexbor (selectolax): headings, paragraphs, lists, listings and tables; navigation and scripts are left out."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode

# Navigation, tables of contents (their lines are found again as headings), and what is not text.
_SKIPPED = (
    "nav, svg, object, button, select, [class~=toc], script, style, template, noscript, iframe, noembed, noframes"
)
# Lexbor writes its tree out again: tags whole, quotes and angle brackets in attributes and text escaped. So patterns
# are safe, and quick: each step is one pass in C, and Python sees a block or a table's row at a time.
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# Tags that begin no block: inline ones, and of tables what says nothing of rows and cells.
_INLINE = re.compile(
    r"</?(?:a(?:bbr|cronym)?|code|span|strong|em|b(?:d[io]|ig)?|c(?:ite|ol(?:group)?)|d(?:ata|el|fn)|font|i(?:ns)?|kbd"
    r"|label|mark|q|s(?:amp|mall|trike|u[bp])?|t(?:t|ime|body|head|foot)|u|var|wbr)(?: [^>]*)?>|</t[dh]>"
)
_SECTION = re.compile(r"<(/?)(h[1-6]|table|pre|textarea)(?: [^>]*)?>")
_END_OF_LINE = re.compile(r"<(?:br|/div|/p|/li)(?: [^>]*)?>")  # in a listing
_BREAK, _ITEM, _TAG = re.compile(r"<br(?: [^>]*)?>"), re.compile(r"<li(?: [^>]*)?>"), re.compile(r"<[^>]*>")
_CELL = re.compile(r"<t[dh](?: [^>]*)?>")
_LINE, _ROW_END = "\0", "\0\0"  # breaks within a block; no text holds them, the parser drops the character
MAX_DEPTH = 512  # of elements in one another, as in browsers: the parser looks through all that are open at each tag
_OPENING_OR_CLOSING = re.compile(rb"<(/?)([a-z][^\s/>]*)[^>]*>", re.IGNORECASE)
_VOID = frozenset([b"br", b"hr", b"img", b"input", b"meta", b"link", b"wbr", b"col", b"area", b"source", b"embed"])
_SELF_CLOSING = frozenset([b"p", b"li", b"dt", b"dd", b"td", b"th", b"tr", b"option"])  # the next of its kind closes it
_FOREIGN = re.compile(rb"<(?:svg|math)", re.IGNORECASE)  # inside, elements of those names nest
_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([A-Za-z0-9_-]+)", re.IGNORECASE)


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    add_html(builder, utf8_html(path.read_bytes(), builder.notes))
    return builder.build()


def utf8_html(data: bytes, notes: list[str]) -> bytes:
    """A page in UTF-8: what it declares if that holds, else what is detected."""
    declared = _CHARSET.search(data[:4096])
    if declared:
        name = declared.group(1).decode("ascii").lower()
        try:
            text = data.decode("gb18030" if name in ("gb2312", "gbk") else name)
            return data if name in ("utf-8", "utf8") else text.encode("utf-8")
        except (UnicodeError, LookupError):
            notes.append(f"declared encoding {name} does not hold")
    text, encoding = decode(data)
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"encoding: {encoding}")
    return data if encoding == "utf-8" else text.encode("utf-8")


def add_html(builder: DocumentBuilder, html: str | bytes, page: int | None = None) -> None:
    """Blocks of a page, in reading order.

    Args:
        html: text, or bytes in UTF-8.

    Raises:
        Damaged: there is no body at all.
    """
    from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

    html = without_deep_nesting(html.encode("utf-8", "replace") if isinstance(html, str) else html)
    body = LexborHTMLParser(html, options=LexborDocumentOptions.WO_EVENTS).body
    if body is None:
        raise Damaged("The page has no body.", code="damaged_html")
    for node in reversed(body.css(_SKIPPED)):  # what stands inside another of them goes first
        node.decompose()
    written = _INLINE.sub("", _COMMENT.sub("", body.html or ""))
    _Walk(builder, page).run(_SECTION.split(written))


def without_deep_nesting(html: bytes) -> bytes:
    """A page without the tags that would nest deeper than `MAX_DEPTH`; their text stays."""
    if html.count(b"<") <= MAX_DEPTH:
        return html
    flat = _VOID if _FOREIGN.search(html) else _VOID | _SELF_CLOSING
    depth = 0

    def bounded(tag: re.Match[bytes]) -> bytes:
        nonlocal depth
        if tag[2].lower() in flat:
            return tag[0]
        if tag[1]:
            depth = max(depth - 1, 0)
            return tag[0] if depth < MAX_DEPTH else b""
        depth += 1
        return tag[0] if depth <= MAX_DEPTH else b""

    return _OPENING_OR_CLOSING.sub(bounded, html)


class _Walk:
    """The blocks of a page, from what stands between the tags of headings, tables and listings."""

    def __init__(self, builder: DocumentBuilder, page: int | None) -> None:
        self._builder, self._page = builder, page

    def run(self, parts: list[str]) -> None:
        """`parts`: what stands before the first such tag, then ("/" or "", tag, what follows) again and again."""
        self._text(parts[0])
        tables, rows = 0, list[str]()
        inside = ""  # heading or listing
        for closing, tag, html in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            if tag == "table":
                tables += -1 if closing else 1
                if closing and not tables:
                    self._table("".join(rows))
                    rows.clear()
            if tables:
                rows.append(html)
                continue
            inside = "" if closing or tag == "table" else tag
            if not inside:
                self._text(html)
            elif inside in ("pre", "textarea"):
                text = _plain(_TAG.sub("", _END_OF_LINE.sub("\n", html)))
                self._builder.add(text, "code", page=self._page)
            else:
                heading = " ".join(_plain(_TAG.sub(" ", html)).split()).rstrip("¶ ")
                self._builder.add(heading, "heading", level=int(tag[1]), page=self._page)

    def _text(self, html: str) -> None:
        """Paragraphs and list items: each tag left ends one."""
        if not html or html.isspace():
            return
        if "<br" in html:
            html = _BREAK.sub(_LINE, html)
        if "<li" in html:
            html = _ITEM.sub("<>- ", html)
        for piece in _TAG.split(html):
            if not piece or piece.isspace():
                continue
            text = _plain(piece)
            if _LINE in text:
                text = "\n".join([" ".join(line.split()) for line in text.split(_LINE)]).strip("\n")
            else:
                text = " ".join(text.split())
            if text != "-":
                self._builder.add(text, page=self._page)

    def _table(self, html: str) -> None:
        """A row a line, cells parted by bars."""
        marked = _CELL.sub(f" {_LINE} ", html).replace("</tr>", _ROW_END)
        rows = [" ".join(row.split()).lstrip(f"{_LINE} ") for row in _plain(_TAG.sub(" ", marked)).split(_ROW_END)]
        self._builder.add("\n".join(filter(None, rows)).replace(_LINE, "|"), "table", page=self._page)


def _plain(text: str) -> str:
    return unescape(text) if "&" in text else text

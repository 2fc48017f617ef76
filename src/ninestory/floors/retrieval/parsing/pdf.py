"""PDF by pdfium: text in reading order with pages, headings from the outline; pages without text are read by OCR."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, MissingExtra, Unsupported
from ninestory.floors.retrieval.document import Document, DocumentBuilder

MAX_PAGES = 5000
_OCR_SCALE = 150 / 72  # dots an inch, of points
_FEW_CHARACTERS = 16
_PASSWORD = 4  # FPDF_ERR_PASSWORD
_SENTENCE_END = re.compile(r"[.!?:;。！？：；…”」)）]$")
_ITEM = re.compile(r"([-•*·▪]|\(?\d+[.)、]|[（(][一二三四五六七八九十]+[)）])\s*")
_CJK = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")


def parse(path: Path) -> Document:
    document = open_pdf(path)
    try:
        return _read(document)
    finally:
        document.close()


def open_pdf(path: Path) -> Any:
    """A pypdfium2 document, to be closed by the caller.

    Raises:
        Unsupported: it is encrypted. Damaged: it is no PDF.
    """
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            raise Unsupported(
                "The PDF is encrypted.",
                hint="Save it without a password.",
                hint_zh="请去掉密码后另存。",
                code="encrypted_document",
            ) from error
        raise Damaged(f"It is no PDF that can be read: {str(error).rstrip('.')}.", code="damaged_pdf") from error


def _read(document: Any) -> Document:
    builder = DocumentBuilder()
    if len(document) > MAX_PAGES:
        builder.notes.append(f"only the first {MAX_PAGES} of {len(document)} pages were read")
    numbers = range(min(len(document), MAX_PAGES))
    pages = [_lines(document[number]) for number in numbers]
    scanned = [n for n in numbers if sum(map(len, pages[n])) < _FEW_CHARACTERS and _has_picture(document[n])]
    try:
        for number in scanned:
            pages[number] = _by_ocr(document[number])
        if scanned:
            builder.notes.append(f"{len(scanned)} pages by OCR")
    except MissingExtra:
        if len(scanned) == len(pages):
            raise
        builder.notes.append(f"{len(scanned)} scanned pages were not read: the extra [ocr] is not installed")
    running = _running_lines(pages)
    outline = _outline(document)
    for number, lines in enumerate(pages, 1):
        kept = [line for line in lines if _shape(line) not in running]
        _add_page(builder, kept, outline.get(number, []), number)
    return builder.build()


def _lines(page: Any) -> list[str]:
    """pdfium ends lines with CR LF and writes 0x02 for a hyphen at a line's end."""
    text = page.get_textpage().get_text_range().replace("\x02", "-")
    return [line.strip() for line in text.replace("\ufffe", "-").splitlines() if line.strip()]


def _has_picture(page: Any) -> bool:
    import pypdfium2.raw as raw

    return any(True for _ in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3))


def _by_ocr(page: Any) -> list[str]:
    from ninestory.floors.retrieval.parsing.image import read_text

    return read_text(page.render(scale=_OCR_SCALE).to_pil().convert("RGB")).splitlines()


def _running_lines(pages: list[list[str]]) -> set[str]:
    """First and last lines that most pages share but for their numbers: headers, footers, page numbers."""
    counts = Counter(shape for lines in pages for shape in {_shape(line) for line in (*lines[:2], *lines[-2:])})
    return {shape for shape, count in counts.items() if len(pages) >= 4 and count > len(pages) / 2}


def _shape(line: str) -> str:
    return re.sub(r"\b[\divxlc]+\b", "#", line.lower())


def _outline(document: Any) -> dict[int, list[tuple[str, int]]]:
    """Page from 1 → the titles (and levels from 1) that the outline has there."""
    found: dict[int, list[tuple[str, int]]] = {}
    for entry in document.get_toc():
        target = entry.get_dest()
        title = (entry.get_title() or "").strip()
        if target is not None and title and target.get_index() is not None:
            found.setdefault(target.get_index() + 1, []).append((title, min(entry.level + 1, 6)))
    return found


def _add_page(builder: DocumentBuilder, lines: list[str], titles: list[tuple[str, int]], page: int) -> None:
    """A page's text, cut where a title of the outline stands; a title not found there opens the page."""
    places = []
    for title, level in titles:
        wanted = _bare(title)
        place = next((i for i, line in enumerate(lines) if _bare(line).endswith(wanted) and wanted), None)
        if place is None:
            builder.add(title, "heading", level=level, page=page)
        else:
            places.append((place, title, level))
    start = 0
    for place, title, level in sorted(places):
        _add_paragraphs(builder, lines[start:place], page)
        builder.add(title, "heading", level=level, page=page)
        start = place + 1
    _add_paragraphs(builder, lines[start:], page)


def _bare(text: str) -> str:
    return re.sub(r"^[\d.\s]+|\s", "", text).lower()


def _add_paragraphs(builder: DocumentBuilder, lines: list[str], page: int) -> None:
    """Lines are layout: joined (without a blank between Chinese) until one ends a sentence and the next starts anew."""
    text = ""
    for line in lines:
        if text and (_ITEM.match(line) or (_SENTENCE_END.search(text) and len(line) > 0 and _starts_anew(line))):
            builder.add(text, page=page)
            text = line
        elif text and _CJK.match(text[-1]) and _CJK.match(line):
            text += line
        elif text:
            text += line if text.endswith("-") else f" {line}"
        else:
            text = line
    builder.add(text, page=page)


def _starts_anew(line: str) -> bool:
    return line[0].isupper() or bool(_CJK.match(line))

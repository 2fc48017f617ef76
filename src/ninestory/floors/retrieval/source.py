"""A document's source as a reader sees it beside its passages: a page as a picture, or the text that was read.

A passage of a PDF is found again on its page by its characters without white space, since reading order, line breaks
and page headers were changed when the text was made (`parsing/pdf.py`).
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import NotFound, TooLarge
from ninestory.core.pictures import open_picture
from ninestory.floors.retrieval.parsing import FORMATS, parse, text
from ninestory.floors.retrieval.parsing.pdf import open_pdf

Kind = Literal["page", "text"]
Box = tuple[float, float, float, float]  # left, top, width, height in parts of the page

WINDOW_CHARACTERS = 24_000
PAGES_OF_A_PASSAGE = 4  # a passage is looked for on the pages after the one that it begins on
_MOST_PIXELS = 1600  # of a picture's longer side
_SCALE = 2.0  # 144 dots an inch
_FEW_CHARACTERS = 12  # fewer are found anywhere
_UNITS = 100_000  # of a page's side, when pdfium tells where a character stands
_HYPHENS = {0x02: "-", 0xFFFE: "-"}  # what pdfium writes for a hyphen at a line's end


def kind_of(name: str) -> Kind:
    """Whether a file of this name is shown by its pages or by its text."""
    return "page" if FORMATS.get(Path(name).suffix.lower()) in ("pdf", "image") else "text"


def picture_of(path: Path, name: str, page: int) -> bytes:
    """A page as PNG.

    Raises:
        NotFound: no such page. Damaged, Unsupported: the file cannot be read.
    """
    if FORMATS[Path(name).suffix.lower()] == "image":
        _check_page(name, page, 1)
        picture = open_picture(path)
    else:
        document = open_pdf(path)
        try:
            _check_page(name, page, len(document))
            sheet = document[page - 1]
            scale = min(_SCALE, _MOST_PIXELS / max(*sheet.get_size(), 1))
            picture = sheet.render(scale=scale).to_pil().convert("RGB")
        finally:
            document.close()
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def page_of(path: Path, name: str, page: int, passages: list[str]) -> dict[str, Any]:
    """How many pages there are, this one's size in points (of a picture in pixels), and where passages stand on it.

    Returns:
        `boxes`: for each passage its lines; none where the page has no text of its own (a scan).

    Raises:
        NotFound: no such page. Damaged, Unsupported: the file cannot be read.
    """
    if FORMATS[Path(name).suffix.lower()] == "image":
        _check_page(name, page, 1)
        picture = open_picture(path)
        return {
            "page": 1,
            "pages": 1,
            "width": picture.width,
            "height": picture.height,
            "boxes": [[] for _ in passages],
        }
    document = open_pdf(path)
    try:
        _check_page(name, page, len(document))
        sheet = document[page - 1]
        width, height = sheet.get_size()
        boxes = _boxes(sheet, passages)
        return {"page": page, "pages": len(document), "width": width, "height": height, "boxes": boxes}
    finally:
        document.close()


def text_of(path: Path, name: str, near: int) -> dict[str, Any]:
    """The blocks around a character, at most `WINDOW_CHARACTERS` of them, as they were read for the passages.

    Raises:
        TooLarge: plain text that is read part by part. Damaged, Unsupported: the file cannot be read.
    """
    if FORMATS.get(Path(name).suffix.lower()) == "text" and path.stat().st_size > text.WHOLE_BYTES:
        raise TooLarge(
            f"{name} is too large to be shown whole ({path.stat().st_size >> 20} MB).",
            hint="Its passages are here; open the file itself for the rest.",
            hint_zh="这里只显示其片段；其余内容请打开原文件查看。",
        )
    document = parse(path, name)
    length = len(document.text)
    start = max(min(near, length) - WINDOW_CHARACTERS // 3, 0)
    end = min(start + WINDOW_CHARACTERS, length)
    blocks = [
        {
            "start": max(block.start, start),
            "end": min(block.end, end),
            "kind": block.kind,
            "level": block.level,
            "page": block.page,
            "text": document.text[max(block.start, start) : min(block.end, end)],
        }
        for block in document.blocks
        if block.start < end and block.end > start
    ]
    return {"length": length, "start": start, "end": end, "blocks": blocks}


def _check_page(name: str, page: int, pages: int) -> None:
    if not 1 <= page <= pages:
        raise NotFound(
            f"{name} has no page {page}; it has {pages}.",
            hint=f"Ask for 1 to {pages}.",
            hint_zh=f"页码应为 1–{pages}。",
            param="page",
            code="page_not_found",
        )


def _boxes(sheet: Any, passages: list[str]) -> list[list[Box]]:
    """For each passage the rectangles of its lines on a page."""
    import pypdfium2.raw as raw

    page_text = sheet.get_textpage()
    codes = [raw.FPDFText_GetUnicode(page_text, place) for place in range(page_text.count_chars())]
    letters = [(_HYPHENS.get(code) or chr(code), place) for place, code in enumerate(codes) if 0 < code <= 0x10FFFF]
    letters = [pair for pair in letters if not pair[0].isspace()]
    squeezed = "".join(letter for letter, _ in letters)
    found = []
    for passage in passages:
        spans = [(letters[start][1], letters[end - 1][1] + 1) for start, end in _spans(squeezed, passage)]
        found.append([box for start, end in spans for box in _lines(sheet, page_text, start, end - start)])
    return found


def _spans(page: str, passage: str) -> list[tuple[int, int]]:
    """Where the paragraphs of a passage stand in a page's letters; of one that crosses the page's end, its part here."""
    spans = []
    after = 0  # a short paragraph may stand there twice: the one after the last found is meant
    for paragraph in passage.split("\n\n"):
        wanted = re.sub(r"\s", "", paragraph)
        place = page.find(wanted, after)
        place = page.find(wanted) if place < 0 else place
        if wanted and place >= 0:
            after = place + len(wanted)
            spans.append((place, after))
            continue
        if head := _longest_head(page, wanted):
            place = page.find(head)
            spans.append((place, place + len(head)))
        if tail := _longest_head(page[::-1], wanted[::-1]):
            place = len(page) - page[::-1].find(tail)
            spans.append((place - len(tail), place))
    return spans


def _longest_head(page: str, wanted: str) -> str:
    """The longest beginning of `wanted` that stands in `page`; "" when it is too short to mean anything."""
    low, high = 0, len(wanted)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if wanted[:middle] in page else (low, middle - 1)
    return wanted[:low] if low >= _FEW_CHARACTERS else ""


def _lines(sheet: Any, page_text: Any, start: int, count: int) -> list[Box]:
    """The rectangles that pdfium gives for a run of characters, one a line, as parts of the page seen upright."""
    boxes = []
    for place in range(page_text.count_rects(start, count)):
        left, bottom, right, top = page_text.get_rect(place)
        corners = (_on_sheet(sheet, left, top), _on_sheet(sheet, right, bottom))
        (x0, x1), (y0, y1) = (sorted(sides) for sides in zip(*corners, strict=True))
        boxes.append((x0, y0, x1 - x0, y1 - y0))
    return boxes


def _on_sheet(sheet: Any, x: float, y: float) -> tuple[float, float]:
    """A point of the page's own space as parts of its width and height from the upper left, turned as it is shown."""
    import ctypes

    import pypdfium2.raw as raw

    across, down = ctypes.c_int(), ctypes.c_int()
    raw.FPDF_PageToDevice(sheet, 0, 0, _UNITS, _UNITS, 0, x, y, across, down)
    return across.value / _UNITS, down.value / _UNITS

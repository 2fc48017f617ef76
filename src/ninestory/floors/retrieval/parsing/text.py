"""Plain text: paragraphs at blank lines; numbered lines such as "第三章 使用" are headings.

Large files are read part by part, so that a gigabyte takes the memory of one part; a part knows no heading of an
earlier one.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.chunking.titles import is_title
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode

_SAMPLE_BYTES = 64 << 10
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf_32_le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf_32_be"),
    (codecs.BOM_UTF16_LE, "utf_16_le"),
    (codecs.BOM_UTF16_BE, "utf_16_be"),
)
_CHAPTER = re.compile(r"(第[\d一二三四五六七八九十百]+[章编部篇]|chapter\s+\d+)", re.IGNORECASE)
PART_BYTES = 1 << 20
WHOLE_BYTES = 16 << 20  # up to here a file is one part
_DEPTH = re.compile(r"\d+(?:\.\d+)*")


def parse(path: Path) -> Document:
    text, encoding = decode(path.read_bytes())
    builder = DocumentBuilder()
    if encoding not in ("utf-8", "utf-8-sig"):
        builder.notes.append(f"encoding: {encoding}")
    add_paragraphs(builder, text)
    return builder.build()


def parse_part(path: Path, position: int) -> tuple[Document, int | None]:
    """The part of a file that begins at byte `position`, and where the next one begins; None after the last.

    Raises:
        Damaged: an encoding that cannot be told, or that does not hold to the end.
    """
    with path.open("rb") as file:
        encoding = _sampled_encoding(file.read(_SAMPLE_BYTES))
        file.seek(position)
        data = file.read(PART_BYTES)
        is_last = len(data) < PART_BYTES
    decoder = codecs.getincrementaldecoder(encoding)()
    if not is_last and not encoding.startswith(("utf_16", "utf_32")) and (line_end := data.rfind(b"\n")) > 0:
        data = data[: line_end + 1]  # no character of these encodings has this byte inside
    try:
        text = decoder.decode(data, final=is_last)
    except UnicodeDecodeError as error:
        raise Damaged(
            f"It looks like {encoding}, but byte {position + error.start} does not fit.",
            hint="Save it as UTF-8.",
            hint_zh="请另存为 UTF-8 编码。",
            code="unknown_encoding",
        ) from error
    builder = DocumentBuilder()
    if encoding != "utf-8" and position == 0:
        builder.notes.append(f"encoding: {encoding}")
    add_paragraphs(builder, text)
    unread = 0 if is_last else len(decoder.getstate()[0])
    return builder.build(), None if is_last else position + len(data) - unread


def _sampled_encoding(sample: bytes) -> str:
    """The encoding by the file's beginning, which may end inside a character."""
    for mark, encoding in _WIDE_MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        return decode(sample[: len(sample) & ~3])[1]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return decode(sample[: sample.rfind(b"\n") + 1] or sample)[1]
    return "utf-8"


def add_paragraphs(builder: DocumentBuilder, text: str, page: int | None = None) -> None:
    """Blocks of plain text."""
    for paragraph in re.split(r"\n\s*\n", normalised(text)):
        lines: list[str] = []
        for line in paragraph.split("\n"):
            if is_title(line.strip()):
                builder.add("\n".join(lines), page=page)
                builder.add(line, "heading", level=heading_level(line.strip()), page=page)
                lines = []
            else:
                lines.append(line.rstrip())
        builder.add("\n".join(lines), page=page)


def heading_level(title: str) -> int:
    """1 for a chapter, else one more than the dots in its number: "3.1 …" is 2."""
    if _CHAPTER.match(title):
        return 1
    number = _DEPTH.match(title)
    return min(number.group().count(".") + 1, 6) if number else 2


def normalised(text: str) -> str:
    """One kind of line end, and no characters that stand for nothing."""
    return re.sub(r"[\0\ufeff\x0b]", "", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n"))

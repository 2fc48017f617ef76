"""Files of every kind become `Document`s: the table of formats, and the limits all of them share.

Each format is one module with a function `parse(path) -> Document`, imported when the first such file comes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from ninestory.core.errors import Damaged, TooLarge, Unsupported
from ninestory.floors.retrieval.document import Document
from ninestory.floors.retrieval.parsing import text

MAX_FILE_BYTES = 256 << 20

_MODULES: dict[str, str] = {
    "markdown": "md markdown",
    "html": "html htm xhtml",
    "pdf": "pdf",
    "docx": "docx",
    "pptx": "pptx",
    "spreadsheet": "xlsx xls ods",
    "delimited": "csv tsv",
    "epub": "epub",
    "json_lines": "json jsonl",
    "mail": "eml",
    "image": "png jpg jpeg webp bmp tif tiff",
    "text": "txt text rst log tex srt",
    "code": "py js ts jsx tsx java c h cpp hpp cc go rs rb php sh bash sql lua kt swift scala r jl css toml yaml yml ini "
    "cfg xml",
}
FORMATS: dict[str, str] = {f".{ending}": module for module, endings in _MODULES.items() for ending in endings.split()}


_STREAMED = frozenset(["text"])
MAX_STREAMED_BYTES = (2 << 30) - 1  # offsets are 32-bit numbers


def is_supported(name: str) -> bool:
    """Whether files of this name can be read, judged by the ending."""
    return Path(name).suffix.lower() in FORMATS


def parse_part(path: Path, name: str, position: int) -> tuple[Document, int | None]:
    """Read a file from byte `position`: all of it, or one part where plain text is large; and where the next begins.

    Raises:
        As `parse`.
    """
    ending, size = Path(name).suffix.lower(), path.stat().st_size
    if FORMATS.get(ending) not in _STREAMED or size <= text.WHOLE_BYTES:
        return parse(path, name), None
    if size > MAX_STREAMED_BYTES:
        raise _too_large(name, size, MAX_STREAMED_BYTES)
    return text.parse_part(path, position)


def parse(path: Path, name: str = "") -> Document:
    """Read a file whole.

    Args:
        name: the file's own name when `path` has another (an upload); its ending chooses the format.

    Raises:
        Unsupported: no such format, encrypted, or text in pictures without the extra [ocr].
        TooLarge: the file, or what it unpacks to, is over the limit. Damaged: it is not what its name says, or is empty.
    """
    name = name or path.name
    ending = Path(name).suffix.lower()
    if ending not in FORMATS:
        raise Unsupported(
            f"{name}: files ending in {ending or '(nothing)'} are not read.",
            hint=f"Convert it to one of: {' '.join(sorted(FORMATS))}.",
            hint_zh=f"请转换为以下格式之一：{' '.join(sorted(FORMATS))}。",
            code="unsupported_format",
        )
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _too_large(name, size, MAX_FILE_BYTES)
    if size == 0:
        raise _empty(name)
    module = importlib.import_module(f"ninestory.floors.retrieval.parsing.{FORMATS[ending]}")
    document: Document = module.parse(path)
    if not document.blocks:
        raise _empty(name)
    return document


def _too_large(name: str, size: int, most: int) -> TooLarge:
    return TooLarge(
        f"{name} has {size >> 20} MB; {most >> 20} MB is the most for one document of its kind.",
        hint="Split it into several files.",
        hint_zh="请拆分为多个文件。",
    )


def _empty(name: str) -> Damaged:
    return Damaged(
        f"{name} holds no text.",
        hint="Look at the file: it may be empty, or hold only pictures.",
        hint_zh="请检查该文件：可能为空，或只包含图片。",
        code="empty_document",
    )

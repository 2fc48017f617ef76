"""Text in pictures by PP-OCR (rapidocr, its models inside the package; the extra [ocr])."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from ninestory.core.extras import require
from ninestory.core.pictures import open_picture
from ninestory.floors.retrieval.document import Document, DocumentBuilder


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    builder.add(read_text(open_picture(path)))
    builder.notes.append("text by OCR")
    return builder.build()


def read_text(picture: Any) -> str:
    """The lines of text in a PIL picture, top to bottom.

    Raises:
        MissingExtra: rapidocr is not installed.
    """
    import numpy as np

    found = _reader()(np.asarray(picture)[:, :, ::-1])  # OpenCV's order of colours
    return "\n".join(found.txts or ())


@functools.cache
def _reader() -> Any:
    rapidocr = require("rapidocr", "ocr", "Reading text in pictures")
    reader = rapidocr.RapidOCR(params={"Global.log_level": "error"})
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    return reader

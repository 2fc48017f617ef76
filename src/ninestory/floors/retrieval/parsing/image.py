"""Text in pictures by PP-OCR (rapidocr, its models inside the package; the extra [ocr])."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.core.extras import require
from ninestory.floors.retrieval.document import Document, DocumentBuilder

MAX_PIXELS = 50_000_000


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    builder.add(read_text(open_picture(path)))
    builder.notes.append("text by OCR")
    return builder.build()


def open_picture(path: Path) -> Any:
    """A PIL picture in RGB.

    Raises:
        Damaged: it is none, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Damaged(f"The picture has {image.width} x {image.height} pixels, over {MAX_PIXELS}.")
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Damaged(f"It is no picture that can be read: {error}.", code="damaged_image") from error


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

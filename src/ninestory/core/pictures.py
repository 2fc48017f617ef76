"""Guarded decoding of pictures: an allow-list of formats, limits before pixels are allocated, one way to RGB.

Decoding runs in a worker or in an isolated child, never in the gateway, which only looks at magic bytes and sizes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.media import media_type_of

if TYPE_CHECKING:
    from PIL import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS: Final = 50_000_000
MAX_SIDE: Final = 30_000
MAX_ASPECT_RATIO: Final = 200
WHITE: Final = (255, 255, 255)


def open_picture(source: Path | BinaryIO, *, background: tuple[int, int, int] | None = WHITE) -> Image.Image:
    """Decode the first frame of a picture, upright, in RGB.

    Args:
        source: a file or a seekable binary stream; its format is told by content, never by its name.
        background: the colour behind transparent pixels; None drops the alpha channel, as the original preprocessing
            of the BLIP family does (`convert("RGB")`).

    Raises:
        Unsupported: the format is not one of `FORMATS`, or the pixels are floating-point numbers.
        Damaged: the picture is truncated or corrupt, or exceeds a limit of pixels, side or aspect ratio.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits below are stricter
            with Image.open(source, formats=FORMATS) as image:
                _check_size(image.width, image.height)
                return _to_rgb(ImageOps.exif_transpose(image), background)
    except UnidentifiedImageError as error:
        if _is_picture(source):
            raise _undecodable(error) from error
        raise Unsupported(
            f"The file is not a picture in one of the formats {', '.join(FORMATS)}.",
            hint="Convert it to PNG or JPEG.",
            hint_zh="请转换为 PNG 或 JPEG。",
            code="unsupported_image",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(f"has more pixels than can be decoded safely ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> Damaged:
    return Damaged(
        f"The picture cannot be decoded: {error}.",
        hint="Save it again with another program.",
        hint_zh="请用其他程序重新保存该图片。",
        code="damaged_image",
    )


def _is_picture(source: Path | BinaryIO) -> bool:
    """Whether the first bytes are those of a picture, whatever follows them."""
    if isinstance(source, Path):
        return media_type_of(source).startswith("image/")
    source.seek(0)
    return media_type_of(source.read(16)).startswith("image/")


def _check_size(width: int, height: int) -> None:
    """Raise Damaged when the header's size exceeds a limit; no pixel has been decoded yet."""
    if width * height > MAX_PIXELS:
        raise _too_large(f"has {width} x {height} pixels; expected at most {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise _too_large(f"is {width} x {height}; expected sides of at most {MAX_SIDE:,} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        raise _too_large(f"is {width} x {height}; expected an aspect ratio of at most {MAX_ASPECT_RATIO}:1")


def _too_large(what: str) -> Damaged:
    return Damaged(
        f"The picture {what}.",
        hint="Scale or crop it.",
        hint_zh="请缩小或裁剪该图片。",
        code="image_too_large",
    )


def _to_rgb(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise Unsupported(
            "The picture has floating-point pixels; expected 8 or 16 bits per channel.",
            hint="Convert it to an 8-bit PNG.",
            hint_zh="请转换为 8 位 PNG。",
            code="unsupported_image",
        )
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips to 255 instead of scaling
        image = image.point(lambda value: value * (1 / 257), "F").convert("L")
    if background is not None and ("A" in image.getbands() or "transparency" in image.info):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*background, 255))
        image = Image.alpha_composite(canvas, rgba)
    return image.convert("RGB")

"""Guarded decoding: every fault that Pillow's defaults let through."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ninestory.core.errors import Damaged, Unsupported
from ninestory.core.pictures import open_picture


def encoded(image: Image.Image, picture_format: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    buffer.seek(0)
    return buffer


def png_header(width: int, height: int) -> io.BytesIO:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_allowed_formats_decode(picture_format: str) -> None:
    picture = open_picture(encoded(Image.new("RGB", (6, 4), (200, 30, 40)), picture_format))
    assert picture.mode == "RGB" and picture.size == (6, 4)
    assert np.abs(np.asarray(picture, dtype=int) - [200, 30, 40]).max() <= 6


def test_a_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(Unsupported) as refusal:
        open_picture(path)
    assert refusal.value.code == "unsupported_image"


@pytest.mark.parametrize("picture_format", ["PPM", "PCX", "TGA", "ICO"])
def test_formats_outside_the_list_are_refused(picture_format: str) -> None:
    with pytest.raises(Unsupported):
        open_picture(encoded(Image.new("RGB", (16, 16)), picture_format))


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_picture(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)).size == (20, 40)


def test_sixteen_bit_grey_is_scaled() -> None:
    values = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    grey = np.asarray(open_picture(encoded(Image.fromarray(values))))[..., 0]
    assert len(np.unique(grey)) == 64
    assert np.abs(grey.astype(float) - values / 257).max() <= 1


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(Unsupported):
        open_picture(encoded(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize(("background", "expected"), [((255, 255, 255), (255, 255, 255)), (None, (255, 0, 0))])
def test_transparent_pixels_show_the_background(background: tuple[int, int, int] | None, expected: object) -> None:
    picture = open_picture(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0))), background=background)
    assert picture.getpixel((0, 0)) == expected


@pytest.mark.parametrize("size", [(20_000, 20_000), (40_000, 10), (1, 5000), (5000, 1), (9000, 9000)])
def test_too_large_is_refused_by_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(Damaged) as refusal:
        open_picture(png_header(*size))
    assert refusal.value.code == "image_too_large"


def test_a_truncated_picture_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise)).getvalue()
    with pytest.raises(Damaged) as refusal:
        open_picture(io.BytesIO(whole[: len(whole) // 2]))
    assert refusal.value.code == "damaged_image"


def test_cmyk_becomes_rgb() -> None:
    picture = open_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = picture.getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60

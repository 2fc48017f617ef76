"""Zip containers (docx, pptx, epub, xlsx) opened with a bound on what they may unpack to."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, TooLarge, Unsupported

MAX_UNPACKED_BYTES = 512 << 20
MAX_RATIO = 200
_SMALL_BYTES = 16 << 20  # below this no ratio is dangerous
_BLOCK = 1 << 20


class Archive:
    """The parts of one container; `read` counts bytes, because declared sizes may lie."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._zip = archive
        self._left = MAX_UNPACKED_BYTES
        self.names = archive.namelist()

    def read(self, name: str) -> bytes:
        """One part, whole. Raises Damaged: it is missing or broken; TooLarge: the bound is reached."""
        blocks = []
        try:
            with self._zip.open(name) as part:
                while block := part.read(_BLOCK):
                    self._left -= len(block)
                    if self._left < 0:
                        raise _bomb(MAX_UNPACKED_BYTES)
                    blocks.append(block)
        except KeyError as error:
            raise Damaged(f"The part {name} is missing.", code="damaged_archive") from error
        except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise Damaged(f"The part {name} cannot be unpacked: {error}.", code="damaged_archive") from error
        return b"".join(blocks)

    def xml(self, name: str) -> Any:
        """One part as an XML tree (lxml), without entities and without network."""
        from lxml import etree

        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            return etree.fromstring(self.read(name), parser)
        except etree.XMLSyntaxError as error:
            raise Damaged(f"The part {name} is not XML: {error}.", code="damaged_archive") from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a container.

    Raises:
        Damaged: no zip file. TooLarge: a zip bomb by its declared sizes. Unsupported: encrypted.
    """
    if path.open("rb").read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # OLE: what Office wraps encrypted files in
        raise Unsupported(
            "The document is encrypted, or in the binary format from before 2007.",
            hint="Save it without a password in the current format.",
            hint_zh="请去掉密码并另存为新格式。",
            code="encrypted_document",
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise Damaged(
            f"It is no zip container: {error}.",
            hint="Download or save the file again.",
            hint_zh="请重新下载或保存该文件。",
            code="damaged_archive",
        ) from error
    with archive:
        check_sizes(archive.infolist())
        yield Archive(archive)


def check_sizes(parts: list[zipfile.ZipInfo]) -> None:
    """Raises TooLarge: the parts unpack to too much, all told or for their packed size. Unsupported: encrypted."""
    unpacked = sum(part.file_size for part in parts)
    packed = max(sum(part.compress_size for part in parts), 1)
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > _SMALL_BYTES and unpacked / packed > MAX_RATIO):
        raise _bomb(unpacked)
    if any(part.flag_bits & 1 for part in parts):
        raise Unsupported("The archive is encrypted.", code="encrypted_document")


def _bomb(size: int) -> TooLarge:
    return TooLarge(
        f"It unpacks to {size >> 20} MB or more: a zip bomb, or too large to be read.",
        hint="Leave it out, or split it.",
        hint_zh="请移除或拆分该文件。",
        code="zip_bomb",
    )

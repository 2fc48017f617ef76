"""Books: the pages of the spine in reading order, each parsed as HTML."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from ninestory.core.errors import Damaged, Unsupported
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.archive import open_archive
from ninestory.floors.retrieval.parsing.html import add_html, utf8_html

_OPF = "{http://www.idpf.org/2007/opf}"


def parse(path: Path) -> Document:
    builder = DocumentBuilder()
    with open_archive(path) as archive:
        if any(name.endswith("META-INF/encryption.xml") and b"aes" in archive.read(name) for name in archive.names):
            raise Unsupported("The book is encrypted (DRM).", code="encrypted_document")
        # Some real books keep everything below a folder, so that META-INF/container.xml is missing.
        package = next((name for name in archive.names if name.endswith(".opf")), None)
        if package is None:
            raise Damaged("The book has no package file (.opf).", code="damaged_epub")
        tree = archive.xml(package)
        pages = {item.get("id"): item.get("href", "") for item in tree.iter(f"{_OPF}item")}
        read = set()  # a spine may name one page any number of times
        for reference in tree.iter(f"{_OPF}itemref"):
            href = unquote(pages.get(reference.get("idref"), ""))
            part = posixpath.normpath(posixpath.join(posixpath.dirname(package), href))
            if href and part in archive.names and part not in read:
                read.add(part)
                add_html(builder, utf8_html(archive.read(part), builder.notes))
    return builder.build()

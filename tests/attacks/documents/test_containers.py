"""Office documents that reach out of themselves or unpack to anything, through an ingest."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
from ninestory.floors.retrieval.knowledge_base import create
from ninestory.floors.retrieval.table import ChunkReader
from tests.documents import docx, zipped
from tests.hashing_engine import HashingEngine

SECRET = "the secret of this machine"
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def document(declarations: str, text: str) -> dict[str, str]:
    body = f"<w:document {_W}><w:body><w:p><w:r><w:t>Apples {text}</w:t></w:r></w:p></w:body></w:document>"
    return {"word/document.xml": f'<?xml version="1.0"?><!DOCTYPE x [{declarations}]>{body}'}


def bomb(path: Path) -> Path:
    """60 MB of blanks in 60 kB."""
    return zipped(path, {"word/document.xml": " " * (60 << 20)})


def lying_bomb(path: Path) -> Path:
    """The same with a directory that declares a hundred bytes."""
    data = bytearray(bomb(path).read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 100)
    data[22:26] = struct.pack("<I", 100)
    path.write_bytes(data)
    return path


@pytest.mark.slow
def test_containers_that_attack_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(SECRET, encoding="utf-8")
    address = (tmp_path / "secret.txt").as_uri()
    folder = tmp_path / "folder"
    folder.mkdir()
    zipped(folder / "entity.docx", document(f'<!ENTITY e SYSTEM "{address}">', "&e;"))
    zipped(folder / "dtd.docx", document(f'<!ENTITY % d SYSTEM "{address}"> %d;', "are red"))
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    zipped(folder / "laughs.docx", document(f'<!ENTITY l0 "laughter">{laughs}', "&l11;"))
    bomb(folder / "bomb.docx")
    lying_bomb(folder / "lying.docx")
    with zipfile.ZipFile(folder / "out.docx", "w") as archive:
        archive.writestr("../../out.txt", "out")
        archive.writestr("word/document.xml", document("", "in a container that leads out")["word/document.xml"])
    docx(folder / "good.docx", [("Normal", "Apples are red.")])

    base = create(Home(tmp_path / "home"), "notes", model="test:hashing")
    add_paths(base, [folder], IngestReport())
    report = ingest(base, Embedder(HashingEngine()), Silent())
    codes = {failure["file"]: failure["code"] for failure in report.failed}
    assert codes["bomb.docx"] == "zip_bomb" and codes["lying.docx"] in ("damaged_archive", "zip_bomb")
    assert {file.name for file in base.files("indexed")} >= {"good.docx", "out.docx"}
    reader = ChunkReader(base)
    reader.refresh()
    texts = reader.all_rows(["text"])["text"].to_pylist()
    assert not any(SECRET in text for text in texts) and all(text.count("laughter") < 2 for text in texts)
    assert not (tmp_path / "out.txt").exists() and not (tmp_path.parent / "out.txt").exists()

"""The media spool and the artifacts that pin it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.errors import DiskFull, InvalidRequest, NotFound, TooLarge
from ninestory.core.media import MediaRef, MediaSpool, media_type_of
from ninestory.core.state import State

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100


@pytest.fixture
def spool(tmp_path: Path) -> MediaSpool:
    return MediaSpool(tmp_path / "media", pinned=frozenset)


def test_the_same_content_is_stored_once(spool: MediaSpool) -> None:
    first, second = spool.put(PNG), spool.put(PNG)
    assert first == second
    assert first.digest == hashlib.blake2b(PNG, digest_size=32).hexdigest()
    assert first.media_type == "image/png" and first.size == len(PNG)
    path = spool.path(first.digest)
    assert path.read_bytes() == PNG and path.stat().st_mode & 0o777 == 0o600
    assert [p for p in spool.directory.rglob("*") if p.is_file()] == [path]


def test_what_is_too_large_leaves_nothing(spool: MediaSpool) -> None:
    with pytest.raises(TooLarge):
        spool.put(PNG, max_bytes=50)
    assert [p for p in spool.directory.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("digest", ["../../etc/passwd", "0" * 63, "G" * 64, "0" * 64 + "\n", ""])
def test_a_malformed_digest_is_refused(spool: MediaSpool, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        spool.path(digest)
    with pytest.raises(InvalidRequest):
        MediaRef(digest=digest)


def test_a_reference_names_exactly_one_place() -> None:
    for arguments in ({}, {"digest": "0" * 64, "path": "a.png"}):
        with pytest.raises(InvalidRequest):
            MediaRef(**arguments)


def test_a_path_must_be_a_regular_file(spool: MediaSpool, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with spool.open(MediaRef(path=str(tmp_path / "a.png"))) as file:
        assert file.read() == PNG
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "media", "."):
        (tmp_path / "media").mkdir(exist_ok=True)
        with pytest.raises(InvalidRequest):
            spool.open(MediaRef(path=str(tmp_path / name)))
    with pytest.raises(NotFound):
        spool.open(MediaRef(path=str(tmp_path / "absent")))


def test_the_quota_evicts_the_oldest_that_nothing_pins(tmp_path: Path) -> None:
    pinned: set[str] = set()
    spool = MediaSpool(tmp_path, quota_bytes=300, pinned=lambda: pinned)
    digests = []
    for number in range(3):
        digests.append(spool.put(bytes([number]) * 100).digest)
        os.utime(spool.path(digests[-1]), (number + 1, number + 1))
    pinned.add(digests[0])
    newest = spool.put(b"n" * 100).digest
    assert spool.get(digests[0]) and spool.get(digests[2]) and spool.get(newest)
    with pytest.raises(NotFound):
        spool.get(digests[1])
    pinned.update([digests[2], newest])
    with pytest.raises(DiskFull):
        spool.put(b"x" * 200)
    assert spool.get(digests[2])


def test_a_sweep_keeps_what_is_pinned_or_recent(tmp_path: Path) -> None:
    pinned: set[str] = set()
    spool = MediaSpool(tmp_path, pinned=lambda: pinned)
    old, kept, recent = (spool.put(bytes([n]) * 10).digest for n in range(3))
    for digest in (old, kept):
        os.utime(spool.path(digest), (0, 0))
    pinned.add(kept)
    leftover = tmp_path / "incoming-1-1"
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    assert spool.sweep(max_age=60) == 10
    assert spool.get(kept) and spool.get(recent) and not leftover.exists()
    with pytest.raises(NotFound):
        spool.get(old)


def test_a_workers_spool_never_deletes(tmp_path: Path) -> None:
    spool = MediaSpool(tmp_path, quota_bytes=150)
    first = spool.put(b"a" * 100).digest
    with pytest.raises(DiskFull):
        spool.put(b"b" * 100)
    with pytest.raises(RuntimeError):
        spool.sweep()
    assert spool.get(first)


def test_media_types_by_content() -> None:
    assert media_type_of(b"RIFF\0\0\0\0WAVEfmt ") == "audio/wav"
    assert media_type_of(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    assert media_type_of(b"<svg onload=alert(1)>") == "application/octet-stream"
    assert media_type_of(b"") == "application/octet-stream"


def test_artifacts_pin_their_bytes_and_are_found_by_words(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    spool = MediaSpool(tmp_path / "media")
    store = ArtifactStore(state, spool, tmp_path / "outputs")
    digest = spool.put(PNG).digest
    parent = store.add(digest, made_by="starter:painter", description="一只 红色 的猫", request={"steps": 20}, seed=7)
    child = store.add(digest, made_by="starter:painter", description="a cat 100%", request={}, parents=[parent.id])
    assert [a.id for a in store.list()] == [child.id, parent.id]
    assert [a.id for a in store.list(words="红色 painter")] == [parent.id]
    assert [a.id for a in store.list(words="100%")] == [child.id]
    assert [a.id for a in store.list(after=child.id)] == [parent.id]
    assert store.list(kind="audio") == []
    assert store.get(parent.id).request == {"steps": 20} and store.get(child.id).parents == (parent.id,)
    output = tmp_path / "outputs" / parent.output
    assert output.suffix == ".png" and output.read_bytes() == PNG
    assert store.digests() == {digest}
    store.delete(parent.id)
    assert not output.exists() and store.content(child.id).read_bytes() == PNG
    for call in (lambda: store.get(parent.id), lambda: store.delete(parent.id)):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(NotFound):
        store.add("0" * 64, made_by="m", description="", request={})
    assert time.time() - child.created_at < 60

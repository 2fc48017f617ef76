"""Media bytes (pictures, sound) by content: a spool of files named by their digest, shared by gateway and workers.

Requests and frames carry a `MediaRef`, never the bytes. The spool keeps no table of its own: a file's name is its
digest, its modification time is its last use, and its media type is read from its first bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ninestory.core.errors import DiskFull, InvalidRequest, NotFound, TooLarge
from ninestory.core.paths import atomic_write
from ninestory.core.regular_file import open_regular

DIGEST_BYTES: Final = 32
COPY_BYTES: Final = 1 << 20
DEFAULT_QUOTA_BYTES: Final = 4 << 30
DEFAULT_MAX_AGE_SECONDS: Final = 7 * 86400.0

_DIGEST = re.compile(r"[0-9a-f]{64}")

# Signatures of the formats that runtimes read: (offset, bytes, media type). A RIFF or ISO container is told apart by
# the four letters at offset 8.
_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\x1aE\xdf\xa3", "audio/webm"),
    (4, b"ftyp", "audio/mp4"),
)
UNKNOWN_MEDIA_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True)
class MediaRef:
    """Where the bytes of a picture or a sound are: a digest of the spool, or a file of this machine.

    The API accepts digests only; a path comes from the command line, the Python library, or a job whose folder was
    checked when it was queued.

    Raises:
        InvalidRequest: neither or both are given, or the digest is malformed.
    """

    digest: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.digest is None) == (self.path is None):
            raise InvalidRequest("A media reference has neither or both of digest and path; expected exactly one.")
        if self.digest is not None:
            check_digest(self.digest)


@dataclass(frozen=True)
class StoredMedia:
    """A file of the spool.

    Attributes:
        digest: blake2b-256 of the content, 64 hexadecimal digits.
        media_type: by its first bytes; `application/octet-stream` when the format is not recognised.
        size: in bytes.
    """

    digest: str
    media_type: str
    size: int


class MediaSpool:
    """The `media/` directory of a home.

    Args:
        directory: created on the first write, mode 0700; files have mode 0600.
        quota_bytes: the size that all files together may reach.
        pinned: returns the digests that must stay (artifacts, stored conversations). Only the gateway passes it; a
            spool without it never deletes, so a worker cannot remove what a conversation holds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        pinned: Callable[[], Container[str]] | None = None,
    ) -> None:
        self.directory = directory
        self.quota_bytes = quota_bytes
        self._pinned = pinned

    def put(self, source: bytes | BinaryIO, *, max_bytes: int | None = None) -> StoredMedia:
        """Store the content once; the same bytes give the same digest and refresh the file's age.

        Raises:
            TooLarge: the content has more than `max_bytes`.
            DiskFull: the quota is reached and nothing unpinned can be removed, or the device has no room.
        """
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        size = 0
        incoming = self.directory / f"incoming-{os.getpid()}-{time.monotonic_ns()}"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with atomic_write(incoming) as file:
                while block := stream.read(COPY_BYTES):
                    size += len(block)
                    if max_bytes is not None and size > max_bytes:
                        raise _too_large(max_bytes)
                    hasher.update(block)
                    file.write(block)
            self._make_room(size)
            digest = hasher.hexdigest()
            target = self._path(digest)
            target.parent.mkdir(exist_ok=True, mode=0o700)
            incoming.chmod(0o600)
            incoming.replace(target)
        finally:
            incoming.unlink(missing_ok=True)
        return StoredMedia(digest, media_type_of(target), size)

    def get(self, digest: str) -> StoredMedia:
        """Describe a stored file.

        Raises:
            InvalidRequest: `digest` is malformed. NotFound: no such file is stored.
        """
        path = self.path(digest)
        return StoredMedia(digest, media_type_of(path), path.stat().st_size)

    def path(self, digest: str) -> Path:
        """The file of a digest; its age starts anew.

        Raises:
            InvalidRequest: `digest` is malformed. NotFound: no such file is stored.
        """
        check_digest(digest)
        path = self._path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            raise NotFound(
                f"Media {digest[:12]}… is not stored here.",
                hint="Upload it with POST /ninestory/v1/media; files that nothing refers to expire after a week.",
                hint_zh="请用 POST /ninestory/v1/media 上传；无人引用的文件一周后过期。",
                code="media_not_found",
            ) from None
        return path

    def open(self, reference: MediaRef) -> BinaryIO:
        """A binary stream of the referenced bytes.

        Raises:
            NotFound: the file does not exist. InvalidRequest: the path is not a regular file.
        """
        if reference.digest is not None:
            return self.path(reference.digest).open("rb")
        assert reference.path is not None
        try:
            return open_regular(Path(reference.path))
        except FileNotFoundError:
            raise NotFound(
                f"The file {reference.path!r} does not exist.", hint="Check the path.", hint_zh="请检查路径。"
            ) from None

    def sweep(self, max_age: float = DEFAULT_MAX_AGE_SECONDS) -> int:
        """Delete unpinned files not used for `max_age` seconds and what a killed writer left; return the bytes freed.

        Raises:
            RuntimeError: this spool was opened without `pinned`.
        """
        freed = 0
        oldest_kept = time.time() - max_age
        pinned = self._pinned_digests()
        for path, status in self._files():
            if status.st_mtime < oldest_kept and path.name not in pinned:
                path.unlink(missing_ok=True)
                freed += status.st_size
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if not path.is_dir() and path.stat().st_mtime < time.time() - 3600:  # an upload takes less
                    path.unlink(missing_ok=True)
        return freed

    def _make_room(self, size: int) -> None:
        """Keep the spool within its quota after `size` more bytes, oldest unpinned files first."""
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime)
        excess = sum(status.st_size for _, status in files) + size - self.quota_bytes
        if excess > 0 and self._pinned is not None:
            pinned = self._pinned_digests()
            for path, status in files:
                if excess <= 0:
                    break
                if path.name not in pinned:
                    path.unlink(missing_ok=True)
                    excess -= status.st_size
        if excess > 0:
            raise DiskFull(
                f"The media spool would exceed its quota of {self.quota_bytes / 1e9:g} GB by {excess / 1e6:.1f} MB.",
                hint="Delete pictures or sounds you no longer need, or raise serve.media_quota_gb.",
                hint_zh="请删除不再需要的图片或音频，或调高 serve.media_quota_gb。",
                code="media_quota",
            )

    def _pinned_digests(self) -> Container[str]:
        if self._pinned is None:
            raise RuntimeError("MediaSpool.sweep needs the digests that must stay; pass `pinned`.")
        return self._pinned()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                yield path, path.stat()

    def _path(self, digest: str) -> Path:
        return self.directory / digest[:2] / digest


def check_digest(digest: str) -> None:
    """Raise InvalidRequest unless `digest` is 64 lower-case hexadecimal digits."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"{digest[:80]!r} is not a media digest; expected 64 hexadecimal digits.",
            hint="Send the digest that POST /ninestory/v1/media returned.",
            hint_zh="请使用 POST /ninestory/v1/media 返回的摘要。",
            param="digest",
        )


def media_type_of(source: Path | bytes) -> str:
    """The media type by the first bytes of a file or a buffer.

    >>> media_type_of(b"\\x89PNG\\r\\n\\x1a\\n"), media_type_of(b"%PDF-1.7")
    ('image/png', 'application/octet-stream')
    """
    if isinstance(source, bytes):
        head = source[:16]
    else:
        with source.open("rb") as file:
            head = file.read(16)
    for offset, signature, media_type in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return media_type
    return UNKNOWN_MEDIA_TYPE


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The media file is larger than {max_bytes / 1e6:g} MB.",
        hint="Send a smaller file, or raise serve.max_upload_mb.",
        hint_zh="请发送较小的文件，或调高 serve.max_upload_mb。",
        param="file",
    )

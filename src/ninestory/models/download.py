"""Download of one file: resumed with range requests, bounded in size, verified by checksum, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from ninestory.core.errors import Damaged, DiskFull, RemoteFailed
from ninestory.models.hub_http import UNREACHABLE, HubFile, open_url, refuse

ATTEMPTS = 5  # without a new byte; any progress starts the count again
FIRST_PAUSE_SECONDS = 0.25
_CHUNK = 1 << 20


def fetch_file(
    client: httpx.Client, url: str, token: str, file: HubFile, target: Path, report: Callable[[int], None]
) -> None:
    """Download `file` to `target`. An existing `.part` file is resumed, and kept if the download fails.

    Args:
        report: called with the bytes of this file that are there; may raise to stop.

    Raises:
        RemoteFailed: the hub cannot be reached, after several tries. DiskFull: the device took no more.
        Damaged: more bytes than the hub listed, or another sum; the part is deleted.
    """
    if target.is_file() and target.stat().st_size == file.nbytes:  # renamed only after its check
        report(file.nbytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.touch()
    failures = 0
    while (have := part.stat().st_size) < file.nbytes:
        report(have)
        try:
            _append(client, url, token, file, part, report)
        except RemoteFailed as error:
            stuck = part.stat().st_size <= have and failures + 1 >= ATTEMPTS
            if error.code != UNREACHABLE or stuck:
                raise
        if part.stat().st_size > have:
            failures = 0
            continue
        failures += 1
        if failures >= ATTEMPTS:
            raise RemoteFailed(
                f"The hub ends {file.path} at {have} of {file.nbytes} bytes again and again.",
                hint="Run the same command again later; what was fetched is kept.",
                hint_zh="请稍后重新运行同一命令；已下载部分会保留。",
            )
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
    _check(part, file)
    part.replace(target)
    report(file.nbytes)


def _append(
    client: httpx.Client, url: str, token: str, file: HubFile, part: Path, report: Callable[[int], None]
) -> None:
    """Send one request: continue `part` at its end, or restart if the hub does not support ranges."""
    have = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with open_url(client, url, token, headers) as response:
        refuse(response, file.path, bool(token))
        continued = response.status_code == 206 and _first_byte(response) == have
        if response.status_code == 206 and not continued:
            raise Damaged(
                f"The hub returned a different byte range of {file.path} than the one requested.",
                hint="Run the same command again, or use another mirror.",
                hint_zh="请重新运行同一命令，或更换镜像。",
            )
        written = have if continued else 0
        try:
            with part.open("ab" if continued else "wb") as out:
                for (
                    chunk
                ) in response.iter_raw():  # as it arrives: what a larger buffer holds is lost with the connection
                    written += len(chunk)
                    if written > file.nbytes:
                        break
                    out.write(chunk)
                    report(written)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise disk_full(file.nbytes - have, 0) from error
            raise
    if written > file.nbytes:
        part.unlink()
        raise Damaged(
            f"{file.path} is longer than expected; the hub lists {file.nbytes} bytes.",
            hint="Run the same command again, or use another mirror.",
            hint_zh="请重新运行同一命令，或更换镜像。",
            code="wrong_size",
        )


def disk_full(needed_bytes: int, free_bytes: int) -> DiskFull:
    free = f", {free_bytes / 1e6:.0f} MB are free" if free_bytes else ""
    return DiskFull(
        f"The disk has no room: {needed_bytes / 1e6:.0f} MB are still to come{free}.",
        hint="Free some space ('ninestory ls' shows what models take) or set NINESTORY_HOME to another disk, then run "
        "the same command again; what was fetched is kept.",
        hint_zh="请清理磁盘（ninestory ls 可查看模型占用）或将 NINESTORY_HOME 设到其他磁盘，然后重新运行；已下载部分会保留。",
    )


def _first_byte(response: httpx.Response) -> int:
    """First byte of a Content-Range ("bytes 100-199/200"); -1 if the header is missing or malformed."""
    digits = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(digits) if digits.isdigit() else -1


def _check(part: Path, file: HubFile) -> None:
    with part.open("rb") as opened:
        if file.sha256:
            expected, actual = file.sha256, hashlib.file_digest(opened, "sha256").hexdigest()
        elif file.git_sha1:
            digest = hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)
            for chunk in iter(lambda: opened.read(_CHUNK), b""):
                digest.update(chunk)
            expected, actual = file.git_sha1, digest.hexdigest()
        else:
            return
    if actual != expected.lower():
        part.unlink()
        raise Damaged(
            f"{file.path} has the checksum {actual}; expected {expected}, as the hub lists it.",
            hint="Run the same command again (the file was deleted); if the error persists, use another mirror.",
            hint_zh="该文件已删除。请重新运行同一命令；若仍如此，请更换镜像。",
            code="wrong_checksum",
        )

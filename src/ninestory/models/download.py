"""Fetch one file over HTTP: resumed by range, checked by size and sum, renamed only when whole."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ninestory.core.errors import Damaged, DiskFull, Forbidden, NotFound, RemoteFailed, Unauthorized
from ninestory.core.paths import sync_directory

CHUNK, ATTEMPTS, REDIRECTS = 1 << 20, 5, 5


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository. `sha256` is "" where the hub states none (small files not in LFS)."""

    path: str
    url: str
    nbytes: int
    sha256: str = ""


def check_room(directory: Path, wanted: int) -> None:
    """Refuse before the first byte when the disk cannot hold `wanted` bytes.

    Raises:
        DiskFull: with both numbers.
    """
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise DiskFull(
            f"The download needs {wanted / 1e9:.2f} GB and {free / 1e9:.2f} GB are free.",
            hint="Free some space, or set NINESTORY_HOME to another disk.",
            hint_zh="请清理磁盘，或将 NINESTORY_HOME 设到其他磁盘。",
            needed_bytes=wanted,
            free_bytes=free,
        )


def download(
    client: Any, file: RemoteFile, target: Path, headers: dict[str, str], on_bytes: Callable[[int], None]
) -> None:
    """Fetch `file` to `target`. A part that is there already is continued.

    Args:
        client: an httpx.Client that does not follow redirects by itself.
        headers: sent to the first host only, so that a token never reaches another one.
        on_bytes: called with the bytes present so far; may raise to cancel.

    Raises:
        Damaged: size or sum is wrong after a fresh download. RemoteFailed, NotFound, Unauthorized, Forbidden, DiskFull.
    """
    if target.is_file() and target.stat().st_size == file.nbytes and _sum_is_right(target, file):
        on_bytes(file.nbytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    for fresh in (False, True):  # a resumed part may be of another file: then once more from the start
        if fresh:
            part.unlink(missing_ok=True)
        resumed = part.is_file() and part.stat().st_size > 0
        _fetch(client, file, part, headers, on_bytes)
        if part.stat().st_size == file.nbytes and _sum_is_right(part, file):
            part.replace(target)
            sync_directory(target.parent)
            return
        if not resumed:
            break
    part.unlink(missing_ok=True)
    raise Damaged(
        f"{file.path} arrived damaged: its size or sha256 is not what the hub states.",
        hint="Run the same command again; if it stays so, the hub or mirror holds a wrong file.",
        hint_zh="请重新运行同一命令；若仍如此，则该站点的文件有误。",
        code="wrong_checksum",
    )


def _fetch(client: Any, file: RemoteFile, part: Path, headers: dict[str, str], on_bytes: Callable[[int], None]) -> None:
    """Append to `part` until it is whole, trying again from where it broke off."""
    import httpx

    for attempt in range(1, ATTEMPTS + 1):
        have = part.stat().st_size if part.is_file() else 0
        if have == file.nbytes and have:
            return
        try:
            _append(client, file, part, have, headers, on_bytes)
            return
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFull(
                    f"No room left on the disk while writing {file.path}; what came is kept.",
                    hint="Free some space and run the same command again: it goes on from there.",
                    hint_zh="请清理磁盘后重新运行同一命令：将从断点继续。",
                ) from error
            raise
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise RemoteFailed(
                    f"{file.path} broke off {ATTEMPTS} times ({type(error).__name__}); what came is kept.",
                    hint="Run the same command again: it goes on from there.",
                    hint_zh="请重新运行同一命令：将从断点继续。",
                ) from error
            time.sleep(min(0.2 * 2**attempt, 5.0))


def _append(
    client: Any, file: RemoteFile, part: Path, have: int, headers: dict[str, str], on_bytes: Callable[[int], None]
) -> None:
    asked = {**headers, **({"Range": f"bytes={have}-"} if have else {})}
    response = _open(client, file.url, asked)
    try:
        resumes = response.status_code == 206
        with part.open("ab" if resumes else "wb") as out:
            done = have if resumes else 0
            for chunk in response.iter_bytes(CHUNK):
                out.write(chunk)
                done += len(chunk)
                if done > file.nbytes:
                    return  # longer than stated: the check will refuse it
                on_bytes(done)
    finally:
        response.close()


def _open(client: Any, url: str, headers: dict[str, str]) -> Any:
    """Open a stream, following redirects by hand: the token stays with the first host."""
    first = urlsplit(url).netloc
    for _ in range(REDIRECTS + 1):
        sent = headers if urlsplit(url).netloc == first else {k: v for k, v in headers.items() if k == "Range"}
        response = client.send(client.build_request("GET", url, headers=sent), stream=True)
        if response.status_code not in (301, 302, 303, 307, 308):
            if response.is_success:
                return response
            response.close()
            raise refused(response.status_code, url)
        response.close()
        url = urljoin(url, response.headers["location"])
    raise RemoteFailed(f"More than {REDIRECTS} redirects from {first}.")


def refused(status: int, url: str) -> Exception:
    """A hub's refusal as one of our errors."""
    host = urlsplit(url).netloc
    if status == 401:
        return Unauthorized(
            f"{host} asks for a token (401).",
            hint="Set HF_TOKEN to a token of an account that may read this model.",
            hint_zh="请将 HF_TOKEN 设为有权访问该模型的账号的令牌。",
        )
    if status == 403:
        return Forbidden(
            f"{host} refuses access (403): the model is gated, or its licence was not accepted.",
            hint="Accept its licence on the model's page, then set HF_TOKEN.",
            hint_zh="请在模型页面接受许可证，然后设置 HF_TOKEN。",
            code="gated_model",
        )
    if status == 404:
        return NotFound(
            f"{host} does not have it (404).",
            hint="Check the name and the revision.",
            hint_zh="请检查名称与版本。",
            param="model",
        )
    return RemoteFailed(
        f"{host} answered {status}.", hint="Try again later.", hint_zh="请稍后再试。", remote_status=status
    )


def _sum_is_right(path: Path, file: RemoteFile) -> bool:
    if not file.sha256:
        return True
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest() == file.sha256

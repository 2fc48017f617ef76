"""Decryption of BELLE's releases, whose weights are XORed with LLaMA's original file.

A file NAME.SHA256.enc holds the 32 bytes of the plain file's sha256, then the plain bytes XOR the key file, both read
in steps of 10 MiB; a short step of the key is repeated, and the key starts again at its end.
Source of the format: LianjiaTech/BELLE, models/decrypt.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.errors import Conflict, Damaged, InvalidRequest, NotFound
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.stream import FilePart, write_stream

_STEP_BYTES = 10 << 20
_SUM_BYTES = 32
_NAME = re.compile(r"(?P<name>.+)\.[0-9a-f]{64}\.enc")


def decrypt(source: Path, key: Path, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Decrypt one `.enc` file, or all of a folder, into `folder`; returns the files written.

    Existing files with the right checksum are kept, so the same command resumes after a kill.

    Raises:
        NotFound: there is no `.enc` file or no key file. InvalidRequest: a malformed file name, or an empty key file.
        Damaged: the sha256 differs (wrong key). Conflict: the target exists with other content.
    """
    files = [source] if source.is_file() else sorted(source.glob("*.enc")) if source.is_dir() else []
    if not files or not key.is_file():
        raise NotFound(
            f"There is {'no key' if files else 'no .enc file'} at {key if files else source}.",
            hint="Name the folder of the release, and with --key LLaMA's consolidated.00.pth.",
            hint_zh="请指定发布目录，并用 --key 指定 LLaMA 的 consolidated.00.pth。",
        )
    if not key.stat().st_size:
        raise InvalidRequest(f"The key file {key.name} is empty.", hint="Name LLaMA's file.", param="key")
    return [_decrypt_one(file, key, folder, progress or Silent()) for file in files]


def _decrypt_one(file: Path, key: Path, folder: Path, progress: Progress) -> Path:
    matched = _NAME.fullmatch(file.name)
    if matched is None or file.stat().st_size < _SUM_BYTES:
        raise InvalidRequest(
            f"{file.name} is not an encrypted BELLE file; expected a name that ends in .SHA256.enc and at least 32 bytes.",
            hint="Use the published files under their original names.",
            hint_zh="请使用原始发布文件并保留其文件名。",
        )
    with file.open("rb") as opened:
        expected = opened.read(_SUM_BYTES)
    target = folder / matched["name"]
    if target.exists():
        if _sha256(target) != expected:
            raise Conflict(
                f"{target} exists and is another file.", hint="Choose another folder.", hint_zh="请更换目录。"
            )
        return target

    def check(part: Path) -> None:
        if (found := _sha256(part)) != expected:
            raise Damaged(
                f"{file.name} was decrypted with {key.name} to a file of sha256 {found.hex()}, not {expected.hex()}.",
                hint="The key must be LLaMA's file of the same size and version, unchanged.",
                hint_zh="密钥必须是同规模、同版本且未经修改的 LLaMA 文件。",
                code="wrong_key",
            )

    size = file.stat().st_size - _SUM_BYTES
    write_stream(target, b"", [FilePart(matched["name"], size, lambda: _plain(file, key))], progress, finish=check)
    return target


def _plain(file: Path, key: Path) -> Iterator[Any]:
    import numpy as np

    with file.open("rb") as opened, key.open("rb") as keys:
        opened.seek(_SUM_BYTES)
        while step := opened.read(_STEP_BYTES):
            mask = keys.read(_STEP_BYTES)
            if not mask:
                keys.seek(0)
                mask = keys.read(_STEP_BYTES)
            data = np.frombuffer(step, np.uint8)
            yield data ^ np.resize(np.frombuffer(mask, np.uint8), len(data))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

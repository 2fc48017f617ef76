"""`pull`: the only thing that fetches models. Resumable, checked, atomic; two processes share one download."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ninestory.core.config import HubSettings
from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.core.paths import Home, atomic_write, inside
from ninestory.core.progress import Progress
from ninestory.models import hubs
from ninestory.models.catalogue import find
from ninestory.models.download import RemoteFile, check_room, download
from ninestory.models.reference import Reference, parse_reference
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.models.starters import find_starter, pull_starter
from ninestory.models.store import folder_of

# Beside weights: what describes and tokenises a model. Never code.
_KEPT = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".vocab", ".md")


def pull(reference: str | Reference, home: Home, hub: HubSettings, progress: Progress) -> ResolvedModel:
    """Fetch a model and return it resolved.

    Raises:
        NotFound, Unauthorized, Forbidden: what the hub says. Damaged: a wrong sum. DiskFull: no room.
        InvalidRequest: the reference names nothing that can be fetched, or one GGUF of many must be chosen.
    """
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    if ref.scheme == "starter":
        pull_starter(find_starter(ref.source), home, progress)
        return resolve(ref, home)
    scheme, repo, revision = _source(ref)
    target = folder_of(home, ref.base)
    with _alone(home, target):
        if not (target / "pulled.json").is_file():
            _pull(ref, scheme, repo, revision, target, hub, progress)
    return resolve(ref, home)


def _source(ref: Reference) -> tuple[str, str, str]:
    """(hub, repository, revision) of a reference."""
    if ref.scheme in ("hf", "ms"):
        return ref.scheme, ref.source, ref.revision or "main"
    if ref.scheme == "catalogue":
        system = find(ref.source)
        named = [v for v in system.variants if v.name == ref.quant]
        if not named:
            names = ", ".join(f"{system.name}:{v.name}" for v in system.variants if v.hf or v.ms)
            raise InvalidRequest(
                f"{ref} names no variant." if not ref.quant else f"{system.name} has no variant {ref.quant!r}.",
                hint=f"Choose one of: {names or 'none is published'}.",
                hint_zh=f"请选择：{names or '没有公开的变体'}。",
                param="model",
            )
        if not (named[0].hf or named[0].ms):
            raise NotFound(
                f"The catalogue knows no hub id of {ref}.",
                hint="Bring the files yourself: ninestory import PATH --name NAME:VARIANT.",
                hint_zh="请自行准备文件：ninestory import 路径 --name 名称:变体。",
                param="model",
            )
        return ("hf", named[0].hf, ref.revision or "main") if named[0].hf else ("ms", named[0].ms, "master")
    raise InvalidRequest(
        f"{ref} is not something to fetch.",
        hint="Pull NAME:VARIANT, hf:org/name, ms:org/name or starter:name.",
        hint_zh="可下载：名称:变体、hf:组织/名称、ms:组织/名称、starter:名称。",
        param="model",
    )


def _pull(
    ref: Reference, scheme: str, repo: str, revision: str, target: Path, hub: HubSettings, progress: Progress
) -> None:
    """Fetch into a neighbour that no listing shows, then rename it."""
    import httpx

    making = target.with_name(f".pulling-{target.name}")
    with httpx.Client(timeout=httpx.Timeout(hub.timeout, connect=10.0)) as client:
        listing = (hubs.hugging_face if scheme == "hf" else hubs.modelscope)(client, hub, repo, revision)
        files = choose_files(listing.files, ref.quant if ref.scheme != "catalogue" else None, str(ref))
        total = sum(f.nbytes for f in files)
        have = sum(f.stat().st_size for f in making.rglob("*") if f.is_file()) if making.is_dir() else 0
        check_room(making, total - have)
        progress.event("licence", model=str(ref), licence=listing.licence or "not stated")
        before = 0
        for file in files:
            to = inside(making, *PurePosixPath(file.path).parts)

            def on_bytes(present: int, before: int = before, name: str = file.path) -> None:
                progress.update(before + present, total, name)

            download(client, file, to, hubs.headers(hub) if scheme == "hf" else {}, on_bytes)
            before += file.nbytes
            progress.checkpoint({"file": file.path, "bytes": before})
    record = {"model": str(ref), "hub": scheme, "repo": repo, "commit": listing.commit, "licence": listing.licence}
    with atomic_write(making / "pulled.json", "w") as out:
        json.dump(record, out)
    if target.exists():
        raise Damaged(
            f"{target.name} is there already, but was not pulled.",
            hint=f"ninestory rm {ref}",
            hint_zh=f"请先运行：ninestory rm {ref}",
        )
    making.replace(target)


def choose_files(files: list[RemoteFile], quant: str | None, name: str) -> list[RemoteFile]:
    """What is needed of a repository: one form of the weights, and what describes and tokenises them.

    safetensors before pickles; one GGUF of many by its variant; never code.
    """
    safe = [f for f in files if not f.path.startswith(".") and ".." not in PurePosixPath(f.path).parts]
    ggufs = [f for f in safe if f.path.endswith(".gguf")]
    if quant or (ggufs and not any(f.path.endswith((".safetensors", ".bin", ".pth")) for f in safe)):
        chosen = [f for f in ggufs if (quant or "").lower() in f.path.lower()]
        if len(chosen) != 1:
            raise InvalidRequest(
                f"{name} could be {len(chosen)} of {len(ggufs)} GGUF files.",
                hint=f"Add the variant, for example :Q4_K_M. There are: {', '.join(f.path for f in ggufs[:12]) or 'none'}.",
                hint_zh=f"请加上变体，例如 :Q4_K_M。可选：{'、'.join(f.path for f in ggufs[:12]) or '无'}。",
                param="model",
                code="ambiguous_variant",
            )
        return chosen
    for suffixes in ((".safetensors",), (".bin",), (".pth", ".pt")):
        weights = [f for f in safe if f.path.endswith(suffixes) and "/" not in f.path and "training_args" not in f.path]
        if weights:
            break
    else:
        raise NotFound(f"{name} holds no weights in a known form.", param="model")
    indexes = ".bin.index.json" if weights[0].path.endswith(".safetensors") else ".safetensors.index.json"
    described = [f for f in safe if f.path.endswith(_KEPT) and "/" not in f.path and not f.path.endswith(indexes)]
    return [*described, *weights]


@contextmanager
def _alone(home: Home, target: Path) -> Iterator[None]:
    """One process pulls a model; a second waits and finds it done."""
    home.ensure().run_dir.mkdir(exist_ok=True, mode=0o700)
    name = "pull-" + str(target.relative_to(home.models)).replace(os.sep, "-") + ".lock"
    with (home.run_dir / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

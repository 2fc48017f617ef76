"""`pull`: a reference's files from where they are published into the home. The only code that fetches models.

Files come into a hidden folder named by the commit, are checked one by one and verified together; one rename makes
the model. Killed at any moment, the next pull continues the hidden folder and nothing half-written is ever listed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx

from ninestory.core.config import HubSettings
from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.core.locks import waiting_lock
from ninestory.core.paths import Home, atomic_write, inside, sync_directory
from ninestory.core.progress import Progress, Silent
from ninestory.models.download import disk_full, fetch_file
from ninestory.models.hub_files import choose_files
from ninestory.models.hub_hf import HuggingFaceHub
from ninestory.models.hub_http import Hub, HubFile, Listing
from ninestory.models.hub_ms import ModelScopeHub
from ninestory.models.reference import Reference, parse_reference
from ninestory.models.resolve import published, resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.models.starters import find_starter, pull_starter
from ninestory.models.store import NOTE, discard, folder_of
from ninestory.models.verify import verify

SPARE_BYTES = 64 << 20  # left free on the disk


def pull(
    reference: str | Reference, home: Home, hub_settings: HubSettings, progress: Progress | None = None
) -> ResolvedModel:
    """Bring a model and its adapters onto this machine, unless they are here, and resolve it.

    `progress` counts bytes and gets an event "licence" before the first byte of weights.

    Raises:
        InvalidRequest: nothing can be fetched under this kind of reference, or several files fit it.
        NotFound, Unauthorized, Forbidden, Busy, RemoteFailed: as the hub answers, or does not.
        DiskFull: before the first byte when it is foreseen. Damaged: a wrong size or sum, or `verify` refuses a file.
        Cancelled: out of `progress.update`; what was fetched is kept for the next time.
    """
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    progress = progress or Silent()
    check_pullable(ref)
    home.ensure()
    _pull_base(ref.base, home, hub_settings, progress)
    for adapter in ref.adapters:
        if adapter.source.startswith(("hf:", "ms:")):
            _pull_base(parse_reference(adapter.source), home, hub_settings, progress)
    return resolve(ref, home)


def check_pullable(ref: Reference) -> Reference:
    """`ref`, when it can be published somewhere; looks at no file and no network.

    Raises:
        InvalidRequest: a remote or tuned model or a path: there is nothing to fetch; or no such variant, or many.
        NotFound: no such system or starter.
    """
    if ref.scheme in ("openai", "ft", "path"):
        raise InvalidRequest(
            f"{ref} cannot be pulled; expected a name of the catalogue, starter:name, hf:org/name or ms:org/name.",
            hint="A remote model is asked as it is; tuned models and files are on this machine already.",
            hint_zh="远程模型可直接使用；已微调的模型与文件已在本机。",
            param="model",
            code="nothing_to_pull",
        )
    if ref.scheme == "starter":
        find_starter(ref.source)
    else:
        _one_source(ref)
    return ref


def _pull_base(ref: Reference, home: Home, settings: HubSettings, progress: Progress) -> None:
    if ref.scheme == "starter":
        pull_starter(find_starter(ref.source), home, progress)
    elif not _is_here(ref, home):
        _pull_hub(_one_source(ref), home, settings, progress)


def _is_here(ref: Reference, home: Home) -> bool:
    """Whether `ref` resolves without a network. A damaged copy of a hub's model does not count: it is fetched anew."""
    try:
        resolve(ref, home)
    except (NotFound, Damaged):
        return False
    return True


def _one_source(ref: Reference) -> Reference:
    """The hub reference to fetch for `ref`."""
    if ref.scheme in ("hf", "ms"):
        return ref
    sources = published(ref)
    if len({s.source for s in sources if s.scheme == "hf"}) > 1 and not ref.quant:
        from ninestory.models.catalogue import find

        names = [v.name for v in find(ref.source).variants]
        raise InvalidRequest(
            f"{ref} is published in {len(names)} variants.",
            hint=f"Name one: {', '.join(f'{ref.source}:{name}' for name in names)}.",
            hint_zh=f"请指定其一：{'、'.join(f'{ref.source}:{name}' for name in names)}。",
            param="model",
            code="ambiguous_variant",
        )
    if not sources:
        raise InvalidRequest(
            f"{ref} is published on no hub.",
            hint=f"'ninestory show {ref.source}' says where it comes from; then ninestory import PATH --name {ref}.",
            hint_zh=f"运行 ninestory show {ref.source} 查看来源；取得后用 ninestory import 路径 --name {ref} 导入。",
            param="model",
        )
    return sources[0]


def _pull_hub(ref: Reference, home: Home, settings: HubSettings, progress: Progress) -> None:
    """List → choose → check the disk → fetch → verify → rename, one process at a time for one model."""
    target = folder_of(home, ref)
    key = "--".join(target.relative_to(home.models).parts)
    with waiting_lock(
        home.run_dir / f"pull-{key}.lock", lambda: progress.update(0, None, "another process is fetching this model")
    ):
        if _is_here(ref, home):  # the other process brought it
            return
        hub: Hub = HuggingFaceHub(settings) if ref.scheme == "hf" else ModelScopeHub(settings)
        with httpx.Client(timeout=settings.timeout) as client:
            listing = hub.listing(client, ref.source, ref.revision)
            files = choose_files(listing.files, ref.quant, str(ref))
            progress.event("licence", licence=listing.licence or "unknown", model=str(ref))
            part = _part_folder(target, listing.commit)
            _check_disk(part, files)
            _fetch(client, hub, ref, listing, files, part, progress)
        _finish(ref, listing, files, part, target)


def _part_folder(target: Path, commit: str) -> Path:
    """The hidden folder of this commit; those of other commits are dropped."""
    part = target.with_name(f".pulling-{target.name}-{commit.replace('/', '%')[:40]}")
    for other in target.parent.glob(f".pulling-{target.name}-*"):
        if other != part:
            shutil.rmtree(other)
    part.mkdir(parents=True, exist_ok=True)
    return part


def _check_disk(part: Path, files: list[HubFile]) -> None:
    here = sum(f.stat().st_size for f in part.rglob("*") if f.is_file())
    needed = sum(f.nbytes for f in files) - here
    free = shutil.disk_usage(part).free
    if needed + SPARE_BYTES > free:
        raise disk_full(needed, free)


def _fetch(
    client: httpx.Client,
    hub: Hub,
    ref: Reference,
    listing: Listing,
    files: list[HubFile],
    part: Path,
    progress: Progress,
) -> None:
    total, before = sum(f.nbytes for f in files), 0
    for file in files:

        def report(nbytes: int, before: int = before, name: str = file.path) -> None:
            progress.update(before + nbytes, total, name)

        url = hub.file_url(ref.source, listing.commit, file.path)
        fetch_file(client, url, hub.token, file, inside(part, file.path), report)
        before += file.nbytes


def _finish(ref: Reference, listing: Listing, files: list[HubFile], part: Path, target: Path) -> None:
    """Verify the whole, note where it came from, and make it visible by one rename."""
    try:
        verify(part)
    except Damaged:
        shutil.rmtree(part)
        raise
    note = {
        "reference": str(ref),
        "commit": listing.commit,
        "licence": listing.licence,
        "files": {f.path: {"bytes": f.nbytes, "sha256": f.sha256} for f in files},
    }
    with atomic_write(part / NOTE, "w") as out:
        json.dump(note, out, indent=1)
    if target.exists():  # a damaged copy
        discard(target)
    part.rename(target)
    sync_directory(target.parent)

"""Selection of a repository's files: one format of the weights, the configuration, never code."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.models.hub_http import HubFile

_SIDE_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_STANDARD = re.compile(r"(model|pytorch_model|adapter_model|diffusion_pytorch_model)[^/]*\.(safetensors|bin)")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "mmproj")


def choose_files(files: list[HubFile], variant: str | None, what: str) -> list[HubFile]:
    """Choose the files to download.

    A GGUF is one file (or its shards) and needs nothing beside it; otherwise safetensors win over pickles, and the
    small files of the same folders come along. Never scripts, hidden files or paths that leave the folder.

    Raises:
        NotFound: the repository holds no weights.
        InvalidRequest: the variant fits none or several files; the message lists them.
    """
    files = [file for file in files if _is_plain(file.path)]
    pipeline = any(file.path == "model_index.json" for file in files)
    here = [file for file in files if pipeline or "/" not in file.path]
    ggufs = [f for f in files if f.path.endswith(".gguf") and not _is_other(f.path)]
    weights = [] if ggufs and (variant or not _weights(here)) else _weights(here)
    if ggufs and not weights:
        return pick_variant(ggufs, variant, what)
    if not weights:
        raise NotFound(
            f"{what} has no weights; expected .safetensors, .bin, .pth or .gguf files.",
            hint="Check the name; some repositories only hold a licence form or a delta in another format.",
            hint_zh="请检查名称；有的仓库只有说明或其他格式的增量。",
            param="model",
        )
    if variant:
        weights = pick_variant(weights, variant, what)
    elif len(_sets(weights)) > 1 and not pipeline:
        weights = pick_variant(weights, None, what)
    folders = {PurePosixPath(f.path).parent for f in weights}
    side = [f for f in here if _is_side(f.path) and (pipeline or PurePosixPath(f.path).parent in folders)]
    indexes = [f for f in side if f.path.endswith(".index.json") and not _indexes(f.path, weights)]
    return [*(f for f in side if f not in indexes), *weights]


def pick_variant(files: list[HubFile], variant: str | None, what: str) -> list[HubFile]:
    """Pick the file or set of shards that matches the variant, as a whole word, else as a substring."""
    sets = _sets(files)
    if variant:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(variant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        fitting = {n: s for n, s in sets.items() if word.search(n)}
        sets = fitting or {n: s for n, s in sets.items() if variant.lower() in n.lower()}
    if len(sets) == 1:
        return next(iter(sets.values()))
    names = ", ".join(sorted(sets or _sets(files)))
    raise InvalidRequest(
        f"{what} has {'no' if not sets else 'several'} files that fit {variant!r}: {names}."
        if variant
        else f"{what} has several models: {names}.",
        hint="Add one of them as a variant, for example :Q4_K_M.",
        hint_zh="请在名称后加上其中一个变体，例如 :Q4_K_M。",
        param="model",
        code="ambiguous_variant",
    )


def _weights(files: list[HubFile]) -> list[HubFile]:
    """Choose the weights format: safetensors, then .bin, then .pth and .pt; standard names first."""
    for suffixes in ((".safetensors",), (".bin",), (".pth", ".pt")):
        found = [f for f in files if f.path.endswith(suffixes) and not _is_other(f.path)]
        standard = [f for f in found if _STANDARD.fullmatch(PurePosixPath(f.path).name)]
        plain = [f for f in standard if ".fp16." not in f.path]  # a pipeline's half-precision twin
        if found:
            return plain or standard or found
    return []


def _sets(files: list[HubFile]) -> dict[str, list[HubFile]]:
    """Name without shard number → its files."""
    sets: dict[str, list[HubFile]] = {}
    for file in files:
        sets.setdefault(_SHARD.sub("", file.path), []).append(file)
    return sets


def _indexes(index: str, weights: list[HubFile]) -> bool:
    """Whether an index belongs to the chosen form: model.safetensors.index.json to model-…safetensors."""
    name = index.removesuffix(".index.json")
    return any(_SHARD.sub("", f.path) == name for f in weights)


def _is_side(path: str) -> bool:
    return path.endswith(_SIDE_SUFFIXES) or PurePosixPath(path).name.upper().startswith(("LICENSE", "NOTICE"))


def _is_other(path: str) -> bool:
    return PurePosixPath(path).name.lower().startswith(_NO_WEIGHTS) or "mmproj" in path.lower()


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return all(p and not p.startswith(".") and "\\" not in p and "\0" not in p for p in parts) and not path.endswith(
        (".py", ".part")
    )

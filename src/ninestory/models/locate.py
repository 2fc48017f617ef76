"""From a reference to the file or folder that it names: the home, other tools' caches, installed packages."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.json_file import read_json
from ninestory.core.paths import Home
from ninestory.models import hub_cache
from ninestory.models.reference import Adapter, Reference, Scheme, parse_reference
from ninestory.models.store import folder_of

_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


def find_model(ref: Reference, home: Home) -> Path:
    """The file or directory that `ref` names."""
    if ref.scheme == "path":
        path = Path(ref.source).expanduser()
        if not path.exists():
            raise NotFound(
                f"There is nothing at {ref.source}.",
                hint="Check the path; a catalogue name has no '/' or '.' in front.",
                hint_zh="请检查路径；目录中的名称前没有“/”或“.”。",
                param="model",
            )
        return path.resolve()
    if ref.scheme == "ft":
        run = tuned_folder(ref, home)
        return run / "model" if (run / "model").is_dir() else run
    if ref.scheme == "catalogue" and (blob := hub_cache.ollama_file(ref.source, ref.quant)):
        return blob  # a name of Ollama's, with its tag
    for path in _candidates(ref, home):
        if path.is_dir():
            return path
    raise NotFound(
        f"{ref} is not on this machine.",
        hint=f"ninestory pull {ref}",
        hint_zh=f"请运行：ninestory pull {ref}",
        param="model",
        code="model_not_installed",
    )


def _candidates(ref: Reference, home: Home) -> list[Path]:
    """Where a model may lie: imported under its catalogue name, pulled, or in the Hugging Face cache."""
    if ref.scheme == "catalogue":
        from ninestory.models.catalogue import find

        name = find(ref.source).name
        directory = home.models / "catalogue" / name
        imported = [directory / ref.quant] if ref.quant else _visible(directory)
        if any(path.is_dir() for path in imported):
            return imported
        return [path for source in published(ref) for path in _candidates(source, home)]
    ours = [folder_of(home, ref)]
    if not ref.quant:  # one pulled variant answers for the repository; several do not
        name = ours[0].name
        variants = [p for p in _visible(ours[0].parent) if p.name.startswith(f"{name}+")]
        if len(variants) > 1 and not ours[0].is_dir():
            raise _ambiguous(ref, [p.name.partition("+")[2] for p in variants])
        ours += variants
    else:
        plain = folder_of(home, replace(ref, quant=None))
        ours += [plain] if _fitting(sorted(plain.glob("*.gguf")), ref.quant) else []
    if ref.scheme == "hf" and (cached := hub_cache.hugging_face_snapshot(ref.source, ref.revision)):
        ggufs = sorted(cached.glob("*.gguf"))
        if not ref.quant or _fitting(ggufs, ref.quant):
            ours.append(cached)
    return ours


def published(ref: Reference) -> list[Reference]:
    """Where a catalogue name's files are published, hub by hub, for the variant asked for or the only one.

    Raises:
        InvalidRequest: the system has no such variant. NotFound: it has no such system.
    """
    from ninestory.models.catalogue import find

    system = find(ref.source)
    fitting = [v for v in system.variants if ref.quant in (None, v.name)]
    if not fitting:
        raise InvalidRequest(
            f"{system.name} has no variant {ref.quant!r}.",
            hint=f"Variants: {', '.join(v.name for v in system.variants)}.",
            hint_zh=f"可选变体：{'、'.join(v.name for v in system.variants)}。",
            param="model",
        )
    sources = []
    for variant in fitting:
        # a repository of GGUF files or of RWKV's lone .pth files holds many models
        one_of_many = variant.quant if variant.format == "gguf" else variant.name if system.family == "rwkv" else ""
        ids: tuple[tuple[Scheme, str], ...] = (("hf", variant.hf), ("ms", variant.ms))
        sources += [Reference(scheme, repo, one_of_many or None, ref.revision) for scheme, repo in ids if repo]
    return sources


def _visible(directory: Path) -> list[Path]:
    return [p for p in sorted(directory.iterdir()) if p.name[0] != "."] if directory.is_dir() else []


def tuned_folder(ref: Reference, home: Home) -> Path:
    """A tuned model by its alias: the run folder that registered it."""
    for note in home.runs.glob("*/ninestory.json"):
        if read_json(note).get("alias") == f"ft:{ref.source}":
            return note.parent
    raise NotFound(
        f"No tuned model is called ft:{ref.source}.",
        hint="'ninestory ls' shows the tuned models.",
        hint_zh="运行 ninestory ls 查看已微调的模型。",
        param="model",
    )


def adapter_path(adapter: Adapter, home: Home) -> Path:
    places = [Path(adapter.source).expanduser()]
    if _ADAPTER_NAME.fullmatch(adapter.source):
        places.insert(0, home.runs / adapter.source / "adapter")
    elif adapter.source.startswith(("hf:", "ms:")):
        places = [p for p in _candidates(parse_reference(adapter.source), home) if p.is_dir()]
    for path in places:
        if (path / "adapter_config.json").is_file():
            return path.resolve()
    raise NotFound(
        f"There is no adapter {adapter.source!r}: no run of that name and no folder with adapter_config.json.",
        hint="Name a run, a folder or hf:ORG/NAME that was pulled; 'ninestory ls' shows what is installed.",
        hint_zh="请写运行名、文件夹，或已拉取的 hf:组织/名称；运行 ninestory ls 查看已安装的内容。",
        param="model",
    )


def pick_file(files: list[Path], ref: Reference) -> Path:
    """The one GGUF that the variant names; the first shard stands for all of a split one."""
    variant = ref.quant if ref.scheme in ("hf", "ms") else None  # elsewhere the variant chose the folder
    fitting = _fitting(files, variant)
    if len(fitting) == 1:
        return fitting[0]
    raise _ambiguous(ref, [f.name for f in files])


def _fitting(files: list[Path], variant: str | None) -> list[Path]:
    """Files whose name holds the variant (if any) as a whole word, else as a part; of shards only the first."""
    files = [f for f in files if not _LATER_SHARD.search(f.name)]
    if not variant:
        return files
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(variant)}(?![A-Za-z0-9_])", re.IGNORECASE)
    return [f for f in files if word.search(f.name)] or [f for f in files if variant.lower() in f.name.lower()]


def _ambiguous(ref: Reference, names: list[str]) -> InvalidRequest:
    return InvalidRequest(
        f"{ref} could be any of these: {', '.join(names)}.",
        hint="Add the variant, for example :Q4_K_M, or name the file.",
        hint_zh="请加上变体，例如 :Q4_K_M，或直接指定文件。",
        param="model",
        code="ambiguous_variant",
    )

"""From a reference to verified files on this machine. Never touches the network: fetching is `models/pull.py`."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import Damaged, InvalidRequest, NotFound, Unsupported
from ninestory.core.json_file import read_json
from ninestory.core.paths import Home
from ninestory.models import hub_cache
from ninestory.models.convert.sentence_encoder import is_sentence_encoder, sentence_encoder_folder
from ninestory.models.reference import Adapter, Reference, Scheme, parse_reference
from ninestory.models.resolved import ResolvedAdapter, ResolvedModel
from ninestory.models.starters import find_starter, starter_file
from ninestory.models.store import NOTE, folder_of
from ninestory.models.verify import verify

_EMBEDDING_ARCHITECTURES = {"bert", "nomic-bert", "jina-bert-v2", "xlm-roberta"}
_STARTER_VARIANTS = {"gguf": ("q8_0",), "e5": ("int8", "fp32")}
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_LOST_COPY = "trained by QLoRA on a 4-bit copy of this base that is gone from the cache: answers on these weights differ a little"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt")


def resolve(reference: str | Reference, home: Home) -> ResolvedModel:
    """Find the files of a model and what is known about them.

    Raises:
        NotFound: the model is not on this machine; the hint is the command that brings it.
        InvalidRequest: the reference is malformed or picks none or many of several files.
        Damaged: a file does not pass `verify`.
    """
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    if ref.scheme == "openai":
        return _remote(ref)
    if ref.scheme == "ft" and (adapted := _adapted_base(ref, home)):
        return adapted
    model = _starter(ref, home) if ref.scheme == "starter" else _with_licence(_from_path(ref, _find(ref, home), home))
    return _with_adapters(_as_tuned(model) if ref.scheme == "ft" else model, ref.adapters, home)


def _adapted_base(ref: Reference, home: Home) -> ResolvedModel | None:
    """A tuned model that is an adapter: its base with that adapter, asked in the format that it was trained in.

    None for one that is a whole model (full tuning, freeze, or a folder of somebody else's with an alias). What QLoRA
    trained stands on the 4-bit copy that it was trained on: on the original weights its answers would differ.
    """
    run = _tuned(ref, home)
    note = read_json(run / "ninestory.json")
    if "base" not in note or (run / "model").is_dir():
        return None
    base, copy = parse_reference(str(note["base"])), home.cache / "nf4" / str(note.get("base_fingerprint", ""))
    packed = _method(note) == "qlora" and copy.is_dir() and "base_fingerprint" in note
    adapters = (*base.adapters, Adapter(str(run / "adapter")), *ref.adapters)
    model = resolve(replace(Reference("path", str(copy)) if packed else base, adapters=adapters), home)
    if _method(note) == "qlora" and not packed and not _is_packed(model):
        model = replace(model, notes=[*model.notes, _LOST_COPY])
    named = [replace(a, name=run.name) if a.path == (run / "adapter").resolve() else a for a in model.adapters]
    return replace(model, reference=str(ref), adapters=named, template=str(note["template"]) or model.template)


def _as_tuned(model: ResolvedModel) -> ResolvedModel:
    """A wholly tuned model in the format that it was trained in, as the note in its folder says."""
    assert model.path is not None
    note = read_json(model.path / "ninestory.json")
    template = str(note.get("template", ""))
    return replace(model, template=template, rendered=str(note.get("rendered", ""))) if template else model


def _method(note: dict[str, Any]) -> str:
    """By which method a run was trained, as its note says."""
    recipe = note.get("recipe")
    method = recipe.get("method") if isinstance(recipe, dict) else None
    return str(method.get("name", "")) if isinstance(method, dict) else ""


def _is_packed(model: ResolvedModel) -> bool:
    """Whether the checkpoint itself holds 4-bit linears."""
    return model.format == "safetensors" and bool(model.path and read_config(model.path).get("quantization_config"))


def _find(ref: Reference, home: Home) -> Path:
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
        run = _tuned(ref, home)
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


def _tuned(ref: Reference, home: Home) -> Path:
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


def _starter(ref: Reference, home: Home) -> ResolvedModel:
    starter = find_starter(ref.source)
    variants = _STARTER_VARIANTS.get(starter.format, ())
    if ref.quant and ref.quant.lower() not in variants:
        raise InvalidRequest(
            f"starter:{starter.name} has no variant {ref.quant!r}.",
            hint=f"Leave it out{' or write ' + ' or '.join(variants) if variants else ''}.",
            hint_zh=f"请去掉变体{'，或写 ' + ' 或 '.join(variants) if variants else ''}。",
            param="model",
        )
    path = starter_file(starter, home)
    if starter.format == "e5":
        from ninestory.models.convert.e5_onnx import e5_onnx_folder

        precision = ref.quant.lower() if ref.quant else "int8"
        model = _onnx(ref, e5_onnx_folder(path, starter.sha256, home, precision))
    elif starter.format == "gguf":
        if ref.quant:
            from ninestory.models.convert.requantize import requantized

            path = requantized(path, starter.sha256, home)
        model = _gguf(ref, path)
    else:
        model = ResolvedModel(
            reference=str(ref),
            path=path.parent,
            format="ctranslate2" if starter.format == "ctranslate2" else "onnx",
            architecture=starter.name,
            task="other",
            context=0,
            total_bytes=starter.nbytes,
        )
    return replace(
        model, sha256=starter.sha256, licence=starter.licence, notes=[starter.provenance, starter.provenance_zh]
    )


def _from_path(ref: Reference, path: Path, home: Home) -> ResolvedModel:
    """A file or a checkpoint directory, by what is in it."""
    if path.is_file():
        if path.suffix == ".gguf" or _starts_with(path, b"GGUF"):
            return _gguf(ref, path)
        if path.suffix in (".pth", ".pt", ".bin", ".safetensors"):
            return _single_file(ref, path)
        raise InvalidRequest(
            f"{path.name} is not a model file: .gguf, .safetensors, .pth and .bin are known.",
            hint="Name the model's file or its directory.",
            hint_zh="请指定模型文件或其所在目录。",
            param="model",
        )
    if (path / "ninestory.json").is_file() and (path / "model.onnx").is_file():
        return _onnx(ref, path)
    if ggufs := sorted(path.glob("*.gguf")):
        return _gguf(ref, _pick(ggufs, ref))
    if not (path / "config.json").is_file() and (releases := sorted(path.glob("*.pth"))):
        return _single_file(ref, _pick(releases, ref))
    return _directory(ref, path, home)


def _pick(files: list[Path], ref: Reference) -> Path:
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


def _gguf(ref: Reference, path: Path) -> ResolvedModel:
    from ninestory.models.gguf_reader import read_gguf

    verify(path)
    header = read_gguf(path)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="gguf",
        architecture=header.architecture,
        task=_gguf_task(header.architecture, header.field("pooling_type")),
        context=int(header.field("context_length", 2048)),
        total_bytes=path.stat().st_size,
        licence=str(header.metadata.get("general.license", "")),
        template="checkpoint" if "tokenizer.chat_template" in header.metadata else "",
        system=ref.source if ref.scheme == "catalogue" else None,
    )


def _gguf_task(architecture: str, pooling: Any) -> Literal["chat", "embedding", "rerank"]:
    from ninestory.models.gguf_semantics import POOLING_RANK

    if architecture not in _EMBEDDING_ARCHITECTURES:
        return "chat"
    return "rerank" if pooling == POOLING_RANK else "embedding"


def _single_file(ref: Reference, path: Path) -> ResolvedModel:
    """A lone weights file: only RWKV releases are one. Its keys say the version, its vocabulary the prompt format."""
    from ninestory.models.rwkv_release import chat_template, detect_version, shapes_of

    verify(path)
    shapes = shapes_of(path)
    version = detect_version(shapes)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="safetensors" if path.suffix == ".safetensors" else "pickle",
        architecture="rwkv",
        task="chat",
        context=4096,
        total_bytes=path.stat().st_size,
        system=ref.source if ref.scheme == "catalogue" else None,
        template=chat_template(shapes["emb.weight"][0]),
        notes=[f"RWKV-{version} by the names of its tensors"],
    )


def _onnx(ref: Reference, path: Path) -> ResolvedModel:
    described = json.loads((path / "ninestory.json").read_text())
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="onnx",
        architecture=described["architecture"],
        task=described.get("task", "embedding"),
        context=described["positions"],
        total_bytes=(path / "model.onnx").stat().st_size,
    )


def _directory(ref: Reference, path: Path, home: Home) -> ResolvedModel:
    """A checkpoint directory in Hugging Face's layout. `auto_map` is never followed."""
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return _adapter_folder(ref, path)
    config = read_config(path)
    weights = [file for pattern in _WEIGHTS for file in sorted(path.glob(pattern))]
    safetensors = [file for file in weights if file.suffix == ".safetensors"]
    if not weights:
        raise Damaged(
            f"{path} holds a config.json but no weights.",
            hint="Complete the download (ninestory pull).",
            hint_zh="请补全下载（ninestory pull）。",
        )
    verify(path)
    if is_sentence_encoder(config):
        return _onnx(ref, sentence_encoder_folder(path, config, home))
    architectures = config.get("architectures") or [config.get("model_type", "unknown")]
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="safetensors" if safetensors else "pickle",
        architecture=str(config.get("model_type", architectures[0])),
        task="chat",
        context=int(
            config.get("max_position_embeddings")
            or config.get("max_sequence_length")
            or config.get("n_positions")
            or 2048
        ),
        total_bytes=sum(file.stat().st_size for file in safetensors or weights),
        system=ref.source if ref.scheme == "catalogue" else None,
        notes=["its auto_map is not followed: no remote code"] if "auto_map" in config else [],
    )


def _adapter_folder(ref: Reference, path: Path) -> ResolvedModel:
    """A lone adapter: it can be pulled, listed and verified, and runs only as `BASE+ADAPTER`."""
    report = verify(path)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="safetensors" if any(path.glob("*.safetensors")) else "pickle",
        architecture="adapter",
        task="other",
        context=0,
        total_bytes=report.nbytes,
        system=ref.source if ref.scheme == "catalogue" else None,
        notes=[f"an adapter: use it as BASE+{ref}"],
    )


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint directory.

    Raises:
        NotFound: there is none. Damaged: it is no JSON object.
    """
    file = path / "config.json"
    if not file.is_file():
        raise NotFound(
            f"{path} is not a checkpoint: it has no config.json and no .gguf file.",
            hint="Name the directory that holds config.json, or the .gguf file itself.",
            hint_zh="请指定包含 config.json 的目录，或 .gguf 文件本身。",
            param="model",
        )
    return read_json(file)


def _remote(ref: Reference) -> ResolvedModel:
    if ref.adapters:
        raise Unsupported(f"A remote model takes no adapters: {ref}.", param="model")
    return ResolvedModel(
        reference=str(ref),
        path=None,
        format="remote",
        architecture="remote",
        task="chat",
        context=128_000,
        endpoint=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    )


def _with_licence(model: ResolvedModel) -> ResolvedModel:
    """The licence that the hub stated when the model was pulled, where the files themselves state none."""
    assert model.path is not None
    note = (model.path if model.path.is_dir() else model.path.parent) / NOTE
    if model.licence or not note.is_file():
        return model
    return replace(model, licence=str(json.loads(note.read_text(encoding="utf-8"))["licence"]))


def _with_adapters(model: ResolvedModel, adapters: tuple[Adapter, ...], home: Home) -> ResolvedModel:
    """With the adapters, and asked in the format that they were trained in, as each one's own note says."""
    found = [ResolvedAdapter(name=a.source, path=_adapter_path(a, home), weight=a.weight) for a in adapters]
    if twice := [a.name for i, a in enumerate(found) if a.path in {b.path for b in found[:i]}]:
        raise InvalidRequest(
            f"The adapter {twice[0]} is named twice in {model.reference}.",
            hint="Name it once, with the sum of its weights.",
            hint_zh="请只写一次，权重取两者之和。",
            param="model",
        )
    notes = [read_json(adapter.path / "ninestory.json") for adapter in found]
    formats = {str(note["template"]): str(note.get("rendered", "")) for note in notes if note.get("template")}
    if not formats:
        return replace(model, adapters=found) if found else model
    (template, rendered), *others = formats.items()
    said = [f"the adapters were trained in {', '.join(formats)}: asked in {template}"] if others else []
    return replace(model, adapters=found, template=template, rendered=rendered, notes=[*model.notes, *said])


def _adapter_path(adapter: Adapter, home: Home) -> Path:
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


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic

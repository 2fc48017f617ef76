"""What lies at a path → a `ResolvedModel`: the kind of model by `kinds/`, the rest by its header or config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, InvalidRequest, NotFound
from ninestory.core.json_file import read_json
from ninestory.core.paths import Home
from ninestory.models import kinds
from ninestory.models.convert.sentence_encoder import sentence_encoder_folder
from ninestory.models.kinds.contents import ModelKind, contents_of, ctranslate2_files, is_gguf, is_pipeline
from ninestory.models.kinds.text import CHAT, gguf_tasks
from ninestory.models.locate import pick_file
from ninestory.models.reference import Reference
from ninestory.models.resolved import ResolvedModel
from ninestory.models.verify import PICKLE_SUFFIXES, verify


def model_at(ref: Reference, path: Path, home: Home) -> ResolvedModel:
    """The model in a file or a folder.

    Raises:
        Unsupported: it is of no known kind; what was looked for is listed.
        InvalidRequest: several files could be meant. Damaged: a file does not pass `verify`. NotFound: no model there.
    """
    if path.is_dir():
        return _folder(ref, path, home)
    if is_gguf(path):
        return _gguf(ref, path)
    if path.suffix not in PICKLE_SUFFIXES and path.suffix != ".safetensors":
        raise InvalidRequest(
            f"{path.name} is not a model file: .gguf, .safetensors, {', '.join(PICKLE_SUFFIXES)} are known.",
            hint="Name the model's file or its directory.",
            hint_zh="请指定模型文件或其所在目录。",
            param="model",
        )
    return _weights_file(ref, path)


def _folder(ref: Reference, path: Path, home: Home) -> ResolvedModel:
    if (path / "ninestory.json").is_file() and (path / "model.onnx").is_file():
        return _onnx(ref, path)
    if ggufs := sorted(path.glob("*.gguf")):
        return _gguf(ref, pick_file(ggufs, ref))
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return _adapter_folder(ref, path)
    return _checkpoint(ref, path, home)


def _weights_file(ref: Reference, path: Path) -> ResolvedModel:
    """A lone file of tensors; their names say what it is."""
    report = verify(path)
    kind = kinds.describe(path)
    return _rwkv(ref, path) if kind.family == "rwkv" else _of_kind(ref, path, kind, report.nbytes)


def _gguf(ref: Reference, path: Path) -> ResolvedModel:
    from ninestory.models.gguf_reader import read_gguf

    verify(path)
    header = read_gguf(path)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="gguf",
        architecture=header.architecture,
        tasks=gguf_tasks(header.architecture, header.field("pooling_type")),
        context=int(header.field("context_length", 2048)),
        total_bytes=path.stat().st_size,
        licence=str(header.metadata.get("general.license", "")),
        template="checkpoint" if "tokenizer.chat_template" in header.metadata else "",
        system=ref.source if ref.scheme == "catalogue" else None,
    )


def _rwkv(ref: Reference, path: Path) -> ResolvedModel:
    """A lone file of an RWKV release. Its keys say the version, its vocabulary the prompt format."""
    from ninestory.models.rwkv_release import chat_template, detect_version, shapes_of

    shapes = shapes_of(path)
    version = detect_version(shapes)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="safetensors" if path.suffix == ".safetensors" else "pickle",
        architecture="rwkv",
        tasks=CHAT,
        context=4096,
        total_bytes=path.stat().st_size,
        system=ref.source if ref.scheme == "catalogue" else None,
        template=chat_template(shapes["emb.weight"][0]),
        notes=[f"RWKV-{version} by the names of its tensors"],
    )


def _onnx(ref: Reference, path: Path) -> ResolvedModel:
    """A folder with an encoder's graph, as `models/convert` writes it."""
    kind = kinds.describe(path)
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format="onnx",
        architecture=kind.family,
        tasks=kind.tasks,
        context=read_json(path / "ninestory.json")["positions"],
        total_bytes=(path / "model.onnx").stat().st_size,
    )


def _checkpoint(ref: Reference, path: Path, home: Home) -> ResolvedModel:
    """A folder of weights, mostly with a config.json beside them. `auto_map` is never followed."""
    contents = contents_of(path)
    if not (contents.weights or ctranslate2_files(path) or is_pipeline(path)):
        read_config(path)
        raise Damaged(
            f"{path} holds a config.json but no weights.",
            hint="Complete the download (ninestory pull).",
            hint_zh="请补全下载（ninestory pull）。",
        )
    kind = kinds.describe(path)
    if kind.family == "rwkv" and not contents.config:
        return _weights_file(ref, pick_file(contents.weights, ref))
    nbytes = verify(path).nbytes
    if kind.format == "onnx":
        return _onnx(ref, sentence_encoder_folder(path, dict(contents.config), home))
    return _of_kind(ref, path, kind, nbytes)


def _of_kind(ref: Reference, path: Path, kind: ModelKind, nbytes: int) -> ResolvedModel:
    config = contents_of(path).config
    context = 0
    if "chat" in kind.tasks:
        sizes = (config.get(key) for key in ("max_position_embeddings", "max_sequence_length", "n_positions"))
        context = int(next((size for size in sizes if size), 2048))
    return ResolvedModel(
        reference=str(ref),
        path=path,
        format=kind.format,
        architecture=kind.family,
        tasks=kind.tasks,
        context=context,
        total_bytes=nbytes,
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
        tasks=(),
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

"""From a resolved model to an engine: pick the runtime, say which and why, load it.

The one way to get an engine: the command line, the library and `serving/worker.py` call `load_engine`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Unsupported
from ninestory.core.extras import require
from ninestory.core.tasks import VERBS
from ninestory.models.adapter_base import check_adapter_bases
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import Engine

RuntimeName = Literal["llamacpp", "torch", "onnx", "remote"]


def choose_runtime(model: ResolvedModel, settings: RuntimeSettings) -> RuntimeName:
    """A `.gguf` → llama.cpp; an embedding model in ONNX form → onnx; a remote one → remote; else torch.

    Raises:
        Unsupported: the model is of another floor (speech, pictures) or an adapter alone, or `settings.runtime` names
            a runtime that cannot open these files.
    """
    if not {"chat", "embedding", "rerank"} & set(model.tasks):
        verb = f"'ninestory {VERBS[model.tasks[0]]}'" if model.tasks else "BASE+ADAPTER"
        raise Unsupported(
            f"{model.reference} ({model.architecture}) is for {', '.join(model.tasks) or 'use on a base'}; "
            "no runtime here opens it.",
            hint=f"It is used by {verb}.",
            hint_zh=f"请通过 {verb} 使用。",
            param="model",
        )
    natural: RuntimeName = {"gguf": "llamacpp", "onnx": "onnx", "remote": "remote"}.get(model.format, "torch")  # type: ignore[assignment]
    if settings.runtime and settings.runtime != natural:
        raise Unsupported(
            f"The runtime {settings.runtime!r} cannot open {model.reference} ({model.format} files).",
            hint=f"Leave --runtime out: {natural} opens them.",
            hint_zh=f"去掉 --runtime：{natural} 可以打开这些文件。",
            param="runtime",
        )
    return natural


def load_engine(model: ResolvedModel, settings: RuntimeSettings) -> Engine:
    """Load `model` in this process. Heavy modules are imported here, by the runtime that needs them.

    Raises:
        Conflict: one of its adapters was trained on another base. Unsupported: see `choose_runtime`.
    """
    runtime = choose_runtime(model, settings)
    model = replace(model, notes=[*model.notes, *check_adapter_bases(model)])
    if runtime == "llamacpp":
        from ninestory.runtimes.llamacpp import LlamaCppEngine

        return LlamaCppEngine(model, settings)
    if runtime == "onnx" and model.task == "rerank":
        from ninestory.runtimes.onnx_reranker import OnnxReranker

        return OnnxReranker(model, settings)
    if runtime == "onnx":
        from ninestory.runtimes.onnx import OnnxEmbeddingEngine

        return OnnxEmbeddingEngine(model, settings)
    if runtime == "remote":
        from ninestory.runtimes.remote import RemoteEngine

        return RemoteEngine(model, settings)
    from ninestory.runtimes.torch.environment import prepare

    if not settings.fast:
        prepare()
    require("torch", "torch", "Running checkpoints in their original layout")
    from ninestory.runtimes.torch.open import open_engine

    return open_engine(model, settings)

"""Embedding models by ONNX Runtime, without torch: one text a run, no padding, unit vectors.

Opens the folders that `models/convert/e5_onnx.py` describes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, ContextOverflow, Damaged, InvalidRequest, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.protocol import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Request,
    TokenizeRequest,
    Tokens,
)
from ninestory.runtimes.threads import free_processors


class OnnxEmbeddingEngine:
    """One sentence encoder."""

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        if model.path is None:
            raise Unsupported(f"{model.reference} has no folder to open.")
        described = _description(model.path)
        self._prefixes = {"": "", "query": described["query_prefix"], "passage": described["passage_prefix"]}
        self._tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
        self._vocabulary = self._tokenizer.get_vocab_size()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads or free_processors()
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(model.path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.info = EngineInfo(
            model=model.reference,
            runtime="onnx",
            architecture=model.architecture,
            tasks=["embedding", "tokenize"],
            context=described["positions"],
            slots=1,
            threads=options.intra_op_num_threads,
            notes=model.notes,
        )

    def run(self, request: Request, cancel: threading.Event) -> Iterator[Chunk]:
        if isinstance(request, EmbeddingRequest):
            return self._embed(request, cancel)
        if isinstance(request, TokenizeRequest) and request.text is not None:
            return self._tokenize(request.text)
        raise Unsupported(
            f"{self.info.model} is an embedding model and cannot answer {request.kind!r} requests.",
            hint="Name a chat model.",
            hint_zh="请指定对话模型。",
            param="model",
        )

    def close(self) -> None:
        self._session = None

    def _embed(self, request: EmbeddingRequest, cancel: threading.Event) -> Iterator[Chunk]:
        import numpy as np

        vectors, tokens = [], 0
        inputs: list[str | list[int]] = [*request.inputs]
        for i, text in enumerate(inputs):
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            ids = self._ids(text, request.role)
            if not 0 < len(ids) <= self.info.context:
                raise ContextOverflow(
                    f"Input {i} has {len(ids)} tokens; {self.info.model} takes 1 to {self.info.context}.",
                    hint="Split it into shorter pieces.",
                    hint_zh="请将其切成较短的片段。",
                    param="input",
                    prompt_tokens=len(ids),
                    context=self.info.context,
                )
            tokens += len(ids)
            vectors.append(self._session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})[0][0].tolist())
        yield Embeddings(vectors=vectors, prompt_tokens=tokens)

    def _ids(self, given: str | list[int], role: str) -> list[int]:
        if isinstance(given, str):
            ids: list[int] = self._tokenizer.encode(self._prefixes[role] + given).ids
            return ids
        if role:
            raise Unsupported(
                f"Token ids as input take no {role} prefix.",
                hint="Send text, or leave input_type out.",
                hint_zh="请发送文本，或去掉 input_type。",
                param="input_type",
            )
        if wrong := [i for i in given if not 0 <= i < self._vocabulary]:
            raise InvalidRequest(
                f"{wrong[0]} is not a token id; {self.info.model} has 0 to {self._vocabulary - 1}.", param="input"
            )
        return given

    def _tokenize(self, text: str) -> Iterator[Chunk]:
        encoded = self._tokenizer.encode(text)
        yield Tokens(ids=encoded.ids, pieces=encoded.tokens)


def _description(folder: Path) -> dict[str, Any]:
    """`ninestory.json` of the folder.

    Raises:
        Damaged: it cannot be read, or lacks what the engine needs.
    """
    try:
        described = json.loads((folder / "ninestory.json").read_text(encoding="utf-8"))
        for key, kind in (("positions", int), ("query_prefix", str), ("passage_prefix", str)):
            if not isinstance(described[key], kind):
                raise TypeError(f"{key} is {described[key]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{folder.name}/ninestory.json cannot be used: {error!r}.",
            hint="Remove the folder and load the model again.",
            hint_zh="请删除该文件夹后重新加载模型。",
        ) from error
    return dict(described)

"""Embedding models by ONNX Runtime, without torch: one text a run, no padding, unit vectors.

Opens the folders that `models/convert/e5_onnx.py` describes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, ContextOverflow, Unsupported
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
        described = json.loads((model.path / "ninestory.json").read_text())
        self._prefixes = {"": "", "query": described["query_prefix"], "passage": described["passage_prefix"]}
        self._tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
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

        prefix = self._prefixes[request.role]
        vectors, tokens = [], 0
        for i, text in enumerate(request.inputs):
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            ids = self._tokenizer.encode(prefix + text).ids if isinstance(text, str) else text
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

    def _tokenize(self, text: str) -> Iterator[Chunk]:
        encoded = self._tokenizer.encode(text)
        yield Tokens(ids=encoded.ids, pieces=encoded.tokens)

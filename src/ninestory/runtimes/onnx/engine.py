"""Embedding models by ONNX Runtime, without torch: one text a run, no padding, unit vectors.

Opens the folders that `models/convert/e5_onnx.py` and `sentence_encoder.py` make. A model that gives the vectors of
its tokens too reranks by late interaction (MaxSim, Khattab and Zaharia 2020); `reranker.py` has cross-encoders.
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
from ninestory.runtimes.dispatch import Handler, dispatch
from ninestory.runtimes.protocol import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    Engine,
    EngineInfo,
    Feed,
    Relevance,
    Request,
    RerankRequest,
    TokenizeRequest,
    Tokens,
)
from ninestory.runtimes.threads import free_processors

_MAXSIM_SHARE = (
    0.7  # the rest is the cosine of the whole texts; chosen by measurement (benchmarks/results/retrieval.md)
)


class OnnxEmbeddingEngine:
    """One sentence encoder."""

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        described, self._tokenizer, self._session, threads = open_folder(model, settings)
        self._prefixes = {"": "", "query": described["query_prefix"], "passage": described["passage_prefix"]}
        self._vocabulary = self._tokenizer.get_vocab_size()
        gives_tokens = any(output.name == "token_vectors" for output in self._session.get_outputs())
        self._context: int = described["positions"]
        self.info = EngineInfo(
            model=model.reference,
            runtime="onnx",
            architecture=model.architecture,
            tasks=["embedding", "rerank"] if gives_tokens else ["embedding"],
            tokenizes=True,
            context=self._context,
            slots=1,
            threads=threads,
            notes=model.notes,
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        handlers: dict[str, Handler] = {"embedding": self._embed, "rerank": self._rerank, "tokenize": self._tokenize}
        return dispatch(self, handlers, request, cancel, feed)

    def close(self) -> None:
        self._session = None

    def _embed(self, request: EmbeddingRequest, cancel: threading.Event) -> Iterator[Chunk]:
        vectors, tokens = [], 0
        inputs: list[str | list[int]] = [*request.inputs]
        for i, text in enumerate(inputs):
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            ids = self._ids(text, request.role)
            if not 0 < len(ids) <= self._context:
                raise ContextOverflow(
                    f"Input {i} has {len(ids)} tokens; {self.info.model} takes 1 to {self._context}.",
                    hint="Split it into shorter pieces.",
                    hint_zh="请将其切成较短的片段。",
                    param="input",
                    prompt_tokens=len(ids),
                    context=self._context,
                )
            tokens += len(ids)
            vectors.append(self._outputs(ids)[0].tolist())
        yield Embeddings(vectors=vectors, prompt_tokens=tokens)

    def _rerank(self, request: RerankRequest, cancel: threading.Event) -> Iterator[Chunk]:
        """Half cosine of the whole texts, half the mean over the query's tokens of their best match in the document."""
        query = self._cut(request.query, "query")
        query_vector, query_tokens = self._outputs(query)
        tokens, values = len(query), []
        for document in request.documents:
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            ids = self._cut(document, "passage")
            vector, token_vectors = self._outputs(ids)
            best = (_units(query_tokens) @ _units(token_vectors).T).max(axis=1)  # [query tokens]
            values.append(float(_MAXSIM_SHARE * best.mean() + (1 - _MAXSIM_SHARE) * (query_vector @ vector)))
            tokens += len(ids)
        yield Relevance(values=values, prompt_tokens=tokens)

    def _outputs(self, ids: list[int]) -> list[Any]:
        """Vector [hidden], and where the model gives them the vectors of the tokens [tokens, hidden]."""
        import numpy as np

        return [output[0] for output in self._session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})]

    def _cut(self, text: str, role: str) -> list[int]:
        """Ids of a text, cut at what the model takes, its end mark kept."""
        ids = self._ids(text, role)
        return ids if len(ids) <= self._context else [*ids[: self._context - 1], ids[-1]]

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

    def _tokenize(self, request: TokenizeRequest, _: threading.Event) -> Iterator[Chunk]:
        if request.text is None:
            raise Unsupported(
                f"{self.info.model} has no prompt format to render a conversation with.",
                hint="Send a text, or name a chat model.",
                hint_zh="请发送文本，或指定对话模型。",
                param="messages",
            )
        encoded = self._tokenizer.encode(request.text)
        yield Tokens(ids=encoded.ids, pieces=encoded.tokens)


def open_engine(model: ResolvedModel, settings: RuntimeSettings) -> Engine:
    """A converted folder as an engine: a cross-encoder where it only reranks, else a sentence encoder."""
    if "embedding" in model.tasks:
        return OnnxEmbeddingEngine(model, settings)
    from ninestory.runtimes.onnx.reranker import OnnxReranker

    return OnnxReranker(model, settings)


def open_folder(model: ResolvedModel, settings: RuntimeSettings) -> tuple[dict[str, Any], Any, Any, int]:
    """A converted folder: its description, tokenizer and session, and the number of threads it runs with."""
    import onnxruntime
    from tokenizers import Tokenizer

    if model.path is None:
        raise Unsupported(f"{model.reference} has no folder to open.")
    described = _description(model.path)
    tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads or free_processors()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return described, tokenizer, session, options.intra_op_num_threads


def _units(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


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

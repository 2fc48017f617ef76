"""Cross-encoders by ONNX Runtime, without torch: query and document read together, one pair a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.dispatch import dispatch
from ninestory.runtimes.onnx.engine import open_folder
from ninestory.runtimes.protocol import Chunk, EngineInfo, Feed, Relevance, Request, RerankRequest

_QUERY_SHARE = 0.5  # the most of the context that a query takes; the document's end is cut to what is left


class OnnxReranker:
    """One cross-encoder of the form that `models/convert/sentence_encoder.py` makes."""

    def __init__(self, model: ResolvedModel, settings: RuntimeSettings) -> None:
        described, self._tokenizer, self._session, threads = open_folder(model, settings)
        self._has_segments = any(given.name == "token_type_ids" for given in self._session.get_inputs())
        self._context: int = described["positions"]
        self.info = EngineInfo(
            model=model.reference,
            runtime="onnx",
            architecture=model.architecture,
            tasks=["rerank"],
            context=self._context,
            slots=1,
            threads=threads,
            notes=model.notes,
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        return dispatch(self, {"rerank": self._rerank}, request, cancel, feed)

    def close(self) -> None:
        self._session = None

    def _rerank(self, request: RerankRequest, cancel: threading.Event) -> Iterator[Chunk]:
        """Relevance is the sigmoid of the model's logit."""
        import numpy as np

        self._tokenizer.no_truncation()
        query = self._tokenizer.encode(request.query, add_special_tokens=False)
        kept = query.offsets[: int(self._context * _QUERY_SHARE)]
        asked = request.query[: kept[-1][1]] if kept else ""
        # "only_second" cuts the document: the query is what the score is about
        self._tokenizer.enable_truncation(self._context, strategy="only_second")
        values, tokens = [], 0
        for document in request.documents:
            if cancel.is_set():
                raise Cancelled("The request was cancelled.")
            pair = self._tokenizer.encode(asked, document)
            feed = {"input_ids": np.array([pair.ids], dtype=np.int64)}
            if self._has_segments:
                feed["token_type_ids"] = np.array([pair.type_ids], dtype=np.int64)
            values.append(float(1 / (1 + np.exp(-self._session.run(None, feed)[0][0]))))
            tokens += len(pair.ids)
        yield Relevance(values=values, prompt_tokens=tokens)

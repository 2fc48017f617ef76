"""An embedding engine as retrieval uses it: vectors of passages and queries, token counts, and proof of identity."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ninestory.core.errors import Conflict, NinestoryError, Unsupported
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.runtimes.protocol import EmbeddingRequest, Embeddings, Engine, TokenizeRequest, Tokens

_PROBE = "The same text, embedded by the same model, gives the same vector. 同一模型对同一文本给出同一向量。"
_SAME = 0.98  # cosine of the probe: int8 kernels of two processors differ by less, two models by more
_BATCH = 16  # passages a request: cancelling is looked at between two
_ASSUMED_CONTEXT = 512  # of a model that does not tell; no embedding model in use takes less


class Embedder:
    """Wraps an engine; the engine stays its owner's to close."""

    def __init__(self, engine: Engine) -> None:
        if "embedding" not in engine.info.tasks:
            raise Unsupported(
                f"{engine.info.model} is no embedding model.",
                hint="Use one, such as starter:multilingual-e5-small.",
                hint_zh="请使用嵌入模型，例如 starter:multilingual-e5-small。",
                param="model",
            )
        self.engine = engine
        self._takes_roles = True
        self.model = engine.info.model
        self.context = engine.info.context or _ASSUMED_CONTEXT

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [n, d]."""
        parts = [self._embed(texts[i : i + _BATCH], "passage") for i in range(0, len(texts), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def query(self, text: str) -> NDArray[np.float32]:
        """Unit vector [d]. A question longer than the model takes is cut at its end."""
        try:
            return self._embed([text], "query")[0]
        except NinestoryError as error:
            if error.code != "context_length_exceeded":
                raise
            return self._embed([text[: self.context]], "query")[0]  # a token is a character or more

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; an estimate where the engine does not tell (a remote one)."""
        if not self.engine.info.tokenizes:
            return len(text.encode("utf-8")) // 3 + 1
        request = TokenizeRequest(text=text)
        return sum(len(c.ids) for c in self.engine.run(request, threading.Event()) if isinstance(c, Tokens))

    def check(self, base: KnowledgeBase) -> None:
        """Prove that this is the model the knowledge base was embedded with, by name and by a probe's vector.

        Raises:
            Conflict: it is another; `kb sync --re-embed` changes a knowledge base's model.
        """
        if self.model != base.model:
            raise _other_model(base, self.model)
        vector = self._embed([_PROBE], "passage")[0]
        known = base.get("probe")
        if known is None:
            base.put(probe=[round(float(x), 6) for x in vector])
        elif len(known) != len(vector) or float(np.dot(np.array(known, dtype=np.float32), vector)) < _SAME:
            raise _other_model(base, f"{self.model} with other weights")

    def _embed(self, texts: Sequence[str], role: Literal["query", "passage"]) -> NDArray[np.float32]:
        """A model that has no words for queries and passages (a GGUF, a remote one) is given the bare texts."""
        vectors: list[list[float]] = []
        request = EmbeddingRequest(inputs=list(texts), role=role if self._takes_roles else "")
        try:
            for chunk in self.engine.run(request, threading.Event()):
                vectors += chunk.vectors if isinstance(chunk, Embeddings) else []
        except Unsupported as error:
            if error.param != "input_type" or not self._takes_roles:
                raise
            self._takes_roles = False
            return self._embed(texts, role)
        found = np.array(vectors, dtype=np.float32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _other_model(base: KnowledgeBase, other: str) -> Conflict:
    return Conflict(
        f"{base.name or base.id} was embedded with {base.model}, not with {other}.",
        hint=f"Use {base.model}, or embed everything again: ninestory kb sync {base.name or base.id} --model NEW.",
        hint_zh=f"请使用 {base.model}，或重新嵌入全部内容：ninestory kb sync {base.name or base.id} --model 新模型。",
        code="other_embedding_model",
    )

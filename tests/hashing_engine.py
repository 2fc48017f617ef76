"""An embedding engine for tests of the store: vectors of hashed words and characters, made in microseconds.

It is a whole engine by the protocol; what it lacks is only quality, which the tests with the starter look at.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Iterator

import numpy as np

from ninestory.runtimes.protocol import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Feed,
    Request,
    TokenizeRequest,
    Tokens,
)

DIMENSIONS = 64


class HashingEngine:
    def __init__(self, model: str = "test:hashing", salt: int = 0) -> None:
        self.info = EngineInfo(
            model=model,
            runtime="onnx",
            architecture="hashing",
            tasks=["embedding"],
            tokenizes=True,
            context=512,
            slots=1,
        )
        self._salt = salt

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        if isinstance(request, TokenizeRequest):
            pieces = words(request.text or "")
            yield Tokens(ids=list(range(len(pieces))), pieces=pieces)
        elif isinstance(request, EmbeddingRequest):
            yield Embeddings(vectors=[self._vector(str(text)) for text in request.inputs], prompt_tokens=1)

    def close(self) -> None:
        pass

    def _vector(self, text: str) -> list[float]:
        vector = np.full(DIMENSIONS, 0.01)
        for word in words(text.lower()):
            vector[(zlib.crc32(word.encode()) + self._salt) % DIMENSIONS] += 1
        return [float(x) for x in vector / np.linalg.norm(vector)]


def words(text: str) -> list[str]:
    return re.findall(r"[\u3400-\u9fff]|\w+|[^\w\s]", text)

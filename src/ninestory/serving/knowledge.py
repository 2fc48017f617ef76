"""Knowledge bases as the gateway sees them: their folders directly, their passages through one reading process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import Request

from ninestory.core.errors import InvalidRequest, Unavailable, from_dict
from ninestory.core.paths import Home
from ninestory.floors.retrieval.filters import matches
from ninestory.floors.retrieval.hits import Hit, SearchOptions, merged
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, open_base
from ninestory.runtimes.protocol import EmbeddingRequest

_LINE_BYTES = 64 << 20
_CALL_SECONDS = 120.0


class KnowledgeReader:
    """Asks the reading process; starts it with the first question and again when it has died."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def search(self, base_id: str, question: str, vector: list[float], options: SearchOptions) -> list[Hit]:
        call = {"op": "search", "base": base_id, "question": question, "vector": vector, "options": asdict(options)}
        return [Hit(**hit) for hit in await self._call(call)]

    async def passages(self, base_id: str, file_id: str, first: int, count: int) -> list[dict[str, Any]]:
        """A file's passages in order."""
        call = {"op": "passages", "base": base_id, "file": file_id, "first": first, "count": count}
        return list(await self._call(call))

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _call(self, call: dict[str, Any]) -> Any:
        async with self._turn:
            process = await self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(orjson.dumps(call) + b"\n")
                await process.stdin.drain()
                line = await asyncio.wait_for(process.stdout.readline(), _CALL_SECONDS)
            except (TimeoutError, asyncio.CancelledError, ConnectionError):
                process.kill()  # a late answer must not be taken for the next one's
                self._process = None
                raise
        if not line:
            raise Unavailable(
                "The process that reads knowledge bases ended.",
                hint="Ask again: it is started anew.",
                hint_zh="请重试：该进程会重新启动。",
                retry_after=1,
            )
        answer = orjson.loads(line)
        if "error" in answer:
            raise from_dict(answer["error"])
        return answer["result"]

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            command = ["-m", "ninestory.serving.knowledge_process", str(os.getpid()), str(self._home.root)]
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
        return self._process


async def embed(context: Any, request: Request, model: str, texts: Sequence[str], role: Any) -> list[list[float]]:
    """Unit vectors from an embedding model's worker."""
    vectors: list[list[float]] = []
    async for chunk in context.ask(request, model, EmbeddingRequest(inputs=list(texts), role=role)):
        vectors += chunk["vectors"] if chunk["kind"] == "embeddings" else []
    return vectors


async def find(
    context: Any,
    request: Request,
    base_ids: Sequence[str],
    question: str,
    options: SearchOptions,
    filters: dict[str, Any] | None = None,
) -> tuple[list[Hit], float | None, list[float]]:
    """Search several knowledge bases of one embedding model.

    Returns:
        Hits, best first; the lowest threshold of "not in the documents" of these bases (None when one has none); the
        question's vector.

    Raises:
        InvalidRequest: the bases are of different models. NotFound: one does not exist.
    """
    bases = [open_base(context.home, base_id) for base_id in base_ids]
    models = sorted({base.published.model if base.published else base.model for base in bases})
    if len(models) != 1:
        raise InvalidRequest(
            f"These vector stores are of different embedding models: {', '.join(models)}.",
            hint="Search them one by one.",
            hint_zh="请逐个检索。",
            param="vector_store_ids",
        )
    vector = (await embed(context, request, models[0], [question[:2000]], "query"))[0]
    found = []
    for base in bases:
        chosen = _chosen(base, filters)
        own = SearchOptions(**{**asdict(options), "file_ids": chosen})
        found.append(await context.knowledge.search(base.id, question, vector, own))
    thresholds = [base.get("threshold") for base in bases]
    threshold = None if None in thresholds else min(thresholds)
    for base in bases:
        base.close()
    return merged(found, options.limit), threshold, vector


def _chosen(base: KnowledgeBase, filters: dict[str, Any] | None) -> tuple[str, ...] | None:
    if filters is None:
        return None
    return tuple(file.id for file in base.files("indexed") if matches(file.attributes, filters))

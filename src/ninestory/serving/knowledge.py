"""Knowledge bases as the gateway sees them: their folders directly, their passages through one reading process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import orjson
from fastapi import Request

from ninestory.core.errors import NinestoryError, Unavailable, from_dict
from ninestory.core.paths import Home
from ninestory.floors.retrieval.filters import chosen_files
from ninestory.floors.retrieval.hits import Hit, SearchOptions, merged
from ninestory.floors.retrieval.knowledge_base import check_one_model, lowest_threshold, open_by_id
from ninestory.floors.retrieval.rerank import CANDIDATES, LATE, reranked, searched_text
from ninestory.runtimes.protocol import EmbeddingRequest, RerankRequest

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
        return await self._passages("passages", base_id, file_id, first, count)

    async def passages_of_pages(self, base_id: str, file_id: str, first: int, last: int) -> list[dict[str, Any]]:
        """A file's passages that begin on the pages `first` to `last`."""
        return await self._passages("of_pages", base_id, file_id, first, last)

    async def passages_of_span(self, base_id: str, file_id: str, start: int, end: int) -> list[dict[str, Any]]:
        """A file's passages that share a character with `start` to `end`."""
        return await self._passages("of_span", base_id, file_id, start, end)

    async def _passages(self, kind: str, base_id: str, file_id: str, first: int, last: int) -> list[dict[str, Any]]:
        call = {"op": kind, "base": base_id, "file": file_id, "first": first, "last": last}
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
    """Unit vectors from an embedding model's worker; one without words for queries and passages gets the bare texts."""
    vectors: list[list[float]] = []
    try:
        async for chunk in context.ask(request, model, EmbeddingRequest(inputs=list(texts), role=role)):
            vectors += chunk["vectors"] if chunk["kind"] == "embeddings" else []
    except NinestoryError as error:
        if error.param != "input_type" or not role:
            raise
        return await embed(context, request, model, texts, "")
    return vectors


async def relevance(context: Any, request: Request, model: str, query: str, texts: Sequence[str]) -> list[float]:
    """How well each text answers the query, from a reranker's or an embedding model's worker.

    Raises:
        Unsupported: the model can neither.
    """
    values: list[float] = []
    async for chunk in context.ask(request, model, RerankRequest(query=query, documents=list(texts))):
        values += chunk["values"] if chunk["kind"] == "relevance" else []
    return values


async def find(
    context: Any,
    request: Request,
    base_ids: Sequence[str],
    question: str,
    options: SearchOptions,
    filters: dict[str, Any] | None = None,
    reranker: str = "",
) -> tuple[list[Hit], float | None, list[float]]:
    """Search several knowledge bases of one embedding model.

    Args:
        reranker: "" for none, "late" for late interaction with their embedding model, or a reranker's reference.

    Returns:
        Hits, best first; the lowest threshold of "not in the documents" of these bases (None when one has none); the
        question's vector.

    Raises:
        InvalidRequest: the bases are of different models. NotFound: one does not exist.
    """
    with ExitStack() as opened:
        bases = [opened.enter_context(open_by_id(context.home, base_id)) for base_id in base_ids]
        model = check_one_model(bases)
        vector = (await embed(context, request, model, [question[:2000]], "query"))[0]
        found = []
        for base in bases:
            chosen = chosen_files(base, filters) if filters else None
            limit = max(options.limit, CANDIDATES) if reranker else options.limit
            own = replace(options, file_ids=chosen, limit=limit)
            found.append(await context.knowledge.search(base.id, question, vector, own))
        threshold = lowest_threshold(bases)
    if not reranker:
        return merged(found, options.limit), threshold, vector
    hits = merged(found, max(options.limit, CANDIDATES))
    judge = model if reranker == LATE else reranker
    values = await relevance(context, request, judge, question, [searched_text(hit) for hit in hits]) if hits else []
    return reranked(question, hits, lambda _question, _texts: values, options.limit), threshold, vector

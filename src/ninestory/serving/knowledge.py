"""Knowledge bases as the gateway sees them: their folders directly, their passages through one reading process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import Request

from ninestory.core.errors import NinestoryError, Unavailable, from_dict
from ninestory.core.paths import Home
from ninestory.floors.retrieval import Hit, KnowledgeBase, SearchOptions
from ninestory.runtimes.protocol import EmbeddingRequest, Embeddings, Relevance, RerankRequest

if TYPE_CHECKING:
    from ninestory.floors.retrieval import Read

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

    def reading(self) -> Read:
        """The reading process for a thread: what a floor calls to search one knowledge base."""
        loop = asyncio.get_running_loop()

        def read(base: KnowledgeBase, question: str, vector: Any, options: SearchOptions) -> list[Hit]:
            found = self.search(base.id, question, vector.tolist(), options)
            return asyncio.run_coroutine_threadsafe(found, loop).result()

        return read

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
            vectors += chunk.vectors if isinstance(chunk, Embeddings) else []
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
        values += chunk.values if isinstance(chunk, Relevance) else []
    return values

"""Sources of documents for the gateway: read in a child process, so that a hostile file never meets the gateway."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool

from ninestory.core.errors import NotFound
from ninestory.core.paths import inside
from ninestory.floors.retrieval import KnowledgeFile, ParserProcess

_SECONDS = 60.0


class SourceReader:
    """Asks one parsing process, one question at a time; it is started with the first."""

    def __init__(self) -> None:
        self._process = ParserProcess(_SECONDS)
        self._turn = asyncio.Lock()

    async def page(self, file: KnowledgeFile, page: int, passages: list[str]) -> dict[str, Any]:
        """A page's size, and where passages stand on it: as `floors.retrieval.source.page_of`."""
        return dict(await self._ask("page", file, page, passages))

    async def picture(self, file: KnowledgeFile, page: int) -> bytes:
        """A page as PNG."""
        return base64.b64decode(await self._ask("picture", file, page))

    async def text(self, file: KnowledgeFile, near: int) -> dict[str, Any]:
        """The text around a character: as `floors.retrieval.source.text_of`."""
        return dict(await self._ask("text", file, near))

    def close(self) -> None:
        self._process.close()

    async def _ask(self, operation: str, file: KnowledgeFile, *arguments: Any) -> Any:
        """Raises NotFound: the file of a synced folder is gone. InvalidRequest: it is a link out of that folder now.
        What the reading raises."""
        if file.folder:
            inside(Path(file.folder), file.name)
        if not file.path.is_file():
            raise NotFound(
                f"{file.name} is no longer where it was read.",
                hint="Its passages are still here until the next sync.",
                hint_zh="下次同步之前，其片段仍可查看。",
                code="file_gone",
            )
        async with self._turn:
            return await run_in_threadpool(self._process.ask, operation, file.path, file.name, *arguments)

"""`/ninestory/v1/vector_stores/{id}/files/{file_id}/source`: a document as it is read, with its passages in place.

The file is looked up by its id in the knowledge base; no path comes from a request.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.floors.retrieval import PAGES_OF_A_PASSAGE, KnowledgeFile, kind_of, open_by_id
from ninestory.serving.context import GatewayContext

_SHOWN = ("id", "ordinal", "text", "context", "page", "start", "end")
PageNumber = Annotated[int, Path(ge=1, le=100_000)]
Place = Annotated[int | None, Query(ge=0, le=2_000_000_000)]


def router(context: GatewayContext) -> APIRouter:
    prefix = "/ninestory/v1/vector_stores/{vector_store_id}/files/{file_id}/source"
    routes = APIRouter(prefix=prefix, tags=["vector stores"])

    @routes.get("")
    async def read_source(
        vector_store_id: str,
        file_id: str,
        ordinal: Place = None,
        page: Place = None,
        near: Place = None,
        start: Place = None,
        end: Place = None,
    ) -> dict[str, Any]:
        """A page of a document, or its text around a character, and the passages there.

        The place is that of the passage `ordinal`, a `page` (PDF and pictures), or a character (`near`, other kinds).
        `start` and `end`, characters of a citation's quote inside that passage, give back the `quote`.
        """
        base_id, file = _file(context, vector_store_id, file_id)
        quote = None
        if ordinal is not None:
            rows = await context.knowledge.passages(base_id, file.id, ordinal, 1)
            if not rows:
                raise NotFound(f"{file.name} has no passage {ordinal}.", code="passage_not_found")
            page, near = rows[0]["page"], rows[0]["start"]
            quote = _quote(rows[0], start, end)
        kind = kind_of(file.name)
        if kind == "page":
            shown = await _page(context, base_id, file, page or 1, quote)
        else:
            shown = await _text(context, base_id, file, near or 0)
        return {
            "object": "vector_store.file_source",
            "file_id": file.id,
            "filename": file.name,
            "kind": kind,
            "changed": _is_changed(file),
            "quote": quote,
            **shown,
        }

    @routes.get("/pages/{page}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    async def read_source_page(vector_store_id: str, file_id: str, page: PageNumber) -> Response:
        """A page of a PDF, or a picture, as PNG."""
        _, file = _file(context, vector_store_id, file_id)
        if kind_of(file.name) != "page":
            raise InvalidRequest(
                f"{file.name} has no pages to look at.",
                hint="Ask for its source without a page.",
                hint_zh="请直接读取其文本。",
            )
        headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
        return Response(await context.sources.picture(file, page), media_type="image/png", headers=headers)

    return routes


def _file(context: GatewayContext, vector_store_id: str, file_id: str) -> tuple[str, KnowledgeFile]:
    with open_by_id(context.home, vector_store_id) as base:
        return base.id, base.file(file_id)


async def _page(
    context: GatewayContext, base_id: str, file: KnowledgeFile, page: int, quote: dict[str, Any] | None
) -> dict[str, Any]:
    """The page, the passages that begin on it, and those that only reach into it; the lines of a quote."""
    rows = await context.knowledge.passages_of_pages(base_id, file.id, page - PAGES_OF_A_PASSAGE, page)
    texts = [row["text"] for row in rows] + ([quote["text"]] if quote else [])
    shown = await context.sources.page(file, page, texts)
    boxes = shown.pop("boxes")
    passages = [
        {**_passage(row), "boxes": lines}
        for row, lines in zip(rows, boxes[: len(rows)], strict=True)
        if lines or row["page"] == page
    ]
    return {**shown, "passages": passages, "quote": {**quote, "boxes": boxes[-1]} if quote else None}


def _quote(row: dict[str, Any], start: int | None, end: int | None) -> dict[str, Any] | None:
    """The part of a passage from `start` to `end` of its document; None where it is none (the file was read anew)."""
    if start is None or end is None or not row["start"] <= start < end <= row["end"]:
        return None
    return {"text": row["text"][start - row["start"] : end - row["start"]], "start": start, "end": end}


async def _text(context: GatewayContext, base_id: str, file: KnowledgeFile, near: int) -> dict[str, Any]:
    shown = await context.sources.text(file, near)
    rows = await context.knowledge.passages_of_span(base_id, file.id, shown["start"], shown["end"])
    return {**shown, "passages": [_passage(row) for row in rows]}


def _passage(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in _SHOWN}


def _is_changed(file: KnowledgeFile) -> bool:
    """Whether the file was written since its passages were made: they may stand elsewhere in it now."""
    if not file.path.is_file():
        return True
    stat = file.path.stat()
    return stat.st_size != file.bytes or abs(stat.st_mtime - file.mtime) > 1  # an archive keeps times less exactly

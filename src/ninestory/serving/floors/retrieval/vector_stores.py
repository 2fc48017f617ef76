"""`/v1/vector_stores` as OpenAI has it: knowledge bases, their files, and searches in them.

Files are taken in by an "ingest" job in the job process; a search never waits for one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.floors.retrieval import (
    DEFAULT_MODEL,
    Hit,
    KnowledgeBase,
    Thresholds,
    accepted_by,
    each_base,
    language_of,
    open_by_id,
    remove_by_id,
    sweep,
)
from ninestory.floors.retrieval import create_base as create
from ninestory.models.reference import Reference, parse_reference
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import check_task
from ninestory.runtimes.protocol import EngineProvider
from ninestory.serving.context import GatewayContext
from ninestory.serving.floors.retrieval.vector_stores_schemas import (
    FileAttach,
    FileBatchCreate,
    FileUpdate,
    SearchRequest,
    VectorStoreCreate,
    VectorStoreUpdate,
    batch_object,
    file_object,
    search_result,
    store_object,
)
from ninestory.serving.references import requested
from ninestory.serving.stores.files import FileStore

Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=100)]
Order = Literal["asc", "desc"]
FileStatus = Annotated[Literal["in_progress", "completed", "failed", "cancelled"] | None, Query()]


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
    sweep(context.home)
    _add_stores(routes, context)
    _add_files(routes, context)
    _add_content(routes, context)
    _add_batches(routes, context)
    return routes


def _add_stores(routes: APIRouter, context: GatewayContext) -> None:
    @routes.post("")
    def create_store(body: VectorStoreCreate) -> dict[str, Any]:
        """Make a vector store, with files if some are named."""
        model = DEFAULT_MODEL if body.embedding_model is None else body.embedding_model
        reference = requested(model, context.home, context.settings.serve.preload)
        attached = [FileAttach(file_id=f, chunking_strategy=body.chunking_strategy) for f in body.file_ids]
        if attached or body.embedding_model is not None:
            _check_embedder(context, reference)
        _check_files(context, attached)
        with create(context.home, body.name or "", model=model, metadata=body.metadata) as base:
            base.put(description=body.description)
            _attach(context, base, attached)
            return store_object(base)

    @routes.get("")
    def list_stores(
        limit: Limit = 20, order: Order = "desc", after: Cursor = None, before: Cursor = None
    ) -> dict[str, Any]:
        """All vector stores."""
        stores = [(base.get("created_at", 0.0), store_object(base)) for base in each_base(context.home)]
        stores.sort(key=lambda store: (store[0], store[1]["id"]))
        return _page([store for _, store in stores], limit, order, after, before)

    @routes.get("/{vector_store_id}")
    def retrieve_store(vector_store_id: str) -> dict[str, Any]:
        """One vector store."""
        with open_by_id(context.home, vector_store_id) as base:
            return store_object(base)

    @routes.post("/{vector_store_id}")
    def update_store(vector_store_id: str, body: VectorStoreUpdate) -> dict[str, Any]:
        """Change a vector store's name or metadata."""
        with open_by_id(context.home, vector_store_id) as base:
            base.put(**body.model_dump(exclude_unset=True, exclude={"expires_after"}))
            return store_object(base)

    @routes.delete("/{vector_store_id}")
    def delete_store(vector_store_id: str) -> dict[str, Any]:
        """Delete a vector store; the files it was made of stay under /v1/files."""
        remove_by_id(context.home, vector_store_id)
        return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}

    @routes.post("/{vector_store_id}/search")
    async def search(vector_store_id: str, body: SearchRequest, request: Request) -> dict[str, Any]:
        """The passages nearest to a question, best first.

        Beside OpenAI's fields: `threshold`, which a passage's cosine must reach to be answered from, and `accepted_by`:
        "cosine", or "identifier" or "name" where a passage holds one of the question; null: the documents do not answer.
        """
        from ninestory.floors.retrieval import AnswerOptions, DocumentSession  # loads numpy

        options = AnswerOptions(
            search=body.options(), filters=body.filter(), reranker=body.rerank, least_score=body.least_score
        )
        read = context.knowledge.reading()

        def work(engines: EngineProvider) -> tuple[list[Hit], Thresholds | None, dict[str, dict[str, Any]]]:
            with open_by_id(context.home, vector_store_id) as base:
                session = DocumentSession([base], engines, "", options, context_tokens=lambda: 0, read=read)
                found = session.find(body.query)
                return found, base.thresholds, {file.id: file.attributes for file in base.files()}

        hits, thresholds, attributes = await context.in_floor(request, work)
        threshold = thresholds[language_of(body.query)] if thresholds else None
        return {
            "object": "vector_store.search_results.page",
            "search_query": [body.query],
            "data": [search_result(hit, attributes.get(hit.file_id, {})) for hit in hits],
            "has_more": False,
            "next_page": None,
            "threshold": threshold,
            "accepted_by": accepted_by(body.query, hits, threshold),
        }


def _add_files(routes: APIRouter, context: GatewayContext) -> None:
    @routes.post("/{vector_store_id}/files")
    def attach_file(vector_store_id: str, body: FileAttach) -> dict[str, Any]:
        """Take an uploaded file in; its status tells when it can be found."""
        with open_by_id(context.home, vector_store_id) as base:
            _check_files(context, [body])
            _check_embedder(context, parse_reference(base.model))
            _attach(context, base, [body])
            return file_object(base, base.file(body.file_id))

    @routes.get("/{vector_store_id}/files")
    def list_store_files(
        vector_store_id: str,
        limit: Limit = 20,
        order: Order = "desc",
        after: Cursor = None,
        before: Cursor = None,
        filter: FileStatus = None,
    ) -> dict[str, Any]:
        """The files of a vector store."""
        with open_by_id(context.home, vector_store_id) as base:
            return _page(_files(base, filter), limit, order, after, before)

    @routes.get("/{vector_store_id}/files/{file_id}")
    def retrieve_store_file(vector_store_id: str, file_id: str) -> dict[str, Any]:
        """What became of a file."""
        with open_by_id(context.home, vector_store_id) as base:
            return file_object(base, base.file(file_id))

    @routes.post("/{vector_store_id}/files/{file_id}")
    def update_store_file(vector_store_id: str, file_id: str, body: FileUpdate) -> dict[str, Any]:
        """Change a file's attributes."""
        with open_by_id(context.home, vector_store_id) as base:
            base.set_attributes(file_id, dict(body.attributes or {}))
            return file_object(base, base.file(file_id))

    @routes.delete("/{vector_store_id}/files/{file_id}")
    def detach_file(vector_store_id: str, file_id: str) -> dict[str, Any]:
        """Take a file out: it is found no more from now on."""
        with open_by_id(context.home, vector_store_id) as base:
            base.remove_file(file_id)
            _queue_ingest(context, base)
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


def _add_content(routes: APIRouter, context: GatewayContext) -> None:
    @routes.get("/{vector_store_id}/files/{file_id}/content")
    async def read_store_file(
        vector_store_id: str,
        file_id: str,
        first: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> dict[str, Any]:
        """A file's passages in order, with page, heading and offsets."""
        with open_by_id(context.home, vector_store_id) as base:
            name = base.file(file_id).name
            rows = await context.knowledge.passages(base.id, file_id, first, limit)
        kept = ("id", "ordinal", "context", "page", "start", "end")
        data = [{"type": "text", "text": row["text"], **{key: row[key] for key in kept}} for row in rows]
        return {
            "object": "vector_store.file_content.page",
            "file_id": file_id,
            "filename": name,
            "data": data,
            "has_more": len(rows) == limit,
            "next_page": None,
        }


def _add_batches(routes: APIRouter, context: GatewayContext) -> None:
    @routes.post("/{vector_store_id}/file_batches")
    def create_batch(vector_store_id: str, body: FileBatchCreate) -> dict[str, Any]:
        """Take several files in together."""
        attached = body.attached()
        if not attached:
            raise InvalidRequest("The batch names no file.", hint="Send file_ids or files.", param="file_ids")
        with open_by_id(context.home, vector_store_id) as base:
            _check_files(context, attached)
            _check_embedder(context, parse_reference(base.model))
            batch = f"vsfb_{secrets.token_hex(12)}"
            _attach(context, base, attached, batch)
            return batch_object(base, batch, base.files(batch=batch))

    @routes.get("/{vector_store_id}/file_batches/{batch_id}")
    def retrieve_batch(vector_store_id: str, batch_id: str) -> dict[str, Any]:
        """How far a batch is."""
        with open_by_id(context.home, vector_store_id) as base:
            return batch_object(base, batch_id, _batch(base, batch_id))

    @routes.post("/{vector_store_id}/file_batches/{batch_id}/cancel")
    def cancel_batch(vector_store_id: str, batch_id: str) -> dict[str, Any]:
        """Leave out the files of a batch that were not taken in yet."""
        with open_by_id(context.home, vector_store_id) as base:
            for file in _batch(base, batch_id):
                if file.status == "pending":
                    base.mark(file.id, "cancelled")
            return batch_object(base, batch_id, _batch(base, batch_id))

    @routes.get("/{vector_store_id}/file_batches/{batch_id}/files")
    def list_batch_files(
        vector_store_id: str,
        batch_id: str,
        limit: Limit = 20,
        order: Order = "desc",
        after: Cursor = None,
        before: Cursor = None,
        filter: FileStatus = None,
    ) -> dict[str, Any]:
        """The files of a batch."""
        with open_by_id(context.home, vector_store_id) as base:
            _batch(base, batch_id)
            return _page(_files(base, filter, batch_id), limit, order, after, before)


def _check_files(context: GatewayContext, attached: Sequence[FileAttach]) -> None:
    """Raises NotFound before anything is changed: a file was never uploaded."""
    store = FileStore(context.state, context.home.files)
    for file in attached:
        store.path(file.file_id)


def _queue_ingest(context: GatewayContext, base: KnowledgeBase) -> None:
    """Queue the work; `name` is what the page calls it by."""
    context.jobs.create("ingest", {"knowledge_base": base.id, "name": base.name}, subject=base.id)


def _check_embedder(context: GatewayContext, reference: Reference) -> None:
    """Raises NotFound, Unsupported before an ingest is queued that could only fail."""
    model = resolve(reference, context.home)
    check_task(model.reference, model.architecture, model.tasks, "embedding")


def _attach(context: GatewayContext, base: KnowledgeBase, attached: Sequence[FileAttach], batch: str = "") -> None:
    """Register the files and queue the work."""
    store = FileStore(context.state, context.home.files)
    for file in attached:
        base.register(
            store.get(file.file_id)["filename"],
            store.path(file.file_id),
            file_id=file.file_id,
            attributes=dict(file.attributes or {}),
            options=file.chunking_strategy.options() if file.chunking_strategy else {},
            batch=batch,
        )
    if attached:
        _queue_ingest(context, base)


def _files(base: KnowledgeBase, status: str | None, batch: str | None = None) -> list[dict[str, Any]]:
    files = [file_object(base, file) for file in base.files(batch=batch)]
    return [file for file in files if status in (None, file["status"])]


def _batch(base: KnowledgeBase, batch_id: str) -> Any:
    files = base.files(batch=batch_id) if batch_id else []
    if not files:
        raise NotFound(f"There is no file batch {batch_id[:80]!r} here.", code="batch_not_found")
    return files


def _page(
    rows: list[dict[str, Any]], limit: int, order: Order, after: str | None, before: str | None
) -> dict[str, Any]:
    """One page of rows that came oldest first."""
    ordered = rows[::-1] if order == "desc" else rows
    places = {row["id"]: place for place, row in enumerate(ordered)}
    start = places[after] + 1 if after in places else 0
    end = places[before] if before in places else len(ordered)
    page = ordered[start:end][:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < end,
    }

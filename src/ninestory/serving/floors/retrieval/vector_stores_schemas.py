"""Bodies of `/v1/vector_stores`, the `file_search` tool, and how rows become OpenAI's objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ninestory.floors.retrieval import Hit, KnowledgeBase, KnowledgeFile, SearchOptions
from ninestory.serving.references import ModelReference
from ninestory.serving.schemas import Strict

Metadata = Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)]
Attributes = Annotated[dict[str, Annotated[str, Field(max_length=512)] | float | bool], Field(max_length=16)]
FileIds = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=500)]
_STATUS = {
    "pending": "in_progress",
    "written": "in_progress",
    "indexed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


class StaticChunking(Strict):
    max_chunk_size_tokens: int = Field(ge=32, le=4096, description="At most what the embedding model takes.")
    chunk_overlap_tokens: int = Field(ge=0, le=2048)


class ChunkingStrategy(Strict):
    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    def options(self) -> dict[str, int]:
        if self.static is None:
            return {}
        return {"max_tokens": self.static.max_chunk_size_tokens, "overlap_tokens": self.static.chunk_overlap_tokens}


class VectorStoreCreate(Strict):
    name: str | None = Field(default=None, max_length=200)
    description: str | None = Field(default=None, max_length=2000)
    file_ids: FileIds = []
    metadata: Metadata | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: None = Field(default=None, description="Only null: vector stores here do not expire.")
    embedding_model: ModelReference | None = Field(default=None, description="An addition of ours.")


class VectorStoreUpdate(Strict):
    name: str | None = Field(default=None, max_length=200)
    metadata: Metadata | None = None
    expires_after: None = Field(default=None, description="Only null: vector stores here do not expire.")


class FileAttach(Strict):
    file_id: str = Field(max_length=100)
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileUpdate(Strict):
    attributes: Attributes | None


class FileBatchCreate(Strict):
    """Files by their ids, or with settings of their own; at least one."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "array", "minItems": 1}}}
                for name in ("file_ids", "files")
            ]
        }
    )

    file_ids: FileIds | None = None
    files: Annotated[list[FileAttach], Field(max_length=500)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def attached(self) -> list[FileAttach]:
        common = {"attributes": self.attributes, "chunking_strategy": self.chunking_strategy}
        return [*(self.files or []), *(FileAttach(file_id=file_id, **common) for file_id in self.file_ids or [])]  # type: ignore[arg-type]


Scalar = str | float | bool


class ComparisonFilter(Strict):
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str = Field(max_length=64)
    value: Scalar | list[str | float]


class CompoundFilter(Strict):
    type: Literal["and", "or"]
    filters: Annotated[list[ComparisonFilter | CompoundFilter], Field(min_length=1, max_length=64)]


class HybridWeights(Strict):
    embedding_weight: float = Field(ge=0, le=1000)
    text_weight: float = Field(ge=0, le=1000)


class RankingOptions(Strict):
    ranker: Literal["none", "auto", "default-2024-11-15"] | None = Field(
        default=None, description="Changes nothing: passages are ranked by fusion of vectors and full text."
    )
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    hybrid_search: HybridWeights | None = None


class SearchFields(Strict):
    filters: ComparisonFilter | CompoundFilter | None = None
    max_num_results: int = Field(default=10, ge=1, le=50)
    ranking_options: RankingOptions | None = None
    rerank: str = Field(
        default="",
        max_length=4096,
        description="An addition of ours: 'late' (late interaction with the store's embedding model) or a reranker.",
    )
    neighbours: int = Field(default=0, ge=0, le=10, description="An addition of ours: passages joined to each hit.")

    def options(self) -> SearchOptions:
        weights = self.ranking_options.hybrid_search if self.ranking_options else None
        asked = SearchOptions(limit=self.max_num_results, neighbours=self.neighbours)
        if weights is None:
            return asked
        if weights.embedding_weight == 0:
            return replace(asked, mode="text")
        return replace(asked, text_weight=weights.text_weight / weights.embedding_weight)

    def filter(self) -> dict[str, Any] | None:
        return self.filters.model_dump() if self.filters else None

    @property
    def least_score(self) -> float:
        return (self.ranking_options.score_threshold if self.ranking_options else None) or 0.0


class SearchRequest(SearchFields):
    query: Annotated[str, Field(min_length=1, max_length=20_000)]
    rewrite_query: Literal[False] | None = Field(default=None, description="Only false: the query is used as it is.")


class FileSearchTool(SearchFields):
    type: Literal["file_search"]
    vector_store_ids: Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=8)]
    web_search: bool = Field(default=False, description="An addition of ours: ask the configured web search too.")
    answer_mode: Literal["auto", "generate", "extract"] = Field(default="auto", description="An addition of ours.")


def store_object(base: KnowledgeBase) -> dict[str, Any]:
    counts = base.counts()
    created = int(base.get("created_at", 0))
    return {
        "id": base.id,
        "object": "vector_store",
        "created_at": created,
        "last_active_at": created,
        "name": base.name,
        "description": base.get("description"),
        "usage_bytes": counts["bytes"],
        "file_counts": _file_counts(counts),
        "status": "in_progress" if _file_counts(counts)["in_progress"] else "completed",
        "expires_after": None,
        "expires_at": None,
        "metadata": base.get("metadata") or {},
        "embedding_model": base.model,
        "passages": counts["chunks"],
        "thresholds": base.thresholds,
    }


def file_object(base: KnowledgeBase, file: KnowledgeFile) -> dict[str, Any]:
    chosen = file.options
    static = {
        "max_chunk_size_tokens": chosen.get("max_tokens", 240),
        "chunk_overlap_tokens": chosen.get("overlap_tokens", 32),
    }
    return {
        "id": file.id,
        "object": "vector_store.file",
        "created_at": int(file.created_at),
        "vector_store_id": base.id,
        "status": _STATUS[file.status],
        "usage_bytes": file.bytes,
        "last_error": _last_error(file.error) if file.error else None,
        "attributes": file.attributes,
        "chunking_strategy": {"type": "static", "static": static},
        "filename": file.name,
        "passages": file.chunks,
        "notes": file.notes,
    }


def batch_object(base: KnowledgeBase, batch: str, files: Sequence[KnowledgeFile]) -> dict[str, Any]:
    counts = _file_counts(Counter(file.status for file in files))
    ended = "cancelled" if counts["cancelled"] else "completed"
    return {
        "id": batch,
        "object": "vector_store.files_batch",
        "created_at": int(min(file.created_at for file in files)),
        "vector_store_id": base.id,
        "status": "in_progress" if counts["in_progress"] else ended,
        "file_counts": counts,
    }


def search_result(hit: Hit, attributes: dict[str, Any]) -> dict[str, Any]:
    """One result; beside OpenAI's fields where the passage stands and why it was found."""
    return {
        "file_id": hit.file_id,
        "filename": hit.file,
        "score": round(hit.score, 6),
        "attributes": attributes,
        "content": [{"type": "text", "text": hit.text}],
        "passage": {
            **{key: getattr(hit, key) for key in ("id", "ordinal", "context", "page", "start", "end")},
            **{key: getattr(hit, key) for key in ("cosine", "vector_rank", "text_rank", "terms", "rerank_score")},
        },
    }


def _file_counts(counts: dict[str, int]) -> dict[str, int]:
    shown = dict.fromkeys(_STATUS.values(), 0)
    for status, name in _STATUS.items():
        shown[name] += counts.get(status, 0)
    return {**shown, "total": sum(shown.values())}


def _last_error(error: dict[str, Any]) -> dict[str, str]:
    """OpenAI's code and message; beside them our own code, and what to do in both languages."""
    unreadable = error["code"] in ("unsupported_format", "encrypted_document", "missing_extra")
    return {
        "code": "unsupported_file" if unreadable else "invalid_file",
        "message": error["message"],
        "reason": error["code"],
        "hint": error["hint"],
        "hint_zh": error["hint_zh"],
    }

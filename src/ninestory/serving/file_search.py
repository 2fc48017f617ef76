"""`file_search`: a conversation's last question answered from vector stores. Maps the tool to floors/retrieval.

Nothing that stands in a document decides what runs: the passages go into one message, and that request has no tools.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.floors.retrieval.answer import (
    Prepared,
    citations,
    condense,
    language_of,
    languages_of,
    prepare,
    quoted,
    standalone,
)
from ninestory.floors.retrieval.knowledge_base import open_base
from ninestory.runtimes.protocol import ChatRequest
from ninestory.serving.context import GatewayContext
from ninestory.serving.knowledge import embed, find
from ninestory.serving.routes.vector_stores_schemas import FileSearchTool

_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class FileAnswer:
    """What was found, and the chunks of the answer: a chat model's, or made here when none is needed."""

    query: str
    prepared: Prepared
    chunks: AsyncIterator[dict[str, Any]]

    def call_item(self, with_results: bool) -> dict[str, Any]:
        """The `file_search_call` of a response."""
        results = [
            {
                "file_id": hit.file_id,
                "filename": hit.file,
                "score": round(hit.score, 6),
                "text": hit.text,
                "attributes": {},
            }
            | {"page": hit.page, "start": hit.start, "end": hit.end, "context": hit.context, "cosine": hit.cosine}
            for hit in self.prepared.passages
        ]
        return {
            "id": f"fs_{secrets.token_hex(16)}",
            "type": "file_search_call",
            "status": "completed",
            "queries": [self.query],
            "results": results if with_results else None,
            "answered_by": self.prepared.reason,
            "notice": self.prepared.notice,
        }

    def annotations(self, text: str) -> list[dict[str, Any]]:
        """`file_citation`s of a text: beside OpenAI's fields the passage's number, page and offsets."""
        return [
            {
                "type": "file_citation",
                "file_id": citation.passage.file_id,
                "filename": citation.passage.file,
                "index": citation.start,
                "number": citation.number,
                "vector_store_id": citation.passage.base,
                "ordinal": citation.passage.ordinal,
                "page": citation.passage.page,
                "start": citation.passage.start,
                "end": citation.passage.end,
                "quote": citation.passage.text,
            }
            for citation in citations(text, self.prepared.passages)
        ]


def file_search_of(tools: Sequence[Any]) -> FileSearchTool | None:
    """The one `file_search` of a request.

    Raises:
        Unsupported: it stands beside other tools; documents must not reach a request that can call them.
    """
    found = [tool for tool in tools if isinstance(tool, FileSearchTool)]
    if found and len(tools) > 1:
        raise Unsupported(
            "file_search cannot stand beside other tools in one request: documents must not steer them.",
            hint="Send two requests.",
            hint_zh="请分成两个请求。",
            param="tools",
        )
    return found[0] if found else None


async def answer_from_files(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest, tool: FileSearchTool
) -> FileAnswer:
    """Search for the last user message, made to stand alone, and prepare the answer.

    Raises:
        InvalidRequest: the conversation does not end with a question. NotFound: no such vector store.
    """
    for store in tool.vector_store_ids:
        open_base(context.home, store).close()
    if not chat.messages or chat.messages[-1].role != "user" or not chat.messages[-1].text.strip():
        raise InvalidRequest(
            "file_search answers the last user message, and there is none.",
            hint="End the conversation with the user's question.",
            hint_zh="请以用户的问题结束对话。",
            param="messages",
        )
    question, history = chat.messages[-1].text, chat.messages[:-1]
    query = await _standing_alone(context, request, model, chat, question)
    hits, threshold, vector = await find(context, request, tool.vector_store_ids, query, tool.options(), tool.filter())
    info = context.pool.engine_info(model) or {}
    prepared = prepare(
        question,
        tool.kept(hits),
        threshold=threshold,
        context_tokens=info.get("context") or context.settings.runtime.context or _DEFAULT_CONTEXT,
        mode=tool.answer_mode,
        model_languages=languages_of(model),
        history=history,
    )
    if prepared.request is not None:
        asked = dataclasses.replace(
            chat,
            messages=prepared.request.messages,
            tools=[],
            tool_choice="none",
            truncation="auto",
            sampling=prepared.request.sampling if chat.sampling.temperature is None else chat.sampling,
        )
        return FileAnswer(query, prepared, context.ask(request, model, asked))
    text = prepared.text
    if prepared.reason == "extract":
        embedder = _embedding_model(context, tool.vector_store_ids[0])
        sentences = [sentence for _, sentence in prepared.sentences]
        text = quoted(prepared, vector, await embed(context, request, embedder, sentences, "passage"))
    return FileAnswer(query, prepared, _written_here(text))


async def _standing_alone(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest, question: str
) -> str:
    """The question with what it refers to; where the model does not speak its language, beside the one before it."""
    rewrite = condense(chat.messages[:-1], question)
    if rewrite is None:
        return question
    spoken = languages_of(model)
    if spoken and language_of(question) not in spoken:
        before = [message.text for message in chat.messages[:-1] if message.role == "user"]
        return f"{before[-1]} {question}" if before else question
    reply = ""
    async for chunk in context.ask(request, model, rewrite):
        reply += chunk["text"] if chunk["kind"] == "text" and not chunk["reasoning"] else ""
    return standalone(reply, question)


def _embedding_model(context: GatewayContext, store: str) -> str:
    base = open_base(context.home, store)
    model = base.published.model if base.published else base.model
    base.close()
    return model


async def _written_here(text: str) -> AsyncIterator[dict[str, Any]]:
    """The chunks an engine would give for a text."""
    yield {"kind": "started", "seed": None, "template": "", "dropped_messages": 0}
    yield {"kind": "text", "index": 0, "text": text, "reasoning": False, "logprobs": []}
    yield {"kind": "finished", "index": 0, "reason": "stop", "stop": None}
    counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"), 0)
    yield {"kind": "usage", **counts, "prefill_seconds": 0.0, "decode_seconds": 0.0}

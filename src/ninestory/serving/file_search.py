"""`file_search`: a conversation's last question answered from vector stores. Maps the tool to floors/retrieval.

Nothing that stands in a document decides what runs: the passages go into one message, and that request has no tools.
Beside functions the model first says, without having seen a passage, whether it calls one; if so the call goes back to
the caller, and only otherwise are the documents searched.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.floors.retrieval.answer import (
    Prepared,
    calm,
    citations,
    condense,
    prepare,
    quoted,
    standalone,
    writes_answers,
)
from ninestory.floors.retrieval.hits import Hit
from ninestory.floors.retrieval.knowledge_base import open_by_id
from ninestory.floors.retrieval.rerank import searched_text
from ninestory.floors.retrieval.web_search import search_web
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
    """The one `file_search` of a request, or None.

    Raises:
        Unsupported: there are two.
    """
    found = [tool for tool in tools if isinstance(tool, FileSearchTool)]
    if len(found) > 1:
        raise Unsupported(
            "A request has one file_search; it may name several vector stores.",
            hint="Put all ids into vector_store_ids of one file_search.",
            hint_zh="请把所有 id 放入同一个 file_search 的 vector_store_ids。",
            param="tools",
        )
    return found[0] if found else None


async def answered(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest, tool: FileSearchTool | None
) -> tuple[AsyncIterator[dict[str, Any]], FileAnswer | None]:
    """The chunks of an answer, and what was found for it when it is from vector stores."""
    if tool is None:
        return context.ask(request, model, chat), None
    if chat.tools and chat.messages[-1].role == "tool":  # the results of functions are what is to be told now
        return context.ask(request, model, chat), None
    if calls := await _function_calls(context, request, model, chat):
        return calls, None
    found = await answer_from_files(context, request, model, chat, tool)
    return found.chunks, found


async def _function_calls(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest
) -> AsyncIterator[dict[str, Any]] | None:
    """The answer's chunks if it calls a function; None as soon as it says something instead."""
    if not chat.tools or chat.tool_choice == "none":
        return None
    chunks = context.ask(request, model, chat)
    held = []
    async for chunk in chunks:
        held.append(chunk)
        if chunk["kind"] == "tool_call":
            return _resumed(held, chunks)
        if chunk["kind"] == "text" and chunk["text"].strip() and not chunk["reasoning"]:
            break
    await chunks.aclose()  # type: ignore[attr-defined]
    return None


async def _resumed(held: list[dict[str, Any]], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for chunk in held:
        yield chunk
    async for chunk in rest:
        yield chunk


async def answer_from_files(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest, tool: FileSearchTool
) -> FileAnswer:
    """Search for the last user message, made to stand alone, and prepare the answer.

    Raises:
        InvalidRequest: the conversation does not end with a question. NotFound: no such vector store.
    """
    for store in tool.vector_store_ids:
        open_by_id(context.home, store).close()
    if not chat.messages or chat.messages[-1].role != "user" or not chat.messages[-1].text.strip():
        raise InvalidRequest(
            "file_search answers the last user message, and there is none.",
            hint="End the conversation with the user's question.",
            hint_zh="请以用户的问题结束对话。",
            param="messages",
        )
    question, history = chat.messages[-1].text, chat.messages[:-1]
    query = await _standing_alone(context, request, model, chat, question)
    hits, threshold, vector = await find(
        context, request, tool.vector_store_ids, query, tool.options(), tool.filter(), tool.rerank
    )
    if tool.web_search:
        hits = await _with_web(context, request, tool, query, vector, hits)
    info = context.pool.engine_info(model) or {}
    prepared = prepare(
        question,
        tool.kept(hits),
        threshold=threshold,
        context_tokens=info.get("context") or context.settings.runtime.context or _DEFAULT_CONTEXT,
        mode=tool.answer_mode,
        writes=writes_answers(model),
        history=history,
    )
    if prepared.request is not None:
        asked = dataclasses.replace(
            chat,
            messages=prepared.request.messages,
            tools=[],
            tool_choice="none",
            truncation="auto",
            sampling=calm(chat.sampling),
        )
        return FileAnswer(query, prepared, context.ask(request, model, asked))
    text = prepared.text
    if prepared.reason == "extract":
        embedder = _embedding_model(context, tool.vector_store_ids[0])
        sentences = [sentence for _, sentence in prepared.sentences]
        text = quoted(prepared, vector, await embed(context, request, embedder, sentences, "passage"), threshold)
    return FileAnswer(query, prepared, _written_here(text))


async def _standing_alone(
    context: GatewayContext, request: Request, model: str, chat: ChatRequest, question: str
) -> str:
    """The question with what it refers to; where the model is too small for that, beside the one before it."""
    rewrite = condense(chat.messages[:-1], question)
    if rewrite is None:
        return question
    if not writes_answers(model):
        before = [message.text for message in chat.messages[:-1] if message.role == "user"]
        return f"{before[-1]} {question}" if before else question
    reply = ""
    async for chunk in context.ask(request, model, rewrite):
        reply += chunk["text"] if chunk["kind"] == "text" and not chunk["reasoning"] else ""
    return standalone(reply, question)


async def _with_web(
    context: GatewayContext, request: Request, tool: FileSearchTool, query: str, vector: list[float], hits: list[Hit]
) -> list[Hit]:
    """The passages and what the configured web search finds, best first by cosine."""
    found = await asyncio.to_thread(search_web, context.settings.web_search, query, lambda texts: [0.0] * len(texts))
    if not found:
        return hits
    embedder = _embedding_model(context, tool.vector_store_ids[0])
    vectors = await embed(context, request, embedder, [searched_text(hit) for hit in found], "passage")
    cosines = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in vectors]
    found = [dataclasses.replace(hit, cosine=cosine) for hit, cosine in zip(found, cosines, strict=True)]
    return sorted([*hits, *found], key=lambda hit: -hit.cosine)[: tool.max_num_results]


def _embedding_model(context: GatewayContext, store: str) -> str:
    with open_by_id(context.home, store) as base:
        return base.published.model if base.published else base.model


async def _written_here(text: str) -> AsyncIterator[dict[str, Any]]:
    """The chunks an engine would give for a text."""
    yield {"kind": "started", "seed": None, "template": "", "dropped_messages": 0}
    yield {"kind": "text", "index": 0, "text": text, "reasoning": False, "logprobs": []}
    yield {"kind": "finished", "index": 0, "reason": "stop", "stop": None}
    counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"), 0)
    yield {"kind": "usage", **counts, "prefill_seconds": 0.0, "decode_seconds": 0.0}

"""`file_search`: a conversation's last question answered from vector stores. Maps the tool to floors/retrieval.

Nothing that stands in a document decides what runs: the passages go into one message, and that request has no tools.
Beside functions the model first says, without having seen a passage, whether it calls one; if so the call goes back to
the caller, and only otherwise are the documents searched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.floors.retrieval import Prepared, calm, citations, open_by_id, sent_to
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    EngineProvider,
    Finished,
    Started,
    Text,
    ToolCallDelta,
    Usage,
)
from ninestory.serving.context import GatewayContext
from ninestory.serving.floors.retrieval.vector_stores_schemas import FileSearchTool

_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class FileAnswer:
    """What was found, and the chunks of the answer: a chat model's, or made here when none is needed."""

    query: str
    prepared: Prepared
    chunks: AsyncIterator[Chunk]

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
        """`file_citation`s of a text: beside OpenAI's fields the passage's number and page, and the quoted sentence."""
        return [
            {
                "type": "file_citation",
                "file_id": citation.passage.file_id,
                "filename": citation.passage.file,
                "index": citation.index,
                "number": citation.number,
                "vector_store_id": citation.passage.base,
                "ordinal": citation.passage.ordinal,
                "page": citation.passage.page,
                "start": citation.start,
                "end": citation.end,
                "quote": citation.quote,
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
) -> tuple[AsyncIterator[Chunk], FileAnswer | None]:
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
) -> AsyncIterator[Chunk] | None:
    """The answer's chunks if it calls a function; None as soon as it says something instead."""
    if not chat.tools or chat.tool_choice == "none":
        return None
    chunks = context.ask(request, model, chat)
    held = []
    async for chunk in chunks:
        held.append(chunk)
        if isinstance(chunk, ToolCallDelta):
            return _resumed(held, chunks)
        if isinstance(chunk, Text) and chunk.text.strip() and not chunk.reasoning:
            break
    await chunks.aclose()  # type: ignore[attr-defined]
    return None


async def _resumed(held: list[Chunk], rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
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
    from ninestory.floors.retrieval import AnswerOptions, DocumentAnswer, DocumentSession  # loads numpy

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
    options = AnswerOptions(
        mode=tool.answer_mode,
        search=tool.options(),
        filters=tool.filter(),
        reranker=tool.rerank,
        web=context.settings.web_search if tool.web_search else None,
        least_score=tool.least_score,
    )

    def context_tokens() -> int:
        info = context.pool.engine_info(model)
        return (info.context if info else 0) or context.settings.runtime.context or _DEFAULT_CONTEXT

    read = context.knowledge.reading()

    def work(engines: EngineProvider) -> DocumentAnswer:
        with contextlib.ExitStack() as opened:
            bases = [opened.enter_context(open_by_id(context.home, store)) for store in tool.vector_store_ids]
            session = DocumentSession(bases, engines, model, options, context_tokens=context_tokens, read=read)
            return session.prepare(question, history)

    answer = await context.in_floor(request, work)
    if answer.text is not None:
        return FileAnswer(answer.query, answer.prepared, _written_here(answer.text))
    assert answer.prepared.request is not None
    asked = dataclasses.replace(
        chat,
        messages=answer.prepared.request.messages,
        tools=[],
        tool_choice="none",
        truncation="auto",
        sampling=calm(chat.sampling),
    )
    return FileAnswer(answer.query, answer.prepared, context.ask(request, model, sent_to(asked, model)))


async def _written_here(text: str) -> AsyncIterator[Chunk]:
    """The chunks an engine would give for a text."""
    yield Started(seed=None)
    yield Text(text=text)
    yield Finished(reason="stop")
    yield Usage(prompt_tokens=0)

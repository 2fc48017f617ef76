"""`/v1/responses` as OpenAI has it, stateless and stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ninestory.core.errors import Cancelled, NinestoryError, Unsupported
from ninestory.runtimes.protocol import Chunk, TokenizeRequest, Tokens
from ninestory.serving.context import GatewayContext
from ninestory.serving.file_search import answered, file_search_of
from ninestory.serving.floors.chat.response_builder import Event, ResponseBuilder
from ninestory.serving.floors.chat.responses_schemas import (
    ResponseRequest,
    TokenCountRequest,
    chat_request,
    conversation,
    input_items,
)
from ninestory.serving.stores.responses import ResponseStore
from ninestory.serving.streaming import event, stream


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(tags=["responses"])
    store = ResponseStore(context.state)

    @routes.post("/v1/responses", response_model=None)
    async def create(body: ResponseRequest, request: Request) -> dict[str, Any] | Response:
        """Answer an input; goes on from a stored response when `previous_response_id` names one."""
        earlier = store.conversation(body.previous_response_id) if body.previous_response_id else []
        engine_request = chat_request(body, earlier)
        tool = file_search_of(body.tools)
        chunks, found = await answered(context, request, body.model, engine_request, tool)
        builder = ResponseBuilder(body, found.annotations) if found else ResponseBuilder(body)
        search = found.call_item("file_search_call.results" in (body.include or [])) if found else None

        def keep() -> None:
            if builder.response["store"]:
                store.put(builder.response, builder.with_ids(input_items(body)))

        if body.stream:
            return await stream(request, _lines(builder, search, chunks, keep))
        if search:
            _exhaust(builder.add_search(search))
        async for chunk in chunks:
            _exhaust(builder.add(chunk))
        _exhaust(builder.finish())
        keep()
        return builder.response

    @routes.get("/v1/responses/{response_id}")
    async def retrieve(
        response_id: str,
        stream: Annotated[
            bool,
            Query(description="Only false: a stored response is given whole.", json_schema_extra={"enum": [False]}),
        ] = False,
    ) -> dict[str, Any]:
        """A stored response."""
        if stream:
            raise Unsupported(
                "A stored response cannot be streamed again.",
                hint="Leave 'stream' out: it is given whole.",
                hint_zh="请去掉 stream：已存储的响应会完整返回。",
                param="stream",
            )
        return store.get(response_id)

    @routes.delete("/v1/responses/{response_id}")
    async def delete(response_id: str) -> dict[str, Any]:
        """Forget a stored response. Responses that go on from it can then no longer be continued."""
        store.delete(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @routes.get("/v1/responses/{response_id}/input_items")
    async def list_input_items(
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: Annotated[str | None, Query(max_length=100)] = None,
    ) -> dict[str, Any]:
        """The items that were sent with a stored response."""
        items = store.input_items(response_id)
        if order == "desc":
            items.reverse()
        start = next((place + 1 for place, item in enumerate(items) if item["id"] == after), 0)
        page = items[start : start + limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + limit < len(items),
        }

    @routes.post("/v1/responses/input_tokens")
    async def count_tokens(body: TokenCountRequest, request: Request) -> dict[str, Any]:
        """The tokens that an input would take, rendered by the model's template."""
        earlier = store.conversation(body.previous_response_id) if body.previous_response_id else []
        messages = conversation([*earlier, *input_items(body)], body.instructions)
        question = TokenizeRequest(messages=messages)
        count = 0
        async for chunk in context.ask(request, body.model, question):
            count += len(chunk.ids) if isinstance(chunk, Tokens) else 0
        return {"object": "response.input_tokens", "input_tokens": count}

    return routes


async def _lines(
    builder: ResponseBuilder, search: dict[str, Any] | None, chunks: AsyncIterator[Chunk], keep: Any
) -> AsyncIterator[bytes]:
    """The events of an answer. Nothing is sent before the first chunk, so an early error keeps its status."""
    started = False
    try:
        async for chunk in chunks:
            if not started:
                started = True
                for line in _named(builder.start()):
                    yield line
                for line in _named(builder.add_search(search)) if search else ():
                    yield line
            for line in _named(builder.add(chunk)):
                yield line
        ending = builder.finish()
    except Cancelled:
        raise
    except NinestoryError as error:
        if not started:
            raise
        ending = builder.fail(error)
    for line in _named(ending):
        yield line
    keep()


def _named(events: Iterator[Event]) -> Iterator[bytes]:
    return (event(item, item["type"]) for item in events)


def _exhaust(events: Iterator[Event]) -> None:
    for _ in events:
        pass

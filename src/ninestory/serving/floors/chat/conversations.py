"""`/ninestory/v1/conversations`: what the page keeps of its chats. The shapes are docs/api.md's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import Strict
from ninestory.serving.stores.conversations import ConversationStore

MAX_MESSAGES = 10_000

Title = Annotated[str, Field(max_length=300)]
Floor = Annotated[str, Field(max_length=40, pattern=r"^[a-z_-]+$")]
Model = Annotated[str, Field(max_length=4096)]
MessageId = Annotated[str, Field(min_length=1, max_length=100)]


class StoredMessage(Strict):
    id: MessageId
    parent: MessageId | None = None
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]]
    reasoning: str = ""
    model: Model | None = None
    finish_reason: Literal["stop", "length", "tool_calls", "cancelled", "error"] | None = None
    usage: dict[str, Any] | None = None
    data: dict[str, Any] = {}
    created_at: float | None = Field(default=None, allow_inf_nan=False)


class NewConversation(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"title": "Tea", "messages": [{"id": "m1", "role": "user", "content": "Hi"}], "leaf": "m1"}]
        }
    )

    title: Title = ""
    floor: Floor = "chat"
    model: Model | None = None
    settings: dict[str, Any] = {}
    pinned: bool = False
    messages: list[StoredMessage] = Field(default=[], max_length=MAX_MESSAGES)
    leaf: MessageId | None = None


class ConversationChanges(Strict):
    """What is left out stays as it is."""

    revision: int
    title: Title | None = None
    model: Model | None = None
    settings: dict[str, Any] | None = None
    pinned: bool | None = None
    messages: list[StoredMessage] | None = Field(default=None, max_length=MAX_MESSAGES)
    leaf: MessageId | None = None


class NewMessages(Strict):
    revision: int
    messages: list[StoredMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    leaf: MessageId | None = None


class ExportedConversation(NewConversation):
    """An exported conversation; its id, revision and times are given anew."""

    object: Literal["conversation"] = "conversation"
    id: str = ""
    revision: int = 1
    created_at: float | None = Field(default=None, allow_inf_nan=False)
    updated_at: float | None = Field(default=None, allow_inf_nan=False)


class ExportDocument(Strict):
    format: Literal["ninestory.conversations"]
    version: Literal[1]
    conversations: list[ExportedConversation] = Field(max_length=MAX_MESSAGES)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/conversations", tags=["conversations"])
    store = ConversationStore(context.state)

    @routes.get("")
    async def list_conversations(
        q: Annotated[str, Query(max_length=200, description="Searched in titles and message texts.")] = "",
        floor: Annotated[str | None, Query(max_length=40)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        after: Annotated[str | None, Query(max_length=100)] = None,
    ) -> dict[str, Any]:
        """Summaries: pinned first, then newest."""
        found = store.list(query=q, floor=floor, after=after, limit=limit + 1)
        return {"object": "list", "data": found[:limit], "has_more": len(found) > limit}

    @routes.post("", status_code=201)
    async def create(body: NewConversation) -> dict[str, Any]:
        """Store a new conversation."""
        return store.create(body.model_dump())

    @routes.get("/export")
    async def export(id: Annotated[list[str], Query(max_length=1000)] = []) -> dict[str, Any]:  # noqa: B006
        """Conversations whole, for a file; all of them when no id is given."""
        return {"format": "ninestory.conversations", "version": 1, "conversations": store.export(id)}

    @routes.post("/import", status_code=201)
    async def import_conversations(body: ExportDocument) -> dict[str, Any]:
        """Store the conversations of an exported document under new ids; all or none."""
        renewed = {"id", "object", "revision", "updated_at"}
        made = store.import_all([one.model_dump(exclude=renewed) for one in body.conversations])
        return {"object": "list", "data": made, "has_more": False}

    @routes.get("/{conversation_id}")
    async def retrieve(conversation_id: str) -> dict[str, Any]:
        """One conversation with its messages."""
        return store.get(conversation_id)

    @routes.patch("/{conversation_id}")
    async def change(conversation_id: str, body: ConversationChanges) -> dict[str, Any]:
        """Change what is named. A stale revision is a 409 and changes nothing."""
        changes = body.model_dump(exclude_unset=True, exclude={"revision"})
        nullable = ("model", "leaf")
        changes = {name: value for name, value in changes.items() if value is not None or name in nullable}
        if "messages" in changes:
            changes["messages"] = [message.model_dump() for message in body.messages or []]
        return store.update(conversation_id, body.revision, changes)

    @routes.post("/{conversation_id}/messages")
    async def put_messages(conversation_id: str, body: NewMessages) -> dict[str, Any]:
        """Add messages, or replace those whose id is there. A stale revision is a 409 and changes nothing."""
        messages = [message.model_dump() for message in body.messages]
        return store.put_messages(conversation_id, body.revision, messages, body.leaf or messages[-1]["id"])

    @routes.delete("/{conversation_id}")
    async def delete(conversation_id: str) -> dict[str, Any]:
        """Hide a conversation; it can be restored for a week."""
        until = store.delete(conversation_id)
        return {
            "id": conversation_id,
            "object": "conversation.deleted",
            "deleted": True,
            "restorable_until": until,
        }

    @routes.post("/{conversation_id}/restore")
    async def restore(conversation_id: str) -> dict[str, Any]:
        """Undo the delete."""
        return store.restore(conversation_id)

    return routes

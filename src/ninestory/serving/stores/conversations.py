"""Conversations: a tree of messages (each with its parent) and the leaf shown. Rows of the state database.

It keeps what the page sends and knows nothing of models. Deleting hides a conversation for a week, so that it can be
undone; every change raises the revision by one.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.core.state import State
from ninestory.serving.stores.revisions import check_revision, missing

KEPT_SECONDS = 7 * 86400.0
SNIPPET_CHARACTERS = 120

_MEDIA_DIGEST = re.compile(r'"digest":\s*"([0-9a-f]{64})"')

SCHEMA = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        title TEXT NOT NULL,
        floor TEXT NOT NULL,
        model TEXT,
        pinned INTEGER NOT NULL,
        settings TEXT NOT NULL,
        leaf TEXT,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        deleted_at REAL
    ) STRICT;
    CREATE INDEX conversations_order ON conversations (pinned DESC, updated_at DESC, id);
    CREATE TABLE conversation_messages (
        conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        text TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (conversation, id)
    ) STRICT;
    """,
)

_SUMMARY = (
    "SELECT c.*, (SELECT COUNT(*) FROM conversation_messages m WHERE m.conversation = c.id) AS message_count "
    "FROM conversations c"
)
_LIST = f"""
    {_SUMMARY}
    WHERE deleted_at IS NULL AND (:floor IS NULL OR floor = :floor)
      AND (:pattern IS NULL OR title LIKE :pattern ESCAPE '\\' OR EXISTS (
           SELECT 1 FROM conversation_messages m WHERE m.conversation = c.id AND m.text LIKE :pattern ESCAPE '\\'))
      AND (:after IS NULL OR (-pinned, -updated_at, id) > (SELECT -pinned, -updated_at, id FROM conversations
                                                           WHERE id = :after))
    ORDER BY -pinned, -updated_at, id LIMIT :limit"""

_EDITABLE = ("title", "model", "pinned", "settings", "leaf")


class ConversationStore:
    """All methods take and give plain JSON data in the shapes of docs/api.md."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.migrate("conversations", SCHEMA)

    def list(
        self, *, query: str = "", floor: str | None = None, after: str | None = None, limit: int = 50
    ) -> Sequence[dict[str, Any]]:
        """Summaries, pinned first, then newest. `query` is searched literally in titles and texts."""
        self._purge()
        pattern = f"%{_escaped(query)}%" if query else None
        rows = self.state.execute(_LIST, {"floor": floor, "pattern": pattern, "after": after, "limit": limit})
        return [{**_summary(row), "snippet": self._snippet(row["id"], query) if query else ""} for row in rows]

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Store a new conversation. Raises InvalidRequest: its messages are no tree."""
        conversation_id = f"conv_{secrets.token_hex(12)}"
        now = time.time()
        with self.state.transaction():
            self.state.execute(
                "INSERT INTO conversations VALUES (:id, 1, :title, :floor, :model, :pinned, :settings, :leaf, :created, "
                ":now, NULL)",
                {
                    "id": conversation_id,
                    "title": fields.get("title", ""),
                    "floor": fields.get("floor", "chat"),
                    "model": fields.get("model"),
                    "pinned": int(fields.get("pinned", False)),
                    "settings": _json(fields.get("settings", {})),
                    "leaf": fields.get("leaf"),
                    "created": fields.get("created_at") or now,
                    "now": now,
                },
            )
            self._put_messages(conversation_id, fields.get("messages", []), now)
            self._check_stored_tree(conversation_id)
        return self.get(conversation_id)

    def get(self, conversation_id: str) -> dict[str, Any]:
        """The whole conversation. Raises NotFound."""
        row = self._row(conversation_id)
        rows = self.state.execute(
            "SELECT body FROM conversation_messages WHERE conversation = ? ORDER BY rowid", (conversation_id,)
        )
        summary = _summary(row)
        summary.pop("message_count")
        return {**summary, "settings": json.loads(row["settings"]), "messages": [json.loads(r["body"]) for r in rows]}

    def update(self, conversation_id: str, revision: int, changes: dict[str, Any]) -> dict[str, Any]:
        """Change what `changes` names (`messages` replaces them all).

        Raises:
            NotFound, Conflict: stale revision; InvalidRequest: the messages are no tree.
        """
        with self.state.transaction():
            row = self._row(conversation_id)
            check_revision("conversation", row["revision"], revision)
            if "messages" in changes:
                self.state.execute("DELETE FROM conversation_messages WHERE conversation = ?", (conversation_id,))
                self._put_messages(conversation_id, changes["messages"], time.time())
            self._write(conversation_id, row, {key: changes[key] for key in _EDITABLE if key in changes})
            self._check_stored_tree(conversation_id)
        return self.get(conversation_id)

    def media_digests(self) -> frozenset[str]:
        """The media digests that stored messages refer to; the spool must keep them."""
        rows = self.state.execute("SELECT body FROM conversation_messages WHERE body LIKE '%\"digest\"%'")
        return frozenset(digest for row in rows for digest in _MEDIA_DIGEST.findall(row["body"]))

    def put_messages(
        self, conversation_id: str, revision: int, messages: Sequence[dict[str, Any]], leaf: str | None
    ) -> dict[str, Any]:
        """Add these messages, or replace those whose id is there; the leaf moves to `leaf`. Returns the summary.

        Raises:
            NotFound, Conflict, InvalidRequest: as `update`.
        """
        with self.state.transaction():
            row = self._row(conversation_id)
            check_revision("conversation", row["revision"], revision)
            self._put_messages(conversation_id, messages, time.time())
            self._write(conversation_id, row, {"leaf": leaf})
            self._check_stored_tree(conversation_id)
        return {**_summary(self._row(conversation_id)), "snippet": ""}

    def delete(self, conversation_id: str) -> float:
        """Hide it; returns the moment (Unix seconds) until which `restore` brings it back. Raises NotFound."""
        self._row(conversation_id)
        now = time.time()
        self.state.execute("UPDATE conversations SET deleted_at = ? WHERE id = ?", (now, conversation_id))
        return now + KEPT_SECONDS

    def restore(self, conversation_id: str) -> dict[str, Any]:
        """Undo `delete`. Raises NotFound: it is gone for good."""
        self.state.execute("UPDATE conversations SET deleted_at = NULL WHERE id = ?", (conversation_id,))
        return self.get(conversation_id)

    def export(self, ids: Sequence[str]) -> Sequence[dict[str, Any]]:
        """These conversations whole, or all when `ids` is empty. Raises NotFound."""
        if not ids:
            rows = self.state.execute("SELECT id FROM conversations WHERE deleted_at IS NULL ORDER BY created_at")
            ids = [row["id"] for row in rows]
        return [self.get(conversation_id) for conversation_id in ids]

    def import_all(self, conversations: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Store them all under new ids, or none. Returns summaries. Raises InvalidRequest: messages are no tree."""
        with self.state.transaction():
            made = [self.create(conversation) for conversation in conversations]
        return [{**_summary(self._row(conversation["id"])), "snippet": ""} for conversation in made]

    # --- rows --------------------------------------------------------------------------------------------------

    def _row(self, conversation_id: str) -> sqlite3.Row:
        rows = self.state.execute(f"{_SUMMARY} WHERE c.id = ? AND c.deleted_at IS NULL", (conversation_id,))
        if not rows:
            raise missing("conversation", "对话", conversation_id)
        return rows[0]

    def _put_messages(self, conversation_id: str, messages: Sequence[dict[str, Any]], now: float) -> None:
        if len({message["id"] for message in messages}) != len(messages):
            raise _no_tree("two messages have the same id", "messages")
        for message in messages:
            body = {**message, "created_at": message.get("created_at") or now}
            self.state.execute(
                "INSERT INTO conversation_messages VALUES (?, ?, ?, ?) ON CONFLICT (conversation, id) "
                "DO UPDATE SET text = excluded.text, body = excluded.body",
                (conversation_id, message["id"], _text(message["content"]), _json(body)),
            )

    def _write(self, conversation_id: str, row: sqlite3.Row, changes: dict[str, Any]) -> None:
        values = {key: row[key] for key in _EDITABLE} | changes
        if "settings" in changes:
            values["settings"] = _json(changes["settings"])
        self.state.execute(
            "UPDATE conversations SET revision = revision + 1, updated_at = :now, title = :title, model = :model, "
            "pinned = :pinned, settings = :settings, leaf = :leaf WHERE id = :id",
            {**values, "pinned": int(values["pinned"]), "now": time.time(), "id": conversation_id},
        )

    def _check_stored_tree(self, conversation_id: str) -> None:
        stored = self.get(conversation_id)
        _check_tree(stored["messages"], stored["leaf"])

    def _snippet(self, conversation_id: str, query: str) -> str:
        rows = self.state.execute(
            "SELECT text FROM conversation_messages WHERE conversation = ? AND text LIKE ? ESCAPE '\\' LIMIT 1",
            (conversation_id, f"%{_escaped(query)}%"),
        )
        if not rows:
            return ""
        text = rows[0]["text"]
        start = max(0, text.lower().find(query.lower()) - SNIPPET_CHARACTERS // 3)
        cut = text[start : start + SNIPPET_CHARACTERS]
        return ("…" if start else "") + cut + ("…" if start + SNIPPET_CHARACTERS < len(text) else "")

    def _purge(self) -> None:
        self.state.execute("DELETE FROM conversations WHERE deleted_at < ?", (time.time() - KEPT_SECONDS,))


def _summary(row: sqlite3.Row) -> dict[str, Any]:
    fields = ("id", "revision", "title", "floor", "model", "leaf", "created_at", "updated_at", "message_count")
    return {"object": "conversation", **{name: row[name] for name in fields}, "pinned": bool(row["pinned"])}


def _check_tree(messages: Sequence[dict[str, Any]], leaf: str | None) -> None:
    """Every parent exists and comes to a root: the page walks from the leaf up, and must arrive."""
    parents = {message["id"]: message.get("parent") for message in messages}
    if leaf is not None and leaf not in parents:
        raise _no_tree(f"the leaf {leaf[:80]!r} is no message of it", "leaf")
    rooted: set[str] = set()
    for start in parents:
        path: list[str] = []
        node: str | None = start
        while node is not None and node not in rooted:
            if node not in parents:
                raise _no_tree(f"the parent {node[:80]!r} is no message of it", "messages")
            if len(path) > len(parents):
                raise _no_tree(f"{start[:80]!r} is its own ancestor", "messages")
            path.append(node)
            node = parents[node]
        rooted.update(path)


def _no_tree(why: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"The messages of this conversation are no tree: {why}.",
        hint="Send each message once, with the id of an existing message (or null) as its parent.",
        hint_zh="每条消息只发送一次，parent 应为已有消息的 id 或 null。",
        param=param,
        code="broken_conversation",
    )


def _text(content: Any) -> str:
    """What the search looks at: the texts of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or [])


def _escaped(query: str) -> str:
    return query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

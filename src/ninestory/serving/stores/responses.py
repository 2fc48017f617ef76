"""Stored responses of `/v1/responses`: each with its own input items and the id of the one it goes on from."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from ninestory.core.errors import NotFound
from ninestory.core.state import State

KEPT_SECONDS = 30 * 86400.0
MAX_CHAIN = 1000

SCHEMA = (
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        previous TEXT,
        created_at REAL NOT NULL,
        input_items TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX responses_created ON responses (created_at);
    """,
)

_CHAIN = """
    WITH RECURSIVE chain (id, previous, input_items, body, depth) AS (
        SELECT id, previous, input_items, body, 0 FROM responses WHERE id = :id
        UNION ALL
        SELECT r.id, r.previous, r.input_items, r.body, depth + 1
        FROM responses r JOIN chain c ON r.id = c.previous WHERE depth < :limit
    )
    SELECT * FROM chain ORDER BY depth DESC"""


class ResponseStore:
    """Keeps responses for 30 days."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.migrate("responses", SCHEMA)

    def put(self, body: dict[str, Any], input_items: Sequence[dict[str, Any]]) -> None:
        """Store a finished response; forgets those older than 30 days."""
        now = time.time()
        self.state.execute("DELETE FROM responses WHERE created_at < ?", (now - KEPT_SECONDS,))
        self.state.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?)",
            (
                body["id"],
                body["previous_response_id"],
                now,
                json.dumps([*input_items], ensure_ascii=False),
                json.dumps(body, ensure_ascii=False),
            ),
        )

    def get(self, response_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        rows = self.state.execute("SELECT body FROM responses WHERE id = ?", (response_id,))
        if not rows:
            raise _missing(response_id, None)
        return json.loads(rows[0]["body"])

    def input_items(self, response_id: str) -> list[dict[str, Any]]:
        """The items sent with this response alone. Raises NotFound."""
        rows = self.state.execute("SELECT input_items FROM responses WHERE id = ?", (response_id,))
        if not rows:
            raise _missing(response_id, None)
        return json.loads(rows[0]["input_items"])

    def conversation(self, response_id: str) -> list[dict[str, Any]]:
        """Input and output items of the whole chain that ends with `response_id`, oldest first.

        Raises:
            NotFound: it, or one it goes on from, has been deleted or is older than 30 days.
        """
        rows = self.state.execute(_CHAIN, {"id": response_id, "limit": MAX_CHAIN})
        if not rows or rows[0]["previous"] is not None:
            raise _missing(rows[0]["previous"] if rows else response_id, "previous_response_id")
        items: list[dict[str, Any]] = []
        for row in rows:
            items += json.loads(row["input_items"]) + json.loads(row["body"])["output"]
        return items

    def delete(self, response_id: str) -> None:
        """Raises NotFound."""
        if not self.state.execute("DELETE FROM responses WHERE id = ? RETURNING id", (response_id,)):
            raise _missing(response_id, None)


def _missing(response_id: str, param: str | None) -> NotFound:
    return NotFound(
        f"There is no stored response {response_id[:80]!r}.",
        hint="It was sent with store=false, deleted, or is older than 30 days: send the whole conversation as input.",
        hint_zh="该响应以 store=false 创建、已被删除或已超过 30 天：请把完整对话作为 input 发送。",
        param=param,
        code="response_not_found",
    )

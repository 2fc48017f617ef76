"""Votes between two answers. Rows of the state database; a vote is never changed, only deleted."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from ninestory.core.errors import InvalidRequest
from ninestory.core.state import State
from ninestory.evaluation.battle import WINNERS, Battle
from ninestory.serving.stores.revisions import missing

SCHEMA = (
    """
    CREATE TABLE votes (
        sequence INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        model_a TEXT NOT NULL,
        model_b TEXT NOT NULL,
        winner TEXT NOT NULL CHECK (winner IN ('model_a', 'model_b', 'tie', 'both_bad')),
        blind INTEGER NOT NULL,
        question TEXT NOT NULL,
        answer_a TEXT NOT NULL,
        answer_b TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT;
    """,
)


class VoteStore:
    """All methods take and give plain JSON data in the shape of docs/api.md."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.migrate("votes", SCHEMA)

    def list(self, limit: int, after: str | None = None) -> tuple[Sequence[dict[str, Any]], bool]:
        """Newest first, and whether there are more.

        Raises:
            NotFound: no vote `after`.
        """
        before = self._row(after)["sequence"] if after else None
        rows = self.state.execute(
            "SELECT * FROM votes WHERE (:before IS NULL OR sequence < :before) ORDER BY sequence DESC LIMIT :limit",
            {"before": before, "limit": limit + 1},
        )
        return [_vote(row) for row in rows[:limit]], len(rows) > limit

    def add(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Keep a vote.

        Raises:
            InvalidRequest: both models are the same, or the winner is none of `WINNERS`.
        """
        vote = {"blind": False, "question": "", "answer_a": "", "answer_b": "", "created_at": time.time(), **fields}
        if vote["model_a"] == vote["model_b"]:
            raise InvalidRequest(
                f"Both answers come from {vote['model_a'][:200]!r}; such a vote says nothing about models.",
                hint="Compare two different models.",
                hint_zh="请比较两个不同的模型。",
                param="model_b",
                code="same_model",
            )
        if vote["winner"] not in WINNERS:
            raise InvalidRequest(
                f"winner is {vote['winner']!r}.",
                hint=f"Take one of: {', '.join(WINNERS)}.",
                hint_zh=f"可用的值：{'、'.join(WINNERS)}。",
                param="winner",
            )
        vote["id"] = f"vote_{secrets.token_hex(12)}"
        self.state.execute(
            "INSERT INTO votes (id, model_a, model_b, winner, blind, question, answer_a, answer_b, created_at) VALUES "
            "(:id, :model_a, :model_b, :winner, :blind, :question, :answer_a, :answer_b, :created_at)",
            {**vote, "blind": int(vote["blind"])},
        )
        return _vote(self._row(vote["id"]))

    def delete(self, vote_id: str) -> None:
        """Raises NotFound."""
        self._row(vote_id)
        self.state.execute("DELETE FROM votes WHERE id = ?", (vote_id,))

    def battles(self, *, blind_only: bool = False) -> Sequence[Battle]:
        """All votes in their order, as the ratings take them."""
        rows = self.state.execute(
            "SELECT model_a, model_b, winner FROM votes WHERE blind >= ? ORDER BY sequence", (int(blind_only),)
        )
        return [Battle(row["model_a"], row["model_b"], row["winner"]) for row in rows]

    def _row(self, vote_id: str) -> sqlite3.Row:
        rows = self.state.execute("SELECT * FROM votes WHERE id = ?", (vote_id,))
        if not rows:
            raise missing("vote", "投票", vote_id)
        return rows[0]


def _vote(row: sqlite3.Row) -> dict[str, Any]:
    fields = {name: row[name] for name in row.keys() if name != "sequence"}  # noqa: SIM118 (a Row iterates its values)
    return {"object": "vote", **fields, "blind": bool(row["blind"])}

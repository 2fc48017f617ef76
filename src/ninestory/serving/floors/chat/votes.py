"""`/ninestory/v1/votes`: which of two answers was better, and the leaderboard that follows from it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import Strict
from ninestory.serving.stores.votes import VoteStore

MAX_TEXT = 200_000
BOOTSTRAP_ROUNDS = 100


class NewVote(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model_a": "vicuna:7b-v1.5", "model_b": "belle:7b-2m", "winner": "tie"}]}
    )

    model_a: str = Field(min_length=1, max_length=4096)
    model_b: str = Field(min_length=1, max_length=4096)
    winner: Literal["model_a", "model_b", "tie", "both_bad"]
    blind: bool = False
    question: str = Field(default="", max_length=MAX_TEXT)
    answer_a: str = Field(default="", max_length=MAX_TEXT)
    answer_b: str = Field(default="", max_length=MAX_TEXT)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/votes", tags=["votes"])
    store = VoteStore(context.state)

    @routes.get("")
    async def list_votes(
        limit: Annotated[int, Query(ge=1, le=200)] = 50, after: Annotated[str | None, Query(max_length=100)] = None
    ) -> dict[str, Any]:
        """Votes, newest first."""
        votes, more = store.list(limit, after)
        return {"object": "list", "data": votes, "has_more": more}

    @routes.post("", status_code=201)
    async def vote(body: NewVote) -> dict[str, Any]:
        """Keep a vote. `blind` says that the names were hidden until it was cast."""
        return store.add(body.model_dump())

    @routes.get("/leaderboard")
    def standings(blind_only: bool = False) -> dict[str, Any]:
        """Elo and Bradley-Terry ratings of all votes with 95 % bootstrap intervals, best first."""
        from ninestory.evaluation.arena import leaderboard  # numpy: not before it is asked for

        battles = store.battles(blind_only=blind_only)
        rows = [dataclasses.asdict(row) for row in leaderboard(battles, rounds=BOOTSTRAP_ROUNDS)]
        return {"object": "leaderboard", "votes": len(battles), "rounds": BOOTSTRAP_ROUNDS, "data": rows}

    @routes.delete("/{vote_id}")
    async def delete(vote_id: str) -> dict[str, Any]:
        """Delete a vote."""
        store.delete(vote_id)
        return {"id": vote_id, "object": "vote.deleted", "deleted": True}

    return routes

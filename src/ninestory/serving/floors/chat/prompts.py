"""`/ninestory/v1/prompts`: the library of task prompts, and one of them filled in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from ninestory.core.errors import NotFound
from ninestory.floors.chat import answer_schema, compose, load_prompts
from ninestory.floors.chat import prompt_as_dict as as_dict
from ninestory.serving.context import GatewayContext
from ninestory.serving.schemas import Strict

MAX_VALUE = 200_000


class Filling(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "summarise", "values": {"text": "A long story."}}]}
    )

    prompt: str = Field(min_length=1, max_length=100)
    values: dict[str, Annotated[str, Field(max_length=MAX_VALUE)]] = {}
    language: Literal["en", "zh"] = "en"


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/prompts", tags=["prompts"])

    @routes.get("")
    async def list_prompts() -> dict[str, Any]:
        """All task prompts with their variables, in both languages."""
        data = [{"object": "prompt", **as_dict(prompt)} for prompt in load_prompts().values()]
        return {"object": "list", "data": data, "has_more": False}

    @routes.post("/render")
    async def render(body: Filling) -> dict[str, Any]:
        """The messages of a prompt whose variables are filled in; nothing is asked."""
        prompt = load_prompts().get(body.prompt)
        if prompt is None:  # files are for the command line: a request names no path
            raise NotFound(
                f"There is no prompt {body.prompt!r}.",
                hint="GET /ninestory/v1/prompts lists them.",
                hint_zh="GET /ninestory/v1/prompts 可列出全部。",
                param="prompt",
                code="unknown_prompt",
            )
        messages = compose(prompt, body.values, body.language)
        answer = {"temperature": prompt.temperature, "schema": answer_schema(prompt)}
        return {"object": "prompt.rendered", "messages": messages, **answer}

    return routes

"""Routes of floor 1: answers in OpenAI's and Anthropic's forms, conversations, prompts and votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ninestory.serving.context import GatewayContext


def routes(context: GatewayContext) -> list[APIRouter]:
    """The floor's routers; their modules are imported here, since the schemas beside them are used by other routes."""
    from ninestory.serving.floors.chat import chat, completions, conversations, messages, prompts, responses, votes

    return [
        module.router(context) for module in (chat, completions, conversations, messages, prompts, responses, votes)
    ]

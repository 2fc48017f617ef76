"""A request → the engine's own function for its kind; refused by name where the model takes no such requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ninestory.core.errors import Unsupported
from ninestory.runtimes.moss_calling import answer_or_call
from ninestory.runtimes.prompts import Prompts
from ninestory.runtimes.protocol import ChatRequest, Chunk, Engine, Request

Handler = Callable[[Any, threading.Event], Iterator[Chunk]]


def dispatch(
    engine: Engine, answers: Mapping[str, Handler], request: Request, cancel: threading.Event, prompts: Prompts
) -> Iterator[Chunk]:
    """What `Engine.run` gives back.

    Args:
        answers: kind of request → the function that answers it; only the kinds in `engine.info.tasks` are asked for.
        prompts: the model's, for requests with tools.

    Raises:
        Unsupported: the model takes no requests of this kind.
    """
    info = engine.info
    if request.kind not in info.tasks:
        raise Unsupported(
            f"{info.model} by {info.runtime} cannot answer {request.kind!r} requests; it takes {', '.join(info.tasks)}.",
            hint="Name another model ('ninestory ls').",
            hint_zh="请指定其他模型（ninestory ls）。",
            param="model",
        )
    if isinstance(request, ChatRequest) and request.tools and request.tool_choice != "none":
        return answer_or_call(engine, prompts, request, cancel)
    return answers[request.kind](request, cancel)

"""A request → the engine's own function for its kind. What the model does not take is refused here, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from ninestory.core.errors import Unsupported
from ninestory.runtimes.protocol import ChatRequest, Chunk, Engine, EngineInfo, Feed, Request, TokenizeRequest

Handler = Callable[[Any, threading.Event], Iterator[Chunk]]


def dispatch(
    engine: Engine,
    handlers: Mapping[str, Handler],
    request: Request,
    cancel: threading.Event,
    feed: Feed | None = None,
) -> Iterator[Chunk]:
    """Give the request to the handler of its kind; what `Engine.run` returns.

    Args:
        handlers: kind of request → the function that answers it; only `engine.info.tasks`, and "tokenize" where the
            model tokenizes, are asked for. None of them takes live input.

    Raises:
        Unsupported: the model takes no requests of this kind, no such content part, or no live input.
    """
    info = engine.info
    if request.kind not in info.tasks and not (request.kind == "tokenize" and info.tokenizes):
        raise Unsupported(
            f"{info.model} by {info.runtime} cannot answer {request.kind!r} requests; it takes {', '.join(info.tasks)}.",
            hint="Name another model ('ninestory ls').",
            hint_zh="请指定其他模型（ninestory ls）。",
            param="model",
        )
    if feed is not None:
        refuse_feed(info)
    if isinstance(request, ChatRequest | TokenizeRequest):
        _check_inputs(info, request)
    return handlers[request.kind](request, cancel)


def refuse_feed(info: EngineInfo) -> NoReturn:
    """Raise `Unsupported`: the engine takes no live input."""
    raise Unsupported(
        f"{info.model} by {info.runtime} takes no live input.",
        hint="Send the whole recording.",
        hint_zh="请发送完整的录音。",
    )


def _check_inputs(info: EngineInfo, request: ChatRequest | TokenizeRequest) -> None:
    for i, message in enumerate(request.messages or []):
        for part in message.media:
            if part.media_type.partition("/")[0] not in info.inputs:
                raise Unsupported(
                    f"messages[{i}] holds {part.media_type}; {info.model} takes {', '.join(info.inputs)}.",
                    hint="Remove it, or name a model that takes it.",
                    hint_zh="请移除该内容，或指定支持它的模型。",
                    param=f"messages[{i}]",
                )

"""Floor 1: chat models over engines. `ninestory.load` gives one of a model reference.

with ninestory.load("starter:smollm2-135m-instruct") as model:
    print(model.chat("Hello"))
"""

from typing import TYPE_CHECKING, Any

from ninestory.floors.chat.model import ChatModel, ChatSession, Reply

if TYPE_CHECKING:
    from ninestory.floors.chat.rwkv_session import RwkvSession, open_session

__all__ = ["ChatModel", "ChatSession", "Reply", "RwkvSession", "open_session"]


def __getattr__(name: str) -> Any:
    """The RWKV session is imported when it is asked for: it needs numpy, which the gateway must not load."""
    if name in ("RwkvSession", "open_session"):
        from ninestory.floors.chat import rwkv_session

        return getattr(rwkv_session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Floor 1: chat models, in process.

with load("starter:smollm2-135m-instruct") as model:
    print(model.chat("Hello"))
"""

from ninestory.floors.chat.model import ChatModel, ChatSession, Reply, load
from ninestory.floors.chat.rwkv_session import RwkvSession, open_session

__all__ = ["ChatModel", "ChatSession", "Reply", "RwkvSession", "load", "open_session"]

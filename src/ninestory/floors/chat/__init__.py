"""Floor 1: chat models, in process.

with load("starter:smollm2-135m-instruct") as model:
    print(model.chat("Hello"))
"""

from ninestory.floors.chat.model import ChatModel, ChatSession, Reply, load

__all__ = ["ChatModel", "ChatSession", "Reply", "load"]

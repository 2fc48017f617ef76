"""Floor 1: chat models over engines. `ninestory.load` gives one of a model reference.

with ninestory.load("starter:smollm2-135m-instruct") as model:
    print(model.chat("Hello"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ninestory.core.lazy import lazy_names

if TYPE_CHECKING:  # what a type checker sees; `__getattr__` below gives the same names
    from ninestory.floors.chat.model import ChatModel, ChatSession, Reply, chat_request
    from ninestory.floors.chat.moss import MossDialogue, calculator, completer, equation_solver
    from ninestory.floors.chat.moss import search as search_plugin
    from ninestory.floors.chat.moss import text_to_image as drawing_plugin
    from ninestory.floors.chat.prompt_library import (
        Case,
        Prompt,
        answer_schema,
        compose,
        find_prompt,
        json_fault,
        load_prompts,
    )
    from ninestory.floors.chat.prompt_library import as_dict as prompt_as_dict
    from ninestory.floors.chat.prompt_lint import essential_kept
    from ninestory.floors.chat.prompt_lint import lint as lint_prompt
    from ninestory.floors.chat.rwkv_session import CHAT_SAMPLING as RWKV_CHAT_SAMPLING
    from ninestory.floors.chat.rwkv_session import HELP as RWKV_HELP
    from ninestory.floors.chat.rwkv_session import RwkvSession, open_session

_HOMES = {
    **dict.fromkeys(["ChatModel", "ChatSession", "Reply", "chat_request"], "model"),
    **dict.fromkeys(["MossDialogue", "calculator", "completer", "equation_solver"], "moss"),
    "search_plugin": "moss:search",
    "drawing_plugin": "moss:text_to_image",
    **dict.fromkeys(
        ["Case", "Prompt", "answer_schema", "compose", "find_prompt", "json_fault", "load_prompts"], "prompt_library"
    ),
    "prompt_as_dict": "prompt_library:as_dict",
    "essential_kept": "prompt_lint",
    "lint_prompt": "prompt_lint:lint",
    **dict.fromkeys(["RwkvSession", "open_session"], "rwkv_session"),
    "RWKV_CHAT_SAMPLING": "rwkv_session:CHAT_SAMPLING",
    "RWKV_HELP": "rwkv_session:HELP",
}
__all__ = [
    "RWKV_CHAT_SAMPLING",
    "RWKV_HELP",
    "Case",
    "ChatModel",
    "ChatSession",
    "MossDialogue",
    "Prompt",
    "Reply",
    "RwkvSession",
    "answer_schema",
    "calculator",
    "chat_request",
    "completer",
    "compose",
    "drawing_plugin",
    "equation_solver",
    "essential_kept",
    "find_prompt",
    "json_fault",
    "lint_prompt",
    "load_prompts",
    "open_session",
    "prompt_as_dict",
    "search_plugin",
]
__getattr__ = lazy_names(__name__, _HOMES)

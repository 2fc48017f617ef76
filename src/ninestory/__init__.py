"""ninestory (九层妖塔): one system for the whole tower of open models.

    import ninestory as ns

    with ns.load("starter:smollm2-135m-instruct") as model:
        print(model.chat("What is a neural network?"))

Everything here is imported on first use: `import ninestory` alone loads no torch and no model code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what an editor and a type checker see; `__getattr__` below gives the same names
    from ninestory.core.errors import NinestoryError as NinestoryError
    from ninestory.core.paths import Home as Home
    from ninestory.floors.chat import ChatModel as ChatModel
    from ninestory.library import convert_to_gguf as convert_to_gguf
    from ninestory.library import doctor as doctor
    from ninestory.library import import_model as import_model
    from ninestory.library import list_models as list_models
    from ninestory.library import list_systems as list_systems
    from ninestory.library import load as load
    from ninestory.library import plan as plan
    from ninestory.library import pull as pull
    from ninestory.library import remove as remove
    from ninestory.library import serve as serve
    from ninestory.library import show as show
    from ninestory.library import tune as tune
    from ninestory.library import verify as verify
    from ninestory.models.resolve import resolve as resolve

_LIBRARY = [
    "convert_to_gguf",
    "doctor",
    "import_model",
    "list_models",
    "list_systems",
    "load",
    "plan",
    "pull",
    "remove",
    "serve",
    "show",
    "tune",
    "verify",
]
_WHERE = {
    "ChatModel": "ninestory.floors.chat",
    "resolve": "ninestory.models.resolve",
    "Home": "ninestory.core.paths",
    "NinestoryError": "ninestory.core.errors",
    **dict.fromkeys(_LIBRARY, "ninestory.library"),
}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ninestory' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__

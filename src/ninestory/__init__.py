"""ninestory (九层妖塔): one system for the whole tower of open models.

    import ninestory as ns

    with ns.load("starter:smollm2-135m-instruct") as model:
        print(model.chat("What is a neural network?"))

Everything here is imported on first use: `import ninestory` alone loads no torch and no model code.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load": "ninestory.floors.chat",
    "ChatModel": "ninestory.floors.chat",
    "resolve": "ninestory.models.resolve",
    "verify": "ninestory.models.verify",
    "plan": "ninestory.models.plan",
    "Home": "ninestory.core.paths",
    "NinestoryError": "ninestory.core.errors",
}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ninestory' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__

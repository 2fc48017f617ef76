"""Optional dependencies: import one, or name the extra that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from ninestory.core.errors import MissingExtra


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` naming the extra that holds it.

    Args:
        module: dotted module name, e.g. "torch".
        extra: the extra of pyproject.toml, e.g. "torch".
        what: what the user asked for, e.g. "running safetensors models".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there, but something it needs is broken: that is another fault
        raise MissingExtra(
            f"{what} needs the package '{module}', which is not installed.",
            hint=f"pip install 'ninestory[{extra}]'",
            extra=extra,
        ) from error

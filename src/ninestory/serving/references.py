"""Which model references a request may hold: names, and files below the home. Other files are the operator's to name.

The one check: everything that comes from a request passes `requested` before it is queued, planned, verified, pulled
or opened.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ninestory.core.errors import Forbidden, InvalidRequest
from ninestory.core.paths import Home
from ninestory.models.reference import Reference, parse_reference

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_REVISION = "[A-Za-z0-9](\\.?[A-Za-z0-9_/-]){0,49}"
_SOURCE = f"(((hf|ms):{_NAME}/{_NAME}|(starter:)?{_NAME})(:{_NAME})?(@{_REVISION})?|ft:{_NAME}(:{_NAME})?)"
_ADAPTER = f"\\+((hf|ms):{_NAME}/)?{_NAME}(=-?[0-9]{{1,2}}(\\.[0-9]{{1,9}})?)?"
REFERENCE_PATTERN = f"^({_SOURCE}({_ADAPTER}){{0,8}}|openai:[^+\\x00-\\x1f]{{1,500}})$"
# What a body's `model` may be, for the document; `requested` is what checks it and says what is wrong.
ModelReference = Annotated[
    str,
    Field(
        description="NAME[:VARIANT][@REVISION][+ADAPTER[=WEIGHT]]…", json_schema_extra={"pattern": REFERENCE_PATTERN}
    ),
]


def requested(text: str, home: Home, preload: Collection[str] = ()) -> Reference:
    """A reference of a request. Refuses a path that leaves the home, of the model or of an adapter, and looks at no file.

    Args:
        preload: references of the settings; what the operator loads may be asked for as it is written there.

    Raises:
        InvalidRequest: it is no reference. Forbidden: it names a file elsewhere on the server's machine.
    """
    reference = parse_reference(text)
    if str(reference) in preload:
        return reference
    paths = [reference.source] if reference.scheme == "path" else []
    paths += [adapter.source for adapter in reference.adapters if not _is_plain_name(adapter.source)]
    for path in paths:
        if path.startswith("~") or not Path(path).resolve().is_relative_to(home.root.resolve()):
            raise Forbidden(
                f"{path[:200]!r} is a file of the server's machine outside its home.",
                hint="Take it into the store with 'ninestory import PATH', or start the server with --preload PATH.",
                hint_zh="请先用 ninestory import 路径 导入，或以 --preload 路径 启动服务。",
                param="model",
                code="path_not_allowed",
            )
    return reference


def requested_name(text: str, home: Home) -> Reference:
    """A reference that names a model of the store or of a hub, for what keeps, checks and plans models.

    Raises:
        InvalidRequest: it is no reference, or a path. Forbidden: as `requested`.
    """
    if parse_reference(text).scheme == "path":
        raise InvalidRequest(
            f"{text[:200]!r} is a path; this route takes names.",
            hint="Take the file into the store with 'ninestory import PATH', then use its name.",
            hint_zh="请先用 ninestory import 路径 导入，再使用其名称。",
            param="model",
            code="path_not_allowed",
        )
    return requested(text, home)


def _is_plain_name(text: str) -> bool:
    """The name of a tuning run or of a pulled adapter: nothing that could lead out of where it is looked up."""
    if text.startswith(("hf:", "ms:")):
        return parse_reference(text).scheme in ("hf", "ms")  # its grammar has no "..": anything else is refused there
    return "/" not in text and "\\" not in text and not text.startswith((".", "~"))

"""The strings of a request, wherever they stand: whole characters everywhere, and no control characters in a name.

The one check of all routes: what passes can be written to a database, a log, a file name and a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection, Request

from ninestory.core.errors import InvalidRequest
from ninestory.core.text import broken_string

NAME_PATTERN = r"^[^\x00-\x1f\x7f]*$"  # of every string in a path or query


async def refuse_broken_text(request: HTTPConnection) -> None:
    """A dependency of every route, of WebSockets too; a body was parsed already, and Starlette keeps the result.

    Raises:
        InvalidRequest: naming the first field, or part of the path or query, that is no text.
    """
    _check_names(request.path_params, "path")
    _check_names(dict(request.query_params), "query")
    if not isinstance(request, Request) or "json" not in request.headers.get("content-type", ""):
        return
    if not await request.body():
        return
    try:
        body = await request.json()
    except ValueError:  # only of a route without a body: it does not look at it either
        return
    if (place := broken_string(body)) is not None:
        raise InvalidRequest(
            f"{place or 'The body'} holds half a character (a lone surrogate); expected Unicode text.",
            hint="Cut texts between characters: an emoji is two UTF-16 units, which belong together.",
            hint_zh="请在完整字符之间截断文本：一个表情符号由两个 UTF-16 单元组成，不可拆开。",
            param=place or None,
            code="invalid_text",
        )


def _check_names(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        if isinstance(value, str) and any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise InvalidRequest(
                f"The {where} parameter {name[:80]!r} holds a control character.",
                hint="Send a plain name or id.",
                hint_zh="请使用普通的名称或 id。",
                param=name[:80],
                code="invalid_text",
            )

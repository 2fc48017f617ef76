"""Query parameters nobody declared are refused by name, as fields of a body are."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from ninestory.core.errors import InvalidRequest

NO_OP = frozenset({"beta"})  # Anthropic's client marks its beta methods with it


def refuse_unknown_query(request: HTTPConnection) -> None:
    """A dependency of every route, of WebSockets too.

    Raises:
        InvalidRequest: naming the first parameter the route does not know.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params} | NO_OP
    if unknown := [name for name in request.query_params if name not in known]:
        raise InvalidRequest(
            f"The query parameter {unknown[0][:80]!r} is not supported here.",
            hint="Leave it out; /openapi.json lists what is honoured.",
            hint_zh="请去掉该参数；/openapi.json 列出了支持的参数。",
            param=unknown[0][:80],
            code="unsupported_field",
        )

"""Errors on the wire: OpenAI's shape everywhere, Anthropic's on its own route."""

from __future__ import annotations

import logging
from typing import Any, Literal

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from ninestory.core.errors import InvalidRequest, NinestoryError


class ErrorObject(BaseModel):
    """What happened, and what to do about it in both languages."""

    message: str
    type: str
    code: str
    param: str | None
    hint: str
    hint_zh: str
    request_id: str
    details: dict[str, Any]


class ErrorBody(BaseModel):
    """Every error of this API but those of /v1/messages."""

    error: ErrorObject


class AnthropicErrorObject(BaseModel):
    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """Every error of /v1/messages."""

    type: Literal["error"]
    error: AnthropicErrorObject
    request_id: str


def documented(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The error responses of every route, for the OpenAPI document."""
    return {
        "4XX": {"description": "The request cannot be answered as it is", "model": body},
        "5XX": {"description": "The server cannot answer it now", "model": body},
    }


log = logging.getLogger("ninestory.api")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(error: NinestoryError, request_id: str, path: str = "") -> dict[str, Any]:
    """The JSON body of an error; `hint` says what to do, in both languages."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    if path.startswith("/v1/messages"):
        kind = {413: "request_too_large", 529: "overloaded_error"}.get(error.status, kind)
        kind = "api_error" if kind == "server_error" else kind
        text = f"{error.message} {error.hint}".strip()
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.code,
            "param": error.param,
            "hint": error.hint,
            "hint_zh": error.hint_zh,
            "request_id": request_id,
            "details": error.details,
        }
    }


def error_response(error: NinestoryError, request: Request) -> Response:
    body = error_body(error, request.state.request_id, request.url.path)
    return Response(orjson.dumps(body), error.status, retry_header(error), "application/json")


def retry_header(error: NinestoryError) -> dict[str, str]:
    """When the same request may be sent again, if the error knows."""
    return {"Retry-After": str(error.details["retry_after"])} if "retry_after" in error.details else {}


def internal_error(error: Exception, request: Request) -> NinestoryError:
    """A fault of ours as the client may see it; the log has the rest."""
    log.exception("request %s failed", request.state.request_id, exc_info=error)
    return NinestoryError(
        f"An internal error: {type(error).__name__}.",
        hint="The server's log has the details under this request id.",
        hint_zh="服务器日志中有该请求编号的详细信息。",
    )


def install_handlers(app: FastAPI) -> None:
    """Every way a request can fail ends in the same shape."""

    async def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, NinestoryError)
        return error_response(error, request)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_first_fault(error), request)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, NinestoryError):  # FastAPI wraps what is raised while it reads a form
            return error_response(error.__cause__, request)
        ours = NinestoryError(str(error.detail), code="http_error")
        response = error_response(ours, request)
        response.status_code = error.status_code
        if error.headers:
            response.headers.update(error.headers)
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(allowed_methods(request))
        return response

    async def on_bug(request: Request, error: Exception) -> Response:
        return error_response(internal_error(error, request), request)

    app.add_exception_handler(NinestoryError, on_ours)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)


def allowed_methods(request: Request) -> list[str]:
    """Every method that some route answers at this path; a router names only those of the first that fits."""
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _first_fault(error: RequestValidationError) -> InvalidRequest:
    """pydantic's first complaint as one sentence that names the field."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path"))
    if fault["type"] == "extra_forbidden":
        return InvalidRequest(
            f"The field {where!r} is not supported here.",
            hint="Leave it out; /openapi.json lists what is honoured.",
            hint_zh="请去掉该字段；/openapi.json 列出了支持的字段。",
            param=where,
            code="unsupported_field",
        )
    if fault["type"] == "json_invalid":
        return InvalidRequest(
            f"The body is not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}.",
            hint="Send a JSON object with Content-Type: application/json.",
            hint_zh="请以 Content-Type: application/json 发送 JSON 对象。",
            code="invalid_json",
        )
    return InvalidRequest(
        f"{where or 'The body'}: {fault['msg']}.",
        hint="Correct the value; /openapi.json shows what is expected.",
        hint_zh="请更正该值；/openapi.json 说明了要求。",
        param=where or None,
        code="invalid_value",
    )

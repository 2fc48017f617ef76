"""`/ninestory/v1/session`: how the page signs in. Every other client sends the key itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ninestory.serving.context import GatewayContext
from ninestory.serving.guard import COOKIE
from ninestory.serving.schemas import Strict


class SignIn(Strict):
    api_key: str = Field(max_length=1000)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/session", tags=["session"])

    @routes.get("")
    async def session(request: Request) -> dict[str, Any]:
        """Whether a key is needed, and whether this client has given it."""
        return {"required": context.keys.required, "signed_in": context.keys.signed_in(dict(request.headers.raw))}

    @routes.post("", status_code=204)
    async def sign_in(body: SignIn, request: Request) -> Response:
        """Exchange the key for a cookie that no script can read and no other site can send."""
        cookie = context.keys.sign_in(body.api_key, request.client.host if request.client else "")
        response = Response(status_code=204)
        response.set_cookie(
            COOKIE,
            cookie,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
        return response

    @routes.delete("", status_code=204)
    async def sign_out(request: Request) -> Response:
        """End the session: its cookie signs nobody in from now on."""
        context.keys.end_sessions(dict(request.headers.raw))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return routes

"""A small client of a running server, for the verbs that ask one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ninestory.core.errors import NinestoryError, Unavailable

Server = Annotated[str, typer.Option("--server", help="Address of the running server.")]
DEFAULT = ""


class ServerClient:
    """Calls a server's API; its errors become ours."""

    def __init__(self, address: str) -> None:
        from ninestory.core.config import load_settings
        from ninestory.serving.run import api_key

        settings = load_settings().settings
        serve = settings.serve
        self.address = (address or settings.server or f"http://{serve.host}:{serve.port}").rstrip("/")
        self.key = api_key(serve)
        self._headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; the JSON of its answer.

        Raises:
            Unavailable: no server answers there. NinestoryError: what the server said.
        """
        import httpx

        try:
            response = httpx.request(
                method, self.address + path, headers=self._headers, timeout=300, trust_env=False, **options
            )
        except httpx.TransportError as error:
            raise Unavailable(
                f"No server answers at {self.address} ({type(error).__name__}).",
                hint="Start one with 'ninestory serve', or name it with --server.",
                hint_zh="请用 ninestory serve 启动，或用 --server 指定地址。",
            ) from error
        if response.is_error:
            raise _error(response)
        return response.json() if response.content else None


def running_server(address: str) -> ServerClient | None:
    """The server that was named by flag or setting; None when the verb works in this process."""
    from ninestory.core.config import load_settings

    return ServerClient(address) if address or load_settings().settings.server else None


def _error(response: Any) -> NinestoryError:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return NinestoryError(f"The server answered {response.status_code}: {response.text[:200]}")
    return NinestoryError(
        error["message"], hint=error.get("hint", ""), hint_zh=error.get("hint_zh", ""), code=error["code"]
    )

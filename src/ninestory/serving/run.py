"""`ninestory serve`: check, open the home, serve until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ninestory.core.config import Loaded, ServeSettings
from ninestory.core.errors import Conflict, InvalidRequest
from ninestory.core.paths import Home
from ninestory.core.reserve import DiskReserve
from ninestory.core.state import State, lock_home
from ninestory.jobs.store import JobStore
from ninestory.serving.context import GatewayContext
from ninestory.serving.gateway import create_app
from ninestory.serving.guard import KeyCheck
from ninestory.serving.metrics import Metrics
from ninestory.serving.pool import Pool

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_PORT = 65535


def serve(loaded: Loaded, home: Home, announce: Callable[[str], None] = print) -> None:
    """Run a server in this (the main) thread until SIGTERM or Ctrl-C; then drain and stop every worker.

    Args:
        announce: takes the lines of the start banner.

    Raises:
        InvalidRequest: a public bind without an API key.
        Conflict: another server uses this home, or the port is taken.
    """
    settings = loaded.settings.serve
    key = api_key(settings)
    check_bind(settings, key)
    listener = _listen(settings)
    lock = lock_home(home.ensure())
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(loaded, home, key, listener, announce))
    finally:
        lock.release()
        listener.close()


def api_key(settings: ServeSettings) -> str:
    """The key from the settings or from its file.

    Raises:
        InvalidRequest: the file cannot be read as text.
    """
    if not settings.api_key_file:
        return settings.api_key
    try:
        return Path(settings.api_key_file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"The key file {settings.api_key_file} cannot be read: {error}.",
            hint="Write the key into that file, or name another with --api-key-file.",
            hint_zh="请将密钥写入该文件，或用 --api-key-file 指定其他文件。",
            param="serve.api_key_file",
        ) from error


def check_bind(settings: ServeSettings, key: str) -> None:
    if settings.host not in _LOOPBACK and not key:
        raise InvalidRequest(
            f"Listening on {settings.host} would let everybody on the network in.",
            hint="Set a key: --api-key-file FILE, or NINESTORY_SERVE_API_KEY. Or listen on 127.0.0.1.",
            hint_zh="请设置密钥：--api-key-file 文件 或 NINESTORY_SERVE_API_KEY；或仅监听 127.0.0.1。",
            param="serve.host",
            code="public_bind_without_key",
        )


async def _serve(
    loaded: Loaded, home: Home, key: str, listener: socket.socket, announce: Callable[[str], None]
) -> None:
    import uvicorn

    from ninestory.serving.http_protocol import BoundedHttpProtocol

    reserve = DiskReserve(home.reserve)
    reserve.release_if_low()  # a server starts on a full disk too: to read, and to delete
    state = State(home.state_db)
    reserve.make()
    pool = Pool(loaded.settings, home)
    context = GatewayContext(loaded, home, pool, state, JobStore(state), KeyCheck(key), Metrics())
    config = uvicorn.Config(
        create_app(context),
        loop="none",
        http=BoundedHttpProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=35,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            context.stopping = True
            super().handle_exit(sig, frame)

    server = Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after its shutdown: that is the end
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    announce(
        f"ninestory is listening on http://{shown}:{port}  (page: http://{shown}:{port}/ui/, process {os.getpid()})"
    )
    preload = [asyncio.create_task(pool.load(reference)) for reference in loaded.settings.serve.preload]

    def end_if_failed(task: asyncio.Task[dict[str, Any]]) -> None:
        if not task.cancelled() and task.exception():  # a server without the models it was started for is no use
            server.should_exit = True

    for task in preload:
        task.add_done_callback(end_if_failed)
    try:
        await server.serve(sockets=[listener])
        for task in preload:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception() or RuntimeError
    finally:
        for task in preload:
            task.cancel()
        state.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(settings: ServeSettings) -> socket.socket:
    """Raises InvalidRequest: there is no such port. Conflict: it cannot be used."""
    if not 0 <= settings.port <= MAX_PORT:
        raise InvalidRequest(
            f"serve.port is {settings.port}; expected 0 to {MAX_PORT}.",
            hint="Choose another port with --port; 0 picks a free one.",
            hint_zh="请用 --port 选择其他端口；0 表示自动选择空闲端口。",
            param="serve.port",
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Port {settings.port} of {settings.host} cannot be used: {error.strerror}.",
            hint="Stop the other program, or choose another port with --port.",
            hint_zh="请停止占用端口的程序，或用 --port 选择其他端口。",
            param="serve.port",
            code="port_taken",
        ) from error
    return listener

"""A cable between browser and server that can be cut in mid-answer and mended: a TCP relay on a port of its own."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class Cable:
    def __init__(self, server_url: str) -> None:
        self._target = (urlsplit(server_url).hostname, urlsplit(server_url).port)
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._accept()

    def cut(self) -> None:
        """Every connection breaks off, and none can be made."""
        self._close(self._listener)
        for end in self._sockets:
            self._close(end)
        self._sockets.clear()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._accept()

    def __enter__(self) -> Cable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def _accept(self) -> None:
        def run(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):  # cut
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection(self._target)  # type: ignore[arg-type]
                    self._sockets += [near, far]
                    threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

        threading.Thread(target=run, args=(self._listener,), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError, ValueError):
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        raise OSError
                    key.data.sendall(data)
        self._close(near)
        self._close(far)

    @staticmethod
    def _close(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
        end.close()

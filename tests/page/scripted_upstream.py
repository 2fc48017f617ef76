"""An OpenAI-compatible endpoint that says what the test wants: hostile texts, faults in mid-answer, an exact speed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class ScriptedUpstream:
    """Set `pieces`, `tokens_per_second` (0 = at once), `breaks_after` (pieces, then the connection drops)."""

    def __init__(self) -> None:
        self.reset()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                upstream.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                with contextlib.suppress(OSError):  # the gateway hangs up when the test presses Stop
                    upstream._write(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reset(self) -> None:
        self.pieces: list[str] = ["Hello."]
        self.reasoning: list[str] = []
        self.tool_calls: list[tuple[str, str]] = []  # name, arguments
        self.tokens_per_second = 0.0
        self.breaks_after: int | None = None
        self.last_token_at = 0.0
        self.requests: list[dict[str, object]] = []

    def _write(self, handler: BaseHTTPRequestHandler) -> None:
        began = time.monotonic()
        deltas: list[dict[str, object]] = [{"reasoning_content": r} for r in self.reasoning]
        deltas += [{"content": p} for p in self.pieces]
        for i, (name, arguments) in enumerate(self.tool_calls):
            called = {"name": name, "arguments": arguments}
            deltas.append({"tool_calls": [{"index": i, "id": f"call_{i}", "type": "function", "function": called}]})
        for i, delta in enumerate(deltas):
            if self.breaks_after is not None and i >= self.breaks_after:
                handler.connection.close()
                return
            if self.tokens_per_second:
                time.sleep(max(0.0, began + i / self.tokens_per_second - time.monotonic()))
            self._event(handler, delta, None)
        self.last_token_at = time.time()
        self._event(handler, {}, "tool_calls" if self.tool_calls else "stop")
        handler.wfile.write(b"data: [DONE]\n\n")

    def _event(self, handler: BaseHTTPRequestHandler, delta: dict[str, object], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": [choice]}
        handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        handler.wfile.flush()

    def __enter__(self) -> ScriptedUpstream:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

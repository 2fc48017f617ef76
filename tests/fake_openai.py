"""An OpenAI-compatible server for tests: real HTTP on loopback, fixed answers, failures by script.

In tests: `with FakeOpenAI() as fake: fake.script.append(Fault(status=429, headers={"retry-after": "0"}))`.
By hand or from a guide's commands: `python tests/fake_openai.py --port 8399`.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SILENCE_SECONDS = 20.0


@dataclass
class Fault:
    """What to do instead of answering one request properly."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after_chunks: int | None = None  # answer so many chunks of a stream, then …
    then: str = "cut"  # "cut" the connection, fall "silent", send an "error" event or "end" without [DONE]


class FakeOpenAI:
    """Serves while the block lasts. `requests` holds (path, body) of all that came; `script` the faults to come.

    Args:
        key: when set, requests without `Authorization: Bearer <key>` get a 401 that (rudely) repeats what was sent.
    """

    def __init__(self, port: int = 0, key: str = "") -> None:
        self.key = key
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.script: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._server.fake = self  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FakeOpenAI:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    @property
    def fake(self) -> FakeOpenAI:
        return self.server.fake  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        if self.path.endswith("/models"):
            return self._json(200, {"object": "list", "data": [{"id": "fake-gpt", "object": "model"}]})
        return self._json(404, {"error": {"message": f"no {self.path} here"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.fake.requests.append((self.path, body))
        given = self.headers.get("authorization", "")
        if self.fake.key and given != f"Bearer {self.fake.key}":
            return self._json(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        fault = self.fake.script.pop(0) if self.fake.script else None
        if fault and fault.after_chunks is None:
            return self._send(fault.status, fault.body.encode(), fault.headers)
        if self.path.endswith("/embeddings"):
            return self._json(200, _embeddings(body))
        if self.path.endswith("/chat/completions"):
            return self._answer(body, _chat_chunks(body), fault)
        if self.path.endswith("/completions"):
            return self._answer(body, _text_chunks(body), fault)
        return self._json(404, {"error": {"message": f"no {self.path} here"}})

    def _answer(self, body: dict[str, Any], chunks: list[dict[str, Any]], fault: Fault | None) -> None:
        if not body.get("stream"):
            return self._json(200, _joined(chunks))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for number, chunk in enumerate(chunks):
            if fault and number == fault.after_chunks:
                return self._break(fault)
            self._event(json.dumps(chunk))
        self._event("[DONE]")

    def _break(self, fault: Fault) -> None:
        if fault.then == "error":
            self._event(json.dumps({"error": {"message": "the model fell over"}}))
        elif fault.then == "silent":
            time.sleep(SILENCE_SECONDS)

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, data: dict[str, Any]) -> None:
        self._send(status, json.dumps(data).encode(), {"content-type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _chat_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls the first (or the chosen) tool where it may; else repeats the last message word by word."""
    tools, choice = body.get("tools"), body.get("tool_choice", "auto")
    last = body["messages"][-1]
    if tools and choice != "none" and last["role"] != "tool":
        name = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
        call = {"index": 0, "id": "call_fake", "type": "function", "function": {"name": name, "arguments": ""}}
        deltas: list[dict[str, Any]] = [{"tool_calls": [call]}]
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"city":', ' "Paris"}')
        ]
        reason = "tool_calls"
    else:
        content = last["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        deltas, reason = [{"content": piece} for piece in _words(f"You said: {text}")], "stop"
    chunks = [
        _chunk(body, {"index": i, "delta": delta, "finish_reason": None})
        for i in range(body.get("n") or 1)
        for delta in [{"role": "assistant", "content": ""}, *deltas]
    ]
    chunks += [_chunk(body, {"index": i, "delta": {}, "finish_reason": reason}) for i in range(body.get("n") or 1)]
    return [*chunks, _usage(body, len(deltas))]


def _text_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    pieces = _words(f" and then {body['prompt']}")
    chunks = [_chunk(body, {"index": 0, "text": piece, "finish_reason": None}) for piece in pieces]
    return [*chunks, _chunk(body, {"index": 0, "text": "", "finish_reason": "stop"}), _usage(body, len(pieces))]


def _words(text: str) -> list[str]:
    return [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]


def _chunk(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "fake", "object": "chunk", "model": body["model"], "choices": [choice]}


def _usage(body: dict[str, Any], completion: int) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}
    return {"id": "fake", "object": "chunk", "model": body["model"], "choices": [], "usage": usage}


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer without streaming: the first choice's text."""
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    text = "".join(c.get("text") or c.get("delta", {}).get("content", "") for c in choices if c["index"] == 0)
    message = {"role": "assistant", "content": text}
    return {
        "id": "fake",
        "object": "chat.completion",
        "model": chunks[0]["model"],
        "choices": [{"index": 0, "message": message, "text": text, "finish_reason": "stop"}],
        "usage": chunks[-1]["usage"],
    }


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [{"index": i, "object": "embedding", "embedding": [float(len(t)), 1.0, 0.0]} for i, t in enumerate(inputs)]
    data.reverse()  # the order is not promised, only the index
    return {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="")
    arguments = parser.parse_args()
    fake = FakeOpenAI(arguments.port, arguments.key)
    print(f"serving {fake.url}", flush=True)
    fake.serve()


if __name__ == "__main__":
    main()

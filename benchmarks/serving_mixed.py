"""Mixed requests by many clients, some of which vanish, on a server with many knowledge bases: does it stay flat?

    python benchmarks/serving_mixed.py [--requests 2000] [--clients 16] [--stores 300]

Prints one JSON object: resident memory (MB) and descriptors of the gateway and of the processes it started, at rest
after a quarter of the requests and at the end; what the clients saw, by status. Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
from serving import start_gateway

from ninestory.core.paths import Home
from ninestory.floors.retrieval.knowledge_base import create

MODEL = "starter:smollm2-135m-instruct"
OWN = "/ninestory/v1"
REST_SECONDS = 30.0


def make_stores(home: Home, count: int) -> list[str]:
    """`count` empty knowledge bases: copies of one, whose folders are their identity. Returns their ids."""
    with create(home, "soak") as base:
        base.settle()
        folder = base.folder
    ids = [f"vs_{number:024x}" for number in range(count - 1)]
    for base_id in ids:
        shutil.copytree(folder, home.kb / base_id)
    return [folder.name, *ids]


class Client:
    """One client with habits drawn by its own generator: what it asks, and whether it stays for the answer."""

    def __init__(self, port: int, stores: Sequence[str], seen: Counter[str]) -> None:
        self._port, self._stores, self._seen = port, stores, seen

    def ask(self, number: int) -> None:
        """The request of this number; the same in every run."""
        draw = random.Random(number)
        habits: list[Callable[[random.Random], None]] = [
            *[self._look] * 8,
            *[self._write] * 3,
            *[self._chat] * 2,
            self._half_a_request,
            self._endless_headers,
            self._vanish,
        ]
        try:
            draw.choice(habits)(draw)
        except (OSError, HTTPException) as fault:
            self._seen[type(fault).__name__] += 1

    def _look(self, draw: random.Random) -> None:
        paths = [
            "/v1/vector_stores?limit=100",
            f"/v1/vector_stores/{draw.choice(self._stores)}",
            f"/v1/vector_stores/{draw.choice(self._stores)}/files",
            f"/v1/vector_stores/vs_{draw.getrandbits(96):024x}",
            f"/v1/vector_stores/nobody{draw.getrandbits(32)}",
            f"/v1/files/file-{draw.getrandbits(96):024x}",
            "/v1/models",
            "/v1/files",
            f"{OWN}/conversations?q=x",
            f"{OWN}/system/requests",
            "/metrics",
            "/ui/",
        ]
        self._exchange("GET", draw.choice(paths))

    def _write(self, draw: random.Random) -> None:
        if draw.random() < 0.5:
            made = self._exchange("POST", f"{OWN}/conversations", {"title": "x" * draw.randrange(300)})
            self._exchange("DELETE", f"{OWN}/conversations/{made['id']}")
        elif draw.random() < 0.7:
            self._exchange("POST", f"/v1/vector_stores/{draw.choice(self._stores)}", {"name": "renamed"})
        else:
            self._exchange("POST", "/v1/chat/completions", {"model": draw.choice(["", "nobody/x", 5, "/etc"])})

    def _chat(self, draw: random.Random) -> None:
        self._exchange("POST", "/v1/chat/completions", chat_body(draw, 4))

    def _vanish(self, draw: random.Random) -> None:
        """Leave in mid-answer."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        body = json.dumps({**chat_body(draw, 40), "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        connection.getresponse().read(draw.randrange(1, 400))
        connection.close()
        self._seen["vanished"] += 1

    def _half_a_request(self, draw: random.Random) -> None:
        whole = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000
        with socket.create_connection(("127.0.0.1", self._port), 60) as connection:
            connection.sendall(whole[: draw.randrange(1, len(whole))])
        self._seen["vanished"] += 1

    def _endless_headers(self, _: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 20_000)
            self._seen[connection.recv(100).split()[1].decode()] += 1

    def _exchange(self, verb: str, path: str, body: Any = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        sent = None if body is None else json.dumps(body)
        connection.request(verb, path, sent, {"Content-Type": "application/json"} if sent else {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self._seen[str(answer.status)] += 1
        return json.loads(content) if "json" in answer.headers.get("content-type", "") else None


def chat_body(draw: random.Random, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Say the number {draw.randrange(1000)}."}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "seed": 1}


def at_rest(process: psutil.Process, base: int | None = None) -> dict[str, float]:
    """Memory and descriptors once the connections are closed (their number is `base`, or has stopped to fall)."""
    until = time.monotonic() + REST_SECONDS
    last = process.num_fds()
    while time.monotonic() < until:
        time.sleep(1.0)
        now = process.num_fds()
        if now <= (last if base is None else base) and not process.net_connections("tcp")[1:]:
            break
        last = now
    children = process.children(recursive=True)
    return {
        "gateway_mb": round(process.memory_info().rss / 1e6, 1),
        "gateway_descriptors": process.num_fds(),
        "processes": len(children),
        "processes_mb": round(sum(child.memory_info().rss for child in children) / 1e6, 1),
        "processes_descriptors": sum(child.num_fds() for child in children),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--stores", type=int, default=300)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ninestory-mixed-") as home:
        stores = make_stores(Home(Path(home)), chosen.stores)
        started, port, _ = start_gateway(home)
        try:
            process, seen = psutil.Process(started.pid), Counter[str]()
            client = Client(port, stores, seen)
            warm, began = chosen.requests // 4, time.monotonic()
            with ThreadPoolExecutor(chosen.clients) as clients:
                list(clients.map(client.ask, range(warm)))
                first = at_rest(process)
                list(clients.map(client.ask, range(warm, chosen.requests)))
            last = at_rest(process, int(first["gateway_descriptors"]))
            figures = {"seconds": round(time.monotonic() - began, 1), "after_a_quarter": first, "at_the_end": last}
            print(json.dumps({**vars(chosen), **figures, "seen": dict(sorted(seen.items()))}))
        finally:
            started.kill()
            started.wait()


if __name__ == "__main__":
    main()

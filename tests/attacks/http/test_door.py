"""The real server's door from outside: limits, sessions, methods, log lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.attacks.http.thread_server import exchange
from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow
KEY = "the-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("door"), serve_api_key=KEY) as server:
        yield server


def port_of(server: ApiServer) -> int:
    return urllib.parse.urlsplit(server.url).port or 0


def test_endless_headers_are_refused_by_the_real_server(server: ApiServer) -> None:
    answer = exchange(port_of(server), b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 200_000)
    assert answer.startswith(b"HTTP/1.1 431 ") and b"headers_too_large" in answer
    assert server.http.get("/health").status_code == 200


def test_two_hosts_are_a_400(server: ApiServer) -> None:
    port = port_of(server)
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert exchange(port, request).startswith(b"HTTP/1.1 400 ")
    assert exchange(port, request.replace(b"Host: evil.example\r\n", b"")).startswith(b"HTTP/1.1 200 ")


def test_a_cookie_that_was_signed_out_is_worth_nothing(server: ApiServer) -> None:
    with httpx.Client(base_url=server.url) as page:
        assert page.post("/ninestory/v1/session", json={"api_key": KEY}).status_code == 204
        kept = {"Cookie": f"ninestory_session={page.cookies['ninestory_session']}"}
        assert page.get("/v1/models").status_code == 200
        assert page.delete("/ninestory/v1/session").status_code == 204
    assert httpx.get(f"{server.url}/v1/models", headers=kept).status_code == 401


def test_guessing_keys_is_slowed_down(server: ApiServer) -> None:
    answers = [server.http.post("/ninestory/v1/session", json={"api_key": f"guess {n}"}) for n in range(8)]
    assert [answer.status_code for answer in answers[:5]] == [401] * 5
    assert answers[-1].status_code == 429 and int(answers[-1].headers["retry-after"]) >= 1
    assert server.http.get("/v1/models").status_code == 200  # who sends the key itself is not slowed down


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models", {"GET"}),
        ("/v1/files", {"GET", "POST"}),
        ("/v1/files/file-0", {"GET", "DELETE"}),
        ("/v1/vector_stores/vs_0", {"GET", "POST", "DELETE"}),
        ("/ninestory/v1/session", {"GET", "POST", "DELETE"}),
        ("/ninestory/v1/conversations/conv_0", {"GET", "PATCH", "DELETE"}),
        ("/v1/chat/completions", {"POST"}),
        ("/ui/", {"GET", "HEAD"}),
    ],
)
def test_wrong_method_is_a_405_that_names_all_right_ones(server: ApiServer, path: str, methods: set[str]) -> None:
    refused = server.http.put(path)
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == methods


@pytest.mark.parametrize("flags", [("--port", "99999"), ("--port", "-1"), ("--api-key-file", "/nonexistent/key")])
def test_wrong_settings_of_serve_are_an_error_not_a_traceback(tmp_path: Path, flags: tuple[str, str]) -> None:
    environ = {**os.environ, "NINESTORY_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ninestory", "serve", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert flags[1] in done.stderr


def test_a_path_cannot_write_a_log_line_of_its_own(tmp_path: Path) -> None:
    environ = {**os.environ, "NINESTORY_HOME": str(tmp_path), "NINESTORY_SERVE_PORT": "0"}
    command = [sys.executable, "-m", "ninestory", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        url = "http://" + process.stdout.readline().split("http://")[1].split()[0]
        for escaped in ("%0d%0a12:00:00%20info%20%20%20%20FORGED", "%1b[2J%e2%80%a8FORGED", "%e2%80%ae%c2%85FORGED"):
            assert httpx.get(f"{url}/v1/files/{escaped}").status_code in (400, 404)
        process.send_signal(signal.SIGTERM)
        _, written = process.communicate(timeout=60)
    lines = [line for line in written.splitlines() if "FORGED" in line]
    assert len(lines) == 3 and all("GET /v1/files/" in line for line in lines), written
    assert "\x1b" not in written and "\u202e" not in written

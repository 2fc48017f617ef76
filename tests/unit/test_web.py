"""The guarded web client against a real server on loopback and against every road into a private network."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import httpcore
import pytest

from ninestory.core import web
from ninestory.core.errors import Forbidden, InvalidRequest, RemoteFailed, TimedOut, TooLarge

OWN = frozenset({"127.0.0.1"})


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_address[1]
        redirects = {
            "/moved": "/page",
            "/loop": "/loop",
            "/inside": f"http://localhost:{port}/page",
            "/file": "file:///etc/passwd",
            "/metadata": "http://169.254.169.254/latest/meta-data/",
        }
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Type", 'Text/HTML; charset="gb18030"')
        self.end_headers()
        if self.path == "/endless":
            while True:
                self.wfile.write(b"x" * 65536)
        if self.path == "/drip":
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        self.wfile.write("你好".encode("gb18030"))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave are the point here
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_a_page_and_its_charset(site: str) -> None:
    page = web.fetch(f"{site}/moved", private_hosts=OWN)
    assert page.url == f"{site}/page"
    assert (page.content_type, page.charset, page.body.decode(page.charset)) == ("text/html", "gb18030", "你好")


@pytest.mark.parametrize("path", ["/inside", "/metadata"])
def test_a_redirect_into_a_private_network(site: str, path: str) -> None:
    with pytest.raises(Forbidden, match="private network"):
        web.fetch(site + path, private_hosts=OWN)


def test_a_redirect_to_a_file(site: str) -> None:
    with pytest.raises(InvalidRequest):
        web.fetch(f"{site}/file", private_hosts=OWN)


def test_redirects_end(site: str) -> None:
    with pytest.raises(RemoteFailed, match="redirect"):
        web.fetch(f"{site}/loop", private_hosts=OWN)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
    ],
)
def test_private_addresses_in_every_dress(host: str) -> None:
    with pytest.raises((Forbidden, RemoteFailed)) as refused:
        web.fetch(f"http://{host}:9/", seconds=5)
    assert isinstance(refused.value, Forbidden) or "not known" in refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/",
        "gopher://example.org/",
        "data:text/plain,x",
        "//example.org/",
        "http://",
        "http://user@example.org/",
        "http://example.org:99999/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org/\r\nHost: x",
        "http://例子.测试/",
        "/etc/passwd",
    ],
)
def test_what_is_no_web_address(url: str) -> None:
    with pytest.raises(InvalidRequest):
        web.fetch(url)


def test_a_name_that_changes_its_address_between_two_look_ups(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(site.rsplit(":", 1)[1])
    answers = iter(["93.184.216.34", "127.0.0.1"])
    real = socket.getaddrinfo

    def rebinding(host: str, *arguments, **options):
        if host == "rebind.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]
        return real(host, *arguments, **options)

    def no_packet_leaves(self: object, address: str, *arguments) -> None:
        dialled.append(address)
        raise httpcore.ConnectError("refused")

    dialled: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", no_packet_leaves)
    with pytest.raises(RemoteFailed):
        web.fetch(f"http://rebind.example:{port}/page")
    assert dialled == ["93.184.216.34"]  # the address that was checked, not a second answer


def test_too_large_too_slow_and_gone(site: str) -> None:
    with pytest.raises(TooLarge, match="1,000,000"):
        web.fetch(f"{site}/endless", max_bytes=1_000_000, private_hosts=OWN)
    with pytest.raises(TimedOut, match=r"0\.5 seconds"):
        web.fetch(f"{site}/drip", seconds=0.5, private_hosts=OWN)
    with pytest.raises(RemoteFailed, match="404"):
        web.fetch(f"{site}/gone", private_hosts=OWN)


def test_an_environment_proxy_is_not_used(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert web.fetch(f"{site}/page", private_hosts=OWN).status == 200

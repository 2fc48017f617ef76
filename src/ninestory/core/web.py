"""The one web client for addresses that a user, a document or a model names: guarded where the connection is made.

The host is looked up once, every address it has is checked, and the connection goes to a checked address: a name that
resolves differently the second time gains nothing. Redirects are new requests with the same checks. Environment proxies
are not used, since behind one no address could be checked.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from ninestory.core.errors import Forbidden, InvalidRequest, RemoteFailed, TimedOut, TooLarge

MAX_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGENT = "ninestory"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # holds an IPv4 address in its last 32 bits (RFC 6052)
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "fec0::/10",  # site-local addresses (RFC 3879)
        "3fff::/20",  # documentation (RFC 9637)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
    )
)


@dataclass(frozen=True)
class Page:
    """What was fetched. `url` after redirects; `content_type` without parameters, lower case."""

    url: str
    status: int
    content_type: str
    charset: str
    body: bytes


def fetch(
    url: str,
    *,
    max_bytes: int = 32 << 20,
    seconds: float = 30.0,
    private_hosts: frozenset[str] = frozenset(),
) -> Page:
    """GET `url` over http or https.

    Args:
        max_bytes: of the body as it arrives; no compression is asked for.
        seconds: for everything together, redirects included.
        private_hosts: host names that may have private addresses (a user's own intranet, tests).

    Raises:
        InvalidRequest: no http(s) address, or one that carries a user name.
        Forbidden: it leads into a private network.
        TooLarge: more than `max_bytes`. TimedOut: not done within `seconds`.
        RemoteFailed: no such host, no connection, too many redirects, or a status of 400 and above.
    """
    backend = _GuardedBackend(private_hosts, _Deadline(seconds))
    with httpcore.ConnectionPool(network_backend=backend, max_keepalive_connections=0) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            _check_url(url)
            try:
                page, location = _get(pool, url, max_bytes)
            except httpcore.TimeoutException as error:
                raise _too_slow(url, seconds) from error
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
                raise RemoteFailed(
                    f"{url} cannot be fetched: {error}.",
                    hint="Check the address, and whether this machine may reach it.",
                    hint_zh="请检查地址以及本机能否访问。",
                ) from error
            if location is None:
                return page
            url = urljoin(url, location)
    raise RemoteFailed(
        f"{url} was the {MAX_REDIRECTS + 1}th redirect in a row.",
        hint="Give the address where the page really is.",
        hint_zh="请直接给出页面的最终地址。",
    )


def _get(pool: httpcore.ConnectionPool, url: str, max_bytes: int) -> tuple[Page, str | None]:
    """One request without redirects: the page, and where it points to if it is one of those."""
    host = urlsplit(url).netloc
    headers: dict[bytes | str, bytes | str] = {
        "Host": host,
        "User-Agent": _AGENT,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }
    with pool.stream("GET", url, headers=headers) as response:
        fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS and "location" in fields:
            return Page(url, response.status, "", "", b""), fields["location"]
        if response.status >= 400:
            raise RemoteFailed(
                f"{url} answered with status {response.status}.",
                hint="Open it in a browser: it may be gone, or ask for a sign-in.",
                hint_zh="请在浏览器中打开确认：页面可能已失效或需要登录。",
            )
        body = _read(response.iter_stream(), url, max_bytes)
        kind, _, rest = fields.get("content-type", "").partition(";")
        charset = rest.partition("charset=")[2].split(";")[0].strip(" \"'")
        return Page(url, response.status, kind.strip().lower(), charset, body), None


def _read(chunks: Iterable[bytes], url: str, max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(
                f"{url} is larger than {max_bytes:,} bytes.",
                hint="Download it yourself and give the file.",
                hint_zh="请自行下载后提供文件。",
            )
    return bytes(body)


def _check_url(url: str) -> None:
    """Plain http(s) with a host and nothing clever."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    clean = url.isascii() and url.isprintable() and "\\" not in url and " " not in url
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or port == 0 or not clean:
        raise InvalidRequest(
            f"{url[:200]!r} is no address that can be fetched.",
            hint="Give a plain http:// or https:// address without a user name; percent-encode other characters.",
            hint_zh="请提供不含用户名的 http:// 或 https:// 地址；其他字符请使用百分号编码。",
            param="url",
        )


def _too_slow(url: str, seconds: float) -> TimedOut:
    return TimedOut(
        f"{url} was not fetched within {seconds:g} seconds.",
        hint="Try again later, or download it yourself and give the file.",
        hint_zh="请稍后重试，或自行下载后提供文件。",
    )


class _Deadline:
    """The moment at which one whole fetch has to be done.

    A limit on each read alone would not end a fetch: a server that sends one byte a second, or `100 Continue` again and
    again, meets every one of them.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left. Raises httpcore.ReadTimeout: none are."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout
        return seconds


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens sockets to checked addresses only, and lets no operation of one pass the deadline."""

    def __init__(self, private_hosts: frozenset[str], deadline: _Deadline) -> None:
        self._sockets = httpcore.SyncBackend()
        self._private_hosts = private_hosts
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host, port)
        if host not in self._private_hosts:
            for address in addresses:
                _check_public(host, address)
        failure: Exception | None = None
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(address, port, self._deadline.left(), local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
            else:
                return _TimedStream(stream, self._deadline)
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise httpcore.UnsupportedProtocol("no unix sockets")

    def _addresses(self, host: str, port: int) -> list[str]:
        """Addresses of a host. The system's resolver takes no time limit, so it is waited for in a thread."""
        answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                answer.put(error)
            else:
                answer.put(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))

        threading.Thread(target=look_up, daemon=True).start()
        try:
            addresses = answer.get(timeout=self._deadline.left())
        except queue.Empty:
            raise httpcore.ConnectTimeout from None
        if isinstance(addresses, OSError):
            raise httpcore.ConnectError(f"{host} is not known") from addresses
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection of which every operation ends with the fetch's deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _check_public(host: str, address: str) -> None:
    """An address of the open internet, also when it is an IPv4 one in IPv6 clothes.

    Raises:
        Forbidden: it is private, or reserved by a registry that the standard library does not know of.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or translated or ip
    reserved = any(ip in network for network in _NOT_PUBLIC if network.version == ip.version)
    if not ip.is_global or ip.is_multicast or ip.is_reserved or reserved:
        raise Forbidden(
            f"{host} is {address}, inside a private network; pages from there are not fetched.",
            hint="Download it yourself and give the file.",
            hint_zh="请自行下载后提供文件。",
            param="url",
        )

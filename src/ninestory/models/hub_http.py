"""HTTP access to hubs: redirects that never carry the token to another origin, and errors for refusals.

Proxies come from the environment (HTTPS_PROXY, NO_PROXY …), as httpx reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from ninestory.core.errors import Busy, Forbidden, NinestoryError, NotFound, RemoteFailed, Unauthorized

MAX_REDIRECTS = 10
MAX_JSON_BYTES = 64 << 20
UNREACHABLE = "hub_unreachable"  # the code of a failure that trying again may cure: a 5xx, a connection that broke


@dataclass(frozen=True)
class HubFile:
    """One file of a repository: either sum may be unknown (""). `git_sha1` is git's own sum of small files."""

    path: str
    nbytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    commit: str
    licence: str
    files: list[HubFile] = field(default_factory=list)


class Hub(Protocol):
    """Interface of a hub, as `pull` uses it."""

    token: str

    def listing(self, client: httpx.Client, repo: str, revision: str | None) -> Listing: ...

    def file_url(self, repo: str, commit: str, path: str) -> str: ...


@contextmanager
def open_url(
    client: httpx.Client, url: str, token: str = "", headers: dict[str, str] | None = None
) -> Iterator[httpx.Response]:
    """GET `url` as a stream, following redirects. The token goes to the first origin only.

    Raises:
        RemoteFailed: the connection failed or broke, also later while the body is read (code UNREACHABLE);
            too many redirects, or one that leaves http(s) or falls from https to http.
    """
    first = current = httpx.URL(url)
    try:
        for _ in range(MAX_REDIRECTS):
            sent = dict(headers or {})
            if token and _origin(current) == _origin(first):
                sent["Authorization"] = f"Bearer {token}"
            with client.stream("GET", current, headers=sent, follow_redirects=False) as response:
                location = response.headers.get("location") if response.is_redirect else None
                if location is None:
                    yield response
                    return
                current = _next_hop(current, location)
    except httpx.TransportError as error:
        raise RemoteFailed(
            f"The connection to {current.host} failed: {error or type(error).__name__}.",
            hint="Check the network and the proxy variables. Behind a firewall set HF_ENDPOINT to a mirror, "
            "or take the model from ModelScope: ninestory pull ms:ORG/NAME. What was fetched is kept.",
            hint_zh="请检查网络与代理变量；受限网络可将 HF_ENDPOINT 设为镜像，或从魔搭获取：ninestory pull ms:组织/名称。已下载部分会保留。",
            code=UNREACHABLE,
        ) from error
    raise RemoteFailed(f"{first.host} redirects in circles.", hint="Try again later.", hint_zh="请稍后重试。")


def get_json(client: httpx.Client, url: str, token: str, what: str) -> Any:
    """Fetch JSON from a hub's API.

    Raises:
        NinestoryError: what the hub refused, by `refuse`. RemoteFailed: the answer is too long or no JSON.
    """
    with open_url(client, url, token, {"Accept": "application/json"}) as response:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise RemoteFailed(f"The hub's answer about {what} is longer than {MAX_JSON_BYTES >> 20} MB.")
        refuse(response, what, bool(token))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RemoteFailed(
            f"The hub's answer about {what} is not JSON; it starts {bytes(body[:60])!r}.",
            hint="Check the hub's address (ninestory config shows hub.hf_endpoint), or a proxy that answers for it.",
            hint_zh="请检查平台地址（ninestory config 查看 hub.hf_endpoint），或是否有代理代为应答。",
        ) from error


def refuse(response: httpx.Response, what: str, had_token: bool) -> None:
    """Raise the typed error of an HTTP error status; do nothing on success."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if status < 400:
        return
    said = f"The hub answered {status} for {what}" + (f" ({code})" if code else "")
    raise _refusal(status, code, said, had_token, response.headers.get("retry-after", ""))


def _refusal(status: int, code: str, said: str, had_token: bool, retry_after: str) -> NinestoryError:
    if status in (401, 403) and (status == 403 or had_token):
        return Forbidden(
            f"{said}: the model is gated or private and this token may not read it.",
            hint="Accept the licence on the model's page while signed in, and check that the token may read gated models.",
            hint_zh="请登录后在模型页面接受许可，并确认令牌有读取受限模型的权限。",
            code="gated_model",
        )
    if status == 401:
        return Unauthorized(
            f"{said}: the model does not exist, or it is gated or private and needs a token.",
            hint="Check the name; for a gated model accept its licence on its page and set HF_TOKEN.",
            hint_zh="请检查名称；受限模型请先在其页面接受许可，再设置 HF_TOKEN。",
            code="token_needed",
        )
    if status == 404:
        missing = "no such revision" if code == "RevisionNotFound" else "no such model or revision"
        return NotFound(
            f"{said}: {missing}.",
            hint="Check the spelling (ORG/NAME) and the revision after '@'.",
            hint_zh="请检查拼写（组织/名称）以及 '@' 之后的版本。",
            param="model",
        )
    if status == 429:
        seconds = float(retry_after) if retry_after.isdigit() else 60.0
        return Busy(
            f"{said}: too many requests.",
            hint=f"Wait {seconds:.0f} seconds and run the same command again; what was fetched is kept.",
            hint_zh=f"请等待 {seconds:.0f} 秒后重新运行；已下载部分会保留。",
            retry_after=seconds,
        )
    return RemoteFailed(
        f"{said}.",
        hint="Run the same command again later; what was fetched is kept.",
        hint_zh="请稍后重新运行同一命令；已下载部分会保留。",
        code=UNREACHABLE if status >= 500 else None,
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _next_hop(current: httpx.URL, location: str) -> httpx.URL:
    following = current.join(location)
    downgraded = current.scheme == "https" and following.scheme != "https"
    if following.scheme not in ("http", "https") or downgraded:
        raise RemoteFailed(
            f"{current.host} redirects to {following.scheme}://{following.host}, which is not safe to follow.",
            hint="Use another hub or mirror.",
            hint_zh="请改用其他平台或镜像。",
        )
    return following

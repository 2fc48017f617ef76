"""A model hub of the tests' own: Hugging Face's and ModelScope's API on loopback, with the faults one asks for.

File bodies come from a second server (another port), as a hub's storage does, so that redirects leave the origin.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    files: dict[str, bytes]
    licence: str = "apache-2.0"
    gated: bool = False
    listed_sha256: dict[str, str] = field(default_factory=dict)  # lies told in the listing


@dataclass
class Faults:
    """What goes wrong, and how often."""

    cut_after: int = 0  # bytes of a body after which the connection is closed …
    cuts: int = 0  # … this many times
    no_ranges: bool = False
    extra_bytes: int = 0
    storage_status: int = 0
    pause_per_chunk: float = 0.0  # seconds between 16 kB pieces
    location: str = ""  # redirect file requests here instead


@dataclass
class Seen:
    path: str
    authorization: str | None
    range: str | None


class LoopbackHub:
    """`with LoopbackHub() as hub:` — `hub.url` is the endpoint, `hub.repositories` what it holds."""

    token = "hf_secret"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.api_seen: list[Seen] = []
        self.storage_seen: list[Seen] = []
        self._api = self._server(_Api)
        self._storage = self._server(_Storage)
        self.url = f"http://127.0.0.1:{self._api.server_address[1]}"
        self.storage_url = f"http://127.0.0.1:{self._storage.server_address[1]}"

    def _server(self, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"hub": self}))
        server.daemon_threads = True
        return server

    def __enter__(self) -> LoopbackHub:
        for server in (self._api, self._storage):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._api, self._storage):
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _note(self, seen: list[Seen]) -> None:
        seen.append(Seen(self.path, self.headers.get("Authorization"), self.headers.get("Range")))

    def _json(self, status: int, data: Any, **headers: str) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Api(_Handler):
    def do_GET(self) -> None:
        self._note(self.hub.api_seen)
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[:3] == ["api", "v1", "models"]:
            return self._modelscope("/".join(parts[3:5]), parts[5:], query)
        if parts[:2] == ["api", "models"]:
            return self._hugging_face("/".join(parts[2:4]), parts[4:], query)
        return self._resolve("/".join(parts[:2]), "/".join(parts[4:]))

    def _repository(self, name: str) -> Repository | None:
        """The repository, or None after the refusal was sent."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._json(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        if repository.gated:
            sent = self.headers.get("Authorization")
            if sent is None:
                self._json(401, {"error": "gated"}, X_Error_Code="GatedRepo")
                return None
            if sent != f"Bearer {self.hub.token}":
                self._json(403, {"error": "not on the list"}, X_Error_Code="GatedRepo")
                return None
        return repository

    def _hugging_face(self, name: str, rest: list[str], query: dict[str, str]) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if rest[1] not in ("main", COMMIT, "refs/pr/1"):
            return self._json(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        siblings = [_sibling(repository, path, "blobs" in query) for path in sorted(repository.files)]
        self._json(200, {"sha": COMMIT, "cardData": {"license": repository.licence}, "siblings": siblings})

    def _resolve(self, name: str, path: str) -> None:
        if self._repository(name) is None:
            return
        self.send_response(302)
        self.send_header("Location", self.hub.faults.location or f"{self.hub.storage_url}/{name}/{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _modelscope(self, name: str, rest: list[str], query: dict[str, str]) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._json(200, {"Code": 10010205001, "Message": "model not exists", "Success": False})
        if rest == []:
            return self._json(200, {"Code": 200, "Data": {"License": repository.licence}, "Success": True})
        if rest == ["repo", "files"]:
            files = [
                {"Path": p, "Size": len(b), "Type": "blob", "Sha256": hashlib.sha256(b).hexdigest()}
                for p, b in repository.files.items()
            ]
            return self._json(200, {"Code": 200, "Data": {"Files": files}, "Success": True})
        return self._resolve(name, query["FilePath"])


class _Storage(_Handler):
    def do_GET(self) -> None:
        self._note(self.hub.storage_seen)
        faults = self.hub.faults
        if faults.storage_status:
            return self._json(faults.storage_status, {})
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.hub.repositories["/".join(parts[:2])].files["/".join(parts[2:])] + b"x" * faults.extra_bytes
        start = 0
        if (asked := self.headers.get("Range")) and not faults.no_ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self._send(body[start:])

    def _send(self, body: bytes) -> None:
        faults = self.hub.faults
        if faults.cuts and len(body) > faults.cut_after:
            faults.cuts -= 1
            self.wfile.write(body[: faults.cut_after])
            self.close_connection = True
            return
        try:
            for at in range(0, len(body), 16384):
                self.wfile.write(body[at : at + 16384])
                time.sleep(faults.pause_per_chunk)
        except OSError:  # the client went away, as some tests want
            self.close_connection = True


def _sibling(repository: Repository, path: str, blobs: bool) -> dict[str, Any]:
    body = repository.files[path]
    if not blobs:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "size": len(body)}
    if len(body) > 1000:
        sum_ = repository.listed_sha256.get(path, hashlib.sha256(body).hexdigest())
        return entry | {"blobId": "0" * 40, "lfs": {"sha256": sum_, "size": len(body), "pointerSize": 134}}
    return entry | {"blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}

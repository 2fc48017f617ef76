"""The page: static files under /ui; a client of the public API. No other Python than this mounting.

One file is generated: `floors.js`, the floors of `floors/table.py` that the page shows.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from ninestory.floors.table import page_floors

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=()",
}
FLOORS_MODULE = f"export const FLOORS = {json.dumps(list(page_floors()), ensure_ascii=False)};\n".encode()
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".html": "text/html",
}


def mount(app: Any) -> None:
    """Serve the page under /ui; every path without a file is a view of the page itself (deep links).

    Plain routes, not API ones: the query of a deep link is the page's, so the API's rule for unknown ones does not hold.
    """

    async def page(request: Request) -> Response:
        path = request.path_params.get("path", "")
        return page_file(path, "gzip" in request.headers.get("accept-encoding", ""))

    app.add_route("/ui", page, include_in_schema=False)
    app.add_route("/ui/{path:path}", page, include_in_schema=False)


def page_file(path: str, accepts_gzip: bool = True) -> Response:
    """index.html for a view, or a file under the version of this release (`at-VERSION/app.js`).

    Every module is named under the version it came with, so a page that is open while the server is upgraded never
    mixes two releases: the old names are gone, and the page asks to be loaded again. Names are looked up in a list,
    never joined from a request.
    """
    if not (STATIC / "vendor" / "preact.js").is_file():
        return PlainTextResponse(
            "The page's modules are not built. Run: python hatch_build.py\n页面模块尚未构建。请运行：python hatch_build.py\n",
            503,
        )
    files = {str(f.relative_to(STATIC)): f for f in sorted(STATIC.rglob("*")) if f.is_file()}
    version = _version(tuple((f, f.stat().st_mtime_ns) for f in files.values()))
    prefix = f"at-{version}/"
    kept = "public, max-age=31536000, immutable"
    if path == f"{prefix}floors.js":
        module = gzip.compress(FLOORS_MODULE, 6) if accepts_gzip else FLOORS_MODULE
        return _response(module, ".js", kept, accepts_gzip)
    file = files.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
    if file is None and Path(path).suffix:
        return PlainTextResponse("Not found\n", 404, HEADERS)
    if file is None:
        index = (STATIC / "index.html").read_text(encoding="utf-8").replace("{version}", version).encode()
        return _response(index, ".html", "no-cache", accepts_gzip)
    if file.suffix == ".woff2":  # compressed already
        return FileResponse(file, headers={**HEADERS, "Cache-Control": kept}, media_type=_TYPES[".woff2"])
    return _response(_content(file, file.stat().st_mtime_ns, accepts_gzip), file.suffix, kept, accepts_gzip)


def _response(body: bytes, suffix: str, cached: str, gzipped: bool) -> Response:
    headers = {**HEADERS, "Cache-Control": cached, "Vary": "Accept-Encoding"}
    if gzipped:
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, 6) if suffix == ".html" else body
    return Response(body, headers=headers, media_type=_TYPES.get(suffix, "application/octet-stream"))


@lru_cache(maxsize=8)
def _version(stamps: tuple[tuple[Path, int], ...]) -> str:
    """A name for the contents of all files; the times of their last changes are the key, so an edit makes a new one."""
    digest = hashlib.sha256(FLOORS_MODULE)
    for file, _ in stamps:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=256)
def _content(file: Path, changed_ns: int, gzipped: bool) -> bytes:
    return gzip.compress(file.read_bytes(), 6) if gzipped else file.read_bytes()

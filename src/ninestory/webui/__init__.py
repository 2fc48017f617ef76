"""The page: static files under /ui; a client of the public API. No other Python than this mounting."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=()",
}
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
    """A static file, or index.html for the page's own views. Names are looked up in a list, never joined from a request."""
    if not (STATIC / "vendor" / "preact.js").is_file():
        return PlainTextResponse(
            "The page's modules are not built. Run: python hatch_build.py\n页面模块尚未构建。请运行：python hatch_build.py\n",
            503,
        )
    file = _files().get(path)
    if file is None and Path(path).suffix:
        return PlainTextResponse("Not found\n", 404, HEADERS)
    file = file or STATIC / "index.html"
    cached = "no-cache" if file.suffix in (".html", ".js", ".css") else "public, max-age=86400"
    media = _TYPES.get(file.suffix, "application/octet-stream")
    headers = {**HEADERS, "Cache-Control": cached, "Vary": "Accept-Encoding"}
    if not accepts_gzip or file.suffix == ".woff2":
        return FileResponse(file, headers=headers, media_type=media)
    body = _compressed(file, file.stat().st_mtime_ns)
    return Response(body, headers={**headers, "Content-Encoding": "gzip"}, media_type=media)


@lru_cache(maxsize=128)
def _compressed(file: Path, changed_ns: int) -> bytes:
    """The file in gzip; the time of its last change is a part of the key, so an edit shows at the next load."""
    return gzip.compress(file.read_bytes(), 6)


def _files() -> dict[str, Path]:
    return {str(f.relative_to(STATIC)): f for f in STATIC.rglob("*") if f.is_file()}

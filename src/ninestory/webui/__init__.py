"""The page: static files under /ui; a client of the public API. No other Python than this mounting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    """Serve the page under /ui; every path without a file is a view of the page itself (deep links)."""

    @app.get("/ui", include_in_schema=False)
    @app.get("/ui/{path:path}", include_in_schema=False)
    async def page(path: str = "") -> Response:
        return page_file(path)


def page_file(path: str) -> Response:
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
    return FileResponse(file, headers={**HEADERS, "Cache-Control": cached}, media_type=media)


def _files() -> dict[str, Path]:
    return {str(f.relative_to(STATIC)): f for f in STATIC.rglob("*") if f.is_file()}

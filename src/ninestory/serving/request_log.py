"""What the server answered: figures and a short log without texts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ninestory.serving.context import GatewayContext

log = logging.getLogger("ninestory.requests")
_QUIET = ("/ui", "/health", "/metrics")


def note_request(context: GatewayContext) -> Callable[[str, str, str, str, int, float], None]:
    """A callback for the guard: request id, method, path, route (its template), status, seconds.

    Figures are kept by route: by path they would grow with every id that a client makes up.
    """

    def note(request_id: str, method: str, path: str, route: str, status: int, seconds: float) -> None:
        context.metrics.requests.labels(method, route, status).inc()
        context.metrics.seconds.labels(route).observe(seconds)
        if path.startswith(_QUIET):
            return
        entry = {
            "id": request_id,
            "time": time.time(),
            "method": method,
            "path": path,
            "status": status,
            "seconds": seconds,
        }
        context.requests.append(entry)
        log.info("%s %s %d in %.3f s", method, path, status, seconds, extra={"request_id": request_id})

    return note

"""Logs: readable on a terminal, or one JSON object per line. Never a prompt's text, never a key."""

from __future__ import annotations

import json
import logging
import sys
import time


class _Readable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        request_id = getattr(record, "request_id", "")
        text = f"{clock} {record.levelname.lower():7} {printable(record.getMessage())}" + (
            f"  [{request_id}]" if request_id else ""
        )
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def printable(text: str) -> str:
    r"""The text with line ends, control and direction characters escaped: no value can write a log line of its own.

    >>> printable("GET /v1/files/\r\n12:00:00 info")
    'GET /v1/files/\\r\\n12:00:00 info'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def set_up_logs(level: str, as_json: bool) -> None:
    """Send everything to stderr, in one of the two forms."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Readable())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)

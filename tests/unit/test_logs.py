"""Logs: one readable line on a terminal, one JSON object a line for machines, with the request's id."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import logging
from ninestory.core.logs import set_up_logs
set_up_logs({level!r}, {as_json})
log = logging.getLogger("ninestory.requests")
log.debug("too quiet")
log.info("%s %s", "GET", "/v1/models", extra={{"request_id": "req_1"}})
try:
    raise ValueError("first line\\nsecond line")
except ValueError:
    log.exception("failed")
"""


def written(level: str, as_json: bool) -> subprocess.CompletedProcess[str]:
    program = _PROGRAM.format(level=level, as_json=as_json)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_json_logs_are_one_object_a_line_even_with_a_traceback() -> None:
    done = written("info", True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert first == first | {
        "level": "info",
        "logger": "ninestory.requests",
        "message": "GET /v1/models",
        "request_id": "req_1",
    }
    assert second["level"] == "error" and "second line" in second["exception"] and "request_id" not in second
    assert done.stdout == ""


def test_readable_logs_name_the_level_and_the_request() -> None:
    first, second, *traceback = written("info", False).stderr.splitlines()
    assert first.split(maxsplit=1)[1] == "info    GET /v1/models  [req_1]"
    assert "error" in second and any("ValueError" in line for line in traceback)


@pytest.mark.parametrize(("level", "quiet"), [("error", True), ("debug", False)])
def test_the_level_holds(level: str, quiet: bool) -> None:
    text = written(level, False).stderr
    assert ("GET /v1/models" not in text) is quiet
    assert ("too quiet" in text) is (level == "debug")

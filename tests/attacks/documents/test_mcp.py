"""`kb mcp` against a hostile client: each line is answered or dropped, and the next one is heard."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ninestory.cli.retrieval import document_session, kb_mcp

SEARCH = {"name": "search", "arguments": {"question": "Are apples red?"}}


def call(params: Any, number: Any = 1, method: str = "tools/call") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def with_arguments(**arguments: Any) -> bytes:
    return call({"name": "search", "arguments": arguments})


HOSTILE = {
    "params is a list": call(["search"]),
    "params is a string": call("search"),
    "arguments is a list": call({"name": "search", "arguments": ["question"]}),
    "a name that is no text": call({"name": {"a": 1}, "arguments": {"question": "q"}}),
    "a name that is a list": call({"name": ["search"], "arguments": {"question": "q"}}),
    "another base": with_arguments(question="q", knowledge_base="../../etc"),
    "a path": with_arguments(question="q", file="/etc/passwd"),
    "half a character": with_arguments(question="\ud800"),
    "a long question": with_arguments(question="q" * 100_000),
    "a limit of any size": with_arguments(question="q", limit=10**30),
    "a limit that is none": with_arguments(question="q", limit=1.5),
    "an id that is an object": call(SEARCH, {"a": 1}),
    "initialize with a list": call([], method="initialize") + b" ",
    "a protocol that is a list": call({"protocolVersion": [1]}, method="initialize"),
    "deep": b"[" * 100_000,
    "a deep object": b'{"a":' * 100_000,
    "no UTF-8": b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}',
    "zeros": b"\0" * 1000,
    "a huge number": b'{"jsonrpc": "2.0", "id": ' + b"9" * 10_000 + b', "method": "ping"}',
    "a line without end": b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"x" * (3 << 20) + b'"}',
}


def served(lines: bytes, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server answers to its standard input, over a session that repeats the question."""

    class Session:
        def __init__(self, *_: Any) -> None:
            pass

        def __enter__(self) -> Session:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def search_for_tool(self, question: str, limit: int) -> str:
            return f"{question} \ud800"  # a passage may hold half a character, too

        ask_for_tool = search_for_tool

    out = io.BytesIO()
    monkeypatch.setattr(document_session, "DocumentConversation", Session)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    kb_mcp.mcp(["notes"])
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_line_is_answered_and_the_next_one_too(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = served(line + b"\n" + call(SEARCH, "last") + b"\n", monkeypatch)
    assert "error" in first or "protocolVersion" in first["result"]
    assert last["id"] == "last" and "Are apples red?" in last["result"]["content"][0]["text"]


def test_a_notification_with_anything_inside_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"jsonrpc": "2.0", "method": "tools/call", "params": [SEARCH]}).encode()
    assert served(line + b"\n\n", monkeypatch) == []

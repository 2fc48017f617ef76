"""The MCP server's messages, and the server itself as a client starts it."""

from __future__ import annotations

import json
from typing import Any

from ninestory.cli.retrieval.kb_mcp import PROTOCOLS, handle
from ninestory.core.errors import NotFound


def ask(method: str, params: Any = None, number: Any = 1) -> Any:
    def search(question: str, limit: int) -> str:
        if question == "gone":
            raise NotFound("It is gone.", hint="Look elsewhere.")
        return f"{question} × {limit}"

    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return handle(json.dumps(message), {"search": search})


def test_the_handshake_and_the_tools() -> None:
    greeting = ask("initialize", {"protocolVersion": PROTOCOLS[-1], "capabilities": {}})["result"]
    assert greeting["protocolVersion"] == PROTOCOLS[-1] and greeting["serverInfo"]["name"] == "ninestory"
    assert ask("initialize", {"protocolVersion": "1999-01-01"})["result"]["protocolVersion"] == PROTOCOLS[0]
    assert handle('{"jsonrpc": "2.0", "method": "notifications/initialized"}', {}) is None
    assert ask("ping") == {"jsonrpc": "2.0", "id": 1, "result": {}}
    (tool,) = ask("tools/list")["result"]["tools"]
    assert tool["name"] == "search" and tool["inputSchema"]["required"] == ["question"]


def test_calls_answer_or_say_what_is_wrong() -> None:
    called = ask("tools/call", {"name": "search", "arguments": {"question": "茶?", "limit": 2}}, "a")
    assert called["id"] == "a" and called["result"] == {
        "content": [{"type": "text", "text": "茶? × 2"}],
        "isError": False,
    }
    failed = ask("tools/call", {"name": "search", "arguments": {"question": "gone"}})["result"]
    assert failed["isError"] and failed["content"][0]["text"] == "It is gone. Look elsewhere."
    for arguments in ({}, {"question": ""}, {"question": "x", "limit": 99}, {"question": "x", "limit": True}):
        assert ask("tools/call", {"name": "search", "arguments": arguments})["error"]["code"] == -32602
    assert ask("tools/call", {"name": "delete", "arguments": {"question": "x"}})["error"]["code"] == -32602
    assert ask("resources/list")["error"]["code"] == -32601
    assert handle("{", {})["error"]["code"] == -32700  # type: ignore[index]
    assert handle("[]", {})["error"]["code"] == -32600  # type: ignore[index]

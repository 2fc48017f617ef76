"""A remote model without a key: the conversation stays here."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Unauthorized
from ninestory.core.paths import Home
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import ChatRequest, Message


@pytest.mark.parametrize("address", ["", "https://models.example.com/v1"])
def test_without_a_key_nothing_is_sent(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def lookup(*address: Any, **options: Any) -> Any:
        asked.append(address)
        raise OSError("no network in tests")

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    engine = load_engine(resolve("openai:gpt-4o", Home(tmp_path)), RuntimeSettings())
    request = ChatRequest(messages=[Message(role="user", content="a secret")])
    with pytest.raises(Unauthorized, match="nothing was sent"):
        list(engine.run(request, threading.Event()))
    assert asked == []

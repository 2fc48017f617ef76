"""A lone RWKV release behind the server: eight streams at once answer as each would alone; a strategy is a setting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.models import store
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import ChatRequest, Message, Sampling, Text
from tests.e2e.api_server import ApiServer
from tests.tiny_rwkv import write_release

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def installed(home: Path, name: str, version: str) -> str:
    """A small release under a name of the catalogue: a server takes no paths."""
    store.import_path(Home(home).ensure(), write_release(home.parent / "model.pth", version), name)
    return name


def ask(server: ApiServer, model: str, seed: int) -> tuple[str, int]:
    """The answer of a seed, and how many prompt tokens were taken from an earlier one."""
    reply = server.http.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me of the number {seed}. " * (1 + seed)}],
            "max_tokens": 12,
            "seed": seed,
        },
    )
    reply.raise_for_status()
    answer = reply.json()
    details = answer["usage"].get("prompt_tokens_details") or {}
    return answer["choices"][0]["message"]["content"], details.get("cached_tokens", 0)


def test_eight_at_once_answer_as_each_alone(tmp_path: Path) -> None:
    model = installed(tmp_path / "home", "chatrwkv:7-world-1b5", "7")
    server = ApiServer(tmp_path / "home", runtime_slots="8").start()
    try:
        alone = [ask(server, model, seed)[0] for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda seed: ask(server, model, seed)[0], range(8)))
        assert together == alone
        assert len(set(alone)) > 1
        assert ask(server, model, 7)[1] >= 64  # the state at the last whole chunk of the same prompt was there
    finally:
        server.kill()


def test_a_strategy_by_setting(tmp_path: Path) -> None:
    """In process, as the server's worker opens it."""
    name = installed(tmp_path / "home", "chatrwkv:world-7b", "4")
    settings = RuntimeSettings(threads=1, rwkv_strategy="cpu fp32i8 *1 -> cpu fp32")
    engine = load_engine(resolve(name, Home(tmp_path / "home")), settings)
    try:
        assert engine.info.dtype == settings.rwkv_strategy and "strategy" in "; ".join(engine.info.notes)
        ask = ChatRequest(messages=[Message(role="user", content="Hi")], max_tokens=8, sampling=Sampling(seed=1))
        first, second = (list(engine.run(ask, threading.Event())) for _ in range(2))
        texts = [[c.text for c in chunks if isinstance(c, Text)] for chunks in (first, second)]
        assert texts[0] == texts[1] != []
    finally:
        engine.close()

"""One server for all tests of the API that do not need one of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.api_server import ApiServer


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where homes of this run keep the embedding starter as it was converted: once takes 20 CPU-seconds."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "converted"
    folder.mkdir(exist_ok=True)
    return folder


def share_converted(home: Path, converted: Path) -> Path:
    """Let a home find the conversions of others, and keep its own there."""
    (home / "cache").mkdir(parents=True, exist_ok=True)
    (home / "cache" / "onnx").symlink_to(converted)
    return home


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture
def http(api_server: ApiServer) -> httpx.Client:
    return api_server.http

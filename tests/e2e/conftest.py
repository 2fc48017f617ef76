"""One server for all tests of the API that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import share_converted
from tests.e2e.api_server import ApiServer


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Iterator[ApiServer]:
    with ApiServer(share_converted(tmp_path_factory.mktemp("home"), converted)) as server:
        yield server


@pytest.fixture
def http(api_server: ApiServer) -> httpx.Client:
    return api_server.http

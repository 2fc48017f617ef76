"""One server for all tests of the API that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.api_server import ApiServer


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture
def http(api_server: ApiServer) -> httpx.Client:
    return api_server.http

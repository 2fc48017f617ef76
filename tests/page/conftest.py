"""One real server and one Chromium for the tests of the page; each test has a browser context of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import CHROMIUM
from tests.e2e.api_server import ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import CHROMIUM_ARGUMENTS, Visitor

expect.set_options(timeout=20_000)  # nothing here is about speed: a busy machine only takes longer


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[ApiServer]:
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = upstream.url, "scripted"
    try:
        running = ApiServer(tmp_path_factory.mktemp("home"), runtime_context="2048").start()
    finally:
        del os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, server: ApiServer, upstream: ScriptedUpstream) -> Iterator[Callable[..., Page]]:
    """Opens a view; afterwards nothing may have been written to the console as an error or asked of another host."""
    upstream.reset()
    visitors: list[Visitor] = []

    def opened(path: str = "chat", **options: object) -> Page:
        visitor = Visitor(browser, str(options.pop("url", server.url)), **options)
        visitors.append(visitor)
        return visitor.open(path)

    yield opened
    for visitor in visitors:
        visitor.close()
    faults = [fault for visitor in visitors for fault in visitor.faults]
    assert not faults, faults

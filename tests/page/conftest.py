"""One real server and one Chromium for the tests of the page; a test begins with an empty browser context."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import CHROMIUM, share_converted
from tests.e2e.api_server import ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import CHROMIUM_ARGUMENTS, Contexts, Visitor

expect.set_options(timeout=20_000)  # nothing here is about speed: a busy machine only takes longer


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream, converted: Path
) -> Iterator[ApiServer]:
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = upstream.url, "scripted"
    try:
        running = ApiServer(share_converted(tmp_path_factory.mktemp("home"), converted)).start()
    finally:
        del os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    yield running
    running.stop()


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server that asks for a key."""
    with ApiServer(tmp_path_factory.mktemp("locked"), serve_api_key="open-sesame") as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Contexts:
    return Contexts(browser)


@pytest.fixture
def visit(contexts: Contexts, server: ApiServer, upstream: ScriptedUpstream) -> Iterator[Callable[..., Page]]:
    """Opens a view; afterwards nothing may have been written to the console as an error or asked of another host.

    The first visitor of a test has the browser of the tests before, emptied; a further one has another browser.
    """
    upstream.reset()
    for bench in server.http.get("/ninestory/v1/presets?floor=workbench").json()["data"]:
        server.http.delete(f"/ninestory/v1/presets/{bench['id']}").raise_for_status()
    visitors: list[Visitor] = []

    def opened(path: str = "chat", **options: Any) -> Page:
        language = options.pop("language", "en")
        context = contexts.fresh(language) if visitors else contexts.kept(language)
        visitor = Visitor(context, options.pop("url", server.url), **options)
        visitors.append(visitor)
        return visitor.open(path)

    yield opened
    for i, visitor in enumerate(visitors):
        visitor.close()
        if i:
            visitor.context.close()
    faults = [fault for visitor in visitors for fault in visitor.faults]
    assert not faults, faults

"""Every view in both languages, light and dark, wide and on a phone: photographed, and free of accessibility faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.visitor import accessibility_faults

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
VIEWS = ["chat", "talk", "compare", "models", "jobs", "guides", "system", "style"]
ANSWER = """A short **answer** with `code`, a table and a formula $a^2 + b^2$.

| Floor | 层 |
|---|---|
| Chat | 对话 |

```python
def greet(name: str) -> str:
    return f"Hello, {name}"  # 你好
```
"""


@pytest.fixture(scope="module")
def conversation(server: ApiServer) -> str:
    messages = [
        {"id": "q", "parent": None, "role": "user", "content": "Show me what you can do."},
        {"id": "a", "parent": "q", "role": "assistant", "content": ANSWER, "reasoning": "Think first.",
         "finish_reason": "length", "data": {"tokens_per_second": 41.3, "first_token_seconds": 0.21}},
    ]  # fmt: skip
    body = {"title": "A first conversation", "messages": messages, "leaf": "a"}
    return str(server.http.post("/ninestory/v1/conversations", json=body).json()["id"])


@pytest.mark.parametrize("size", ["wide", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_views(visit: Visit, conversation: str, language: str, theme: str, size: str) -> None:
    faults: list[str] = []
    page = visit("chat", language=language, theme=theme, size=size)
    for view in VIEWS:
        path = f"chat?id={conversation}" if view == "talk" else "guides?name=gpt4all" if view == "guides" else view
        page.goto(f"{page.url.split('/ui/')[0]}/ui/{path}")
        page.locator(".view, .chat, .compare .card").first.wait_for()
        if view == "talk":
            expect(page.locator(".katex").first).to_be_visible()
            expect(page.locator(".hljs-keyword").first).to_be_visible()
        page.wait_for_timeout(250)
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=str(ARTIFACTS / f"{view}-{language}-{theme}-{size}.png"))
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append(f"{view}: scrolls sideways")
        faults += [f"{view}: {fault}" for fault in accessibility_faults(page)]
    assert not faults, "\n".join(faults)


def test_a_model_is_loaded_verified_and_unloaded_from_the_page(visit: Visit, server: ApiServer) -> None:
    # whatever the tests before left loaded
    server.http.post("/ninestory/v1/unload", json={"model": MODEL}).raise_for_status()
    page = visit("models")
    row = page.get_by_role("row").filter(has_text="smollm2")
    row.get_by_role("button", name="Load", exact=True).click()
    expect(row.get_by_role("button", name="Unload")).to_be_enabled(timeout=60_000)
    expect(row).to_contain_text("MB")
    row.get_by_role("button", name="Verify").click()
    expect(page.locator(".toast")).to_contain_text("sound", timeout=60_000)
    row.get_by_role("button", name="Unload").click()
    expect(row.get_by_role("button", name="Load", exact=True)).to_be_enabled(timeout=60_000)


def test_the_catalogue_is_filtered_by_floor_and_by_text(visit: Visit) -> None:
    page = visit("models")
    cards = page.locator(".cards .card")
    expect(cards).to_have_count(26)
    page.get_by_role("combobox", name="Floors").select_option("1")
    expect(cards).not_to_have_count(26)
    page.get_by_label("Search models").fill("moss")
    expect(cards).to_have_count(1)
    cards.first.get_by_text("Variants").first.click()
    expect(cards.first.get_by_role("table")).to_be_visible()
    expect(cards.first.get_by_text(re.compile("fits here|does not fit")).first).to_be_visible()
    assert accessibility_faults(page) == []


def test_a_pull_is_a_job_whose_failure_is_explained_and_that_can_be_resumed(visit: Visit) -> None:
    page = visit("models")
    page.get_by_label("Search models").fill("gpt4all")
    page.locator(".cards .card").first.get_by_text("Variants").first.click()
    page.get_by_role("button", name="Pull", exact=True).first.click()
    page.locator(".toast").get_by_role("button", name="Jobs").click()
    row = page.get_by_role("row").filter(has_text="gpt4all")
    expect(row).to_contain_text(re.compile("queued|running|failed"))
    if row.get_by_role("button", name="Cancel").count():
        row.get_by_role("button", name="Cancel").click()
    expect(row.get_by_role("button", name="Resume")).to_be_visible(timeout=60_000)
    row.get_by_role("button", name="Log").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def test_guides_are_found_and_their_commands_copied(visit: Visit) -> None:
    page = visit("guides", language="zh")
    page.get_by_role("searchbox").fill("gpt4all")
    page.locator(".guides aside a").first.click()
    expect(page.locator(".guides .markdown h1").first).to_be_visible()
    page.locator(".guides pre .copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("ninestory ")

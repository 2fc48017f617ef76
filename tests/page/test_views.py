"""Every view in both languages, light and dark, wide and on a phone: photographed, and free of accessibility faults."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory, Gpu
from ninestory.models.catalogue import find
from ninestory.runtimes.plan import plan_variant
from tests.e2e.api_server import ApiServer
from tests.page.visitor import (
    SCRIPTED,
    Contexts,
    Visitor,
    accessibility_faults,
    photograph,
    set_settings,
    settled,
    turn_to,
)

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
VIEWS = {
    "talk": "chat?id={conversation}",
    "settings": "chat?id={conversation}",
    "documents": "documents",
    "tune": "tune",
    "runs": "tune?tab=runs",
    "prompts": "prompts",
    "workbench": "prompts?tab=workbench",
    "compare": "compare",
    "battle": "compare?tab=battle",
    "leaderboard": "compare?tab=leaderboard",
    "models": "models",
    "jobs": "jobs",
    "guides": "guides",
    "guide": "guides?name=gpt4all",
    "system": "system",
    "shortcuts": "guides",
    "style": "style",
    "style-open": "style",
}
LOGPROBS = [["A", -0.2, [["A", -0.2], ["The", -2.1], ["One", -3.4]]], [" short", -1.2, [[" short", -1.2]]]]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
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
        {"id": "q", "parent": None, "role": "user", "content": [
            {"type": "text", "text": "Show me what you can do."},
            {"type": "text", "name": "notes.txt", "text": "Bring an umbrella."}]},
        {"id": "c", "parent": "q", "role": "assistant", "content": "", "data": {"tool_calls": [CALL]}},
        {"id": "r", "parent": "c", "role": "tool", "content": "Sunny", "data": {"tool_call_id": "call_1"}},
        {"id": "a", "parent": "r", "role": "assistant", "content": ANSWER, "reasoning": "Think first.",
         "finish_reason": "length", "data": {"tokens_per_second": 41.3, "first_token_seconds": 0.21, "logprobs": LOGPROBS}},
    ]  # fmt: skip
    body = {"title": "A first conversation", "messages": messages, "leaf": "a"}
    return str(server.http.post("/ninestory/v1/conversations", json=body).json()["id"])


@pytest.fixture(scope="module")
def something_everywhere(server: ApiServer) -> None:
    """A view that is empty hides its faults."""
    prompt = {"name": "Haiku", "floor": "prompts", "settings": {"text": "A haiku about {{thing}}.", "values": {}}}
    server.http.post("/ninestory/v1/presets", json=prompt).raise_for_status()
    for winner in ("model_a", "model_a", "tie", "model_b"):
        vote = {"model_a": "vicuna:7b-v1.5", "model_b": "belle:7b-2m", "winner": winner}
        server.http.post("/ninestory/v1/votes", json=vote).raise_for_status()
    server.http.post("/ninestory/v1/models/pull", json={"model": "gpt4all:j-v1.3"}).raise_for_status()


def fill_in(page: Page, view: str) -> None:
    """What a view shows only after something was done in it."""
    if view == "talk":
        expect(page.locator(".katex").first).to_be_visible()
        expect(page.locator(".hljs-keyword").first).to_be_visible()
        page.locator("details summary").filter(has_text=re.compile("Probabilities|概率")).click()
    elif view == "battle":
        set_settings(page, SCRIPTED)  # a second model
        expect(page.locator("main textarea")).to_be_visible()
    elif view == "settings":
        page.get_by_role("button", name=re.compile("^(Settings|设置)$")).click()
    elif view == "style-open":
        page.get_by_role("button", name=re.compile("^(Copied|已复制)$")).click()
        page.get_by_role("button", name=re.compile("^(Error|错误)$")).click()
        page.locator("main").get_by_role("button", name=re.compile("^(Menu|菜单)$")).click()
    elif view == "shortcuts":
        page.locator("main").focus()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
    elif view == "prompts":
        page.get_by_role("button", name="Haiku").click()
    elif view == "workbench":
        page.locator(".versions textarea").first.fill("A haiku about {{thing}}.")
    elif view == "models":
        page.locator(".cards summary").first.click()
        expect(page.locator(".cards h4").first).to_be_visible()
    settled(page)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_views(
    visit: Visit, locked: ApiServer, contexts: Contexts, conversation: str, something_everywhere: None, language: str
) -> None:
    page = visit("chat", language=language)
    settled(page)
    faults = photograph(page, "first-visit", language)
    for view, path in VIEWS.items():
        turn_to(page, path.format(conversation=conversation))
        fill_in(page, view)
        faults += photograph(page, view, language)
        page.keyboard.press("Escape")
    visitor = Visitor(contexts.fresh(language), locked.url)
    page = visitor.open("chat")
    expect(page.get_by_role("button")).to_be_visible()
    faults += photograph(page, "sign-in", language)
    visitor.context.close()
    assert not faults + visitor.faults, "\n".join(faults + visitor.faults)


@pytest.mark.parametrize(("language", "words"), [("en", "fits"), ("zh", "放得下")])
def test_the_memory_of_each_card_is_shown(visit: Visit, language: str, words: str) -> None:
    """The answer is the server's own arithmetic for a machine with two cards, which this one has not."""
    cards = {f"cuda:{i}": Gpu("NVIDIA Test", 24 << 30, 24 << 30, cuda=True) for i in range(2)}
    system = find("moss")
    plans = [plan_variant(system, v, RuntimeSettings(), FreeMemory(8 << 30, cards)) for v in system.variants]
    answer = {**plans[0].as_dict(), "alternatives": [plan.as_dict() for plan in plans[1:]]}
    page = visit("models", language=language)
    page.route("**/ninestory/v1/plan", lambda route: route.fulfill(json=answer))
    page.locator("#search").fill("moss")
    page.locator(".cards .card summary").click()
    row = page.locator(".cards .card tbody tr").first
    for device in ("cuda:0 NVIDIA Test", "cuda:1 NVIDIA Test", {"en": "Memory", "zh": "内存"}[language]):
        expect(row.get_by_text(re.compile(rf"{device}.*{words}")).first).to_be_visible()
    assert accessibility_faults(page) == []


def test_the_catalogue_is_filtered_by_floor_and_by_text(visit: Visit) -> None:
    page = visit("models")
    cards = page.locator(".cards .card")
    expect(cards).to_have_count(26)
    page.get_by_role("combobox", name="Show").select_option("fits")
    expect(cards).not_to_have_count(26)
    expect(cards.get_by_role("heading", name="ChatGLM-6B")).to_have_count(1)  # its 4-bit variant
    page.get_by_role("combobox", name="Show").select_option("all")
    page.get_by_role("combobox", name="Floors").select_option("1")
    expect(cards).not_to_have_count(26)
    page.get_by_label("Search models").fill("moss")
    expect(cards).to_have_count(1)
    cards.first.get_by_text("Variants").first.click()
    expect(cards.first.get_by_role("table")).to_be_visible()
    expect(cards.first.get_by_text(re.compile("fits here|does not fit")).first).to_be_visible()
    assert accessibility_faults(page) == []

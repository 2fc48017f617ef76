"""Answers side by side, blind battles with a vote, and the leaderboard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import SCRIPTED

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


def test_two_settings_answer_one_prompt_side_by_side(visit: Visit, server: ApiServer) -> None:
    preset = {"name": "Hurried", "system": "Answer in a hurry.", "settings": {"max_tokens": 12, "temperature": 1}}
    server.http.post("/ninestory/v1/presets", json=preset).raise_for_status()
    page = visit("compare")
    sent: list[dict] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/chat/completions") else None)
    columns = page.locator(".columns section")
    expect(columns).to_have_count(2)
    page.get_by_role("button", name="Add a column").click()
    expect(columns).to_have_count(3)
    page.get_by_role("button", name="Remove answer 3").click()
    for column in (columns.nth(0), columns.nth(1)):
        column.get_by_label("Preset").select_option("Hurried")
        column.get_by_label("Temperature").fill("0")
        column.get_by_label("Seed").fill("7")
    page.get_by_role("textbox", name="Message").fill("Say hello in five words.")
    page.keyboard.press("Enter")
    expect(page.get_by_text("tokens/s")).to_have_count(2, timeout=60_000)
    texts = columns.locator(".markdown").all_inner_texts()
    assert texts[0].strip() and texts[0] == texts[1]
    for body in sent:
        assert body["messages"][0] == {"role": "system", "content": "Answer in a hurry."}
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (12, 0, 7)
    assert len(sent) == 2


def test_a_blind_battle_is_voted_and_counts_on_the_leaderboard(
    visit: Visit, server: ApiServer, upstream: ScriptedUpstream
) -> None:
    upstream.pieces = ["A scripted ", "answer."]
    page = visit("compare", settings=SCRIPTED)
    page.get_by_role("link", name="Blind battle").click()
    page.get_by_role("textbox", name="Message").fill("Name a colour in one word.")
    page.keyboard.press("Enter")
    main = page.locator("main")
    expect(page.get_by_role("button", name="Equally good")).to_be_visible(timeout=200_000)
    assert "scripted" not in main.locator("h3").all_inner_texts() and "starter:" not in main.inner_text()
    first = page.get_by_role("region", name="Answer 1")
    winner = "Answer 1 is better" if "scripted" in first.locator(".markdown").inner_text() else "Answer 2 is better"
    page.get_by_role("button", name=winner).click()
    expect(main.get_by_role("status").filter(has_text="Your vote counts")).to_contain_text("openai:scripted")
    vote = server.http.get("/ninestory/v1/votes").json()["data"][0]
    assert vote["blind"] and {vote["model_a"], vote["model_b"]} == {MODEL, "openai:scripted"}
    assert vote[vote["winner"]] == "openai:scripted"
    page.get_by_role("link", name="Leaderboard").click()
    expect(page.get_by_role("row").filter(has_text="openai:scripted")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="smollm2")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("link", name="Blind battle")).to_have_attribute("aria-current", "page")

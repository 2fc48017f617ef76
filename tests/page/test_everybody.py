"""The page for everybody: at twice the size, without motion, in either language with nothing left untranslated."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import ApiServer
from tests.page.visitor import Contexts, Visitor, accessibility_faults, show, turn_to

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
VIEWS = ("chat", "documents", "prompts", "prompts?tab=workbench", "compare", "compare?tab=battle", "compare?tab=leaderboard",
         "models", "jobs", "guides", "system", "style")  # fmt: skip
CHINESE = re.compile("[\u4e00-\u9fff]")
# Words of both languages: names of products and units, which no language changes.
SHARED = re.compile(
    r"(Top-[pk]|Min-p|JSON|CSV|Markdown|API|ninestory|English|Esc|Enter|Shift|Alt|Python|MB|GB|kB|ms|s)"
)

# Every text that a visitor sees or hears, but what is named as of another language or of none.
TEXTS = """() => {
  const left = "code, pre, [translate=no], .markdown, script, style, noscript, textarea";
  const own = document.documentElement.lang;
  const ours = (e) => !e.closest(left) && !(e.closest("[lang]").lang !== own);
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) if (ours(walker.currentNode.parentElement)) texts.push(walker.currentNode.data.trim());
  for (const e of document.querySelectorAll("[aria-label], [title], [placeholder]")) {
    if (!ours(e)) continue;
    for (const name of ["aria-label", "title", "placeholder"]) if (e.getAttribute(name)) texts.push(e.getAttribute(name));
  }
  return [...new Set(texts.filter(Boolean))];
}"""


def untranslated(texts: list[str], language: str) -> list[str]:
    if language == "en":
        return [text for text in texts if CHINESE.search(text)]
    return [text for text in texts if re.search("[A-Za-z]{2,}", SHARED.sub("", text)) and not CHINESE.search(text)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nothing_is_left_untranslated(visit: Visit, language: str) -> None:
    page = visit("chat", language=language)
    faults = []
    for view in VIEWS:
        turn_to(page, view)
        for details in page.locator("main details:not([open]) > summary").all()[:3]:
            details.click()
        faults += [(view, text) for text in untranslated(page.evaluate(TEXTS), language)]
    turn_to(page, "chat")
    page.get_by_role("button", name={"en": "Settings", "zh": "设置"}[language]).click()
    faults += [("settings", text) for text in untranslated(page.evaluate(TEXTS), language)]
    assert not faults, "\n".join(map(str, faults))


def test_every_setting_has_a_meaning_in_both_languages(server: ApiServer) -> None:
    for row in server.http.get("/ninestory/v1/system").json()["settings"]:
        assert row["doc"]["en"] and not CHINESE.search(row["doc"]["en"]), row
        assert CHINESE.search(row["doc"]["zh"]) or row["key"] == "log_level", row


def test_at_twice_the_size_everything_is_in_reach(contexts: Contexts, server: ApiServer) -> None:
    visitor = Visitor(contexts.fresh(scale=2), server.url, size="zoomed")  # a window of 1280 × 800 at 200 %
    page = visitor.open("chat")
    for view in VIEWS:
        turn_to(page, view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    turn_to(page, "chat")
    box = page.get_by_role("textbox", name="Message", exact=True)
    expect(box).to_be_in_viewport()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed", exact=True).scroll_into_view_if_needed()
    expect(page.get_by_label("Seed", exact=True)).to_be_in_viewport()
    assert accessibility_faults(page) == []
    page.get_by_role("button", name="Close").click()
    expect(box).to_be_in_viewport()
    visitor.context.close()
    assert not visitor.faults


def test_nothing_moves_for_who_wants_no_motion(visit: Visit) -> None:
    moving = """() => [...document.querySelectorAll("*")].filter((e) => {
      const s = getComputedStyle(e);
      return parseFloat(s.transitionDuration) > 0 || s.animationName !== "none"; }).length"""
    page = visit("chat", size="phone")
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    assert page.evaluate(moving) == 0
    show(page, size="phone", motion="no-preference")
    assert page.evaluate(moving) > 0

"""A person at the page: a browser context in one language and theme that notes every error and every foreign request."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Request

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"wide": (1280, 800), "phone": (390, 844), "zoomed": (640, 400)}
SCRIPTED = {"model": "openai:scripted"}  # settings of the chat
ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"


# Runs in each new page before the page's own scripts: what an earlier visitor left is gone, what was chosen is there.
ARRIVAL = """(kept) => { if (location.origin === "null" || sessionStorage.getItem("arrived")) return;
  localStorage.clear(); sessionStorage.setItem("arrived", "1");
  for (const [name, value] of Object.entries(kept)) localStorage.setItem(name, value); }"""


class Contexts:
    """Browser contexts that visitors use one after another, one a language, so that the page's modules stay in its cache."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._kept: dict[str, BrowserContext] = {}

    def fresh(self, language: str = "en", scale: int = 1) -> BrowserContext:
        return self._browser.new_context(
            locale={"en": "en-GB", "zh": "zh-CN"}[language],
            device_scale_factor=scale,
            permissions=["clipboard-read", "clipboard-write"],
        )

    def kept(self, language: str) -> BrowserContext:
        if language not in self._kept:
            self._kept[language] = self.fresh(language)
        return self._kept[language]


class Visitor:
    """`expects` is a pattern of console errors that the test provokes (a 409, a connection it cut).

    `settings` are those of the chat, as if they had been chosen before.
    """

    def __init__(
        self,
        context: BrowserContext,
        url: str,
        theme: str = "light",
        size: str = "wide",
        expects: str = "",
        motion: str = "reduce",
        settings: dict[str, object] | None = None,
    ) -> None:
        self.url, self._expects, self.context = url, expects, context
        self.faults: list[str] = []
        self._theme, self._size, self._motion = theme, size, motion
        self._kept = {"ninestory.settings": json.dumps(settings)} if settings else {}
        self.context.set_default_timeout(20_000)

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.on(
            "console",
            lambda message: self._note(f"{message.text} {message.location}") if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("request", self._check_host)
        page.add_init_script(f"({ARRIVAL})({json.dumps(self._kept)})")
        show(page, self._theme, self._size, self._motion)
        page.goto(f"{self.url}/ui/{path}", wait_until="commit")
        page.locator("main").wait_for()
        return page

    def _note(self, text: str) -> None:
        if not (self._expects and re.search(self._expects, text)):
            self.faults.append(text)

    def _check_host(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.faults.append(f"request to another host: {request.url}")

    def close(self) -> None:
        """Leave as a person does: the pages are closed, and the browser forgets the session."""
        for page in self.context.pages:
            page.close()
        self.context.clear_cookies()


def show(page: Page, theme: str = "light", size: str = "wide", motion: str = "reduce") -> None:
    """Let the page stand in another theme and window."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=theme, reduced_motion=motion)  # type: ignore[arg-type]


def turn_to(page: Page, path: str) -> None:
    """Go to another view as a link of the page does, without loading the page again."""
    page.evaluate(
        "path => { history.pushState({}, '', path); dispatchEvent(new PopStateEvent('popstate')); }", f"/ui/{path}"
    )
    settled(page)


def accessibility_faults(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it stands, one line a rule. Runs beside the page's strict policy."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in result["violations"]
        for node in rule["nodes"][:3]
    ]


def settled(page: Page) -> None:
    """Wait until the view is drawn and the server has answered all that it asked."""
    page.locator(".view, .chat, .compare").first.wait_for()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # its effects have run
    page.locator("main[aria-busy=false]").wait_for()


def set_settings(page: Page, values: dict[str, object]) -> None:
    """Give a chat that is open other settings, as if they had been chosen before."""
    page.evaluate("values => localStorage.setItem('ninestory.settings', JSON.stringify(values))", values)
    page.reload()


def photograph(page: Page, view: str, language: str) -> list[str]:
    """The view as it stands in four photographs: light and dark, wide and on a phone. Returns its faults."""
    faults = []
    ARTIFACTS.mkdir(exist_ok=True)
    for theme, size in product(("light", "dark"), ("wide", "phone")):
        show(page, theme, size)
        name = f"{view}-{language}-{theme}-{size}"
        page.screenshot(path=str(ARTIFACTS / f"{name}.png"))
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults.append(f"{name}: scrolls sideways")
        faults += [f"{name}: {fault}" for fault in accessibility_faults(page)]
    show(page)
    return faults

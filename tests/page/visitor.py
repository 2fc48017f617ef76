"""A person at the page: a browser context in one language and theme that notes every error and every foreign request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, expect

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
AXE = Path(__file__).parent / "vendor" / "axe.min.js"


class Visitor:
    """`expects` is a pattern of console errors that the test provokes (a 409, a connection it cut)."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        language: str = "en",
        theme: str = "light",
        size: str = "wide",
        expects: str = "",
        motion: str = "reduce",
    ) -> None:
        self.url, self._expects = url, expects
        self.faults: list[str] = []
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            locale={"en": "en-GB", "zh": "zh-CN"}[language],
            color_scheme=theme,  # type: ignore[arg-type]
            reduced_motion=motion,  # type: ignore[arg-type]
            device_scale_factor=2 if size == "zoomed" else 1,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(15_000)

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.on(
            "console",
            lambda message: self._note(f"{message.text} {message.location}") if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("request", self._check_host)
        page.goto(f"{self.url}/ui/{path}")
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
        self.context.close()


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
    """Give the chat view other settings, as if they had been chosen before."""
    expect(page.locator(".picker select")).to_be_visible()  # the view's own first write is over by then
    page.evaluate("values => localStorage.setItem('ninestory.settings', JSON.stringify(values))", values)
    page.reload()

"""The page's budgets in real Chromium, against the real server: `python benchmarks/page/budgets.py` from the root.

A scripted endpoint behind `openai:` gives 200 tokens/s exactly, so that the page and the gateway are what is measured.
Writes benchmarks/results/page.md.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.e2e.api_server import ApiServer  # noqa: E402
from tests.page.scripted_upstream import ScriptedUpstream  # noqa: E402
from tests.page.visitor import CHROMIUM_ARGUMENTS  # noqa: E402

from ninestory.core.state import State  # noqa: E402
from ninestory.jobs.store import JobStore  # noqa: E402

TOKENS, TOKENS_PER_SECOND = 600, 200
CURVE_MINUTES, CURVE_POINTS = 10, 120  # points a minute, written ten times as fast
FRAMES = """() => { window.longest = 0; let last = performance.now();
  const step = () => { const now = performance.now(); window.longest = Math.max(window.longest, now - last); last = now;
    if (!window.seen && document.querySelector(".log").lastElementChild.textContent.includes("LASTWORD")) window.seen = Date.now();
    requestAnimationFrame(step); };
  requestAnimationFrame(step); }"""


def history(messages: int) -> dict[str, object]:
    """A conversation of so many messages with code and lists."""
    text = "Some **text** about `things`.\n\n- one\n- two\n\n```python\nprint(1)\n```\n"
    rows = [
        {"id": f"m{i}", "parent": f"m{i - 1}" if i else None, "role": ("user", "assistant")[i % 2], "content": text}
        for i in range(messages)
    ]
    return {"title": f"{messages} messages", "messages": rows, "leaf": rows[-1]["id"]}


def cpu_seconds(session: CDPSession) -> float:
    """Seconds the page's main thread has worked."""
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def first_load(browser: Browser, url: str, path: str) -> tuple[float, int, float]:
    """Kilobytes over the wire, requests, CPU seconds of the main thread until the page is at rest."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto(f"{url}/ui/{path}")
    page.get_by_role("textbox", name="Message", exact=True).wait_for()
    page.wait_for_timeout(1000)
    result = (sum(sizes) / 1000, len(sizes), cpu_seconds(session))
    context.close()
    return result


def stream(page: Page, session: CDPSession, upstream: ScriptedUpstream) -> tuple[float, float, float]:
    """Seconds the last token is late, CPU milliseconds a token, longest frame in milliseconds."""
    page.get_by_role("textbox", name="Message", exact=True).fill("Go")
    page.evaluate(FRAMES)
    before = cpu_seconds(session)
    page.keyboard.press("Enter")
    page.get_by_text("LASTWORD").wait_for(timeout=60_000)
    shown = float(page.evaluate("window.seen")) / 1000 - upstream.last_token_at  # the gateway is between
    return shown, (cpu_seconds(session) - before) / TOKENS * 1000, float(page.evaluate("window.longest"))


def open_long(page: Page, session: CDPSession, url: str) -> tuple[float, float, float]:
    """Seconds, and CPU seconds of the page, until the end of a conversation can be read and answered; seconds until
    all its messages are painted."""
    ready = """() => { const all = document.querySelectorAll(".message");
      return all.length > 0 && all[all.length - 1].querySelector("pre") !== null
        && document.querySelector(".composer textarea") !== null; }"""
    page.goto("about:blank")
    began, before = time.perf_counter(), cpu_seconds(session)
    page.goto(url)
    page.wait_for_function(ready)
    opened, worked = time.perf_counter() - began, cpu_seconds(session) - before
    page.wait_for_function("() => document.querySelectorAll('.message .markdown pre').length === 250")
    return opened, worked, time.perf_counter() - began


def live_curves(context: BrowserContext, server: ApiServer, home: Path) -> str:
    """Heap and nodes after one and after ten minutes' worth of a job's curves (two a second, here twenty)."""
    store = JobStore(State(home / "state.db"))
    claim = store.create_claimed("benchmark", {"model": "curves"})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(f"{server.url}/ui/jobs?id={claim.job.id}")
    page.get_by_role("heading", name="benchmark").wait_for()
    figures = []
    for minute in range(1, CURVE_MINUTES + 1):
        for step in range((minute - 1) * CURVE_POINTS, minute * CURVE_POINTS):
            noise = (step * 7919 % 1000) / 1000
            store.add_event(claim, "metric", {"step": step, "loss": 2 / (1 + step / 200) + noise, "lr": 1e-4 * noise})
            if step % 40 == 0:
                store.beat(claim, minute, CURVE_MINUTES, "benchmark")
            time.sleep(1 / 20)
        page.wait_for_timeout(700)
        session.send("HeapProfiler.collectGarbage")
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        figures.append((metrics["JSHeapUsedSize"] / 1e6, int(metrics["Nodes"]), metrics["TaskDuration"]))
    page.close()
    (heap, nodes, _), (heap_after, nodes_after, seconds) = figures[0], figures[-1]
    return f"heap {heap:.1f} → {heap_after:.1f} MB, nodes {nodes} → {nodes_after}, {seconds:.1f} CPU-s"


def gateway_bytes(server: ApiServer) -> float:
    return float(server.http.get("/ninestory/v1/system").json()["memory"]["gateway_bytes"])


def measure(browser: Browser, server: ApiServer, upstream: ScriptedUpstream, home: Path) -> list[tuple[str, str, str]]:
    """Rows of what was measured: name, budget, figure."""
    create = lambda n: server.http.post("/ninestory/v1/conversations", json=history(n)).json()["id"]  # noqa: E731
    fifty, long = create(50), create(500)
    first_load(browser, server.url, "chat")  # the server compresses each file once
    empty = first_load(browser, server.url, "chat")
    full = first_load(browser, server.url, f"chat?id={fifty}")

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(f"{server.url}/ui/chat?id={fifty}")
    page.evaluate("localStorage.setItem('ninestory.settings', JSON.stringify({model: 'openai:scripted'}))")
    page.reload()
    page.locator(".hljs-built_in").first.wait_for()
    server.http.post("/ninestory/v1/load", json={"model": "openai:scripted"}).raise_for_status()
    upstream.pieces = ["word " if i % 20 else "\n\n" for i in range(TOKENS - 1)] + ["LASTWORD"]
    upstream.tokens_per_second = TOKENS_PER_SECOND
    late, cpu, frame = stream(page, session, upstream)
    opened, worked, painted = open_long(page, session, f"{server.url}/ui/chat?id={long}")
    curves = live_curves(context, server, home)

    before = gateway_bytes(server)
    tabs = [context.new_page() for _ in range(11)]
    for tab in tabs:
        tab.goto(f"{server.url}/ui/jobs")
        tab.get_by_role("heading", name="Jobs").wait_for()
    page.wait_for_timeout(500)
    grown = (gateway_bytes(server) - before) / len(tabs) / 1e6
    context.close()
    return [
        ("First load, empty chat", "≤ 80 kB", f"{empty[0]:.0f} kB in {empty[1]} requests"),
        ("First load, 50 messages with code", "≤ 300 kB", f"{full[0]:.0f} kB in {full[1]} requests"),
        ("Interactive, empty chat", "≤ 0.5 CPU-s", f"{empty[2]:.2f} CPU-s"),
        ("Last of 600 tokens at 200/s shown late by", "≤ 0.1 s", f"{late:.2f} s"),
        ("Page CPU a token, 50 messages of history", "≤ 2.5 ms", f"{cpu:.2f} ms"),
        ("Longest frame while streaming", "≤ 100 ms", f"{frame:.0f} ms"),
        (
            "A conversation of 500 messages opens",
            "≤ 1 s",
            f"{opened:.2f} s, {worked:.2f} CPU-s (all of it painted: {painted:.2f} s)",
        ),
        ("Ten minutes of two live curves (1,200 points each)", "flat", curves),
        ("Gateway memory an open page", "≤ 0.2 MB", f"{grown:.2f} MB"),
        ("Tabs at once", "12", f"{len(tabs) + 1}"),
    ]


def main() -> None:
    with ScriptedUpstream() as upstream, tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = upstream.url, "scripted"
        with ApiServer(Path(home)) as server:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_ARGUMENTS)
            rows = measure(browser, server, upstream, Path(home))
            processor = server.http.get("/ninestory/v1/system").json()["processor"]
            machine = f"{processor['name']}, {processor['cores']} cores, load {os.getloadavg()[0]:.1f}"
            version = f"Chromium {browser.version}, Python {platform.python_version()}"
            browser.close()
    lines = ["# The page's budgets", "", f"{machine}; {version}. `python benchmarks/page/budgets.py`", ""]
    lines += ["| | Budget | Measured |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    text = "\n".join(lines) + "\n"
    (ROOT / "benchmarks/results/page.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

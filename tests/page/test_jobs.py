"""A job's curves and log: what was written before the page opened, and what comes while it is open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from ninestory.core.errors import NotFound, RemoteFailed
from ninestory.core.state import State
from ninestory.jobs.store import JobStore
from tests.e2e.api_server import ApiServer
from tests.page.visitor import photograph

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


def test_curves_grow_as_the_job_reports_and_end_with_it(visit: Visit, server: ApiServer) -> None:
    state = State(server.home / "state.db")
    store = JobStore(state)
    claim = store.create_claimed("measuring", {"model": "a-model"})
    for step in range(1500):  # more than one request brings
        store.add_event(claim, "metric", {"step": step, "loss": 1.0 / (1 + step), "note": "no number"})
    store.add_event(claim, "warning", {"text": "a word in the log"})
    page = visit(f"jobs?id={claim.job.id}")
    curve = page.get_by_role("img", name="loss:")
    expect(curve).to_have_count(1)
    expect(page.get_by_text("a word in the log")).to_be_visible()
    expect(page.get_by_role("heading", name="measuring")).to_contain_text("a-model")
    assert "metric" not in page.locator(".log-lines").inner_text()
    store.add_event(claim, "metric", {"step": 1500, "loss": 0.125})
    store.beat(claim, 3, 4, "three of four")
    expect(page.get_by_role("img", name="loss: 0.125")).to_be_visible()
    expect(page.get_by_text("75 %")).to_be_visible()
    assert 100 < len((curve.locator("polyline").get_attribute("points") or "").split()) <= 501
    assert photograph(page, "job", "en") == []
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", name="日志")).to_be_visible()
    assert photograph(page, "job", "zh") == []
    page.get_by_label("语言").select_option("en")
    store.finish(claim, "succeeded")
    expect(page.get_by_text("succeeded")).to_be_visible()
    state.close()


def test_a_failed_job_is_dismissed_and_resume_is_offered_only_where_it_can_succeed(
    visit: Visit, server: ApiServer
) -> None:
    state = State(server.home / "state.db")
    store = JobStore(state)
    for name, error in (
        ("mistyped", NotFound("There is no such model.")),
        ("dropped", RemoteFailed("The hub is gone.")),
    ):
        claim = store.create_claimed("fetching", {"model": name})
        store.finish(claim, "failed", error=error)
    page = visit("jobs")
    mistyped, dropped = (page.get_by_role("row").filter(has_text=name) for name in ("mistyped", "dropped"))
    expect(dropped.get_by_role("button", name="Resume")).to_be_visible()
    expect(mistyped.get_by_role("button", name="Resume")).to_have_count(0)
    mistyped.get_by_role("button", name="Dismiss").click()
    expect(mistyped).to_have_count(0)
    expect(dropped).to_have_count(1)
    page.reload()
    expect(dropped).to_have_count(1)
    expect(mistyped).to_have_count(0)

    store.create_claimed("ingest", {"knowledge_base": "vs_76942e", "name": "Manuals"})
    expect(page.get_by_role("row").filter(has_text="Manuals")).not_to_contain_text("vs_76942e")

    waiting = store.create_claimed("asking", {"model": "waits"})
    store.suspend(waiting, "approval of a command")
    row = page.get_by_role("row").filter(has_text="waits")
    expect(row).to_contain_text("waiting")
    expect(row).to_contain_text("approval of a command")
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("cancelled")
    state.close()

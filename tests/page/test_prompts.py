"""The prompts that one keeps, and the bench on which versions of one answer the same cases."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import ApiServer

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


def prompts_of(server: ApiServer) -> list[dict]:
    return list(server.http.get("/ninestory/v1/presets?floor=prompts").json()["data"])


def test_a_prompt_with_variables_is_kept_tried_and_deleted_with_undo(visit: Visit, server: ApiServer) -> None:
    page = visit("prompts")
    page.get_by_role("button", name="Translate").click()
    page.get_by_label("Name", exact=True).fill("To French")
    page.get_by_label("Prompt", exact=True).fill("Say {{text}} in {{language}}. {{text}}!")
    page.get_by_label("text", exact=True).fill("tea {{language}}")
    page.get_by_label("language", exact=True).fill("French")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".toast")).to_contain_text("Stored")
    kept = next(p for p in prompts_of(server) if p["name"] == "To French")
    assert kept["settings"]["values"] == {"text": "tea {{language}}", "language": "French"}
    page.reload()
    page.get_by_label("Search prompts").fill("french")
    names = page.get_by_role("complementary", name="Library").get_by_role("button", name="To French")
    names.click()
    page.get_by_role("button", name="Put into the chat").click()
    # a value is put in as it is: what looks like a variable in it is not filled
    draft = page.get_by_role("textbox", name="Message", exact=True)
    expect(draft).to_have_value("Say tea {{language}} in French. tea {{language}}!")
    draft.fill("")
    page.go_back()
    names.click()
    page.get_by_role("button", name="Delete").click()
    expect(names).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(names).to_have_count(1)


def test_a_prompt_that_another_tab_changed_is_not_overwritten(visit: Visit, server: ApiServer) -> None:
    body = {"name": "Shared", "floor": "prompts", "settings": {"text": "One"}}
    kept = server.http.post("/ninestory/v1/presets", json=body).json()
    page = visit("prompts", expects="409")
    page.get_by_role("button", name="Shared").click()
    change = {"revision": kept["revision"], "settings": {"text": "Two"}}
    server.http.patch(f"/ninestory/v1/presets/{kept['id']}", json=change).raise_for_status()
    page.get_by_label("Prompt", exact=True).fill("Three")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Another tab changed this prompt")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Two")
    assert next(p for p in prompts_of(server) if p["name"] == "Shared")["settings"]["text"] == "Two"


def test_versions_answer_cases_in_a_table(visit: Visit, tmp_path: Path) -> None:
    page = visit("prompts")
    page.get_by_role("link", name="Workbench").click()
    page.get_by_role("region", name="Version A").get_by_label("Prompt", exact=True).fill("Repeat: {{word}}")
    page.get_by_role("button", name="Add a version").click()
    second = page.get_by_role("region", name="Version B")
    expect(second.get_by_label("Prompt", exact=True)).to_have_value("Repeat: {{word}}")
    second.get_by_label("Prompt", exact=True).fill("Say only the word {{word}}.")
    (tmp_path / "cases.csv").write_text('word,expected\n"red, not blue",\nblue,zzzz\n', encoding="utf-8")
    page.get_by_label("Import cases from CSV").and_(page.locator("input")).set_input_files(tmp_path / "cases.csv")
    expect(page.get_by_label("word", exact=True).first).to_have_value("red, not blue")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("button", name="Run")).to_be_visible(timeout=240_000)
    table = page.get_by_role("table", name="Workbench")
    expect(table.locator("td .plain")).to_have_count(4)
    expect(table.get_by_text("does not pass")).to_have_count(2)
    expect(table.get_by_role("columnheader", name="Version A")).to_contain_text("0 of 1 pass")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export the table as CSV").click()
    download.value.save_as(tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8-sig"))))
    assert [row["word"] for row in rows] == ["red, not blue", "blue"] and all(row["A"] and row["B"] for row in rows)
    elsewhere = visit("prompts?tab=workbench")  # the bench is the server's, not a browser's
    expect(elsewhere.get_by_label("word", exact=True).last).to_have_value("blue")


def test_a_bench_that_another_tab_changed_is_not_overwritten(visit: Visit, server: ApiServer) -> None:
    page = visit("prompts?tab=workbench", expects="409")
    text = page.get_by_label("Prompt", exact=True)
    with page.expect_response("**/presets"):
        text.fill("One")
    kept = server.http.get("/ninestory/v1/presets?floor=workbench").json()["data"][0]
    kept["settings"]["versions"][0]["text"] = "Two"
    change = {"revision": kept["revision"], "settings": kept["settings"]}
    server.http.patch(f"/ninestory/v1/presets/{kept['id']}", json=change).raise_for_status()
    text.fill("Three")
    expect(page.get_by_text("Another tab changed the workbench")).to_be_visible()
    expect(text).to_have_value("Two")

"""Floor 8 in the page: data are uploaded and looked at, a run is started, its job is shown, and it can be stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import ApiServer
from tests.page.test_flows import Visitor
from tests.page.visitor import photograph

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow, pytest.mark.torch]
Visit = Callable[..., Page]
PAIRS = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": f"Never {n}."} for n in range(12)]
ROWS = [{"instruction": f"Say the number {n}.", "input": "", "output": f"It is {n}."} for n in range(12)]


def test_runs_are_empty_at_first(visit: Visit) -> None:
    page = visit("tune?tab=runs", language="zh")
    expect(page.get_by_text("还没有训练记录。")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_look_at_the_data_start_and_stop(visit: Visit, server: ApiServer, tmp_path: Path, language: str) -> None:
    data = tmp_path / "numbers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"question": "?"}\n')
    page = visit("tune", language=language)
    who = Visitor(page, language)
    page.get_by_label(who.text("chooseFile"), exact=True).and_(page.locator("input")).set_input_files(data)
    expect(page.get_by_text(data.name)).to_be_visible()
    who.fill("tune_steps", "3")
    who.press("inspectData")
    table = page.get_by_role("table", name=who.text("inspectData"))
    expect(table.get_by_role("row", name=who.text("rowsUnusable"))).to_contain_text("1", timeout=90_000)
    expect(table.get_by_role("row", name=who.text("dataForm"))).to_contain_text("alpaca")
    expect(table.get_by_role("row", name=who.text("timeNeeded"))).to_contain_text(re.compile(r"\d"))
    expect(page.locator(".sample .is-learned").first).to_contain_text("It is")
    expect(page.get_by_text(f"{data.name}:13")).to_be_visible()  # the bad row is named
    who.says("rowsSkipped")
    assert photograph(page, "inspection", language) == []
    who.press("startRun")
    page.wait_for_url(f"{server.url}/ui/jobs?id=job_*")
    who.says("kind_tune")
    who.press("cancel")
    expect(page.get_by_text(who.text("cancelled"), exact=True)).to_be_visible(timeout=120_000)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_preference_pairs_are_looked_at_and_learned_with_the_beta_that_was_set(
    visit: Visit, server: ApiServer, tmp_path: Path, language: str
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    page = visit("tune", language=language)
    who = Visitor(page, language)
    page.get_by_label(who.text("chooseFile"), exact=True).and_(page.locator("input")).set_input_files(data)
    beta = page.get_by_label(who.text("tune_beta"), exact=True)
    expect(beta).to_have_count(0)
    page.get_by_label(who.text("tuneObjective"), exact=True).select_option("dpo")
    expect(page.get_by_label(who.text("tune_rate"), exact=True)).to_have_value("0.00005")
    beta.fill("0.3")
    who.fill("tune_steps", "3")
    who.press("inspectData")
    table = page.get_by_role("table", name=who.text("inspectData"))
    expect(table.get_by_role("row", name=who.text("dataForm"))).to_contain_text("pairs", timeout=90_000)
    expect(table.get_by_role("row", name=who.text("timeNeeded"))).to_contain_text(re.compile(r"\d"))
    for key, words in (("answerChosen", "It is"), ("answerRejected", "Never")):
        heading = page.get_by_role("heading", name=who.text(key), exact=True).first
        expect(heading.locator("xpath=following-sibling::pre[1]").locator(".is-learned")).to_contain_text(words)
    assert photograph(page, "preferences", language) == []
    who.press("startRun")
    page.wait_for_url(f"{server.url}/ui/jobs?id=job_*")
    job = page.url.rpartition("=")[2]
    (recipe,) = [j["params"]["recipe"] for j in server.http.get("/ninestory/v1/jobs").json()["data"] if j["id"] == job]
    assert (recipe["kind"], recipe["train"]["beta"], recipe["train"]["max_steps"]) == ("finetuning.dpo", 0.3, 3)
    who.press("cancel")
    expect(page.get_by_text(who.text("cancelled"), exact=True)).to_be_visible(timeout=120_000)

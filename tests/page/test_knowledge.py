"""The documents floor as a person uses it: create, upload, ask, look at a citation, see what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests import documents
from tests.page.visitor import accessibility_faults, photograph

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
READING = 120_000  # the embedding model is made ready with the first document


def make_base(page: Page, name: str, folder: Path) -> None:
    (folder / "茶.txt").write_text(
        "第一章 保存\n茶叶应放在密封的罐子里，避光防潮。罐子放在阴凉处。\n\n第二章 冲泡\n绿茶用八十度的水冲泡。",
        "utf-8",
    )
    (folder / "broken.pdf").write_bytes(b"%PDF-broken")
    documents.pdf(
        folder / "rivers.pdf", [["Mountains stand still."], ["Rivers flow to the sea.", "They are in no hurry."]]
    )
    page.get_by_label(re.compile("New knowledge base|新建知识库")).fill(name)
    page.get_by_role("button", name=re.compile("^(Create|创建)$")).click()
    page.locator("input[type=file]").set_input_files([folder / n for n in ("茶.txt", "broken.pdf", "rivers.pdf")])
    for file in ("茶.txt", "rivers.pdf"):
        row = page.get_by_role("row").filter(has_text=file)
        expect(row).to_contain_text(re.compile("ready|可用"), timeout=READING)


def test_create_upload_ask_and_look_at_the_source(visit: Visit, tmp_path: Path) -> None:
    page = visit("documents", language="zh")
    page.context.set_default_timeout(60_000)
    make_base(page, "茶叶", tmp_path)
    broken = page.get_by_role("row").filter(has_text="broken.pdf")
    expect(broken).to_contain_text("失败")
    expect(broken).to_contain_text("文件已损坏。")
    page.get_by_label("问题").fill("茶叶应该怎么保存？")
    page.get_by_label("回答方式").select_option("extract")
    page.get_by_role("button", name="提问").click()
    answer = page.locator(".answer").first
    expect(answer).to_contain_text("密封的罐子", timeout=READING)
    cited = answer.inner_text().split("[1]")[0].strip()
    answer.get_by_role("button").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("mark")).to_have_text(cited)  # the sentence, not its passage
    assert cited == "茶叶应放在密封的罐子里，避光防潮。"
    expect(dialog.get_by_role("button", pressed=True)).to_contain_text("第一章 保存")
    assert photograph(page, "source-text", "zh") == []
    passages = dialog.locator(".passages")
    passages.get_by_role("button").first.focus()
    page.keyboard.press("ArrowDown")
    expect(passages.get_by_role("button", pressed=True)).to_contain_text("第二章 冲泡")
    expect(dialog.locator("mark")).to_have_text("绿茶用八十度的水冲泡。")
    at_passage = page.url
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("group", name="这个回答对吗？").get_by_role("button", name="正确").click()
    expect(page.get_by_text("已保存，供评估此知识库使用。")).to_be_visible()
    assert photograph(page, "answer", "zh") == []
    page.get_by_label("语言").select_option("en")
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    assert photograph(page, "answer", "en") == []
    page.get_by_label("Language").select_option("zh")
    page.get_by_label("回答方式").select_option("search")
    page.get_by_label("问题").fill("Where do rivers flow?")
    page.get_by_role("button", name="提问").click()
    expect(page.locator(".found li").first).to_contain_text(
        re.compile(r"余弦 0\.\d+ [<≥] 阈值 0\.\d+"), timeout=READING
    )
    expect(page.locator(".found li").first).not_to_contain_text("得分")
    expect(page.locator("p[role=status]").last).to_contain_text(re.compile(r"余弦值达到阈值 0\.\d+"))
    look_at_the_page(page)
    page.get_by_role("button", name="删除 broken.pdf").click()
    expect(page.get_by_role("row").filter(has_text="broken.pdf")).to_have_count(0)
    page.goto(at_passage)  # the passage has an address of its own
    expect(page.locator("dialog mark")).to_contain_text("密封的罐子")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="删除", exact=True).first.click()
    page.get_by_role("dialog").get_by_role("button", name="删除").click()
    expect(page.get_by_label("知识库", exact=True).get_by_role("option", name="茶叶")).to_have_count(0)


def look_at_the_page(page: Page) -> None:
    """A passage of a PDF on the picture of its page, by mouse and by keyboard."""
    page.locator(".found").get_by_role("button", name="rivers.pdf").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("第 2 页，共 2 页")).to_be_visible()
    lines = dialog.locator(".sheet .is-chosen")
    picture = dialog.get_by_role("img")
    expect(picture).to_have_attribute("alt", "rivers.pdf, 第 2 页")
    expect(picture).to_have_js_property("naturalWidth", 1131)
    expect(lines).to_have_count(2)
    line, sheet = lines.first.bounding_box(), picture.bounding_box()
    assert line and sheet and 0.09 < (line["x"] - sheet["x"]) / sheet["width"] < 0.11
    assert photograph(page, "source-page", "zh") == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize(("theme", "size"), [("light", "wide"), ("dark", "phone")])
def test_the_empty_view_is_accessible(visit: Visit, theme: str, size: str) -> None:
    page = visit("documents", theme=theme, size=size)
    expect(page.get_by_label("New knowledge base")).to_be_visible()
    assert accessibility_faults(page) == []
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")

"""Documents of every format, and those that cannot be read."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import pytest

from ninestory.core.errors import Damaged, NinestoryError, TooLarge, Unsupported
from ninestory.floors.retrieval.document import Document
from ninestory.floors.retrieval.parsing import FORMATS, parse
from ninestory.floors.retrieval.parsing.isolated import ParserProcess
from tests import documents

CHINESE = "第一章 总则\n本系统用于回答本地文档中的问题。所有数据都保存在本机。\n\n第二章 安装\n请先安装依赖，然后运行服务。繁體字也可以。"
SIMPLIFIED = CHINESE.replace("繁體字也可以。", "其他内容也可以。")
TRADITIONAL = "第一章 總則\n本系統用於回答本機文件中的問題。所有資料都保存在本機。請先安裝相依套件，然後執行服務。"


def headings(document: Document) -> list[tuple[int, str]]:
    return [(b.level, document.text[b.start : b.end]) for b in document.blocks if b.kind == "heading"]


def kinds(document: Document) -> list[str]:
    return [block.kind for block in document.blocks]


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", CHINESE),
        ("utf-8-sig", CHINESE),
        ("gb18030", SIMPLIFIED * 3),
        ("big5", TRADITIONAL * 3),
        ("utf-16", CHINESE),
        ("utf-16-le", SIMPLIFIED * 3),
        ("utf-16-be", SIMPLIFIED * 3),
        ("gb18030", "名称;价格"),
        ("big5", "名稱;價格。測試"),
        ("cp1252", "Größe, déjà vu, naïve café, señor, Übergrößenträger und Ähnliches. " * 4),
        ("utf-16-le", "Plain English text without a byte order mark."),
    ],
)
def test_encodings_are_detected(tmp_path: Path, encoding: str, text: str) -> None:
    document = parse(write(tmp_path / "a.txt", text.encode(encoding)))
    assert "".join(document.text.split()) == "".join(text.split())
    if encoding not in ("utf-8", "utf-8-sig"):
        assert "encoding" in document.notes[0]


def test_numbered_lines_of_plain_text_are_headings(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.txt", CHINESE))
    assert headings(document) == [(1, "第一章 总则"), (1, "第二章 安装")]


def test_markdown(tmp_path: Path) -> None:
    source = (
        "Title\n=====\n\nSome *text*.\n\n## Part #\n\n```py\n# no heading\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    document = parse(write(tmp_path / "a.md", source))
    assert headings(document) == [(1, "Title"), (2, "Part")]
    assert kinds(document) == ["heading", "text", "heading", "code", "table"]
    assert "# no heading" in document.text


def test_html(tmp_path: Path) -> None:
    page = """<html><head><title>x</title></head><body><nav>menu</nav><div class="toc">contents</div><h1>One</h1>
    <p>A <b>bold</b>\n word.</p><ul><li>first<li>second</ul><pre>a\n  b</pre><script>evil()</script>
    <table><tr><th>k<th>v</tr><tr><td>x</td><td><p>1</p></td></tr></table><h2>Two</h2>tail</body></html>"""
    document = parse(write(tmp_path / "a.html", page))
    assert document.text == "One\n\nA bold word.\n\n- first\n\n- second\n\na\n  b\n\nk | v\nx | 1\n\nTwo\n\ntail"
    assert headings(document) == [(1, "One"), (2, "Two")]


def test_html_in_a_declared_chinese_encoding(tmp_path: Path) -> None:
    page = '<html><meta charset="gb2312"><body><p>中文网页的正文</p></body></html>'
    assert parse(write(tmp_path / "a.htm", page.encode("gb18030"))).text == "中文网页的正文"


def test_deeply_nested_html_does_not_end_the_process(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.html", "<div>" * 20_000 + "deep" + "</div>" * 20_000))
    assert document.text == "deep"


def test_docx(tmp_path: Path) -> None:
    paragraphs = [("heading 1", "安装"), ("Normal", "先安装依赖。"), ("heading 2", "Details"), ("Normal", "More.")]
    document = parse(documents.docx(tmp_path / "a.docx", paragraphs, [["name", "size"], ["a", "1"]]))
    assert headings(document) == [(1, "安装"), (2, "Details")]
    assert document.text.endswith("name | size\na | 1")


def test_pptx_slides_come_in_the_order_of_the_deck(tmp_path: Path) -> None:
    document = parse(documents.pptx(tmp_path / "a.pptx", [("First", "alpha"), ("Second", "beta")]))
    assert document.text == "First\n\nalpha\n\nSecond\n\nbeta"
    assert [block.page for block in document.blocks] == [1, 1, 2, 2]


def test_epub_without_a_container_file(tmp_path: Path) -> None:
    document = parse(documents.epub(tmp_path / "a.epub", ["<h1>书</h1><p>正文</p>", "<p>end</p>"]))
    assert document.text == "书\n\n正文\n\nend"


def test_tables(tmp_path: Path) -> None:
    rows = [["name", "price"], ["苹果", "3"]]
    document = parse(documents.xlsx(tmp_path / "a.xlsx", "Fruit", rows))
    assert document.text == "Fruit\n\nname | price\n苹果 | 3"
    document = parse(write(tmp_path / "a.csv", "name;price\n苹果;3\n".encode("gb18030") * 8))
    assert document.text.startswith("name | price\n苹果 | 3")


def test_json_and_json_lines(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.json", '[{"a": {"b": 1}, "c": [1, 2]}, {"d": null, "e": "x"}]'))
    assert document.text == "a.b: 1\nc: 1, 2\n\ne: x"
    assert parse(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n')).text == "a: 1\n\na: 2"


def test_mail(tmp_path: Path) -> None:
    mail = b"Subject: =?utf-8?b?5Lya6K6u?=\nFrom: a@example.org\nContent-Type: text/plain; charset=gb2312\n\n"
    document = parse(write(tmp_path / "a.eml", mail + "明天开会。".encode("gb2312")))
    assert headings(document) == [(1, "会议")]
    assert "明天开会。" in document.text


def test_code_keeps_its_indentation(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.py", "def f():\n    return 1\n\n\ndef g():\n    return 2\n"))
    assert kinds(document) == ["code", "code"]
    assert "def f():\n    return 1" in document.text


def test_pdf_pages_and_running_lines(tmp_path: Path) -> None:
    pages = [
        ["The Manual", f"Topic {word} is explained", f"here at {word} length.", f"- {n} -"]
        for n, word in enumerate("ABCDE")
    ]
    document = parse(documents.pdf(tmp_path / "a.pdf", pages))
    assert [block.page for block in document.blocks] == [1, 2, 3, 4, 5]
    assert "The Manual" not in document.text
    assert document.text.startswith("Topic A is explained here at A length.")


def test_text_in_a_picture_and_in_a_scanned_pdf(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (900, 200), "white")
    ImageDraw.Draw(picture).text((30, 60), "Invoice number 4711", fill="black", font=ImageFont.load_default(56))
    picture.save(tmp_path / "a.png")
    assert "4711" in parse(tmp_path / "a.png").text
    picture.save(tmp_path / "a.pdf")
    document = parse(tmp_path / "a.pdf")
    assert "4711" in document.text and "OCR" in document.notes[0]
    assert document.blocks[0].page == 1


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_an_empty_file_and_a_truncated_one_are_typed_failures(tmp_path: Path, ending: str) -> None:
    with pytest.raises(NinestoryError) as caught:
        parse(write(tmp_path / f"a{ending}", b""))
    assert caught.value.code == "empty_document"
    with contextlib.suppress(NinestoryError):  # nothing else may come out
        parse(write(tmp_path / f"a{ending}", b"\xff\x00\x8f%PDF PK\x03\x04\x00" + os.urandom(500)))


def test_encrypted_and_corrupt_documents(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        parse(documents.pdf(tmp_path / "locked.pdf", [["secret"]], encrypted=True))
    assert caught.value.code == "encrypted_document"
    with pytest.raises(Unsupported) as caught:
        parse(write(tmp_path / "locked.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)))
    assert caught.value.code == "encrypted_document"
    good = documents.docx(tmp_path / "good.docx", [("Normal", "text")]).read_bytes()
    with pytest.raises(Damaged):
        parse(write(tmp_path / "cut.docx", good[: len(good) // 2]))
    with pytest.raises(Damaged):
        parse(write(tmp_path / "cut.pdf", documents.pdf(tmp_path / "good.pdf", [["text"]]).read_bytes()[:60]))


@pytest.mark.parametrize("ending", ["docx", "pptx", "epub", "xlsx"])
def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bomb.{ending}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(64 << 20))
        archive.writestr("content.opf", "x")
    with pytest.raises(TooLarge) as caught:
        parse(path)
    assert caught.value.code == "zip_bomb"


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    evil = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = f"{evil}<w:document {word}><w:body><w:p><w:r><w:t>x&f;</w:t></w:r></w:p></w:body></w:document>"
    document = parse(documents.zipped(tmp_path / "a.docx", {"word/document.xml": body}))
    assert "root" not in document.text


def test_the_child_process_survives_a_bad_file_and_keeps_reading(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad.pdf", b"%PDF-junk"), write(tmp_path / "good.txt", CHINESE)
    with ParserProcess() as parser:
        with pytest.raises(Damaged):
            parser.parse(bad, "bad.pdf")
        assert parser.parse(good, "good.txt") == parse(good)
        assert parser._child is not None
        parser._child.kill()
        with pytest.raises(NinestoryError) as caught:
            parser.parse(good, "good.txt")
        assert caught.value.code == "parser_died"
        assert parser.parse(good, "good.txt").blocks


def test_html_listings_cells_and_what_is_skipped(tmp_path: Path) -> None:
    """Tags inside a listing keep its lines, bars in cells are text, a menu inside a menu goes with it."""
    page = (
        "<!-- <h1>no</h1> --><nav>Menu <nav>inner</nav></nav><div class='x toc'><p>Contents<div class='toc'>1</div></div>"
        "<h2 title='a > b'>Pipes &amp; <i>cells</i> ¶</h2><pre><div># one</div><div>two <img src=x>&lt;three&gt;</div></pre>"
        "<table><tr><th>Cell<th>Effect<tr><td><code>| xargs</code><td>runs<br>it</table>"
        "<script>if (a < b) document.write('<p>no')</script><ul><li>first<br>line<li><p>second</ul><p>1 < 2"
    )
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    document = parse(tmp_path / "a.html")
    assert [(b.kind, b.level, document.text[b.start : b.end]) for b in document.blocks] == [
        ("heading", 2, "Pipes & cells"),
        ("code", 0, "# one\ntwo <three>"),
        ("table", 0, "Cell | Effect\n| xargs | runs it"),
        ("text", 0, "- first\nline"),
        ("text", 0, "second"),
        ("text", 0, "1 < 2"),
    ]

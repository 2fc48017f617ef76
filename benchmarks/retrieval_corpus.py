"""Questions and documents out of Debian's manuals: each section becomes a file without its heading, the heading asks.

Packages debian-faq, debian-faq-zh-cn, debian-reference-en, debian-reference-zh-cn: unpacked below a folder (`dpkg-deb -x`)
or installed.
"""

from __future__ import annotations

from pathlib import Path

from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.parsing import parse

FAQ, REFERENCE = "share/doc/debian/FAQ", "share/debian-reference"
_SHORTEST = 80  # characters below a heading


def pages(root: Path) -> list[Path]:
    """The manuals' pages below `root` (/usr, or where the packages were unpacked), both languages."""
    faq, reference = root / FAQ, root / REFERENCE
    found = [*faq.glob("*.en.html"), *(faq / "zh-cn").glob("*.html")]
    found += [path for path in reference.glob("ch*.html") if path.name.endswith((".en.html", ".zh-cn.html"))]
    return sorted(set(found))


def write_sections(root: Path, folder: Path) -> list[Question]:
    """One file a section; the questions, each naming its file. Headings that stand twice in a language are left out."""
    questions: dict[tuple[str, str], list[Question]] = {}
    for page in pages(root):
        document = parse(page)
        name, body = "", list[str]()
        for number, block in enumerate([*document.blocks, None]):
            text = document.text[block.start : block.end] if block else ""
            if block is not None and block.kind != "heading":
                body.append(text)
                continue
            if len(name) >= 4 and len("\n\n".join(body)) >= _SHORTEST:
                file = f"{page.stem}-{number}.txt"
                (folder / file).write_text("\n\n".join(body), encoding="utf-8")
                language = "zh" if "zh-cn" in page.name else "en"
                questions.setdefault((language, name), []).append(Question(name, file))
            name, body = text.lstrip("0123456789. "), []
    return [asked[0] for asked in questions.values() if len(asked) == 1]


def language_of_file(question: Question) -> str:
    return "zh" if "zh-cn" in question.file else "en"

"""Questions and documents out of Debian's manuals: each section becomes a file without its heading, the heading asks.

Packages debian-faq, debian-faq-zh-cn, debian-handbook, debian-reference-en, debian-reference-zh-cn: unpacked below a
folder (`dpkg-deb -x`) or installed. The files and questions are the same in every run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.parsing import parse

FAQ, REFERENCE = "share/doc/debian/FAQ", "share/debian-reference"
HANDBOOK = {"en": "share/doc/debian-handbook/html/en-US", "zh": "share/doc/debian-handbook/html/zh-CN"}
_SHORTEST = 80  # characters below a heading
NUMBER = re.compile(r"^(?:第\s*\d+\s*章|附录\s*[A-Z]|(?:Chapter|Appendix)\s+[\dA-Z]+|[A-Z](?:\.\d+)+)?[\d.\s]*")


def pages(root: Path) -> list[Path]:
    """The FAQ's and the Reference's pages below `root` (/usr, or where the packages were unpacked), both languages."""
    faq, reference = root / FAQ, root / REFERENCE
    found = [*faq.glob("*.en.html"), *(faq / "zh-cn").glob("*.html")]
    found += [path for path in reference.glob("ch*.html") if path.name.endswith((".en.html", ".zh-cn.html"))]
    return sorted(set(found))


def handbook_pages(root: Path) -> list[Path]:
    """The Handbook's, both languages."""
    return sorted(path for folder in HANDBOOK.values() for path in (root / folder).glob("*.html"))


def write_sections(root: Path, folder: Path) -> list[Question]:
    """One file a section; the questions, each naming its file. Headings that stand twice, in whatever language, are left out."""
    questions: dict[str, list[Question]] = {}
    for page in [*pages(root), *handbook_pages(root)]:
        language = "zh" if "zh-cn" in page.name or page.parent.name == "zh-CN" else "en"
        document = parse(page)
        name, body = "", list[str]()
        for number, block in enumerate([*document.blocks, None]):
            text = document.text[block.start : block.end] if block else ""
            if block is not None and block.kind != "heading":
                body.append(text)
                continue
            if len(name) >= 4 and len("\n\n".join(body)) >= _SHORTEST:
                file = f"{language}-{page.name.split('.en.')[0].split('.zh-cn.')[0].removesuffix('.html')}-{number}.txt"
                (folder / file).write_text("\n\n".join(body), encoding="utf-8")
                questions.setdefault(name, []).append(Question(name, file))
            name, body = NUMBER.sub("", text), []
    return [asked[0] for asked in questions.values() if len(asked) == 1]


def language_of_file(question: Question) -> Literal["en", "zh"]:
    return "zh" if question.file.startswith("zh-") else "en"

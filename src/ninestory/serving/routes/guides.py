"""`/ninestory/v1/guides`: the tutorial series as Markdown, from the package or, in a checkout, from `docs/guides/`."""

from __future__ import annotations

import importlib.resources
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from ninestory.core.errors import NotFound
from ninestory.models.catalogue import load_catalogue
from ninestory.serving.context import GatewayContext

LANGUAGES = ("en", "zh")

_FILE = re.compile(r"([a-z0-9][a-z0-9-]*)\.md")
_TITLE = re.compile(r"^# +(.+?) *$", re.MULTILINE)


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/guides", tags=["guides"])

    @routes.get("")
    async def guides(q: Annotated[str, Query(max_length=200)] = "") -> dict[str, Any]:
        """The guides that exist, or those in whose text `q` stands, in the order of the floors."""
        floors = {name: system.floor for name, system in load_catalogue().items()}
        rows = [
            {
                "name": name,
                "floor": floors.get(name),
                "title": {lang: _title(texts[lang]) for lang in LANGUAGES},
                "excerpt": {lang: _excerpt(texts[lang], q) for lang in LANGUAGES},
            }
            for name, texts in read_guides().items()
            if any(q.casefold() in text.casefold() for text in (name, *texts.values()))
        ]
        return {"object": "list", "data": sorted(rows, key=lambda row: (row["floor"] or 0, row["name"]))}

    @routes.get("/{name}")
    async def guide(name: str, language: Literal["en", "zh"] = "en") -> dict[str, Any]:
        """One guide as Markdown."""
        texts = read_guides().get(name)
        if texts is None:
            raise NotFound(
                f"There is no guide {name[:80]!r}.",
                hint="GET /ninestory/v1/guides lists them.",
                hint_zh="GET /ninestory/v1/guides 列出全部指南。",
                code="guide_not_found",
            )
        return {"name": name, "language": language, "title": _title(texts[language]), "markdown": texts[language]}

    return routes


def read_guides() -> dict[str, dict[str, str]]:
    """Name → language → text, of the guides that exist in both languages."""
    found: dict[str, dict[str, str]] = {}
    for language in LANGUAGES:
        directory = _directory() / language
        for file in directory.iterdir() if directory.is_dir() else ():
            if match := _FILE.fullmatch(file.name):
                found.setdefault(match[1], {})[language] = file.read_text(encoding="utf-8")
    return {name: texts for name, texts in found.items() if len(texts) == len(LANGUAGES)}


def _directory() -> Traversable:
    package = importlib.resources.files("ninestory")
    installed = package / "guides"
    return installed if installed.is_dir() else Path(str(package)).parent.parent / "docs" / "guides"


def _excerpt(markdown: str, wanted: str) -> str:
    """What stands around the first `wanted` of the text below the title, on its line, or ""."""
    for line in markdown.splitlines()[1:] if wanted else ():
        at = line.casefold().find(wanted.casefold())
        if at >= 0:
            begin = max(0, at - 30)
            return ("… " if begin else "") + line[begin : at + 90].strip()
    return ""


def _title(markdown: str) -> str:
    match = _TITLE.search(markdown)
    return match[1] if match else ""

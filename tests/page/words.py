"""The page's words as the tests name them: the shared table and those of all floors and views."""

from __future__ import annotations

import json
import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "src/ninestory/webui/static"
_PAIR = re.compile(r'(\w+): ("(?:[^"\\]|\\.)*")')


def words(language: str) -> dict[str, str]:
    """key → text in a language, "en" or "zh"."""
    texts = [(STATIC / "i18n" / f"{language}.js").read_text(encoding="utf-8")]
    for file in STATIC.glob("*/*/i18n.js"):
        english, chinese = re.split(r"^  zh: \{", file.read_text(encoding="utf-8"), flags=re.M)
        texts.append(english if language == "en" else chinese)
    return {key: json.loads(text) for one in texts for key, text in _PAIR.findall(one)}

"""Whether passages can answer a question at all: by their cosine, or by a rare term of the question that one holds.

One calibrated cosine tells the wrong topic (`calibration.py`). It does not tell one error code from another, so a
passage that holds an identifier of the question passes below it, and so does one that holds a name or a number of the
question together with most of its other words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from ninestory.floors.retrieval.hits import Hit
from ninestory.floors.retrieval.rerank import searched_text
from ninestory.floors.retrieval.terms import content_terms, coverage, holds, names

Grounds = Literal["cosine", "identifier", "name"]

NAMED_COVERAGE = 0.75  # of the question's content terms, beside a name of it
_REFERRING_TERMS = {
    "en": 2,
    "zh": 4,
}  # a pronoun beside more of them refers to nothing before: "How long does it take …"
_REFERRING = re.compile(
    r"\b(?:it|its|this|that|these|those|they|them|their|he|him|his|she|her|ones?|another|such|same|more)\b"
    "|它|这|其中|此|上述|上面|刚才|前者|后者|那个|那些|那样|那里|别的|其他|另外|详细|具体|举个例子|继续|哪一个|如果",
    re.IGNORECASE,
)
_CONTINUING = re.compile(r"(?:and|but|so|also|then|or|(?:what|how) about)\b|那|还有|然后|再", re.IGNORECASE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def accepted_by(question: str, hits: Sequence[Hit], threshold: float | None) -> Grounds | None:
    """On what grounds the passages of a search are taken for an answer; None = the documents do not answer.

    Args:
        hits: what was found for the question, in any order.
        threshold: the knowledge base's cosine for questions of this language; None = everything is near enough.
    """
    if hits and (threshold is None or max(hit.cosine for hit in hits) >= threshold):
        return "cosine"
    if any(hit.terms for hit in hits):
        return "identifier"
    named, terms = names(question), content_terms(question)
    texts = [searched_text(hit) for hit in hits if named]
    if any(coverage(terms, text) >= NAMED_COVERAGE and any(holds(text, name) for name in named) for text in texts):
        return "name"
    return None


def refers_back(question: str) -> bool:
    """Whether a follow-up is understood only with what was said before: "Why is that?", "And on a server?", "为什么？"."""
    terms = len(content_terms(_REFERRING.sub(" ", question)))
    most = _REFERRING_TERMS["zh" if _CHINESE.search(question) else "en"]
    if terms == 0:
        return True
    if _CONTINUING.match(question.strip()) and terms == 1:
        return True
    return _REFERRING.search(question) is not None and terms <= most

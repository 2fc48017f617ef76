"""Does an answer say only what its passages say? Counted by sentences: by their words, or by a judging model.

By words: a sentence is supported when at least `SUPPORTED` of its content (words, pairs of Chinese characters) stands in
one passage. It is cheap, catches inventions, and calls a free paraphrase unsupported; a judge is asked where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ninestory.floors.retrieval.prompts import PROMPTS
from ninestory.floors.retrieval.terms import language_of

SUPPORTED = 0.6
_MARK = re.compile(r"\[\d{1,2}\]")
_SENTENCE = re.compile(r"[^。！？!?\n.]+(?:[。！？!?.]+|\n|$)")
_WORD = re.compile(r"[\u3400-\u9fff]+|\w+")
_SHORTEST = 2  # contents of a sentence that is judged
Judge = Callable[[str], bool]


def faithfulness(answer: str, passages: Sequence[str], judge: Judge | None = None) -> float | None:
    """The share of the answer's sentences that a passage supports; None when there is nothing to judge.

    Args:
        judge: whether a model says yes to a prompt; by words when None.
    """
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(_MARK.sub("", answer))]
    judged = [sentence for sentence in sentences if len(_contents(sentence)) >= _SHORTEST]
    if not judged:
        return None
    if judge is None:
        known = [_contents(passage) for passage in passages]
        supported = [any(_share(_contents(s), contents) >= SUPPORTED for contents in known) for s in judged]
    else:
        shown = "\n\n".join(passages)
        words = PROMPTS[language_of(answer)]
        supported = [judge(words.is_supported.format(passages=shown, statement=s)) for s in judged]
    return sum(supported) / len(judged)


def _share(wanted: set[str], known: set[str]) -> float:
    return len(wanted & known) / len(wanted)


def _contents(text: str) -> set[str]:
    """Words of three letters and more and numbers, and of Chinese every two characters in a row."""
    found: set[str] = set()
    for word in _WORD.findall(text.lower()):
        if "\u3400" <= word[0] <= "\u9fff":
            found |= {word[i : i + 2] for i in range(max(len(word) - 1, 1))}
        elif len(word) > 2 or word.isdigit():
            found.add(word)
    return found

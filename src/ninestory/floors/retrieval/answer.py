"""From passages to an answer with numbered citations: pure steps between a search and a chat model.

    request = condense(history, question)        → a question that stands alone, when there is a history
    prepared = prepare(question, hits, …)        → a chat request, an answer, or sentences to choose from
    quoted(prepared, question vector, vectors)   → the extractive answer made of the nearest sentences
    citations(text, prepared.passages)           → where each [n] of the answer points

Retrieved text is data: it is quoted inside the user's message, and such a request never offers tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ninestory.floors.retrieval.hits import Hit
from ninestory.floors.retrieval.prompts import PROMPTS, Language
from ninestory.runtimes.protocol import ChatRequest, Message, Sampling

AnswerMode = Literal["auto", "generate", "extract"]
ANSWER_TOKENS = 512
_BYTES_A_TOKEN = 2.5  # on the safe side for Chinese and English in small vocabularies
_MOST_PASSAGES = 6
_QUOTED_PASSAGES = _QUOTED_SENTENCES = 3
_SHORTEST_SENTENCE, _SENTENCES_A_PASSAGE = 8, 12
_CJK = re.compile(r"[\u3400-\u9fff]")
_SENTENCE = re.compile(r"[^。！？!?\n.]*(?:[。！？!?]+|\.+(?=\s|$)|\n|[.]|$)")
_MARK = re.compile(r"\[(\d{1,2})\]")


_CALM = Sampling(temperature=0, frequency_penalty=0.3)  # small models repeat a passage for ever otherwise


@dataclass(frozen=True)
class Prepared:
    """What to do with a question.

    Attributes:
        passages: number n of a citation is passages[n - 1].
        request: what to ask the chat model, when `reason` is "generate".
        text: the answer, when it is "not_found".
        sentences: (number of the passage, sentence) for `quoted`, when it is "extract".
        reason: "generate", "extract" or "not_found"; `notice` says why in the user's words.
    """

    question: str
    passages: list[Hit]
    reason: Literal["generate", "extract", "not_found"]
    request: ChatRequest | None = None
    text: str = ""
    sentences: tuple[tuple[int, str], ...] = ()
    notice: str = ""


@dataclass(frozen=True)
class Citation:
    """`[number]` at characters start to end of the answer, and the passage it stands for."""

    number: int
    start: int
    end: int
    passage: Hit


def language_of(text: str) -> Language:
    """zh when a quarter of the letters are Chinese characters."""
    letters = [char for char in text if char.isalpha()]
    return "zh" if letters and len(_CJK.findall(text)) * 4 >= len(letters) else "en"


def writes_answers(model: str) -> bool:
    """Whether a chat model can be trusted to answer from passages. The 135M starter cannot: it adds what is not there."""
    return not model.startswith("starter:smollm2")


def condense(history: Sequence[Message], question: str) -> ChatRequest | None:
    """The request that turns a follow-up into a question that stands alone; None when there is no history."""
    turns = [m for m in history if m.role in ("user", "assistant") and m.text.strip()][-6:]
    if not turns:
        return None
    words = PROMPTS[language_of(question)]
    told = "\n".join(f"{words.user if m.role == 'user' else words.assistant}: {m.text[:400]}" for m in turns)
    text = words.condense.format(history=told, question=question)
    return ChatRequest(
        messages=[Message(role="user", content=text)],
        max_tokens=96,
        sampling=Sampling(temperature=0),
        truncation="auto",
    )


def standalone(reply: str, question: str) -> str:
    """The model's rewritten question, or the user's own where the reply is no use (empty, or an essay)."""
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "")
    return line if 0 < len(line) <= max(4 * len(question), 200) else question


def prepare(
    question: str,
    hits: Sequence[Hit],
    *,
    threshold: float | None,
    context_tokens: int = 4096,
    mode: AnswerMode = "auto",
    writes: bool = True,
    history: Sequence[Message] = (),
) -> Prepared:
    """Decide how a question is answered, and with which passages.

    Args:
        hits: of a search, best first.
        threshold: the knowledge base's cosine of "not in the documents"; None = answer always.
        context_tokens: what the chat model takes in all.
        mode: "auto" generates if the chat model `writes`, else it quotes the passages.
        writes: see `writes_answers`.
        history: earlier turns, given to the model as they were.
    """
    language = language_of(question)
    words = PROMPTS[language]
    if not hits or (threshold is not None and max(hit.cosine for hit in hits) < threshold):
        return Prepared(question, [], "not_found", text=words.not_found, notice=words.below_threshold)
    if mode == "extract" or (mode == "auto" and not writes):
        passages = list(hits[:_MOST_PASSAGES])
        notice = words.extract if mode == "extract" else words.extract_instead
        return Prepared(question, passages, "extract", sentences=tuple(_sentences(passages)), notice=notice)
    budget = (context_tokens - min(ANSWER_TOKENS, context_tokens // 4)) * _BYTES_A_TOKEN
    budget -= len((words.system + question + "".join(m.text for m in history)).encode())
    passages = _fitting(hits, budget)
    shown = "\n\n".join(f"[{n}] {_unmarked(_shown(hit))}" for n, hit in enumerate(passages, 1))
    given = history[0].text if history and history[0].role in ("system", "developer") else ""
    messages = [
        Message(role="system", content=f"{words.system}\n\n{given}" if given else words.system),
        *(history[1:] if given else history),
        Message(role="user", content=words.ask.format(passages=shown, question=question)),
    ]
    request = ChatRequest(messages=messages, sampling=_CALM, truncation="auto", tool_choice="none")
    return Prepared(question, passages, "generate", request=request)


def calm(wished: Sampling) -> Sampling:
    """Greedy and against repetition, but for what was wished otherwise."""
    unsaid = Sampling()
    names = [field.name for field in fields(Sampling) if getattr(wished, field.name) != getattr(unsaid, field.name)]
    return replace(_CALM, **{name: getattr(wished, name) for name in names})


def citations(text: str, passages: Sequence[Hit]) -> list[Citation]:
    """The marks [n] of an answer that name one of its passages, in order."""
    return [
        Citation(number, match.start(), match.end(), passages[number - 1])
        for match in _MARK.finditer(text)
        if 1 <= (number := int(match.group(1))) <= len(passages)
    ]


def place_of(hit: Hit, language: Language = "en") -> str:
    """Where a passage stands, for people: file, page, heading."""
    words = PROMPTS[language]
    page = f", {words.page.format(page=hit.page)}" if hit.page else ""
    heading = hit.context.split("\n", 1)[0]
    return f"{hit.file}{page}" + (f" — {heading}" if heading else "")


def sent_to(request: ChatRequest, model: str) -> ChatRequest:
    """The request as `model` takes it: a remote endpoint cuts no prompt, so that it is sent whole."""
    return replace(request, truncation="disabled") if model.startswith("openai:") else request


def _unmarked(text: str) -> str:
    """A document's text without marks of its own: "[2]" in it is a footnote, or a forged passage, never a citation."""
    return _MARK.sub(r"(\1)", text)


def _shown(hit: Hit) -> str:
    return f"{_title(hit)}\n{hit.text}"


def _title(hit: Hit) -> str:
    """File and heading on one line, whatever characters they hold."""
    return " ".join(f"({hit.file}) {hit.context}".split())


def _fitting(hits: Sequence[Hit], budget: float) -> list[Hit]:
    """The best passages that fit; the first always, cut by the model's own truncation if it must be."""
    passages: list[Hit] = []
    for hit in hits[:_MOST_PASSAGES]:
        budget -= len((hit.text + hit.context + hit.file).encode()) + 16
        if passages and budget < 0:
            break
        passages.append(hit)
    return passages


def _sentences(passages: Sequence[Hit]) -> Iterator[tuple[int, str]]:
    """What may be quoted, from the best passages; a passage without a sentence is one itself."""
    for number, hit in enumerate(passages[:_QUOTED_PASSAGES], 1):
        parts = [part.strip() for part in _SENTENCE.findall(hit.text)]
        whole = [part for part in parts if len(part) >= _SHORTEST_SENTENCE] or [hit.text]
        yield from ((number, part) for part in whole[:_SENTENCES_A_PASSAGE])


def quoted(
    prepared: Prepared,
    question: Sequence[float],
    vectors: Sequence[Sequence[float]],
    threshold: float | None = None,
) -> str:
    """The extractive answer: the sentences nearest to the question in their own order, each with its number.

    Args:
        question, vectors: unit vectors of the question and of `prepared.sentences`.
        threshold: beside the nearest sentence, only those with this cosine at least.
    """
    scores = [sum(a * b for a, b in zip(question, vector, strict=True)) for vector in vectors]
    first, *others = sorted(range(len(scores)), key=lambda place: -scores[place])[:_QUOTED_SENTENCES]
    best = sorted([first, *(place for place in others if threshold is None or scores[place] >= threshold)])
    return "\n".join(f"{_unmarked(text)} [{number}]" for number, text in (prepared.sentences[place] for place in best))


def as_source(number: int, hit: Hit) -> dict[str, Any]:
    """A passage as the API and `--json` give it."""
    return {"number": number, **hit.as_dict()}

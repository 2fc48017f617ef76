"""From passages to an answer with numbered citations: pure steps between a search and a chat model.

    request = condense(history, question)        → a question that stands alone, when there is a history
    prepared = prepare(question, hits, …)        → a chat request, an answer, or sentences to choose from
    quoted(prepared, question vector, vectors)   → the extractive answer made of the nearest sentences
    citations(text, prepared.passages)           → the sentence of a passage that each [n] of the answer points to

Retrieved text is data: it is quoted inside the user's message, and such a request never offers tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ninestory.floors.retrieval.gate import accepted_by, refers_back
from ninestory.floors.retrieval.hits import Hit
from ninestory.floors.retrieval.knowledge_base import Thresholds
from ninestory.floors.retrieval.prompts import PROMPTS, Language
from ninestory.floors.retrieval.terms import content_terms, coverage, holds, language_of
from ninestory.runtimes.protocol import ChatRequest, Message, Sampling

AnswerMode = Literal["auto", "generate", "extract"]
ANSWER_TOKENS = 512
_BYTES_A_TOKEN = 2.5  # on the safe side for Chinese and English in small vocabularies
_MOST_PASSAGES = 6
_QUOTED_PASSAGES = _QUOTED_SENTENCES = 3
_SHORTEST_SENTENCE, _SENTENCES_A_PASSAGE = 8, 12
# A dot inside a word ends no sentence: "sources.list", "3.14".
_SENTENCE = re.compile(r"(?:[^。！？!?\n.]|\.(?![\s.]|$))*(?:[。！？!?]+|\.+|\n|$)")
_MARK = re.compile(r"\[(\d{1,2})\]")
_LEAST_SHARED = 0.4  # of a statement's content terms that the sentence it is cited for holds


_CALM = Sampling(temperature=0, frequency_penalty=0.3)  # small models repeat a passage for ever otherwise


@dataclass(frozen=True)
class Prepared:
    """What to do with a question.

    Attributes:
        passages: number n of a citation is passages[n - 1].
        request: what to ask the chat model, when `reason` is "generate".
        threshold: the cosine for questions of this language; None = everything is near enough.
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
    threshold: float | None = None


@dataclass(frozen=True)
class Citation:
    """A mark [number] of an answer, and what it points to.

    Attributes:
        index: character of the answer where the mark begins.
        quote: the sentence of the passage that the answer rests on there; the whole passage where none stands out.
        start, end: characters of the quote in the document, on the passage's page.
    """

    number: int
    index: int
    passage: Hit
    quote: str
    start: int
    end: int

    def as_dict(self) -> dict[str, Any]:
        place = {"file": self.passage.file, "page": self.passage.page, "ordinal": self.passage.ordinal}
        quote = {"quote": self.quote, "start": self.start, "end": self.end}
        return {"number": self.number, "index": self.index, **place, **quote}


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


def stands_alone(question: str, query: str) -> bool:
    """Whether a follow-up that was searched as `query` must be answered by the documents as it was asked, too."""
    return query != question and not refers_back(question)


def prepare(
    question: str,
    hits: Sequence[Hit],
    *,
    thresholds: Thresholds | None,
    query: str = "",
    own_hits: Sequence[Hit] | None = None,
    context_tokens: int = 4096,
    mode: AnswerMode = "auto",
    writes: bool = True,
    history: Sequence[Message] = (),
) -> Prepared:
    """Decide how a question is answered, and with which passages.

    Args:
        hits: of a search for `query`, best first.
        thresholds: the knowledge base's cosines of "not in the documents"; None = answer always.
        query: what was searched for, where it is not the question as it was asked.
        own_hits: of a search for the question as it was asked; a follow-up that leaves the topic is near nothing even
            when the query that holds the topic is. None = nothing else was searched for (see `stands_alone`).
        context_tokens: what the chat model takes in all.
        mode: "auto" generates if the chat model `writes`, else it quotes the passages.
        writes: see `writes_answers`.
        history: earlier turns, given to the model as they were.
    """
    language = language_of(question)
    words = PROMPTS[language]
    threshold = thresholds[language] if thresholds else None
    searched = query or question
    accepted = accepted_by(searched, hits, thresholds[language_of(searched)] if thresholds else None)
    if accepted is None or (own_hits is not None and accepted_by(question, own_hits, threshold) is None):
        return Prepared(
            question, [], "not_found", text=words.not_found, notice=words.below_threshold, threshold=threshold
        )
    if mode == "extract" or (mode == "auto" and not writes):
        passages = list(hits[:_MOST_PASSAGES])
        notice = words.extract if mode == "extract" else words.extract_instead
        sentences = tuple(_sentences(passages))
        return Prepared(question, passages, "extract", sentences=sentences, notice=notice, threshold=threshold)
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
    return Prepared(question, passages, "generate", request=request, threshold=threshold)


def calm(wished: Sampling) -> Sampling:
    """Greedy and against repetition, but for what was wished otherwise."""
    unsaid = Sampling()
    names = [field.name for field in fields(Sampling) if getattr(wished, field.name) != getattr(unsaid, field.name)]
    return replace(_CALM, **{name: getattr(wished, name) for name in names})


def citations(text: str, passages: Sequence[Hit]) -> list[Citation]:
    """The marks [n] of an answer that name one of its passages, in order, each with the sentence it stands for."""
    found = []
    statement, begin = "", 0
    for match in _MARK.finditer(text):
        statement = _last_sentence(text[begin : match.start()]) or statement  # several marks may follow one statement
        if 1 <= (number := int(match.group(1))) <= len(passages):
            passage = passages[number - 1]
            found.append(Citation(number, match.start(), passage, *_quote_of(statement, passage)))
        begin = match.end()
    return found


def _last_sentence(text: str) -> str:
    """The last sentence of a text that holds a letter or digit; "" when none does."""
    parts = [part.strip() for part in _SENTENCE.findall(text.strip())]
    return next((part for part in reversed(parts) if any(map(str.isalnum, part))), "")


def _quote_of(statement: str, passage: Hit) -> tuple[str, int, int]:
    """The sentence of a passage that a statement rests on, and where it stands in the document.

    The statement itself where the passage says it in these words, else the sentence that shares most of its content
    terms; the whole passage where none shares enough of them, or where its text is not a slice of its document.
    """
    whole = (passage.text, passage.start, passage.end)
    if not statement or len(passage.text) != passage.end - passage.start:
        return whole
    place = passage.text.find(statement)
    if place >= 0:
        return statement, passage.start + place, passage.start + place + len(statement)
    terms = content_terms(statement)
    spans = [(m.start(), m.end()) for m in _SENTENCE.finditer(passage.text) if m[0].strip()]
    shared, start, end = max(
        ((coverage(terms, passage.text[start:end]), start, end) for start, end in spans), key=lambda one: one[0]
    )
    if shared < _LEAST_SHARED:
        return whole
    quote = passage.text[start:end]
    start += len(quote) - len(quote.lstrip())
    return quote.strip(), passage.start + start, passage.start + start + len(quote.strip())


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
) -> str:
    """The extractive answer: the sentences nearest to the question in their own order, each with its number.

    Sentences that hold an identifier of the question come before all others; beside the nearest sentence only those
    are quoted whose cosine reaches `prepared.threshold`.

    Args:
        question, vectors: unit vectors of the question and of `prepared.sentences`.
    """
    scores = [sum(a * b for a, b in zip(question, vector, strict=True)) for vector in vectors]
    for place, (number, text) in enumerate(prepared.sentences):
        scores[place] += any(holds(text, identifier) for identifier in prepared.passages[number - 1].terms)
    least = -1.0 if prepared.threshold is None else prepared.threshold
    first, *others = sorted(range(len(scores)), key=lambda place: -scores[place])[:_QUOTED_SENTENCES]
    best = sorted([first, *(place for place in others if scores[place] >= least)])
    return "\n".join(f"{_unmarked(text)} [{number}]" for number, text in (prepared.sentences[place] for place in best))


def as_source(number: int, hit: Hit) -> dict[str, Any]:
    """A passage as the API and `--json` give it."""
    return {"number": number, **hit.as_dict()}

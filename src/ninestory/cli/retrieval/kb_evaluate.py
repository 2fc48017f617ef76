"""`ninestory kb evaluate`: many questions, two or more settings side by side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.output import Json, print_json, print_table
from ninestory.core.errors import InvalidRequest
from ninestory.core.paths import Home

if TYPE_CHECKING:
    from ninestory.floors.retrieval import ChunkReader, Embedder, KnowledgeBase, Question
    from ninestory.runtimes.protocol import Constraint

Say = Callable[..., str]
_JUDGED_TOKENS, _QUESTION_TOKENS, _ANSWER_TOKENS = 4, 64, 160


def evaluate(
    name: Annotated[str, typer.Argument(help="Name or id of a knowledge base.")],
    questions: Annotated[
        Path | None, typer.Argument(help="JSON lines of question, file, heading, text; the headings when left out.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", help="The k of recall@k.")] = 5,
    setting: Annotated[
        list[str] | None,
        typer.Option("--setting", help="hybrid|vector|text[,text_weight=0.5][,rank_constant=10][,rerank=late] …"),
    ] = None,
    feedback: Annotated[bool, typer.Option("--feedback", help="Ask what thumbs up were given for.")] = False,
    generate: Annotated[str, typer.Option(help="A chat model that writes the questions from the documents.")] = "",
    answers: Annotated[str, typer.Option(help="A chat model whose answers are looked at for faithfulness.")] = "",
    judge: Annotated[str, typer.Option(help="A chat model that judges faithfulness; by words when left out.")] = "",
    most: Annotated[int, typer.Option(help="Questions asked at most.")] = 200,
    as_json: Json = False,
) -> None:
    """Ask many questions with several settings and compare: hit rate, recall, MRR, nDCG, refusals, latency."""
    from ninestory.cli.retrieval.knowledge import open_embedder
    from ninestory.floors.retrieval import ChunkReader, open_base

    if sum([questions is not None, feedback, bool(generate)]) > 1:
        raise InvalidRequest("Questions come from a file, from --feedback or from --generate: one of them.")
    base = open_base(Home.default(), name)
    reader = ChunkReader(base)
    with contextlib.ExitStack() as opened:
        asked, generated = _questions(base, reader, questions, feedback, generate, opened)
        embedder = opened.enter_context(open_embedder(base))
        scores = {
            told: _scores(base, reader, embedder, asked[:most], told, limit)
            for told in setting or ["vector", "text", "hybrid"]
        }
        if answers:
            say, says = _talker(answers, opened), _talker(judge, opened) if judge else None
            for told, result in scores.items():
                result["faithfulness"] = _faithfulness(base, reader, embedder, asked[:most], told, limit, say, says)
    if as_json:
        print_json({"generated": generated, "k": limit, "settings": scores})
        return
    if generated:
        print("Questions generated from the documents: such figures flatter.")
    columns = list(next(iter(scores.values())))
    rows = [[told, *("–" if v is None else f"{v:.3g}" for v in result.values())] for told, result in scores.items()]
    print_table(["search", *columns], rows)


def _questions(
    base: KnowledgeBase,
    reader: ChunkReader,
    path: Path | None,
    feedback: bool,
    generate: str,
    opened: contextlib.ExitStack,
) -> tuple[Sequence[Question], bool]:
    """The questions, and whether they were generated from the documents."""
    from ninestory.floors import retrieval

    if path is not None:
        return retrieval.read_questions(path), False
    if feedback:
        found = retrieval.questions_of_feedback(base)
        if not found:
            raise InvalidRequest(
                f"Nobody gave a thumb up to an answer from {base.name or base.id} yet.",
                hint="Give some on the page, or name a file of questions.",
                hint_zh="请先在页面上点赞，或指定问题文件。",
            )
        return found, False
    if generate:
        say = _talker(generate, opened)
        return retrieval.questions_by_model(reader, lambda prompt: say(prompt, _QUESTION_TOKENS)), True
    return retrieval.questions_of_headings(reader), True


def _scores(
    base: KnowledgeBase, reader: ChunkReader, embedder: Embedder, asked: Sequence[Question], told: str, limit: int
) -> dict[str, Any]:
    from dataclasses import replace

    from ninestory.cli.retrieval.knowledge import open_scorer
    from ninestory.floors import retrieval
    from ninestory.floors.retrieval import CANDIDATES, reranked
    from ninestory.floors.retrieval import search_passages as search

    options, reranker = retrieval.parse_setting(told)
    with open_scorer(reranker, embedder) as score:

        def find(question: str, wanted: Any) -> Any:
            vector = embedder.query(question)
            if score is None:
                return search(reader, question, vector, wanted)
            wide = search(reader, question, vector, replace(wanted, limit=max(CANDIDATES, wanted.limit)))
            return reranked(question, wide, score, wanted.limit)

        return retrieval.evaluate_search(asked, find, replace(options, limit=limit), base.thresholds).as_dict()


def _faithfulness(
    base: KnowledgeBase,
    reader: ChunkReader,
    embedder: Embedder,
    asked: Sequence[Question],
    told: str,
    limit: int,
    say: Say,
    says: Say | None,
) -> float | None:
    """The mean over the answers that were generated; refusals have nothing to judge."""
    from dataclasses import replace

    from ninestory.floors import retrieval
    from ninestory.floors.retrieval import measure_faithfulness as faithfulness
    from ninestory.floors.retrieval import prepare
    from ninestory.floors.retrieval import search_passages as search
    from ninestory.runtimes.protocol import Constraint

    options = replace(retrieval.parse_setting(told)[0], limit=limit)
    yes_or_no = Constraint(choices=["yes", "no"])
    values = []
    for question in asked:
        hits = search(reader, question.question, embedder.query(question.question), options)
        prepared = prepare(question.question, hits, thresholds=base.thresholds, mode="generate")
        if prepared.request is None:
            continue
        text = say(prepared.request.messages, _ANSWER_TOKENS)
        judged = None if says is None else (lambda prompt: says(prompt, _JUDGED_TOKENS, yes_or_no) == "yes")
        value = faithfulness(text, [hit.text for hit in prepared.passages], judged)
        values += [] if value is None else [value]
    return sum(values) / len(values) if values else None


def _talker(model: str, opened: contextlib.ExitStack) -> Say:
    """A chat model's greedy reply to a prompt or to messages."""
    from ninestory.core.config import load_settings
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.load import load_engine
    from ninestory.runtimes.protocol import ChatRequest, Message, Sampling, Text

    engine = load_engine(resolve(model, Home.default()), load_settings().settings.runtime)
    opened.callback(engine.close)

    def say(given: str | list[Message], most: int, constraint: Constraint | None = None) -> str:
        request = ChatRequest(
            messages=[Message(role="user", content=given)] if isinstance(given, str) else given,
            max_tokens=most,
            constraint=constraint,
            sampling=Sampling(temperature=0, frequency_penalty=0.3),
            truncation="auto",
        )
        chunks = engine.run(request, threading.Event())
        return "".join(c.text for c in chunks if isinstance(c, Text) and not c.reasoning).strip()

    return say

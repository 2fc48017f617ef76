"""How well retrieval finds: hybrid against vectors alone and full text alone, and reranked, on Debian's manuals.

Half of the questions choose every setting (the fusion's k and weight, the threshold of "not in the documents"); the
figures are of the other half. The half is drawn once, by seed.

    python benchmarks/retrieval.py /usr > quality.md
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from retrieval_corpus import language_of_file, write_sections

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import DEFAULT_MODEL, KnowledgeBase, create
from ninestory.floors.retrieval.rerank import CANDIDATES, reranked, scorer
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.serving.routes.system import processor_name

K = 5
SECTIONS = 360  # a language
RERANKED_QUESTIONS = 40  # a language; each reads fifteen passages again
GRID = [(k, weight) for k in (5, 10, 20, 60) for weight in (0.3, 0.5, 0.8)]
OFF_TOPIC = [
    "How long should I cook fresh pasta?",
    "Who won the football world cup in 2018?",
    "What is the capital of Australia?",
    "How do I prune apple trees in winter?",
    "What are the symptoms of the flu?",
    "How far away is the moon?",
    "红烧肉应该炖多长时间？",
    "月球离地球有多远？",
    "感冒有哪些症状？",
    "怎么给婴儿洗澡？",
    "今天的股市行情怎么样？",
    "唐朝是哪一年建立的？",
]
NEAR_TOPIC = [
    "How do I join a Windows domain?",
    "How do I add a pivot table in Excel?",
    "How do I scale a Kubernetes deployment?",
    "How do I reset the registry of Windows?",
    "Which iPhone models run the latest iOS?",
    "How do I write a macro in Photoshop?",
    "怎样在 Windows 中加入域？",
    "怎样在 Excel 中制作数据透视表？",
    "怎样给 Kubernetes 扩容？",
    "苹果手机怎样升级系统？",
]


class Quality:
    """All questions asked once; every setting is then a sum over what was found."""

    def __init__(self, base: KnowledgeBase, embedder: Embedder, questions: Sequence[Question]) -> None:
        self.reader, self.embedder = ChunkReader(base), embedder
        self.vectors = {q.question: embedder.query(q.question) for q in questions}

    def hits(self, question: str, options: SearchOptions) -> list[Hit]:
        vector = self.vectors[question] if question in self.vectors else self.embedder.query(question)
        return search(self.reader, question, vector, options)

    def ranks(self, questions: Sequence[Question], options: SearchOptions, *, late: bool = False) -> np.ndarray:
        """The place of the right passage from 1, infinite when it is not among the first ten."""
        places = []
        for q in questions:
            hits = self.hits(q.question, replace(options, limit=max(10, CANDIDATES if late else 0)))
            if late:
                hits = reranked(q.question, hits, scorer(self.embedder.engine), 10)
            place = next((n for n, hit in enumerate(hits[:10], 1) if q.is_answered_by(hit)), np.inf)
            places.append(place)
        return np.array(places)


def scores(ranks: np.ndarray) -> list[float]:
    """Hit rate, recall@5, MRR@10, nDCG@10."""
    gains = np.where(np.isfinite(ranks), 1 / np.log2(ranks + 1), 0)
    return [float((ranks == 1).mean()), float((ranks <= K).mean()), float((1 / ranks).mean()), float(gains.mean())]


def interval(better: np.ndarray, worse: np.ndarray) -> str:
    """The gain in recall@5 with its paired 95 % bootstrap interval."""
    gain = (better <= K).astype(float) - (worse <= K)
    draws = np.random.default_rng(0).choice(gain, (10_000, len(gain))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{gain.mean():+.3f} ({low:+.3f} … {high:+.3f})"


def table(title: list[str], rows: list[list[object]]) -> None:
    print("| " + " | ".join(title) + " |\n|" + "---|" * len(title))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print()


def chosen_setting(quality: Quality, tuning: Sequence[Question]) -> SearchOptions:
    """The fusion of the best recall@5 on the tuning half, then MRR; printed with what stands beside it."""
    options = [SearchOptions(rank_constant=k, text_weight=weight) for k, weight in GRID]
    found = [(scores(quality.ranks(tuning, option)), option) for option in options]
    found.sort(key=lambda pair: (pair[0][1], pair[0][2]), reverse=True)
    best = found[0][1]
    default = next(pair for pair in found if pair[1] == SearchOptions())
    print(
        f"Chosen on {len(tuning)} tuning questions among {len(GRID)} settings: k = {best.rank_constant}, full-text weight "
        f"{best.text_weight} (recall@{K} {found[0][0][1]:.3f}, worst of the grid {found[-1][0][1]:.3f}; the default k = "
        f"{SearchOptions.rank_constant}, weight {SearchOptions.text_weight}: {default[0][1]:.3f}).\n"
    )
    return best


def report_quality(quality: Quality, held: Sequence[Question], best: SearchOptions) -> None:
    languages = np.array([language_of_file(q) for q in held])
    settings = {"full text": SearchOptions(mode="text"), "vectors": SearchOptions(mode="vector"), "hybrid": best}
    ranks = {name: quality.ranks(held, options) for name, options in settings.items()}
    groups = {"both": languages != "", "en": languages == "en", "zh": languages == "zh"}
    rows: list[list[object]] = []
    for (group, chosen), name in itertools.product(groups.items(), settings):
        gain = "" if name == "hybrid" else interval(ranks["hybrid"][chosen], ranks[name][chosen])
        rows.append([group, name, int(chosen.sum()), *scores(ranks[name][chosen]), gain])
    gained = f"hybrid's gain in recall@{K} over it (95 %)"
    table(["held-out questions", "search", "n", "hit rate", f"recall@{K}", "MRR", "nDCG", gained], rows)
    places = np.concatenate([np.flatnonzero(languages == lang)[:RERANKED_QUESTIONS] for lang in ("en", "zh")])
    some = [held[place] for place in places]
    late = quality.ranks(some, best, late=True)
    rows = [
        ["hybrid", len(some), *scores(ranks["hybrid"][places]), ""],
        ["hybrid, reranked by late interaction", len(some), *scores(late), interval(late, ranks["hybrid"][places])],
    ]
    gained = f"gain in recall@{K} over hybrid (95 %)"
    table(["first held-out questions", "n", "hit rate", f"recall@{K}", "MRR", "nDCG", gained], rows)


def report_refusals(quality: Quality, tuning: Sequence[Question], held: Sequence[Question]) -> None:
    def best(questions: Sequence[str]) -> np.ndarray:
        option = SearchOptions(limit=1, mode="vector")
        return np.array([max(hit.cosine for hit in quality.hits(q, option)) for q in questions])

    threshold = float(np.quantile(best([q.question for q in tuning]), 0.05))
    asked = {
        "answerable, held out": best([q.question for q in held]),
        "other systems (near)": best(NEAR_TOPIC),
        "off topic": best(OFF_TOPIC),
    }
    answerable = asked["answerable, held out"]
    rows: list[list[object]] = [
        [
            name,
            len(values),
            float((values < threshold).mean()),
            float((answerable[:, None] > values[None, :]).mean()),
        ]
        for name, values in asked.items()
    ]
    print(f'"Not in the documents" by the best cosine; {threshold:.3f} keeps 95 % of the tuning half.\n')
    table(["questions", "n", f"refused at {threshold:.3f}", "AUC against answerable"], rows)


def sampled(questions: Sequence[Question]) -> list[Question]:
    """As many of each language."""
    chosen = []
    for language in ("en", "zh"):
        own = [q for q in questions if language_of_file(q) == language]
        chosen += random.Random(0).sample(own, min(SECTIONS, len(own)))
    return chosen


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "sections"
        folder.mkdir()
        questions = sampled(write_sections(Path(sys.argv[1]), folder))
        kept = {q.file for q in questions}
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
        home = Home(Path(directory) / "home")
        engine = load_engine(resolve(DEFAULT_MODEL, home), RuntimeSettings(threads=1))
        base, report = create(home, "manuals"), IngestReport()
        sync_folder(base, folder, report)
        ingest(base, Embedder(engine), Silent(), report)
        print(
            f"## Quality\n\n`benchmarks/retrieval.py` on {processor_name()}: {len(questions)} sections of Debian's FAQ and "
            f"Reference in English and Chinese in one knowledge base ({report.indexed} files, {report.chunks} passages, "
            "int8), the heading is the question and stands nowhere in the text.\n"
        )
        random.Random(0).shuffle(questions)
        tuning, held = questions[: len(questions) // 2], questions[len(questions) // 2 :]
        quality = Quality(base, Embedder(engine), questions)
        best = chosen_setting(quality, tuning)
        report_quality(quality, held, best)
        report_refusals(quality, tuning, held)
        engine.close()


if __name__ == "__main__":
    main()

"""How well retrieval finds: hybrid against vectors alone and full text alone, and reranked, on Debian's manuals.

Half of the questions choose every setting (the fusion, how many candidates, the share of late interaction, the
threshold of "not in the documents"); the figures are of the other half. The half is drawn once, by seed.

    python benchmarks/retrieval.py /usr WORK > quality.md

What is slow stays in WORK (the knowledge base, what each search found, late interaction's scores): a run that was ended
goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from retrieval_corpus import language_of_file, write_sections

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question
from ninestory.floors.retrieval.hits import SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import DEFAULT_MODEL, KnowledgeBase, base_ids, create, open_by_id
from ninestory.floors.retrieval.rerank import CANDIDATES
from ninestory.floors.retrieval.search import fused
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.onnx.engine import open_folder
from ninestory.runtimes.protocol import Engine
from ninestory.serving.routes.system import processor_name

K = 5
DEPTH = 100  # passages kept of each search
GRID = [(k, weight, n) for k in (3, 5, 7, 10, 20, 60) for weight in (0.3, 0.5, 0.8, 1.2) for n in (20, 50)]
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of MaxSim, the rest is the cosine of the whole texts
LATE_DEPTH = 20
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


@dataclass(frozen=True)
class Found:
    """What one question found: (id, file) of each search, best first, and the best cosine of all."""

    question: Question
    near: list[tuple[str, str]]
    match: list[tuple[str, str]]
    cosines: dict[str, float]

    def order(self, options: SearchOptions) -> list[str]:
        near = [] if options.mode == "text" else [key for key, _ in self.near[: options.candidates]]
        match = [] if options.mode == "vector" else [key for key, _ in self.match[: options.candidates]]
        scores = fused(near, match, options)
        return sorted(scores, key=lambda key: (-scores[key], -self.cosines[key]))

    def rank(self, order: Sequence[str]) -> float:
        """The place of the right section from 1, infinite when it is not among the first ten."""
        files = dict(self.near) | dict(self.match)
        return next((n for n, key in enumerate(order[:10], 1) if files[key] == self.question.file), np.inf)


def open_work(work: Path, root: Path | None = None) -> tuple[KnowledgeBase, Engine, list[Question]]:
    """The knowledge base in `work`, its engine and the questions; made, or gone on with, when `root` is given."""
    home, kept = Home(work / "home"), work / "questions.json"
    engine = load_engine(resolve(DEFAULT_MODEL, Home.default()), RuntimeSettings(threads=1))
    base = next((open_by_id(home, base_id) for base_id in base_ids(home)), None) or create(home, "manuals")
    if root is not None:
        folder = work / "sections"
        if not kept.exists():
            folder.mkdir(parents=True)
            kept.write_text(json.dumps([[q.question, q.file] for q in write_sections(root, folder)]), encoding="utf-8")
        sync_folder(base, folder, IngestReport())
        ingest(base, Embedder(engine), Silent())
    return base, engine, [Question(*pair) for pair in json.loads(kept.read_text(encoding="utf-8"))]


def halves(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """The half that chooses, and the half that is measured."""
    drawn = list(questions)
    random.Random(0).shuffle(drawn)
    return drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]


def search_all_questions(
    base: KnowledgeBase, embedder: Embedder, questions: Sequence[Question], work: Path
) -> list[Found]:
    """Both searches of every question; kept as lines of JSON."""
    kept, reader = work / "found.jsonl", ChunkReader(base)
    assert reader.refresh()
    known = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    with kept.open("a", encoding="utf-8") as file:
        for q in questions[len(known) :]:
            vector = embedder.query(q.question)
            near = reader.nearest(vector, DEPTH, None)
            match = reader.matching(q.question, vector, DEPTH, None)
            cosines = {row["id"]: row["cosine"] for row in (*match, *near)}
            lists = [[(row["id"], row["file"]) for row in rows] for rows in (near, match)]
            known.append(json.dumps([*lists, cosines]))
            file.write(known[-1] + "\n")
    return [Found(q, *_pairs(json.loads(line))) for q, line in zip(questions, known, strict=True)]


def _pairs(told: list) -> tuple[list[tuple[str, str]], list[tuple[str, str]], dict[str, float]]:
    return [(key, file) for key, file in told[0]], [(key, file) for key, file in told[1]], told[2]


def late_interaction(
    base: KnowledgeBase, found: Sequence[Found], best: SearchOptions, work: Path
) -> dict[tuple[str, str], float]:
    """MaxSim of each question with its first passages, by (question, id); each passage is read once."""
    kept = work / "late.jsonl"
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    done = {(q, key) for key, values in lines for q in values}
    wanted: dict[str, list[str]] = {}
    for one in found:
        for key in one.order(best)[:LATE_DEPTH]:
            if (one.question.question, key) not in done:
                wanted.setdefault(key, []).append(one.question.question)
    reader = ChunkReader(base)
    assert reader.refresh()
    rows = reader.all_rows(["id", "searched"])
    texts = dict(zip(rows["id"].to_pylist(), rows["searched"].to_pylist(), strict=True))
    vectors = _token_vectors()
    questions = {q: vectors("query", q) for q in {q for asked in wanted.values() for q in asked}}
    with kept.open("a", encoding="utf-8") as file:
        for key, asked in sorted(wanted.items()):
            passage = vectors("passage", texts[key])
            values = {q: float((questions[q] @ passage.T).max(axis=1).mean()) for q in asked}
            lines.append([key, values])
            file.write(json.dumps(lines[-1], ensure_ascii=False) + "\n")
    return {(q, key): value for key, values in lines for q, value in values.items()}


def _token_vectors() -> Callable[[str, str], np.ndarray]:
    """The unit vectors of a text's tokens [tokens, hidden], float32."""
    settings = RuntimeSettings(threads=1)
    described, tokenizer, session, _ = open_folder(resolve(DEFAULT_MODEL, Home.default()), settings)

    def vectors(role: str, text: str) -> np.ndarray:
        ids = tokenizer.encode(described[f"{role}_prefix"] + text).ids[: described["positions"]]
        found = session.run(["token_vectors"], {"input_ids": np.array([ids], dtype=np.int64)})[0][0]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return vectors


def reordered(
    one: Found, order: Sequence[str], late: dict[tuple[str, str], float], depth: int, share: float
) -> list[str]:
    """The first `depth` passages by the mixture that the product's reranker gives."""

    def value(key: str) -> float:
        return share * late[one.question.question, key] + (1 - share) * one.cosines[key]

    return sorted(order[:depth], key=value, reverse=True)


def ranks(found: Sequence[Found], options: SearchOptions) -> np.ndarray:
    return np.array([one.rank(one.order(options)) for one in found])


def scores(places: np.ndarray) -> list[float]:
    """Hit rate, recall@5, MRR@10, nDCG@10."""
    gains = np.where(np.isfinite(places), 1 / np.log2(places + 1), 0)
    return [float((places == 1).mean()), float((places <= K).mean()), float((1 / places).mean()), float(gains.mean())]


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


def chosen_fusion(tuning: Sequence[Found]) -> SearchOptions:
    """The fusion of the best recall@5 on the tuning half, then MRR; the whole grid is printed."""
    options = [SearchOptions(rank_constant=k, text_weight=weight, candidates=n) for k, weight, n in GRID]
    measured = {option: scores(ranks(tuning, option)) for option in options}
    best = max(options, key=lambda option: (measured[option][1], measured[option][2]))
    print(
        f"Recall@{K} / MRR of every fusion on the tuning half ({len(tuning)} questions), {best.candidates} candidates of each search:\n"
    )
    weights = sorted({weight for _, weight, _ in GRID})
    rows: list[list[object]] = []
    for k in sorted({k for k, _, _ in GRID}):
        own = [SearchOptions(rank_constant=k, text_weight=w, candidates=best.candidates) for w in weights]
        rows.append([k, *(f"{measured[option][1]:.3f} / {measured[option][2]:.3f}" for option in own)])
    table(["k \\\\ weight of full text", *map(str, weights)], rows)
    print(
        f"Chosen: k = {best.rank_constant}, full text {best.text_weight}, {best.candidates} candidates ({len(GRID)} settings, "
        f"recall@{K} {min(m[1] for m in measured.values()):.3f} to {measured[best][1]:.3f}); the product's default is k = "
        f"{SearchOptions.rank_constant}, {SearchOptions.text_weight}, {SearchOptions.candidates}.\n"
    )
    return best


def report_quality(held: Sequence[Found], best: SearchOptions, late: np.ndarray, late_name: str) -> None:
    """Every search on the held-out half, pooled and by language, with hybrid's gain over it."""
    languages = np.array([language_of_file(one.question) for one in held])
    settings = {"full text": SearchOptions(mode="text"), "vectors": SearchOptions(mode="vector"), "hybrid": best}
    places = {name: ranks(held, options) for name, options in settings.items()} | {late_name: late}
    groups = {"both": languages != "", "en": languages == "en", "zh": languages == "zh"}
    rows: list[list[object]] = []
    for (group, own), name in itertools.product(groups.items(), places):
        gain = "" if name == "hybrid" else interval(places["hybrid"][own], places[name][own])
        rows.append([group, name, int(own.sum()), *scores(places[name][own]), gain])
    gained = f"hybrid's gain in recall@{K} over it (95 %)"
    table(["held-out questions", "search", "n", "hit rate", f"recall@{K}", "MRR", "nDCG", gained], rows)


def chosen_late(tuning: Sequence[Found], best: SearchOptions, late: dict[tuple[str, str], float]) -> tuple[int, float]:
    """How many passages are looked at again and MaxSim's share, by the tuning half."""
    orders = [one.order(best) for one in tuning]
    measured = {}
    for depth, share in itertools.product((CANDIDATES, 15, LATE_DEPTH), SHARES):
        again = [one.rank(reordered(one, order, late, depth, share)) for one, order in zip(tuning, orders, strict=True)]
        measured[depth, share] = scores(np.array(again))
    print(f"Late interaction on the tuning half, recall@{K} / MRR by MaxSim's share (the rest is the cosine):\n")
    depths = (CANDIDATES, 15, LATE_DEPTH)
    rows: list[list[object]] = [
        [d, *(f"{measured[d, share][1]:.3f} / {measured[d, share][2]:.3f}" for share in SHARES)] for d in depths
    ]
    table(["passages \\\\ share", *map(str, SHARES)], rows)
    return max(measured, key=lambda setting: (measured[setting][1], measured[setting][2]))


def best_cosines(found: Sequence[Found]) -> np.ndarray:
    return np.array([max(one.cosines.values()) for one in found])


def chosen_threshold(tuning: Sequence[Found]) -> float:
    """The cosine above which 95 % of the tuning half's questions find their best passage."""
    return float(np.quantile(best_cosines(tuning), 0.05))


def report_refusals(base: KnowledgeBase, embedder: Embedder, tuning: Sequence[Found], held: Sequence[Found]) -> None:
    reader = ChunkReader(base)
    assert reader.refresh()

    def of_topics(topics: Sequence[str]) -> np.ndarray:
        return np.array([reader.nearest(embedder.query(topic), 1, None)[0]["cosine"] for topic in topics])

    threshold, answerable = chosen_threshold(tuning), best_cosines(held)
    asked = {
        "answerable, held out": answerable,
        "answerable, held out, en": best_cosines([one for one in held if language_of_file(one.question) == "en"]),
        "answerable, held out, zh": best_cosines([one for one in held if language_of_file(one.question) == "zh"]),
        "other systems (near)": of_topics(NEAR_TOPIC),
        "off topic": of_topics(OFF_TOPIC),
    }
    rows: list[list[object]] = []
    for name, values in asked.items():
        auc = "" if name.startswith("answerable") else float((answerable[:, None] > values[None, :]).mean())
        rows.append([name, len(values), float((values < threshold).mean()), auc])
    print(f'"Not in the documents" by the best cosine; {threshold:.3f} keeps 95 % of the tuning half.\n')
    table(["questions", "n", f"refused at {threshold:.3f}", "AUC against answerable"], rows)


def main() -> None:
    root, work = Path(sys.argv[1]), Path(sys.argv[2])
    base, engine, questions = open_work(work, root)
    embedder, counts = Embedder(engine), base.counts()
    print(
        f"## Quality\n\n`benchmarks/retrieval.py` on {processor_name()}: {len(questions)} sections of Debian's FAQ, Handbook "
        f"and Reference in English and Chinese in one knowledge base ({counts['indexed']} files, {counts['chunks']} passages, "
        "int8); the heading is the question and stands nowhere in the text.\n"
    )
    found = search_all_questions(base, embedder, questions, work)
    of_question = {one.question: one for one in found}
    tuning, held = ([of_question[q] for q in half] for half in halves(questions))
    best = chosen_fusion(tuning)
    late = late_interaction(base, found, best, work)
    depth, share = chosen_late(tuning, best, late)
    again = np.array([one.rank(reordered(one, one.order(best), late, depth, share)) for one in held])
    report_quality(held, best, again, f"hybrid, {depth} reranked by late interaction ({share} MaxSim)")
    report_refusals(base, embedder, tuning, held)
    engine.close()


if __name__ == "__main__":
    main()

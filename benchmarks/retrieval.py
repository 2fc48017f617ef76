"""Retrieval measured on Debian's two FAQs (packages debian-faq and debian-faq-zh-cn): parsing, ingest, quality, refusals.

Every section becomes a file of its own without its heading, and the heading is the question. The settings of the
fusion (k, weights) were chosen before on manuals that hold these too, so no half here is held out from that choice; two
random halves and the two languages are shown apart.

    python benchmarks/retrieval.py > benchmarks/results/retrieval.md
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.answer import language_of
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question, evaluate
from ninestory.floors.retrieval.hits import SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import DEFAULT_MODEL, KnowledgeBase, create
from ninestory.floors.retrieval.parsing import parse
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.serving.routes.system import processor_name

FAQ = Path("/usr/share/doc/debian/FAQ")
K = 5
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


def write_sections(folder: Path) -> list[Question]:
    """One file a section, without its heading; the headings are the questions."""
    questions = []
    for page in [*sorted(FAQ.glob("*.en.html")), *sorted((FAQ / "zh-cn").glob("*.html"))]:
        document = parse(page)
        name, body = "", []
        for block in [*document.blocks, None]:
            text = document.text[block.start : block.end] if block else ""
            if block is not None and block.kind != "heading":
                body.append(text)
                continue
            if name and body:
                (folder / questions[-1].file).write_text("\n\n".join(body), encoding="utf-8")
            elif name:
                questions.pop()
            name, body = text.lstrip("0123456789. "), []
            questions.append(Question(name, f"{page.stem}-{len(questions)}.html.txt"))
    return [q for q in questions if q.question and (folder / q.file).exists()]


def table(title: list[str], rows: list[list[object]]) -> None:
    print("| " + " | ".join(title) + " |\n|" + "---|" * len(title))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print()


def measure_parsing() -> None:
    pages = [*FAQ.glob("*.en.html"), *(FAQ / "zh-cn").glob("*.html")]
    for page in pages:
        parse(page)
    begun, size = time.process_time(), sum(page.stat().st_size for page in pages)
    for page in pages:
        parse(page)
    seconds = time.process_time() - begun
    print(
        f"Parsing: {len(pages)} HTML pages, {size / 1e6:.2f} MB, {size / 1e6 / seconds:.1f} MB per CPU-second ", end=""
    )
    print("(selectolax and our own walk over every node).\n")


def measure_quality(base: KnowledgeBase, embedder: Embedder, questions: list[Question]) -> None:
    reader = ChunkReader(base)
    vectors = {q.question: embedder.query(q.question) for q in questions}
    order = random.Random(0).sample(questions, len(questions))
    half = len(order) // 2
    groups = {"all": order, "half A": order[half:], "half B": order[:half]}
    groups |= {lang: [q for q in order if language_of(q.question) == lang] for lang in ("en", "zh")}
    found: dict[tuple[str, str], float] = {}
    rows: list[list[object]] = []
    for name, asked in groups.items():
        for mode in ("text", "vector", "hybrid"):
            options = SearchOptions(limit=K, mode=mode)  # type: ignore[arg-type]
            scores = evaluate(asked, lambda q, o: search(reader, q, vectors[q], o), options, None)
            rows.append(
                [name, mode, len(asked), scores.hit_rate, scores.recall, scores.mrr, scores.ndcg, scores.p50_ms]
            )
            if name == "half A":
                for q in asked:
                    hits = search(reader, q.question, vectors[q.question], options)
                    found[q.file, mode] = float(any(q.is_answered_by(hit) for hit in hits))
    table(["questions", "search", "n", "hit rate", f"recall@{K}", "MRR", "nDCG", "p50 ms"], rows)
    held = [q.file for q in order[half:]]
    for other in ("vector", "text"):
        gain = np.array([found[f, "hybrid"] - found[f, other] for f in held])
        draws = np.random.default_rng(0).choice(gain, (10_000, len(gain))).mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        print(
            f"Hybrid over {other}, recall@{K} on half A: {gain.mean():+.3f} (95 % bootstrap {low:+.3f} … {high:+.3f}).\n"
        )


def measure_refusals(base: KnowledgeBase, embedder: Embedder, questions: list[Question]) -> None:
    reader = ChunkReader(base)

    def best(question: str) -> float:
        return max(
            hit.cosine
            for hit in search(reader, question, embedder.query(question), SearchOptions(limit=1, mode="vector"))
        )

    answerable = np.array([best(q.question) for q in questions])
    off_topic = np.array([best(q) for q in OFF_TOPIC])
    auc = float((answerable[:, None] > off_topic[None, :]).mean())
    threshold = float(np.quantile(answerable, 0.05))
    print(
        f"Not in the documents: best cosine, AUC {auc:.3f} against {len(OFF_TOPIC)} off-topic questions; at the threshold ",
        end="",
    )
    print(
        f"that keeps 95 % of the answerable ({threshold:.3f}) {float((off_topic < threshold).mean()):.0%} of them are refused.\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "sections"
        folder.mkdir()
        questions = write_sections(folder)
        home = Home(Path(directory) / "home")
        engine = load_engine(resolve(DEFAULT_MODEL, home), RuntimeSettings(threads=1))
        embedder = Embedder(engine)
        base, report = create(home, "faq"), IngestReport()
        print(
            f"# Retrieval\n\n`benchmarks/retrieval.py` on {processor_name()}, one thread, the machine shared with other work; ",
            end="",
        )
        print("read CPU-seconds and ratios.\n")
        measure_parsing()
        begun = time.process_time()
        sync_folder(base, folder, report)
        ingest(base, embedder, Silent(), report)
        seconds = time.process_time() - begun
        print(
            f"Ingest: {report.indexed} files, {report.chunks} passages, {report.chunks / seconds:.1f} passages per CPU-second ",
            end="",
        )
        print("in all (parsing in the child process not counted; embedding in int8, indexing, calibration).\n")
        measure_quality(base, embedder, questions)
        measure_refusals(base, embedder, questions)
        engine.close()
    print(
        "Not measured: other embedding models, langchain side by side, 100,000 passages (see the design's figures), answers.",
        file=sys.stdout,
    )


if __name__ == "__main__":
    main()

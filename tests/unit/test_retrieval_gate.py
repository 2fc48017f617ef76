"""What is taken for an answer: identifiers and names below the cosine, follow-ups that leave the topic, calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ninestory.cli.retrieval.passages import print_hits
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.answer import prepare, quoted, stands_alone
from ninestory.floors.retrieval.calibration import calibrate
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import Question, evaluate
from ninestory.floors.retrieval.gate import accepted_by, refers_back
from ninestory.floors.retrieval.hits import Hit, SearchOptions, merged
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create, lowest_thresholds
from ninestory.floors.retrieval.search import search
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.terms import content_terms, content_words, coverage, holds, identifiers, names
from ninestory.runtimes.protocol import Message
from tests.hashing_engine import HashingEngine
from tests.unit.test_retrieval_answer import hit

HIGH = {"en": 0.99, "zh": 0.99}  # no cosine reaches it


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    tmp_path = tmp_path_factory.mktemp("gate")
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(3):
        text = f"Shop {number}. Error code E21 means the filter is blocked. Error code E2{number + 2} is another."
        (folder / f"shop{number}.txt").write_text(text, encoding="utf-8")
    for number in range(60):
        text = f"Error code E{number + 100} of the Debian11 series has a meaning of its own."
        (folder / f"code{number}.txt").write_text(text, encoding="utf-8")
    base = create(Home(tmp_path / "home"), "errors", model="test:hashing")
    sync_folder(base, folder, IngestReport())
    ingest(base, Embedder(HashingEngine()), Silent())
    return base


def find(base: KnowledgeBase, question: str, limit: int = 6) -> list[Hit]:
    vector = Embedder(HashingEngine()).query(question)
    return search(ChunkReader(base), question, vector, SearchOptions(limit=limit))


def test_an_identifier_that_few_passages_hold_passes_and_is_quoted(base: KnowledgeBase) -> None:
    hits = find(base, "What does error code E21 mean?")
    assert all(hit.cosine < 0.99 for hit in hits) and [list(hit.terms) for hit in hits[:3]] == [["E21"]] * 3
    prepared = prepare("What does error code E21 mean?", hits, thresholds=HIGH, mode="extract")
    assert prepared.reason == "extract"
    order = [float("E21" not in text) * 0.5 for _, text in prepared.sentences]  # the vectors prefer other sentences
    vectors = [[x, float(np.sqrt(1 - x * x))] for x in order]
    assert all("E21" in line for line in quoted(prepared, [1.0, 0.0], vectors).splitlines())


def test_an_identifier_in_most_passages_or_in_none_does_not_pass(base: KnowledgeBase) -> None:
    for question in ("What does error code E9 mean?", "How is pasta cooked with Debian11?"):
        hits = find(base, question)
        assert hits and accepted_by(question, hits, 0.99) is None, question


def test_identifiers_of_several_bases_come_first() -> None:
    near, exact = hit("Filters.", 0.9), hit("E21: filter.", 0.7, terms=["E21"])
    assert merged([[near], [exact]], 1) == [exact]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("What does error code E21 mean?", ["E21"]),
        ("E21 是什么意思？", ["E21"]),
        ("How do I use --no-install-recommends with apt?", ["--no-install-recommends"]),
        ("/etc/apt/sources.list 里应该写什么？", ["/etc/apt/sources.list"]),
        ("Is max_tokens the same as maxTokens in 3.10.2?", ["max_tokens", "maxTokens", "3.10.2"]),
        ('What does "Unable to lock the directory" mean?', ["Unable to lock the directory"]),
        ("Who won the football world cup in 1990, e.g. in and/or by a well-known team?", []),
    ],
)
def test_identifiers(question: str, found: list[str]) -> None:
    assert list(identifiers(question)) == found


def test_terms_of_a_question_and_of_a_passage() -> None:
    assert holds("see e21.", "E21") and not holds("E210", "E21") and not holds("--purge-all", "--purge")
    assert content_words("Which bus goes to the camellia festival?") == "bus camellia festival?"
    assert "--no-act" in content_words("What does --no-act do?") and content_words("What is it?") == "What is it?"
    assert coverage(content_terms("How does a river flow?"), "Rivers flowed here.") == 1.0
    assert coverage(content_terms("茶叶保存吗？"), "保存茶叶时") == pytest.approx(2 / 3)
    assert names("Who met Kowalski in 1990?") == ("Kowalski", "1990") and names("怎样安装 apt？") == ("apt",)


def test_a_name_passes_with_the_other_words_of_its_question() -> None:
    boiler = hit("In 1990 Kowalski repaired the boiler of the school.", 0.5)
    assert accepted_by("When did Kowalski repair the boiler?", [boiler], 0.9) == "name"
    assert accepted_by("Which film did Kowalski play in?", [boiler], 0.9) is None
    assert accepted_by("Who won the football world cup in 1990?", [boiler], 0.9) is None
    assert accepted_by("Who won the football world cup in 1990?", [boiler], None) == "cosine"


@pytest.mark.parametrize(
    "question", ["Why is that?", "And on a server?", "How do I undo it?", "为什么？", "它有什么缺点？"]
)
def test_follow_ups_that_refer_back(question: str) -> None:
    assert refers_back(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who won the football world cup in 1990?",
        "And what is the weather like in Madrid?",
        "How long does it take to boil an egg?",
        "红烧肉应该炖多长时间？",
    ],
)
def test_a_follow_up_off_the_topic_is_refused_as_it_was_asked(question: str) -> None:
    query = f"茶叶应该怎么保存？ {question}"
    history = [Message(role="user", content="茶叶应该怎么保存？"), Message(role="assistant", content="避光防潮。")]
    tea = [hit("茶叶应放在密封的罐子里，避光防潮。", 0.9)]
    far = [hit("茶叶应放在密封的罐子里，避光防潮。", 0.7)]
    assert stands_alone(question, query)
    limits = {"en": 0.8, "zh": 0.8}
    refused = prepare(question, tea, thresholds=limits, query=query, own_hits=far, history=history)
    assert refused.reason == "not_found" and refused.passages == []
    assert prepare(question, tea, thresholds=limits, query=query, own_hits=tea).reason == "generate"
    assert not stands_alone("那它呢？", "茶叶应该怎么保存？ 那它呢？")


def test_each_language_has_its_threshold(base: KnowledgeBase, tmp_path: Path) -> None:
    thresholds = base.thresholds
    assert thresholds and set(thresholds) == {"en", "zh"} and thresholds["en"] != thresholds["zh"]
    single = create(Home(tmp_path / "home"), "old", model="test:hashing")
    single.put(threshold=0.5)  # as an older version calibrated it
    assert single.thresholds == {"en": 0.5, "zh": 0.5}
    assert lowest_thresholds([base, single]) == {k: min(v, 0.5) for k, v in thresholds.items()}
    empty = create(Home(tmp_path / "home"), "empty", model="test:hashing")
    assert calibrate(empty, Embedder(HashingEngine())) is None and lowest_thresholds([base, empty]) is None


def test_headings_of_a_language_calibrate_it_and_identifiers_do_not(tmp_path: Path) -> None:
    """A code in a heading is found whatever its cosine, so its low cosine must not lower the threshold."""
    folder = tmp_path / "docs"
    folder.mkdir()
    close = "".join(f"## Keeping tea {n} dry\n\nKeeping tea {n} dry.\n\n" for n in range(9))
    codes = "".join(f"## Q{n}x\n\nLong words about Q{n}x and other matters of a kind.\n\n" for n in range(9))
    found = []
    for name, text in (("a", close), ("b", close + codes)):
        (folder / "tea.md").write_text(text, encoding="utf-8")
        base = create(Home(tmp_path / name), name, model="test:hashing")
        sync_folder(base, folder, IngestReport())
        ingest(base, Embedder(HashingEngine()), Silent())
        assert base.thresholds
        found.append(base.thresholds["en"])
    assert found[0] == pytest.approx(found[1]) and found[0] > 0.9


def test_evaluation_refuses_as_answers_do(base: KnowledgeBase) -> None:
    asked = [Question("What does error code E21 mean?", "shop0.txt"), Question("What does E9 mean?")]
    scores = evaluate(asked, lambda q, o: find(base, q, o.limit), SearchOptions(limit=5), HIGH)
    assert (scores.refused_answerable, scores.refused_unanswerable) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("language", "verdict", "why"),
    [
        ("en", "Nothing in your documents matches closely enough", "cosine 0.700 < threshold 0.800"),
        ("zh", "资料中没有与问题足够接近的内容", "余弦 0.700 < 阈值 0.800"),
    ],
)
def test_a_search_shows_its_cosines_against_the_threshold(
    language: str, verdict: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NINESTORY_LANGUAGE", language)
    print_hits([hit("Tea.", 0.7), hit("E21.", 0.9, terms=["E21"])], 0.8, None)
    shown = capsys.readouterr().out
    assert verdict in shown and why in shown and "≥" in shown and "E21" in shown and "score" not in shown

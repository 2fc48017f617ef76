"""Reranking, several knowledge bases, web search, faithfulness and settings: the floor's own functions from outside."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ninestory.core.errors import InvalidRequest, RemoteFailed, Unsupported
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.evaluate import parse_setting, questions_by_model, questions_of_feedback
from ninestory.floors.retrieval.faithfulness import faithfulness
from ninestory.floors.retrieval.hits import Hit, SearchOptions
from ninestory.floors.retrieval.ingest import IngestReport, add_paths, ingest
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase, create
from ninestory.floors.retrieval.rerank import reranked, scorer
from ninestory.floors.retrieval.search import search_all
from ninestory.floors.retrieval.table import ChunkReader
from ninestory.floors.retrieval.web_search import search_web
from tests.hashing_engine import HashingEngine

MODEL = "test:hashing"


def base_of(tmp_path: Path, name: str, texts: dict[str, str], **attributes: str | float) -> KnowledgeBase:
    base, report = create(Home(tmp_path / "home"), name, model=MODEL), IngestReport()
    for file, text in texts.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
        add_paths(base, [tmp_path / file], report, attributes)
    ingest(base, Embedder(HashingEngine()), Silent(), report)
    return base


def found(bases: list[KnowledgeBase], question: str, **options: object) -> list[Hit]:
    vector = Embedder(HashingEngine()).query(question)
    return search_all(bases, question, vector, SearchOptions(limit=4), **options)  # type: ignore[arg-type]


def test_a_reranker_puts_its_best_first_and_says_why(tmp_path: Path) -> None:
    base = base_of(tmp_path, "a", {f"{n}.txt": f"Apples of kind {n} are sweet." for n in range(8)})
    hits = found([base], "sweet apples", score=lambda question, texts: [float("kind 6" in text) for text in texts])
    assert len(hits) == 4 and hits[0].file == "6.txt" and hits[0].rerank_score == 1.0
    assert reranked("x", [], lambda question, texts: [], 3) == []
    with pytest.raises(Unsupported, match="no reranker"):
        scorer(HashingEngine())


def test_several_bases_and_attributes(tmp_path: Path) -> None:
    first = base_of(tmp_path, "a", {"a.txt": "Apples are sweet."}, year=2023.0, kind="fruit")
    second = base_of(tmp_path, "b", {"b.txt": "Sweet apples are red."}, year=2024.0)
    assert {hit.file for hit in found([first, second], "apples")} == {"a.txt", "b.txt"}
    newer = {"type": "gte", "key": "year", "value": 2024}
    assert [hit.file for hit in found([first, second], "apples", filters=newer)] == ["b.txt"]
    other = create(Home(tmp_path / "home"), "c", model="test:other")
    with pytest.raises(InvalidRequest, match="different embedding models"):
        found([first, other], "apples")


class _Searx(http.server.BaseHTTPRequestHandler):
    asked: str = ""
    answer: object = {}

    def do_GET(self) -> None:
        type(self).asked = parse_qs(urlsplit(self.path).query)["q"][0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def searx() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Searx)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/search"
    server.shutdown()


def test_web_search_asks_only_the_configured_endpoint(searx: str) -> None:
    embedder = Embedder(HashingEngine())
    vector = embedder.query("苹果 price")

    def cosines(texts: object) -> list[float]:
        return list(embedder.passages(texts) @ vector)  # type: ignore[arg-type]

    good = {"url": "http://a.example/", "title": "Price", "content": "The price of 苹果 rose."}
    _Searx.answer = {"results": [{"url": "http://b.example/", "title": "Boats", "content": "Boats float."}, good]}
    hits = search_web(searx, "苹果 price", cosines)
    assert _Searx.asked == "苹果 price" and [hit.file for hit in hits] == ["http://a.example/", "http://b.example/"]
    assert hits[0].base == "web" and hits[0].context == "Price"
    _Searx.answer = {"results": [{"url": 1}]}
    with pytest.raises(RemoteFailed, match="SearXNG"):
        search_web(searx, "x", cosines)
    with pytest.raises(InvalidRequest, match="no endpoint"):
        search_web("", "x", cosines)


def test_faithfulness_counts_sentences_that_a_passage_supports() -> None:
    passages = ["Green tea is brewed at eighty degrees for two minutes.", "绿茶用八十度的水冲泡两分钟。"]
    assert faithfulness("Green tea is brewed at eighty degrees [1].", passages) == 1.0
    assert faithfulness("Green tea is brewed at eighty degrees. Elephants invented steam engines.", passages) == 0.5
    assert faithfulness("绿茶用八十度的水冲泡[2]。大象发明了蒸汽机车。", passages) == 0.5
    assert faithfulness("  [1]", passages) is None
    asked: list[str] = []
    assert faithfulness("Tea is green.", passages, lambda prompt: bool(asked.append(prompt)) or True) == 1.0
    assert "Tea is green." in asked[0] and passages[1] in asked[0]


def test_settings_are_read_and_faults_named() -> None:
    options, reranker = parse_setting("hybrid,text_weight=0.3,rank_constant=60,rerank=late")
    assert (options.text_weight, options.rank_constant, options.mode, reranker) == (0.3, 60, "hybrid", "late")
    for wrong in ("fuzzy", "hybrid,weight=1", "text,candidates=many"):
        with pytest.raises(InvalidRequest, match="setting"):
            parse_setting(wrong)


def test_questions_come_from_thumbs_and_from_a_model(tmp_path: Path) -> None:
    long = "Apples are picked in autumn by people who climb ladders, and they keep until the spring in a cool cellar."
    base = base_of(tmp_path, "a", {"a.txt": long})
    base.add_feedback("When are apples picked?", "In autumn [1].", good=True, file="a.txt", passage=long[:20])
    base.add_feedback("Who am I?", "You are an apple.", good=False, file="a.txt")
    base.add_feedback("How long?", "Long.", good=True, file="a.txt")
    base.add_feedback("How long?", "Long.", good=False, file="a.txt")  # the second thought counts
    assert [q.question for q in questions_of_feedback(base)] == ["When are apples picked?"]
    made = questions_by_model(ChunkReader(base), lambda prompt: f"\nWhat is said of {prompt[-7:-1]}?\nThis.")
    assert [q.file for q in made] == ["a.txt"] and made[0].text == long[:80]
    assert any(made[0].is_answered_by(hit) for hit in found([base], "apples autumn"))

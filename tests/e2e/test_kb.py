"""`ninestory kb` and `ninestory ask` with the real embedding model, in both languages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ninestory.cli.retrieval import ask, kb
from ninestory.core.errors import NinestoryError
from ninestory.core.paths import Home
from ninestory.floors.retrieval.knowledge_base import open_base
from tests.conftest import share_converted

pytestmark = [pytest.mark.slow, pytest.mark.starter]


VERBS = {"kb": kb.app, "ask": ask.app}


def run(home: Path, *arguments: str, code: int = 0, given: str | None = None) -> str:
    """What the command prints, `given` some lines; an error's words where it is to end with that code."""
    environ = {"NINESTORY_HOME": str(home), "NINESTORY_RUNTIME_THREADS": "1", "NINESTORY_RUNTIME_CONTEXT": "1024"}
    done = CliRunner().invoke(VERBS[arguments[0]], arguments[1:], env=environ, input=given)
    error = done.exception
    ended = error.exit_code if isinstance(error, NinestoryError) else done.exit_code
    assert ended == code, (done.output, error)
    return done.stdout + (error.message if isinstance(error, NinestoryError) else "")


def run_json(home: Path, *arguments: str) -> Any:
    return json.loads(run(home, *arguments, "--json"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Path:
    """A home with one knowledge base that follows a folder in two languages."""
    home = share_converted(tmp_path_factory.mktemp("home"), converted)
    docs = home / "docs"
    docs.mkdir()
    (docs / "tea.md").write_text(
        "# Tea\n\n## Brewing\n\nGreen tea is brewed at eighty degrees for two minutes.\n\n## Storage\n\n"
        "Keep tea leaves dry, in a closed tin, away from light.\n",
        encoding="utf-8",
    )
    (docs / "茶.txt").write_text(
        "第一章 冲泡\n绿茶用八十度的水冲泡两分钟。\n\n第二章 保存\n茶叶应放在密封的罐子里，避光防潮。\n",
        encoding="gb18030",
    )
    (docs / "broken.pdf").write_bytes(b"%PDF-broken")
    run(home, "kb", "create", "tea")
    report = run_json(home, "kb", "sync", "tea", str(docs))
    assert (report["indexed"], [f["file"] for f in report["failed"]]) == (2, ["broken.pdf"])
    return home


@pytest.mark.parametrize(
    ("question", "file", "words"),
    [
        ("How hot should the water for green tea be?", "tea.md", "eighty degrees"),
        ("茶叶应该怎么保存？", "茶.txt", "密封的罐子"),
    ],
)
def test_found_and_quoted_with_its_place(home: Path, question: str, file: str, words: str) -> None:
    best = run_json(home, "kb", "search", "tea", question)["data"][0]
    assert best["file"] == file and words in best["text"]
    answer = run_json(home, "ask", "tea", question, "--mode", "extract")
    assert words in answer["answer"] and answer["cited"]
    source = answer["sources"][answer["cited"][0] - 1]
    assert source["end"] - source["start"] == len(source["text"])
    mark = next(mark for mark in answer["citations"] if words in mark["quote"])
    assert source["text"][mark["start"] - source["start"] : mark["end"] - source["start"]] == mark["quote"]
    assert "。" not in mark["quote"][:-1] and ". " not in mark["quote"]
    shown = run(home, "ask", "tea", question, "--mode", "extract")
    assert words in shown and f"] {file}" in shown


def test_the_starter_quotes_in_both_languages_and_answers_when_it_must(home: Path) -> None:
    answer = run_json(home, "ask", "tea", "How is green tea brewed?")
    assert answer["mode"] == "extract" and "too small" in answer["notice"] and "eighty" in answer["answer"]
    answer = run_json(home, "ask", "tea", "How is green tea brewed?", "--mode", "generate", "--max-tokens", "24")
    assert answer["mode"] == "generate" and answer["answer"].strip() and answer["sources"][0]["file"] == "tea.md"
    answer = run_json(home, "ask", "tea", "绿茶怎么冲泡？")
    assert answer["mode"] == "extract" and "不会中文" in answer["notice"] and "八十度" in answer["answer"]


@pytest.fixture(scope="module")
def small(home: Path) -> Path:
    """Beside it two knowledge bases without a heading: error codes, and a Chinese text among English ones."""
    texts = {
        "codes": [
            "Error code E21 means the filter is blocked. Clean it and start again.",
            "Error code E20 means the door is open. Error code E21 means the filter is blocked.",
            "Error code E21 means the filter is blocked. Call the service.",
        ],
        "festival": [
            "茶花节在每年三月举行，乘 12 路公交车可以到达。",
            "The committee is to decide which of the proposals goes to the council.",
            "The weather in the mountains changes quickly, so take a coat with you.",
            "A letter goes to the one to whom it is addressed.",
        ],
    }
    for name, passages in texts.items():
        folder = home / f"docs-{name}"
        folder.mkdir()
        for number, text in enumerate(passages):
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        run(home, "kb", "create", name)
        run(home, "kb", "sync", name, str(folder))
    return home


def test_an_identifier_is_answered_whatever_its_cosine(small: Path) -> None:
    base = open_base(Home(small), "codes")
    base.put(thresholds={"en": 0.99, "zh": 0.99})
    answer = run_json(small, "ask", "codes", "What does error code E21 mean?")
    assert answer["mode"] == "extract" and "the filter is blocked" in answer["answer"]
    assert all(mark["quote"] == "Error code E21 means the filter is blocked." for mark in answer["citations"])


def test_a_search_says_on_what_grounds_it_would_be_answered(small: Path) -> None:
    open_base(Home(small), "codes").put(thresholds={"en": 0.99, "zh": 0.99})
    found = run_json(small, "kb", "search", "codes", "What does error code E21 mean?")
    assert (found["threshold"], found["accepted_by"]) == (0.99, "identifier") and found["data"][0]["terms"] == ["E21"]


def test_function_words_do_not_outweigh_the_vector_of_another_language(small: Path) -> None:
    question = "Which bus goes to the camellia festival?"
    by_vector = run_json(small, "kb", "search", "festival", question, "--mode", "vector")["data"]
    assert "茶花节" in by_vector[0]["text"]
    assert run_json(small, "kb", "search", "festival", question)["data"][0]["id"] == by_vector[0]["id"]


def test_a_follow_up_off_the_topic_is_refused(home: Path) -> None:
    """In one conversation; what refers to the question before is answered."""
    asked = ["茶叶应该怎么保存？", "Who won the football world cup in 1990?", "那它为什么要避光？"]
    shown = run(home, "ask", "tea", given="\n".join(asked)).strip()
    assert "密封的罐子" in shown and "The documents do not answer this question." in shown
    before, after = shown.split("The documents do not answer this question.")
    assert "茶.txt" in before and "tea.md" not in before and "茶.txt" in after


def test_the_life_of_a_knowledge_base(home: Path, tmp_path: Path) -> None:
    run(home, "kb", "create", "tea", code=5)
    note = tmp_path / "note.txt"
    note.write_text("The kettle is in the kitchen.", encoding="utf-8")
    run(home, "kb", "create", "life")
    assert run_json(home, "kb", "add", "life", str(note))["indexed"] == 1
    assert run_json(home, "kb", "add", "life", str(note)) | {"unchanged": 1, "indexed": 0} == run_json(
        home, "kb", "add", "life", str(note)
    )
    shown = run_json(home, "kb", "show", "life")
    assert [(f["name"], f["status"]) for f in shown["data"]] == [("note.txt", "indexed")]
    assert "The kettle" in run(home, "kb", "show", "life", "note.txt")
    assert "kettle" in run_json(home, "ask", "life", "Where is the kettle?")["answer"]
    assert run_json(home, "ask", "life", "How do I change a tyre?")["mode"] == "not_found"  # one passage, no heading
    run(home, "kb", "verify", "life")
    run(home, "kb", "export", "life", str(tmp_path / "life.tar.gz"))
    run(home, "kb", "import", str(tmp_path / "life.tar.gz"), "--name", "second")
    assert "kettle" in run(home, "kb", "search", "second", "where is the kettle?")
    run(home, "kb", "rm", "second", "note.txt")
    assert run_json(home, "kb", "search", "second", "where is the kettle?")["data"] == []
    run(home, "kb", "rm", "second")
    names = {row["name"] for row in run_json(home, "kb", "ls")}
    assert {"tea", "life"} <= names and "second" not in names
    assert "no knowledge base" in run(home, "kb", "search", "second", "x", code=3)
    assert "does not exist" in run(home, "kb", "add", "life", "/nonexistent", code=3)


def test_evaluation_compares_settings(home: Path) -> None:
    result = run_json(home, "kb", "evaluate", "tea", "--setting", "hybrid", "--setting", "hybrid,rerank=late")
    assert result["generated"] and set(result["settings"]) == {"hybrid", "hybrid,rerank=late"}
    assert result["settings"]["hybrid"]["recall"] == 1.0
    assert "thumb" in run(home, "kb", "evaluate", "tea", "--feedback", code=2)


def test_one_file_is_asked_and_forgotten(home: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("The kettle stands in the kitchen, beside the window.", encoding="utf-8")
    answer = run_json(home, "ask", "Where is the kettle?", "--file", str(note), "--mode", "extract")
    assert "kitchen" in answer["answer"] and answer["sources"][0]["file"] == "note.txt"
    assert "note.txt" not in str(run_json(home, "kb", "ls"))


def test_an_mcp_client_searches_and_asks(home: Path) -> None:
    calls = [("search", "茶叶应该怎么保存？"), ("ask", "How is green tea brewed?")]
    messages = [{"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}] + [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "tools/call",
            "params": {"name": name, "arguments": {"question": question}},
        }
        for number, (name, question) in enumerate(calls, 1)
    ]
    environ = {**os.environ, "NINESTORY_HOME": str(home), "NINESTORY_RUNTIME_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ninestory", "kb", "mcp", "tea"],
        input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True,
        text=True,
        env=environ,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    greeting, searched, asked = [json.loads(line)["result"] for line in done.stdout.splitlines()]
    assert greeting["serverInfo"]["name"] == "ninestory"
    assert "密封的罐子" in searched["content"][0]["text"]
    assert "eighty degrees" in asked["content"][0]["text"] and "[1] tea.md" in asked["content"][0]["text"]

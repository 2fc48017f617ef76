"""`ninestory judge` with a judge whose verdicts are known (the fake endpoint repeats what it was told) and a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.api_server import MODEL
from tests.e2e.test_cli import run
from tests.fake_openai import FakeOpenAI

pytestmark = [pytest.mark.slow, pytest.mark.starter]


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def ask(home: Path, fake: FakeOpenAI, *arguments: str, check: bool = True) -> str:
    done = run(home, "judge", *arguments, check=check, OPENAI_BASE_URL=fake.url, OPENAI_API_KEY="none")
    return done.stdout if check else done.stderr


def test_ratings_are_read_from_the_judges_words(tmp_path: Path, fake: FakeOpenAI) -> None:
    """The judge repeats the answers it is shown, and the answers repeat the questions: they hold the ratings."""
    file = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": 1, "category": "writing", "turns": ["Say [[9]]", "Say nothing"]},
        {"question_id": 2, "category": "math", "turns": ["Say [[4]]"], "reference": ["[[6]]"]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    table = ask(tmp_path, fake, "openai:x", "--by", "openai:judge", "--questions", str(file))
    assert table.split("\n")[1].split() == ["openai:x", "7.33", "6.50", "9.00", "4.00", "9.00", "0"]
    sent = [body for _, body in fake.requests]
    assert [body["temperature"] for body in sent] == [0.7, 0.7, 0.0, 0.0, 0.0, 0.0]
    judged = [body["messages"] for body in sent if body["model"] == "judge"]
    assert "reference answer" in judged[2][0]["content"] and "[[6]]" in judged[2][1]["content"]
    assert "reference answer" not in judged[0][0]["content"]


def test_pairwise_exchanges_the_places(tmp_path: Path, fake: FakeOpenAI) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"turns": ["Is [[A]] first?"]}))
    out = tmp_path / "report.json"
    table = ask(
        tmp_path, fake, "openai:x", "openai:y", "--by", "openai:j", "--mode", "pairwise", "--questions", str(file),
        "--out", str(out), "--language", "zh",
    )  # fmt: skip
    assert "1 comparisons; of 0 no verdict" in table
    (row,) = json.loads(out.read_text())["judgements"]
    assert (row["g1_winner"], row["g2_winner"]) == ("model_1", "model_2"), "a judge that likes the first place: a tie"
    assert table.split("\n")[1].split()[1:] == ["0.500", "0", "0", "1"]


def test_a_small_real_model_judges_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    arguments = ["--limit", "1", "--max-tokens", "8", "--judge-tokens", "16", "--context", "1024", "--json"]
    report = json.loads(run(tmp_path, "judge", MODEL, "--by", MODEL, *arguments).stdout)
    assert [row["turn"] for row in report["judgements"]] == [1, 2]
    assert all(row["score"] == -1 or row["score"] >= 0 for row in report["judgements"])


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 1 is not a question"), ('{"turns": []}', "line 1"), ('{"turns": [3]}', "line 1"), ("[1]", "line 1")],
)
def test_a_broken_question_is_named(tmp_path: Path, fake: FakeOpenAI, line: str, said: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(line)
    assert said in ask(tmp_path, fake, "openai:x", "--by", "openai:j", "--questions", str(file), check=False)
    assert "cannot be read" in ask(tmp_path, fake, "openai:x", "--by", "openai:j", "--questions", "none", check=False)


def test_a_comparison_of_one_is_refused(tmp_path: Path, fake: FakeOpenAI) -> None:
    assert "two models" in ask(tmp_path, fake, "openai:x", "--by", "openai:j", "--mode", "pairwise", check=False)

"""`ninestory evaluate` on small files: an endpoint with known answers, and the starter model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.api_server import MODEL
from tests.e2e.test_cli import run
from tests.fake_openai import FakeOpenAI

pytestmark = [pytest.mark.slow, pytest.mark.starter]
HEADER = "id,question,A,B,C,D,answer,explanation\n"


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def ceval(home: Path, fake: FakeOpenAI, *arguments: str, check: bool = True) -> str:
    done = run(
        home, "evaluate", "ceval", "openai:x", *arguments, check=check, OPENAI_BASE_URL=fake.url, OPENAI_API_KEY="none"
    )
    return done.stdout if check else done.stderr


def test_ceval_subject_by_subject_with_examples(tmp_path: Path, fake: FakeOpenAI) -> None:
    """The endpoint says the prompt back; in it the first statement that the reader knows is the example's answer."""
    for part in ("dev", "val"):
        (tmp_path / part).mkdir()
    for subject, answer in (("physics", "B"), ("law", "C")):
        (tmp_path / "dev" / f"{subject}_dev.csv").write_text(HEADER + "0,例题,a,b,c,d,B,\n")
        (tmp_path / "val" / f"{subject}_val.csv").write_text(HEADER + f"0,问题,a,b,c,d,{answer},\n1,无答案,a,b,c,d,,\n")
    rows = json.loads(ceval(tmp_path, fake, str(tmp_path), "--shots", "1", "--json"))
    assert [(r["subject"], r["items"], r["correct"]) for r in rows] == [("law", 1, 0), ("physics", 1, 1), ("all", 2, 1)]
    sent = fake.requests[0][1]["messages"][0]["content"]
    assert (
        sent.startswith("以下是中国关于law考试")
        and sent.endswith("\n答案：")
        and fake.requests[0][1]["temperature"] == 0
    )
    assert "0.500" in ceval(tmp_path, fake, str(tmp_path), "--shots", "1")


@pytest.mark.parametrize("text", ["question,A,B\nx,y,z\n", "no columns", HEADER + ",a,b,c,d,A,\n"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, fake: FakeOpenAI, text: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    assert "C-Eval" in ceval(tmp_path, fake, str(file), check=False) or "no question" in ceval(
        tmp_path, fake, str(file), check=False
    )


def test_perplexity_tells_sense_from_noise(tmp_path: Path) -> None:
    found = {}
    for name, text in {
        "sense": "The cat sat on the mat. " * 8,
        "noise": "cat mat the on sat zx qj vv kk wq " * 6,
    }.items():
        file = tmp_path / f"{name}.txt"
        file.write_text(text)
        done = run(tmp_path, "evaluate", "perplexity", MODEL, str(file), "--json")
        found[name] = json.loads(done.stdout)
    assert found["sense"]["perplexity"] * 3 < found["noise"]["perplexity"]
    assert found["sense"]["nbytes"] == 192 and 0 < found["sense"]["bits_per_byte"] < 3
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    assert run(tmp_path, "evaluate", "perplexity", MODEL, str(empty), check=False).returncode == 2

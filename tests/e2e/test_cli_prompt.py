"""`ninestory prompt` and its route: with the starter model, and with an endpoint whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_cli import run
from tests.fake_openai import FakeOpenAI

pytestmark = [pytest.mark.slow, pytest.mark.starter]
PROMPTS = "/ninestory/v1/prompts"


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def environ(fake: FakeOpenAI) -> dict[str, str]:
    return {"OPENAI_BASE_URL": fake.url, "OPENAI_API_KEY": "none"}


def test_the_library_is_listed_and_shown(tmp_path: Path) -> None:
    assert "summarise" in run(tmp_path, "prompt", "ls").stdout
    assert "概括" in run(tmp_path, "--language", "zh", "prompt", "ls").stdout
    shown = run(tmp_path, "prompt", "show", "translate").stdout
    assert "{language}" in shown and "register" in shown
    own = tmp_path / "own.toml"
    own.write_text(run(tmp_path, "prompt", "show", "translate", "--toml").stdout)
    told = run(tmp_path, "prompt", "run", str(own), "text=hello", "--dry").stdout
    assert "<text>\nhello\n</text>" in told


def test_a_piped_text_is_sent_with_its_examples(tmp_path: Path, fake: FakeOpenAI) -> None:
    arguments = ("prompt", "run", "classify", "labels=a,b", "-m", "openai:x", "--language", "en")
    done = run(tmp_path, *arguments, given="cold soup\n", **environ(fake))
    ((_, body),) = fake.requests
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"] and body["temperature"] == 0
    assert "a, b" in body["messages"][-1]["content"] and "cold soup" in done.stdout


def test_an_answer_that_is_no_json_is_asked_for_again_and_then_refused(tmp_path: Path, fake: FakeOpenAI) -> None:
    arguments = ("prompt", "run", "infer", "review=fine", "-m", "openai:x", "--repairs", "1")
    done = run(tmp_path, *arguments, check=False, **environ(fake))
    assert done.returncode == 1 and "not the JSON" in done.stderr
    assert [len(body["messages"]) for _, body in fake.requests] == [1, 3]


def test_a_local_model_is_held_to_the_schema(tmp_path: Path) -> None:
    done = run(tmp_path, "prompt", "run", "infer", "review=I love this Lumina lamp.", "--max-tokens", "80", "--json")
    answer = json.loads(json.loads(done.stdout)["answer"])
    assert set(answer) == {"sentiment", "anger", "item", "brand"}


def test_lint(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Tell me about it")
    assert "missing" in run(tmp_path, "prompt", "lint", str(file)).stdout
    refused = run(tmp_path, "prompt", "lint", str(file), "--strict", check=False)
    assert refused.returncode == 2 and "delimiters" in refused.stdout
    piped = run(
        tmp_path,
        "prompt",
        "lint",
        "-",
        "--strict",
        "--language",
        "zh",
        given="请概括 <a> 与 </a> 之间的文本，只回答一句话",
    )
    assert "few_shot" in piped.stdout
    assert run(tmp_path, "prompt", "lint", "summarise", "--strict").stdout.count("ok") >= 3


def test_bench_measures_variants_cases_and_models(tmp_path: Path, fake: FakeOpenAI) -> None:
    """The endpoint says its prompt back, so what a check finds there is known."""
    own = tmp_path / "own.toml"
    shown = run(tmp_path, "prompt", "show", "summarise", "--toml").stdout
    own.write_text(shown.replace("Summarise the text", "Condense the whole text"))
    cases = tmp_path / "cases.jsonl"
    rows = [
        {"values": {"text": "tea"}, "checks": [{"contains": ["Condense"]}]},
        {"values": {"text": "milk"}, "checks": [{"contains": ["milk"]}, {"max_words": 3}]},
    ]
    cases.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("--cases", str(cases), "-m", "openai:x", "-m", "openai:y", "--price-in", "1", "--price-out", "2")
    done = run(
        tmp_path, "prompt", "bench", "summarise", str(own), *arguments, "--json", "--language", "en", **environ(fake)
    )
    report = json.loads(done.stdout)
    means = {(row["variant"], row["model"]): (row["mean"], row["worst"]) for row in report["rows"]}
    assert means[str(own), "openai:x"] == means[str(own), "openai:y"] == (0.75, 0.5)
    assert means["summarise", "openai:x"] == (0.25, 0)
    assert report["rows"][0]["variant"] == str(own) and len(report["trials"]) == 8
    first = report["rows"][0]
    assert first["cost"] == pytest.approx((first["prompt_tokens"] + 2 * first["completion_tokens"]) / 1e6)


def test_bench_with_the_starter_model(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    table = run(tmp_path, "prompt", "bench", "classify", "--max-tokens", "4", "--language", "en", "--out", str(out))
    assert "starter:smollm2" in table.stdout and json.loads(out.read_text())["trials"][0]["prompt_tokens"] > 50


@pytest.mark.parametrize("line", ["{", '{"values": 3, "checks": []}', '{"values": {}}', "[]"])
def test_a_broken_case_is_named(tmp_path: Path, fake: FakeOpenAI, line: str) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(line)
    arguments = ("prompt", "bench", "summarise", "--cases", str(cases), "-m", "openai:x")
    assert "line 1" in run(tmp_path, *arguments, check=False, **environ(fake)).stderr


def test_the_route_gives_the_library_and_fills_a_prompt_in(http: httpx.Client) -> None:
    data = http.get(PROMPTS).json()["data"]
    assert {"summarise", "extract"} <= {prompt["id"] for prompt in data}
    assert all(prompt["title"]["zh"] and prompt["variables"] for prompt in data)
    filled = http.post(f"{PROMPTS}/render", json={"prompt": "extract", "values": {"text": "3 May"}}).json()
    assert "3 May" in filled["messages"][-1]["content"] and filled["schema"] == {"type": "object"}
    wrong = http.post(f"{PROMPTS}/render", json={"prompt": "extract", "values": {"colour": "red"}})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "colour"
    for name in ("nothing", "/etc/passwd.toml", "../x.toml"):
        assert http.post(f"{PROMPTS}/render", json={"prompt": name}).status_code == 404

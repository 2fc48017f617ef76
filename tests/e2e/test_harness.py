"""lm-evaluation-harness and mteb, unchanged, as clients of a running server: their figures are ours."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("lm_eval", reason="the extra [harness] is not installed")
pytest.importorskip("mteb", reason="the extra [harness] is not installed")

import yaml

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.models.convert.to_gguf import convert_to_gguf
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import ScoreItem, ScoreRequest, Scores
from tests.conftest import share_converted
from tests.e2e.api_server import ApiServer
from tests.e2e.random_checkpoints import byte_level_llama

pytestmark = [pytest.mark.torch, pytest.mark.starter, pytest.mark.slow]
QUESTIONS = [
    {"question": f"Which is number {i}?", "choices": [f"the {word} one" for word in words], "answer": i % 3}
    for i, words in enumerate(
        [("red", "green", "dark blue"), ("first", "second", "third"), ("last", "next", "only"), ("a", "an", "the")] * 2
    )
]
CHINESE = [
    {"question": "天空是什么颜色", "choices": ["蓝色", "红色的", "九"], "answer": 0},
    {"question": "塔有几层", "choices": ["九层", "一层", "没有"], "answer": 0},
]
STORIES = [{"question": text, "answer": "x"} for text in ("Once upon a time", "The tower", "def f(x):")]
PASSAGES = [
    "The tower has nine floors.", "Bread is baked in an oven.", "Paris is the capital of France.", "故宫在北京。",
    "Whales are mammals that live in the sea.",
]  # fmt: skip
QUERIES = {"How many floors does the tower have?": 0, "Which city is France's capital?": 2, "故宫在哪里？": 3}
EMBEDDER = "starter:multilingual-e5-small"
A_CHOICE = 2e-4  # of the sum of a choice's tokens, torch against torch


def multiple_choice(name: str, data: Path) -> dict[str, Any]:
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    return {
        **task(name, data),
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": metrics,
    }


def generation(name: str, data: Path) -> dict[str, Any]:
    return {
        **task(name, data),
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def task(name: str, data: Path) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "num_fewshot": 0,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Path:
    """A home with one small model as checkpoint and as GGUF, and lm-eval's task files."""
    root = share_converted(tmp_path_factory.mktemp("harness"), converted)
    byte_level_llama(root / "models" / "llama")
    convert_to_gguf(root / "models" / "llama", root / "models" / "llama.gguf", "F32")
    (root / "tasks").mkdir()
    rows = {"choices": QUESTIONS, "chinese": CHINESE, "stories": STORIES}
    for name, data in rows.items():
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), encoding="utf-8")
        described = (generation if name == "stories" else multiple_choice)(name, path)
        (root / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ApiServer]:
    with ApiServer(root, runtime_context="512", runtime_slots="4", runtime_dtype="float32") as running:
        yield running


@pytest.fixture(scope="module")
def report(root: Path, server: ApiServer) -> dict[str, Any]:
    """All runs in one process: the harnesses take seconds to import."""

    def run(model: str, served: Path, batch_size: int, *tasks: str) -> dict[str, Any]:
        path = "chat/completions" if "chat" in model else "completions"
        arguments = {"model": str(served), "base_url": f"{server.url}/v1/{path}", "max_retries": 1, "max_length": 512}
        if "chat" not in model:
            arguments |= {"tokenizer": str(root / "models" / "llama"), "tokenizer_backend": "huggingface"}
        return {"model": model, "model_args": arguments, "batch_size": batch_size, "tasks": list(tasks)}

    checkpoint, gguf = root / "models" / "llama", root / "models" / "llama.gguf"
    runs = {
        "torch": run("local-completions", checkpoint, 8, "choices", "chinese", "stories"),
        "torch one by one": run("local-completions", checkpoint, 1, "choices"),
        "llama.cpp": run("local-completions", gguf, 8, "choices"),
        "chat": run("local-chat-completions", checkpoint, 1, "stories"),
    }
    retrieval = {"url": server.url, "model": EMBEDDER, "passages": PASSAGES}
    retrieval |= {"queries": list(QUERIES), "answers": list(QUERIES.values())}
    plan = {"lm_eval": {"tasks": str(root / "tasks"), "runs": runs}, "mteb": retrieval}
    (root / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(root / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("harness_run.py"), root / "plan.json", root / "report.json"],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads((root / "report.json").read_text(encoding="utf-8"))
    return answers


@pytest.fixture(scope="module")
def own(root: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Runtime → task → question → log-probability of each choice, by our own scoring without the server."""
    scores: dict[str, dict[str, list[list[float]]]] = {}
    for runtime, file in {"torch": "llama", "llama.cpp": "llama.gguf"}.items():
        model = resolve(parse_reference(str(root / "models" / file)), Home(root))
        engine = load_engine(model, RuntimeSettings(threads=1, slots=1, context=512, dtype="float32"))

        def score(context: str, text: str, engine: Any = engine) -> float:
            item = ScoreItem(context=context, continuations=[text])
            [scores] = engine.run(ScoreRequest(items=[item]), threading.Event())
            assert isinstance(scores, Scores)
            return math.fsum(scores.values[0][0])

        tasks = {"choices": QUESTIONS} | ({"chinese": CHINESE} if runtime == "torch" else {})
        scores[runtime] = {
            name: [[score(f"Question: {row['question']}\nAnswer:", f" {c}") for c in row["choices"]] for row in rows]
            for name, rows in tasks.items()
        }
        engine.close()
    return scores


def theirs(report: dict[str, Any], run: str, task: str) -> list[list[float]]:
    """lm-eval's log-probability of each choice of each question."""
    return [[float(answer[0][0]) for answer in row] for row in report["lm_eval"][run]["responses"][task]]


def accuracy(scores: list[list[float]], rows: list[dict[str, Any]], *, by_length: bool = False) -> float:
    right = 0
    for values, row in zip(scores, rows, strict=True):
        lengths = [len(choice) if by_length else 1 for choice in row["choices"]]
        right += max(range(len(values)), key=lambda i: values[i] / lengths[i]) == row["answer"]
    return right / len(rows)


@pytest.mark.parametrize(
    ("run", "task", "rows", "tolerance"),
    [
        ("torch", "choices", QUESTIONS, A_CHOICE),
        ("torch", "chinese", CHINESE, A_CHOICE),
        ("torch one by one", "choices", QUESTIONS, A_CHOICE),
        ("llama.cpp", "choices", QUESTIONS, 0.05),  # keys and values in half precision, batches that round otherwise
    ],
)
def test_lm_evals_scores_and_accuracy_are_our_own(
    report: dict[str, Any], own: Any, run: str, task: str, rows: list[dict[str, Any]], tolerance: float
) -> None:
    ours = own[run.split()[0]][task]
    for mine, other in zip(ours, theirs(report, run, task), strict=True):
        assert other == pytest.approx(mine, abs=tolerance)
        assert len({round(value, 3) for value in other}) == len(other) and max(other) < -1  # no ties, no zeros
    results = report["lm_eval"][run]["results"][task]
    assert results["acc,none"] == pytest.approx(accuracy(ours, rows))
    assert results["acc_norm,none"] == pytest.approx(accuracy(ours, rows, by_length=True))


def test_lm_evals_generations_are_the_servers(report: dict[str, Any], server: ApiServer, root: Path) -> None:
    model = str(root / "models" / "llama")
    for run in ("torch", "chat"):
        generated = [row[0][0] for row in report["lm_eval"][run]["responses"]["stories"]]
        for text, story in zip(generated, STORIES, strict=True):
            prompt = f"Question: {story['question']}\nAnswer:"
            body: dict[str, Any] = {"model": model, "max_tokens": 6, "temperature": 0, "stop": ["\n\n"], "seed": 1234}
            if run == "chat":
                body["messages"] = [{"role": "user", "content": prompt}]
                answer = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            else:
                answer = server.http.post("/v1/completions", json={**body, "prompt": prompt}).json()["choices"][0][
                    "text"
                ]
            assert text == answer and text


def test_mtebs_scores_are_those_of_our_vectors(report: dict[str, Any], server: ApiServer) -> None:
    scores, asked = report["mteb"]["scores"], report["mteb"]["asked"]
    assert (asked.count("query"), asked.count("passage")) == (len(QUERIES), len(PASSAGES))

    def vectors(texts: list[str], kind: str) -> list[list[float]]:
        body = {"model": EMBEDDER, "input": texts, "input_type": kind}
        return [row["embedding"] for row in server.http.post("/v1/embeddings", json=body).json()["data"]]

    passages = vectors(PASSAGES, "passage")
    gains = []
    for query, answer in zip(vectors(list(QUERIES), "query"), QUERIES.values(), strict=True):
        values = [sum(a * b for a, b in zip(query, passage, strict=True)) for passage in passages]
        gains.append(1 / math.log2(2 + sum(value > values[answer] for value in values)))
    assert scores["ndcg_at_10"] == pytest.approx(sum(gains) / len(gains), abs=1e-4) and scores["ndcg_at_10"] > 0.8

"""Command line and API answer from the same documents alike: one session stands behind both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.paths import Home
from ninestory.floors.retrieval.ingest import IngestReport, add_paths
from ninestory.floors.retrieval.jobs import run_ingest
from ninestory.floors.retrieval.knowledge_base import create
from tests.conftest import share_converted
from tests.e2e.api_server import MODEL, ApiServer
from tests.job_context import local_context

pytestmark = [pytest.mark.slow, pytest.mark.starter]
DOCUMENT = """# The orchard

## Apples
The apples of the orchard are red and sweet. They are picked in September by hand.

## Pears
The pears of the orchard are green. They are picked in August, before the apples.

## The pump
The pump P-4711 waters the trees every third night. It holds forty litres a minute.
"""
# the second is a follow-up, which a model that only quotes reads beside the question before it
QUESTIONS = ["When are the apples of the orchard picked?", "And the pears?", "What does P-4711 do?", "Who won in 1998?"]


def by_command_line(home: Path, *options: str) -> list[dict[str, Any]]:
    """One conversation in process: the questions as they are typed."""
    done = subprocess.run(
        [sys.executable, "-m", "ninestory", "ask", "orchard", "--json", "--model", MODEL, *options],
        input="\n".join(QUESTIONS) + "\n",
        env={**os.environ, "NINESTORY_HOME": str(home), "NINESTORY_RUNTIME_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    decoder, rest, answers = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].strip()
    return answers


def by_api(server: ApiServer, store: str, **tool: Any) -> list[dict[str, Any]]:
    turns: list[dict[str, str]] = []
    answers = []
    for question in QUESTIONS:
        turns.append({"role": "user", "content": question})
        search = {"type": "file_search", "vector_store_ids": [store], "max_num_results": 6, **tool}
        body = {"model": MODEL, "input": turns, "tools": [search], "include": ["file_search_call.results"]}
        response = server.http.post("/v1/responses", json=body).raise_for_status().json()
        found = next(item for item in response["output"] if item["type"] == "file_search_call")
        content = next(item for item in response["output"] if item["type"] == "message")["content"][0]
        cited = sorted({mark["number"] for mark in content["annotations"]})
        answers.append({"answer": content["text"], "cited": cited, "found": found})
        turns.append({"role": "assistant", "content": content["text"]})
    return answers


@pytest.mark.parametrize(("options", "tool"), [((), {}), (("--rerank", "late"), {"rerank": "late"})])
def test_the_command_line_and_the_api_answer_alike(
    tmp_path: Path, converted: Path, options: tuple[str, ...], tool: dict[str, Any]
) -> None:
    home = Home(share_converted(tmp_path / "home", converted)).ensure()
    (tmp_path / "orchard.md").write_text(DOCUMENT, encoding="utf-8")
    base, settings = create(home, "orchard"), RuntimeSettings(threads=1)
    add_paths(base, [tmp_path / "orchard.md"], IngestReport())
    with local_context(home, settings) as context:
        assert run_ingest({"knowledge_base": base.id}, context)["indexed"] == 1
    ours = by_command_line(home.root, *options)
    with ApiServer(home.root) as server:
        theirs = by_api(server, base.id, **tool)
    assert len(ours) == len(theirs) == len(QUESTIONS)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["answer"] == other["answer"] and mine["cited"] == other["cited"]
        assert (mine["mode"], mine["notice"]) == (other["found"]["answered_by"], other["found"]["notice"])
        places = [(source["file"], source["start"], source["end"]) for source in mine["sources"]]
        assert places == [(r["filename"], r["start"], r["end"]) for r in other["found"]["results"]]
    assert "apples of the orchard" in ours[0]["answer"] and ours[-1]["mode"] == "not_found"

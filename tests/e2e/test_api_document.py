"""The OpenAPI document against the server that states it: schemathesis over every route, capped in examples."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e.api_server import ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]

# The event stream has no end, and what is fuzzed into `pull` would become jobs.
ENDLESS = "/ninestory/v1/(events|models/pull)"
GENERATING = "/v1/(chat/completions|completions|embeddings|rerank|responses|responses/input_tokens|messages.*)|/ninestory/v1/load"
CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"


@pytest.mark.parametrize(
    "selection",
    [("--exclude-path-regex", f"^({ENDLESS}|{GENERATING})$"), ("--include-path-regex", f"^({GENERATING})$")],
    ids=["rows and files", "generation"],
)
def test_server_keeps_to_its_document(tmp_path: Path, selection: tuple[str, str]) -> None:
    """A context of 64 tokens caps what each generated request can cost."""
    arguments = ["--phases", "examples,fuzzing", "--max-examples", "6", "--checks", CHECKS, "--request-timeout", "60"]
    with ApiServer(tmp_path / "home", runtime_context="64") as server:
        document = f"{server.url}/openapi.json"
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", document, "--no-color", *selection, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=240,
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        assert "No operations" not in run.stdout
        assert server.http.get("/health").status_code == 200


def test_every_operation_has_a_tag_a_summary_and_a_name_of_its_own(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    operations = [(path, verb, op) for path, verbs in document["paths"].items() for verb, op in verbs.items()]
    assert len(operations) > 50
    for path, verb, operation in operations:
        assert operation["tags"] and operation["summary"] and operation.get("description"), (verb, path)
        assert "422" not in operation["responses"] and "4XX" in operation["responses"], (verb, path)
    assert max(Counter(operation["operationId"] for _, _, operation in operations).values()) == 1

"""The OpenAPI document against the server that states it: schemathesis over every route, capped in examples."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e.api_server import ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]

ENDLESS = "/ninestory/v1/events"
GENERATING = "/v1/(chat/completions|completions|embeddings|rerank|responses|responses/input_tokens|messages.*)|/ninestory/v1/load"
CHECKS = (
    "not_a_server_error,status_code_conformance,response_schema_conformance,content_type_conformance,"
    "unsupported_method,negative_data_rejection"
)
# What no JSON schema can say, so that a body which keeps to its schema may be a 400 there all the same: messages form a
# tree of ids of the same body; a prompt has variables of its own; a vote is about two models; some models are on no hub; what is printable stands in Unicode's tables.
SEMANTIC = "^/(ninestory/v1/(conversations.*|prompts/render|votes|models/pull)|v1/vector_stores)$"
CONFIGURATION = f"""
[[operations]]
include-path-regex = "{SEMANTIC}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409]
"""
# A remote model would be asked over the network.
HOOKS = """
import schemathesis

@schemathesis.hook
def filter_body(context, body):
    return not (isinstance(body, dict) and str(body.get("model")).startswith("openai:"))
"""


@pytest.mark.parametrize(
    "selection",
    [
        (
            "--exclude-path-regex",
            f"^({ENDLESS}|{GENERATING})$",
            "--phases",
            "examples,coverage,fuzzing",
            "--checks",
            f"{CHECKS},positive_data_acceptance",
        ),
        ("--include-path-regex", f"^({GENERATING})$", "--phases", "examples,fuzzing", "--checks", CHECKS),
    ],
    ids=["rows and files", "generation"],
)
def test_server_keeps_to_its_document(tmp_path: Path, selection: tuple[str, ...]) -> None:
    """Both ways: what the document allows is accepted (what a model can do is the model's to say), the rest refused.

    A context of 64 tokens caps what each generated request can cost; what is pulled asks a port where nobody listens.
    """
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    (tmp_path / "hooks.py").write_text(HOOKS)
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    arguments = [
        "--max-examples",
        "6",
        "--generation-deterministic",
        "--request-timeout",
        "60",
        "--continue-on-failure",
    ]
    nobody = "http://127.0.0.1:9"
    hubs = {"hub_hf_endpoint": nobody, "hub_ms_endpoint": nobody}
    with ApiServer(tmp_path / "home", runtime_context="64", **hubs) as server:
        document = f"{server.url}/openapi.json"
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", document, "--no-color", *selection, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environ,
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

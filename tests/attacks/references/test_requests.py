"""Model references in requests: no path out of the home, nothing queued that cannot succeed, no name without end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
OWN = "/ninestory/v1"
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("references"), runtime_context="64") as server:
        yield server


def answers_to(http: httpx.Client, model: str) -> dict[str, httpx.Response]:
    """What every route says that takes a model."""
    data = http.post("/v1/files", files={"file": ("rows.jsonl", b"{}")}, data={"purpose": "fine-tune"}).json()["id"]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": CHAT,
        "/v1/completions": {"prompt": "x", "max_tokens": 1},
        "/v1/responses": {"input": "x"},
        "/v1/messages": CHAT,
        "/v1/embeddings": {"input": "x"},
        "/v1/rerank": {"query": "x", "documents": ["y"]},
        "/v1/fine_tuning/jobs": {"training_file": data},
        f"{OWN}/tuning/inspect": {"training_file": data},
        f"{OWN}/plan": {},
        f"{OWN}/load": {},
        f"{OWN}/unload": {},
        f"{OWN}/models/verify": {},
        f"{OWN}/models/pull": {},
    }
    answers = {path: http.post(path, json={**body, "model": model}) for path, body in bodies.items()}
    answers["DELETE"] = http.delete(f"{OWN}/models", params={"model": model})
    answers["/v1/vector_stores"] = http.post("/v1/vector_stores", json={"embedding_model": model})
    return answers


def jobs(http: httpx.Client) -> list[Any]:
    return list(http.get(f"{OWN}/jobs", params={"limit": 200}).json()["data"])


@pytest.mark.parametrize(
    "model",
    [
        "/etc/passwd",
        "../../etc/x.gguf",
        "~root/x.gguf",
        f"{MODEL}+/etc",
        f"{MODEL}+../../../etc",
        f"{MODEL}+hf:../../etc",
        f"{MODEL}+~root/adapter",
        f"chatglm-6b:int4+{Path(__file__).parent}",
        "hf:org/name+/proc/self",
        "ft:../../etc",
        "ft:run+/etc",
        "ft:/etc/passwd",
    ],
)
def test_no_route_looks_outside_the_home(server: ApiServer, model: str) -> None:
    before = jobs(server.http)
    for path, answer in answers_to(server.http, model).items():
        code = answer.json()["error"].get("code") or answer.json()["error"]["type"]
        refusals = {"path_not_allowed", "bad_model_reference", "invalid_request_error", "permission_error"}
        assert answer.status_code in (400, 403) and code in refusals, (path, answer.text)
    assert jobs(server.http) == before
    assert server.http.get("/v1/vector_stores").json()["data"] == []


def test_an_adapter_path_tells_nothing_about_folders(server: ApiServer, tmp_path: Path) -> None:
    """The answer to a folder that exists is the answer to one that does not."""
    for path in (f"{OWN}/plan", f"{OWN}/models/verify", f"{OWN}/models/pull", "/v1/chat/completions"):
        said = []
        for folder in (tmp_path, tmp_path / "nothing here"):
            answer = server.http.post(path, json={"model": f"{MODEL}+{folder}", **(CHAT if "chat" in path else {})})
            said.append((answer.status_code, answer.json()["error"]["message"].replace(str(folder), "FOLDER")))
        assert said[0] == said[1], path


@pytest.mark.parametrize(
    ("model", "status"),
    [("openai:gpt", 400), ("ft:a-run", 400), ("starter:nobody", 404), ("no-system", 404), ("bloomz:no-variant", 400)],
)
def test_what_cannot_be_pulled_is_refused_before_it_is_queued(server: ApiServer, model: str, status: int) -> None:
    before = jobs(server.http)
    answer = server.http.post(f"{OWN}/models/pull", json={"model": model})
    assert answer.status_code == status and answer.json()["error"]["hint"]
    assert jobs(server.http) == before


@pytest.mark.parametrize(
    "model",
    ["m" * 4090, "hf:" + "o" * 2000 + "/n", "ft:" + "r" * 4000, "./" + "p" * 4000, f"{MODEL}+{'a' * 3000}",
     "模" * 1500, "./" + "d/" * 4000, "openai:" + "x" * 5000],
    ids=["name", "repository", "alias", "path", "adapter", "characters", "folders", "remote"],
)  # fmt: skip
def test_names_without_end_are_a_400(server: ApiServer, model: str) -> None:
    for path, answer in answers_to(server.http, model).items():
        assert answer.status_code in (400, 403), (path, answer.status_code, answer.text[:300])


def test_the_server_still_answers(server: ApiServer) -> None:
    assert server.http.post(f"{OWN}/plan", json={"model": MODEL}).status_code == 200

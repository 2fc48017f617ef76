"""Models on this machine, plans, catalogue and guides."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ninestory.serving.routes.guides import read_guides
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = pytest.mark.slow

BASE = "/ninestory/v1"


@pytest.mark.starter
def test_load_ps_plan_unload(tmp_path: Path) -> None:
    with ApiServer(tmp_path / "home") as server:
        http = server.http
        installed = {row["model"]: row for row in http.get(f"{BASE}/models").json()["data"]}
        assert installed[MODEL]["task"] == "chat" and not installed[MODEL]["loaded"]
        planned = http.post(f"{BASE}/plan", json={"model": MODEL, "context": 512, "concurrency": 2}).json()
        assert planned["fits"] and (planned["context"], planned["slots"]) == (512, 2)
        larger = http.post(f"{BASE}/plan", json={"model": MODEL, "context": 4096, "concurrency": 2}).json()
        assert larger["cache_bytes"] > planned["cache_bytes"]
        assert http.get(f"{BASE}/ps").json()["data"] == []
        assert http.post(f"{BASE}/load", json={"model": MODEL, "keep_alive": 100}).json()["state"] == "ready"
        row = http.get(f"{BASE}/ps").json()["data"][0]
        assert (row["model"], row["keep_alive"], row["requests"]) == (MODEL, 100, 0) and row["rss_bytes"] > 50 << 20
        assert {r["model"]: r["loaded"] for r in http.get(f"{BASE}/models").json()["data"]}[MODEL]
        verified = http.post(f"{BASE}/models/verify", json={"model": MODEL}).json()
        assert verified["ok"] and verified["tensors"] > 100
        assert http.post(f"{BASE}/unload", json={"model": MODEL}).json() == {"model": MODEL, "unloaded": True}
        assert http.post(f"{BASE}/unload", json={"model": MODEL}).json()["unloaded"] is False


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "./x.gguf", "~/.ssh/id_rsa"])
def test_files_of_the_server_cannot_be_named(http: httpx.Client, path: str) -> None:
    for answer in (
        http.delete(f"{BASE}/models", params={"model": path}),
        http.post(f"{BASE}/models/verify", json={"model": path}),
        http.post(f"{BASE}/models/pull", json={"model": path}),
        http.post(f"{BASE}/plan", json={"model": path}),
        http.post(f"{BASE}/load", json={"model": path}),
    ):
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "path_not_allowed"


def test_names_nobody_has_are_not_found(http: httpx.Client) -> None:
    assert http.delete(f"{BASE}/models", params={"model": "hf:nobody/nothing"}).status_code == 404
    assert http.post(f"{BASE}/models/verify", json={"model": "hf:nobody/nothing"}).status_code == 404
    assert http.post(f"{BASE}/load", json={"model": "hf:nobody/nothing"}).status_code == 404
    assert http.post(f"{BASE}/plan", json={"model": "chatglm-7b"}).status_code == 404


def test_catalogue(http: httpx.Client) -> None:
    systems = http.get(f"{BASE}/catalogue").json()["data"]
    assert len(systems) == 26 and [s["floor"] for s in systems] == sorted(s["floor"] for s in systems)
    first = {s["name"] for s in http.get(f"{BASE}/catalogue", params={"floor": 1}).json()["data"]}
    assert "chatglm-6b" in first and "blip2" not in first
    one = http.get(f"{BASE}/catalogue/chatglm-6b").json()
    assert one["title"]["zh"] and one["description"]["en"] and one["variants"]
    missing = http.get(f"{BASE}/catalogue/chatglm-7b")
    assert missing.status_code == 404 and "chatglm-6b" in missing.json()["error"]["hint"]
    plan = http.post(f"{BASE}/plan", json={"model": "chatglm-6b"}).json()
    assert plan["weight_bytes"] > 1 << 30 and len(plan["alternatives"]) >= 1


def test_guides(http: httpx.Client) -> None:
    listed = http.get(f"{BASE}/guides").json()["data"]
    assert {"gpt4all", "chatgpt"} <= {row["name"] for row in listed} == set(read_guides())
    for row in listed:
        for language in ("en", "zh"):
            guide = http.get(f"{BASE}/guides/{row['name']}", params={"language": language}).json()
            assert guide["title"] == row["title"][language] and guide["markdown"].startswith("# ")
    found = http.get(f"{BASE}/guides", params={"q": "PLAN gpt4all"}).json()["data"]
    assert [row["name"] for row in found] == ["gpt4all"]
    assert "plan gpt4all" in found[0]["excerpt"]["en"] and "plan gpt4all" in found[0]["excerpt"]["zh"]
    assert http.get(f"{BASE}/guides", params={"q": "no guide says this"}).json()["data"] == []
    assert http.get(f"{BASE}/guides/nothing").status_code == 404
    assert http.get(f"{BASE}/guides/..%2f..%2fREADME").status_code == 404


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/x.gguf", "~/.ssh/id_rsa", f"{MODEL}+../../../etc"])
def test_no_way_in_takes_a_file_of_the_server(http: httpx.Client, path: str) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for url, body in (
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": messages, "max_tokens": 1}),
    ):
        answer = http.post(url, json={"model": path, **body})
        assert answer.status_code == 403 and "outside its home" in answer.text


@pytest.mark.starter
def test_tokens_of_every_api_are_counted(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    with ApiServer(tmp_path / "home") as server:
        for number, (url, body) in enumerate(
            (
                ("/v1/chat/completions", {"messages": messages, "max_tokens": 2}),
                ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
                ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
                ("/v1/messages", {"messages": messages, "max_tokens": 2}),
            ),
            start=1,
        ):
            assert server.http.post(url, json={"model": MODEL, **body}).status_code == 200
            figures = server.http.get("/metrics").text
            assert f'ninestory_tokens_total{{kind="completion",model="{MODEL}"}} {2.0 * number}' in figures
            assert f'ninestory_first_token_seconds_count{{model="{MODEL}"}} {number}.0' in figures

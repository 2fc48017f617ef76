"""Votes and the leaderboard, through the server and through the command line, on one home."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.api_server import MODEL, ApiServer
from tests.e2e.test_cli import run

pytestmark = [pytest.mark.slow, pytest.mark.starter]
VOTES = "/ninestory/v1/votes"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("arena")) as server:
        yield server


def cast(http: httpx.Client, a: str, b: str, winner: str, **more: object) -> dict[str, object]:
    answer = http.post(VOTES, json={"model_a": a, "model_b": b, "winner": winner, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_votes_become_a_leaderboard(server: ApiServer) -> None:
    empty = server.http.get(f"{VOTES}/leaderboard").json()
    assert empty == {"object": "leaderboard", "votes": 0, "rounds": 100, "data": []}
    for _ in range(8):
        cast(server.http, "good", "bad", "model_a", blind=True)
        cast(server.http, "fair", "bad", "model_a", question="q", answer_a="x", answer_b="y")
        cast(server.http, "good", "fair", "model_a")
    cast(server.http, "bad", "good", "both_bad")
    wrong = cast(server.http, "bad", "good", "model_a")
    assert server.http.delete(f"{VOTES}/{wrong['id']}").json()["deleted"]
    board = server.http.get(f"{VOTES}/leaderboard").json()
    assert [row["model"] for row in board["data"]] == ["good", "fair", "bad"] and board["votes"] == 25
    good = board["data"][0]
    assert (good["battles"], good["wins"], good["losses"], good["ties"]) == (17, 16, 0, 1)
    assert good["interval"]["low"] <= good["rating"] <= good["interval"]["high"]
    assert [r["elo"] for r in board["data"]] == sorted((r["elo"] for r in board["data"]), reverse=True)
    blind = server.http.get(f"{VOTES}/leaderboard", params={"blind_only": True}).json()
    assert blind["votes"] == 8 and {row["model"] for row in blind["data"]} == {"good", "bad"}
    assert all(abs(row["rating"]) < 5000 for row in blind["data"]), "a model that won everything stays finite"
    first = server.http.get(VOTES, params={"limit": 20}).json()
    rest = server.http.get(VOTES, params={"limit": 20, "after": first["data"][-1]["id"]}).json()
    assert (len(first["data"]), first["has_more"], len(rest["data"]), rest["has_more"]) == (20, True, 5, False)
    table = run(server.home, "arena", "ls", "--server", server.url).stdout
    assert table == run(server.home, "arena", "ls").stdout and table.index("good") < table.index("bad")


@pytest.mark.parametrize(
    "body",
    [
        {"model_a": "x", "model_b": "x", "winner": "tie"},
        {"model_a": "x", "model_b": "y", "winner": "x"},
        {"model_a": "x", "winner": "tie"},
        {"model_a": "x", "model_b": "y", "winner": "tie", "colour": "red"},
        {"model_a": "", "model_b": "y", "winner": "tie"},
    ],
)
def test_a_vote_that_says_nothing_is_refused(server: ApiServer, body: dict[str, str]) -> None:
    answer = server.http.post(VOTES, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"]


def test_an_unknown_vote_is_a_404(server: ApiServer) -> None:
    assert server.http.delete(f"{VOTES}/vote_x").status_code == 404
    assert server.http.get(VOTES, params={"after": "vote_x"}).status_code == 404


def test_a_blind_battle_on_the_terminal(tmp_path: Path, starter_gguf: Path) -> None:
    other = str(starter_gguf)
    told = run(
        tmp_path, "arena", "battle", MODEL, other, "-p", "Name a colour.", "--max-tokens", "4", given="what?\na\n"
    )
    before, _, after = told.stdout.partition("neither)? ")
    assert "smollm2" not in before.lower() and "A was " in after
    board = json.loads(run(tmp_path, "arena", "ls", "--json").stdout)
    assert sorted(row["wins"] for row in board) == [0, 1]
    vote = json.loads(run(tmp_path, "arena", "export").stdout)
    assert vote["question"] == "Name a colour." and vote["blind"] and vote["answer_a"]


def test_votes_are_taken_from_a_file_all_or_none(tmp_path: Path) -> None:
    lines = [
        {"model_a": "x", "model_b": "y", "winner": "model_a", "anony": True, "judge": "arena_user_1"},
        {"model_a": "y", "model_b": "x", "winner": "tie (bothbad)", "anony": False},
    ]
    votes = tmp_path / "votes.jsonl"
    votes.write_text("\n".join(map(json.dumps, lines)))
    assert run(tmp_path, "arena", "import", str(votes)).stdout.startswith("2 ")
    kept = [json.loads(line) for line in run(tmp_path, "arena", "export").stdout.splitlines()]
    assert [(vote["winner"], vote["blind"]) for vote in kept] == [("model_a", True), ("both_bad", False)]
    votes.write_text(json.dumps(lines[0]) + '\n{"model_a": "x"}\n')
    refused = run(tmp_path, "arena", "import", str(votes), check=False)
    assert refused.returncode == 2 and "line 2" in refused.stderr
    assert len(run(tmp_path, "arena", "export").stdout.splitlines()) == 2

"""Sign-in of the page, and what `system` shows and hides."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow

SESSION = "/ninestory/v1/session"
KEY = "open-sesame-密"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("home"), serve_api_key="open-sesame", hub_hf_token="hf_secret") as server:
        yield server


@pytest.fixture
def visitor(locked: ApiServer) -> Iterator[httpx.Client]:
    """A browser that has not signed in."""
    with httpx.Client(base_url=locked.url) as client:
        yield client


def test_sign_in_gives_a_cookie_that_opens_and_sign_out_closes(visitor: httpx.Client) -> None:
    assert visitor.get(SESSION).json() == {"required": True, "signed_in": False}
    assert visitor.get("/ninestory/v1/jobs").status_code == 401
    wrong = visitor.post(SESSION, json={"api_key": "guess"})
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    right = visitor.post(SESSION, json={"api_key": "open-sesame"})
    cookie = right.headers["set-cookie"]
    assert right.status_code == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert "open-sesame" not in cookie
    assert visitor.get(SESSION).json() == {"required": True, "signed_in": True}
    assert visitor.get("/ninestory/v1/jobs").status_code == 200
    assert visitor.delete(SESSION).status_code == 204
    assert visitor.get("/ninestory/v1/jobs").status_code == 401


def test_a_made_up_cookie_opens_nothing(visitor: httpx.Client) -> None:
    for value in ("x", "a.b", ".", "open-sesame", "é.é"):
        cookie = {"Cookie": f"ninestory_session={value}".encode()}
        assert visitor.get("/ninestory/v1/jobs", headers=cookie).status_code == 401


def test_an_open_server_needs_no_session(http: httpx.Client) -> None:
    assert http.get(SESSION).json() == {"required": False, "signed_in": True}
    assert http.post(SESSION, json={"api_key": ""}).status_code == 204


def test_system_shows_the_machine_and_no_secret(locked: ApiServer) -> None:
    answer = locked.http.get("/ninestory/v1/system")
    assert answer.status_code == 200
    assert "open-sesame" not in answer.text and "hf_secret" not in answer.text
    system = answer.json()
    settings = {row["key"]: row for row in system["settings"]}
    assert settings["serve.api_key"]["value"] == "(set)" and settings["hub.hf_token"]["value"] == "(set)"
    assert settings["serve.port"]["origin"] == "NINESTORY_SERVE_PORT" and settings["serve.port"]["doc"]
    assert system["memory"]["total_bytes"] > system["memory"]["gateway_bytes"] > 1 << 20
    assert system["packages"]["fastapi"] and system["processor"]["cores"] >= 1


def test_figures_are_kept_by_route_and_not_by_what_clients_make_up(http: httpx.Client) -> None:
    for made_up in ("/v1/files/file-madeup", "/madeup/path", "/ninestory/v1/jobs/job_madeup"):
        assert http.get(made_up).status_code == 404
    figures = http.get("/metrics").text
    assert "madeup" not in figures and 'route="/v1/files/{file_id}",status="404"' in figures


def test_a_query_parameter_nobody_knows_is_refused_by_name(http: httpx.Client) -> None:
    answer = http.get("/ninestory/v1/jobs", params={"colour": "red"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "colour"
    assert http.get("/v1/models", params={"beta": "true"}).status_code == 200


def test_deep_json_is_refused_under_every_name_for_json(http: httpx.Client) -> None:
    for content_type in ("application/json", "application/problem+json"):
        deep = b"[" * 100_000 + b"]" * 100_000
        answer = http.post("/ninestory/v1/presets", content=deep, headers={"Content-Type": content_type})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "json_too_deep"


def test_the_request_log_holds_no_text(http: httpx.Client) -> None:
    http.post("/ninestory/v1/presets", json={"name": "very secret words", "nonsense": 1})
    answer = http.get("/ninestory/v1/system/requests", params={"limit": 5})
    newest = answer.json()["data"][0]
    assert (newest["method"], newest["path"], newest["status"]) == ("POST", "/ninestory/v1/presets", 400)
    assert newest["seconds"] >= 0 and "secret words" not in answer.text

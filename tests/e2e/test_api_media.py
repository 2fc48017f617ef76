"""/ninestory/v1/media and /ninestory/v1/artifacts over HTTP."""

from __future__ import annotations

import pytest

from ninestory.core.artifacts import ArtifactStore
from ninestory.core.media import MediaSpool
from ninestory.core.state import State
from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100


def test_upload_and_read_back(api_server: ApiServer) -> None:
    stored = api_server.http.post("/ninestory/v1/media", files={"file": ("../x.png", PNG)})
    assert stored.status_code == 201
    media = stored.json()
    assert media["media_type"] == "image/png" and media["bytes"] == len(PNG)
    content = api_server.http.get(f"/ninestory/v1/media/{media['digest']}")
    assert content.content == PNG and content.headers["content-type"] == "image/png"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in content.headers["content-security-policy"]


def test_an_active_format_is_a_download(api_server: ApiServer) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    digest = api_server.http.post("/ninestory/v1/media", files={"file": ("a.svg", svg)}).json()["digest"]
    content = api_server.http.get(f"/ninestory/v1/media/{digest}")
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-disposition"] == "attachment"


@pytest.mark.parametrize("digest", ["..%2Fstate.db", "0" * 63, "G" * 64])
def test_a_malformed_digest_is_a_400(api_server: ApiServer, digest: str) -> None:
    assert api_server.http.get(f"/ninestory/v1/media/{digest}").status_code in (400, 404)


def test_an_unknown_digest_is_a_404(api_server: ApiServer) -> None:
    answer = api_server.http.get(f"/ninestory/v1/media/{'0' * 64}")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "media_not_found"


def test_artifacts_are_listed_shown_and_deleted(api_server: ApiServer) -> None:
    state = State(api_server.home / "state.db")
    spool = MediaSpool(api_server.home / "media")
    store = ArtifactStore(state, spool, api_server.home / "outputs")
    artifact = store.add(spool.put(PNG).digest, made_by="starter:painter", description="a cat", request={"steps": 4})
    listed = api_server.http.get("/ninestory/v1/artifacts", params={"query": "cat", "kind": "image"}).json()
    assert [entry["id"] for entry in listed["data"]] == [artifact.id] and not listed["has_more"]
    assert api_server.http.get(f"/ninestory/v1/artifacts/{artifact.id}").json()["request"] == {"steps": 4}
    assert api_server.http.get(f"/ninestory/v1/artifacts/{artifact.id}/content").content == PNG
    assert api_server.http.delete(f"/ninestory/v1/artifacts/{artifact.id}").json()["deleted"]
    assert api_server.http.get(f"/ninestory/v1/artifacts/{artifact.id}").status_code == 404
    state.close()

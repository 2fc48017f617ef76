"""A disk that somebody filled: what is stored can be read and deleted, a server starts, and room makes it whole again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import api_server
from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow
MEGABYTES = 24
OWN = "/ninestory/v1"


@pytest.fixture
def full_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on a small file system in a mount namespace of its own, where the servers of this test are started."""
    home = tmp_path / "home"
    home.mkdir()
    script = f'mount -t tmpfs -o size={MEGABYTES}m none "$0" && echo ready && exec cat'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        if keeper.stdout.readline() != "ready\n":
            pytest.skip("hardware: this machine allows no mount namespaces")
        start = subprocess.Popen
        there = ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", str(keeper.pid)]

        def start_there(program: list[str], **options: Any) -> subprocess.Popen[str]:
            return start([*there, *program] if program[0] == sys.executable else program, **options)

        monkeypatch.setattr(api_server.subprocess, "Popen", start_there)
        yield home
        keeper.stdin.close()


def fill(http: httpx.Client) -> None:
    """Upload until nothing fits, in ever smaller pieces."""
    size = 2 << 20
    while size > 64:
        content = {"file": ("filler.bin", b"x" * size)}
        if http.post("/v1/files", files=content, data={"purpose": "user_data"}).status_code == 507:
            size //= 2


def test_everything_can_be_read_and_deleted_and_a_server_starts(full_home: Path) -> None:
    with ApiServer(full_home) as server:
        http = server.http
        store = http.post("/v1/vector_stores", json={"name": "a"}).json()["id"]
        other = http.post("/v1/vector_stores", json={"name": "b"}).json()["id"]
        talk = http.post(f"{OWN}/conversations", json={"title": "t"}).json()["id"]
        preset = http.post(f"{OWN}/presets", json={"name": "p"}).json()["id"]
        fill(http)
        refused = http.post(f"{OWN}/presets", json={"name": "q", "system": "x" * 50_000})
        assert refused.status_code == 507 and refused.json()["error"]["code"] == "disk_full"
        for path in (
            "/v1/files",
            "/v1/vector_stores",
            f"/v1/vector_stores/{store}",
            f"{OWN}/conversations",
            f"{OWN}/jobs",
        ):
            assert http.get(path).status_code == 200, path
        fill(http)
        for path in (f"{OWN}/conversations/{talk}", f"{OWN}/presets/{preset}", f"/v1/vector_stores/{store}"):
            assert http.delete(path).status_code == 200, path
        fill(http)
    with ApiServer(full_home) as server:  # on the full disk
        http = server.http
        assert {row["id"] for row in http.get("/v1/vector_stores").json()["data"]} == {other}
        files = http.get("/v1/files").json()["data"]
        largest = max(files, key=lambda file: file["bytes"])["id"]
        assert http.delete(f"/v1/files/{largest}").status_code == 200
        assert http.post(f"{OWN}/presets", json={"name": "q", "system": "x" * 50_000}).status_code == 201
        assert largest not in {file["id"] for file in http.get("/v1/files").json()["data"]}

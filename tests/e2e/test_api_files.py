"""/v1/files: the official client, names that lie, limits, faults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from ninestory.core.errors import DiskFull, InvalidRequest, NotFound
from ninestory.core.state import State
from ninestory.serving.stores.files import FileStore, sanitised_name
from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_upload_list_content_delete(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 20_000  # larger than one read, and no text
    stored = client.files.create(
        file=("数据.bin", content), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (stored.filename, stored.bytes, stored.purpose) == ("数据.bin", len(content), "user_data")
    assert stored.expires_at == stored.created_at + 3600
    assert client.files.retrieve(stored.id) == stored
    assert stored.id in [file.id for file in client.files.list(purpose="user_data")]
    got = client.files.content(stored.id)
    assert got.read() == content
    assert got.response.headers["content-disposition"].startswith("attachment")
    assert client.files.delete(stored.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(stored.id)


def test_listing_pages(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="evals").id for n in range(5)]
    listed = [file.id for file in client.files.list(purpose="evals", limit=2, order="asc")]
    assert listed == made


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\..\\windows\\passwd", "a/../b/passwd"])
def test_a_name_is_no_path(api_server: ApiServer, name: str) -> None:
    files = {"file": (name, b"secret", "text/plain")}
    stored = api_server.http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
    assert stored["filename"] == "passwd"
    assert (api_server.home / "files" / stored["id"]).read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["..", "/", "...", "\x00\x01"])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        sanitised_name(name)


@pytest.mark.parametrize("file_id", ["..%2Fstate.db", "..%2f..%2fetc%2fpasswd", "file-..", "%00", "."])
def test_an_id_is_no_path(http: httpx.Client, file_id: str) -> None:
    answer = http.get(f"/v1/files/{file_id}/content")
    assert answer.status_code in (400, 404) and b"SQLite" not in answer.content


def test_purpose_and_expiry_are_checked(http: httpx.Client) -> None:
    files = {"file": ("a.txt", b"x")}
    assert http.post("/v1/files", files=files, data={"purpose": "world domination"}).status_code == 400
    data = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}
    assert http.post("/v1/files", files=files, data=data).status_code == 400


def test_too_large_a_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with ApiServer(tmp_path / "home", serve_max_upload_mb="1") as server:
        big = {"file": ("big.bin", b"x" * (1 << 21))}
        answer = server.http.post("/v1/files", files=big, data={"purpose": "user_data"})
        assert answer.status_code == 413 and "1 MB" in answer.json()["error"]["message"]
        unstated = (b"x" * 1000 for _ in range(3000))
        boundary = {"Content-Type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
        answer = server.http.post("/v1/files", content=itertools.chain([head], unstated), headers=boundary)
        assert answer.status_code == 413
        assert list((tmp_path / "home" / "files").glob("*")) == []
        small = {"file": ("small.bin", b"x")}
        assert server.http.post("/v1/files", files=small, data={"purpose": "user_data"}).status_code == 200


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    store = FileStore(state, tmp_path / "files")
    with (tmp_path / "source").open("wb") as source:
        source.write(b"x")
    state.execute(f"PRAGMA max_page_count = {state.execute('PRAGMA page_count')[0][0]}")
    with pytest.raises(DiskFull):
        for number in range(1000):
            with (tmp_path / "source").open("rb") as source:
                store.put(source, f"{number}" * 60, "user_data", max_bytes=10)
    rows = {row["id"] for row in state.execute("SELECT id FROM files")}
    assert {path.name for path in (tmp_path / "files").iterdir()} == rows


def test_expired_files_are_gone_and_a_killed_upload_is_swept(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    store = FileStore(state, tmp_path / "files")
    (tmp_path / "source").write_bytes(b"x")
    with (tmp_path / "source").open("rb") as source:
        stored = store.put(source, "a", "user_data", max_bytes=10, expires_after=0.1)
    time.sleep(0.15)
    with pytest.raises(NotFound):
        store.path(stored["id"])
    (tmp_path / "files" / ".file-abc.1.part").write_bytes(b"half")
    (tmp_path / "files" / f"file-{'0' * 24}").write_bytes(b"whole, but its row was never written")
    store.sweep()
    assert list((tmp_path / "files").iterdir()) == []

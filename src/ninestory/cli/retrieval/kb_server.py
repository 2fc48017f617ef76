"""`ninestory kb … --server`: the knowledge bases of a running server, through the API that any client uses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ninestory.cli.client import ServerClient
from ninestory.cli.output import print_json, print_table, size
from ninestory.cli.retrieval.passages import print_hits, print_passages
from ninestory.core.errors import Conflict, InvalidRequest, NotFound
from ninestory.core.regular_file import open_regular

STORES = "/v1/vector_stores"
_PAGE = 100
_POLL_SECONDS = 0.5
_STATUS = {"in_progress": "pending", "completed": "indexed"}  # as the command says them of this machine's


def store_of(client: ServerClient, name: str) -> dict[str, Any]:
    """A knowledge base by id or name.

    Raises:
        NotFound: the server has none of that name. InvalidRequest: it has several; the message lists their ids.
    """
    found = [store for store in _all(client, STORES) if name in (store["id"], store["name"])]
    if len(found) > 1:
        ids = ", ".join(store["id"] for store in found)
        raise InvalidRequest(
            f"{len(found)} knowledge bases there are named {name!r}: {ids}.", hint="Use the id.", hint_zh="请使用 id。"
        )
    if not found:
        raise NotFound(
            f"{client.address} has no knowledge base {name[:80]!r}.",
            hint=f"'ninestory kb ls --server {client.address}' lists them.",
            hint_zh=f"运行 ninestory kb ls --server {client.address} 可列出全部。",
            code="knowledge_base_not_found",
        )
    return found[0]


def create(client: ServerClient, name: str, model: str, as_json: bool) -> None:
    if any(store["name"] == name for store in _all(client, STORES)):
        raise Conflict(
            f"{client.address} has a knowledge base {name!r} already.",
            hint="Choose another name, or add to that one.",
            hint_zh="请换一个名称，或向已有的知识库添加。",
            param="name",
        )
    store = client.call("POST", STORES, json={"name": name} | ({"embedding_model": model} if model else {}))
    print_json(store) if as_json else print(f"{name}: {store['id']}, {store['embedding_model']}")


def ls(client: ServerClient, as_json: bool) -> None:
    stores = _all(client, STORES)
    if as_json:
        print_json(stores)
        return
    rows = [
        [s["name"], s["id"], s["file_counts"]["total"], s["file_counts"]["failed"], s["passages"], s["embedding_model"]]
        for s in stores
    ]
    print_table(["name", "id", "files", "failed", "passages", "model"], rows)


def add(client: ServerClient, name: str, paths: list[Path], attributes: dict[str, Any], as_json: bool) -> None:
    """Upload files, and those of folders, and wait until the server has read them."""
    from ninestory.floors.retrieval import IngestReport, files_of

    store, report = store_of(client, name), IngestReport()
    ids = [_uploaded(client, shown, file) for path in paths for shown, file in files_of(path, report)]
    if not ids:
        raise InvalidRequest("There is no file to add.", param="paths")
    batches = f"{STORES}/{store['id']}/file_batches"
    batch = client.call("POST", batches, json={"file_ids": ids} | ({"attributes": attributes} if attributes else {}))
    while client.call("GET", f"{batches}/{batch['id']}")["status"] == "in_progress":
        time.sleep(_POLL_SECONDS)
    files = _all(client, f"{batches}/{batch['id']}/files")
    if as_json:
        print_json(files)
        return
    done = [file for file in files if file["status"] == "completed"]
    print(f"{len(done)} indexed; {sum(file['passages'] for file in done)} passages")
    failures = [(f["filename"], f["last_error"]["message"]) for f in files if f["last_error"]]
    for shown, message in [(f["file"], f["message"]) for f in report.failed] + failures:
        print(f"  failed: {shown}: {message}")


def show(client: ServerClient, name: str, file: str, as_json: bool) -> None:
    store = store_of(client, name)
    files = _all(client, f"{STORES}/{store['id']}/files")
    if file:
        content = f"{STORES}/{store['id']}/files/{_file_id(files, file)}/content"
        passages: list[dict[str, Any]] = []
        while page := client.call("GET", f"{content}?first={len(passages)}")["data"]:
            passages += page
        print_json(passages) if as_json else print_passages(passages)
        return
    if as_json:
        print_json({**store, "data": files})
        return
    rows = [
        [
            f["filename"],
            _STATUS.get(f["status"], f["status"]),
            f["passages"],
            size(f["usage_bytes"]),
            _remark(f),
            f["id"],
        ]
        for f in files
    ]
    print_table(["file", "status", "passages", "size", "remark", "id"], rows)


def rm(client: ServerClient, name: str, file: str, as_json: bool) -> None:
    path = f"{STORES}/{store_of(client, name)['id']}"
    if file:
        path += f"/files/{_file_id(_all(client, f'{path}/files'), file)}"
    answer = client.call("DELETE", path)
    print_json(answer) if as_json else print(f"{file or name}: deleted")


def search(
    client: ServerClient,
    name: str,
    question: str,
    limit: int,
    neighbours: int,
    rerank: str,
    filters: Any,
    as_json: bool,
) -> None:
    from ninestory.floors.retrieval import Hit

    store = store_of(client, name)
    body = {"query": question, "max_num_results": limit, "neighbours": neighbours, "rerank": rerank}
    found = client.call("POST", f"{STORES}/{store['id']}/search", json=body | ({"filters": filters} if filters else {}))
    if as_json:
        print_json(found)
        return
    print_hits(
        [
            Hit(
                base=store["id"], file_id=hit["file_id"], file=hit["filename"], text=hit["content"][0]["text"],
                score=hit["score"], **hit["passage"],
            )
            for hit in found["data"]
        ],
        found["threshold"],
        found["accepted_by"],
    )  # fmt: skip


def _all(client: ServerClient, path: str) -> list[dict[str, Any]]:
    """Every row of a list, page by page."""
    rows: list[dict[str, Any]] = []
    while True:
        after = f"&after={rows[-1]['id']}" if rows else ""
        page = client.call("GET", f"{path}?order=asc&limit={_PAGE}{after}")
        rows += page["data"]
        if not page["has_more"]:
            return rows


def _uploaded(client: ServerClient, name: str, path: Path) -> str:
    with open_regular(path) as file:
        sent = client.call("POST", "/v1/files", files={"file": (name, file)}, data={"purpose": "assistants"})
    return str(sent["id"])


def _file_id(files: list[dict[str, Any]], file: str) -> str:
    return next((f["id"] for f in files if file in (f["id"], f["filename"])), file)


def _remark(file: dict[str, Any]) -> str:
    return file["last_error"]["message"] if file["last_error"] else "; ".join(file["notes"])

"""Conversations and presets: two tabs, stale writes, trees, search, undo, export."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.api_server import ApiServer

pytestmark = pytest.mark.slow

BASE = "/ninestory/v1/conversations"
PRESETS = "/ninestory/v1/presets"


def message(message_id: str, parent: str | None, role: str, content: Any) -> dict[str, Any]:
    return {"id": message_id, "parent": parent, "role": role, "content": content}


TEA = [
    message("m1", None, "user", "How is green tea made?"),
    message("m2", "m1", "assistant", "By steaming the leaves."),
]


def create(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post(BASE, json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_what_was_stored_comes_back(http: httpx.Client) -> None:
    made = create(http, title="Tea", messages=TEA, leaf="m2", settings={"temperature": 0.5}, model="starter:x")
    got = http.get(f"{BASE}/{made['id']}").json()
    assert got == made and got["revision"] == 1
    assert [m["content"] for m in got["messages"]] == [m["content"] for m in TEA]
    assert got["settings"] == {"temperature": 0.5} and all(m["created_at"] > 0 for m in got["messages"])


def test_of_two_tabs_the_second_write_is_stale_and_changes_nothing(http: httpx.Client) -> None:
    made = create(http, title="First")
    url = f"{BASE}/{made['id']}"
    assert http.patch(url, json={"revision": 1, "title": "By tab one"}).json()["revision"] == 2
    stale = http.patch(url, json={"revision": 1, "title": "By tab two", "messages": TEA, "leaf": "m2"})
    assert stale.status_code == 409
    error = stale.json()["error"]
    assert (error["code"], error["details"]["revision"]) == ("stale_revision", 2) and error["hint_zh"]
    got = http.get(url).json()
    assert got["title"] == "By tab one" and got["messages"] == []
    again = http.patch(url, json={"revision": error["details"]["revision"], "title": "By tab two"})
    assert again.status_code == 200


def test_of_many_writers_at_once_one_wins(api_server: ApiServer) -> None:
    made = create(api_server.http)
    url = f"{api_server.url}{BASE}/{made['id']}"
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: httpx.patch(url, json={"revision": 1, "title": f"{n}"}).status_code, range(16)))
    assert sorted(codes) == [200] + [409] * 15


def test_editing_adds_a_sibling_and_moves_the_leaf(http: httpx.Client) -> None:
    made = create(http, messages=TEA, leaf="m2")
    edited = [message("m3", None, "user", "And black tea?"), message("m4", "m3", "assistant", "By oxidation.")]
    summary = http.post(f"{BASE}/{made['id']}/messages", json={"revision": 1, "messages": edited}).json()
    assert (summary["revision"], summary["leaf"], summary["message_count"]) == (2, "m4", 4)
    finished = message("m4", "m3", "assistant", "By oxidation of the leaves.")
    http.post(f"{BASE}/{made['id']}/messages", json={"revision": 2, "messages": [finished], "leaf": "m2"})
    got = http.get(f"{BASE}/{made['id']}").json()
    assert [m["id"] for m in got["messages"]] == ["m1", "m2", "m3", "m4"] and got["leaf"] == "m2"
    assert got["messages"][3]["content"] == "By oxidation of the leaves."


@pytest.mark.parametrize(
    ("messages", "leaf"),
    [
        ([message("a", "nobody", "user", "x")], "a"),
        ([message("a", "b", "user", "x"), message("b", "a", "user", "y")], "a"),
        ([message("a", None, "user", "x"), message("a", None, "user", "y")], "a"),
        ([message("a", None, "user", "x")], "z"),
    ],
)
def test_messages_that_are_no_tree_are_refused(http: httpx.Client, messages: list[dict[str, Any]], leaf: str) -> None:
    answer = http.post(BASE, json={"messages": messages, "leaf": leaf})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "broken_conversation"
    made = create(http, messages=TEA, leaf="m2")
    answer = http.patch(f"{BASE}/{made['id']}", json={"revision": 1, "messages": messages, "leaf": leaf})
    assert answer.status_code == 400
    assert http.get(f"{BASE}/{made['id']}").json() == made


def test_search_finds_titles_and_texts_in_both_languages_literally(http: httpx.Client) -> None:
    a = create(http, title="泡茶", messages=[message("m1", None, "user", "请问绿茶如何冲泡？" + "水" * 300)], leaf="m1")
    b = create(
        http, title="100% Sure_thing", messages=[message("m1", None, "user", [{"type": "text", "text": "Oolong"}])]
    )

    def found(query: str) -> list[str]:
        return [row["id"] for row in http.get(BASE, params={"q": query}).json()["data"]]

    assert found("泡茶") == [a["id"]] and found("绿茶") == [a["id"]] and found("oolong") == [b["id"]]
    assert b["id"] in found("0% Sure_") and found("0%_Sure") == []
    row = http.get(BASE, params={"q": "绿茶"}).json()["data"][0]
    assert "绿茶" in row["snippet"] and len(row["snippet"]) < 130 and "messages" not in row


def test_list_is_pinned_first_then_newest_and_pages(http: httpx.Client) -> None:
    made = [create(http, title=f"{n}", floor="listing") for n in range(5)]
    http.patch(f"{BASE}/{made[1]['id']}", json={"revision": 1, "pinned": True})
    ids, after = [], None
    while True:
        page = http.get(BASE, params={"floor": "listing", "limit": 2} | ({"after": after} if after else {})).json()
        ids += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = ids[-1]
    assert ids == [made[n]["id"] for n in (1, 4, 3, 2, 0)]


def test_delete_hides_and_restore_undoes(http: httpx.Client) -> None:
    made = create(http, title="Kept", messages=TEA, leaf="m2")
    gone = http.delete(f"{BASE}/{made['id']}").json()
    assert gone["deleted"] and gone["restorable_until"] > made["updated_at"] + 86400
    assert http.get(f"{BASE}/{made['id']}").status_code == 404
    assert http.patch(f"{BASE}/{made['id']}", json={"revision": 1, "title": "x"}).status_code == 404
    assert made["id"] not in [row["id"] for row in http.get(BASE).json()["data"]]
    assert http.post(f"{BASE}/{made['id']}/restore").json()["messages"] == made["messages"]
    assert http.post(f"{BASE}/conv_nobody/restore").status_code == 404


def test_export_goes_through_import_whole_or_not_at_all(http: httpx.Client) -> None:
    made = create(http, title="Exported", messages=TEA, leaf="m2", pinned=True, settings={"a": [1]})
    document = http.get(f"{BASE}/export", params={"id": made["id"]}).json()
    imported = http.post(f"{BASE}/import", json=document)
    assert imported.status_code == 201
    copy = http.get(f"{BASE}/{imported.json()['data'][0]['id']}").json()
    same = ("title", "messages", "leaf", "pinned", "settings", "created_at")
    assert copy["id"] != made["id"] and {k: copy[k] for k in same} == {k: made[k] for k in same}
    everything = http.get(f"{BASE}/export").json()["conversations"]
    assert {made["id"], copy["id"]} <= {one["id"] for one in everything}
    broken = {**document["conversations"][0], "title": "Broken", "leaf": "nobody"}
    count = len(everything)
    answer = http.post(f"{BASE}/import", json={**document, "conversations": [*document["conversations"], broken]})
    assert answer.status_code == 400 and len(http.get(f"{BASE}/export").json()["conversations"]) == count


def test_unknown_fields_are_refused_by_name(http: httpx.Client) -> None:
    for body in ({"colour": "red"}, {"messages": [{**TEA[0], "colour": "red"}]}):
        answer = http.post(BASE, json=body)
        assert answer.status_code == 400 and "colour" in answer.json()["error"]["param"]


def test_conversations_survive_a_killed_server(tmp_path: Path) -> None:
    server = ApiServer(tmp_path / "home").start()
    made = create(server.http, title="Kept", messages=TEA, leaf="m2")
    server.kill()
    with server:
        assert server.http.get(f"{BASE}/{made['id']}").json() == made


def test_presets(http: httpx.Client) -> None:
    made = http.post(PRESETS, json={"name": "Translator", "system": "Translate.", "settings": {"top_p": 0.9}}).json()
    taken = http.post(PRESETS, json={"name": "Translator"})
    assert taken.status_code == 409 and taken.json()["error"]["code"] == "name_taken"
    changed = http.patch(f"{PRESETS}/{made['id']}", json={"revision": 1, "model": "starter:x"}).json()
    assert (changed["revision"], changed["model"], changed["system"]) == (2, "starter:x", "Translate.")
    assert http.patch(f"{PRESETS}/{made['id']}", json={"revision": 1, "name": "x"}).status_code == 409
    other = http.post(PRESETS, json={"name": "Poet"}).json()
    renamed = http.patch(f"{PRESETS}/{other['id']}", json={"revision": 1, "name": "Translator"})
    assert renamed.json()["error"]["code"] == "name_taken"
    assert [p["name"] for p in http.get(PRESETS, params={"floor": "chat"}).json()["data"]] == ["Poet", "Translator"]
    assert http.delete(f"{PRESETS}/{made['id']}").json()["deleted"]
    assert http.delete(f"{PRESETS}/{made['id']}").status_code == 404

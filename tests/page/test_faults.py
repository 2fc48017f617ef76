"""What breaks under a page that is open: the network, the server, its disk. What came is kept, and one click goes on."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.cuttable import Cable
from tests.page.scripted_upstream import ScriptedUpstream
from tests.page.test_chat import answers, say, short, wait_for_answer
from tests.page.visitor import SCRIPTED, Contexts, Visitor, set_settings

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]
NETWORK = "Failed to load|ERR_"


@pytest.fixture(scope="module")
def server_environment(upstream: ScriptedUpstream) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", upstream.url)
        patch.setenv("OPENAI_API_KEY", "scripted")
        yield


@pytest.fixture
def cable(server: ApiServer) -> Iterator[Cable]:
    with Cable(server.url) as relay:
        yield relay


def test_the_network_is_cut_in_mid_answer_and_one_click_goes_on(visit: Visit, server: ApiServer, cable: Cable) -> None:
    page = visit("chat", url=cable.url, expects=NETWORK, settings=short(max_tokens=300))
    say(page, "Write a long story about a lighthouse keeper.")
    expect(answers(page).locator(".markdown")).to_contain_text(re.compile(r"\w+ \w+"), timeout=60_000)
    cable.cut()
    expect(page.get_by_text("What came is kept.").first).to_be_visible()
    expect(page.get_by_text("Not stored on the server yet")).to_be_visible()
    cable.mend()
    expect(page.get_by_text("Not stored on the server yet")).to_have_count(0, timeout=30_000)
    stored = server.http.get(f"/ninestory/v1/conversations/{page.url.split('id=')[1]}").json()
    kept = stored["messages"][-1]["content"]
    assert kept and stored["messages"][-1]["finish_reason"] == "error"
    set_settings(page, {"temperature": 0, "max_tokens": 6})
    expect(answers(page).locator(".markdown")).to_contain_text(kept[:20].strip())
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("What came is kept.")).to_have_count(0)
    wait_for_answer(page)
    assert len(answers(page).locator(".markdown").inner_text()) > len(kept)


def test_a_restarted_server_is_noticed_and_what_was_written_meanwhile_is_stored(
    contexts: Contexts, tmp_path: Path, upstream: ScriptedUpstream, server_environment: None
) -> None:
    upstream.reset()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    first = ApiServer(tmp_path, serve_port=port).start()
    visitor = Visitor(contexts.fresh(), first.url, expects=f"{NETWORK}|503", settings=SCRIPTED)
    page = visitor.open("chat")
    say(page, "Before.")
    wait_for_answer(page)
    first.kill()
    expect(page.locator(".top").get_by_text("The server does not answer.")).to_be_visible(timeout=30_000)
    say(page, "While it was away.")
    expect(page.get_by_text("Not stored on the server yet")).to_be_visible()
    expect(page.get_by_text("No answer came.")).to_be_visible()
    with ApiServer(tmp_path, serve_port=port) as second:
        expect(page.locator(".top").get_by_text("The server does not answer.")).to_have_count(0, timeout=30_000)
        expect(page.get_by_text("Not stored on the server yet")).to_have_count(0, timeout=30_000)
        page.get_by_role("button", name="Answer again").last.click()
        expect(page.get_by_text("2 of 2")).to_be_visible()
        wait_for_answer(page, 2)
        stored = second.http.get(f"/ninestory/v1/conversations/{page.url.split('id=')[1]}").json()["messages"]
        assert [m["content"] for m in stored] == ["Before.", "Hello.", "While it was away.", "", "Hello."]
        visitor.context.close()
    assert not visitor.faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "ninestory-test", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("hardware: a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_said_and_the_words_wait_until_there_is_room(
    contexts: Contexts, small_disk: Path, upstream: ScriptedUpstream, server_environment: None
) -> None:
    upstream.reset()
    upstream.pieces = ["A long answer. "] * 2000
    with ApiServer(small_disk / "home") as server:
        visitor = Visitor(contexts.fresh("zh"), server.url, expects="507", settings=SCRIPTED)
        page = visitor.open("chat")
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        box = page.get_by_role("textbox", name="消息", exact=True)
        box.fill("磁盘满了吗？" * 1000)
        box.press("Enter")
        expect(page.locator(".toast.is-error").first).to_contain_text("服务器磁盘已满")
        expect(page.locator(".toast.is-error").first).to_contain_text("请清理磁盘后重试")
        expect(page.get_by_text("尚未存入服务器")).to_be_visible()
        expect(page.get_by_role("article", name="助手")).to_contain_text("A long answer.")  # answered all the same
        expect(page.get_by_role("button", name="发送")).to_be_visible()
        filler.unlink()
        page.get_by_role("button", name="立即存入").click()
        expect(page.get_by_text("尚未存入服务器")).to_have_count(0)
        expect(page).to_have_url(re.compile("id=conv_"))
        page.reload()
        expect(page.get_by_role("article", name="助手")).to_contain_text("A long answer.")
        visitor.context.close()
        assert not visitor.faults


def test_an_answer_that_lost_the_race_with_another_tab_becomes_a_version_beside_it(
    visit: Visit, server: ApiServer, upstream: ScriptedUpstream
) -> None:
    upstream.pieces, upstream.tokens_per_second = ["slow "] * 40, 20
    page = visit("chat", expects="409", settings=SCRIPTED)
    say(page, "A question.")
    expect(answers(page)).to_contain_text("slow")
    identity = page.url.split("id=")[1]
    row = server.http.get(f"/ninestory/v1/conversations/{identity}").json()
    change = {"revision": row["revision"], "title": "Renamed in another tab"}
    server.http.patch(f"/ninestory/v1/conversations/{identity}", json=change).raise_for_status()
    expect(page.get_by_text("changed in another tab")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Load the other version").click()
    expect(
        page.get_by_role("complementary", name="Conversations").get_by_text("Renamed in another tab")
    ).to_be_visible()
    stored = server.http.get(f"/ninestory/v1/conversations/{identity}").json()
    assert stored["title"] == "Renamed in another tab"
    assert [m["role"] for m in stored["messages"]] == ["user", "assistant"]
    assert MODEL not in str(stored["messages"][1]["model"])


def test_leaving_in_mid_answer_keeps_what_came_where_it_belongs(
    visit: Visit, server: ApiServer, upstream: ScriptedUpstream
) -> None:
    message = {"id": "m", "parent": None, "role": "user", "content": "an untouched conversation"}
    other = {"title": "Untouched", "messages": [message], "leaf": "m"}
    other = server.http.post("/ninestory/v1/conversations", json=other).json()
    upstream.pieces, upstream.tokens_per_second = ["slow "] * 400, 20
    page = visit("chat", settings=SCRIPTED)
    say(page, "A question that is left.")
    expect(answers(page)).to_contain_text("slow")
    identity = page.url.split("id=")[1]
    page.get_by_role("complementary", name="Conversations").get_by_text("Untouched").click()
    expect(page.get_by_text("an untouched conversation")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.go_back()
    expect(answers(page)).to_contain_text("slow")
    stored = server.http.get(f"/ninestory/v1/conversations/{identity}").json()["messages"]
    assert [m["finish_reason"] for m in stored] == [None, "cancelled"] and "slow" in stored[1]["content"]
    assert server.http.get(f"/ninestory/v1/conversations/{other['id']}").json() == other

"""The ground of the page: policy, router, language, theme, sign-in, errors, and that nothing is left untranslated."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.e2e.api_server import MODEL, ApiServer
from tests.page.visitor import Contexts, Visitor, settled

pytestmark = [pytest.mark.browser, pytest.mark.starter, pytest.mark.slow]
Visit = Callable[..., Page]


def test_the_page_is_served_under_a_strict_policy_and_views_are_deep_links(server: ApiServer) -> None:
    for path in ("", "/chat", "/chat?id=conv_1", "/models", "/jobs"):
        answer = server.http.get(f"/ui{path}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "no-c" in answer.headers["cache-control"] or "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["../__init__.py", "%2e%2e/__init__.py", "vendor/none.js", "..%2f..%2fcore/errors.py"])
def test_nothing_but_the_pages_own_files_is_served(server: ApiServer, path: str) -> None:
    answer = httpx.get(f"{server.url}/ui/{path}", headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_the_first_load_is_light_and_what_was_loaded_is_kept(server: ApiServer, contexts: Contexts) -> None:
    visitor = Visitor(contexts.fresh(), server.url)
    finished: list[Request] = []
    visitor.context.on("requestfinished", lambda request: finished.append(request))
    page = visitor.open("chat")
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    settled(page)
    assert 0 < sum(request.sizes()["responseBodySize"] for request in finished) <= 80_000
    modules = [request for request in finished if "/ui/at-" in request.url]
    assert len(modules) > 20
    assert all("immutable" in (request.response().all_headers()["cache-control"]) for request in modules)
    visitor.context.close()


def test_a_page_of_another_release_never_gets_modules_of_this_one(server: ApiServer, visit: Visit) -> None:
    page = visit("chat", expects="404")
    version = page.locator("link[rel=icon]").get_attribute("href").split("/")[2]
    assert server.http.get(f"/ui/{version}/app.js").status_code == 200
    for path in ("at-000000000000/app.js", "app.js", "at-/app.js"):
        assert server.http.get(f"/ui/{path}").status_code == 404
    page.route("**/views/jobs/index.js", lambda route: route.fulfill(status=404, body="gone"))
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    expect(page.get_by_text("The server was updated")).to_be_visible()
    page.unroute_all()
    page.get_by_role("button", name="Load again").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()


def test_views_have_links_and_the_back_button_works(visit: Visit) -> None:
    page = visit("chat")
    rail = page.get_by_role("navigation")
    rail.get_by_role("link", name="Models").click()
    expect(page).to_have_url(re.compile("/ui/models$"))
    expect(page.get_by_role("heading", name="On this machine")).to_be_visible()
    rail.get_by_role("link", name="System").click()
    expect(page.get_by_role("heading", name="Machine")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="On this machine")).to_be_visible()
    assert rail.locator("[aria-current=page]").inner_text() == "Models"


def test_a_view_that_arrives_late_does_not_replace_the_one_that_is_wanted(visit: Visit) -> None:
    page = visit("chat")
    rail = page.get_by_role("navigation")
    held: list[Route] = []
    page.route("**/views/guides/index.js", lambda route: held.append(route))
    with page.expect_request("**/views/guides/index.js"):
        rail.get_by_role("link", name="Guides").click()
    rail.get_by_role("link", name="System").click()
    expect(page.get_by_role("heading", name="Machine")).to_be_visible()
    with page.expect_response("**/views/guides/index.js"):
        held[0].continue_()
    settled(page)
    expect(page.get_by_role("heading", name="Machine")).to_be_visible()


def test_the_language_changes_in_place_and_is_remembered(visit: Visit) -> None:
    page = visit("chat")
    page.get_by_role("textbox", name="Message").fill("a draft that must stay")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("textbox", name="消息", exact=True)).to_have_value("a draft that must stay")
    expect(page.get_by_role("heading", name="设置")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.reload()
    expect(page.get_by_role("textbox", name="消息", exact=True)).to_have_value("a draft that must stay")


@pytest.mark.parametrize(("language", "heading"), [("en", "Catalogue"), ("zh", "目录")])
def test_the_first_language_is_the_browsers(visit: Visit, language: str, heading: str) -> None:
    expect(visit("models", language=language).get_by_role("heading", name=heading)).to_be_visible()


def test_the_theme_is_the_systems_until_one_is_chosen(visit: Visit) -> None:
    page = visit("chat", theme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(25, 26, 26)"
    page.get_by_label("Theme").select_option("light")
    assert page.evaluate(ground) == "rgb(251, 250, 248)"
    page.reload()
    page.locator("main").wait_for()
    assert page.evaluate(ground) == "rgb(251, 250, 248)"


def test_the_whole_page_can_be_reached_by_keyboard(visit: Visit) -> None:
    page = visit("chat")
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.press("Alt+n")
    page.get_by_role("link", name="Models").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="On this machine")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_with_a_key_the_page_signs_in_and_an_expired_session_asks_again(locked: ApiServer, contexts: Contexts) -> None:
    visitor = Visitor(contexts.fresh(), locked.url, expects="401")
    page = visitor.open("chat")
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("API key").fill("open-sesame")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    cookie = visitor.context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and "sesame" not in cookie["value"]
    expect(page.get_by_role("combobox", name="Model")).to_have_value(MODEL)
    page.get_by_role("textbox", name="Message").fill("a draft")
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Not stored on the server yet")).to_be_visible()
    page.get_by_label("API key").fill("open-sesame")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Not stored on the server yet")).to_have_count(0)
    page.get_by_role("button", name="Answer again").last.click()
    expect(page.get_by_text("2 of 2")).to_be_visible(timeout=60_000)
    stored = locked.http.get("/ninestory/v1/conversations").json()["data"]
    assert [row["title"] for row in stored] == ["a draft"]
    page.get_by_role("button", name="Copy the request").click()
    page.get_by_role("menuitem", name="Copy as curl").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "Bearer $NINESTORY_API_KEY" in copied and "sesame" not in copied
    visitor.context.close()
    assert not visitor.faults

"""`/v1/vector_stores`, file_search and `/v1/rerank` as the official openai client uses them, on Debian's two FAQs."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import documents
from tests.conftest import share_converted
from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
FAQ = Path("/usr/share/doc/debian/FAQ")
CHAPTERS = ("basic-defs", "getting-debian", "support")
# (question, the chapter that answers it, words of the right passage)
QUESTIONS = [
    ("How does one pronounce Debian?", "basic-defs.en.html", "syllable"),
    ("Where can I get Debian installation images?", "getting-debian.en.html", "download"),
    ("Are there mailing lists for Debian users?", "support.en.html", "mailing list"),
    ("Debian 一词如何发音？", "basic-defs.zh-cn.html", "音节"),
    ("如何从 CD-ROM 安装 Debian？", "getting-debian.zh-cn.html", "从 CD 启动"),
    ("有哪些 Debian 的邮件列表？", "support.zh-cn.html", "邮件列表"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Iterator[ApiServer]:
    home = share_converted(tmp_path_factory.mktemp("home"), converted)
    with ApiServer(home, runtime_context="2048") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ApiServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300, max_retries=0)


@pytest.fixture(scope="module")
def faq(client: openai.OpenAI) -> Any:
    """A vector store of three chapters in each language."""
    if not FAQ.is_dir():
        pytest.skip("Debian's packages debian-faq and debian-faq-zh-cn are not installed")
    store = client.vector_stores.create(name="faq", metadata={"of": "Debian"})
    paths = [FAQ / f"{c}.en.html" for c in CHAPTERS] + [FAQ / "zh-cn" / f"{c}.zh-cn.html" for c in CHAPTERS]
    files = [client.files.create(file=path, purpose="assistants") for path in paths]
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[file.id for file in files], poll_interval_ms=300
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 6)
    return client.vector_stores.retrieve(store.id)


def upload(client: openai.OpenAI, name: str, text: str) -> str:
    return client.files.create(file=(name, io.BytesIO(text.encode())), purpose="assistants").id


def settled(client: openai.OpenAI, store: str, file: str) -> Any:
    deadline = time.monotonic() + 120
    while (found := client.vector_stores.files.retrieve(file, vector_store_id=store)).status == "in_progress":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_the_store_as_the_client_sees_it(client: openai.OpenAI, faq: Any) -> None:
    assert (faq.name, faq.status, faq.metadata, faq.file_counts.total) == ("faq", "completed", {"of": "Debian"}, 6)
    assert faq.usage_bytes > 10_000 and all(0.5 < faq.thresholds[language] < 1 for language in ("en", "zh"))
    assert faq.id in [store.id for store in client.vector_stores.list()]
    files = client.vector_stores.files.list(faq.id, limit=4)
    assert len(files.data) == 4 and files.has_more
    assert len(list(files)) == 6  # the client pages on
    renamed = client.vector_stores.update(faq.id, name="FAQ of Debian")
    assert renamed.name == "FAQ of Debian" and renamed.metadata == {"of": "Debian"}


@pytest.mark.parametrize(("question", "file", "words"), QUESTIONS)
def test_search_finds_the_right_passage(client: openai.OpenAI, faq: Any, question: str, file: str, words: str) -> None:
    found = client.vector_stores.search(faq.id, query=question, max_num_results=3).data
    assert file in [hit.filename for hit in found]
    assert any(words in hit.content[0].text for hit in found if hit.filename == file)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@pytest.mark.parametrize(("question", "file", "words"), QUESTIONS)
def test_an_answer_cites_the_right_file(
    client: openai.OpenAI, server: ApiServer, faq: Any, question: str, file: str, words: str
) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": [faq.id], "answer_mode": "extract"}
    response = client.responses.create(model=MODEL, input=question, tools=[tool], include=["file_search_call.results"])
    search, message = response.output
    assert search.type == "file_search_call" and search.queries == [question] and search.results
    assert message.type == "message"
    part: Any = message.content[0]
    assert part.annotations
    for mark in part.annotations:
        assert mark.type == "file_citation"
        assert part.text[mark.index :].startswith(f"[{mark.number}]")
    cited = next(mark for mark in part.annotations if mark.filename == file)
    passages = server.http.get(f"/v1/vector_stores/{faq.id}/files/{cited.file_id}/content").json()["data"]
    passage = passages[cited.ordinal]
    start, end = cited.start - passage["start"], cited.end - passage["start"]
    assert cited.quote == passage["text"][start:end] and f"{cited.quote} [{cited.number}]" in part.text
    place = {"ordinal": cited.ordinal, "start": cited.start, "end": cited.end}
    source = server.http.get(f"/ninestory/v1/vector_stores/{faq.id}/files/{cited.file_id}/source", params=place).json()
    assert source["quote"] == {"text": cited.quote, "start": cited.start, "end": cited.end}
    place["end"] = passage["end"] + 1  # no part of the passage
    source = server.http.get(f"/ninestory/v1/vector_stores/{faq.id}/files/{cited.file_id}/source", params=place).json()
    assert source["quote"] is None


@pytest.mark.parametrize(
    ("question", "ending", "words"),
    [("Debian 一词如何发音？", ".zh-cn.html", "不会中文"), ("How does one pronounce Debian?", ".en.html", "too small")],
)
def test_the_starter_quotes_and_says_so(
    client: openai.OpenAI, faq: Any, question: str, ending: str, words: str
) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": [faq.id]}
    completion: Any = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], tools=[tool]
    )
    message = completion.choices[0].message
    assert "[1]" in message.content and message.annotations[0].filename.endswith(ending)
    search = completion.ninestory["file_search"]
    assert search["answered_by"] == "extract" and words in search["notice"]


def test_a_generated_answer_streams_with_its_search(client: openai.OpenAI, faq: Any) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": [faq.id], "max_num_results": 2, "answer_mode": "generate"}
    with client.responses.stream(
        model=MODEL, input="How does one pronounce Debian?", tools=[tool], max_output_tokens=24
    ) as stream:
        events: list[Any] = list(stream)
    kinds, response = [event.type for event in events], events[-1].response
    assert kinds.index("response.file_search_call.completed") < kinds.index("response.output_text.delta")
    assert response.output_text and response.usage is not None and response.usage.input_tokens > 100
    follow = client.responses.create(
        model=MODEL, input="And what does it mean?", previous_response_id=response.id, tools=[tool], max_output_tokens=8
    )
    assert follow.output[0].type == "file_search_call"
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "What is Debian?"}], tools=[tool], max_tokens=8, stream=True
    )
    assert [chunk for chunk in chunks][-1].choices[0].finish_reason in ("stop", "length")


def test_what_is_not_in_the_documents_is_said(client: openai.OpenAI, faq: Any) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": [faq.id]}
    for question, words in [
        ("How long should I cook fresh pasta?", "do not answer"),
        ("红烧肉应该炖多长时间？", "没有这个问题的答案"),
    ]:
        response = client.responses.create(model=MODEL, input=question, tools=[tool])
        assert words in response.output_text


def test_a_follow_up_off_the_topic_is_refused(client: openai.OpenAI, faq: Any) -> None:
    tool: Any = {"type": "file_search", "vector_store_ids": [faq.id]}
    first = client.responses.create(model=MODEL, input="Debian 一词如何发音？", tools=[tool])
    assert "[1]" in first.output_text
    again: Any = {"model": MODEL, "tools": [tool], "previous_response_id": first.id}
    off = client.responses.create(**again, input="Who won the football world cup in 1990?")
    assert "do not answer" in off.output_text and not off.output[1].content[0].annotations  # type: ignore[union-attr]
    assert "[1]" in client.responses.create(**again, input="那它是什么意思？").output_text


def test_a_search_says_on_what_grounds(server: ApiServer, faq: Any) -> None:
    path = f"/v1/vector_stores/{faq.id}/search"
    near, far = (
        server.http.post(path, json={"query": query}).json()
        for query in ("How does one pronounce Debian?", "How long should I cook fresh pasta?")
    )
    assert near["accepted_by"] == "cosine" and far["accepted_by"] is None
    assert near["data"][0]["passage"]["cosine"] >= near["threshold"]
    assert all(row["passage"]["cosine"] < far["threshold"] and row["passage"]["terms"] == [] for row in far["data"])


def test_beside_functions_the_documents_answer_or_a_call_goes_back(client: openai.OpenAI, faq: Any) -> None:
    """A forced call returns to the caller and nothing is searched; with its result, or with none wanted, we go on."""
    search: Any = {"type": "file_search", "vector_store_ids": [faq.id], "answer_mode": "extract"}
    weather: Any = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris"]}}},
    }
    asked = dict(model=MODEL, input="How does one pronounce Debian?", tools=[search, weather], max_output_tokens=40)
    called: Any = client.responses.create(**asked, tool_choice="required")
    assert [item.type for item in called.output] == ["function_call"] and called.output[0].name == "get_weather"
    answered = client.responses.create(**asked, tool_choice="none")
    assert [item.type for item in answered.output] == ["file_search_call", "message"]
    assert "syllable" in answered.output_text
    function: Any = {"type": "function", "function": {key: weather[key] for key in ("name", "parameters")}}
    message: Any = [{"role": "user", "content": "How does one pronounce Debian?"}]
    tools: Any = [search, function]
    chat: Any = client.chat.completions.create(
        model=MODEL, messages=message, tools=tools, max_tokens=40, tool_choice="required"
    )
    assert chat.choices[0].finish_reason == "tool_calls" and "file_search" not in chat.ninestory
    with pytest.raises(openai.BadRequestError, match="one file_search"):
        client.responses.create(model=MODEL, input="hello", tools=[search, search])


def test_reranked_search_web_search_and_thumbs(server: ApiServer, faq: Any) -> None:
    path = f"/v1/vector_stores/{faq.id}/search"
    found = server.http.post(path, json={"query": QUESTIONS[0][0], "rerank": "late", "neighbours": 1}).json()["data"]
    assert found[0]["filename"] == QUESTIONS[0][1]
    scores = [row["passage"]["rerank_score"] for row in found]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.5
    tool = {"type": "file_search", "vector_store_ids": [faq.id], "web_search": True, "answer_mode": "extract"}
    refused = server.http.post("/v1/responses", json={"model": MODEL, "input": QUESTIONS[0][0], "tools": [tool]})
    assert refused.status_code == 400 and "endpoint" in refused.text  # off until the operator sets one
    thumbs = f"/ninestory/v1/vector_stores/{faq.id}/feedback"
    body = {"question": "q", "answer": "a", "good": True, "file": "x.html"}
    assert server.http.post(thumbs, json=body).status_code == 201
    assert server.http.get(thumbs).json()["data"][0]["file"] == "x.html"
    assert server.http.post(thumbs, json={**body, "good": "perhaps"}).status_code == 400


def test_attributes_filter_and_removed_files_are_gone_at_once(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="small")
    files = [upload(client, f"{year}.txt", f"The budget of {year} was decided in spring.") for year in (2023, 2024)]
    for year, file in zip((2023, 2024), files, strict=True):
        client.vector_stores.files.create(store.id, file_id=file, attributes={"year": year})
    for file in files:
        assert settled(client, store.id, file).status == "completed"

    def names(**options: Any) -> list[str]:
        return [hit.filename for hit in client.vector_stores.search(store.id, query="budget in spring", **options)]

    assert sorted(names()) == ["2023.txt", "2024.txt"]
    assert names(filters={"type": "gte", "key": "year", "value": 2024}) == ["2024.txt"]
    either: Any = [{"type": "eq", "key": "year", "value": 2023}, {"type": "eq", "key": "year", "value": 1}]
    assert names(filters={"type": "or", "filters": either}) == ["2023.txt"]
    assert names(ranking_options={"score_threshold": 1.0}) in (["2023.txt"], ["2024.txt"], [])
    client.vector_stores.files.update(files[0], vector_store_id=store.id, attributes={"year": 2030})
    assert names(filters={"type": "gte", "key": "year", "value": 2025}) == ["2023.txt"]
    assert client.vector_stores.files.delete(files[0], vector_store_id=store.id).deleted
    assert names() == ["2024.txt"]
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search(store.id, query="budget")


def test_bad_files_fail_by_name_and_the_others_are_taken_in(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="mixed")
    files = {
        name: upload(client, name, text)
        for name, text in [("good.md", "# Tea\nGreen tea is served hot."), ("bad.pdf", "%PDF-junk"), ("x.exe", "MZ")]
    }
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=list(files.values()), poll_interval_ms=300
    )
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 2)
    errors = {f.id: f.last_error for f in client.vector_stores.files.list(store.id, filter="failed")}
    assert errors[files["x.exe"]].code == "unsupported_file" and errors[files["bad.pdf"]].code == "invalid_file"
    told = errors[files["x.exe"]].model_extra  # beside OpenAI's fields
    assert told["reason"] == "unsupported_format" and told["hint"].startswith("Convert") and "请转换" in told["hint_zh"]
    assert [hit.filename for hit in client.vector_stores.search(store.id, query="tea")] == ["good.md"]


def test_a_passage_is_looked_at_in_its_source(client: openai.OpenAI, server: ApiServer, tmp_path: Path) -> None:
    """A PDF's page as a picture with the passages' lines on it; other documents as their text."""
    pdf = documents.pdf(tmp_path / "rivers.pdf", [["Mountains stand still."], ["Rivers flow to the sea.", "Slowly."]])
    store = client.vector_stores.create(name="sources")
    ids = [
        client.files.create(file=pdf, purpose="assistants").id,
        upload(client, "茶.md", "# 茶\n\n绿茶用八十度的水冲泡。"),
    ]
    client.vector_stores.file_batches.create_and_poll(store.id, file_ids=ids, poll_interval_ms=300)
    found = client.vector_stores.search(store.id, query="Where do rivers flow?").data[0]
    place = f"/ninestory/v1/vector_stores/{store.id}/files"
    ordinal = found.model_extra["passage"]["ordinal"]  # type: ignore[index]
    pages = [
        server.http.get(f"{place}/{found.file_id}/source", params=query).json()
        for query in ({"ordinal": ordinal}, {"page": 2})
    ]
    assert [(p["kind"], p["page"], p["pages"], p["changed"]) for p in pages] == [("page", n, 2, False) for n in (2, 2)]
    passage = found.model_extra["passage"]  # type: ignore[index]
    assert (passage["page"], found.content[0].text) == (2, "Rivers flow to the sea.\n\nSlowly.")
    assert [p["page"] for p in pages[0]["passages"]] == [2] and len(pages[0]["passages"][0]["boxes"]) == 2
    cited = {"ordinal": ordinal, "start": passage["start"], "end": passage["start"] + len("Rivers flow to the sea.")}
    quote = server.http.get(f"{place}/{found.file_id}/source", params=cited).json()["quote"]
    assert quote["text"] == "Rivers flow to the sea." and len(quote["boxes"]) == 1
    picture = server.http.get(f"{place}/{found.file_id}/source/pages/2")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    text = server.http.get(f"{place}/{ids[1]}/source").json()
    passage = text["passages"][0]
    assert text["kind"] == "text" and [b["kind"] for b in text["blocks"]] == ["heading", "text"]
    assert passage["text"] == text["blocks"][1]["text"] and passage["start"] == text["blocks"][1]["start"]
    refused = {
        f"{found.file_id}/source/pages/3": "page_not_found",
        f"{found.file_id}/source?ordinal=99": "passage_not_found",
        f"{ids[1]}/source/pages/1": "invalid_request",
        "file-000000000000000000000000/source": "file_not_found",
    }
    for path, code in refused.items():
        assert server.http.get(f"{place}/{path}").json()["error"]["code"] == code, path
    assert server.http.get(f"{place}/..%2f..%2fkb.db/source").status_code == 404
    client.files.delete(ids[1])  # its passages stay; the file itself is gone
    assert server.http.get(f"{place}/{ids[1]}/source").json()["error"]["code"] == "file_gone"


def test_an_ingest_survives_the_end_of_the_server(tmp_path: Path, server: ApiServer) -> None:
    """Files are attached, the server is killed at once, and the next one takes them in."""
    home = tmp_path / "home"
    (home / "cache").parent.mkdir()
    (home / "cache").symlink_to(server.home / "cache")  # the embedding model's converted files
    own = ApiServer(home)
    with own:
        client = openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", timeout=60)
        store = client.vector_stores.create(name="kept", file_ids=[upload(client, "a.txt", "Rivers flow to the sea.")])
        own.kill()
    with ApiServer(home) as again:
        client = openai.OpenAI(base_url=f"{again.url}/v1", api_key="none", timeout=60)
        file = client.vector_stores.files.list(store.id).data[0].id
        assert settled(client, store.id, file).status == "completed"
        assert client.vector_stores.search(store.id, query="rivers").data[0].filename == "a.txt"


def test_hostile_requests(client: openai.OpenAI, server: ApiServer) -> None:
    for path in ("/v1/vector_stores/..%2f..%2fetc", "/v1/vector_stores/vs_" + "0" * 24, "/v1/vector_stores/%00"):
        assert server.http.get(path).status_code in (400, 404)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.create(name="x", file_ids=["file-" + "0" * 24])
    assert "x" not in [store.name for store in client.vector_stores.list()]
    with pytest.raises(openai.BadRequestError):
        client.vector_stores.create(name="x", expires_after={"anchor": "last_active_at", "days": 1})


def test_rerank(server: ApiServer) -> None:
    documents = ["Bread is baked in an oven.", "法国的首都是巴黎。", "Dogs bark at night."]
    body = {"query": "What is the capital of France?", "documents": documents, "top_n": 2, "return_documents": True}
    results = server.http.post("/v1/rerank", json=body).json()["results"]
    assert results[0]["index"] == 1 and len(results) == 2
    assert results[0]["relevance_score"] > results[1]["relevance_score"]
    assert results[0]["document"] == {"text": documents[1]}

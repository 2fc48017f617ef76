"""Requests and chunks cross the wire unchanged; what is not text never vanishes from a conversation."""

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pydantic
import pytest

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.media import MediaRef
from ninestory.core.tasks import TASKS
from ninestory.runtimes.dispatch import dispatch
from ninestory.runtimes.protocol import (
    REQUEST_KINDS,
    AlignRequest,
    Audio,
    CaptionRequest,
    ChatRequest,
    Chunk,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    EngineInfo,
    Feed,
    Finished,
    IdentifyLanguageRequest,
    ImageRequest,
    Language,
    MatchRequest,
    Message,
    Part,
    Picture,
    Prefill,
    Preview,
    Relevance,
    Request,
    RerankRequest,
    ScoreItem,
    ScoreRequest,
    Scores,
    Segment,
    SpeakRequest,
    Started,
    Step,
    Text,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    ToolCallDelta,
    TranscribeRequest,
    UpscaleRequest,
    Usage,
    Word,
    chunk_from_dict,
    register,
)

PICTURE = Part(media=MediaRef(digest="00ff" * 16), media_type="image/png")
MEDIA = MediaRef(digest="00ff" * 16)

REQUESTS: list[Request] = [
    ChatRequest(messages=[Message(role="user", content=[Part(text="What is this?"), PICTURE])]),
    CompletionRequest(prompt=[1, 2]),
    EmbeddingRequest(inputs=["a"], role="query"),
    TokenizeRequest(messages=[Message(role="user", content="塔")]),
    ScoreRequest(items=[ScoreItem(context="a", continuations=["b"])]),
    RerankRequest(query="q", documents=["d"]),
    CaptionRequest(image=MEDIA, prompt="a picture of", max_tokens=20),
    MatchRequest(image=MEDIA, texts=["a cat", "猫"]),
    ImageRequest(prompt="a red apple", image=MEDIA, strength=0.5),
    UpscaleRequest(image=MEDIA),
    TranscribeRequest(language="eng"),
    AlignRequest(audio=MEDIA, text="one two", language="eng"),
    IdentifyLanguageRequest(audio=MEDIA),
    SpeakRequest(text="hello", speed=1.5),
]

LOGPROB = TokenLogprob(token="a", logprob=-0.5, bytes=[97], top=[TokenLogprob(token="b", logprob=-1.0, bytes=[98])])

CHUNKS: list[Chunk] = [
    Started(seed=7),
    Prefill(done=1, total=2),
    Text(text="a"),
    Text(text="a", logprobs=[LOGPROB]),
    ToolCallDelta(name="f"),
    Finished(reason="stop"),
    Usage(prompt_tokens=3),
    Embeddings(vectors=[[0.5]], prompt_tokens=1),
    Tokens(ids=[1], pieces=["a"]),
    Scores(values=[[[-0.5], [-0.25, -1.0]]], greedy=[[True, False]], prompt_tokens=2),
    Relevance(values=[0.5], prompt_tokens=2),
    Step(done=1, total=20, stage="sample"),
    Preview(jpeg="AA=="),
    Picture(digest="00ff" * 16, seed=1),
    Language(code="eng", probability=0.9),
    Segment(text="one", start=0.0, end=0.5, words=[Word(text="one", start=0.0, end=0.5)], final=False),
    Audio(pcm16="AAA=", sample_rate=16_000),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: r.kind)
def test_a_request_crosses_as_json(request_: Request) -> None:
    registered = REQUEST_KINDS[request_.kind].request
    data = orjson.loads(orjson.dumps(dataclasses.asdict(request_), option=orjson.OPT_NON_STR_KEYS))
    assert pydantic.TypeAdapter(registered).validate_python(data) == request_


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda c: c.kind)
def test_a_chunk_crosses_as_json(chunk: Chunk) -> None:
    assert chunk_from_dict(orjson.loads(orjson.dumps(chunk.wire()))) == chunk


def test_every_task_is_a_kind_of_request_and_every_kind_and_chunk_is_in_the_lists_above() -> None:
    assert set(REQUEST_KINDS) == {*TASKS, "tokenize"} == {request.kind for request in REQUESTS}
    answers = {chunk for registered in REQUEST_KINDS.values() for chunk in registered.chunks}
    assert answers == {type(chunk) for chunk in CHUNKS}


def test_a_kind_or_a_chunk_has_one_class() -> None:
    class OtherChat(Request):
        kind = "chat"

    class Draw(Request):
        kind = "draw-for-this-test"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class OtherText(Chunk):
        kind: str = "text"

    with pytest.raises(ValueError, match="ChatRequest"):
        register(OtherChat)
    with pytest.raises(ValueError, match="Text, not OtherText"):
        register(Draw, OtherText)
    assert "draw-for-this-test" not in REQUEST_KINDS


def test_the_text_of_a_message_refuses_to_lose_a_picture() -> None:
    message = Message(role="user", content=[Part(text="What "), Part(text="now?")])
    assert (message.text, message.media) == ("What now?", [])
    with_picture = Message(role="user", content=[Part(text="What is this?"), PICTURE])
    assert with_picture.media == [PICTURE]
    with pytest.raises(Unsupported, match="image/png"):
        _ = with_picture.text


@pytest.mark.parametrize(
    "fields", [{}, {"text": "a", "media": MEDIA, "media_type": "image/png"}, {"media": MEDIA}, {"text": "a", "media_type": "image/png"}]
)  # fmt: skip
def test_a_part_is_one_thing(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Part(**fields)


def test_a_medium_has_one_place() -> None:
    for fields in ({}, {"digest": "00" * 32, "path": "/a.png"}):
        with pytest.raises(InvalidRequest, match="exactly one"):
            MediaRef(**fields)


class Echo:
    """Answers a chat with the number of its parts; takes pictures only when told so."""

    def __init__(self, inputs: list[Any]) -> None:
        self.info = EngineInfo(model="echo", runtime="torch", architecture="echo", tasks=["chat"], inputs=inputs)

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        return dispatch(self, {"chat": self._chat}, request, cancel, feed)

    def close(self) -> None: ...

    def _chat(self, request: ChatRequest, _: threading.Event) -> Iterator[Chunk]:
        yield Text(text=str(len(request.messages[-1].media)))


def test_dispatch_refuses_by_name_what_the_model_does_not_take() -> None:
    asked = ChatRequest(messages=[Message(role="user", content="Hi"), Message(role="user", content=[PICTURE])])
    with pytest.raises(Unsupported, match=r"messages\[1\] holds image/png; echo takes text") as refused:
        Echo(["text"]).run(asked, threading.Event())
    assert refused.value.param == "messages[1]"
    assert list(Echo(["text", "image"]).run(asked, threading.Event())) == [Text(text="1")]
    with pytest.raises(Unsupported, match="'embedding'"):
        Echo(["text"]).run(EmbeddingRequest(inputs=["a"]), threading.Event())
    with pytest.raises(Unsupported, match="no live input"):
        Echo(["text"]).run(ChatRequest(messages=[]), threading.Event(), iter([b""]))

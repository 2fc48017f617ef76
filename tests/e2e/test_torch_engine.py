"""The torch engine through its protocol: tiny random models of every family, one thread, few tokens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ninestory.core.config import RuntimeSettings  # noqa: E402
from ninestory.core.errors import Cancelled, ContextOverflow, InvalidRequest, Unavailable, Unsupported  # noqa: E402
from ninestory.models.resolved import ResolvedModel  # noqa: E402
from ninestory.runtimes.protocol import (  # noqa: E402
    ChatRequest,
    Chunk,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
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
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from ninestory.runtimes.torch.decoder import decoder_of  # noqa: E402
from ninestory.runtimes.torch.engine import TorchEngine  # noqa: E402
from ninestory.runtimes.torch.open import suit  # noqa: E402
from tests.tiny_decoders import EOS, GMASK, PLAIN, SOP, VOCABULARY, ByteTokenizer, build  # noqa: E402

pytestmark = pytest.mark.torch
CONTEXT, SLOTS = 320, 8
NO_MARKS = dict.fromkeys(range(PLAIN, VOCABULARY), -100.0)
LONG = "The tower has nine floors, and on each of them lives a model that somebody has trained. " * 2


def _engine(family: str, *, slots: int = SLOTS, int8: bool = False, template: str = "vicuna-v1.1") -> TorchEngine:
    model = build(family)
    suit(model, "int8" if int8 else "float32")
    glm = family.startswith("chatglm")
    return TorchEngine(
        ResolvedModel(
            reference=f"tiny-{family}",
            path=Path("tiny"),  # nothing is read from it
            format="safetensors",
            architecture=family,
            tasks=("chat",),
            context=512,
        ),
        RuntimeSettings(threads=1, template=template),
        decoder=decoder_of(model, slots=slots, context=CONTEXT),
        tokenizer=ByteTokenizer(suffix=(GMASK, SOP) if glm else ()),
        slots=slots,
        context=CONTEXT,
        dtype="int8" if int8 else "float32",
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[TorchEngine]:
    made = _engine("llama")
    yield made
    made.close()


def run(engine: TorchEngine, request: Request, cancel: threading.Event | None = None) -> list[Chunk]:
    return list(engine.run(request, cancel or threading.Event()))


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, Text) and chunk.index == index)


def one(chunks: list[Chunk], kind: type) -> Any:
    found = [chunk for chunk in chunks if isinstance(chunk, kind)]
    assert len(found) == 1
    return found[0]


def complete(prompt: str, *, max_tokens: int = 12, seed: int | None = 0, **given: Any) -> CompletionRequest:
    """Tokens are drawn from the whole distribution but for the marks, which never come by themselves."""
    bias = NO_MARKS | given.pop("bias", {})
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed, logit_bias=bias)
    return CompletionRequest(prompt=prompt, max_tokens=max_tokens, sampling=sampling, **given)


def seen(chunks: list[Chunk]) -> list[tuple[str, float]]:
    """Tokens and their log-probabilities, to the bit."""
    return [(lp.token, lp.logprob) for chunk in chunks if isinstance(chunk, Text) for lp in chunk.logprobs]


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon", "chatglm"])
def test_a_prompts_log_probabilities_are_those_that_a_score_gives(family: str) -> None:
    """ChatGLM's prompt is computed in one piece, the others' in chunks; the echo takes no tokens from the cache."""
    engine = _engine(family, slots=2)
    try:
        [scores] = run(engine, ScoreRequest(items=[ScoreItem(context=LONG[:70], continuations=[LONG[70:150]])]))
        assert isinstance(scores, Scores)
        suffix = [GMASK, SOP] if family == "chatglm" else []
        ids = [*ByteTokenizer().encode(LONG[:70]), *suffix, *ByteTokenizer().encode(LONG[70:150])]
        for _ in range(2):
            chunks = run(engine, CompletionRequest(prompt=ids, echo=True, logprobs=1, max_tokens=0))
            values = [logprob for _, logprob in seen(chunks)]
            assert len(values) == len(ids) and values[0] is None
            assert values[-80:] == pytest.approx(scores.values[0][0], abs=1e-5)
    finally:
        engine.close()


# --- what is promised: the same request and seed, the same tokens ------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gptj", "moss", "bloom", "falcon", "chatglm"])
def test_alone_or_among_eight_a_request_has_the_same_tokens(family: str) -> None:
    engine = _engine(family)
    try:
        wanted = complete(LONG[:90], max_tokens=40, seed=7, logprobs=0)
        others = [complete(LONG[i : 40 + 17 * i], max_tokens=5 + 6 * i, seed=i) for i in range(1, 8)]
        alone = run(engine, wanted)
        with ThreadPoolExecutor(8) as pool:
            crowd = [pool.submit(run, engine, other) for other in others[:4]]
            among = pool.submit(run, engine, wanted)
            crowd += [pool.submit(run, engine, other) for other in others[4:]]
            assert all(one(future.result(), Usage).completion_tokens for future in crowd)
        assert len(seen(alone)) == 40 and seen(among.result()) == seen(alone)
        assert text_of(among.result()) == text_of(alone)
    finally:
        engine.close()


def test_the_prompt_s_known_beginning_is_reused_with_the_same_bits() -> None:
    engine = _engine("llama", slots=2)
    try:
        request = complete(LONG, logprobs=2)
        miss, hit = run(engine, request), run(engine, request)
        tokens = one(miss, Usage).prompt_tokens
        assert one(miss, Usage).cached_tokens == 0 and one(hit, Usage).cached_tokens == (tokens - 1) // 64 * 64 > 0
        assert seen(hit) == seen(miss)
        longer = run(engine, complete(LONG + " And then?"))
        assert one(longer, Usage).cached_tokens == tokens // 64 * 64
        assert [c.done for c in hit if isinstance(c, Prefill)] == [tokens]
    finally:
        engine.close()


def test_chatglm_computes_its_prompt_as_a_whole() -> None:
    engine = _engine("chatglm", slots=2)
    try:
        first, second = run(engine, complete(LONG, logprobs=0)), run(engine, complete(LONG, logprobs=0))
        assert one(second, Usage).cached_tokens == 0 and seen(first) == seen(second)
        assert one(first, Usage).prompt_tokens == len(LONG) + 2
    finally:
        engine.close()


def test_the_answer_is_what_the_plain_model_says(engine: TorchEngine) -> None:
    """Greedy, token by token, by the model's own forward without any of the engine's parts."""
    model, ids = build("llama"), ByteTokenizer().encode(LONG[:100])
    wanted = list(ids)
    with torch.inference_mode():
        for _ in range(10):
            logits = model(input_ids=torch.tensor([wanted])).logits[0, -1]
            logits[PLAIN:] -= 100
            wanted.append(int(logits.argmax()))
    sampling = Sampling(temperature=0.0, logit_bias=NO_MARKS)
    chunks = run(engine, CompletionRequest(prompt=ids, max_tokens=10, sampling=sampling, logprobs=0))
    assert [token for token, _ in seen(chunks)] == [
        ByteTokenizer().token_bytes(i).decode("utf-8", errors="replace") for i in wanted[len(ids) :]
    ]


def test_seeds_differ_and_one_is_drawn_and_told_when_none_is_given(engine: TorchEngine) -> None:
    assert text_of(run(engine, complete("a", seed=1))) != text_of(run(engine, complete("a", seed=2)))
    drawn = run(engine, complete("a", seed=None))
    again = run(engine, complete("a", seed=one(drawn, Started).seed))
    assert text_of(again) == text_of(drawn)


def test_n_choices_differ_and_share_the_prompt(engine: TorchEngine) -> None:
    chunks = run(engine, complete(LONG + "n", n=3))
    assert len({text_of(chunks, i) for i in range(3)}) == 3
    assert sorted(c.index for c in chunks if isinstance(c, Finished)) == [0, 1, 2]
    assert one(chunks, Usage).completion_tokens == 36 and one(chunks, Usage).prompt_tokens == len(LONG) + 1


def test_more_requests_than_slots_wait_their_turn() -> None:
    engine = _engine("llama", slots=2)
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda i: run(engine, complete("wait" * i, seed=i)), range(1, 7)))
        assert [text_of(answer) for answer in answers] == [
            text_of(run(engine, complete("wait" * i, seed=i))) for i in range(1, 7)
        ]
    finally:
        engine.close()


# --- how an answer ends ------------------------------------------------------------------------------------------


def _forced(text: str) -> dict[int, float]:
    """A bias that makes a byte or word of the tiny vocabulary certain."""
    return {i: 1000.0 for i in ByteTokenizer().encode(text)}


def test_a_stop_string_across_tokens_ends_the_answer(engine: TorchEngine) -> None:
    chunks = run(engine, complete("x", max_tokens=9, bias=_forced("a"), stop=["aaa"]))
    assert text_of(chunks) == "" and one(chunks, Finished) == Finished(reason="stop", stop="aaa")
    assert one(chunks, Usage).completion_tokens == 3


def test_the_end_token_and_the_limit_end_it(engine: TorchEngine) -> None:
    ended = run(engine, complete("x", bias={EOS: 1000.0}))
    assert one(ended, Finished).reason == "stop" and one(ended, Usage).completion_tokens == 1 and text_of(ended) == ""
    assert one(run(engine, complete("x", max_tokens=4)), Finished).reason == "length"
    assert one(run(engine, complete("x", max_tokens=0)), Finished).reason == "length"
    full = run(engine, CompletionRequest(prompt="y" * (CONTEXT - 3), sampling=complete("").sampling))
    assert one(full, Finished).reason == "length" and one(full, Usage).completion_tokens == 3


def test_half_a_character_is_held_until_it_is_whole(engine: TorchEngine) -> None:
    chunks = run(engine, complete("x", max_tokens=6, constraint=Constraint(choices=["你好"])))
    assert [c.text for c in chunks if isinstance(c, Text)] in (["你", "好"], ["你好"])
    cut = run(engine, complete("x", max_tokens=1, bias={0xE4 + 3: 1000.0}))
    assert text_of(cut) == "\ufffd"


def test_logprobs_are_the_model_s_own_with_alternatives(engine: TorchEngine) -> None:
    chunks = run(engine, complete("x", max_tokens=5, logprobs=3))
    entries = [lp for chunk in chunks if isinstance(chunk, Text) for lp in chunk.logprobs]
    assert len(entries) == 5 and all(len(e.top) == 3 and e.logprob <= 0 for e in entries)
    for entry in entries:
        values = [alternative.logprob for alternative in entry.top]
        assert values == sorted(values, reverse=True) and entry.logprob <= values[0]


# --- constraints and tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "chatglm"])
def test_a_schema_holds_whatever_the_model_would_rather_write(family: str) -> None:
    engine = _engine(family, slots=2)
    schema = {
        "type": "object",
        "properties": {"floor": {"enum": [1, 2, 3]}, "open": {"type": "boolean"}},
        "required": ["floor", "open"],
        "additionalProperties": False,
    }
    try:
        for seed in range(3):
            request = complete("x", max_tokens=60, seed=seed, constraint=Constraint(json_schema=schema))
            chunks = run(engine, request)
            made = json.loads(text_of(chunks))
            assert made["floor"] in (1, 2, 3) and made["open"] in (True, False)
            assert one(chunks, Finished).reason == "stop"
    finally:
        engine.close()


def test_choices_and_lark_hold_and_faults_are_named(engine: TorchEngine) -> None:
    chosen = run(engine, complete("x", max_tokens=30, constraint=Constraint(choices=["yes", "no way"])))
    assert text_of(chosen) in ("yes", "no way")
    lark = run(engine, complete("x", max_tokens=30, constraint=Constraint(grammar='start: "a" "b"+ "c"')))
    assert text_of(lark).startswith("ab")
    with pytest.raises(InvalidRequest, match="grammar"):
        run(engine, complete("x", constraint=Constraint(grammar="start: (")))
    with pytest.raises(InvalidRequest) as refused:
        run(engine, complete("x", constraint=Constraint(json_schema={"type": "nothing"})))
    assert refused.value.code == "unsupported_schema"


def test_a_named_tool_is_called_with_arguments_that_fit(engine: TorchEngine) -> None:
    tool = ToolSpec(
        name="climb",
        parameters={"type": "object", "properties": {"floor": {"enum": [1, 9]}}, "required": ["floor"]},
    )
    request = ChatRequest(
        messages=[Message(role="user", content="go")], tools=[tool], tool_choice="climb", max_tokens=40
    )
    chunks = run(engine, request)
    calls = [c for c in chunks if isinstance(c, ToolCallDelta)]
    assert calls[0].name == "climb" and json.loads("".join(c.arguments for c in calls))["floor"] in (1, 9)
    assert one(chunks, Finished).reason == "tool_calls"


# --- chat, tokens, scores ----------------------------------------------------------------------------------------


def test_chat_renders_the_template_and_tells_it(engine: TorchEngine) -> None:
    ask = ChatRequest(messages=[Message(role="user", content="Hi")], max_tokens=3, sampling=Sampling(seed=1))
    chunks = run(engine, ask)
    assert one(chunks, Started).template == "vicuna-v1.1" == engine.info.template
    pieces = one(run(engine, TokenizeRequest(messages=ask.messages)), Tokens)
    assert (
        "".join(pieces.pieces).endswith("USER: Hi ASSISTANT:") and len(pieces.ids) == one(chunks, Usage).prompt_tokens
    )


def test_a_score_is_the_log_probability_of_each_token(engine: TorchEngine) -> None:
    context, text = LONG[:70], LONG[70:150]
    ids = ByteTokenizer().encode(context + text)
    with torch.inference_mode():
        wanted = build("llama")(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    scores = one(run(engine, ScoreRequest(items=[ScoreItem(context=context, continuations=[text])])), Scores)
    due = [float(wanted[i - 1, ids[i]]) for i in range(70, 150)]
    assert scores.values[0][0] == pytest.approx(due, abs=1e-4) and scores.prompt_tokens == 150


# --- leaving and refusing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_request_that_leaves_frees_its_slot(how: str) -> None:
    engine = _engine("llama", slots=1)
    try:
        cancel = threading.Event()
        endless = engine.run(complete("x", max_tokens=300, seed=1), cancel)
        while not isinstance(next(endless), Text):
            pass
        if how == "cancel":
            cancel.set()
            with pytest.raises(Cancelled):
                list(endless)
        else:
            endless.close()  # type: ignore[attr-defined]
        assert text_of(run(engine, complete("y", max_tokens=2)))
    finally:
        engine.close()


def test_a_request_that_waits_can_be_cancelled() -> None:
    engine = _engine("llama", slots=1)
    try:
        first = engine.run(complete("x", max_tokens=300), threading.Event())
        next(chunk for chunk in first if isinstance(chunk, Text))
        cancel = threading.Event()
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(Cancelled):
            run(engine, complete("y"), cancel)
        first.close()  # type: ignore[attr-defined]
    finally:
        engine.close()


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    engine = _engine("llama", slots=1)
    running = engine.run(complete("x", max_tokens=300), threading.Event())
    next(chunk for chunk in running if isinstance(chunk, Text))
    threading.Thread(target=engine.close).start()
    with pytest.raises(Unavailable):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            next(running)
    engine.close()
    with pytest.raises(Unavailable):
        run(engine, complete("y"))


def test_what_cannot_be_honoured_is_refused_by_name(engine: TorchEngine) -> None:
    refused: list[tuple[Request, type[Exception], str]] = [
        (EmbeddingRequest(inputs=["x"]), Unsupported, "embedding"),
        (complete("z" * CONTEXT), ContextOverflow, str(CONTEXT)),
        (complete("z", bias={9999: 1.0}), InvalidRequest, "9999"),
        (CompletionRequest(prompt=[1, 9999]), InvalidRequest, "9999"),
        (CompletionRequest(prompt=""), InvalidRequest, "empty"),
        (complete("z", adapters={"mine": 1.0}), Unsupported, "mine"),
        (ScoreRequest(items=[ScoreItem(context="", continuations=[""])]), InvalidRequest, "something before"),
    ]
    for request, kind, words in refused:
        with pytest.raises(kind, match=words):
            run(engine, request)


def test_a_fault_of_one_request_is_not_its_neighbours(engine: TorchEngine) -> None:
    """A constraint that its own bias makes impossible ends that request alone."""
    with ThreadPoolExecutor(2) as pool:
        sound = pool.submit(run, engine, complete("sound", max_tokens=60, seed=5))
        broken = complete(
            "x", constraint=Constraint(choices=["a"]), bias={ByteTokenizer().encode("a")[0]: -float("inf")}
        )
        failed = pool.submit(run, engine, broken)
        assert one(sound.result(), Usage).completion_tokens == 60
        assert failed.exception() is not None or text_of(failed.result()) == "a"


# --- int8 --------------------------------------------------------------------------------------------------------


def test_int8_is_close_to_float32_and_keeps_the_promise() -> None:
    engine, exact = _engine("llama", int8=True), _engine("llama", slots=1)
    try:
        score = ScoreRequest(items=[ScoreItem(context=LONG[:70], continuations=[LONG[70:150]])])
        ours, wanted = (one(run(e, score), Scores).values[0][0] for e in (engine, exact))
        difference = sum(abs(a - b) for a, b in zip(ours, wanted, strict=True)) / len(wanted)
        assert 0 < difference < 0.05 * -sum(wanted) / len(wanted)
        request = complete(LONG[:90], max_tokens=20, seed=7, logprobs=0)
        alone = run(engine, request)
        with ThreadPoolExecutor(4) as pool:
            crowd = [pool.submit(run, engine, complete("crowd" * i, max_tokens=40, seed=i)) for i in range(1, 4)]
            among = pool.submit(run, engine, request).result()
            assert all(future.result() for future in crowd)
        assert seen(among) == seen(alone)
    finally:
        engine.close()
        exact.close()

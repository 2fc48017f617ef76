"""Log-probabilities of a prompt's own tokens, echoed before the answer: the numbers, by both engines in process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ninestory.core.config import RuntimeSettings  # noqa: E402
from ninestory.core.errors import Unsupported  # noqa: E402
from ninestory.core.paths import Home  # noqa: E402
from ninestory.models.convert.to_gguf import convert_to_gguf  # noqa: E402
from ninestory.models.reference import parse_reference  # noqa: E402
from ninestory.models.resolve import resolve  # noqa: E402
from ninestory.runtimes.llamacpp.library import Library  # noqa: E402
from ninestory.runtimes.load import load_engine  # noqa: E402
from ninestory.runtimes.protocol import (  # noqa: E402
    Chunk,
    CompletionRequest,
    Constraint,
    Engine,
    Finished,
    Sampling,
    Text,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    Usage,
)
from ninestory.tokenizers.load import load_tokenizer  # noqa: E402
from tests.e2e.random_checkpoints import byte_level_llama  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]
ENGLISH = "The tower has nine floors, and a model lives on each of them."
CHINESE = "这座塔有九层，每层住着一个模型。"
TO_TORCH, TO_LLAMA_CPP = 1e-5, 1e-4  # a token
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)


@dataclass
class Opened:
    model: Any  # transformers' own
    tokenizer: Any
    torch: Engine
    llamacpp: Engine


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("models")
    model = byte_level_llama(root / "llama")
    gguf = convert_to_gguf(root / "llama", root / "llama.gguf", "F32").path
    settings = RuntimeSettings(threads=1, slots=2, context=512, dtype="float32")
    exact = functools.partial(Library, exact=True)  # keys and values in float32: half precision costs 0.01 a token here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ninestory.runtimes.llamacpp.engine.Library", exact)
        engines = [
            load_engine(resolve(parse_reference(str(path)), Home(root / "home")), settings)
            for path in (root / "llama", gguf)
        ]
    yield Opened(model, load_tokenizer(root / "llama"), *engines)
    for engine in engines:
        engine.close()


@pytest.fixture(params=["torch", "llamacpp"])
def engine(opened: Opened, request: pytest.FixtureRequest) -> Engine:
    made: Engine = getattr(opened, request.param)
    return made


def run(engine: Engine, prompt: str | list[int], **given: Any) -> list[Chunk]:
    request = {"echo": True, "logprobs": 3, "max_tokens": 0, "sampling": GREEDY, **given}
    return list(engine.run(CompletionRequest(prompt=prompt, **request), threading.Event()))


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(c.text for c in chunks if isinstance(c, Text) and c.index == index)


def entries_of(chunks: list[Chunk], index: int = 0) -> list[TokenLogprob]:
    return [entry for c in chunks if isinstance(c, Text) and c.index == index for entry in c.logprobs]


def numbers(entries: list[TokenLogprob]) -> list[float]:
    """Log-probabilities of all tokens but the first, which has none."""
    assert entries[0].logprob is None and entries[0].top == []
    return [entry.logprob for entry in entries[1:] if entry.logprob is not None]


def last(chunks: list[Chunk]) -> tuple[list[Finished], Usage]:
    usage = chunks[-1]
    assert isinstance(usage, Usage)
    return [c for c in chunks if isinstance(c, Finished)], usage


@pytest.mark.parametrize("count", [1, 2, 64, 65, 128, 200])
def test_torch_gives_what_a_plain_forward_of_transformers_gives(opened: Opened, count: int) -> None:
    """Counts around the engine's chunks of 64 tokens; the ids are any, of Chinese and of no text at all."""
    ids = torch.randint(3, 600, (count,), generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        expected = opened.model(ids[None]).logits[0].float().log_softmax(-1)
    chunks = run(opened.torch, ids.tolist(), max_tokens=2)
    entries = entries_of(chunks)
    finished, usage = last(chunks)
    assert len(entries) == count + usage.completion_tokens == usage.prompt_tokens + usage.completion_tokens
    wanted = expected[:-1].gather(1, ids[1:, None])[:, 0].tolist()
    assert numbers(entries[:count]) == pytest.approx(wanted, abs=TO_TORCH)
    for entry, row in zip(entries[1 : count + 1], expected, strict=True):
        best = row.topk(3)
        assert [bytes(t.bytes) for t in entry.top] == [opened.tokenizer.token_bytes(int(i)) for i in best.indices]
        assert [t.logprob for t in entry.top] == pytest.approx(best.values.tolist(), abs=TO_TORCH)
    assert entries[count].logprob == entries[count].top[0].logprob  # greedy
    assert finished[0].reason in ("length", "stop")


def test_llama_cpp_gives_what_torch_gives_for_the_same_weights(opened: Opened) -> None:
    ours, theirs = (entries_of(run(engine, ENGLISH)) for engine in (opened.torch, opened.llamacpp))
    assert [(e.token, e.text_offset, e.bytes) for e in theirs] == [(e.token, e.text_offset, e.bytes) for e in ours]
    assert numbers(theirs) == pytest.approx(numbers(ours), abs=TO_LLAMA_CPP)
    for one, other in zip(theirs[1:], ours[1:], strict=True):
        assert [t.logprob for t in one.top] == pytest.approx([t.logprob for t in other.top], abs=TO_LLAMA_CPP)


def test_without_tokens_asked_for_the_prompt_is_scored_all_the_same(engine: Engine) -> None:
    chunks = run(engine, ENGLISH)
    [finished], usage = last(chunks)
    assert text_of(chunks) == ENGLISH and finished.reason == "length"
    assert usage.completion_tokens == 0 and usage.prompt_tokens == len(entries_of(chunks))
    longer = run(engine, ENGLISH, max_tokens=3)
    assert numbers(entries_of(longer))[: usage.prompt_tokens - 1] == pytest.approx(
        numbers(entries_of(chunks)), abs=1e-6
    )


def test_offsets_point_to_each_token_in_the_text(opened: Opened, engine: Engine) -> None:
    """With a stop string llama.cpp sends text and tokens apart."""
    parts = [i for i in range(700) if "\ufffd" in opened.tokenizer.token_bytes(i).decode(errors="replace")]
    whole = Sampling(temperature=0.0, repetition_penalty=1.0, logit_bias=dict.fromkeys(parts, -100.0))
    chunks = run(engine, ENGLISH, max_tokens=6, stop=["no such text"], sampling=whole)
    text, entries = text_of(chunks), entries_of(chunks)
    for entry in entries:
        assert text[entry.text_offset : entry.text_offset + len(entry.token)] == entry.token


def test_in_chinese_an_offset_is_that_of_the_character_with_the_tokens_first_byte(opened: Opened) -> None:
    chunks = run(opened.torch, CHINESE + ENGLISH)
    entries = entries_of(chunks)
    assert text_of(chunks) == CHINESE + ENGLISH
    before = b""
    for entry in entries:
        assert entry.text_offset == len(before.decode(errors="ignore"))
        before += bytes(entry.bytes)
    assert before.decode() == CHINESE + ENGLISH
    assert len({entry.text_offset for entry in entries}) < len(entries)  # some characters are several tokens


def test_a_prompt_that_ends_inside_a_character_is_carried_on_by_the_answer(opened: Opened) -> None:
    ids = opened.tokenizer.encode("九")
    assert len(ids) > 1
    first, rest = ids[:-1], ids[-1]
    certain = Sampling(temperature=0.0, repetition_penalty=1.0, logit_bias={rest: 100.0})
    assert text_of(run(opened.torch, first, max_tokens=1, sampling=certain)) == "九"


def test_llama_cpp_refuses_parts_of_characters_by_name(opened: Opened) -> None:
    for prompt in (CHINESE, ENGLISH + CHINESE):
        with pytest.raises(Unsupported, match="part of a character") as caught:
            run(opened.llamacpp, prompt)
        assert caught.value.param == "prompt"


def test_a_part_of_a_character_in_llama_cpps_answer_has_no_silent_gap(opened: Opened) -> None:
    """A list that is one short would shift what clients cut from it: null at the end, else refused."""
    lead = opened.tokenizer.encode("九")[0]
    certain = Sampling(temperature=0.0, repetition_penalty=1.0, logit_bias={lead: 100.0})
    chunks = run(opened.llamacpp, ENGLISH, max_tokens=1, sampling=certain)
    entries = entries_of(chunks)
    assert len(entries) == last(chunks)[1].prompt_tokens + 1
    assert (entries[-1].logprob, entries[-1].text_offset) == (None, len(ENGLISH))
    with pytest.raises(Unsupported, match="part of a character"):
        words = CompletionRequest(
            prompt=ENGLISH, max_tokens=6, logprobs=0, sampling=GREEDY, constraint=Constraint(choices=["九九"])
        )
        list(opened.llamacpp.run(words, threading.Event()))


def test_the_token_that_ends_the_answer_has_its_log_probability_too(opened: Opened, engine: Engine) -> None:
    """The field's clients count on one entry a token: a list that is one short shifts what they cut from it."""
    [end] = opened.tokenizer.eos_ids
    certain = Sampling(temperature=0.0, repetition_penalty=1.0, logit_bias={end: 100.0})
    chunks = run(engine, ENGLISH, max_tokens=1, sampling=certain)
    [finished], usage = last(chunks)
    entries = entries_of(chunks)
    assert finished.reason == "stop" and text_of(chunks) == ENGLISH
    assert len(entries) == usage.prompt_tokens + 1
    assert (entries[-1].token, entries[-1].text_offset) == ("<|end|>", len(ENGLISH))
    assert entries[-1].logprob is not None and entries[-1].logprob < -1  # the model's own, not the bias's


def test_each_choice_begins_with_the_prompt(engine: Engine) -> None:
    varied = Sampling(temperature=1.0, seed=3, logit_bias=dict.fromkeys(range(3, 260), -100.0))  # no single bytes
    chunks = run(engine, "ab", n=2, max_tokens=2, sampling=varied)
    prompts = [entries_of(chunks, i)[:1] for i in (0, 1)]
    assert all(text_of(chunks, i).startswith("ab") for i in (0, 1)) and prompts[0] == prompts[1]


def test_ids_are_echoed_with_their_special_tokens_and_stops_are_not_looked_for_in_them(
    opened: Opened, engine: Engine
) -> None:
    [end] = opened.tokenizer.eos_ids
    ids = [end, *opened.tokenizer.encode("a STOP b")]
    chunks = run(engine, ids, stop=["STOP"])
    text, entries = text_of(chunks), entries_of(chunks)
    assert text == "<|end|>a STOP b"
    assert [entry.token for entry in entries[:1]] == ["<|end|>"] and entries[1].text_offset == len("<|end|>")
    assert text == text_of(run(engine, ids, stop=["STOP"], logprobs=None))


def test_neighbours_and_the_prompt_cache_change_no_bit(opened: Opened) -> None:
    prompt = ENGLISH * 3
    [tokens] = opened.torch.run(TokenizeRequest(text=prompt), threading.Event())
    assert isinstance(tokens, Tokens) and len(tokens.ids) > 64  # whole chunks stand in the cache
    alone = entries_of(run(opened.torch, prompt))
    list(opened.torch.run(CompletionRequest(prompt=prompt, max_tokens=1), threading.Event()))
    other = threading.Thread(target=run, args=(opened.torch, CHINESE), kwargs={"max_tokens": 30})
    other.start()
    assert entries_of(run(opened.torch, prompt)) == alone
    other.join()

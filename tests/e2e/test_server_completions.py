"""`/v1/completions` as clients of the field use it: echo with log-probabilities, and lists of prompts."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from tests.e2e.api_server import MODEL, ApiServer

pytestmark = [pytest.mark.slow, pytest.mark.starter]
PROMPT = "The capital of France is"
OTHERS = ["One, two,", PROMPT, "Water is"]


@pytest.fixture
def client(api_server: ApiServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api_server.url}/v1", api_key="none", max_retries=0)


def complete(client: openai.OpenAI, prompt: Any, **given: Any) -> Any:
    given = {"max_tokens": 3, "temperature": 0, "seed": 1, **given}
    return client.completions.create(model=MODEL, prompt=prompt, **given)


def test_echo_with_logprobs_gives_the_prompts_tokens_first(client: openai.OpenAI) -> None:
    answer = complete(client, PROMPT, echo=True, logprobs=2)
    [choice] = answer.choices
    scores = choice.logprobs
    count = answer.usage.prompt_tokens + answer.usage.completion_tokens
    lists = (scores.tokens, scores.token_logprobs, scores.top_logprobs, scores.text_offset)
    assert [len(values) for values in lists] == [count] * 4
    assert choice.text.startswith(PROMPT) and "".join(scores.tokens) == choice.text
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    for token, logprob, top, offset in list(zip(*lists, strict=True))[1:]:
        assert choice.text[offset:].startswith(token)
        assert top[token] == logprob <= max(top.values()) <= 0  # the token itself is among its alternatives
        assert 2 <= len(top) <= 3
    plain = complete(client, PROMPT, logprobs=2).choices[0].logprobs
    assert plain.token_logprobs == pytest.approx(scores.token_logprobs[answer.usage.prompt_tokens :], abs=1e-3)
    assert plain.text_offset == [offset - len(PROMPT) for offset in scores.text_offset[-3:]]


def test_no_tokens_asked_for_scores_the_prompt(client: openai.OpenAI) -> None:
    answer = complete(client, PROMPT, echo=True, logprobs=0, max_tokens=0)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, answer.usage.completion_tokens) == (PROMPT, "length", 0)
    assert len(choice.logprobs.token_logprobs) == answer.usage.prompt_tokens
    assert all(
        list(top) == [token]
        for token, top in zip(choice.logprobs.tokens[1:], choice.logprobs.top_logprobs[1:], strict=True)
    )


def test_a_list_of_prompts_becomes_choices_with_a_running_index(client: openai.OpenAI) -> None:
    many = complete(client, OTHERS, echo=True, logprobs=1)
    singles = [complete(client, prompt, echo=True, logprobs=1) for prompt in OTHERS]
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    for choice, single in zip(many.choices, singles, strict=True):
        assert choice.text == single.choices[0].text and choice.finish_reason == "length"
        ours, theirs = choice.logprobs.token_logprobs, single.choices[0].logprobs.token_logprobs
        assert ours[1:] == pytest.approx(theirs[1:], abs=1e-2)  # batches of llama.cpp round otherwise
    assert many.usage.prompt_tokens == sum(single.usage.prompt_tokens for single in singles)
    assert many.usage.completion_tokens == 9


def test_lists_of_ids_and_several_choices_a_prompt(client: openai.OpenAI, api_server: ApiServer) -> None:
    one = complete(client, [504, 3575], n=2, echo=True)
    assert [choice.index for choice in one.choices] == [0, 1]
    beginning = one.choices[0].text
    two = complete(client, [[504, 3575], [504]], n=2, echo=True, max_tokens=1)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in two.choices]
    assert all(beginning.startswith(text[:3]) for text in texts) and len(texts[0]) > len(texts[2])


def test_more_prompts_than_slots(client: openai.OpenAI) -> None:
    prompts = [f"Number {i} is" for i in range(24)]
    answer = complete(client, prompts, max_tokens=1, echo=True)
    assert [choice.text[: len(prompt)] for choice, prompt in zip(answer.choices, prompts, strict=True)] == prompts


def test_streamed_echo_comes_first_with_its_log_probabilities(client: openai.OpenAI) -> None:
    whole = complete(client, OTHERS, echo=True, logprobs=1)
    chunks = list(complete(client, OTHERS, echo=True, logprobs=1, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
    for i, prompt in enumerate(OTHERS):
        own = [piece for piece in pieces if piece.index == i]
        assert own[0].text == prompt and own[0].logprobs.token_logprobs[0] is None
        assert "".join(piece.text for piece in own) == whole.choices[i].text
        assert own[-1].finish_reason == "length"
        offsets = [offset for piece in own if piece.logprobs for offset in piece.logprobs.text_offset]
        assert offsets == whole.choices[i].logprobs.text_offset
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.parametrize("prompt", [[], "", ["fine", ""], [[1, 2], []], [[1], [10**9]], ["x"] * 2049])
def test_a_wrong_prompt_refuses_the_whole_request(client: openai.OpenAI, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, prompt)
    assert "prompt" in str(caught.value.body)
    assert complete(client, "Still here").choices[0].text


def test_llama_cpp_refuses_to_score_parts_of_characters_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="part of a character") as caught:
        complete(client, ["fine", "北京是中国的首都"], echo=True, logprobs=1)
    assert caught.value.param == "prompt"
    assert complete(client, "北京是中国的首都", echo=True).choices[0].text.startswith("北京是中国的首都")


def test_a_client_that_goes_away_ends_all_its_prompts(client: openai.OpenAI, api_server: ApiServer) -> None:
    prompts = [f"Tell the story number {i}:" for i in range(12)]
    stream = complete(client, prompts, max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 10
    while any(row["requests"] or row["waiting"] for row in api_server.http.get("/ninestory/v1/ps").json()["data"]):
        assert time.monotonic() < deadline, "its requests go on"
        time.sleep(0.02)
    assert complete(client, "Still here").choices[0].text

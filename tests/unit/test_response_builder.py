"""The objects of /v1/responses and /v1/messages from scripted chunks, checked by the official clients' own types."""

from __future__ import annotations

from typing import Any

import anthropic.types
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from ninestory.core.errors import InvalidRequest, Unavailable
from ninestory.runtimes.protocol import Chunk, Finished, Prefill, Started, Text, ToolCallDelta, Usage
from ninestory.serving.floors.chat import messages_schemas, responses_schemas
from ninestory.serving.floors.chat.messages import MessageBuilder
from ninestory.serving.floors.chat.response_builder import ResponseBuilder

THINK_SPEAK_CALL: list[Chunk] = [
    Started(seed=1),
    Prefill(done=3, total=7),
    Text(text="Let me ", reasoning=True),
    Text(text="see.", reasoning=True),
    Text(text="I will "),
    Text(text="look it up."),
    ToolCallDelta(position=0, id="call_1", name="weather"),
    ToolCallDelta(position=0, arguments='{"city":'),
    ToolCallDelta(position=0, arguments='"Paris"}'),
    ToolCallDelta(position=1, id="call_2", name="time", arguments="{}"),
    Finished(reason="tool_calls"),
    Usage(prompt_tokens=7, cached_tokens=3, completion_tokens=20, reasoning_tokens=4),
]
OPENAI_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ANTHROPIC_EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)


def response_builder(**fields: Any) -> ResponseBuilder:
    body = {"model": "m", "input": "Weather?", **fields}
    return ResponseBuilder(responses_schemas.ResponseRequest.model_validate(body))


def test_response_of_thinking_words_and_two_calls() -> None:
    builder = response_builder()
    events = [*builder.start()]
    for chunk in THINK_SPEAK_CALL:
        events += builder.add(chunk)
    events += builder.finish()
    for event in events:
        OPENAI_EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    answer = Response.model_validate(builder.response)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    assert answer.output_text == "I will look it up." and answer.status == "completed"
    thought, _, first, second = builder.response["output"]
    assert thought["content"][0]["text"] == "Let me see."
    assert (first["arguments"], second["arguments"]) == ('{"city":"Paris"}', "{}")
    assert {item["status"] for item in builder.response["output"]} == {"completed"}
    assert answer.usage is not None and answer.usage.output_tokens_details.reasoning_tokens == 4
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [e["output_index"] for e in added] == [e["output_index"] for e in done] == [0, 1, 2, 3]


def test_response_that_fails_in_the_middle_keeps_what_was_written() -> None:
    builder = response_builder()
    events = [*builder.start(), *builder.add(Text(text="Half a "))]
    events += builder.fail(Unavailable("The worker died.", hint="Try again."))
    for event in events:
        OPENAI_EVENT.validate_python(event)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "The worker died. Try again."
    assert builder.response["output"][0]["content"][0]["text"] == "Half a "
    assert builder.response["output"][0]["status"] == "incomplete"


def test_output_sent_back_becomes_the_same_turn() -> None:
    builder = response_builder()
    for chunk in THINK_SPEAK_CALL:
        list(builder.add(chunk))
    list(builder.finish())
    items = [
        {"role": "user", "content": "Weather?"},
        *builder.response["output"],
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"},
    ]
    body = responses_schemas.ResponseRequest.model_validate({"model": "m", "input": items, "instructions": "Be brief."})
    messages = responses_schemas.chat_request(body, []).messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool"]
    turn = messages[2]
    assert (turn.text, turn.reasoning) == ("I will look it up.", "Let me see.")
    assert [(call.id, call.name) for call in turn.tool_calls] == [("call_1", "weather"), ("call_2", "time")]


def test_a_tool_choice_without_its_tool_is_refused() -> None:
    for choice in ("required", {"type": "function", "name": "weather"}):
        body = responses_schemas.ResponseRequest.model_validate({"model": "m", "input": "x", "tool_choice": choice})
        with pytest.raises(InvalidRequest, match="tool_choice"):
            responses_schemas.chat_request(body, [])


def test_message_of_thinking_words_and_two_calls() -> None:
    builder = MessageBuilder("m")
    events: list[dict[str, Any]] = []
    for chunk in THINK_SPEAK_CALL:
        events += builder.add(chunk)
    events += builder.finish()
    for event in events:
        ANTHROPIC_EVENT.validate_python(event)
    message = anthropic.types.Message.model_validate(builder.message)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert builder.message["content"][2]["input"] == {"city": "Paris"}
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (
        4,
        3,
        20,
    )
    starts = [event["index"] for event in events if event["type"] == "content_block_start"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert starts == stops == [0, 1, 2, 3]


def test_message_sent_back_becomes_the_same_turn() -> None:
    builder = MessageBuilder("m")
    for chunk in THINK_SPEAK_CALL:
        list(builder.add(chunk))
    list(builder.finish())
    failed = {"type": "tool_result", "tool_use_id": "call_1", "content": "no network", "is_error": True}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": builder.message["content"]},
        {"role": "user", "content": [failed, {"type": "text", "text": "Go on."}]},
    ]
    body = messages_schemas.MessagesRequest.model_validate({"model": "m", "max_tokens": 9, "messages": turns})
    messages = messages_schemas.chat_request(body).messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "user"]
    assert (messages[1].text, messages[1].reasoning) == ("I will look it up.", "Let me see.")
    assert messages[1].tool_calls[0].arguments == '{"city": "Paris"}'
    assert messages[2].text == "Error: no network"


def test_message_cut_off_inside_a_calls_arguments_is_still_a_message() -> None:
    builder = MessageBuilder("m")
    chunks = [ToolCallDelta(position=0, id="c", name="w", arguments='{"city": "Pa'), Finished(reason="length")]
    for chunk in chunks:
        list(builder.add(chunk))
    list(builder.finish())
    message = anthropic.types.Message.model_validate(builder.message)
    assert message.stop_reason == "max_tokens" and builder.message["content"][0]["input"] == {}

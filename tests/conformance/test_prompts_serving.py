"""FastChat's serving logic: what is held back before a stop string, and which fields a request may have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ninestory.core.errors import NinestoryError
from ninestory.runtimes.text_stream import TextStream
from ninestory.serving.schemas import ChatCompletionRequest

from .conftest import FIXTURES


def read(name: str) -> Any:
    path = FIXTURES / "prompts" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@pytest.mark.parametrize(
    "case", read("fastchat_stop_utils.json").get("partial_stop", []), ids=lambda c: repr(c["output"])
)
def test_text_that_may_begin_a_stop_is_held_back(case: dict[str, Any]) -> None:
    output, stop = case["output"], case["stop"]
    stream = TextStream(0, [stop])
    said = "".join(text.text for text in stream.feed(output))
    if stop in output:
        assert stream.stop == stop and said == output[: output.index(stop)]
    else:
        assert (said != output) == case["expected"] and output.startswith(said)


@pytest.mark.parametrize(
    "case", read("fastchat_openai_api.json").get("parameter_checks", []), ids=lambda c: json.dumps(c["request_fields"])
)
def test_a_field_out_of_range_is_refused(case: dict[str, Any]) -> None:
    """`top_k` differs on purpose: 0 is llama.cpp's and transformers' word for off, and a negative one is refused."""
    fields = case["request_fields"]
    refused = case["error"] is not None if "top_k" not in fields else fields["top_k"] < 0
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    if refused:
        with pytest.raises((ValidationError, NinestoryError)) as error:
            ChatCompletionRequest(**body)
        assert next(iter(fields)) in str(error.value)
    else:
        ChatCompletionRequest(**body)

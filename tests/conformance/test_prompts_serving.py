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
    """Wider here on purpose: `max_tokens` 0, and `top_k` 0, which means off (−1 does not)."""
    ((name, value),) = [*case["request_fields"].items()][:1] or [("", 0)]
    wider = name == "max_tokens" and value == 0
    refused = value < 0 if name == "top_k" else case["error"] is not None and not wider
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **case["request_fields"]}
    if refused:
        with pytest.raises((ValidationError, NinestoryError), match=name):
            ChatCompletionRequest(**body)
    else:
        ChatCompletionRequest(**body)

"""The OpenAI-compatible requests of floor 1, checked strictly, and how they become engine requests.

A field that changes nothing here is listed in `NO_OP` and accepted; any other that we cannot honour is refused by name.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.runtimes.json_schema import check_schema
from ninestory.runtimes.protocol import (
    ChatRequest,
    CompletionRequest,
    Constraint,
    EmbeddingRequest,
    Message,
    Part,
    Sampling,
    ToolCall,
    ToolSpec,
)
from ninestory.serving.references import ModelReference

MAX_TOKENS, MAX_STOP, MAX_PROMPTS = 1_000_000, 16, 2048


# FastAPI gives the body an alias, which a model whose build is deferred does not need; pydantic warns of it in the
# server's log at the first request of each route.
warnings.filterwarnings("ignore", message="The 'alias' attribute with value 'body'", category=UserWarning)


class Strict(BaseModel):
    """A body that is valid exactly when its JSON schema says so: no field is converted from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, fields: Any) -> Any:
        """JSON knows one kind of number: 5.0 is an integer too."""
        if not isinstance(fields, dict):
            return fields
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in fields.items()
        }


class NoOp(Strict):
    """Fields that clients send and that change nothing here."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


NO_OP = tuple(NoOp.model_fields)

# --- parts of a conversation ------------------------------------------------------------------------------------


class TextPart(Strict):
    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    name: str
    arguments: str = "{}"


class MessageToolCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: None = None
    annotations: list[Any] | None = None
    function_call: None = None

    def to_message(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise InvalidRequest(f"A message of the role {self.role} has no content.", param="messages")
        content = (
            self.content
            if isinstance(self.content, str) or self.content is None
            else [Part(text=p.text) for p in self.content]
        )
        return Message(
            role=self.role,
            content=content,
            name=self.name,
            reasoning=self.reasoning_content,
            tool_calls=[
                ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in self.tool_calls or []
            ],
            tool_call_id=self.tool_call_id,
        )


class Function(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    name: str


class NamedToolChoice(Strict):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None


# --- requests ---------------------------------------------------------------------------------------------------


class SamplingFields(NoOp):
    """Sampling of chat and completions; the last four are this server's extensions."""

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1, description="0 keeps the likeliest token alone.")] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1)] = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP)] | None = None
    n: Annotated[int | None, Field(ge=1, le=128)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    truncation: Literal["disabled", "auto"] = "disabled"

    def sampling(self) -> Sampling:
        try:
            bias = {int(token): value for token, value in (self.logit_bias or {}).items()}
        except ValueError:
            raise InvalidRequest("logit_bias maps token ids to numbers.", param="logit_bias") from None
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=self.seed,
            logit_bias=bias,
        )

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check_n(self, most: int) -> int:
        if (self.n or 1) > most:
            raise InvalidRequest(
                f"n is {self.n}; at most {most} are allowed.",
                hint="Ask for fewer, or raise serve.max_n.",
                hint_zh="请减少 n，或调大 serve.max_n。",
                param="n",
            )
        return self.n or 1


class ChatCompletionRequest(SamplingFields):
    model: ModelReference
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=128)] = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    continue_final_message: bool = False

    def to_request(self, max_n: int) -> ChatRequest:
        choice = self.tool_choice.function.name if isinstance(self.tool_choice, NamedToolChoice) else self.tool_choice
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
        return ChatRequest(
            messages=[m.to_message() for m in self.messages],
            max_tokens=self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens,
            stop=self.stops(),
            n=self.check_n(max_n),
            sampling=self.sampling(),
            constraint=constraint_of(self.response_format),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            truncation=self.truncation,
            tools=tool_specs([tool for tool in self.tools or [] if isinstance(tool, Tool)]),
            tool_choice=choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls,
            continue_final_message=self.continue_final_message,
            thinking=None if self.reasoning_effort is None else self.reasoning_effort != "none",
        )


def tool_specs(tools: list[Tool]) -> list[ToolSpec]:
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    return [
        ToolSpec(
            name=t.function.name,
            description=t.function.description or "",
            parameters=t.function.parameters or empty,
            strict=bool(t.function.strict),
        )
        for t in tools
    ]


def constraint_of(wanted: ResponseFormat | None) -> Constraint | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Constraint(json_schema={"type": "object"})
    if wanted.json_schema is None:
        raise InvalidRequest("response_format of type json_schema needs json_schema.", param="response_format")
    check_schema(wanted.json_schema.schema_, "response_format")
    return Constraint(json_schema=wanted.json_schema.schema_)


class CompletionsRequest(SamplingFields):
    model: ModelReference
    prompt: (
        str
        | list[int]
        | Annotated[list[str], Field(max_length=MAX_PROMPTS)]
        | Annotated[list[list[int]], Field(max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = 16
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    def to_requests(self, max_n: int) -> list[CompletionRequest]:
        """One request a prompt."""
        if self.best_of not in (None, 1):
            raise Unsupported("best_of is not supported.", hint="Use n.", hint_zh="请使用 n。", param="best_of")
        if self.suffix:
            raise Unsupported(
                "suffix is not supported by this model.", hint="Leave it out.", hint_zh="请去掉。", param="suffix"
            )
        given: Any = self.prompt
        several = isinstance(given, list) and given and not isinstance(given[0], int)
        shared = CompletionRequest(
            prompt="",
            max_tokens=self.max_tokens,
            stop=self.stops(),
            n=self.check_n(max_n),
            sampling=self.sampling(),
            logprobs=self.logprobs,
            truncation=self.truncation,
            echo=bool(self.echo),
        )
        return [replace(shared, prompt=prompt) for prompt in (given if several else [given])]


class EmbeddingsRequest(NoOp):
    model: ModelReference
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1)] = None
    input_type: Literal["query", "passage"] | None = None  # e5-like models want to know

    def to_request(self) -> EmbeddingRequest:
        given: Any = self.input
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        return EmbeddingRequest(inputs=given, role=self.input_type or "")

"""The body of `POST /v1/responses`, and its way to and from the engine's conversation.

Every field OpenAI documents is either here, or refused by its name (`extra="forbid"`). Fields that change nothing
here are marked so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from ninestory.core.errors import InvalidRequest
from ninestory.runtimes.json_schema import check_schema
from ninestory.runtimes.protocol import ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec
from ninestory.serving.floors.retrieval.vector_stores_schemas import FileSearchTool
from ninestory.serving.references import ModelReference
from ninestory.serving.schemas import Strict


class InputText(Strict):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] = Field(default=[], description="Accepted when an answer is sent back; changes nothing.")
    logprobs: list[Any] = Field(default=[], description="Accepted when an answer is sent back; changes nothing.")


class MessageItem(Strict):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(Strict):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutputItem(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: str | None = None


class FileSearchCallItem(Strict):
    """Accepted when an answer is sent back; changes nothing."""

    model_config = ConfigDict(extra="allow")

    type: Literal["file_search_call"]
    id: str | None = None
    queries: list[str] = []
    status: str | None = None


class ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] = Field(default=[], description="Changes nothing: `content` holds the thinking.")
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: str | None = None


def _item_type(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[FileSearchCallItem, Tag("file_search_call")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_type),
]


class FunctionTool(Strict):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Strict):
    type: Literal["function"]
    name: str


class TextFormat(Strict):
    type: Literal["text", "json_schema", "json_object"]
    name: str | None = None
    description: str | None = None
    # "schema" is a method of pydantic's base class, so the field has another name in Python
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Strict):
    format: TextFormat | None = None


class Reasoning(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None, description='"none" switches a hybrid model\'s thinking off, every other value on.'
    )


class StreamOptions(Strict):
    include_obfuscation: bool | None = Field(default=None, description="Changes nothing: chunks are not padded.")


class ResponseRequest(Strict):
    """The body of `POST /v1/responses`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "starter:smollm2-135m-instruct", "input": "Say hello.", "max_output_tokens": 16}]
        },
    )

    model: ModelReference
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=100)
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    seed: int | None = Field(default=None, description="An addition of ours.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    store: bool | None = True
    tools: list[FunctionTool | FileSearchTool] = Field(default=[], max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    include: list[Literal["message.output_text.logprobs", "file_search_call.results"]] | None = None
    background: Literal[False] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Given back; changes nothing.")
    user: str | None = Field(default=None, description="Changes nothing.")
    safety_identifier: str | None = Field(default=None, description="Changes nothing.")
    prompt_cache_key: str | None = Field(default=None, description="Changes nothing: prefixes are reused by content.")
    service_tier: Literal["auto", "default"] | None = Field(default=None, description="Changes nothing.")

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or []) or self.top_logprobs is not None


class TokenCountRequest(Strict):
    """The body of `POST /v1/responses/input_tokens`."""

    model: ModelReference
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=100)


def chat_request(body: ResponseRequest, earlier_items: list[dict[str, Any]]) -> ChatRequest:
    """What the engine is asked: instructions, the earlier conversation, the new input.

    Raises:
        InvalidRequest: an item or the format does not make sense.
    """
    effort = body.reasoning.effort if body.reasoning else None
    return ChatRequest(
        messages=conversation([*earlier_items, *input_items(body)], body.instructions),
        tools=[
            ToolSpec(
                name=tool.name,
                description=tool.description or "",
                parameters=tool.parameters or {"type": "object", "properties": {}},
                strict=bool(tool.strict),
            )
            for tool in body.tools
            if isinstance(tool, FunctionTool)
        ],
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        max_tokens=body.max_output_tokens,
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, seed=body.seed),
        constraint=_constraint(body.text.format if body.text else None),
        logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
        thinking=None if effort is None else effort != "none",
        truncation=body.truncation or "disabled",
    )


def input_items(body: ResponseRequest | TokenCountRequest) -> list[dict[str, Any]]:
    """The input as a list of items, plain JSON."""
    if isinstance(body.input, str):
        content = [{"type": "input_text", "text": body.input}]
        return [{"type": "message", "role": "user", "content": content}]
    return [item.model_dump(exclude_none=True, exclude_defaults=False) for item in body.input]


def conversation(items: list[dict[str, Any]], instructions: str | None) -> list[Message]:
    """Items to turns: calls and thinking join the assistant's turn they belong to; instructions come first.

    Raises:
        InvalidRequest: there is no message.
    """
    messages: list[Message] = []
    thinking = ""
    for item in items:
        if item["type"] == "file_search_call":
            continue
        if item["type"] == "reasoning":
            thinking += _joined(item.get("content") or [])
        elif item["type"] == "function_call":
            call = ToolCall(id=item["call_id"], name=item["name"], arguments=item["arguments"])
            last = messages[-1] if messages and messages[-1].role == "assistant" else None
            if last:
                messages.pop()
            messages.append(
                Message(
                    role="assistant",
                    content=last.content if last else None,
                    reasoning=thinking or (last.reasoning if last else None),
                    tool_calls=[*(last.tool_calls if last else []), call],
                )
            )
            thinking = ""
        elif item["type"] == "function_call_output":
            messages.append(Message(role="tool", content=_joined(item["output"]), tool_call_id=item["call_id"]))
        else:
            reasoning = thinking or None if item["role"] == "assistant" else None
            messages.append(Message(role=item["role"], content=_joined(item["content"]), reasoning=reasoning))
            thinking = ""
    if not messages:
        raise InvalidRequest(
            "The input holds no message.",
            hint="Send a text, or a list with at least one message.",
            hint_zh="请发送一段文本，或至少包含一条消息的列表。",
            param="input",
        )
    return [Message(role="system", content=instructions), *messages] if instructions else messages


def _joined(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _tool_choice(body: ResponseRequest) -> str:
    if isinstance(body.tool_choice, str):
        choice: str = body.tool_choice
    else:
        choice = body.tool_choice.name
    names = {tool.name for tool in body.tools if isinstance(tool, FunctionTool)}
    if choice not in ("none", "auto") and (not names or (choice != "required" and choice not in names)):
        raise InvalidRequest(
            f"tool_choice is {choice!r}, but the tools are {sorted(names)}.",
            hint="Name one of the tools sent with the request.",
            hint_zh="请使用本次请求中给出的工具名称。",
            param="tool_choice",
        )
    return choice


def _constraint(text_format: TextFormat | None) -> Constraint | None:
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return Constraint(json_schema={"type": "object"})
    if text_format.schema_ is None:
        raise InvalidRequest(
            "text.format is json_schema without a schema.",
            hint="Send text.format.schema.",
            hint_zh="请提供 text.format.schema。",
            param="text.format.schema",
        )
    check_schema(text_format.schema_, "text.format.schema")
    return Constraint(json_schema=text_format.schema_)

"""The body of Anthropic's `POST /v1/messages`, and its way to the engine's conversation.

What the official client can send is either here or refused by its name (`extra="forbid"`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ninestory.core.errors import InvalidRequest
from ninestory.runtimes.json_schema import check_schema
from ninestory.runtimes.protocol import ChatRequest, Constraint, Message, Sampling, ToolCall, ToolSpec
from ninestory.serving.references import ModelReference
from ninestory.serving.schemas import Strict


class CacheControl(Strict):
    """Changes nothing: prompt prefixes are always reused."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(Strict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = Field(default=None, description="Accepted when an answer is sent back.")
    toolset_name: str | None = Field(default=None, description="Accepted when an answer is sent back.")


class ToolResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Turn(Strict):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class Tool(Strict):
    type: Literal["custom"] | None = None
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    description: str = ""
    input_schema: dict[str, Any]
    strict: bool = False
    cache_control: CacheControl | None = None


class ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Strict):
    """`enabled` needs a budget, which no engine here can promise to keep: it is refused. `adaptive` thinks freely."""

    type: Literal["adaptive", "disabled"]


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    format: OutputFormat | None = None


class CountRequest(Strict):
    """The body of `POST /v1/messages/count_tokens`."""

    model: ModelReference
    messages: list[Turn] = Field(min_length=1)
    system: str | list[TextBlock] = ""


class MessagesRequest(Strict):
    """The body of `POST /v1/messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "starter:smollm2-135m-instruct",
                    "max_tokens": 16,
                    "messages": [{"role": "user", "content": "Say hello."}],
                }
            ]
        },
    )

    model: ModelReference
    max_tokens: int = Field(ge=1)
    messages: list[Turn] = Field(min_length=1)
    system: str | list[TextBlock] = ""
    stop_sequences: list[str] = Field(default=[], max_length=16)
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    tools: list[Tool] = Field(default=[], max_length=128)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="Changes nothing.")
    service_tier: Literal["auto", "standard_only"] | None = Field(default=None, description="Changes nothing.")
    cache_control: CacheControl | None = None


def chat_request(body: MessagesRequest) -> ChatRequest:
    """What the engine is asked. A conversation that ends with the assistant's words is carried on.

    Raises:
        InvalidRequest: a block stands where it makes no sense.
    """
    output_format = body.output_config.format if body.output_config else None
    if output_format:
        check_schema(output_format.schema_, "output_config.format.schema")
    messages = conversation(body.messages, body.system)
    return ChatRequest(
        messages=messages,
        continue_final_message=messages[-1].role == "assistant" and not messages[-1].tool_calls,
        tools=[
            ToolSpec(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
            for tool in body.tools
        ],
        tool_choice=_tool_choice(body),
        parallel_tool_calls=False if body.tool_choice and body.tool_choice.disable_parallel_tool_use else None,
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        constraint=Constraint(json_schema=output_format.schema_) if output_format else None,
        thinking=None if body.thinking is None else body.thinking.type == "adaptive",
    )


def conversation(turns: list[Turn], system: str | list[TextBlock]) -> list[Message]:
    """Turns of blocks to the engine's turns: results of tools become turns of their own.

    Raises:
        InvalidRequest: a result in the assistant's turn, or a call or thinking in the user's.
    """
    instructions = system if isinstance(system, str) else "\n".join(block.text for block in system)
    messages = [Message(role="system", content=instructions)] if instructions else []
    for number, turn in enumerate(turns):
        if isinstance(turn.content, str):
            messages.append(Message(role=turn.role, content=turn.content))
        elif turn.role == "assistant":
            messages.append(_assistant_turn(turn.content, number))
        else:
            messages += _user_turns(turn.content, number)
    return messages


def _assistant_turn(blocks: list[Block], number: int) -> Message:
    text, thinking, calls = "", "", []
    for block in blocks:
        if isinstance(block, TextBlock):
            text += block.text
        elif isinstance(block, ThinkingBlock):
            thinking += block.thinking
        elif isinstance(block, ToolUseBlock):
            arguments = json.dumps(block.input, ensure_ascii=False)
            calls.append(ToolCall(id=block.id, name=block.name, arguments=arguments))
        else:
            raise _misplaced(block.type, "assistant", number)
    return Message(role="assistant", content=text or None, reasoning=thinking or None, tool_calls=calls)


def _user_turns(blocks: list[Block], number: int) -> list[Message]:
    results, text = [], ""
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            content = block.content if isinstance(block.content, str) else "".join(part.text for part in block.content)
            # Chat templates have no place for the flag, so the model reads it as a word.
            content = f"Error: {content}" if block.is_error else content
            results.append(Message(role="tool", content=content, tool_call_id=block.tool_use_id))
        elif isinstance(block, TextBlock):
            text += block.text
        else:
            raise _misplaced(block.type, "user", number)
    return results + ([Message(role="user", content=text)] if text or not results else [])


def _misplaced(block_type: str, role: str, number: int) -> InvalidRequest:
    return InvalidRequest(
        f"messages[{number}] is the {role}'s, and holds a block of type {block_type!r}.",
        hint="tool_use and thinking belong to the assistant, tool_result to the user.",
        hint_zh="tool_use 与 thinking 属于 assistant，tool_result 属于 user。",
        param=f"messages[{number}].content",
    )


def _tool_choice(body: MessagesRequest) -> str:
    choice = body.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return choice.type if choice else "auto"
    names = {tool.name for tool in body.tools}
    if not names or (choice.type == "tool" and choice.name not in names):
        raise InvalidRequest(
            f"tool_choice asks for {choice.name or 'any tool'!r}, but the tools are {sorted(names)}.",
            hint="Name one of the tools sent with the request.",
            hint_zh="请使用本次请求中给出的工具名称。",
            param="tool_choice",
        )
    return "required" if choice.type == "any" else str(choice.name)

"""From messages or text to token ids, by the GGUF's own template and tokenizer.

llama.cpp is given ids only: so a user's text never becomes a special token, both numbers of an overflow are known
beforehand, and chat and completion are one path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ninestory.core.errors import ContextOverflow, InvalidRequest, Unsupported
from ninestory.models.chat_template import render_segments
from ninestory.models.gguf_reader import GgufFile
from ninestory.runtimes.llamacpp.library import Library
from ninestory.runtimes.protocol import ChatRequest, CompletionRequest, Generation, Message
from ninestory.runtimes.tool_calling import plain_turns

_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    thinking: bool = False  # the template has already opened <think>
    dropped_messages: int = 0


class Prompts:
    """What a GGUF file says about its prompts, and the native tokenizer."""

    def __init__(self, model: str, file: GgufFile, library: Library, context: int) -> None:
        metadata = file.metadata
        self._model, self._library, self._context = model, library, context
        self.template = str(metadata.get("tokenizer.chat_template", ""))
        tokens, kinds = metadata.get("tokenizer.ggml.tokens", []), metadata.get("tokenizer.ggml.token_type", [])
        self.vocabulary = len(tokens)
        self._specials = {
            i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == _CONTROL_TOKEN
        }
        self.bos_id: int = metadata.get("tokenizer.ggml.bos_token_id", -1)
        self._eos_id: int = metadata.get("tokenizer.ggml.eos_token_id", -1)
        self._adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", False)) and self.bos_id >= 0

    def chat(self, request: ChatRequest) -> Prompt:
        """Render and tokenise; with truncation "auto" the oldest turns are left out until the rest fits.

        Raises:
            ContextOverflow: with both numbers.
            InvalidRequest: no template, or the template refuses the conversation.
        """
        messages, dropped = request.messages, 0
        kept_system = 1 if messages and messages[0].role in ("system", "developer") else 0
        while True:
            segments = self.render(messages, request)
            opened = segments[-1][0].rstrip().endswith("<think>") if segments else False
            if opened and request.constraint:  # which holds for all that is written: no thinking fits into it
                segments, opened = [*segments, ("\n</think>\n\n", True)], False
            ids = [i for text, special in segments for i, _ in self.pieces(text, special)]
            if self._adds_bos and ids[:1] != [self.bos_id]:
                ids.insert(0, self.bos_id)
            last = len(messages) <= kept_system + 1
            if request.truncation == "disabled" or last or self._fits(len(ids), request):
                self.check_fits(len(ids), request)
                return Prompt(ids, opened, dropped)
            step = 2 if len(messages) > kept_system + 2 else 1  # a question goes with its answer
            messages = [*messages[:kept_system], *messages[kept_system + step :]]
            dropped += step

    def completion(self, request: CompletionRequest) -> Prompt:
        """Ids of raw text, with the BOS that the tokenizer wants before a text; ids are taken as they are."""
        ids = self.text(request.prompt) if isinstance(request.prompt, str) else request.prompt
        self.check_ids(ids, "prompt")
        if not ids:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if request.truncation == "auto" and not self._fits(len(ids), request):
            raise Unsupported(
                "A completion has no turns to leave out: truncation 'auto' is for conversations.",
                hint="Shorten the prompt.",
                hint_zh="请缩短提示词。",
                param="truncation",
            )
        self.check_fits(len(ids), request)
        return Prompt(ids)

    def text(self, text: str) -> list[int]:
        """Ids of plain text that begins a prompt."""
        ids = [i for i, _ in self.pieces(text, special=False)]
        return [self.bos_id, *ids] if self._adds_bos else ids

    def embedded(self, given: str | list[int]) -> list[int]:
        """Ids of one text to embed, with what the tokenizer wants around it.

        Raises:
            ContextOverflow: with both numbers.
            InvalidRequest: nothing to embed, or a wrong id.
        """
        ids = given if isinstance(given, list) else [i for i, _ in self.pieces(given, special=False, surround=True)]
        self.check_ids(ids, "input")
        if not given:
            raise InvalidRequest("An input is empty.", param="input")
        self.check_fits(len(ids), CompletionRequest(prompt="", max_tokens=0), param="input")
        return ids

    def pieces(self, text: str, special: bool, surround: bool = False) -> list[tuple[int, str]]:
        """(id, spelling) of `text`; special tokens are recognised only if `special`, and added only if `surround`."""
        body = {"content": text, "add_special": surround, "parse_special": special, "with_pieces": True}
        return [(t["id"], _piece_text(t["piece"])) for t in self._library.post("/tokenize", body)["tokens"]]

    def detokenise(self, ids: list[int]) -> str:
        return str(self._library.post("/detokenize", {"tokens": ids})["content"])

    def render(self, messages: list[Message], request: ChatRequest) -> list[tuple[str, bool]]:
        """[(text, may hold special tokens)] of a conversation, ready for the answer."""
        self._check_renders(request)
        uses_tools = any(message.tool_calls or message.role == "tool" for message in messages)
        if uses_tools and "tool" not in self.template:  # it would drop or refuse them
            messages = plain_turns(messages)
        turns = [_as_dict(message) for message in messages]
        continued = ""
        if request.continue_final_message:
            if not turns or turns[-1]["role"] != "assistant" or "tool_calls" in turns[-1]:
                raise InvalidRequest(
                    "continue_final_message needs an assistant message of text at the end.",
                    param="continue_final_message",
                )
            continued = turns.pop()["content"]
        variables: dict[str, Any] = {} if request.thinking is None else {"enable_thinking": request.thinking}
        segments = render_segments(
            self.template,
            turns,
            special_tokens=self._specials.values(),
            bos_token=self._specials.get(self.bos_id, ""),
            eos_token=self._specials.get(self._eos_id, ""),
            **variables,
        )
        return [*segments, (continued, False)] if continued else segments

    def _check_renders(self, request: ChatRequest) -> None:
        if request.template not in (None, "checkpoint"):
            raise Unsupported(
                f"This runtime renders with the checkpoint's own template, not {request.template!r}.",
                hint="Leave the template out.",
                hint_zh="请去掉 template。",
                param="template",
            )
        if not self.template:
            raise InvalidRequest(
                f"{self._model} has no chat template: it is a base model.",
                hint="Use completion instead (/v1/completions, ninestory chat --raw).",
                hint_zh="请改用补全（/v1/completions，ninestory chat --raw）。",
                code="no_chat_template",
            )
        if request.thinking and "enable_thinking" not in self.template and "<think>" not in self.template:
            raise Unsupported(
                f"{self._model} has no thinking to switch on.",
                hint="Leave reasoning_effort out.",
                hint_zh="请去掉 reasoning_effort。",
                param="reasoning_effort",
            )

    def check_ids(self, ids: list[int], param: str) -> None:
        """llama.cpp ignores a wrong id in some fields: refuse it by name in all."""
        wrong = [i for i in ids if not 0 <= i < self.vocabulary]
        if wrong:
            raise InvalidRequest(
                f"{wrong[0]} is not a token id; {self._model} has 0 to {self.vocabulary - 1}.",
                hint="Take the ids from this model's own tokenizer.",
                hint_zh="请使用该模型自己的分词器得到的编号。",
                param=param,
            )

    def _fits(self, prompt_tokens: int, request: Generation) -> bool:
        return prompt_tokens + (request.max_tokens if request.max_tokens is not None else 1) <= self._context

    def check_fits(self, prompt_tokens: int, request: Generation, param: str = "prompt") -> None:
        if self._fits(prompt_tokens, request):
            return
        asked = f" and {request.max_tokens} were asked for" if request.max_tokens else ""
        raise ContextOverflow(
            f"The prompt has {prompt_tokens} tokens{asked}; the context holds {self._context}.",
            hint='Shorten it, ask for fewer tokens, set truncation to "auto", or load the model with a larger --context.',
            hint_zh="请缩短输入、减少 max_tokens、将 truncation 设为 auto，或用更大的 --context 加载模型。",
            param="messages" if isinstance(request, ChatRequest) else param,
            prompt_tokens=prompt_tokens,
            context=self._context,
        )


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it."""
    data: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name:
        data["name"] = message.name
    if message.tool_calls:
        data["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        data["reasoning_content"] = message.reasoning
    return data


def _arguments(text: str) -> Any:
    """Templates write the arguments with `tojson`: given the text itself they would quote it twice."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _piece_text(piece: str | list[int]) -> str:
    """llama.cpp gives a piece that is no valid UTF-8 as a list of bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", errors="replace")

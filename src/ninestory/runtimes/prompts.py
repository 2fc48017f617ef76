"""From messages or text to token ids, the same for every runtime that computes itself.

A runtime brings its tokenizer (`encode_segments`); everything else is here: the model's prompt format, begin tokens,
what does not fit into the context, and what a request asks for that the model has not.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ninestory.core.errors import ContextOverflow, InvalidRequest, Unsupported
from ninestory.models.prompt_format import PromptFormat, choose_format, no_format
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.answer_edit import AnswerEdit, WithoutLead
from ninestory.runtimes.protocol import ChatRequest, CompletionRequest, Generation, Message, ScoreItem
from ninestory.runtimes.tool_calling import plain_turns
from ninestory.tokenizers.chatglm import ResponseStream
from ninestory.tokenizers.tokenizer import Segment


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt, and what ends its answer besides the model's own end tokens."""

    ids: list[int]
    thinking: bool = False  # the template has already opened <think>
    dropped_messages: int = 0
    template: str = ""
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    lead: str = ""  # a part of the format that the model may write before its answer
    full_width_marks: bool = False

    def edit(self) -> AnswerEdit | None:
        """What to do to one answer's text as it comes."""
        if self.full_width_marks:
            return ResponseStream()
        return WithoutLead(self.lead) if self.lead else None


class Prompts(ABC):
    """What a model says about its prompts.

    Args:
        own: the checkpoint's Jinja template, "" for none.
        template: `--template`.
        specials: id → spelling of the special tokens.
        marks: "bos_token" and "eos_token" → spelling, for the checkpoint's template.
        bos_ids, suffix_ids: before a prompt, and between a prompt and its answer.

    Raises:
        NotFound, InvalidRequest: `template` names none.
    """

    def __init__(
        self,
        model: ResolvedModel,
        *,
        own: str,
        template: str,
        context: int,
        vocabulary: int,
        specials: Mapping[int, str],
        marks: Mapping[str, str],
        bos_ids: Sequence[int],
        suffix_ids: Sequence[int] = (),
    ) -> None:
        self._model, self._context, self._own = model, context, own
        self.format = choose_format(model, template, own)
        self.vocabulary = vocabulary
        self._specials, self._marks = dict(specials), dict(marks)
        self.bos_ids, self.suffix_ids = list(bos_ids), list(suffix_ids)

    @abstractmethod
    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Ids of a rendered prompt; special tokens only where a segment may hold them."""

    def chat(self, request: ChatRequest, cancel: threading.Event | None = None) -> Prompt:
        """Render and tokenise; with truncation "auto" the oldest turns are left out until the rest fits.

        Raises:
            ContextOverflow: with both numbers.
            InvalidRequest: no template, or the template refuses the conversation.
            Cancelled: `cancel` was set.
        """
        form = self.format_of(request.template)
        messages, dropped = request.messages, 0
        kept_system = 1 if messages and messages[0].role in ("system", "developer") else 0
        while True:
            segments = self.render(messages, request, cancel)
            opened = segments[-1][0].rstrip().endswith("<think>") if segments else False
            if opened and request.constraint:  # which holds for all that is written: no thinking fits into it
                segments, opened = [*segments, ("\n</think>\n\n", True)], False
            ids = [*self._begun(self.encode_segments(segments), form.begin_token), *self.suffix_ids]
            last = len(messages) <= kept_system + 1
            if request.truncation == "disabled" or last or self.fits(len(ids), request):
                self.check_fits(len(ids), request)
                lead, marks = (
                    ("", False) if form.template is None else (form.template.lead, form.template.full_width_marks)
                )
                lead = "" if request.continue_final_message else lead
                return Prompt(ids, opened, dropped, form.id, *self._stops(form), lead, marks)
            step = 2 if len(messages) > kept_system + 2 else 1  # a question goes with its answer
            messages = [*messages[:kept_system], *messages[kept_system + step :]]
            dropped += step

    def completion(self, request: CompletionRequest) -> Prompt:
        """Ids of raw text, with what the tokenizer wants around a text; ids are taken as they are.

        A stop string that is a special token, such as MOSS's <eoc>, ends the answer by its id: it has no text.
        """
        whole = isinstance(request.prompt, str)
        ids = [*self.text(request.prompt), *self.suffix_ids] if whole else request.prompt  # type: ignore[arg-type]
        self.check_ids(ids, "prompt")  # type: ignore[arg-type]
        if not ids:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if request.truncation == "auto" and not self.fits(len(ids), request):
            raise Unsupported(
                "A completion has no turns to leave out: truncation 'auto' is for conversations.",
                hint="Shorten the prompt.",
                hint_zh="请缩短提示词。",
                param="truncation",
            )
        self.check_fits(len(ids), request)
        marks = tuple(number for number, spelling in self._specials.items() if spelling in request.stop)
        return Prompt(list(ids), stop_ids=marks)  # type: ignore[arg-type]

    def text(self, text: str) -> list[int]:
        """Ids of plain text that begins a prompt."""
        return self._begun(self.encode_segments([(text, False)]), True)

    def scored(self, item: ScoreItem) -> list[tuple[list[int], list[int]]]:
        """(ids before, ids to score) of each continuation of an item.

        Raises:
            InvalidRequest: nothing to score, or nothing before it. ContextOverflow: with both numbers.
        """
        pairs = [self._scored(item.context, continuation) for continuation in item.continuations]
        for before, targets in pairs:
            if not before or not targets:
                raise InvalidRequest("A score needs a text, and something before it.", param="items")
            self.check_ids([*before, *targets], "items")
            self.check_fits(len(before) + len(targets), CompletionRequest(prompt="", max_tokens=0))
        return pairs

    def _scored(self, context: str | list[int], continuation: str | list[int]) -> tuple[list[int], list[int]]:
        if isinstance(context, str) and isinstance(continuation, str) and not self.suffix_ids:
            before, whole = self.text(context.rstrip()), self.text(context + continuation)
            return before or self._start_ids(), whole[len(before) :]
        before = self.text(context) if isinstance(context, str) else context
        targets = self.encode_segments([(continuation, False)]) if isinstance(continuation, str) else continuation
        return [*before, *self.suffix_ids], targets

    def _start_ids(self) -> list[int]:
        """What stands before the first token of a text that nothing precedes."""
        return self.bos_ids

    def format_of(self, named: str | None = None) -> PromptFormat:
        """The model's format, or the one that a request names.

        Raises:
            InvalidRequest: the model has none, and none is named. NotFound: the named one does not exist.
        """
        if named and not (self.format and named == self.format.id):
            form = choose_format(self._model, named, self._own)
        else:
            form = self.format
        if form is None:
            raise no_format(self._model)
        return form

    def render(
        self, messages: list[Message], request: ChatRequest, cancel: threading.Event | None = None
    ) -> list[Segment]:
        """[(text, may hold special tokens)] of a conversation, ready for the answer.

        Raises:
            Cancelled: `cancel` was set while the checkpoint's template ran.
        """
        form = self.format_of(request.template)
        thinks = "enable_thinking" in form.jinja or "<think>" in form.jinja
        if request.thinking and not thinks:
            raise Unsupported(
                f"{self._model.reference} has no thinking to switch on.",
                hint="Leave reasoning_effort out.",
                hint_zh="请去掉 reasoning_effort。",
                param="reasoning_effort",
            )
        uses_tools = any(message.tool_calls or message.role == "tool" for message in messages)
        if uses_tools and "tool" not in form.jinja:  # it would drop or refuse them
            messages = plain_turns(messages)
        turns = [_as_dict(message) for message in messages]
        if request.continue_final_message and (
            not turns or turns[-1]["role"] != "assistant" or "tool_calls" in turns[-1]
        ):
            raise InvalidRequest(
                "continue_final_message needs an assistant message of text at the end.",
                param="continue_final_message",
            )
        variables: dict[str, Any] = {} if request.thinking is None else {"enable_thinking": request.thinking}
        return form.segments(
            turns,
            continue_final=request.continue_final_message,
            special_tokens=self._specials.values(),
            cancel=cancel,
            **self._marks,
            **variables,
        )

    def spellings(self, ids: Sequence[int]) -> list[str]:
        """How those of the ids that are special tokens are written."""
        return [self._specials[i] for i in ids if i in self._specials]

    def check_ids(self, ids: list[int], param: str) -> None:
        """A wrong id is refused by name, wherever it stands."""
        wrong = [i for i in ids if not 0 <= i < self.vocabulary]
        if wrong:
            raise InvalidRequest(
                f"{wrong[0]} is not a token id; {self._model.reference} has 0 to {self.vocabulary - 1}.",
                hint="Take the ids from this model's own tokenizer.",
                hint_zh="请使用该模型自己的分词器得到的编号。",
                param=param,
            )

    def check_fits(self, prompt_tokens: int, request: Generation, param: str = "prompt") -> None:
        if self.fits(prompt_tokens, request):
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

    def fits(self, prompt_tokens: int, request: Generation) -> bool:
        """Whether the context holds the prompt and what is asked for behind it."""
        return prompt_tokens + (request.max_tokens if request.max_tokens is not None else 1) <= self._context

    def _begun(self, ids: list[int], begin_token: bool) -> list[int]:
        """The begin tokens in front, unless the format wrote them or wants none."""
        bos = self.bos_ids if begin_token else []
        return ids if not bos or ids[: len(bos)] == bos else [*bos, *ids]

    def _stops(self, form: PromptFormat) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """(strings, ids) that end an answer: a stop that is a special token has no text to be found in."""
        by_spelling = {spelling: number for number, spelling in self._specials.items()}
        ids = [i for i in form.stop_ids if 0 <= i < self.vocabulary]
        ids += [by_spelling[stop] for stop in form.stops if stop in by_spelling]
        return tuple(stop for stop in form.stops if stop not in by_spelling), tuple(ids)


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

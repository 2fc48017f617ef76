"""Causal models in torch, in process: typed requests in, chunks out. Requests share one running batch."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Cancelled, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.dispatch import Handler, dispatch
from ninestory.runtimes.prompts import Prompt
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    EngineInfo,
    Feed,
    Finished,
    Generation,
    Request,
    ScoreRequest,
    Scores,
    Started,
    Text,
    TokenizeRequest,
    Tokens,
    Usage,
)
from ninestory.runtimes.reasoning import ThinkingSplitter
from ninestory.runtimes.text_stream import TextStream
from ninestory.runtimes.threads import free_processors
from ninestory.runtimes.tool_calling import answer_or_call
from ninestory.runtimes.torch.answer import Answer, Score
from ninestory.runtimes.torch.batch import Batch
from ninestory.runtimes.torch.constraint import Grammars
from ninestory.runtimes.torch.decoder import Decoder
from ninestory.runtimes.torch.defaults import default_rule, settled
from ninestory.runtimes.torch.logprobs import PromptLogprobs
from ninestory.runtimes.torch.prompts import TorchPrompts
from ninestory.tokenizers.tokenizer import Tokenizer

_POLL_SECONDS = 0.05  # between two looks at `cancel` while nothing comes
_END = object()  # a job left the batch


class TorchEngine:
    """One decoder behind the engine protocol; `open_engine` (open.py) makes it of a checkpoint's files.

    Args:
        decoder: with `slots` places of `context` tokens.
        notes: choices made while loading.
    """

    def __init__(
        self,
        model: ResolvedModel,
        settings: RuntimeSettings,
        *,
        decoder: Decoder,
        tokenizer: Tokenizer,
        slots: int,
        context: int,
        dtype: str,
        notes: list[str] | None = None,
    ) -> None:
        threads = settings.threads or free_processors()
        self._tokenizer = tokenizer
        self._rule = default_rule(model)
        self._context = context
        self._prompts = TorchPrompts(
            model, tokenizer, context=context, vocabulary=decoder.vocabulary, template=settings.template
        )
        self._grammars = Grammars(tokenizer, decoder.vocabulary, decoder.device)
        self._weights = {adapter.name: adapter.weight for adapter in model.adapters}
        self._batch = Batch(decoder, slots=slots, threads=threads)
        form = self._prompts.format
        self.info = EngineInfo(
            model=model.reference,
            runtime="torch",
            architecture=model.architecture,
            tasks=["chat", "completion", "score"],
            tokenizes=True,
            context=context,
            slots=slots,
            template=form.id if form else "",
            template_source=form.source if form else "",
            adapters=list(self._weights),
            dtype=dtype,
            device=str(decoder.device),
            threads=threads,
            notes=[
                *model.notes,
                *(notes or []),
                f"torch with {threads} thread(s), {slots} slot(s) of {context} tokens",
            ],
        )

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        handlers: dict[str, Handler] = {
            "chat": self._chat,
            "completion": self._complete,
            "score": self._score,
            "tokenize": self._tokenize,
        }
        return dispatch(self, handlers, request, cancel, feed)

    def close(self) -> None:
        self._batch.close()

    # --- one function a kind of request -------------------------------------------------------------------------

    def _chat(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        if request.tools and request.tool_choice != "none":
            return answer_or_call(self, self._prompts, request, cancel)
        return self._answer(request, cancel)

    def _answer(self, request: ChatRequest, cancel: threading.Event) -> Iterator[Chunk]:
        prompt = self._prompts.chat(request, cancel)
        streams = [
            TextStream(
                i,
                request.stop,
                ends=prompt.stops,
                splitter=ThinkingSplitter(inside=prompt.thinking),
                edit=prompt.edit(),
            )
            for i in range(request.n)
        ]
        starts_text = not request.continue_final_message
        yield from self._generate(prompt, request, streams, cancel, starts_text=starts_text)

    def _complete(self, request: CompletionRequest, cancel: threading.Event) -> Iterator[Chunk]:
        prompt, echo = self._prompts.completion(request), ""
        if request.echo and request.logprobs is None:
            given = request.prompt
            echo = given if isinstance(given, str) else self._tokenizer.decode(given, skip_special=False)
        streams = [TextStream(i, request.stop) for i in range(request.n)]
        yield from self._generate(prompt, request, streams, cancel, echo=echo, starts_text=False)

    def _tokenize(self, request: TokenizeRequest, cancel: threading.Event) -> Iterator[Chunk]:
        segments = [(request.text or "", False)]
        if request.messages is not None:
            chat = ChatRequest(messages=request.messages, template=request.template)
            segments = self._prompts.render(request.messages, chat, cancel)
        ids = self._prompts.encode_segments(segments)
        pieces = [self._tokenizer.token_bytes(i).decode("utf-8", errors="replace") for i in ids]
        yield Tokens(ids=ids, pieces=pieces)

    def _score(self, request: ScoreRequest, cancel: threading.Event) -> Iterator[Chunk]:
        running = _Requested(cancel)
        jobs = [
            [
                Score([*before, *targets], len(before), cancelled=running.cancelled, finished=running.left)
                for before, targets in self._prompts.scored(item)
            ]
            for item in request.items
        ]
        flat = [job for item in jobs for job in item]
        for _ in running.run(self._batch, flat):
            pass
        yield Scores(
            values=[[job.values for job in item] for item in jobs],
            greedy=[[job.greedy for job in item] for item in jobs],
            prompt_tokens=sum(len(job.prompt) for job in flat),
            cached_tokens=sum(job.reused for job in flat),
        )

    # --- generation ---------------------------------------------------------------------------------------------

    def _generate(
        self,
        prompt: Prompt,
        request: Generation,
        streams: list[TextStream],
        cancel: threading.Event,
        *,
        echo: str = "",
        starts_text: bool,
    ) -> Iterator[Chunk]:
        seed = secrets.randbits(31) if request.sampling.seed is None else request.sampling.seed
        running = _Requested(cancel)
        answers = self._answers(prompt, request, streams, seed, running, starts_text)
        yield Started(seed=seed, template=prompt.template, dropped_messages=prompt.dropped_messages)
        if echo:
            yield from (Text(index=stream.index, text=echo) for stream in streams)
        if request.max_tokens == 0 and not _scores_prompt(request):
            yield from (Finished(index=stream.index, reason="length") for stream in streams)
            yield Usage(prompt_tokens=len(prompt.ids))
            return
        started, first = time.perf_counter(), 0.0
        for chunk in running.run(self._batch, answers):
            if not first and isinstance(chunk, Text | Finished):
                first = time.perf_counter()
            yield chunk
        now = time.perf_counter()
        yield Usage(
            prompt_tokens=len(prompt.ids),
            cached_tokens=answers[0].reused,
            completion_tokens=sum(answer.tokens for answer in answers),
            reasoning_tokens=sum(stream.reasoning_tokens for stream in streams),
            prefill_seconds=(first or now) - started,
            decode_seconds=now - (first or now),
        )

    def _answers(
        self,
        prompt: Prompt,
        request: Generation,
        streams: list[TextStream],
        seed: int,
        running: _Requested,
        starts_text: bool,
    ) -> list[Answer]:
        """One job a choice; the choices' seeds follow one another."""
        self._prompts.check_ids(list(request.sampling.logit_bias), "logit_bias")
        self._check_adapters(request)
        rule = settled(request.sampling, self._rule)
        room = self._context - len(prompt.ids)
        completion = request if isinstance(request, CompletionRequest) else None
        scores_prompt = _scores_prompt(request)
        return [
            Answer(
                prompt.ids,
                tokenizer=self._tokenizer,
                stream=stream,
                rule=rule,
                generator=torch.Generator().manual_seed((seed + stream.index) % 2**63),
                limit=room if request.max_tokens is None else request.max_tokens,
                end_ids=self._tokenizer.eos_ids | frozenset(prompt.stop_ids),
                emit=running.events.put,
                cancelled=running.cancelled,
                finished=running.left,
                constraint=self._grammars.compile(request.constraint) if request.constraint else None,
                alternatives=request.logprobs,
                prompt_logprobs=(
                    PromptLogprobs(self._tokenizer, prompt.ids, request.logprobs or 0) if scores_prompt else None
                ),
                spells_specials=completion is not None and not isinstance(completion.prompt, str),
                end_logprob=completion is not None,
                starts_text=starts_text or scores_prompt,
            )
            for stream in streams
        ]

    def _check_adapters(self, request: Generation) -> None:
        if request.adapters and request.adapters != self._weights:
            loaded = ", ".join(f"{name}={weight:g}" for name, weight in self._weights.items()) or "none"
            raise Unsupported(
                f"The adapters {request.adapters} were asked for; loaded into the weights are: {loaded}.",
                hint="Load the model as NAME+ADAPTER=WEIGHT.",
                hint_zh="请以 名称+适配器=权重 的形式加载模型。",
                param="adapters",
            )


def _scores_prompt(request: Generation) -> bool:
    return isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None


class _Requested:
    """One request's jobs in the batch, seen from the thread that asked."""

    def __init__(self, cancel: threading.Event) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()  # chunks, an error, or _END
        self._cancel, self._abandoned = cancel, threading.Event()

    def cancelled(self) -> bool:
        return self._cancel.is_set() or self._abandoned.is_set()

    def left(self, error: Exception | None) -> None:
        self.events.put(_END if error is None else error)

    def run(self, batch: Batch, jobs: list[Answer] | list[Score]) -> Iterator[Chunk]:
        """What the jobs emit, until all have left.

        Raises:
            Cancelled: within `_POLL_SECONDS`; the slots are free before the next pass. Whatever a job failed with.
        """
        left = len(jobs)
        try:
            for job in jobs:
                batch.submit(job)
            while left:
                try:
                    event = self.events.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    event = None
                if self._cancel.is_set():
                    raise Cancelled("The request was cancelled.")
                if isinstance(event, Exception):
                    raise event
                if event is _END:
                    left -= 1
                elif event is not None:
                    yield event
        finally:
            self._abandoned.set()

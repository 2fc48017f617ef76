"""What runs in a batch: one answer that is being written, or one text that is being scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

import torch

from ninestory.runtimes.protocol import Chunk, Finished, Prefill
from ninestory.runtimes.text_stream import TextStream
from ninestory.runtimes.torch.constraint import TokenConstraint
from ninestory.runtimes.torch.logprobs import PromptLogprobs, token_logprobs
from ninestory.runtimes.torch.sampling import Rule, sample
from ninestory.tokenizers.tokenizer import StreamingDetokenizer, Tokenizer

Emit = Callable[[Chunk], None]


class Job(Protocol):
    """What the batch asks of a request. All but `cancelled` is called in the batch's thread.

    Attributes:
        prompt: at least one token.
        first: logits are wanted of the prompt's tokens from this place on.
    """

    prompt: list[int]
    first: int

    def cancelled(self) -> bool: ...

    def admitted(self, reused: int) -> None:
        """The job has a slot, in which the first `reused` tokens of its prompt are already computed."""
        ...

    def prefilled(self, done: int) -> None:
        """The first `done` tokens of the prompt are computed."""
        ...

    def accept(self, logits: torch.Tensor) -> int | None:
        """Take float32 [n, vocabulary] of the newest tokens; the next token, or None when the job is done."""
        ...

    def done(self, error: Exception | None) -> None:
        """The slot is free. Called once, whatever happened."""
        ...


class Answer:
    """One of the n answers of a request: samples, decodes, streams, and says when to stop.

    Args:
        limit: tokens of the answer, at least 1 (with `prompt_logprobs`, at least 0).
        end_ids: each of them ends the answer and is no part of its text.
        alternatives: log-probabilities are given with so many alternatives; None = none.
        prompt_logprobs: the prompt comes first, with its tokens' log-probabilities. So nothing of it is taken from
            the cache, which has no logits.
        spells_specials: special tokens of that prompt are written out in the text.
        end_logprob: the token that ends the answer has a log-probability too.
        emit: takes the chunks, in the batch's thread.
        finished: called at the end, with the error if there was one.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        tokenizer: Tokenizer,
        stream: TextStream,
        rule: Rule,
        generator: torch.Generator,
        limit: int,
        end_ids: frozenset[int],
        emit: Emit,
        cancelled: Callable[[], bool],
        finished: Callable[[Exception | None], None],
        constraint: TokenConstraint | None = None,
        alternatives: int | None = None,
        prompt_logprobs: PromptLogprobs | None = None,
        spells_specials: bool = False,
        end_logprob: bool = False,
        starts_text: bool = True,
    ) -> None:
        self.prompt, self.first = prompt, 0 if prompt_logprobs else len(prompt) - 1
        self.cancelled, self.done = cancelled, finished
        self.tokens = self.reused = 0
        self.stream = stream
        self._tokenizer, self._rule, self._generator = tokenizer, rule, generator
        self._limit, self._end_ids, self._emit = limit, end_ids, emit
        self._constraint, self._alternatives = constraint, alternatives
        self._prompt_logprobs, self._spells_specials = prompt_logprobs, spells_specials
        self._end_logprob = end_logprob
        self._text = StreamingDetokenizer(tokenizer, starts_text=starts_text)
        self._seen: Counter[int] = Counter()

    def admitted(self, reused: int) -> None:
        self.reused = reused

    def prefilled(self, done: int) -> None:
        if self.stream.index == 0:  # the n answers of a request share a prompt
            self._emit(Prefill(done=done, total=len(self.prompt)))

    def accept(self, logits: torch.Tensor) -> int | None:
        if self._prompt_logprobs is not None:
            if not self._prompt_logprobs.take(logits):
                return None  # more of the prompt comes
            self._echo(self._prompt_logprobs)
            self._prompt_logprobs = None
            if self._limit == 0:
                self._end("length")
                return None
        allowed = self._constraint.allowed() if self._constraint else None
        token = sample(logits[-1], self._rule, self._seen, self._generator, allowed)
        self.tokens += 1
        self._seen[token] += 1
        reason = self._take(token, logits[-1])
        if reason is None:
            return token
        self._end(reason)
        return None

    def _take(self, token: int, logits: torch.Tensor) -> Literal["stop", "length"] | None:
        """Stream a token; why the answer ends with it, or None."""
        ends = token in self._end_ids
        if ends and not self._end_logprob:
            return "stop"
        logprob = None
        if self._alternatives is not None:
            [logprob] = token_logprobs(self._tokenizer, logits[None], [token], self._alternatives)
        if ends:
            for chunk in self.stream.feed(self._text.finish(), logprob):
                self._emit(chunk)
            return "stop"
        for chunk in self.stream.feed(self._text.push(token), logprob):
            self._emit(chunk)
        if self._constraint:
            self._constraint.consume(token)
        if self.stream.stop is not None or (self._constraint and self._constraint.complete):
            return "stop"
        return "length" if self.tokens == self._limit else None

    def _end(self, reason: Literal["stop", "length"]) -> None:
        for chunk in (*self.stream.feed(self._text.finish()), *self.stream.flush()):
            self._emit(chunk)
        self._emit(Finished(index=self.stream.index, reason=reason, stop=self.stream.named_stop))

    def _echo(self, prompt: PromptLogprobs) -> None:
        texts = [self._text.push(token, skip_special=not self._spells_specials) for token in self.prompt]
        self._emit(self.stream.echo(zip(texts, prompt.entries, strict=True)))


class Score:
    """Log-probability of each of a prompt's tokens from `start` on.

    Attributes:
        values: of the tokens seen so far.
        greedy: whether each of them was the model's likeliest.
        reused: tokens of the prompt that were already computed.
    """

    def __init__(
        self,
        prompt: list[int],
        start: int,
        *,
        cancelled: Callable[[], bool],
        finished: Callable[[Exception | None], None],
    ) -> None:
        self.prompt, self.first = prompt, start - 1  # the logits that foretell the first of them
        self.cancelled, self.done = cancelled, finished
        self.values: list[float] = []
        self.greedy, self.reused = True, 0
        self._wanted = prompt[start:]

    def admitted(self, reused: int) -> None:
        self.reused = reused

    def prefilled(self, done: int) -> None:
        pass

    def accept(self, logits: torch.Tensor) -> int | None:
        """Called with each chunk's logits; those of the last token foretell nothing that is asked for."""
        at = len(self.values)
        targets = torch.tensor(self._wanted[at : at + len(logits)], dtype=torch.int64, device=logits.device)
        rows = logits[: len(targets)].log_softmax(1)
        self.greedy = self.greedy and bool((rows.argmax(1) == targets).all())
        self.values += rows.gather(1, targets[:, None])[:, 0].tolist()
        return None

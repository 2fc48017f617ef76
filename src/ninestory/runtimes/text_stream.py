"""The text of an answer as it is written: no half character, no part of a stop string, log-probabilities in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ninestory.runtimes.answer_edit import AnswerEdit
from ninestory.runtimes.protocol import Text, TokenLogprob
from ninestory.runtimes.reasoning import ThinkingSplitter, partial_suffix


class TextStream:
    """One answer. Feed it decoded text token by token; it yields what can be shown.

    Args:
        stops: strings that end the answer; they are not part of it.
        ends: the same, of the prompt format: nobody asked for them by name.
        splitter: tells thinking from answer, or None.
        edit: what the prompt format does to an answer's text, or None.

    Attributes:
        stop: the stop string that was met, or None. Nothing comes after it.
    """

    def __init__(
        self,
        index: int,
        stops: Sequence[str] = (),
        *,
        ends: Sequence[str] = (),
        splitter: ThinkingSplitter | None = None,
        edit: AnswerEdit | None = None,
    ) -> None:
        self.index = index
        self.stop: str | None = None
        self.reasoning_tokens = 0
        self._asked, self._splitter, self._edit = stops, splitter, edit
        self._stops = [stop for stop in (*stops, *ends) if stop]
        self._held = ""
        self._length = 0  # characters given so far
        self._logprobs: list[TokenLogprob] = []

    @property
    def named_stop(self) -> str | None:
        """The stop string that was met, if the request named it."""
        return self.stop if self.stop in self._asked else None

    def echo(self, tokens: Iterable[tuple[str, TokenLogprob]]) -> Text:
        """The prompt's own text, to come before the answer's; no stop string is looked for in it.

        Args:
            tokens: text ("" while a character is incomplete) and log-probability of each token.
        """
        texts, logprobs = [], []
        for text, logprob in tokens:
            logprobs.append(self._placed(logprob))
            texts.append(text)
            self._length += len(text)
        return Text(index=self.index, text="".join(texts), logprobs=logprobs)

    def feed(self, text: str, logprob: TokenLogprob | None = None) -> Iterator[Text]:
        """Text of one more token ("" while a character is incomplete)."""
        if self.stop is not None:
            return
        if logprob is not None:
            self._logprobs.append(self._placed(logprob))
        self._length += len(text)
        self._held += self._edit.push(text) if self._edit else text
        if found := self._earliest_stop():
            at, self.stop = found
            self._held = self._held[:at]
            yield from self.flush()
            return
        keep = max((partial_suffix(self._held, stop) for stop in self._stops), default=0)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if ready:
            yield from self._shown(ready)

    def flush(self) -> Iterator[Text]:
        """What was held back, when the answer has ended."""
        if self._edit and self.stop is None:
            self._held += self._edit.finish()
            if found := self._earliest_stop():
                self._held, self.stop = self._held[: found[0]], found[1]
        held, self._held = self._held, ""
        if held:
            yield from self._shown(held)
        for text, thinking in self._splitter.flush() if self._splitter else []:
            yield self._text(text, thinking)
        if self._logprobs and self.stop is None:  # of tokens at the end that have no text
            yield self._text("", False)

    def _placed(self, logprob: TokenLogprob) -> TokenLogprob:
        return replace(logprob, text_offset=self._length)

    def _shown(self, text: str) -> Iterator[Text]:
        pieces = self._splitter.feed(text) if self._splitter else [(text, False)]
        self.reasoning_tokens += any(thinking for _, thinking in pieces)
        for piece, thinking in pieces:
            yield self._text(piece, thinking)

    def _text(self, text: str, thinking: bool) -> Text:
        logprobs, self._logprobs = self._logprobs, []
        return Text(index=self.index, text=text, reasoning=thinking, logprobs=logprobs)

    def _earliest_stop(self) -> tuple[int, str] | None:
        places = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(places, key=lambda place: (place[0], -len(place[1])), default=None)

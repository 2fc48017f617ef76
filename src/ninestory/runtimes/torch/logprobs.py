"""Log-probabilities of tokens, of the model's own distribution: before penalties, temperature and constraints."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ninestory.runtimes.protocol import TokenLogprob
from ninestory.tokenizers.tokenizer import Tokenizer

_ROWS = 64  # of logits worked on at once: a prompt that is computed in one piece has thousands


def token_logprobs(
    tokenizer: Tokenizer, logits: torch.Tensor, tokens: Sequence[int], alternatives: int
) -> list[TokenLogprob]:
    """One entry a token.

    Args:
        logits: float32 [n, vocabulary], row i those that foretell token i.
        tokens: n ids.
        alternatives: so many of the likeliest tokens are named in each entry's `top`.
    """
    values = logits.log_softmax(1)
    chosen = values.gather(1, torch.tensor(tokens, dtype=torch.int64, device=values.device)[:, None])[:, 0]
    best = values.topk(alternatives, dim=1)
    rows = zip(tokens, chosen.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        _entry(tokenizer, token, logprob, [_entry(tokenizer, i, v) for i, v in zip(ids, logprobs, strict=True)])
        for token, logprob, ids, logprobs in rows
    ]


class PromptLogprobs:
    """Log-probabilities of a prompt's own tokens, collected from the logits of its prefill.

    Args:
        prompt: at least one token; nothing foretells the first, so its log-probability is None.

    Attributes:
        entries: of the prompt's tokens so far.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], alternatives: int) -> None:
        self.entries = [_entry(tokenizer, prompt[0], None)]
        self._tokenizer, self._prompt, self._alternatives = tokenizer, prompt, alternatives
        self._rows = 0

    def take(self, logits: torch.Tensor) -> bool:
        """Take float32 [n, vocabulary] of the next n tokens of the prompt; True when those were the last.

        The last token's row foretells the first token of the answer and is not used here.
        """
        targets = self._prompt[self._rows + 1 : self._rows + 1 + len(logits)]
        for at in range(0, len(targets), _ROWS):
            part = targets[at : at + _ROWS]
            self.entries += token_logprobs(self._tokenizer, logits[at : at + len(part)], part, self._alternatives)
        self._rows += len(logits)
        return self._rows == len(self._prompt)


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None, top: Sequence[TokenLogprob] = ()) -> TokenLogprob:
    data = tokenizer.token_bytes(token)
    return TokenLogprob(token=data.decode("utf-8", errors="replace"), logprob=logprob, bytes=list(data), top=list(top))

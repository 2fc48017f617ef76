"""Which tokens a JSON schema, a list of choices or a grammar allows next (llguidance)."""

from __future__ import annotations

from typing import Any

import torch

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.runtimes.json_schema import choices_grammar, schema_grammar
from ninestory.runtimes.protocol import Constraint
from ninestory.tokenizers.tokenizer import Tokenizer


class TokenConstraint:
    """The state of one constrained answer."""

    def __init__(self, matcher: Any, vocabulary: int, device: torch.device) -> None:
        self._matcher, self._vocabulary, self._device = matcher, vocabulary, device

    def allowed(self) -> torch.Tensor:
        """bool [vocabulary]"""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        mask = (bits[:, None] >> torch.arange(8)) & 1
        return mask.flatten()[: self._vocabulary].bool().to(self._device)

    def consume(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise NinestoryError(f"The constraint cannot be followed: {self._matcher.get_error()}")


class Grammars:
    """Compiles constraints for one tokenizer; the trie of its tokens is made at the first use.

    Args:
        vocabulary: number of logits, which may exceed the tokenizer's ids.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, device: torch.device) -> None:
        self._tokenizer, self._vocabulary, self._device = tokenizer, vocabulary, device
        self._trie: Any = None

    def compile(self, constraint: Constraint) -> TokenConstraint:
        """A fresh state at the constraint's beginning.

        Raises:
            InvalidRequest: a schema that cannot be enforced or a faulty grammar, in the library's words.
        """
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens(), _grammar(constraint), log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise InvalidRequest(
                f"The grammar is faulty: {reason}",
                hint="This runtime takes Lark ('start: …').",
                hint_zh="此运行时使用 Lark 语法（start: …）。",
                param="grammar",
            )
        return TokenConstraint(matcher, self._vocabulary, self._device)

    def _tokens(self) -> Any:
        if self._trie is None:
            from llguidance import LLTokenizer, TokenizerWrapper

            eos = sorted(self._tokenizer.eos_ids)
            wrapper = TokenizerWrapper(_Vocabulary(self._tokenizer, eos[0]))
            self._trie = LLTokenizer(wrapper, n_vocab=self._vocabulary, eos_token=eos)
        return self._trie


class _Vocabulary:
    """The tokenizer as llguidance wants to see it."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_ids[0] if tokenizer.bos_ids else None
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _grammar(constraint: Constraint) -> str:
    if constraint.json_schema is not None:
        return schema_grammar(constraint.json_schema)
    if constraint.choices is not None:
        return choices_grammar(constraint.choices)
    return constraint.grammar or ""

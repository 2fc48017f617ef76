"""Prompts of a checkpoint directory: its own tokenizer (`tokenizers/`), its own or the catalogue's format."""

from __future__ import annotations

from collections.abc import Sequence

from ninestory.models.prompt_format import own_template
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.prompts import Prompts
from ninestory.tokenizers.tokenizer import Segment, Tokenizer


class TorchPrompts(Prompts):
    """Args:
    vocabulary: rows of the embedding; ids beyond the tokenizer's are padding.
    template: `--template`.
    """

    def __init__(
        self, model: ResolvedModel, tokenizer: Tokenizer, *, context: int, vocabulary: int, template: str = ""
    ) -> None:
        assert model.path is not None
        self.tokenizer = tokenizer
        spelled = {i: tokenizer.token_bytes(i).decode("utf-8", errors="replace") for i in tokenizer.special_ids}
        eos = min(tokenizer.eos_ids, default=-1)
        super().__init__(
            model,
            own=own_template(model.path) if model.path.is_dir() else "",
            template=template,
            context=context,
            vocabulary=vocabulary,
            specials={number: spelling for number, spelling in spelled.items() if spelling},
            marks={"bos_token": spelled.get((tokenizer.bos_ids or [-1])[0], ""), "eos_token": spelled.get(eos, "")},
            bos_ids=tokenizer.bos_ids,
            suffix_ids=tokenizer.suffix_ids,
        )

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        return self.tokenizer.encode_segments(segments)

"""Tiny models and rows for the tests of training."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ninestory.core.progress import Progress, Silent
from ninestory.training.batches import TokenRow
from ninestory.training.methods import AdaptedModel
from ninestory.training.objectives.causal import causal_objective
from ninestory.training.optimizers import make_optimizer
from ninestory.training.run_folder import RunFolder
from ninestory.training.settings import TrainSettings
from ninestory.training.trainer import Trainer


def tiny_llama(seed: int = 0, **changed: Any) -> Any:
    """A random LLaMA of three blocks with grouped keys and a tied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(
        **{**sizes, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": True, "pad_token_id": 0}
        | changed
    )
    return seeded(LlamaForCausalLM, config, seed)


def trainer(
    adapted: AdaptedModel,
    rows: Sequence[Any],
    settings: TrainSettings,
    folder: RunFolder,
    progress: Progress | None = None,
    held_out: Sequence[Any] = (),
    make_objective: Callable[[AdaptedModel], Any] = causal_objective,
) -> Trainer:
    """A trainer as a recipe makes it."""
    optimizer = partial(make_optimizer, settings)
    return Trainer(adapted, make_objective, optimizer, rows, held_out, settings, folder, progress or Silent())


class KilledAt(Silent):
    """Ends the process as the system would, without a chance to clean up."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def event(self, kind: str, **data: Any) -> None:
        if kind == "step" and data["step"] == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def seeded(cls: Any, config: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(config).float()


def rows(count: int = 12, vocabulary: int = 300, seed: int = 0) -> list[TokenRow]:
    """Texts of 4 to 20 tokens whose second half is learned; the same short list of texts can be learned by heart."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(4, 21, (1,), generator=generator))
        ids = torch.randint(1, vocabulary, (length,), generator=generator).tolist()
        made.append(TokenRow(ids, [-100] * (length // 2) + ids[length // 2 :]))
    return made

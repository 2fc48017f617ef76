"""Settings of method and trainer, as a recipe has them. Plain data: importing this loads no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ninestory.training.batches import TrainingRow, rows_of_step, steps_per_epoch
from ninestory.training.method_spec import METHODS, MethodName, MethodSpec
from ninestory.training.schedule import Schedule

Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Strings = Annotated[list[str], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]
OptimizerName = Literal["adamw", "paged_adamw_32bit", "paged_adamw_8bit"]
# keys of older releases
RENAMED_KEYS = {
    "method.targets": "method.target_modules",
    "method.blocks": "method.trainable_layers",
    "train.batch": "train.batch_size",
    "train.schedule": "train.lr_scheduler",
    "train.warmup": "train.warmup_ratio",
}


@dataclass(frozen=True)
class Method:
    """The tuning method and its size.

    Attributes:
        name: full, freeze, lora, rslora, dora, adalora, ia3, prompt, prefix, p_tuning_v2 or qlora.
        rank: rank of the LoRA family; AdaLoRA's target rank (it starts at 1.5 × of it).
        alpha: LoRA's scale is alpha / rank (rsLoRA: alpha / √rank).
        dropout: on the input of the LoRA matrices.
        target_modules: "all-linear", or names of linear layers (the last part of their path, such as q_proj).
        init: of the LoRA factors: default (B is 0), pissa (the weight's largest directions; lora, rslora), or loftq
            (what 4-bit packing lost; qlora).
        modules_to_save: modules trained whole beside LoRA and saved with it, by the last part of their path
            (embed_tokens and lm_head after the vocabulary has grown).
        trainable_layers: freeze: how many of the last blocks are trained.
        virtual_tokens: prompt, prefix and P-Tuning v2: how many.
        projection: prefix and P-Tuning v2: trained through an MLP.
    """

    name: MethodName = "lora"
    rank: Count = 8
    alpha: NonNegative = 16.0
    dropout: NonNegative = 0.0
    target_modules: str | list[str] = "all-linear"
    init: Literal["default", "pissa", "loftq"] = "default"
    modules_to_save: list[str] = field(default_factory=list)
    trainable_layers: Count = 2
    virtual_tokens: Count = 16
    projection: bool = False

    @property
    def spec(self) -> MethodSpec:
        """Properties of the method."""
        return METHODS[self.name]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the trainer.

    Attributes:
        seed: of the batch order, new parameters and dropout.
        epochs: passes over the data, when `max_steps` is 0.
        max_steps: optimiser steps in all; 0 = by epochs.
        batch_size: rows of one step, over all micro-batches and processes.
        micro_batch_tokens: tokens in memory at once; a step is cut into as many pieces as it needs, the sums are equal.
        group_by_length: give each step rows of about one length, which saves padding where rows cannot be packed
            (prompt, prefix, P-Tuning v2; RWKV, ChatGLM, BLOOM); of no use where they can.
        optimizer: adamw, or on CUDA bitsandbytes' paged_adamw_32bit and paged_adamw_8bit, whose averages move to main
            memory when the card is full (8bit: a quarter of their size).
        learning_rate: the highest one.
        lr_scheduler: cosine, linear or constant, after the warm-up.
        warmup_ratio: share of the steps in which the rate rises.
        weight_decay, beta1, beta2, epsilon: AdamW's.
        max_gradient_norm: gradients are scaled down to it; 0 = never.
        gradient_checkpointing: keep only the layers' inputs and compute again: less memory, a third slower.
        precision: float32, bfloat16, or auto (whichever multiplies faster on this machine).
        save_every: steps between checkpoints; 0 = only at the end.
        keep: newest checkpoints kept, besides the best.
        evaluate_every: steps between evaluations on the held-out rows; 0 = only at the end.
        parallel: under torchrun, ddp (each process holds the model) or fsdp2 (each holds a share of its weights).
        patience: end after so many evaluations without a better loss; 0 = never.
    """

    seed: Count = 0
    epochs: NonNegative = 1.0
    max_steps: Count = 0
    batch_size: Count = 8
    micro_batch_tokens: Count = 2048
    group_by_length: bool = False
    optimizer: OptimizerName = "adamw"
    learning_rate: NonNegative = 2e-4
    lr_scheduler: Schedule = "cosine"
    warmup_ratio: NonNegative = 0.03
    weight_decay: NonNegative = 0.0
    beta1: NonNegative = 0.9
    beta2: NonNegative = 0.999
    epsilon: NonNegative = 1e-8
    max_gradient_norm: NonNegative = 1.0
    gradient_checkpointing: bool = False
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    save_every: Count = 100
    keep: Count = 2
    evaluate_every: Count = 0
    patience: Count = 0
    parallel: Literal["ddp", "fsdp2"] = "ddp"

    def steps(self, rows: int) -> int:
        """Number of optimizer steps over `rows` training rows."""
        return self.max_steps or max(1, math.ceil(self.epochs * steps_per_epoch(rows, self.batch_size)))

    def rows_of_step(self, step: int, rows: Sequence[TrainingRow]) -> list[int]:
        """Indices of the rows of a step (from 0)."""
        length = (lambda index: rows[index].size) if self.group_by_length else None
        return rows_of_step(step, len(rows), self.batch_size, self.seed, length=length)

"""Recipes of language models: everything that decides what a fine-tuning run makes.

kind:     finetuning.sft or finetuning.dpo
model:    what is tuned, and in which prompt format
data:     which rows, in which format
method:   what is trained               (training/methods.py)
train:    how                           (training/trainer.py)
evaluate: what is compared afterwards
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ninestory.training.settings import RENAMED_KEYS, Count, Method, NonNegative, Strings, TrainSettings

Objective = Literal["sft", "dpo"]
Kind = Literal["finetuning.sft", "finetuning.dpo"]


@dataclass(frozen=True)
class ModelPart:
    """The base model and its prompt format.

    Attributes:
        name: a model reference; a GGUF of LLaMA's shape is turned into float32 once.
        template: prompt format: a catalogue id, or checkpoint; empty = the model's own.
    """

    name: str = "starter:smollm2-135m-instruct"
    template: str = ""


@dataclass(frozen=True)
class DataPart:
    """The training data.

    Attributes:
        train: files or folders (json, jsonl, csv, tsv, parquet, txt).
        weights: one per file of `train`: 1 = each row once an epoch, 2 = twice, 0.5 = half of them; empty = all 1.
        held_out: files or folders for the evaluation; empty = a share of `train`.
        held_out_share: share of the rows of `train` kept for the evaluation, when `held_out` is empty; at most 200 rows.
        format: of the rows; empty = recognised by the columns; corpus = plain text joined and cut into blocks.
        max_length: tokens of a row, or of a corpus's block; longer rows are cut.
        on_invalid_row: refuse the run because of a row that cannot be used, or skip and count it.
        limit: most rows read; 0 = all.
    """

    train: Strings = field(default_factory=list)
    weights: list[NonNegative] = field(default_factory=list)
    held_out: Strings = field(default_factory=list)
    held_out_share: NonNegative = 0.05
    format: str = ""
    max_length: Count = 512
    on_invalid_row: Literal["refuse", "skip"] = "refuse"
    limit: Count = 0


@dataclass(frozen=True)
class EvaluatePart:
    """The comparison of base and tuned after training.

    Attributes:
        eval_samples: held-out rows that both models answer (for ROUGE, BLEU and exact match); 0 = losses only.
        max_tokens: of an answer.
        forgetting_text: a text file that has nothing to do with the task, to see what was forgotten; empty = none.
        language: of the report: en or zh.
    """

    eval_samples: Count = 20
    max_tokens: Count = 64
    forgetting_text: str = ""
    language: Literal["en", "zh"] = "en"


@dataclass(frozen=True)
class FineTuningRecipe:
    """A recipe of supervised fine-tuning: the answers' tokens are learned.

    Attributes:
        kind: finetuning.sft, or finetuning.dpo (the better of two answers; rows of chosen and rejected).
        name: of the run's folder, and of the adapter.
        about: one line for people.
    """

    RENAMED_KEYS: ClassVar[dict[str, str]] = RENAMED_KEYS | {
        "data.form": "data.format",
        "data.bad_rows": "data.on_invalid_row",
        "train.objective": "kind",
        "evaluate.answers": "evaluate.eval_samples",
        "evaluate.general": "evaluate.forgetting_text",
    }

    kind: Kind = "finetuning.sft"
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    about: str = ""
    model: ModelPart = ModelPart()
    data: DataPart = DataPart()
    method: Method = Method()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluatePart = EvaluatePart()

    @property
    def objective(self) -> Objective:
        """The objective: sft = answers, dpo = preferences."""
        return "dpo" if self.kind == "finetuning.dpo" else "sft"


@dataclass(frozen=True)
class PreferenceTrainSettings(TrainSettings):
    """Settings of the trainer, and DPO's beta.

    Attributes:
        beta: how strongly the model is held to its base; smaller lets it move further away.
    """

    beta: NonNegative = 0.1


@dataclass(frozen=True)
class PreferenceRecipe(FineTuningRecipe):
    """A recipe that learns from preferences (DPO)."""

    kind: Kind = "finetuning.dpo"
    train: PreferenceTrainSettings = PreferenceTrainSettings()


def beta_of(recipe: FineTuningRecipe) -> float | None:
    """DPO's beta; None for recipes that learn from answers."""
    return recipe.train.beta if isinstance(recipe.train, PreferenceTrainSettings) else None

"""The body of `POST /v1/fine_tuning/jobs`, field by field as OpenAI has it, and the recipe that it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from ninestory.core.errors import InvalidRequest
from ninestory.serving.references import ModelReference
from ninestory.serving.schemas import Strict

DEFAULT_RATE = 2e-4  # what a learning_rate_multiplier multiplies
Auto = Literal["auto"]
_EPOCHS, _BATCH = 3, 8  # what "auto" means
_PARTS = ("data", "method", "train", "evaluate", "template", "force")


class Hyperparameters(Strict):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000)] = "auto"


class PreferenceHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()


class Preference(Strict):
    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class TuningMethod(Strict):
    """`dpo` learns from pairs of answers (input, preferred_output, non_preferred_output; or chosen, rejected)."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"type": {"const": "supervised"}, "dpo": {"type": "null"}}},
                {"properties": {"type": {"const": "dpo"}, "supervised": {"type": "null"}}, "required": ["type"]},
            ]
        }
    )

    type: Literal["supervised", "dpo"] = "supervised"
    supervised: Supervised | None = None
    dpo: Preference | None = None

    @model_validator(mode="after")
    def _of_its_type(self) -> TuningMethod:
        if (self.dpo if self.type == "supervised" else self.supervised) is not None:
            raise ValueError(f"method.type is {self.type}, and the settings of the other type are given")
        return self


class FineTuningRequest(Strict):
    """`metadata` is kept and given back; `integrations` (other companies' trackers) must be empty."""

    model: ModelReference
    training_file: str = Field(max_length=100)
    validation_file: str | None = Field(None, max_length=100)
    suffix: str | None = Field(None, max_length=20, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    method: TuningMethod | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    metadata: dict[str, str] | None = None
    ninestory: dict[str, Any] = Field(default_factory=dict)

    @property
    def force(self) -> bool:
        """Start although the memory plan says that it does not fit."""
        return self.ninestory.get("force") is True

    def _hyperparameters(self) -> Hyperparameters:
        """Those of the method; the old place, beside it, where the method has none."""
        if self.method and self.method.type == "dpo":
            return self.method.dpo.hyperparameters if self.method.dpo else PreferenceHyperparameters()
        if self.method and self.method.supervised:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or Hyperparameters()

    def recipe_table(self, name: str) -> dict[str, Any]:
        """The recipe as plain data, still without files.

        Raises:
            InvalidRequest: a part of `ninestory` that no recipe has, or that is no object.
        """
        if unknown := [key for key in self.ninestory if key not in _PARTS]:
            raise InvalidRequest(
                f"ninestory has the unknown key {unknown[0]!r}.",
                hint=f"Known here: {', '.join(_PARTS)}.",
                hint_zh=f"此处可用：{'、'.join(_PARTS)}。",
                param=f"ninestory.{unknown[0]}",
                code="unknown_key",
            )
        given = self._hyperparameters()
        multiplier = 1.0 if given.learning_rate_multiplier == "auto" else given.learning_rate_multiplier
        train: dict[str, Any] = {
            "epochs": float(_EPOCHS if given.n_epochs == "auto" else given.n_epochs),
            "batch_size": _BATCH if given.batch_size == "auto" else given.batch_size,
            "learning_rate": DEFAULT_RATE * multiplier,
            "seed": self.seed or 0,
        }
        if isinstance(given, PreferenceHyperparameters) and given.beta != "auto":
            train["beta"] = given.beta
        kind = "finetuning.dpo" if self.method and self.method.type == "dpo" else "finetuning.sft"
        table: dict[str, Any] = {"kind": kind, "name": name, "model": {"name": self.model}, "data": {}, "train": train}
        table["model"]["template"] = self.ninestory.get("template", "")
        for part in ("data", "method", "train", "evaluate"):
            more = self.ninestory.get(part, {})
            if not isinstance(more, dict):
                raise InvalidRequest(
                    f"ninestory.{part} is no object.",
                    hint="Give the recipe's keys of that part.",
                    hint_zh="请给出配方中该部分的字段。",
                    param=f"ninestory.{part}",
                )
            table[part] = {**table.get(part, {}), **more}
        return table

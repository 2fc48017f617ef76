"""Base and tuned on the same held-out rows: loss, and the answers that both give, greedily."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ninestory.core.paths import atomic_write
from ninestory.core.progress import Progress
from ninestory.evaluation.before_after import Case, Metrics, Side, measure
from ninestory.floors.finetuning.data_files import read_rows
from ninestory.floors.finetuning.examples import question
from ninestory.floors.finetuning.masking import blocks
from ninestory.floors.finetuning.preparation import Prepared

GENERAL_ROWS = 64  # blocks of general text that are measured


class Evaluator:
    """The cases of a run, put to a model.

    Attributes:
        cases: prompts as text (for the report) and the wanted answers.
    """

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._prepared, self._progress = prepared, progress
        base, wanted = prepared.base, prepared.recipe.evaluate
        asked = [
            question(example.sample, base.tokenizer, base.prompts) for example in prepared.held_out[: wanted.answers]
        ]
        self._questions = [ids for ids, _ in asked]
        self.cases = [Case(base.tokenizer.decode(ids), answer) for ids, answer in asked]
        self._general = _general_rows(prepared)

    def side(self, model: Any, *, packs: bool) -> Side:
        """Losses and answers of one model. `packs`: rows may lie in one line."""
        from ninestory.training.forward import CausalForward
        from ninestory.training.loop import mean_loss

        forward = CausalForward(model, allow_packing=packs)
        budget = self._prepared.recipe.train.micro_batch_tokens
        loss = mean_loss(forward, [example.row for example in self._prepared.held_out], budget)
        general = mean_loss(forward, self._general, budget) if self._general else None
        answers = iter(self._answers(model))
        return measure(self.cases, loss, general, (lambda _: next(answers)) if self.cases else None)

    def _answers(self, model: Any) -> list[str]:
        import torch

        tokenizer = self._prepared.base.tokenizer
        most = self._prepared.recipe.evaluate.max_tokens
        model.eval()
        answers = []
        for number, ids in enumerate(self._questions, 1):
            given = torch.tensor([ids])
            with torch.no_grad():
                made = model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    max_new_tokens=most,
                    do_sample=False,
                    eos_token_id=sorted(tokenizer.eos_ids) or None,
                    pad_token_id=min(tokenizer.eos_ids, default=0),
                )
            answers.append(tokenizer.decode(made[0, len(ids) :].tolist()).strip())
            self._progress.update(number, len(self._questions), "answers of the held-out rows")
        return answers


def kept_side(file: Path, make: Callable[[], Side]) -> Side:
    """The base's side, measured once a run and kept beside it."""
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Side(**{**kept, "each": [Metrics(**metrics) for metrics in kept["each"]]})
    side = make()
    with atomic_write(file, "w") as out:
        json.dump(dataclasses.asdict(side), out, ensure_ascii=False)
    return side


def _general_rows(prepared: Prepared) -> list[Any]:
    if not prepared.recipe.evaluate.general:
        return []
    path = Path(prepared.recipe.evaluate.general).expanduser()
    texts = (row.values.get("text", "") for row in read_rows(path, ".txt"))
    return blocks(prepared.base.tokenizer, texts, min(256, prepared.recipe.data.max_length))[:GENERAL_ROWS]

"""Base and tuned on the same held-out rows: loss, and the answers that both give, greedily."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninestory.core.paths import atomic_write
from ninestory.core.progress import Progress
from ninestory.evaluation.before_after import HeldOutExample, ModelScores, OverlapMetrics, measure
from ninestory.floors.finetuning.data_files import read_rows
from ninestory.floors.finetuning.examples import question, question_text
from ninestory.floors.finetuning.masking import text_blocks
from ninestory.floors.finetuning.preparation import PreparedRun
from ninestory.floors.finetuning.recipe import beta_of

if TYPE_CHECKING:
    from ninestory.training.objectives.causal import CausalObjective

GENERAL_ROWS = 32  # blocks of general text that are measured
ANSWERED_TOGETHER = 16  # questions


class Evaluator:
    """Evaluates models on the held-out rows of a run.

    Attributes:
        cases: questions in the data's words, and the expected answers.
    """

    def __init__(self, prepared: PreparedRun, progress: Progress) -> None:
        self._prepared, self._progress = prepared, progress
        questions = list(itertools.islice(_asked(prepared), prepared.recipe.evaluate.eval_samples))
        self._questions = [ids for ids, _ in questions]
        self.cases = [case for _, case in questions]
        self._general = _general_rows(prepared)

    def side(self, model: Any, held_out: Sequence[Any], *, packs: bool) -> ModelScores:
        """Measure losses and answers of one model.

        Args:
            held_out: rows, or pairs with the base's log-probabilities.
            packs: rows may lie in one line.
        """
        from ninestory.training.objectives.causal import CausalObjective
        from ninestory.training.objectives.preference import PreferenceObjective
        from ninestory.training.trainer import mean_loss

        causal = CausalObjective(model, allow_packing=packs)
        settings = self._prepared.recipe.train
        beta = beta_of(self._prepared.recipe)
        objective = causal if beta is None else PreferenceObjective(causal, beta)
        loss = mean_loss(objective, held_out, settings)
        preferred = objective.metrics().get("accuracy")
        general = mean_loss(causal, self._general, settings) if self._general else None
        answers = iter(self._answers(causal))
        side = measure(self.cases, loss, general, (lambda _: next(answers)) if self.cases else None)
        return dataclasses.replace(side, preferred=preferred)

    def _answers(self, causal: CausalObjective) -> list[str]:
        """Generate greedy answers, batched by length; one by one where padding would be attended to."""
        order = sorted(range(len(self._questions)), key=lambda i: len(self._questions[i]))
        batch_size = ANSWERED_TOGETHER if causal.packed else 1
        answers = [""] * len(order)
        causal.model.eval()
        with causal.masked_attention():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                texts = self._generated(causal.model, [self._questions[i] for i in batch])
                for i, answer in zip(batch, texts, strict=True):
                    answers[i] = answer
                self._progress.update(start + len(batch), len(order), "answers of the held-out rows")
        return answers

    def _generated(self, model: Any, questions: list[list[int]]) -> list[str]:
        """Generate one answer per prompt; shorter prompts are padded on the left."""
        import torch

        device = next(model.parameters()).device
        tokenizer, longest = self._prepared.base.tokenizer, max(map(len, questions))
        pad = min(tokenizer.eos_ids, default=0)
        with torch.no_grad():
            outputs = model.generate(
                input_ids=torch.tensor([[pad] * (longest - len(ids)) + ids for ids in questions], device=device),
                attention_mask=torch.tensor(
                    [[0] * (longest - len(ids)) + [1] * len(ids) for ids in questions], device=device
                ),
                max_new_tokens=self._prepared.recipe.evaluate.max_tokens,
                do_sample=False,
                eos_token_id=sorted(tokenizer.eos_ids) or None,
                pad_token_id=pad,
            )
        return [tokenizer.decode(row[longest:].tolist()).strip() for row in outputs]


def load_or_measure_side(file: Path, make: Callable[[], ModelScores]) -> ModelScores:
    """The base's side: measured once per run and saved beside it."""
    if file.is_file():
        saved = json.loads(file.read_text(encoding="utf-8"))
        return ModelScores(**{**saved, "each": [OverlapMetrics(**metrics) for metrics in saved["each"]]})
    side = make()
    with atomic_write(file, "w") as out:
        json.dump(dataclasses.asdict(side), out, ensure_ascii=False)
    return side


def _asked(prepared: PreparedRun) -> Iterator[tuple[list[int], HeldOutExample]]:
    """Held-out rows as prompts, in ids and in words; those that leave no room for an answer are skipped."""
    base = prepared.base
    room = base.resolved.context - prepared.recipe.evaluate.max_tokens
    for example in prepared.held_out:
        ids, answer = question(example.sample, base.tokenizer, base.prompts)
        if len(ids) <= room:
            yield ids, HeldOutExample(question_text(example.sample), answer)


def _general_rows(prepared: PreparedRun) -> list[Any]:
    if not prepared.recipe.evaluate.forgetting_text:
        return []
    path = Path(prepared.recipe.evaluate.forgetting_text).expanduser()
    texts = (row.values.get("text", "") for row in read_rows(path, ".txt"))
    return text_blocks(prepared.base.tokenizer, texts, min(256, prepared.recipe.data.max_length))[:GENERAL_ROWS]

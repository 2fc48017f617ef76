"""Fine-tuning runs: data → plan → training → evaluation of base and tuned → adapter and report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninestory.core.paths import Home, atomic_write
from ninestory.core.progress import Progress, Silent
from ninestory.evaluation.before_after import Comparison, compare
from ninestory.evaluation.tuning_report import RowCounts, TuningReport, as_html, as_markdown
from ninestory.floors.finetuning.base import load_weights, original_weights
from ninestory.floors.finetuning.evaluate import Evaluator, load_or_measure_side
from ninestory.floors.finetuning.preparation import PreparedRun, digest, prepare_run, refuse_oversized_run
from ninestory.floors.finetuning.recipe import FineTuningRecipe, beta_of
from ninestory.models.prompt_format import sample_prompt
from ninestory.training.batches import steps_per_epoch
from ninestory.training.run_folder import RunFolder

if TYPE_CHECKING:
    from ninestory.training.methods import AdaptedModel
    from ninestory.training.processes import Processes
    from ninestory.training.trainer import Trainer


@dataclass(frozen=True)
class TuningOutcome:
    """Result of a run. `reference`: by which the tuned model is loaded."""

    name: str
    folder: Path
    reference: str
    steps: int
    trained_tokens: int
    final_loss: float
    stopped_early: bool
    comparison: Comparison
    report: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a job's row and for machines."""
        comparison = self.comparison
        return {
            "name": self.name,
            "folder": str(self.folder),
            "reference": self.reference,
            "steps": self.steps,
            "trained_tokens": self.trained_tokens,
            "final_loss": self.final_loss,
            "stopped_early": self.stopped_early,
            "base_loss": comparison.base.loss,
            "tuned_loss": comparison.tuned.loss,
            "base_rouge_l": comparison.base.mean("rouge_l"),
            "tuned_rouge_l": comparison.tuned.mean("rouge_l"),
            "preferred": comparison.tuned.preferred,
            "forgotten": comparison.forgotten,
            "verdict": comparison.verdict,
            "report": str(self.report),
        }


def run(
    recipe: FineTuningRecipe, home: Home, progress: Progress, *, force: bool = False, suffix: str = ""
) -> TuningOutcome:
    """Tune, evaluate, save. The same recipe again resumes its last checkpoint, or returns its finished outcome.

    Under torchrun this is the first process; the others `follow`.

    Args:
        force: start although the memory plan says that it does not fit.
        suffix: of data files whose name has none (uploads).

    Raises:
        DoesNotFit: with the nearest plan that does. Diverged: the loss is NaN or infinite.
        Conflict: the name belongs to another run.
    """
    from ninestory.core.memory import fix_malloc_thresholds
    from ninestory.training.optimizers import check_optimizer
    from ninestory.training.processes import join

    check_optimizer(recipe.train)
    fix_malloc_thresholds()
    prepared = prepare_run(recipe, home, progress, suffix=suffix)
    refuse_oversized_run(prepared, force=force)
    folder = RunFolder(home.runs / prepared.name)
    folder.open(dataclasses.asdict(dataclasses.replace(recipe, name=prepared.name)), prepared.identity)
    model = load_weights(prepared.base, home, progress, packed=recipe.method.spec.quantizes_base)
    evaluator = Evaluator(prepared, progress)
    rows = _rows(prepared, folder, model, progress)
    base_side = load_or_measure_side(folder.path / "base.json", lambda: evaluator.side(model, rows[1], packs=True))
    processes = join()
    processes.wait()
    trainer = _trainer(prepared, model, rows, folder, progress, processes)
    result = trainer.run()
    adapted = trainer.adapted
    if trainer.sharded:
        adapted = _adapt(prepared, load_weights(prepared.base, home, progress))
        trainer.load_result_into(adapted)
    else:
        trainer.load_best()
    reference = _save(prepared, folder, adapted)
    tuned_side = evaluator.side(adapted.module, rows[1], packs=adapted.packs)
    comparison = compare(evaluator.cases, base_side, tuned_side)
    report = _write_report(prepared, folder, comparison)
    progress.event("finished", reference=reference, report=str(report), verdict=comparison.verdict)
    return TuningOutcome(
        prepared.name,
        folder.path,
        reference,
        result.steps,
        int(trainer.state.seen),
        result.losses[-1],
        result.stopped_early,
        comparison,
        report,
    )


def follow(recipe: FineTuningRecipe, home: Home) -> None:
    """Run the other processes under torchrun: their share of every step. The first process does the rest."""
    from ninestory.core.memory import fix_malloc_thresholds
    from ninestory.training.processes import join

    fix_malloc_thresholds()
    processes = join()
    processes.wait()  # the first has opened the folder and made what is made once
    prepared = prepare_run(recipe, home, Silent())
    model = load_weights(prepared.base, home, Silent(), packed=recipe.method.spec.quantizes_base)
    folder = RunFolder(home.runs / prepared.name)
    rows = _rows(prepared, folder, model, Silent())
    _trainer(prepared, model, rows, folder, Silent(), processes).run()


def _trainer(
    prepared: PreparedRun,
    model: Any,
    rows: tuple[Sequence[Any], Sequence[Any]],
    folder: RunFolder,
    progress: Progress,
    processes: Processes,
) -> Trainer:
    from ninestory.training.objectives.causal import causal_objective
    from ninestory.training.objectives.preference import preference_objective
    from ninestory.training.optimizers import make_optimizer
    from ninestory.training.trainer import Trainer

    settings, beta = prepared.recipe.train, beta_of(prepared.recipe)
    return Trainer(
        _adapt(prepared, model),
        causal_objective if beta is None else preference_objective(beta),
        partial(make_optimizer, settings),
        *rows,
        settings,
        folder,
        progress,
        processes,
    )


def _adapt(prepared: PreparedRun, model: Any) -> AdaptedModel:
    from ninestory.training.methods import adapt_model

    recipe = prepared.recipe
    original = original_weights(prepared.base) if recipe.method.init == "loftq" else None
    return adapt_model(model, recipe.method, seed=recipe.train.seed, total_steps=prepared.steps, original=original)


def _rows(
    prepared: PreparedRun, folder: RunFolder, model: Any, progress: Progress
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Training and held-out rows; preference pairs get their log-probabilities under the untouched base."""
    from ninestory.training.objectives.causal import CausalObjective
    from ninestory.training.objectives.preference import PairsWithReference, reference_log_probabilities

    train, held_out, settings = prepared.train.rows, prepared.held_out.rows, prepared.recipe.train
    if prepared.recipe.objective == "sft":
        return train, held_out
    base = CausalObjective(model)
    if prepared.steps < steps_per_epoch(len(train), settings.batch_size):
        learned = {i for step in range(prepared.steps) for i in settings.rows_of_step(step, train)}
    else:
        learned = set(range(len(train)))

    def with_reference(pairs: Sequence[Any], wanted: Iterable[int]) -> Sequence[Any]:
        file = folder.path / f"reference-{digest(pairs)}.bin"
        return PairsWithReference(
            pairs, reference_log_probabilities(base, pairs, wanted, settings.micro_batch_tokens, progress, file)
        )

    return with_reference(train, learned), with_reference(held_out, range(len(held_out)))


def _save(prepared: PreparedRun, folder: RunFolder, adapted: AdaptedModel) -> str:
    """Adapter or model, and the run's alias; returns the reference of the tuned model."""
    from ninestory.training.adapter_save import save_adapter, save_model

    base, recipe = prepared.base, prepared.recipe
    note = {
        "base": base.reference,
        "base_fingerprint": base.fingerprint,
        "template": base.prompts.id if base.prompts else "",
        "rendered": sample_prompt(base.prompts) if base.prompts else "",
        "recipe": folder.recipe(),
        "created_at": int(time.time()),
    }
    if recipe.method.spec.trains_base:
        save_model(adapted.module, folder.path / "model", base.folder, note)
    if recipe.method.name != "full":
        save_adapter(adapted, folder.adapter, base.reference, note, base.folder)
    alias = {"alias": f"ft:{prepared.name}", **note}
    with atomic_write(folder.path / "ninestory.json", "w") as file:
        json.dump(alias, file, ensure_ascii=False, indent=2)
    return str(alias["alias"])


def _write_report(prepared: PreparedRun, folder: RunFolder, comparison: Comparison) -> Path:
    """report.html and report.md."""
    flat: dict[str, Any] = {}
    for part, values in folder.recipe().items():
        flat |= {f"{part}.{k}": v for k, v in values.items()} if isinstance(values, dict) else {part: values}
    examples = prepared.examples
    report = TuningReport(
        title=prepared.name,
        recipe={name: value for name, value in flat.items() if value not in ("", [], 0)},
        training=[(line["step"], line["loss"]) for line in folder.lines("step")],
        evaluations=[(line["step"], line["loss"]) for line in folder.lines("evaluation")],
        comparison=comparison,
        language=prepared.recipe.evaluate.language,
        data=RowCounts(examples.invalid_count, examples.lost_questions, examples.lost_greetings),
    )
    for name, text in (("report.html", as_html(report)), ("report.md", as_markdown(report))):
        with atomic_write(folder.path / name, "w") as file:
            file.write(text)
    return folder.path / "report.html"

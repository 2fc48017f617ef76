"""A recipe, run: data → plan → training → evaluation of base and tuned → adapter and report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import DoesNotFit, InvalidRequest
from ninestory.core.paths import Home, atomic_write
from ninestory.core.progress import Progress
from ninestory.evaluation.before_after import Comparison, compare
from ninestory.evaluation.tuning_report import TuningReport, as_html, as_markdown
from ninestory.floors.finetuning.base import Base, load_weights, open_base
from ninestory.floors.finetuning.examples import Example, Examples, read_examples, refuse_bad_rows
from ninestory.floors.finetuning.recipe import Recipe
from ninestory.models.plan_tuning import TuningJob, TuningPlan, nearest_that_fits, plan_tuning
from ninestory.training.batches import epoch_order, micro_batches, rows_of_step
from ninestory.training.run_folder import RunFolder

MOST_HELD_OUT = 200  # rows taken from the training data for the evaluation


@dataclass(frozen=True)
class Prepared:
    """A run before it starts: what `tune run --dry-run` and `tune inspect` show."""

    recipe: Recipe
    base: Base
    found: Examples
    train: list[Example]
    held_out: list[Example]
    steps: int
    plan: TuningPlan | None  # None: the model states no shape
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the run's folder: the recipe's, else made of model, method and what identifies the run."""
        if self.recipe.name:
            return self.recipe.name
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:6]
        model = self.recipe.model.name.rpartition(":")[2].rpartition("/")[2].replace("+", "-")
        return f"{model[:40]}-{self.recipe.method.name}-{digest}"


@dataclass(frozen=True)
class Outcome:
    """What a run gave. `reference` is how the tuned model is asked for."""

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
        made = self.comparison
        return {
            "name": self.name,
            "folder": str(self.folder),
            "reference": self.reference,
            "steps": self.steps,
            "trained_tokens": self.trained_tokens,
            "final_loss": self.final_loss,
            "stopped_early": self.stopped_early,
            "base_loss": made.base.loss,
            "tuned_loss": made.tuned.loss,
            "base_rouge_l": made.base.mean("rouge_l"),
            "tuned_rouge_l": made.tuned.mean("rouge_l"),
            "forgotten": made.forgotten,
            "verdict": made.verdict,
            "report": str(self.report),
        }


def prepare(recipe: Recipe, home: Home, progress: Progress, *, kind: str = "") -> Prepared:
    """Read the data and the base's header, split, and predict steps and memory. Loads no weights.

    Raises:
        InvalidRequest: no data, rows that cannot be used, a length above the model's context.
    """
    if not recipe.data.train:
        raise InvalidRequest(
            "The recipe names no training data.",
            hint="Set data.train to a file, or give --data.",
            hint_zh="请在 data.train 中指定数据文件，或使用 --data。",
            param="data.train",
        )
    base = open_base(recipe.model.name, recipe.model.template, home, progress)
    if recipe.data.max_length > base.resolved.context:
        raise InvalidRequest(
            f"data.max_length is {recipe.data.max_length}, and {recipe.model.name} was made for {base.resolved.context}.",
            hint=f"Take {base.resolved.context} or less.",
            hint_zh=f"请取不超过 {base.resolved.context} 的值。",
            param="data.max_length",
        )
    found = _read(recipe, recipe.data.train, base, kind)
    refuse_bad_rows(found, recipe.data.bad_rows)
    if recipe.data.held_out:
        apart = _read(recipe, recipe.data.held_out, base, kind)
        refuse_bad_rows(apart, recipe.data.bad_rows)
        train, held_out = found.good, apart.good
    else:
        train, held_out = _split(found.good, recipe.data.held_out_share, recipe.train.seed)
    steps = recipe.train.steps(len(train))
    return Prepared(
        recipe, base, found, train, held_out, steps, _plan(recipe, base, train), _identity(recipe, base, train)
    )


def run(recipe: Recipe, home: Home, progress: Progress, *, force: bool = False, kind: str = "") -> Outcome:
    """Tune, evaluate, save. The same recipe again goes on from its last checkpoint, or gives its finished outcome.

    Args:
        force: start although the memory plan says that it does not fit.
        kind: suffix of data files whose name has none (uploads).

    Raises:
        DoesNotFit: with the nearest plan that does. Diverged: the loss is no number any more.
        Conflict: the name belongs to another run.
    """
    from ninestory.training.allocator import fix_malloc_thresholds
    from ninestory.training.loop import Training
    from ninestory.training.methods import prepare as prepare_method

    fix_malloc_thresholds()
    prepared = prepare(recipe, home, progress, kind=kind)
    refuse_what_does_not_fit(prepared, force=force)
    folder = RunFolder(home.runs / prepared.name)
    folder.open(dataclasses.asdict(dataclasses.replace(recipe, name=prepared.name)), prepared.identity)

    from ninestory.floors.finetuning.evaluate import Evaluator, kept_side

    model = load_weights(prepared.base, home, progress, packed=recipe.method.name == "qlora")
    evaluator = Evaluator(prepared, progress)
    before = kept_side(folder.path / "base.json", lambda: evaluator.side(model, packs=True))
    tuned = prepare_method(model, recipe.method, seed=recipe.train.seed, total_steps=prepared.steps)
    training = Training(
        tuned,
        [example.row for example in prepared.train],
        recipe.train,
        folder,
        progress,
        [example.row for example in prepared.held_out],
    )
    result = training.run()
    training.load_best()
    reference = _save(prepared, folder, tuned)
    after = evaluator.side(tuned.module, packs=tuned.packs)
    comparison = compare(evaluator.cases, before, after)
    report = _write_report(prepared, folder, comparison)
    progress.event("finished", reference=reference, report=str(report), verdict=comparison.verdict)
    return Outcome(
        prepared.name,
        folder.path,
        reference,
        result.steps,
        training.seen_tokens,
        result.losses[-1],
        result.stopped_early,
        comparison,
        report,
    )


def refuse_what_does_not_fit(prepared: Prepared, *, force: bool) -> None:
    """Raises DoesNotFit, with the nearest plan that fits in its hint."""
    plan = prepared.plan
    if force or plan is None or plan.fits:
        return
    shape = prepared.base.shape
    nearest = shape and nearest_that_fits(plan.model, shape, plan.job)
    changed = _difference(plan.job, nearest.job) if nearest else ""
    raise DoesNotFit(
        f"This run needs about {plan.total_bytes / 1e9:.1f} GB, and {plan.available_bytes / 1e9:.1f} GB are free.",
        hint=f"This fits: {changed} ({nearest.total_bytes / 1e9:.1f} GB). --force starts it as it is."
        if nearest
        else "Nothing smaller fits either: take a smaller model. --force starts it as it is.",
        hint_zh=f"这样放得下：{changed}（{nearest.total_bytes / 1e9:.1f} GB）。--force 可强制启动。"
        if nearest
        else "更小的设置也放不下：请换用更小的模型。--force 可强制启动。",
    )


def _difference(asked: TuningJob, fits: TuningJob) -> str:
    changes = []
    if fits.method != asked.method:
        changes.append(f"method.name: {fits.method}")
    if fits.tokens != asked.tokens:
        changes.append(f"train.micro_batch_tokens: {fits.tokens}")
    if fits.checkpointing != asked.checkpointing:
        changes.append("train.gradient_checkpointing: true")
    return ", ".join(changes)


def _read(recipe: Recipe, names: list[str], base: Base, kind: str) -> Examples:
    data = recipe.data
    return read_examples(
        [Path(name).expanduser() for name in names],
        base.tokenizer,
        base.prompts,
        max_length=data.max_length,
        form=data.form,
        limit=data.limit,
        kind=kind,
    )


def _split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Held-out rows by a permutation of the seed; none where there are too few rows to give any away."""
    count = min(MOST_HELD_OUT, max(1, round(share * len(examples)))) if share and len(examples) > 1 else 0
    if not count:
        return examples, []
    order = epoch_order(len(examples), seed, epoch=-1)
    chosen = set(order[:count])
    return [e for i, e in enumerate(examples) if i not in chosen], [examples[i] for i in sorted(chosen)]


def _plan(recipe: Recipe, base: Base, train: list[Example]) -> TuningPlan | None:
    """From the largest micro-batch of the first steps: the memory follows the rows that there are, not the limit."""
    shape = base.shape
    if shape is None:
        return None
    settings, method = recipe.train, recipe.method
    rows = [example.row for example in train]
    tokens, labels = 1, 1
    for step in range(min(50, settings.steps(len(rows)))):
        batch = [rows[i] for i in rows_of_step(step, len(rows), settings.batch, settings.seed)]
        padded = method.name in ("prompt", "prefix", "p_tuning_v2")
        for piece in micro_batches([len(row.ids) for row in batch], settings.micro_batch_tokens, padded=padded):
            lengths = [len(batch[i].ids) for i in piece]
            here = max(lengths) * len(lengths) if padded else sum(lengths)
            if here > tokens:
                tokens, labels = here, sum(batch[i].learned for i in piece)
    job = TuningJob(
        method.name, tokens, max(1, labels), method.rank, method.blocks, method.virtual_tokens,
        settings.gradient_checkpointing,
    )  # fmt: skip
    return plan_tuning(recipe.model.name, shape, job)


def _identity(recipe: Recipe, base: Base, train: list[Example]) -> dict[str, Any]:
    """What must be equal for a checkpoint to be gone on from."""
    digest = hashlib.sha256()
    for example in train:
        digest.update(json.dumps([example.row.ids, example.row.labels]).encode())
    settings = dataclasses.asdict(recipe.train)
    for free in ("keep", "save_every", "patience", "evaluate_every"):
        settings.pop(free)
    return {
        "base": base.fingerprint,
        "data": digest.hexdigest()[:16],
        "method": dataclasses.asdict(recipe.method),
        "train": settings,
    }


def _save(prepared: Prepared, folder: RunFolder, tuned: Any) -> str:
    """Adapter or model, and the run's alias; returns the reference of the tuned model."""
    from ninestory.training.adapter_save import save_adapter, save_model

    base, recipe = prepared.base, prepared.recipe
    note = {
        "base": base.reference,
        "base_fingerprint": base.fingerprint,
        "template": base.prompts.id if base.prompts else "",
        "recipe": folder.recipe(),
        "created_at": int(time.time()),
    }
    if recipe.method.name in ("full", "freeze"):
        save_model(tuned.module, folder.path / "model", base.folder, note)
    if recipe.method.name != "full":
        save_adapter(tuned, folder.adapter, base.reference, note)
    alias = {"alias": f"ft:{prepared.name}", **note}
    with atomic_write(folder.path / "ninestory.json", "w") as file:
        json.dump(alias, file, ensure_ascii=False, indent=2)
    return str(alias["alias"])


def _write_report(prepared: Prepared, folder: RunFolder, comparison: Comparison) -> Path:
    """report.html and report.md."""
    flat: dict[str, Any] = {}
    for part, values in folder.recipe().items():
        flat |= {f"{part}.{k}": v for k, v in values.items()} if isinstance(values, dict) else {part: values}
    report = TuningReport(
        title=prepared.name,
        recipe={name: value for name, value in flat.items() if value not in ("", [], 0)},
        training=[(line["step"], line["loss"]) for line in folder.lines("step")],
        evaluations=[(line["step"], line["loss"]) for line in folder.lines("evaluation")],
        comparison=comparison,
        language=prepared.recipe.evaluate.language,
    )
    for name, text in (("report.html", as_html(report)), ("report.md", as_markdown(report))):
        with atomic_write(folder.path / name, "w") as file:
            file.write(text)
    return folder.path / "report.html"

"""A prepared run: data read and split, steps and memory predicted. Loads no weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import DoesNotFit, InvalidRequest
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.floors.finetuning.base import Base, open_base
from ninestory.floors.finetuning.example_file import SelectedExamples, SelectedRows
from ninestory.floors.finetuning.examples import Examples, read_examples, refuse_invalid_rows
from ninestory.floors.finetuning.mixture import Share, held_out_places, mix
from ninestory.floors.finetuning.recipe import FineTuningRecipe
from ninestory.runtimes.torch.plan import installed_memory
from ninestory.training.batches import PreferencePair, TokenRow, micro_batches
from ninestory.training.plan import TuningJob, TuningPlan, nearest_that_fits, plan_tuning

_PADDED_FAMILIES = ("chatglm", "bloom", "codegen", "moss", "rwkv")  # as objectives/causal.py finds out by trying


@dataclass(frozen=True)
class Batches:
    """Sizes of the first steps of a run, in tokens; where rows are padded, padding counts.

    Attributes:
        largest: tokens of the largest micro-batch. largest_labels: its labels.
        tokens, labels: of an average step.
    """

    largest: int
    largest_labels: int
    tokens: float
    labels: float


@dataclass(frozen=True)
class PreparedRun:
    """A run before it starts, as `tune run --dry-run` and `tune inspect` show it."""

    recipe: FineTuningRecipe
    base: Base
    examples: Examples
    shares: list[Share]
    train: SelectedExamples
    held_out: SelectedExamples
    steps: int
    batches: Batches
    plan: TuningPlan | None  # None: the model states no shape
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """Run name: the recipe's, else `<model>-<method>-<hash>`."""
        if self.recipe.name:
            return self.recipe.name
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:6]
        model = self.recipe.model.name.rpartition(":")[2].rpartition("/")[2].replace("+", "-")
        return f"{model[:40]}-{self.recipe.method.name}-{digest}"


def prepare_run(recipe: FineTuningRecipe, home: Home, progress: Progress, *, suffix: str = "") -> PreparedRun:
    """Read the data and the base's header, split, and predict steps and memory. Loads no weights.

    Raises:
        InvalidRequest: no data, rows that cannot be used, a length above the model's context.
    """
    if not recipe.data.train:
        raise InvalidRequest(
            "data.train is empty; expected at least one file.",
            hint="Set data.train to a file, or give --data.",
            hint_zh="请在 data.train 中指定数据文件，或使用 --data。",
            param="data.train",
        )
    base = open_base(recipe.model.name, recipe.model.template, home, progress)
    if recipe.data.max_length > base.resolved.context:
        raise InvalidRequest(
            f"data.max_length is {recipe.data.max_length}; {recipe.model.name} expects at most {base.resolved.context}.",
            hint=f"Take {base.resolved.context} or less.",
            hint_zh=f"请取不超过 {base.resolved.context} 的值。",
            param="data.max_length",
        )
    examples = _read(recipe, recipe.data.train, base, home, suffix)
    refuse_invalid_rows(examples, recipe.data.on_invalid_row)
    seed, held_out_set = recipe.train.seed, frozenset[int]()
    if recipe.data.held_out:
        separate = _read(recipe, recipe.data.held_out, base, home, suffix)
        refuse_invalid_rows(separate, recipe.data.on_invalid_row)
        held_out = SelectedExamples(separate.good, range(len(separate.good)))
    else:
        places = held_out_places(len(examples.good), recipe.data.held_out_share, seed)
        held_out, held_out_set = SelectedExamples(examples.good, places), frozenset(places)
    order, shares = mix(examples.sources, recipe.data.weights, held_out_set, seed)
    train = SelectedExamples(examples.good, order)
    steps = recipe.train.steps(len(train))
    batches = _batches(recipe, base.resolved.architecture, train.rows)
    plan, identity = _plan(recipe, base, batches), _identity(recipe, base, train.rows)
    return PreparedRun(recipe, base, examples, shares, train, held_out, steps, batches, plan, identity)


def refuse_oversized_run(prepared: PreparedRun, *, force: bool) -> None:
    """Refuse a run that does not fit in memory.

    Raises:
        DoesNotFit: with the nearest plan that fits in its hint.
    """
    plan = prepared.plan
    if force or plan is None or plan.fits:
        return
    shape = prepared.base.shape
    nearest = shape and nearest_that_fits(plan.model, shape, plan.job, free=installed_memory())
    changed = _difference(plan.job, nearest.job) if nearest else ""
    lacking = plan.lacking
    place = f" on {lacking.device} ({lacking.name})" if lacking.name else ""
    raise DoesNotFit(
        f"This run needs about {lacking.needed_bytes / 1e9:.1f} GB{place}; {lacking.free_bytes / 1e9:.1f} GB are free.",
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


def _read(recipe: FineTuningRecipe, names: list[str], base: Base, home: Home, suffix: str) -> Examples:
    data = recipe.data
    return read_examples(
        [Path(name).expanduser() for name in names],
        base.tokenizer,
        base.prompts,
        max_length=data.max_length,
        data_format=data.format,
        objective=recipe.objective,
        limit=data.limit,
        suffix=suffix,
        folder=home.cache,
    )


def _batches(recipe: FineTuningRecipe, family: str, rows: SelectedRows) -> Batches:
    """Measure the first fifty steps: memory and time follow the actual rows, not the limit."""
    settings = recipe.train
    padded = not recipe.method.spec.packs or family in _PADDED_FAMILIES
    steps = min(50, settings.steps(len(rows)))
    micro_batch_sizes: list[tuple[int, int]] = []
    for step in range(steps):
        batch = [rows[i] for i in settings.rows_of_step(step, rows)]
        for piece in micro_batches([row.size for row in batch], settings.micro_batch_tokens, padded=padded):
            lengths = [batch[i].size for i in piece]
            tokens = max(lengths) * len(lengths) if padded else sum(lengths)
            micro_batch_sizes.append((tokens, sum(_labels(batch[i]) for i in piece)))
    largest, largest_labels = max(micro_batch_sizes)
    totals = [sum(column) / steps for column in zip(*micro_batch_sizes, strict=True)]
    return Batches(largest, max(1, largest_labels), *totals)


def _plan(recipe: FineTuningRecipe, base: Base, batches: Batches) -> TuningPlan | None:
    shape = base.shape
    if shape is None:
        return None
    method = recipe.method
    job = TuningJob(
        method.name, batches.largest, batches.largest_labels, method.rank, method.trainable_layers, method.virtual_tokens,
        recipe.train.gradient_checkpointing, tuple(method.modules_to_save), recipe.train.optimizer,
    )  # fmt: skip
    return plan_tuning(recipe.model.name, shape, job, free=installed_memory())


def _labels(row: TokenRow | PreferencePair) -> int:
    """Number of positions whose logits are computed."""
    return row.chosen.weight + row.rejected.weight if isinstance(row, PreferencePair) else row.weight


def digest(rows: Sequence[TokenRow] | Sequence[PreferencePair]) -> str:
    """Digest of the training rows, 16 hex digits."""
    hasher = hashlib.sha256()
    for row in rows:
        for text in (row.chosen, row.rejected) if isinstance(row, PreferencePair) else (row,):
            hasher.update(json.dumps([text.ids, text.labels]).encode())
    return hasher.hexdigest()[:16]


def _identity(recipe: FineTuningRecipe, base: Base, rows: SelectedRows) -> dict[str, Any]:
    """Values that must be equal for a checkpoint to be resumed."""
    settings = dataclasses.asdict(recipe.train)
    for free in ("keep", "save_every", "patience", "evaluate_every", "parallel"):
        settings.pop(free)
    return {
        "kind": recipe.kind,
        "base": base.fingerprint,
        "data": digest(rows),
        "method": dataclasses.asdict(recipe.method),
        "train": settings,
    }

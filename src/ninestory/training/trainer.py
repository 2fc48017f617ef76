"""The training loop: micro-batches of a size budget, one optimizer step each, evaluated, checkpointed, resumable.

Batch order and the random parts of a row come from the seed, dropout from torch's generator, whose state is saved, and
the order of every sum is fixed: a run that is killed at any moment and started again gives the same bits, on the same
kind of machine with the same number of threads. Under torchrun each process takes its share of every step's rows
(`processes`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.progress import Progress
from ninestory.training import checkpoints
from ninestory.training.batches import EVALUATION, TrainingRow, micro_batches, read_rows
from ninestory.training.methods import AdaptedModel
from ninestory.training.objective import Objective
from ninestory.training.precision import autocast
from ninestory.training.processes import SINGLE_PROCESS, Processes, full_tensor, shard
from ninestory.training.run_folder import RunFolder
from ninestory.training.schedule import learning_rate
from ninestory.training.settings import TrainSettings
from ninestory.training.tensorboard_log import TensorBoardLog
from ninestory.training.train_state import TrainState, from_checkpoint, load_trainable, to_checkpoint


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `losses`: of every step since its first."""

    steps: int
    losses: list[float]
    best_step: int | None
    best_loss: float | None
    stopped_early: bool


class Diverged(NinestoryError):
    """The loss or its gradient is NaN or infinite; the weights of the step before are saved."""

    status, default_code, exit_code = 422, "training_diverged", 12


class Trainer:
    """One run of an objective over an adapted model. `run` continues from the folder's newest checkpoint, if any."""

    def __init__(
        self,
        adapted: AdaptedModel,
        make_objective: Callable[[AdaptedModel], Objective[Any]],
        make_optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        rows: Sequence[TrainingRow],
        held_out: Sequence[TrainingRow],
        settings: TrainSettings,
        folder: RunFolder,
        progress: Progress,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        """Prepare a run. Both makers are called here, after checkpointing and sharding have changed the model.

        Args:
            make_optimizer: from the objective's parameter groups.
            rows: may be `RandomRows`. held_out: rows for the evaluations; may be empty.
            folder: must exist.

        Raises:
            InvalidRequest: there are no rows. Unsupported: the method cannot be sharded.
        """
        if not rows:
            raise InvalidRequest(
                "There is no row to train on.",
                hint="'ninestory tune inspect' shows which rows were left out and why.",
                hint_zh="运行 ninestory tune inspect 查看被剔除的样本及原因。",
                param="data",
                code="no_rows",
            )
        self.adapted, self.rows, self.held_out = adapted, rows, held_out
        self.settings, self.folder, self.progress = settings, folder, progress
        self.processes, self.sharded = processes, settings.parallel == "fsdp2" and processes.world > 1
        if settings.gradient_checkpointing:
            _enable_gradient_checkpointing(adapted)
        if self.sharded:
            shard(adapted, processes)
        self.objective = make_objective(adapted)
        self.optimizer = make_optimizer(self.objective.parameter_groups(adapted))
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.autocast = autocast(settings.precision, self.objective.device)
        self.total_steps = settings.steps(len(rows))
        self.state = TrainState()
        self._status_line = ""
        self._curves = TensorBoardLog()

    def run(self) -> TrainResult:
        """Train to the end.

        Raises:
            Diverged: NaN or infinite loss. Cancelled: after a checkpoint of the last step has been written.
            DiskFull: while saving; the checkpoint before stands.
        """
        torch.manual_seed(self.settings.seed)  # dropout draws from torch's own generator
        self._resume()
        if self.processes.first and self.state.step < self.total_steps:
            self._curves = TensorBoardLog(self.folder.path / "tensorboard", self.state.step + 1)
        try:
            stopped_early = self._train()
            self._evaluate()
        except NinestoryError as error:
            # the other processes' shares are out of reach
            if error.code in ("cancelled", "shutting_down") and not self.sharded:
                self._save()
            raise
        finally:
            self._curves.close()
        self._save()
        if self.processes.first:
            self.folder.draw_curve()
        self.processes.wait()
        losses = [line["loss"] for line in self.folder.lines("step")]
        best_step, best_loss = self.state.best or (None, None)
        return TrainResult(self.state.step, losses, best_step, best_loss, stopped_early)

    def load_best(self) -> None:
        """Load the weights of the best evaluation, if its checkpoint was kept and is not the last one."""
        best = self.state.best
        if best is None or best[0] == self.state.step:
            return
        path = self.folder.checkpoints / f"step-{best[0]:08d}"
        if path.is_dir():
            load_trainable(self.adapted, checkpoints.load(path))

    def load_result_into(self, adapted: AdaptedModel) -> None:
        """Load the trained weights, best or last, into a model that was prepared alike and is not sharded."""
        step = self.state.best[0] if self.state.best else self.state.step
        path = self.folder.checkpoints / f"step-{step:08d}"
        if not path.is_dir():
            path = self.folder.checkpoints / f"step-{self.state.step:08d}"
        load_trainable(adapted, checkpoints.load(path))

    def _train(self) -> bool:
        """Run the remaining steps; True if the patience ran out before the last one."""
        self.adapted.module.train()
        while self.state.step < self.total_steps:
            self._train_step()
            is_best = self._is_due(self.settings.evaluate_every) and self._evaluate()
            if is_best or (self._is_due(self.settings.save_every) and self.state.step < self.total_steps):
                self._save()
            out_of_patience = 0 < self.settings.patience <= self.state.evaluations_without_gain
            self.progress.update(self.state.step, self.total_steps, self._status_line)
            if out_of_patience:
                return True
        return False

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.state.step % every == 0

    # --- one step ----------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        settings, state, started_at = self.settings, self.state, time.monotonic()
        if self.processes.world > 1:  # dropout of a step that is run again draws the same, in every process
            torch.manual_seed((settings.seed * 1_000_003 + state.step) * self.processes.world + self.processes.rank)
        rng_state = torch.get_rng_state()
        indices = settings.rows_of_step(state.step, self.rows)
        batch = read_rows(self.rows, indices, seed=settings.seed, step=state.step)
        rate = self._set_learning_rate()
        self.objective.before_step(batch, rate)
        loss = self._accumulate_gradients(batch)
        if (penalty := self.adapted.regulariser()) is not None:
            penalty.backward()
        norm = self._clip_gradients()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(loss, norm, rng_state)
        self.optimizer.step()
        self.adapted.after_step(state.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step()
        state.step += 1
        self._log_step(loss, rate, norm, sum(row.size for row in batch), time.monotonic() - started_at)

    def _set_learning_rate(self) -> float:
        """Set every group's rate by the schedule, in its ratio to the run's; return the run's."""
        settings = self.settings
        warmup_steps = math.ceil(settings.warmup_ratio * self.total_steps)
        rate = learning_rate(
            self.state.step, self.total_steps, settings.learning_rate, warmup_steps, settings.lr_scheduler
        )
        for group, base_rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            ratio = base_rate / settings.learning_rate if settings.learning_rate else 0.0
            group["lr"] = rate * ratio
        return rate

    def _accumulate_gradients(self, batch: Sequence[TrainingRow]) -> float:
        """Add up the gradients of the step's mean loss, over all processes; return the loss."""
        loss, scale = 0.0, 1.0 / sum(row.weight for row in batch)
        if self.sharded:
            scale *= self.processes.world  # FSDP averages the processes' gradients; a sum is wanted
        for micro_batch, factor in self._micro_batches(batch):
            with self.autocast():
                part = self.objective.loss(micro_batch, factor * scale)
            part.backward()
            loss += part.item()
        if self.sharded:
            return self.processes.all_reduce([], loss / self.processes.world)
        return self.processes.all_reduce(self.adapted.trainable.values(), loss)

    def _micro_batches(self, batch: Sequence[TrainingRow]) -> list[tuple[list[TrainingRow], float]]:
        """This process's micro-batches with the factor 1; sharded processes must all run the same number of them."""
        by_rank = [self._split(self.processes.share(batch, rank)) for rank in range(self.processes.world)]
        own = [(rows, 1.0) for rows in by_rank[self.processes.rank]]
        needed = max(map(len, by_rank)) if self.sharded else 0
        return own + [([next(row for row in batch if row.weight)], 0.0)] * (needed - len(own))

    def _split(self, rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
        """Micro-batches in which at least one row counts."""
        if self.objective.whole_batch:
            parts = [list(rows)]
        else:
            sizes, budget = [row.size for row in rows], self.settings.micro_batch_tokens
            places = micro_batches(sizes, budget, padded=not self.objective.packed)
            parts = [[rows[i] for i in piece] for piece in places]
        return [part for part in parts if any(row.weight for row in part)]

    def _clip_gradients(self) -> float:
        """Scale the gradients down to the largest norm allowed; return the norm before."""
        max_norm = self.settings.max_gradient_norm or math.inf
        return float(full_tensor(torch.nn.utils.clip_grad_norm_(self.adapted.trainable.values(), max_norm)))

    def _log_step(self, loss: float, rate: float, norm: float, size: float, seconds: float) -> None:
        self.state.seen += size
        unit, speed = self.objective.unit, size / max(seconds, 1e-9)
        values = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, unit: size}
        values |= self.objective.metrics()
        self._log("step", **values, **{f"{unit}_per_second": round(speed, 1)})
        self.progress.event("step", step=self.state.step, total=self.total_steps, **values)
        self._status_line = f"loss {loss:.4f}, {speed:.0f} {unit}/s"

    def _log(self, kind: str, **values: Any) -> None:
        """Write a line of the log and a point of each TensorBoard curve, in the first process."""
        if self.processes.first:
            self.folder.write(kind, self.state.step, **values)
        self._curves.write(kind, self.state.step, **values)

    def _diverged(self, loss: float, norm: float, rng_state: torch.Tensor) -> Diverged:
        """Save the weights, which this step has not touched, as the last good state.

        An objective with buffers may have changed them in `before_step`; then the checkpoint before stands.
        """
        torch.set_rng_state(rng_state)
        self.optimizer.zero_grad(set_to_none=True)
        finite = all(torch.isfinite(full_tensor(p)).all() for p in self.adapted.trainable.values())
        if finite and self.state.step and not self.objective.buffers():
            self._save()
        return Diverged(
            f"Step {self.state.step + 1} gave the loss {loss} and the gradient norm {norm}; expected finite numbers. "
            "The weights before it are kept.",
            hint=f"Halve the learning rate ({self.settings.learning_rate:g}), lengthen the warm-up, or take float32.",
            hint_zh=f"请将学习率（{self.settings.learning_rate:g}）减半、延长预热，或改用 float32。",
            param="train.learning_rate",
        )

    # --- evaluation and checkpoints ----------------------------------------------------------------------------

    def _evaluate(self) -> bool:
        """Measure the held-out loss, at most once a step; True if it is the best so far."""
        state = self.state
        if not self.held_out or state.evaluated_step == state.step:
            return False
        state.evaluated_step = state.step
        loss = mean_loss(self.objective, self.held_out, self.settings)
        values = {"loss": loss, **self.objective.metrics()}
        self._log("evaluation", **values)
        self.progress.event("evaluation", step=state.step, **values)
        is_best = state.best is None or loss < state.best[1]
        if is_best:
            state.best = (state.step, loss)
        state.evaluations_without_gain = 0 if is_best else state.evaluations_without_gain + 1
        return is_best

    def _save(self) -> None:
        """Write a checkpoint; only ever called between steps, so there are no half-accumulated gradients to keep."""
        state = self.state
        if state.step == state.saved_step:
            return
        checkpoint = to_checkpoint(state, self.adapted, self.objective, self.optimizer, self.processes.world)
        if self.processes.first:
            best_step = state.best[0] if state.best else None
            checkpoints.save(self.folder.checkpoints, checkpoint, keep=self.settings.keep, best=best_step)
        state.saved_step = state.step
        self.progress.checkpoint({"step": state.step})
        self.progress.event("checkpoint", step=state.step)

    def _resume(self) -> None:
        """Restore the folder's newest checkpoint and drop the log lines after it."""
        checkpoint = checkpoints.newest(self.folder.checkpoints)
        self.processes.wait()  # all have read it before any writes
        if self.processes.first:
            checkpoints.sweep(self.folder.checkpoints)
            self.folder.rewind(checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return
        changes = checkpoints.differences(checkpoint.numbers["environment"], world=self.processes.world)
        if changes:
            self.progress.event(
                "warning", message=f"the last bits will differ from the first run: {'; '.join(changes)}"
            )
        self.state = from_checkpoint(checkpoint, self.adapted, self.objective, self.optimizer)
        self.progress.event("resumed", step=self.state.step)


def mean_loss(objective: Objective[Any], rows: Sequence[TrainingRow], settings: TrainSettings) -> float:
    """Return the mean loss of held-out rows, dropout off; NaN without any weight.

    Rows are evaluated by the micro-batch budget, or by steps of `settings.batch_size` rows for whole-batch objectives.
    """
    training = objective.model.training
    objective.model.eval()
    try:
        total, weight = 0.0, 0.0
        for piece in _evaluation_batches(objective, rows, settings):
            part, part_weight = objective.evaluate(read_rows(rows, piece, seed=settings.seed, step=EVALUATION))
            total, weight = total + part, weight + part_weight
        return total / weight if weight else math.nan
    finally:
        objective.model.train(training)


def _evaluation_batches(
    objective: Objective[Any], rows: Sequence[TrainingRow], settings: TrainSettings
) -> list[list[int]]:
    if objective.whole_batch:
        starts = range(0, len(rows), settings.batch_size)
        return [list(range(start, min(start + settings.batch_size, len(rows)))) for start in starts]
    return micro_batches([row.size for row in rows], settings.micro_batch_tokens, padded=not objective.packed)


def _enable_gradient_checkpointing(adapted: AdaptedModel) -> None:
    """Recompute each block in the backward pass.

    Raises:
        InvalidRequest: prefix tuning, whose cached keys clash with the recomputation.
    """
    if adapted.method.name == "prefix":
        raise InvalidRequest(
            "Prefix tuning cannot be combined with gradient checkpointing.",
            hint="Set train.gradient_checkpointing to false, or take prompt tuning or LoRA.",
            hint_zh="请关闭 train.gradient_checkpointing，或改用 prompt、lora。",
            param="train.gradient_checkpointing",
        )
    model: Any = adapted.module
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

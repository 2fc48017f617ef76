"""The training loop: AdamW over micro-batches of a token budget, evaluated, checkpointed, resumable to the bit.

Every random choice comes from the seed (batch order) or from torch's generator (dropout), whose state is saved, and
the order of every sum is fixed: a run killed at any moment and started again gives the same weights, on the same kind
of machine with the same number of threads.
Under torchrun each process takes its share of every step's rows (`processes`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ninestory.core.errors import InvalidRequest, NinestoryError
from ninestory.core.progress import Progress
from ninestory.training import checkpoints
from ninestory.training.batches import Pair, Row, micro_batches
from ninestory.training.checkpoints import Checkpoint
from ninestory.training.forward import CausalForward, Forward
from ninestory.training.methods import Tuned
from ninestory.training.precision import autocast
from ninestory.training.preference import forward_of
from ninestory.training.processes import ALONE, Processes, shard, shared_out, whole
from ninestory.training.run_folder import RunFolder
from ninestory.training.schedule import learning_rate
from ninestory.training.settings import TrainSettings
from ninestory.training.tensorboard_log import TensorBoardLog


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `losses` of every step since its first."""

    steps: int
    losses: list[float]
    best_step: int | None
    best_loss: float | None
    stopped_early: bool


class Diverged(NinestoryError):
    """The loss or its gradient is no number any more; the weights of the step before are saved."""

    status, default_code, exit_code = 422, "training_diverged", 12


class Training:
    """One run. `run` goes on from the folder's newest checkpoint, if there is one."""

    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Row] | Sequence[Pair],
        settings: TrainSettings,
        folder: RunFolder,
        progress: Progress,
        held_out: Sequence[Row] | Sequence[Pair] = (),
        processes: Processes = ALONE,
    ) -> None:
        if not rows:
            raise InvalidRequest(
                "There is no row to train on.",
                hint="'ninestory tune inspect' shows which rows were left out and why.",
                hint_zh="运行 ninestory tune inspect 查看被剔除的样本及原因。",
                param="data",
                code="no_rows",
            )
        self.tuned, self.rows, self.held_out = tuned, rows, held_out
        self.settings, self.folder, self.progress = settings, folder, progress
        self.processes, self.sharded = processes, settings.parallel == "fsdp2" and processes.world > 1
        if settings.gradient_checkpointing:
            _checkpoint_gradients(tuned)
        if self.sharded:
            shard(tuned, processes)
        self.forward: Forward = forward_of(CausalForward(tuned.module, allow_packing=tuned.packs), settings)
        self.autocast = autocast(settings.precision, self.forward.device)
        decayed = [p for p in tuned.trainable.values() if p.dim() > 1]
        plain = [p for p in tuned.trainable.values() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )
        self.total = settings.steps(len(rows))
        self.step = 0
        self.best: tuple[int, float] | None = None
        self.without_gain = 0
        self.saved = self.evaluated = 0  # steps
        self.seen_tokens = 0
        self._message = ""
        self._curves = TensorBoardLog()

    def run(self) -> TrainResult:
        """Train to the end.

        Raises:
            Diverged: NaN or infinite loss. Cancelled: a checkpoint of the last step is written first.
            DiskFull: while saving; the checkpoint before stands.
        """
        torch.manual_seed(self.settings.seed)  # dropout draws from torch's own generator
        self._resume()
        if self.processes.first and self.step < self.total:
            self._curves = TensorBoardLog(self.folder.path / "tensorboard", self.step + 1)
        try:
            stopped = self._train()
            self._evaluate()
        except NinestoryError as error:
            if error.code in ("cancelled", "shutting_down") and not self.sharded:  # the others' shares are out of reach
                self._save()
            raise
        finally:
            self._curves.close()
        self._save()
        if self.processes.first:
            self.folder.draw_curve()
        self.processes.wait()
        losses = [line["loss"] for line in self.folder.lines("step")]
        best_step, best_loss = self.best or (None, None)
        return TrainResult(self.step, losses, best_step, best_loss, stopped)

    def _train(self) -> bool:
        """All steps that are left, or until nothing is gained any more: True."""
        self.tuned.module.train()
        while self.step < self.total:
            self._train_step()
            better = self._due(self.settings.evaluate_every) and self._evaluate()
            if better or (self._due(self.settings.save_every) and self.step < self.total):
                self._save()
            stopped = 0 < self.settings.patience <= self.without_gain
            self.progress.update(self.step, self.total, self._message)
            if stopped:
                return True
        return False

    def load_best(self) -> None:
        """Put the weights of the best evaluation back, where they were kept and are not the last ones."""
        if self.best is None or self.best[0] == self.step:
            return
        path = self.folder.checkpoints / f"step-{self.best[0]:08d}"
        if path.is_dir():
            put_weights(self.tuned, checkpoints.load(path))

    def put_result_into(self, tuned: Tuned) -> None:
        """The trained weights, best or last, into a model that is prepared alike and holds them whole."""
        found = self.best[0] if self.best else self.step
        path = self.folder.checkpoints / f"step-{found:08d}"
        if not path.is_dir():
            path = self.folder.checkpoints / f"step-{self.step:08d}"
        put_weights(tuned, checkpoints.load(path))

    # --- one step ----------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        settings, started = self.settings, time.monotonic()
        if self.processes.world > 1:  # dropout of a step that is run again draws the same, in every process
            torch.manual_seed((settings.seed * 1_000_003 + self.step) * self.processes.world + self.processes.rank)
        before = torch.get_rng_state()
        batch = [self.rows[i] for i in settings.rows_of_step(self.step, self.rows)]
        total = self._accumulate(batch)
        if (penalty := self.tuned.regulariser()) is not None:
            penalty.backward()
        norm = self._clip()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise self._diverged(total, norm, before)
        warmup = math.ceil(settings.warmup * self.total)
        rate = learning_rate(self.step, self.total, settings.learning_rate, warmup, settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.tuned.after_step(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._note(total, rate, norm, sum(len(row.ids) for row in batch), time.monotonic() - started)

    def _accumulate(self, batch: list[Row | Pair]) -> float:
        """The gradients of the whole step's mean loss; the mean itself."""
        total, scale = 0.0, 1.0 / sum(row.learned for row in batch)
        if self.sharded:
            scale *= self.processes.world  # FSDP takes the mean of the processes' gradients, and a sum is due
        for part, weight in self._pieces(batch):
            with self.autocast():
                loss = self.forward.loss(part, weight * scale)
            loss.backward()
            total += loss.item()
        if self.sharded:
            return self.processes.add_up([], total / self.processes.world)
        return self.processes.add_up(self.tuned.trainable.values(), total)

    def _pieces(self, batch: list[Row | Pair]) -> list[tuple[list[Row | Pair], float]]:
        """This process's micro-batches, with the weight 1; where weights are shared out, all must run equally many."""
        shares = [self._split(self.processes.share(batch, rank)) for rank in range(self.processes.world)]
        own = [(part, 1.0) for part in shares[self.processes.rank]]
        most = max(map(len, shares)) if self.sharded else 0
        return own + [([next(row for row in batch if row.learned)], 0.0)] * (most - len(own))

    def _split(self, rows: Sequence[Row | Pair]) -> list[list[Row | Pair]]:
        """Micro-batches in which something is learned."""
        lengths = [len(row.ids) for row in rows]
        cut = micro_batches(lengths, self.settings.micro_batch_tokens, padded=not self.forward.packed)
        parts = ([rows[i] for i in piece] for piece in cut)
        return [part for part in parts if any(row.learned for row in part)]

    def _clip(self) -> float:
        """The gradients' norm before they are scaled down to the largest allowed."""
        most = self.settings.max_gradient_norm or math.inf
        return float(whole(torch.nn.utils.clip_grad_norm_(self.tuned.trainable.values(), most)))

    def _note(self, loss: float, rate: float, norm: float, tokens: int, seconds: float) -> None:
        self.seen_tokens += tokens
        speed = tokens / max(seconds, 1e-9)
        values = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "tokens": tokens}
        values |= self.forward.figures()
        self._log("step", **values, tokens_per_second=round(speed, 1))
        self.progress.event("step", step=self.step, total=self.total, **values)
        self._message = f"loss {loss:.4f}, {speed:.0f} tokens/s"

    def _log(self, kind: str, **values: Any) -> None:
        """A line of the log and a point of each of TensorBoard's curves, by the first process."""
        if self.processes.first:
            self.folder.write(kind, self.step, **values)
        self._curves.write(kind, self.step, **values)

    def _diverged(self, loss: float, norm: float, rng: torch.Tensor) -> Diverged:
        """The weights have not been touched by this step: save them as the last good state."""
        torch.set_rng_state(rng)
        self.optimizer.zero_grad(set_to_none=True)
        if all(torch.isfinite(whole(p)).all() for p in self.tuned.trainable.values()) and self.step:
            self._save()
        return Diverged(
            f"Step {self.step + 1} gave the loss {loss} and the gradient norm {norm}; the weights before it are kept.",
            hint=f"Halve the learning rate ({self.settings.learning_rate:g}), lengthen the warm-up, or take float32.",
            hint_zh=f"请将学习率（{self.settings.learning_rate:g}）减半、延长预热，或改用 float32。",
            param="train.learning_rate",
        )

    # --- evaluation --------------------------------------------------------------------------------------------

    def _evaluate(self) -> bool:
        """Loss on the held-out rows, once a step; True when it is the best so far."""
        if not self.held_out or self.evaluated == self.step:
            return False
        self.evaluated = self.step
        loss = mean_loss(self.forward, self.held_out, self.settings.micro_batch_tokens)
        values = {"loss": loss, **self.forward.figures()}
        self._log("evaluation", **values)
        self.progress.event("evaluation", step=self.step, **values)
        better = self.best is None or loss < self.best[1]
        if better:
            self.best = (self.step, loss)
        self.without_gain = 0 if better else self.without_gain + 1
        return better

    def _due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Only ever between steps: there is no half-accumulated gradient to keep."""
        if self.step == self.saved:
            return
        tensors = {f"weight.{name}": whole(p.detach()) for name, p in self.tuned.trainable.items()}
        for name, parameter in self.tuned.trainable.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = whole(value)
        tensors |= {f"method.{name}": value for name, value in self.tuned.buffers().items()}
        tensors["random"] = torch.get_rng_state()
        numbers = {
            "best": self.best,
            "without_gain": self.without_gain,
            "evaluated": self.evaluated,
            "seen_tokens": self.seen_tokens,
            "rank_pattern": self.tuned.rank_pattern,
            "environment": checkpoints.environment(self.processes.world),
        }
        best = self.best[0] if self.best else None
        if self.processes.first:
            checkpoints.save(
                self.folder.checkpoints, Checkpoint(self.step, tensors, numbers), keep=self.settings.keep, best=best
            )
        self.saved = self.step
        self.progress.checkpoint({"step": self.step})
        self.progress.event("checkpoint", step=self.step)

    def _resume(self) -> None:
        found = checkpoints.newest(self.folder.checkpoints)
        self.processes.wait()  # all have read it before any writes
        if self.processes.first:
            checkpoints.sweep(self.folder.checkpoints)
            self.folder.rewind(found.step if found else 0)
        if found is None:
            return
        changed = checkpoints.differences(found.numbers["environment"], world=self.processes.world)
        if changed:
            self.progress.event(
                "warning", message=f"the last bits will differ from the first run: {'; '.join(changed)}"
            )
        put_weights(self.tuned, found)
        for name, parameter in self.tuned.trainable.items():
            if f"adam.step.{name}" in found.tensors:
                kept = {key: found.tensors[f"adam.{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
                averages = {key: shared_out(kept[key], parameter) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": kept["step"], **averages}
        prefix = "method."
        self.tuned.load_buffers({k.removeprefix(prefix): v for k, v in found.tensors.items() if k.startswith(prefix)})
        self.tuned.rank_pattern = found.numbers["rank_pattern"]
        torch.set_rng_state(found.tensors["random"])
        self.step = self.saved = found.step
        self.evaluated = found.numbers["evaluated"]
        self.best = tuple(found.numbers["best"]) if found.numbers["best"] else None
        self.without_gain, self.seen_tokens = found.numbers["without_gain"], found.numbers["seen_tokens"]
        self.progress.event("resumed", step=self.step)


@torch.no_grad()
def put_weights(tuned: Tuned, checkpoint: Checkpoint) -> None:
    """A checkpoint's weights into the parameters that are trained."""
    for name, parameter in tuned.trainable.items():
        parameter.copy_(shared_out(checkpoint.tensors[f"weight.{name}"], parameter))


def mean_loss(forward: Forward, rows: Sequence[Row] | Sequence[Pair], micro_batch_tokens: int) -> float:
    """Mean −log p of the learned tokens of `rows`, dropout off."""
    training = forward.model.training
    forward.model.eval()
    try:
        total, count = 0.0, 0
        lengths = [len(row.ids) for row in rows]
        for piece in micro_batches(lengths, micro_batch_tokens, padded=not forward.packed):
            losses = forward.token_losses([rows[i] for i in piece])
            total, count = total + float(losses.double().sum()), count + len(losses)
        return total / count if count else math.nan
    finally:
        forward.model.train(training)


def _checkpoint_gradients(tuned: Tuned) -> None:
    """Recompute each block in the backward pass; peft's prefix tuning cannot (its cache and the recomputation clash)."""
    if tuned.method.name == "prefix":
        raise InvalidRequest(
            "Prefix tuning cannot be combined with gradient checkpointing.",
            hint="Set train.gradient_checkpointing to false, or take prompt tuning or LoRA.",
            hint_zh="请关闭 train.gradient_checkpointing，或改用 prompt、lora。",
            param="train.gradient_checkpointing",
        )
    model: Any = tuned.module
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

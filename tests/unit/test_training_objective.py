"""The trainer with an objective that is no language model's: a toy adversarial one with a second optimizer.

The generator maps noise to points, the discriminator tells them from the data. Noise comes from (seed, step, row), the
discriminator is stepped in `before_step` with clipping of its own, and an average of the generator follows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.progress import Progress  # noqa: E402
from ninestory.training import checkpoints  # noqa: E402
from ninestory.training.batches import row_seed  # noqa: E402
from ninestory.training.methods import AdaptedModel  # noqa: E402
from ninestory.training.objective import Objective  # noqa: E402
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from ninestory.training.trainer import Diverged, Trainer  # noqa: E402
from tests.tiny_training import KilledAt, trainer  # noqa: E402

SETTINGS = TrainSettings(
    max_steps=10, batch_size=4, micro_batch_tokens=2, learning_rate=1e-2, save_every=4, evaluate_every=5, seed=7
)


@dataclass(frozen=True)
class Point:
    """A data point with the noise that the generator starts from."""

    real: tuple[float, float]
    noise: Any  # float32 [3]
    size: float = 1.0
    weight: float = 1.0


class Points(Sequence[Point]):
    """Points on a circle; `draw` gives each a noise of its own."""

    def __init__(self, count: int) -> None:
        angles = torch.arange(count) * 6.28 / count
        self.places = torch.stack([angles.cos(), angles.sin()], 1).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return Point(tuple(self.places[index]), torch.zeros(3))

    def draw(self, index: int, seed: int) -> Point:
        noise = torch.randn(3, generator=torch.Generator().manual_seed(seed))
        return dataclasses.replace(self[index], noise=noise)


class Adversarial(Objective[Point]):
    """A least-squares adversarial loss, its discriminator's optimizer and an average of the generator."""

    unit = "pictures"

    def __init__(self, adapted: AdaptedModel, *, whole_batch: bool = False) -> None:
        self.model, self.device, self.whole_batch = adapted.module, torch.device("cpu"), whole_batch
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.discriminator = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-2)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.batches: list[list[Point]] = []  # every call of `loss`
        self.discriminator_loss = 0.0

    def before_step(self, rows: Sequence[Point], rate: float) -> None:
        real = torch.tensor([row.real for row in rows])
        with torch.no_grad():
            made = self.model(torch.stack([row.noise for row in rows]))
        loss = (self.discriminator(real) - 1).square().mean() + self.discriminator(made).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), 0.5)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.discriminator_loss = loss.item()

    def loss(self, rows: Sequence[Point], scale: float) -> Any:
        self.batches.append(list(rows))
        made = self.model(torch.stack([row.noise for row in rows]))
        return (self.discriminator(made) - 1).square().sum() * scale

    @torch.no_grad()
    def evaluate(self, rows: Sequence[Point]) -> tuple[float, float]:
        made = self.model(torch.stack([row.noise for row in rows]))
        return float((self.discriminator(made) - 1).square().sum()), len(rows)

    def after_step(self) -> None:
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 0.1)

    def buffers(self) -> dict[str, Any]:
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"discriminator.{name}": value for name, value in self.discriminator.state_dict().items()}
        for name, parameter in self.discriminator.named_parameters():
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    def load_buffers(self, tensors: dict[str, Any]) -> None:
        state = {name.removeprefix("discriminator."): t for name, t in tensors.items() if name.startswith("discrim")}
        self.discriminator.load_state_dict(state)
        for name, parameter in self.discriminator.named_parameters():
            saved = {key: tensors[f"adam.{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = saved
        self.average = {name: tensors[f"average.{name}"].clone() for name in self.average}

    def metrics(self) -> dict[str, float]:
        return {"discriminator_loss": self.discriminator_loss}


@pytest.fixture(scope="module", autouse=True)
def curves_imported() -> None:
    """What draws a run's curves is imported once, outside the tests' own time."""
    pytest.importorskip("torch.utils.tensorboard")
    pytest.importorskip("matplotlib.figure")


def adversarial(
    folder: Path, progress: Progress | None = None, *, whole_batch: bool = False, **changed: Any
) -> Trainer:
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))
    adapted = AdaptedModel(generator, Method(name="full"), dict(generator.named_parameters()))
    settings = dataclasses.replace(SETTINGS, **changed)
    make = lambda adapted: Adversarial(adapted, whole_batch=whole_batch)  # noqa: E731
    return trainer(adapted, Points(10), settings, RunFolder(folder), progress, Points(3), make)


def fingerprint(folder: Path) -> str:
    """Of the last checkpoint's tensors and of all figures of the log, to the last bit."""
    checkpoint = checkpoints.newest(RunFolder(folder).checkpoints)
    assert checkpoint is not None and any(name.startswith("objective.adam.exp_avg.") for name in checkpoint.tensors)
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode() + checkpoint.tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    for line in RunFolder(folder).lines():
        line.pop("pictures_per_second", None)
        digest.update(repr(sorted(line.items())).encode())
    return digest.hexdigest()


@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd's device threads do not survive a fork")
def test_two_optimizers_killed_and_resumed_end_in_the_same_bits(tmp_path: Path) -> None:
    adversarial(tmp_path / "straight").run()
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        adversarial(tmp_path / "killed", KilledAt(7)).run()
        os._exit(1)  # it should have been killed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert checkpoints.newest(tmp_path / "killed" / "checkpoints").step == 5  # type: ignore[union-attr]
    result = adversarial(tmp_path / "killed").run()
    assert result.steps == 10
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "straight")


def test_a_step_is_logged_in_the_objectives_unit_with_its_metrics(tmp_path: Path) -> None:
    adversarial(tmp_path / "run").run()
    line = next(RunFolder(tmp_path / "run").lines("step"))
    assert line["pictures"] == 4 and line["pictures_per_second"] > 0 and line["discriminator_loss"] > 0
    assert "tokens" not in line


def test_the_noise_of_a_row_comes_from_seed_step_and_row_alone(tmp_path: Path) -> None:
    split, whole = adversarial(tmp_path / "split"), adversarial(tmp_path / "whole", whole_batch=True)
    for run in (split, whole):
        run._train_step()
    assert [len(rows) for rows in split.objective.batches] == [2, 2]  # type: ignore[attr-defined]
    assert [len(rows) for rows in whole.objective.batches] == [4]  # type: ignore[attr-defined]
    seen = [[row.noise for rows in run.objective.batches for row in rows] for run in (split, whole)]  # type: ignore[attr-defined]
    assert torch.equal(torch.stack(seen[0]), torch.stack(seen[1]))
    seeds = {row_seed(seed, step, row) for seed in range(3) for step in range(-1, 3) for row in range(3)}
    assert len(seeds) == 3 * 4 * 3 and all(0 <= seed < 2**63 for seed in seeds)


def test_held_out_rows_keep_their_noise(tmp_path: Path) -> None:
    run = adversarial(tmp_path / "run", learning_rate=0.0, max_steps=4, evaluate_every=1)
    run.objective.before_step = lambda rows, rate: None  # type: ignore[method-assign]
    run.run()
    assert len({line["loss"] for line in run.folder.lines("evaluation")}) == 1


def test_a_group_keeps_its_ratio_to_the_learning_rate(tmp_path: Path) -> None:
    run = adversarial(tmp_path / "run")
    parameters = list(run.adapted.trainable.values())
    run.optimizer = torch.optim.AdamW([{"params": parameters[:2], "lr": 1e-3}, {"params": parameters[2:]}], lr=1e-2)
    run.base_rates = [group["lr"] for group in run.optimizer.param_groups]
    for _ in range(5):
        run._train_step()
    slow, fast = (group["lr"] for group in run.optimizer.param_groups)
    assert 0 < fast < 1e-2 and slow == pytest.approx(fast / 10)


def test_a_diverging_step_never_saves_buffers_that_it_has_changed(tmp_path: Path) -> None:
    run = adversarial(tmp_path / "run", save_every=2)
    plain_loss = run.objective.loss
    run.objective.loss = lambda rows, scale: plain_loss(rows, scale) * (float("nan") if run.state.step == 3 else 1)  # type: ignore[method-assign]
    with pytest.raises(Diverged):
        run.run()
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step-00000002"]

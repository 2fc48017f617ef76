"""Optimizers by name: what each machine may take, and that a quantised optimizer's state is resumed to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.errors import Cancelled, Unsupported  # noqa: E402
from ninestory.core.machine import FreeMemory  # noqa: E402
from ninestory.core.progress import Silent  # noqa: E402
from ninestory.training import checkpoints  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.objectives.causal import causal_objective  # noqa: E402
from ninestory.training.optimizers import check_optimizer, make_optimizer  # noqa: E402
from ninestory.training.plan import TunedShape, TuningJob, plan_tuning  # noqa: E402
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from ninestory.training.trainer import Trainer  # noqa: E402
from tests.tiny_training import rows, tiny_llama  # noqa: E402

PAGED = ["paged_adamw_32bit", "paged_adamw_8bit"]


@pytest.mark.parametrize("name", PAGED)
def test_paged_optimizers_are_refused_by_name_without_a_card(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(Unsupported, match=f"train.optimizer is {name}; without CUDA it must be adamw"):
        check_optimizer(TrainSettings(optimizer=name))
    check_optimizer(TrainSettings())


@pytest.mark.parametrize("name", PAGED)
def test_paged_optimizers_are_bitsandbytes_own_where_a_card_is(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    settings = TrainSettings(optimizer=name, learning_rate=3e-4, weight_decay=0.1, beta2=0.95)
    weight, bias = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((4, 4), (4,)))
    made: Any = make_optimizer(settings, [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}])
    assert type(made).__module__.startswith("bitsandbytes") and made.is_paged
    assert made.args.optim_bits == int(name.removeprefix("paged_adamw_").removesuffix("bit"))
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in made.param_groups] == [
        (3e-4, (0.9, 0.95), 0.1),
        (3e-4, (0.9, 0.95), 0.0),
    ]
    with pytest.raises(Unsupported, match="with fsdp2 it must be adamw"):
        check_optimizer(dataclasses.replace(settings, parallel="fsdp2"))


def test_the_state_of_an_8_bit_optimizer_is_resumed_to_the_bit(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    settings = TrainSettings(max_steps=6, batch_size=4, learning_rate=1e-2, save_every=3)

    def run(folder: Path, progress: Silent) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        adapted = adapt_model(tiny_llama(), Method(name="full"), seed=0, total_steps=6)
        make = lambda groups: bitsandbytes.optim.AdamW8bit(groups, lr=1e-2, min_8bit_size=64)  # noqa: E731
        Trainer(adapted, causal_objective, make, rows(8), [], settings, RunFolder(folder), progress).run()
        checkpoint = checkpoints.newest(folder / "checkpoints")
        assert checkpoint is not None
        return checkpoint.tensors

    class StopAt4(Silent):
        def update(self, done: float, total: float | None = None, message: str = "") -> None:
            if done == 4:
                raise Cancelled("stop")

    straight = run(tmp_path / "straight", Silent())
    with pytest.raises(Cancelled):
        run(tmp_path / "stopped", StopAt4())
    resumed = run(tmp_path / "stopped", Silent())
    assert any(tensor.dtype == torch.uint8 for name, tensor in straight.items() if name.startswith("optimizer.state1."))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_plan_counts_a_quarter_of_the_averages_for_8_bit() -> None:
    from ninestory.models.shapes import ModelShape

    shape = TunedShape(
        ModelShape(layers=2, hidden=64, heads=4, kv_heads=4, head_dim=16, vocabulary=100, ffn=128), tied=True
    )
    jobs = [TuningJob("full", 128, 64, optimizer=name) for name in ("adamw", *PAGED)]  # type: ignore[arg-type]
    plain, paged, quantised = (plan_tuning("m", shape, job, free=FreeMemory(0)).optimizer_bytes for job in jobs)
    assert plain == paged == 4 * quantised

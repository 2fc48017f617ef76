"""A run that is killed and started again ends in the same bits; nothing half-written is ever taken for whole."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.errors import Cancelled, Conflict, Damaged, DiskFull, InvalidRequest  # noqa: E402
from ninestory.core.progress import Silent  # noqa: E402
from ninestory.training import checkpoints  # noqa: E402
from ninestory.training.batches import TokenRow  # noqa: E402
from ninestory.training.checkpoints import TrainingCheckpoint  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from ninestory.training.trainer import Diverged, Trainer  # noqa: E402
from tests.tiny_training import KilledAt, rows, tiny_llama, trainer  # noqa: E402

SETTINGS = TrainSettings(max_steps=12, batch_size=4, micro_batch_tokens=40, learning_rate=1e-2, save_every=4, seed=3)


def training(folder: Path, method: Method, *, progress: Any = None, **changed: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    settings = TrainSettings(**{**vars(SETTINGS), "group_by_length": method.name == "prefix", **changed})
    adapted = adapt_model(tiny_llama(), method, seed=settings.seed, total_steps=settings.max_steps)
    return trainer(adapted, rows(11), settings, RunFolder(folder), progress or Silent(), rows(4, seed=9))


def fingerprint(folder: Path) -> str:
    """Of the last checkpoint's tensors and of every loss and gradient norm, to the last bit."""
    found = checkpoints.newest(RunFolder(folder).checkpoints)
    assert found is not None
    digest = hashlib.sha256()
    for name in sorted(found.tensors):
        digest.update(name.encode() + found.tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    for line in RunFolder(folder).lines("step"):
        digest.update(f"{line['step']} {line['loss'].hex()} {line['gradient_norm'].hex()}".encode())
    return digest.hexdigest()


METHODS = {
    "lora": Method(name="lora", dropout=0.1),
    "adalora": Method(name="adalora", rank=2, dropout=0.1),
    "full": Method(name="full"),
    "prefix": Method(name="prefix"),  # padded, and grouped by length
}


def main() -> None:
    """Every process that is killed, below the folder ROOT. One loads torch and forks for each, before any backward pass."""
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    for method in METHODS:
        _forked(lambda method=method: training(root / method, METHODS[method], progress=KilledAt(6)).run())
    _forked(lambda: _torn(root / "torn"))


def _torn(folder: Path) -> None:
    """Die while the first checkpoint is being written, just before it gets its name."""
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    training(folder, METHODS["lora"]).run()


def _forked(run: Callable[[], Any]) -> None:
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        return
    run()
    os._exit(1)  # it was to be killed


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that killed processes left, by method, and `torn`."""
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.unit.test_training_resume", str(root)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=environ, cwd=Path(__file__).parents[2], timeout=200, check=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kill_9_and_run_again_gives_the_same_bits(method: str, killed: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        training(tmp_path / "straight", METHODS[method]).run()
        assert checkpoints.newest(killed / method / "checkpoints").step == 4  # type: ignore[union-attr]
        result = training(killed / method, METHODS[method]).run()
    finally:
        torch.set_num_threads(threads)
    assert result.steps == 12 and len(result.losses) == 12
    assert fingerprint(killed / method) == fingerprint(tmp_path / "straight")


@pytest.mark.slow
def test_a_save_that_was_killed_is_swept_and_never_loaded(killed: Path) -> None:
    torn = list((killed / "torn" / "checkpoints").iterdir())
    assert [p.name.startswith(".tmp-4-") for p in torn] == [True]
    assert checkpoints.newest(killed / "torn" / "checkpoints") is None
    assert training(killed / "torn", METHODS["lora"]).run().steps == 12
    assert not list((killed / "torn" / "checkpoints").glob(".tmp-*"))


def test_a_cancelled_run_keeps_its_last_step_and_goes_on_from_it(tmp_path: Path) -> None:
    straight = training(tmp_path / "straight", METHODS["lora"]).run()

    class StopAt(Silent):
        def update(self, done: float, total: float | None = None, message: str = "") -> None:
            if done == 7:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        training(tmp_path / "run", METHODS["lora"], progress=StopAt()).run()
    assert checkpoints.newest(tmp_path / "run" / "checkpoints").step == 7  # type: ignore[union-attr]
    assert training(tmp_path / "run", METHODS["lora"]).run().losses == straight.losses
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "straight")


def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    first = training(tmp_path / "run", METHODS["lora"]).run()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert training(tmp_path / "run", METHODS["lora"]).run() == first
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_the_run_and_keeps_the_last_good_state(value: float, tmp_path: Path) -> None:
    run = training(tmp_path / "run", METHODS["lora"], save_every=100)
    good: dict[str, Any] = {}
    plain_step = run._train_step

    def poisoned() -> None:
        if run.state.step == 5:
            good.update({name: p.detach().clone() for name, p in run.adapted.trainable.items()})
            run.objective.body.norm.register_forward_hook(lambda *_: _[2] * value)
        plain_step()

    run._train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="Step 6 gave the loss") as raised:
        run.run()
    assert "learning rate" in raised.value.hint and "学习率" in raised.value.hint_zh
    found = checkpoints.newest(tmp_path / "run" / "checkpoints")
    assert found is not None and found.step == 5
    for name, parameter in good.items():
        assert torch.equal(found.tensors[f"weight.{name}"], parameter)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """The system itself refuses to write on: a limit on the size of files, set before the second save."""
    run = training(tmp_path / "run", METHODS["lora"])
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save = run._save

    def short_of_room() -> None:
        if run.state.step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16384, limits[1]))
        save()

    run._save = short_of_room  # type: ignore[method-assign]
    try:
        with pytest.raises(DiskFull, match="step-00000008"):
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    assert training(tmp_path / "run", METHODS["lora"]).run().steps == 12


def test_only_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    result = training(tmp_path / "run", METHODS["lora"], save_every=1, evaluate_every=2, keep=2).run()
    kept = {int(p.name[5:]) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {11, 12, result.best_step}


def test_early_stop_and_the_best_weights(tmp_path: Path) -> None:
    run = training(tmp_path / "run", METHODS["full"], evaluate_every=1, patience=2, learning_rate=0.3, max_steps=50)
    result = run.run()
    assert result.stopped_early and result.steps == result.best_step + 2 < 50  # type: ignore[operator]
    held_out = {line["step"]: line["loss"] for line in run.folder.lines("evaluation")}
    assert min(held_out.values()) == held_out[result.best_step] == result.best_loss
    last = next(iter(run.adapted.trainable.values())).detach().clone()
    run.load_best()
    assert not torch.equal(last, next(iter(run.adapted.trainable.values())))


@pytest.mark.parametrize("name", ["optimizer.pt", "state.bin", "rng_state.pth", "x.pkl"])
def test_a_pickle_in_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    checkpoints.save(tmp_path, TrainingCheckpoint(1, {"weight.a": torch.ones(2)}, {}), keep=2)
    (tmp_path / "step-00000001" / name).write_bytes(b"\x80\x04.")
    with pytest.raises(Damaged, match="never opened"):
        checkpoints.newest(tmp_path)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff" * 40])
def test_a_broken_checkpoint_is_named(file: str, content: bytes | None, tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, TrainingCheckpoint(1, {"weight.a": torch.ones(2)}, {}), keep=2) / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(Damaged, match="step-00000001"):
        checkpoints.newest(tmp_path)


def test_another_number_of_processes_is_refused_and_other_threads_are_told() -> None:
    saved = checkpoints.environment()
    assert checkpoints.differences(saved) == []
    assert checkpoints.differences({**saved, "threads": 99}) == [f"threads 99 → {torch.get_num_threads()}"]
    with pytest.raises(InvalidRequest, match="written by 4 processes"):
        checkpoints.differences({**saved, "world": 4})


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open({"name": "a"}, {"base": "x", "data": "y"})
    folder.open({"name": "a"}, {"base": "x", "data": "y"})
    with pytest.raises(Conflict, match="another data"):
        folder.open({"name": "a"}, {"base": "x", "data": "z"})


def test_the_log_keeps_every_bit_and_the_curves_are_a_picture_and_tensorboards(tmp_path: Path) -> None:
    class StopAt7(Silent):
        def update(self, done: float, total: float | None = None, message: str = "") -> None:
            if done == 7:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        training(tmp_path / "run", METHODS["lora"], evaluate_every=4, progress=StopAt7()).run()
    training(tmp_path / "run", METHODS["lora"], evaluate_every=4).run()
    lines = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [*range(1, 13)]
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert _tensorboard(tmp_path / "run" / "tensorboard", "step/loss") == pytest.approx(dict(enumerate(losses, 1)))
    assert set(_tensorboard(tmp_path / "run" / "tensorboard", "evaluation/loss")) == {4, 8, 12}


def _tensorboard(folder: Path, tag: str) -> dict[int, float]:
    """Step → value, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_no_rows_at_all_is_said(tmp_path: Path) -> None:
    adapted = adapt_model(tiny_llama(), Method(), seed=0, total_steps=1)
    empty: list[TokenRow] = []
    with pytest.raises(InvalidRequest, match="no row to train on"):
        trainer(adapted, empty, SETTINGS, RunFolder(tmp_path))


if __name__ == "__main__":
    main()

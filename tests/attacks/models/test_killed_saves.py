"""kill -9 at every step of a save: what loads afterwards is the old one or the new one, whole."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.paths import replace_directory  # noqa: E402
from ninestory.training import checkpoints  # noqa: E402
from ninestory.training.adapter_save import save_adapter  # noqa: E402
from ninestory.training.checkpoints import TrainingCheckpoint  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.settings import Method  # noqa: E402
from tests.tiny_training import tiny_llama  # noqa: E402

_STEPS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "shutil.rmtree")


def killed_at(step: int, folder: Path, save: Callable[[], Any]) -> bool:
    """Run `save` in a fork that kills itself before its `step`-th access to `folder`; whether it came so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal count
            if event in _STEPS and str(folder) in str(arguments[0]):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            save()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def kill_everywhere(folder: Path, save: Callable[[], Any], check: Callable[[], None]) -> None:
    step = 1
    while killed_at(step, folder, save):
        check()
        step += 1
    assert step > 5  # the hook sees the steps
    check()


def test_a_checkpoint(tmp_path: Path) -> None:
    def checkpoint(step: int) -> TrainingCheckpoint:
        return TrainingCheckpoint(step, {"weight": torch.full((100,), float(step))}, {"loss": step})

    for step in (1, 2):
        checkpoints.save(tmp_path, checkpoint(step), keep=2)
    newest = 2

    def check() -> None:
        found = checkpoints.newest(tmp_path)
        assert found is not None
        assert found.step in (newest, newest + 1)
        for path in tmp_path.glob("step-*"):
            whole = checkpoints.load(path)
            assert torch.equal(whole.tensors["weight"], torch.full((100,), float(whole.step)))
            assert whole.numbers == {"loss": whole.step}
        if found.step == newest + 1:  # the old state again, for the next kill
            (tmp_path / f"step-{newest + 1:08d}").rename(tmp_path / ".tmp-again")

    kill_everywhere(tmp_path, lambda: checkpoints.save(tmp_path, checkpoint(newest + 1), keep=1), check)
    checkpoints.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"step-00000001", "step-00000002", "step-00000003"}


@pytest.mark.parametrize("exchanges", [True, False], ids=["in one step", "by two renames"])
def test_an_adapter(tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    adapted = adapt_model(tiny_llama(), Method("lora", rank=2), seed=1, total_steps=1)
    target = tmp_path / "adapter"

    def save(version: int) -> None:
        with torch.no_grad():
            for parameter in adapted.trainable.values():
                parameter.fill_(version)
        save_adapter(adapted, target, "base", {"version": version}, tmp_path)

    def check() -> None:
        place = target if exchanges or target.is_dir() else target.with_name(".adapter.old")
        version = json.loads((place / "ninestory.json").read_text())["version"]
        assert version in (1, 2)
        tensors = load_file(place / "adapter_model.safetensors")
        assert tensors
        assert all(torch.all(tensor == version) for tensor in tensors.values())

    if not exchanges:
        monkeypatch.setattr("ninestory.core.paths._exchange", lambda one, other: False)
    save(1)
    check()
    kill_everywhere(tmp_path, lambda: save(2), check)
    assert json.loads((target / "ninestory.json").read_text())["version"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_a_kill_left_between_two_renames_is_put_back(tmp_path: Path) -> None:
    old, made, target = tmp_path / ".run.old", tmp_path / "made", tmp_path / "run"
    for folder, text in ((old, "old"), (made, "new")):
        folder.mkdir()
        (folder / "file").write_text(text)
    replace_directory(made, target)
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

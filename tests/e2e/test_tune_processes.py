"""A recipe under `torchrun --nproc-per-node 2`: two processes on gloo give the losses of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import tiny_models

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")

from ninestory.cli.finetuning.tune import app  # noqa: E402
from ninestory.core.errors import InvalidRequest  # noqa: E402

ROWS = [{"prompt": f"the {word}", "completion": word[::-1]} for word in ("ab", "ba", "tab", "bat", "aab", "bta")] * 4
RECIPE = {
    "model": {"name": "./tiny.gguf"},
    "data": {"train": ["rows.jsonl"], "max_length": 32},
    "train": {"max_steps": 4, "learning_rate": 1e-2, "batch_size": 5, "micro_batch_tokens": 20, "save_every": 2},
    "evaluate": {"eval_samples": 1, "max_tokens": 4},
}
RUNS = {
    "ddp": ["method.name=lora"],
    "ddp-grouped": ["method.name=prefix", "train.group_by_length=true"],
    "fsdp2": ["method.name=lora"],
    "fsdp2-full": ["method.name=full"],
}


def run(name: str) -> Any:
    """`ninestory tune run` in this process; its JSON in the first process, nothing in the others."""
    sets = [*RUNS[name], f"train.parallel={name.partition('-')[0]}"]
    flags = [flag for change in sets for flag in ("--set", change)]
    done = CliRunner().invoke(app, ["run", "recipe.yaml", "--name", name, *flags, "--json"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if done.stdout.strip() else None


def main() -> None:
    """What torchrun starts twice."""
    import torch

    torch.set_num_threads(1)
    outcomes = {name: run(name) for name in RUNS}
    if os.environ["RANK"] == "0":
        Path("outcomes.json").write_text(json.dumps(outcomes))
    else:
        assert not any(outcomes.values())
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_losses_of_one_and_one_cannot_go_on_with_their_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_models.write_gguf(tmp_path / "tiny.gguf")
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path / "two"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", __name__]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "kernels" not in done.stderr and "FutureWarning" not in done.stderr  # the libraries' words to one another
    outcomes = json.loads(Path("outcomes.json").read_text())

    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path / "one"))
    for name, got in outcomes.items():
        alone = run(name)
        losses = {home: _losses(tmp_path / home / "runs" / name) for home in ("one", "two")}
        assert losses["two"] == pytest.approx(losses["one"], abs=1e-4) and len(losses["one"]) == 8
        for field in ("base_loss", "tuned_loss"):
            assert got[field] == pytest.approx(alone[field], abs=1e-4)
    assert (tmp_path / "two" / "runs" / "fsdp2" / "adapter" / "adapter_model.safetensors").is_file()

    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path / "two"))
    shutil.rmtree(tmp_path / "two" / "runs" / "ddp" / "checkpoints" / "step-00000004")
    with pytest.raises(InvalidRequest, match="written by 2 processes, and this run has 1"):
        run("ddp")


def _losses(folder: Path) -> list[float]:
    """Losses and gradient norms of all steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    return [line["loss"] for line in steps] + [line["gradient_norm"] for line in steps]


if __name__ == "__main__":
    main()

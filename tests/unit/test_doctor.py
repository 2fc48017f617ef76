"""The doctor finds what is wrong with a checkpoint folder and says the cure in both languages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.paths import Home
from ninestory.models.doctor import Finding, diagnose
from tests import tiny_models


def _checkpoint(folder: Path, rows: int = 100, tokens: int = 100, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"model_type": "llama", "vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 1, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    vocabulary = {"model": {"vocab": {f"t{i}": i for i in range(tokens)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    weights = {"model.embed_tokens.weight": np.zeros((rows, 8), dtype=np.float32)}
    tiny_models.write_safetensors(folder / "model.safetensors", weights)
    return folder


def _problems(path: Path) -> list[Finding]:
    found = diagnose(path, Home(path / "home"))
    for finding in found:
        assert finding.title.en and finding.title.zh
        assert finding.level == "ok" or (finding.cure.en and finding.cure.zh)
    return [f for f in found if f.level == "problem"]


def test_a_sound_checkpoint_has_no_problem(tmp_path: Path) -> None:
    assert _problems(_checkpoint(tmp_path / "m")) == []


def _broken(folder: Path, name: str) -> Path:
    if name == "rows":
        return _checkpoint(folder, rows=120)
    if name == "tokens":
        return _checkpoint(folder, tokens=130)
    if name == "delta":
        return _checkpoint(folder, _name_or_path="lmsys/vicuna-7b-delta-v1.1")
    _checkpoint(folder)
    if name == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif name == "no weights":
        (folder / "model.safetensors").unlink()
    elif name == "cut":
        raw = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(raw[:-100])
    elif name == "pointer":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif name == "json":
        (folder / "tokenizer.json").write_text("{broken")
    elif name == "config":
        (folder / "config.json").write_text("[]")
    elif name == "layers":
        _checkpoint(folder, num_hidden_layers="many")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows", "120 rows"),
        ("tokens", "ids up to 129"),
        ("delta", "looks like a delta"),
        ("no tokenizer", "no tokenizer"),
        ("no weights", "holds no weights"),
        ("cut", "the file at"),
        ("pointer", "Git LFS pointer"),
        ("json", "tokenizer.json is no JSON"),
        ("config", "config.json is no JSON object"),
        ("layers", "num_hidden_layers = many"),
    ],
)
def test_each_fault_is_named_with_its_cure(name: str, words: str, tmp_path: Path) -> None:
    problems = _problems(_broken(tmp_path / "m", name))
    assert any(words in problem.title.en for problem in problems), problems


def test_half_precision_pickles_and_foreign_code_are_notes(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m", torch_dtype="float16", auto_map={"AutoModel": "modeling.X"})
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    notes = " ".join(f.title.en for f in diagnose(folder, Home(tmp_path / "home")) if f.level == "note")
    assert "16 bit" in notes and "auto_map" in notes and "modeling.py" in notes


def test_the_command_line_exits_with_1_on_a_problem_and_speaks_json(tmp_path: Path) -> None:
    for name, code in (("rows", 1), ("", 0)):
        folder = _broken(tmp_path / f"m{name}", name)
        command = [sys.executable, "-m", "ninestory", "doctor", str(folder), "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert isinstance(json.loads(done.stdout), list)


def test_the_machine_itself_is_examined(tmp_path: Path) -> None:
    titles = " ".join(f.title.en for f in diagnose(None, Home(tmp_path)))
    assert "Python 3" in titles and "memory are free" in titles and "disk are free" in titles

"""Options of loading a directory in its publisher's layout; test_families asks every family."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.models.reference import parse_reference
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import (
    ChatRequest,
    Chunk,
    CompletionRequest,
    Engine,
    ScoreItem,
    ScoreRequest,
    Scores,
)
from ninestory.runtimes.torch import open as open_module
from ninestory.runtimes.torch import probe
from tests.tiny_checkpoints import FAMILIES

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def _open(path: Path, home: Path, **settings: object) -> Engine:
    model = resolve(parse_reference(str(path)), Home(home))
    return load_engine(model, RuntimeSettings(threads=1, slots=2, **settings))  # type: ignore[arg-type]


def _run(engine: Engine, request: ChatRequest | CompletionRequest | ScoreRequest) -> list[Chunk]:
    return list(engine.run(request, threading.Event()))


def test_int8_scores_nearly_as_float32(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    values = []
    for dtype in ("float32", "int8"):
        engine = _open(folder, tmp_path / "home", dtype=dtype, template="alpaca")
        assert engine.info.dtype == dtype
        score = _run(
            engine,
            ScoreRequest(
                items=[ScoreItem(context="The tower", continuations=[" has nine floors and a model on each."])]
            ),
        )[0]
        assert isinstance(score, Scores)
        values.append(sum(score.values[0][0]) / len(score.values[0][0]))
        engine.close()
    assert values[0] != values[1] == pytest.approx(values[0], rel=0.05)


def test_fast_and_bfloat16_are_options_of_loading_and_the_report_says_so(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    values = {}
    for name, given in {"plain": {}, "fast": {"fast": True}, "narrow": {"dtype": "bfloat16"}}.items():
        engine = _open(folder, tmp_path / "home", template="alpaca", **given)
        assert engine.info.dtype == ("bfloat16" if name == "narrow" else "float32")  # too small to be timed
        notes = "; ".join(engine.info.notes)
        assert ("the fastest linears" in notes) == (name == "fast") or name == "narrow"
        score = _run(
            engine,
            ScoreRequest(
                items=[ScoreItem(context="The tower", continuations=[" has nine floors and a model on each."])]
            ),
        )[0]
        assert isinstance(score, Scores)
        values[name] = sum(score.values[0][0]) / len(score.values[0][0])
        engine.close()
    assert values["fast"] == pytest.approx(values["plain"], rel=1e-4)
    assert values["narrow"] == pytest.approx(values["plain"], rel=0.05)


def test_bfloat16_is_taken_where_it_is_timed_faster_and_nothing_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights released in 16 bits. The clock and the least size are set; what is loaded then runs."""
    folder = FAMILIES["llama"](tmp_path / "llama")
    monkeypatch.setattr(open_module, "_WORTH_NARROWING", 0)
    seconds = {torch.float32: 0.002, torch.bfloat16: 0.001}
    monkeypatch.setattr(probe, "_seconds", lambda linear, dtype: seconds[dtype])
    monkeypatch.setattr(probe, "is_invariant", lambda linear, dtype: True)
    for asked, dtype in (("", "bfloat16"), ("float32", "float32")):
        engine = _open(folder, tmp_path / "home", dtype=asked, template="alpaca")
        assert engine.info.dtype == dtype
        assert ("bfloat16, timed at load" in "; ".join(engine.info.notes)) == (asked == "")
        assert _run(engine, ScoreRequest(items=[ScoreItem(context="The tower", continuations=[" has nine floors."])]))
        engine.close()


def test_a_dtype_or_device_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    with pytest.raises(InvalidRequest, match="int3"):
        _open(folder, tmp_path / "home", dtype="int3")
    with pytest.raises(Unsupported, match="int4") as packed:
        _open(folder, tmp_path / "home", dtype="int4", device="cpu")
    assert "GGUF" in packed.value.hint
    with pytest.raises(Unsupported, match="nothing:7"):
        _open(folder, tmp_path / "home", device="nothing:7")


def test_the_command_line_answers_and_says_what_it_chose(tmp_path: Path) -> None:
    folder = FAMILIES["chatglm-int4"](tmp_path / "chatglm")
    command = [sys.executable, "-m", "ninestory", "chat", str(folder), "-p", "你好", "--max-tokens", "4", "--seed", "1"]
    command += ["--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    notes = "; ".join(json.loads(done.stdout)["engine"]["notes"])
    assert "packed" in notes and "torch with" in notes

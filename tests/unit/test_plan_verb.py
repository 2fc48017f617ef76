"""`ninestory plan` at a fixed free memory: what it names where nothing fits, and that every row says what is free."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninestory.cli.plan import app
from ninestory.core.errors import DoesNotFit

GB = 10**9


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a GPU and with an empty home, whose free memory a test sets."""
    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ninestory.core.machine.cuda_cards", dict)
    return monkeypatch


def _refused(free: pytest.MonkeyPatch, nbytes: int, *arguments: str) -> DoesNotFit:
    free.setattr("ninestory.core.machine.available_bytes", lambda: nbytes)
    error = CliRunner().invoke(app, [*arguments]).exception
    assert isinstance(error, DoesNotFit), error
    return error


@pytest.mark.parametrize(
    ("gigabytes", "model", "named"),
    [
        (20, "vicuna:7b-v1.5", "7b-v1.5 as a GGUF in Q8_0"),
        (8, "vicuna:7b-v1.5", "7b-v1.5, --concurrency 1, as a GGUF in Q5_K"),
        (8, "vicuna:13b-v1.5", "7b-v1.5, --concurrency 1, as a GGUF in Q5_K"),
        (2, "bloomz:176b", "560m as a GGUF in Q8_0"),
    ],
)
def test_where_the_weights_alone_do_not_fit_a_quantisation_that_does_is_named(
    free: pytest.MonkeyPatch, gigabytes: int, model: str, named: str
) -> None:
    error = _refused(free, gigabytes * GB, "vicuna" if model == "vicuna:7b-v1.5" else model)
    assert model in error.message and named in error.hint and "--context" not in error.hint
    kind, system = named.rpartition(" ")[2], model.partition(":")[0]
    reference = f"{system}:{named.partition(' ')[0].rstrip(',')}"
    command = f"ninestory pull {reference}, then ninestory convert gguf {reference}"
    assert command in error.hint and error.hint.endswith(f"--quant {kind}")
    assert f"ninestory convert gguf {reference}" in error.hint_zh and kind in error.hint_zh


def test_where_no_form_fits_no_setting_is_named(free: pytest.MonkeyPatch) -> None:
    error = _refused(free, 2 * GB, "vicuna")
    assert "no smaller form" in error.hint and "--context" not in error.hint


def test_where_only_the_cache_does_not_fit_a_shorter_context_is_named(free: pytest.MonkeyPatch) -> None:
    assert "--context" in _refused(free, 40 * GB, "vicuna", "--context", "1000000").hint


@pytest.mark.parametrize("model", ["mms-tts:eng", "bloomz:176b", "chatrwkv"])
def test_every_row_says_what_is_free(free: pytest.MonkeyPatch, model: str) -> None:
    free.setattr("ninestory.core.machine.available_bytes", lambda: 8 * GB)
    rows = json.loads(CliRunner().invoke(app, [model, "--json"]).stdout)["plans"]
    assert rows and {row["available_bytes"] for row in rows} == {8 * GB}
    assert "8.0 GB are free" in CliRunner().invoke(app, [model]).stdout

"""The plan against a real process, and through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_cards import path_with_cards


def _ninestory(*arguments: str, home: Path, cards: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a verb on a machine whose driver reports cards of so many MiB."""
    environment = {**os.environ, "NINESTORY_HOME": str(home), "PATH": path_with_cards(home, *cards)}
    return subprocess.run(
        [sys.executable, "-m", "ninestory", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.starter
@pytest.mark.slow
def test_the_predicted_peak_of_the_starter_is_near_the_measured_one(tmp_path: Path, repository: Path) -> None:
    """Memory, not time: the figures repeat. benchmarks/plan_error.py holds the longer table."""
    script = repository / "benchmarks" / "plan_error.py"
    environment = {**os.environ, "NINESTORY_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), '["", 256, 2, 0]'], capture_output=True, text=True, env=environment
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert abs(row["total"] / row["VmHWM"] - 1) < 0.15, row


def test_a_catalogue_name_that_is_not_installed_can_be_planned(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicuna", "--context", "2048", "--concurrency", "2", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["plans"]
    for row in answer["plans"]:
        parts = ("process_bytes", "weight_bytes", "cache_bytes", "activation_bytes", "optimizer_bytes")
        assert row["total_bytes"] == sum(row[part] for part in parts)
        assert row["fits"] == (row["total_bytes"] <= row["available_bytes"])
        assert (row["context"], row["slots"]) == (2048, 2)


def test_what_does_not_fit_says_so_with_exit_code_8_and_a_cure(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicuna", "--context", "100000000", home=tmp_path)
    assert done.returncode == 8, done.stdout + done.stderr
    assert "are free" in done.stderr + done.stdout


def test_every_card_has_a_row_beside_memory_for_each_quantisation(tmp_path: Path) -> None:
    done = _ninestory("plan", "moss", home=tmp_path, cards=(24_000, 24_000))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[1:13]
    kinds = ["memory", "cuda:0", "cuda:1"]
    assert [next(kind for kind in kinds if kind in row) for row in rows] == kinds * 4
    assert [row.split()[0] for row in rows[::3]] == ["moss:sft", "moss:sft-plugin", "moss:sft-int8", "moss:sft-int4"]
    assert "arithmetic, not measured" in done.stdout

    answer = json.loads(_ninestory("plan", "moss", "--json", home=tmp_path, cards=(24_000, 24_000)).stdout)
    halves, packed = answer["plans"][0], answer["plans"][-1]
    assert halves["fits"] and packed["model"] == "moss:sft-int4" and packed["fits"]
    used = [[d["device"] for d in plan["devices"] if d["weight_bytes"]] for plan in (halves, packed)]
    assert used == [["cuda:0", "cuda:1"], ["cuda:0"]]
    for device in halves["devices"]:
        parts = ("process_bytes", "weight_bytes", "cache_bytes", "activation_bytes", "optimizer_bytes")
        assert device["needed_bytes"] == sum(device[part] for part in parts)
        assert device["fits"] == (device["needed_bytes"] <= device["free_bytes"])


def test_what_one_card_does_not_hold_is_refused_with_the_card_and_the_variant_that_fits(tmp_path: Path) -> None:
    done = _ninestory("plan", "moss:sft", home=tmp_path, cards=(24_000,))
    assert done.returncode == 8
    assert "on cuda:0 NVIDIA Test 24000" in done.stderr
    assert "The largest that fits: moss:sft-int8" in done.stderr


def test_tuning_is_planned_on_a_card(tmp_path: Path) -> None:
    arguments = ("plan", "guanaco:65b", "--method", "qlora", "--tokens", "528", "--rank", "64", "--checkpointing")
    done = _ninestory(*arguments, "--json", home=tmp_path, cards=(48_000,))
    assert done.returncode == 0, done.stderr
    [plan] = json.loads(done.stdout)
    ram, card = plan["devices"]
    assert plan["fits"] and (ram["weight_bytes"], card["device"]) == (0, "cuda:0")
    table = _ninestory(*arguments, home=tmp_path, cards=(48_000,)).stdout
    assert "cuda:0 NVIDIA Test 48000" in table


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    done = _ninestory("plan", "vicunna", home=tmp_path)
    assert done.returncode == 3
    assert "vicuna" in done.stderr

"""Directories: shards, indexes, settings and what lies beside them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ninestory.core.errors import Damaged, NotFound
from ninestory.models.verify import verify
from tests import tiny_models


def _shards(folder: Path, weight_map: dict[str, str]) -> Path:
    for name in sorted(set(weight_map.values())):
        held = {t: np.zeros(3, dtype=np.float16) for t, shard in weight_map.items() if shard == name}
        tiny_models.write_safetensors(folder / name, held)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_counted_together(tmp_path: Path) -> None:
    report = verify(_shards(tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}))
    assert report.tensors == 3
    assert sorted(report.names) == ["a", "b", "c"]
    assert report.files == ["one.safetensors", "two.safetensors"]
    assert report.dtypes == {"F16": 18}


def test_a_missing_shard_and_a_tensor_in_the_wrong_shard_are_named(tmp_path: Path) -> None:
    folder = _shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "two.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(Damaged, match=r"lists 'a' in two\.safetensors"):
        verify(folder)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "three.safetensors"}}))
    with pytest.raises(Damaged, match=r"three\.safetensors"):
        verify(folder)


def test_a_missing_pickle_shard_is_named(tmp_path: Path) -> None:
    weight_map = {"a": "pytorch_model-00001-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(Damaged, match="00001-of-00002"):
        verify(tmp_path)


def test_what_training_leaves_behind_is_no_model(tmp_path: Path) -> None:
    """A trainer's state is a pickle that asks for code; the weights beside it are sound all the same."""
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (tmp_path / name).write_bytes(b"\x80\x02cposix\nsystem\n.")
    assert verify(tmp_path).files == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    "config", ['{"hidden_size": -1}', '{"num_hidden_layers": 1e9}', '{"vocab_size": "many"}', '{"n_layer": true}', "7"]
)
def test_a_config_whose_sizes_are_insane_is_refused(config: str, tmp_path: Path) -> None:
    tiny_models.write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(Damaged, match=r"config\.json"):
        verify(tmp_path)


def test_a_tokenizer_that_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    tiny_models.write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.model").write_bytes(b"<html>")
    with pytest.raises(Damaged, match="not a SentencePiece model"):
        verify(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(Damaged, match="not a SentencePiece model"):
        verify(tmp_path)


def test_nothing_there_and_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify(tmp_path / "gone")
    with pytest.raises(NotFound, match="has no weights"):
        verify(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(Damaged, match="not a supported model file"):
        verify(tmp_path / "weights.h5")

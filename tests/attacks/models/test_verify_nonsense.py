"""Files that can be read and make no sense: `verify` says so before anything multiplies by them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.errors import Damaged, NinestoryError
from ninestory.models.verify import verify
from ninestory.tokenizers.load import load_tokenizer
from tests import tiny_models

PIECES = Path(__file__).parents[2] / "fixtures" / "prompts" / "tiny_llama.model"
SOUND = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 100,
    "rope_theta": 10000.0, "max_position_embeddings": 128, "num_hidden_layers": 2,
}  # fmt: skip


def checkpoint(folder: Path, **changed: Any) -> Path:
    tiny_models.write_safetensors(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SOUND | changed))
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": 0}, {"n_head": 0}, {"num_key_value_heads": 0}, {"num_key_value_heads": 3},
        {"num_attention_heads": 5}, {"hidden_size": 0}, {"vocab_size": 0}, {"head_dim": 0},
        {"rms_norm_eps": float("nan")}, {"rms_norm_eps": -1e-6}, {"rms_norm_eps": 0}, {"rms_norm_eps": "1e-6"},
        {"rms_norm_eps": float("inf")}, {"layer_norm_eps": -1}, {"layer_norm_epsilon": float("nan")},
        {"layernorm_epsilon": True}, {"rope_theta": float("inf")}, {"rope_theta": 0}, {"rope_theta": float("nan")},
        {"max_position_embeddings": 0}, {"max_position_embeddings": 1 << 40},
        {"text_config": {"num_attention_heads": 0}}, {"vision_config": {"layer_norm_eps": float("nan")}},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused_by_the_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    key, value = next(iter(changed.items()))
    name = next(iter(value)) if isinstance(value, dict) else key
    with pytest.raises(Damaged, match=name):
        verify(checkpoint(tmp_path, **changed))


def test_a_sound_config_is_taken(tmp_path: Path) -> None:
    assert verify(checkpoint(tmp_path)).tensors


def test_a_gguf_with_heads_or_epsilons_that_make_no_sense_is_refused(tmp_path: Path) -> None:
    for changed in ({"heads": 0}, {"rms_epsilon": float("nan")}, {"rms_epsilon": -1.0}, {"rms_epsilon": 0.0}):
        with pytest.raises(Damaged):
            verify(tiny_models.write_gguf(tmp_path / "tiny.gguf", **changed))


def test_a_garbled_sentencepiece_file_is_refused(tmp_path: Path) -> None:
    """Whatever `verify` takes, the tokenizer reads or refuses by a typed error; most garbled files are refused."""
    draw, sound = random.Random(5), PIECES.read_bytes()
    folder = checkpoint(tmp_path)
    (folder / "tokenizer.model").write_bytes(sound)
    verify(folder)
    refused = 0
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(40):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (folder / "tokenizer.model").write_bytes(data)
        try:
            verify(folder)
            load_tokenizer(folder).encode("a text")
        except NinestoryError:
            refused += 1
    assert refused >= 50
    for data in (sound[: len(sound) // 2], sound + b"\x0a\xff", sound + sound[:40], b"\x0a" + bytes(1000)):
        (folder / "tokenizer.model").write_bytes(data)
        with pytest.raises(Damaged, match="SentencePiece"):
            verify(folder)

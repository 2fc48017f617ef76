"""Decoders over several cards: every step crosses where it has to, and the loader puts tensors where the plan says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ninestory.runtimes.torch.device_map import DeviceMap  # noqa: E402
from ninestory.runtimes.torch.load_model import load_model_folder  # noqa: E402
from ninestory.runtimes.torch.plan import Placement  # noqa: E402
from tests.tiny_decoders import FAMILIES, build  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.slow
def test_a_step_crosses_from_card_to_card_in_every_family(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.two_cards"], capture_output=True, text=True, cwd=repository)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    crossed = {"logits": "card:0", "caches": ["card:0", "card:1"]}
    assert rows == [{"family": family, **crossed} for family in FAMILIES], done.stderr[-2000:]


def test_what_stands_before_the_layers_goes_with_the_embedding_and_the_rest_with_the_head() -> None:
    model = build("bloom")
    device_map = DeviceMap(model, Placement("a", ("a", "b"), "a"))
    assert device_map.device("transformer.word_embeddings_layernorm.weight") == "a"
    assert device_map.device("transformer.h.1.mlp.dense_h_to_4h.weight") == "b"
    llama = DeviceMap(build("llama"), Placement("a", ("a", "b"), "b"))
    places = {name: llama.device(name) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")}
    assert list(places.values()) == ["a", "b", "b"]


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_placed_checkpoint_has_the_numbers_of_a_plain_one(family: str, tmp_path: Path) -> None:
    """All devices are the processor here: what is checked is that the loader's way with a placement loses nothing."""
    build(family).save_pretrained(tmp_path)
    placed, _ = load_model_folder(tmp_path, placement=Placement("cpu", ("cpu", "cpu"), "cpu"))
    plain, _ = load_model_folder(tmp_path)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        torch.testing.assert_close(placed(ids).logits, plain(ids).logits, rtol=0, atol=0)

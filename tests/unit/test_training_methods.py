"""Each method trains what it says, nothing else, and learns; sizes and paths are counted, not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.core.errors import InvalidRequest, Unsupported  # noqa: E402
from ninestory.training.methods import adapt_model  # noqa: E402
from ninestory.training.run_folder import RunFolder  # noqa: E402
from ninestory.training.settings import Method, TrainSettings  # noqa: E402
from tests.tiny_training import rows, seeded, tiny_llama, trainer  # noqa: E402

LEARNING = TrainSettings(max_steps=25, batch_size=6, learning_rate=3e-2, lr_scheduler="constant", save_every=0)


@pytest.mark.parametrize("name", ["full", "freeze", "lora", "rslora", "dora", "adalora", "ia3", "prompt", "prefix"])
def test_the_method_learns_and_leaves_the_rest_of_the_base_alone(name: Any, tmp_path: Path) -> None:
    model = tiny_llama()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    adapted = adapt_model(model, Method(name=name, trainable_layers=1, virtual_tokens=4), seed=0, total_steps=25)
    trained = {id(p) for p in adapted.trainable.values()}
    frozen = {n: p for n, p in model.named_parameters() if id(p) not in trained}
    result = trainer(adapted, rows(6), LEARNING, RunFolder(tmp_path)).run()
    assert result.losses[-1] < result.losses[0] - 0.02
    assert result.losses[0] > 5  # a random model knows nothing of 300 tokens: ln 300 = 5.7
    for path, parameter in frozen.items():
        original = before.get(path.replace(".base_layer", ""))
        assert original is None or torch.equal(parameter, original), path


def test_p_tuning_trains_chatglms_own_prefix_encoder_and_nothing_else(tmp_path: Path) -> None:
    from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration
    from ninestory.training.batches import TokenRow

    config = ChatGLMConfig(
        vocab_size=300, hidden_size=32, num_layers=2, num_attention_heads=2, inner_hidden_size=64,
        bos_token_id=250, eos_token_id=251, mask_token_id=252, gmask_token_id=253,
    )  # fmt: skip
    for projection in (False, True):
        method = Method(name="p_tuning_v2", virtual_tokens=5, projection=projection)
        adapted = adapt_model(seeded(ChatGLMForConditionalGeneration, config), method, seed=0, total_steps=25)
        names = {"transformer.prefix_encoder.embedding.weight"}
        parts = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
        names |= {f"transformer.prefix_encoder.{part}" for part in parts} if projection else set()
        assert set(adapted.trainable) == names
        texts = [TokenRow([*r.ids[:2], 253, 250, *r.ids[2:]], [-100] * 4 + r.ids[2:]) for r in rows(6, vocabulary=200)]
        result = trainer(adapted, texts, LEARNING, RunFolder(tmp_path / str(projection)))
        result.folder.path.mkdir()
        losses = result.run().losses
        assert losses[-1] < losses[0]


def test_freeze_takes_the_last_blocks_by_path_not_by_a_piece_of_text() -> None:
    model = tiny_llama(num_hidden_layers=12, hidden_size=16, intermediate_size=16)
    adapted = adapt_model(model, Method(name="freeze", trainable_layers=2), seed=0, total_steps=1)
    assert {name.split(".")[2] for name in adapted.trainable} == {"10", "11"}
    with pytest.raises(InvalidRequest, match="has 12 blocks"):
        adapt_model(model, Method(name="freeze", trainable_layers=13), seed=0, total_steps=1)


def test_lora_reaches_every_linear_but_the_head() -> None:
    adapted = adapt_model(tiny_llama(), Method(rank=2), seed=0, total_steps=1)
    assert len(adapted.trainable) == 3 * 7 * 2
    assert not any("lm_head" in name or "embed" in name for name in adapted.trainable)
    chosen = adapt_model(tiny_llama(), Method(rank=2, target_modules=["q_proj"]), seed=0, total_steps=1)
    assert {name.split(".")[-4] for name in chosen.trainable} == {"q_proj"}


def test_the_seed_decides_the_new_parameters() -> None:
    def first(seed: int) -> Any:
        return next(iter(adapt_model(tiny_llama(), Method(), seed=seed, total_steps=1).trainable.values()))

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_bfloat16_bases_are_trained_in_float32() -> None:
    adapted = adapt_model(tiny_llama().bfloat16(), Method(name="freeze", trainable_layers=1), seed=0, total_steps=1)
    assert {p.dtype for p in adapted.trainable.values()} == {torch.float32}


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="peft refuses"):
        adapt_model(tiny_llama(), Method(target_modules=["no_such_layer"]), seed=0, total_steps=1)
    with pytest.raises(Unsupported, match="ChatGLM's"):
        adapt_model(tiny_llama(), Method(name="p_tuning_v2"), seed=0, total_steps=1)
    with pytest.raises(InvalidRequest, match="cannot be combined"):
        adapted = adapt_model(tiny_llama(), Method(name="prefix"), seed=0, total_steps=1)
        settings = TrainSettings(gradient_checkpointing=True)
        trainer(adapted, rows(2), settings, RunFolder(Path("unused")))

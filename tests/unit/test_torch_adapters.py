"""Adapters in the torch runtime: the numbers of peft's own layers, and nothing merged that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ninestory.core.errors import Damaged, Unsupported  # noqa: E402
from ninestory.models.resolved import ResolvedAdapter  # noqa: E402
from ninestory.runtimes.torch.adapters import apply_adapters  # noqa: E402
from tests.tiny_decoders import GMASK, SOP, build  # noqa: E402

pytestmark = pytest.mark.torch
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def _logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids).logits


def _lora(folder: Path, **options: Any) -> Any:
    """A LoRA of random matrices in `folder`; the model that peft makes of it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], **options)
    made = peft.get_peft_model(build("llama"), config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    made.save_pretrained(str(folder))
    return made


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_a_lora_gives_what_peft_gives(tmp_path: Path, options: dict[str, Any]) -> None:
    wanted = _logits(_lora(tmp_path / "mine", **options))
    model = build("llama")
    plain = _logits(model)
    apply_adapters(model, [ResolvedAdapter(name="mine", path=tmp_path / "mine")])
    torch.testing.assert_close(_logits(model), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - plain).abs().max() > 0.1


def test_the_weight_scales_the_change(tmp_path: Path) -> None:
    _lora(tmp_path / "mine")
    name = "model.layers.0.self_attn.q_proj.weight"
    base, once, half = (build("llama") for _ in range(3))
    apply_adapters(once, [ResolvedAdapter(name="mine", path=tmp_path / "mine")])
    apply_adapters(half, [ResolvedAdapter(name="mine", path=tmp_path / "mine", weight=0.5)])
    change, halved = (m.get_parameter(name) - base.get_parameter(name) for m in (once, half))
    torch.testing.assert_close(halved, 0.5 * change, atol=1e-6, rtol=1e-4)
    assert change.abs().max() > 0.01


def test_two_adapters_add_up_by_their_weights(tmp_path: Path) -> None:
    """`model+a=0.7+b=0.3`: the sum of both changes, which peft's "cat" gives exactly."""
    peft = pytest.importorskip("peft")
    from ninestory.training.adapter_files import combine, load_adapter

    _lora(tmp_path / "a")
    _lora(tmp_path / "b", use_rslora=True)
    both = load_adapter(load_adapter(build("llama"), tmp_path / "a", "a"), tmp_path / "b", "b")
    assert isinstance(both, peft.PeftModel)
    wanted, model = _logits(combine(both, {"a": 0.7, "b": 0.3})), build("llama")
    weights = {"a": 0.7, "b": 0.3}
    apply_adapters(model, [ResolvedAdapter(name=n, path=tmp_path / n, weight=w) for n, w in weights.items()])
    torch.testing.assert_close(_logits(model), wanted, atol=1e-4, rtol=1e-4)


def _own(folder: Path, kind: str, tensors: dict[str, torch.Tensor], **settings: Any) -> ResolvedAdapter:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind, **settings}))
    return ResolvedAdapter(name=folder.name, path=folder)


def test_trained_blocks_replace_the_base_s(tmp_path: Path) -> None:
    trained, model = build("llama", seed=9), build("llama")
    blocks = {n: p.detach().clone() for n, p in trained.named_parameters() if n.startswith("model.layers.1.")}
    apply_adapters(model, [_own(tmp_path / "freeze", "NINESTORY_FREEZE", blocks)])
    assert all(torch.equal(model.get_parameter(name), values) for name, values in blocks.items())
    assert not torch.equal(
        model.get_parameter("model.layers.0.mlp.up_proj.weight"),
        trained.get_parameter("model.layers.0.mlp.up_proj.weight"),
    )


def test_a_prefix_is_put_before_chatglm(tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, GMASK, SOP, 9]])
    trained, model = build("chatglm-prefix"), build("chatglm")
    prefix = {n: p.detach().clone() for n, p in trained.named_parameters() if "prefix_encoder" in n}
    model.load_state_dict({n: p for n, p in trained.state_dict().items() if n not in prefix})
    adapter = _own(tmp_path / "p", "NINESTORY_CHATGLM_PREFIX", prefix, pre_seq_len=5, prefix_projection=False)
    apply_adapters(model, [adapter])
    torch.testing.assert_close(_logits(model, ids), _logits(trained, ids))


def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path) -> None:
    _lora(tmp_path / "mine")
    with pytest.raises(Damaged, match="mine"):
        apply_adapters(build("gptj"), [ResolvedAdapter(name="mine", path=tmp_path / "mine")])
    with pytest.raises(Unsupported, match="IA3"):
        apply_adapters(build("llama"), [_own(tmp_path / "ia3", "IA3", {"x": torch.zeros(1)})])
    half = ResolvedAdapter(name="f", path=_own(tmp_path / "f", "NINESTORY_FREEZE", {}).path, weight=0.5)
    with pytest.raises(Unsupported, match=r"0\.5"):
        apply_adapters(build("llama"), [half])
    prefix = _own(tmp_path / "p", "NINESTORY_CHATGLM_PREFIX", {}, pre_seq_len=5, prefix_projection=False)
    with pytest.raises(Damaged, match="ChatGLM"):
        apply_adapters(build("llama"), [prefix])

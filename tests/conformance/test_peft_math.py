"""Every adapter of the tower on a tiny LLaMA, and the original LoRA layers (tests/fixtures/peft_math/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from ninestory.core.errors import InvalidRequest
from ninestory.training.adapter_files import combine, load_adapter, loralib_delta

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "peft_math"
EXISTS = FOLDER.exists()
INFO: dict[str, Any] = json.loads((FOLDER / "info.json").read_text()) if EXISTS else {"methods": {}}
EXPECTED = load_file(FOLDER / "expected.safetensors") if EXISTS else {}
LORALIB = load_file(FOLDER / "loralib.safetensors") if EXISTS else {}
LORALIB_CASES = sorted({key.split(".")[0] for key in LORALIB})

SAVED = sorted(path.parent.name for path in FOLDER.glob("*/adapter_config.json"))


def base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(FOLDER / "base").eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=EXPECTED["input_ids"], attention_mask=EXPECTED["attention_mask"]).logits


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal where a token stands (virtual positions of prompt methods come first); what is computed at a padded place depends on the attention kernel."""
    seen = EXPECTED["attention_mask"].bool()
    virtual = theirs.shape[1] - seen.shape[1]
    seen = torch.cat((torch.ones(seen.shape[0], virtual, dtype=torch.bool), seen), dim=1)
    torch.testing.assert_close(ours[seen], theirs[seen], atol=atol, rtol=0)


def test_the_base() -> None:
    close(logits(base()), EXPECTED["logits.base"])


@pytest.mark.parametrize("method", SAVED)
def test_a_saved_adapter_gives_its_logits(method: str) -> None:
    adapted = load_adapter(base(), FOLDER / method)
    close(logits(adapted), EXPECTED[f"logits.{method}"])
    assert not any(p.requires_grad for p in adapted.parameters())
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(base()))


@pytest.mark.parametrize("method", sorted(m for m, facts in INFO["methods"].items() if "merged_max_diff" in facts))
def test_merging_changes_nothing(method: str) -> None:
    merged = load_adapter(base(), FOLDER / method).merge_and_unload()
    close(logits(merged), EXPECTED[f"logits.{method}"])
    for key, weight in EXPECTED.items():
        if key.startswith(f"merged.{method}."):
            ours = merged.get_parameter(key.removeprefix(f"merged.{method}."))
            torch.testing.assert_close(ours, weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_the_residual_and_the_factors_make_the_original_weight(method: str) -> None:
    target = "model.layers.0.self_attn.q_proj"
    original = base().get_parameter(f"{target}.weight").detach()
    total = EXPECTED[f"{method}.q_proj0.residual"] + EXPECTED[f"{method}.q_proj0.BA_scaled"]
    torch.testing.assert_close(total, original, atol=1e-5, rtol=0)
    rank = torch.linalg.matrix_rank(EXPECTED[f"{method}.q_proj0.BA_scaled"], atol=1e-5).item()
    config = LoraConfig(r=int(rank), target_modules=INFO["target_modules"], init_lora_weights=method)
    layer = get_peft_model(base(), config).base_model.model.get_submodule(target)  # type: ignore[arg-type]
    residual, product = layer.base_layer.weight.detach(), layer.get_delta_weight("default").detach()
    torch.testing.assert_close(residual, EXPECTED[f"{method}.q_proj0.residual"], atol=1e-4, rtol=0)
    torch.testing.assert_close(product, EXPECTED[f"{method}.q_proj0.BA_scaled"], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def two_adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters a (alpha = 2 r) and b (alpha = r) as folders."""
    folders = {}
    for name in ("a", "b"):
        state = {k.removeprefix(f"multi.{name}."): v for k, v in EXPECTED.items() if k.startswith(f"multi.{name}.")}
        rank = next(v.shape[0] for k, v in state.items() if "lora_A" in k)
        config = LoraConfig(r=rank, lora_alpha=2 * rank if name == "a" else rank, target_modules=INFO["target_modules"])
        model = get_peft_model(base(), config)  # type: ignore[arg-type]
        set_peft_model_state_dict(model, state)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(str(folders[name]))
    return folders


def test_two_adapters_one_at_a_time_together_and_weighted(two_adapters: dict[str, Path]) -> None:
    model = load_adapter(load_adapter(base(), two_adapters["a"], "a"), two_adapters["b"], "b")
    for name in ("a", "b"):
        model.set_adapter(name)
        close(logits(model), EXPECTED[f"multi.logits.{name}"])
    model.base_model.set_adapter(["a", "b"])
    close(logits(model), EXPECTED["multi.logits.both_active"])
    close(logits(combine(model, {"a": 0.7, "b": 0.4})), EXPECTED["multi.logits.weighted_cat"])


def loralib(case: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{case}."): v for k, v in LORALIB.items() if k.startswith(f"{case}.")}


def loralib_scaling() -> float:
    """alpha / r, which no file states: what the plain linear was merged with. The other layers must use the same."""
    data = loralib("linear")
    product = data["lora_B"] @ data["lora_A"]
    return ((data["weight_merged"] - data["weight"]) * product).sum().item() / product.square().sum().item()


@pytest.mark.parametrize("case", LORALIB_CASES)
def test_original_lora_layers(case: str) -> None:
    data = loralib(case)
    delta = loralib_delta(
        data["weight"],
        data["lora_A"],
        data["lora_B"],
        loralib_scaling(),
        fan_in_fan_out="fan_in_fan_out" in case,
        enabled=(True, False, True) if case == "merged_qv" else None,
    )
    merged = data["weight"] + delta
    torch.testing.assert_close(merged, data["weight_merged"], atol=1e-5, rtol=0)
    x = data["x"]
    if case == "embedding":
        y = F.embedding(x.long(), merged)
    elif case == "conv2d":
        y = F.conv2d(x, merged, data["bias"], padding=(merged.shape[-1] - 1) // 2)
        y = y if y.shape == data["y_train"].shape else F.conv2d(x, merged, data["bias"])
    else:
        y = F.linear(x, merged.T if "fan_in_fan_out" in case else merged, data["bias"])
    torch.testing.assert_close(y, data["y_train"], atol=1e-5, rtol=0)


def test_a_folder_without_settings_or_with_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"expected adapter_config\.json"):
        load_adapter(base(), tmp_path)
    (tmp_path / "adapter_config.json").write_text((FOLDER / "lora" / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InvalidRequest, match="pickles are not supported"):
        load_adapter(base(), tmp_path)

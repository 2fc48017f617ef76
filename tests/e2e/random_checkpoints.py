"""Checkpoints for conversions: small random models of every family, larger LLaMAs, and nasty strings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FIXTURES = Path(__file__).parents[1] / "fixtures"  # always our own: the sizes here go with it

ROWS, LENGTHS = 540, (1, 5, 17, 40)
EXACT, GELU = 1e-4, 5e-3  # llama.cpp's table of GELU is in half precision
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": ROWS}
LLAMA = {**SIZES, "intermediate_size": 96, "max_position_embeddings": 128}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 64, "vocab_size": ROWS}
FALCON = {**SIZES, "parallel_attn": True, "bias": False}
STRETCHED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# name → (class in transformers without its ending, settings, tolerance)
FAMILIES: dict[str, tuple[str, dict[str, Any], float]] = {
    "llama": ("Llama", {**LLAMA, "num_key_value_heads": 4}, EXACT),
    "llama-grouped": ("Llama", {**LLAMA, "num_attention_heads": 8, "num_key_value_heads": 2}, EXACT),
    "llama-wide-heads-tied": ("Llama", {**LLAMA, "head_dim": 32, "tie_word_embeddings": True}, EXACT),
    "llama-biased": ("Llama", {**LLAMA, "attention_bias": True}, EXACT),
    "llama-linear": ("Llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, EXACT),
    "llama-3.1": ("Llama", {**LLAMA, "rope_parameters": {**STRETCHED, "original_max_position_embeddings": 32}}, EXACT),
    "qwen2": ("Qwen2", {**LLAMA, "num_key_value_heads": 2}, EXACT),
    "qwen3": ("Qwen3", {**LLAMA, "num_key_value_heads": 2, "head_dim": 32}, EXACT),
    "bloom": ("Bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": ROWS}, GELU),
    "bloom-six-heads": ("Bloom", {"hidden_size": 96, "n_layer": 2, "n_head": 6, "vocab_size": ROWS}, GELU),
    "falcon-7b": ("Falcon", {**FALCON, "multi_query": True, "new_decoder_architecture": False}, GELU),
    "falcon-40b": ("Falcon", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}, GELU),
    "gpt-j": ("GPTJ", GPT, GELU),
    "codegen": ("CodeGen", GPT, GELU),
}  # fmt: skip


def checkpoint(folder: Path, name: str, spread: float = 0.2, **changed: Any) -> Any:
    """A random model of a family as its folder, with a tokenizer's files; `spread` of its weights. Returns the model."""
    import torch
    import transformers

    kind, settings, _ = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**settings, **changed}, bos_token_id=1, eos_token_id=2)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the head's bias and the norms too, so that each is seen to arrive
            parameter.add_(torch.randn_like(parameter) * (spread if parameter.ndim > 1 else 0.1))
    model.save_pretrained(folder)
    llama = kind == "Llama"
    files = (
        {"tokenizer.model": "prompts/tiny_llama.model"}
        if llama
        else {n: f"moss/{n}" for n in ("vocab.json", "merges.txt")}
    )
    for target, source in files.items():
        shutil.copy(FIXTURES / source, folder / target)
    return model


_ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz ABC .,!?'\"()-_", "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会",
    " \t\n\r\u00a0\u2003\u200b\u3000\u2028\v\f", "0123456789 1234567890", "def f(x):\n    return x[1] += 2  # {}\n\t\t", "😀👩‍👩‍👧🇩🇪✌🏽é́ñ️",
    "\x00\x01\x07\x7f\ufeff\ufffd\ue000", "<s></s><unk>[PAD]<0x41>▁", "、。，！？：；“”‘’（）【】", "русский язык العربية עברית ไทย",
]  # fmt: skip


def nasty_strings(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    made = ["", " ", "  ", "\n", "a", "    def", "'s 's'S", "1234567"]
    while len(made) < count:
        alphabets = [_ALPHABETS[i] for i in rng.integers(0, len(_ALPHABETS), rng.integers(1, 4))]
        pieces = [
            "".join(alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(1, 12)))
            for alphabet in alphabets
            for _ in range(2)
        ]
        made.append("".join(pieces))
    return made


def trained_bpe(cut: str) -> Any:
    """A byte-level BPE of 600 tokens that cuts text the way a family of models does."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, trainers
    from tokenizers import pre_tokenizers as pre

    from ninestory.models.convert.gguf_tokenizer import SPLITS

    steps = next(steps for steps, name in SPLITS.items() if name == cut)
    parts: dict[str, Callable[[], Any]] = {
        "bytes": lambda: pre.ByteLevel(add_prefix_space=False, use_regex=True),
        "digits": lambda: pre.Digits(individual_digits=True),
        "runs of digits": lambda: pre.Digits(individual_digits=False),
        "punctuation": lambda: pre.Punctuation("contiguous"),
    }
    sequence = [parts[step]() if step in parts else pre.Split(Regex(step), "isolated") for step in steps]
    if "bytes" not in steps:
        sequence.append(pre.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Sequence(sequence) if len(sequence) > 1 else sequence[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre.ByteLevel.alphabet(), special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(nasty_strings(400), trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def byte_level_llama(folder: Path) -> Any:
    """A LLaMA with a byte-level vocabulary, in which most Chinese characters are several tokens. Returns the model."""
    model = checkpoint(folder, "llama-grouped", vocab_size=700, max_position_embeddings=512)
    model.config.bos_token_id, model.config.eos_token_id = None, 0
    model.config.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer.model").unlink()
    trained_bpe("llama-bpe").save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def tokens_by_llama_cpp(path: Path, texts: list[str]) -> list[list[int]]:
    from ninestory.runtimes.llamacpp.library import Library

    library = Library(path, context=64, slots=1, threads=1, cache_mb=0)
    try:
        body = {"add_special": False, "parse_special": False}
        return [library.post("/tokenize", {"content": text, **body})["tokens"] for text in texts]
    finally:
        library.close()


def big_llama(folder: Path, layers: int) -> Path:
    """A LLaMA of about 130 MB and 25 MB a layer in float16, written tensor by tensor."""
    width, ffn, rows = 1024, 2816, 32000
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (rows, width),
        "lm_head.weight": (rows, width),
        "model.norm.weight": (width,),
    }
    for i in range(layers):
        name = f"model.layers.{i}."
        shapes |= {f"{name}self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{name}mlp.{part}_proj.weight": (ffn, width) for part in ("gate", "up")}
        shapes |= {f"{name}mlp.down_proj.weight": (width, ffn)}
        shapes |= {f"{name}{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    folder.mkdir()
    one = rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16)
    save_file(
        {n: one.reshape(-1)[: int(np.prod(s))].reshape(s) for n, s in shapes.items()}, folder / "model.safetensors"
    )
    config = {
        "model_type": "llama", "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": 16, "max_position_embeddings": 512, "vocab_size": rows, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(FIXTURES / "prompts" / "tiny_llama.model", folder / "tokenizer.model")
    return folder


def big_lora(folder: Path, layers: int) -> Path:
    """An adapter for `big_llama` on q and v, with an embedding and a head of one more row, as Chinese-Alpaca's."""
    width, rank, rows = 1024, 16, 32001
    rng = np.random.default_rng(1)
    pairs = {
        f"base_model.model.model.layers.{i}.self_attn.{part}_proj.lora_{side}.weight": rng.standard_normal(shape, "f4")
        for i in range(layers)
        for part in "qv"
        for side, shape in (("A", (rank, width)), ("B", (width, rank)))
    }
    table = rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16)
    full = {f"base_model.model.{name}.weight": table for name in ("model.embed_tokens", "lm_head")}
    folder.mkdir()
    save_file({**pairs, **full}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 32}))
    return folder

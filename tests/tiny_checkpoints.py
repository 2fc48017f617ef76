"""Small checkpoint directories of every family in the layout that its publisher used, for tests that load or run them.

Weights are random (of the fixtures where these are large enough to chat); vocabularies are real ones or the fixtures'.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.conftest import FIXTURES

CONTEXT = 512
WIDTH, LAYERS, HEADS = 64, 2, 4


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_bin(folder: Path, tensors: dict[str, Any], shards: int = 1) -> None:
    """pytorch_model.bin, or shards with their index, by torch itself."""
    import torch

    names = list(tensors)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    weight_map = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = names[i::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})


def random_weights(model: Any, seed: int = 0) -> dict[str, Any]:
    """Half-precision weights of an empty model; logits of about 1, so that greedy and sampled tokens vary."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        is_norm = any(part in name for part in ("norm", "ln_")) and name.endswith("weight")
        made[name] = (1 + 0.1 * noise if is_norm else 0.2 * noise).half()
    if model.config.tie_word_embeddings:
        made["lm_head.weight"] = made["transformer.word_embeddings.weight"].clone()
    return made


def llama(folder: Path) -> Path:
    """Alpaca, Vicuna, Chinese-Alpaca, LLaMA-based BELLE and OpenBuddy: tokenizer.model, two pickled shards."""
    import sentencepiece
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    shutil.copy(FIXTURES / "prompts/merged_chinese_llama.model", folder / "tokenizer.model")
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    write_json(folder / "added_tokens.json", {"[PAD]": size})
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"})
    config = {
        "vocab_size": size + 1, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    }  # fmt: skip
    weights = random_weights(LlamaForCausalLM(LlamaConfig(**config)))
    for i in range(LAYERS):  # what transformers of 2023 stored
        weights[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = weights["model.norm.weight"][:8].clone()
    write_json(folder / "config.json", {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config})
    write_bin(folder, weights, shards=2)
    return folder


def bloom(folder: Path) -> Path:
    """BLOOMZ and BELLE: keys without "transformer.", tied head, tokenizer.json."""
    from transformers import BloomConfig, BloomForCausalLM

    rows = write_byte_level_vocabulary(folder, ("<unk>", "<s>", "</s>", "<pad>"))
    config = {"vocab_size": rows, "n_embed": WIDTH, "n_layer": LAYERS, "num_attention_heads": HEADS}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "seq_length": CONTEXT}
    weights = random_weights(BloomForCausalLM(BloomConfig(**{**config, "hidden_size": WIDTH})))
    weights = {name.removeprefix("transformer."): t for name, t in weights.items() if name != "lm_head.weight"}
    write_json(folder / "config.json", {"model_type": "bloom", "architectures": ["BloomForCausalLM"], **config})
    write_bin(folder, weights)
    return folder


def falcon(folder: Path) -> Path:
    """OpenBuddy-Falcon and GPT4All-Falcon: the first release's names in config.json, with auto_map."""
    from transformers import FalconConfig, FalconForCausalLM

    rows = write_byte_level_vocabulary(folder, ("<|endoftext|>",))
    made = FalconConfig(
        vocab_size=rows, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, multi_query=True
    )
    write_bin(folder, random_weights(FalconForCausalLM(made)))
    old = {"vocab_size": rows, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "multi_query": True}
    old |= {"alibi": False, "bias": False, "parallel_attn": True, "bos_token_id": 0, "eos_token_id": 0}
    remote = {"AutoModelForCausalLM": "modelling_RW.RWForCausalLM"}
    write_json(folder / "config.json", {"model_type": "RefinedWebModel", "auto_map": remote, **old})
    return folder


def gptj(folder: Path) -> Path:
    """GPT4All-J: causal masks among the weights."""
    import torch
    from transformers import GPTJConfig, GPTJForCausalLM

    rows = write_byte_level_vocabulary(folder, ("<|endoftext|>",))
    config = {"vocab_size": rows, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "rotary_dim": 8}
    config |= {"n_positions": CONTEXT, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
    weights = random_weights(GPTJForCausalLM(GPTJConfig(**config)))
    for i in range(LAYERS):
        weights[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        weights[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e9)
    write_json(folder / "config.json", {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], **config})
    write_bin(folder, weights)
    return folder


def chatglm(folder: Path, bits: int = 0) -> Path:
    """ChatGLM-6B by the fixture of its original code, in half precision or in the published int8 and int4 forms."""
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    source = FIXTURES / "chatglm"
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = json.loads((source / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"}
    if bits:
        config["quantization_bit"] = bits
    write_json(folder / "config.json", config)
    write_bin(folder, load_file(source / (f"model_int{bits}.safetensors" if bits else "model.safetensors")), shards=2)
    return folder


def moss(folder: Path, bits: int = 32) -> Path:
    """MOSS in CodeGen's layout with its end marks and causal masks; bits 4 or 8: GPTQ packs of random weights."""
    import torch

    from ninestory.architectures.moss import MossConfig, MossForCausalLM

    marks = ("<|endoftext|>", "<eoh>", "<eom>", "<eot>", "<eoc>", "<eor>")
    rows = write_byte_level_vocabulary(folder, marks, gpt2_files=True)
    config = {"vocab_size": rows, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2 * HEADS, "rotary_dim": 4}
    config |= {"n_positions": 2 * CONTEXT, "n_ctx": 2 * CONTEXT, "wbits": bits, "groupsize": 32}
    ids = json.loads((folder / "added_tokens.json").read_text())
    config |= {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<eom>"], "tie_word_embeddings": False}
    weights = random_weights(MossForCausalLM(MossConfig(**config)))
    if bits < 32:
        generator = torch.Generator().manual_seed(1)
        for name, tensor in MossForCausalLM(MossConfig(**config)).state_dict().items():
            if tensor.dtype == torch.int32:
                is_group = name.endswith("g_idx")
                noise = torch.randint(-(2**31), 2**31 - 1, tensor.shape, generator=generator, dtype=torch.int32)
                weights[name] = tensor if is_group else noise
            elif name.endswith("scales"):
                weights[name] = torch.full_like(tensor, 0.01)
    for i in range(LAYERS):
        weights[f"transformer.h.{i}.attn.causal_mask"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    write_json(folder / "config.json", {"model_type": "moss", "architectures": ["MossForCausalLM"], **config})
    write_bin(folder, weights)
    return folder


def linked_moss(folder: Path, commands: str, answer: str) -> Path:
    """A MOSS that writes `commands` and <eoc> behind a question, and `answer` and <eom> behind "<|MOSS|>:".

    Its blocks add nothing, so the last token alone decides: each of these texts is one entry of the vocabulary, and
    the head finds in the token's own direction what comes next.
    """
    import torch
    from safetensors.torch import save_file

    from ninestory.architectures.moss import MossConfig, MossForCausalLM
    from ninestory.tokenizers.load import load_tokenizer

    moss(folder)
    (folder / "pytorch_model.bin").unlink()
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = json.loads((folder / "added_tokens.json").read_text())
    texts = {text: len(vocabulary) + i for i, text in enumerate((commands, answer))}
    spelled = {text.replace(" ", "\u0120").replace("\n", "\u010a"): number for text, number in texts.items()}
    write_json(folder / "vocab.json", vocabulary | spelled)
    write_json(folder / "added_tokens.json", {mark: number + len(texts) for mark, number in added.items()})
    config = json.loads((folder / "config.json").read_text())
    config |= {name: config[name] + len(texts) for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    write_json(folder / "config.json", config)
    tokenizer = load_tokenizer(folder)
    ids = {mark: number + len(texts) for mark, number in added.items()} | texts
    links = {
        tokenizer.encode("<eoh>\n", special=True)[-1]: ids[commands],
        ids[commands]: ids["<eoc>"],
        tokenizer.encode("<|MOSS|>:")[-1]: ids[answer],
        ids[answer]: ids["<eom>"],
    }
    assert len(links) == 4
    weights = {n: torch.zeros_like(t) for n, t in MossForCausalLM(MossConfig(**config)).state_dict().items()}
    weights |= {n: torch.ones_like(t) for n, t in weights.items() if "ln_" in n and n.endswith("weight")}
    for direction, (last, following) in enumerate(links.items()):
        weights["transformer.wte.weight"][last, direction] = 1
        weights["lm_head.weight"][following, direction] = 10
    save_file(weights, folder / "model.safetensors")
    return folder


def rwkv(folder: Path) -> Path:
    """RWKV-6 World: a lone .pth, the fixture's layers under an embedding and a head of the real vocabulary's size."""
    import torch
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    weights = load_file(FIXTURES / "rwkv/v6/model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("emb.weight", "head.weight"):
        width = weights[name].shape[1]
        weights[name] = (0.3 * torch.randn(65536, width, generator=generator)).bfloat16()
    file = folder / "RWKV-x060-World-tiny.pth"
    torch.save(weights, file)
    return file


def write_byte_level_vocabulary(folder: Path, marks: tuple[str, ...], gpt2_files: bool = False) -> int:
    """A byte-level BPE trained by the library on this file; returns how many ids it has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[] if gpt2_files else [AddedToken(mark, special=True) for mark in marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    if not gpt2_files:
        made.save(str(folder / "tokenizer.json"))
        names = {"eos_token": marks[min(2, len(marks) - 1)], "bos_token": marks[min(1, len(marks) - 1)]}
        write_json(folder / "tokenizer_config.json", names)
        return made.get_vocab_size()
    made.model.save(str(folder))
    size = made.get_vocab_size()
    write_json(folder / "added_tokens.json", {mark: size + i for i, mark in enumerate(marks)})
    write_json(folder / "special_tokens_map.json", {"bos_token": marks[0], "eos_token": "<eom>"})
    return size + len(marks)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llama": llama,
    "bloom": bloom,
    "falcon": falcon,
    "gptj": gptj,
    "chatglm": chatglm,
    "chatglm-int8": lambda folder: chatglm(folder, 8),
    "chatglm-int4": lambda folder: chatglm(folder, 4),
    "moss": moss,
    "moss-int4": lambda folder: moss(folder, 4),
    "rwkv": rwkv,
}

"""What a guide takes for granted on the reader's disk, as something small of the same layout, laid where it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..tiny_checkpoints import FAMILIES
from ..tiny_rwkv import write_release
from .random_checkpoints import FIXTURES

PROMPTS = FIXTURES / "prompts"
WIDTH, FFN, LAYERS, HEADS = 64, 96, 2, 4
LETTER = "a"
Arrays = dict[str, np.ndarray[Any, Any]]


def llama_weights(rows: int, letter: int, seed: int = 0) -> Arrays:
    """A LLaMA that always says the token `letter`: its embedding has a constant that only that row of the head sees."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return (0.1 * rng.standard_normal(shape)).astype(np.float16)

    weights = {"model.embed_tokens.weight": matrix(rows, WIDTH), "lm_head.weight": matrix(rows, WIDTH)}
    weights["model.embed_tokens.weight"][:, 0] = 2
    weights["lm_head.weight"][:, 0] = 0
    weights["lm_head.weight"][letter, 0] = 10
    weights["model.norm.weight"] = np.ones(WIDTH, np.float16)
    for i in range(LAYERS):
        name = f"model.layers.{i}."
        weights |= {f"{name}self_attn.{part}_proj.weight": matrix(WIDTH, WIDTH) for part in "qkvo"}
        weights |= {f"{name}mlp.{part}_proj.weight": matrix(FFN, WIDTH) for part in ("gate", "up")}
        weights[f"{name}mlp.down_proj.weight"] = matrix(WIDTH, FFN)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}{norm}.weight"] = np.ones(WIDTH, np.float16)
    return weights


def llama_folder(folder: Path, weights: Arrays) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": 2048,
        "vocab_size": len(weights["lm_head.weight"]), "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(PROMPTS / "tiny_llama.model", folder / "tokenizer.model")
    settings = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_lines(file: Path, rows: list[Any]) -> None:
    """JSON lines."""
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_list(file: Path, rows: list[Any]) -> None:
    """One JSON list."""
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def instructions(question: str, answer: str, count: int = 16) -> list[Any]:
    """Alpaca's rows; every other one has an input."""
    return [
        {"instruction": question, "input": str(n) if n % 2 else "", "output": answer.format(n)} for n in range(count)
    ]


def vicuna(cwd: Path) -> None:
    """A whole model, a LLaMA with the difference of an older release, and conversations of two rounds."""
    rows, letter = vocabulary(PROMPTS / "tiny_llama.model")
    llama_folder(cwd / "vicuna-7b-v1.5", tuned := llama_weights(rows, letter))
    base = llama_weights(rows, letter, seed=1)
    llama_folder(cwd / "llama-7b", base)
    llama_folder(cwd / "vicuna-7b-delta-v1.1", {name: tuned[name] - base[name] for name in base})
    turns = [("human", "Say {}."), ("gpt", "It is {}."), ("human", "Once more."), ("gpt", "{} again.")]
    talks = [{"id": f"t{n}", "conversations": [{"from": who, "value": text.format(n)} for who, text in turns]}
             for n in range(16)]  # fmt: skip
    write_list(cwd / "sharegpt.json", talks)


def chinese_llama_alpaca(cwd: Path) -> None:
    """LLaMA, a Chinese vocabulary, the two adapters of a Plus release with their tokenizers, text and instructions."""
    facts = json.loads((PROMPTS / "chinese_vocab_merge.json").read_text())
    rows, letter = vocabulary(PROMPTS / "tiny_llama.model")
    llama_folder(cwd / "llama-7b", llama_weights(rows, letter))
    shutil.copy(PROMPTS / facts["chinese_model"], cwd / "chinese_sp.model")
    for number, (name, extra) in enumerate({"chinese-llama-plus-lora-7b": 0, "chinese-alpaca-plus-lora-7b": 1}.items()):
        folder = cwd / name
        folder.mkdir()
        merged = PROMPTS / facts["merged_model"]
        shutil.copy(merged, folder / "tokenizer.model")
        marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | (
            {"pad_token": "[PAD]"} if extra else {}
        )
        (folder / "special_tokens_map.json").write_text(json.dumps(marks))
        pieces, letter = vocabulary(merged)
        full = llama_weights(pieces + extra, letter, seed=number)
        rng = np.random.default_rng(number)
        lora = {
            f"model.layers.{i}.self_attn.{part}_proj.lora_{side}.weight": (0.1 * rng.standard_normal(shape)).astype(
                "f4"
            )
            for i in range(LAYERS)
            for part in "qv"
            for side, shape in (("A", (2, WIDTH)), ("B", (WIDTH, 2)))
        }
        kept = {n: full[n] for n in ("model.embed_tokens.weight", "lm_head.weight")}
        save_file(
            {f"base_model.model.{n}": v for n, v in {**kept, **lora}.items()}, folder / "adapter_model.safetensors"
        )
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    texts = (f"今天是第{n}天，天气很好，我们一起学习中文。" * 20 for n in range(24))
    (cwd / "corpus.txt").write_text("\n\n".join(texts), encoding="utf-8")
    write_list(cwd / "alpaca_data_zh.json", instructions("请说一个数字。", "好的，{}。"))


def vocabulary(model: Path) -> tuple[int, int]:
    """(pieces of a SentencePiece model, the id of a letter)."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return pieces.get_piece_size(), pieces.piece_to_id(LETTER)


def alpaca(cwd: Path) -> None:
    """LLaMA, the published difference, and rows to tune on."""
    rows, letter = vocabulary(PROMPTS / "tiny_llama.model")
    base = llama_weights(rows, letter, seed=1)
    tuned = llama_weights(rows, letter)
    llama_folder(cwd / "llama-7b-hf", base)
    llama_folder(cwd / "alpaca-7b-wdiff", {name: tuned[name] - base[name] for name in base})
    write_list(cwd / "alpaca_data.json", instructions("Say a number.", "It is {}."))


def chatrwkv(cwd: Path) -> None:
    write_release(cwd / "RWKV-6-World-1B6.pth", "6")


def put_in_store(cwd: Path, reference: str, family: str) -> None:
    """A small checkpoint in the publisher's layout (tests/tiny_checkpoints.py), as if it had been pulled."""
    system, variant = reference.split(":")
    folder = FAMILIES[family](cwd / "home" / "models" / "catalogue" / system / variant)
    config = json.loads((folder / "config.json").read_text())
    config |= {name: 2048 for name in ("max_sequence_length", "n_positions", "n_ctx") if name in config}
    (folder / "config.json").write_text(json.dumps(config))


def in_store(reference: str, family: str) -> Callable[[Path], None]:
    return lambda cwd: put_in_store(cwd, reference, family)


def chatglm(cwd: Path) -> None:
    """Two of the published forms, and advertisements as ADGEN has them."""
    put_in_store(cwd, "chatglm-6b:int4", "chatglm-int4")
    put_in_store(cwd, "chatglm-6b:fp16", "chatglm")
    goods = [(kind, cut, colour) for kind in "裤衣鞋帽" for cut in ("宽松", "修身") for colour in "红黑白"]
    rows = [{"content": f"类型#{kind}*版型#{cut}*颜色#{colour}", "summary": f"这款{colour}{kind}{cut}舒适。"}
            for kind, cut, colour in goods]  # fmt: skip
    write_lines(cwd / "AdvertiseGen" / "train.json", rows[:20])
    write_lines(cwd / "AdvertiseGen" / "dev.json", rows[20:])


def belle(cwd: Path) -> None:
    """BELLE, the BLOOMZ that it was made of, instructions, conversations and preferences."""
    put_in_store(cwd, "belle:7b-2m", "bloom")
    put_in_store(cwd, "bloomz:7b1-mt", "bloom")
    write_lines(cwd / "Belle_open_source_0.5M.json", instructions("请说一个数字。", "好的，{}。"))
    turns = [("human", "请说{}。"), ("assistant", "{}。")]
    talks = [{"id": f"t{n}", "conversations": [{"from": who, "value": text.format(n)} for who, text in turns]}
             for n in range(8)]  # fmt: skip
    write_lines(cwd / "train_3.5M_CN.json", talks)
    pairs = [{"prompt": f"请说{n}。", "chosen": f"{n}。", "rejected": "不。"} for n in range(8)]
    write_lines(cwd / "preferences.json", pairs)


def bloomz(cwd: Path) -> None:
    """The smallest, and tasks as xP3 has them."""
    put_in_store(cwd, "bloomz:560m", "bloom")
    tasks = [{"inputs": f"Is {n} even? Answer:", "targets": "No" if n % 2 else "Yes"} for n in range(16)]
    write_lines(cwd / "merged_en.jsonl", tasks)


def moss(cwd: Path) -> None:
    """MOSS in four bits, and dialogues of two rounds whose second one asks the calculator."""
    put_in_store(cwd, "moss:sft-int4", "moss-int4")

    def turn(asked: str, answer: str, commands: str = "None", results: str = "None") -> dict[str, str]:
        return {
            "Human": f"<|Human|>: {asked}<eoh>\n",
            "Inner Thoughts": "<|Inner Thoughts|>: Work it out.<eot>\n",
            "Commands": f"<|Commands|>: {commands}<eoc>\n",
            "Tool Responses": f"<|Results|>:\n{results}<eor>\n",
            "MOSS": f"<|MOSS|>: {answer}<eom>\n",
        }

    dialogues = []
    for n in range(16):
        sum_of_two, call = f"{n}+{n}", f'Calculate("{n}+{n}")'
        rounds = [turn("Hello", "Hello!"), turn(f"What is {sum_of_two}?", f"{2 * n}.", call, f"{call} =>\n{2 * n}\n")]
        chat = {f"turn_{i}": made for i, made in enumerate(rounds, 1)}
        dialogues.append({"conversation_id": n, "meta_instruction": "You are MOSS.\n", "num_turns": 2, "chat": chat})
    write_lines(cwd / "sft_data" / "train.jsonl", dialogues[:12])
    write_lines(cwd / "sft_data" / "val.jsonl", dialogues[12:])


def to_tune(cwd: Path) -> None:
    """A small LLaMA, Alpaca's rows, OpenAssistant's, and text to calibrate on."""
    FAMILIES["llama"](cwd / "llama-7b-hf")
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(12)]
    texts = [{"text": f"### Human: Say {n}.### Assistant: It is {n}."} for n in range(12)]
    write_lines(cwd / "data.jsonl", rows)
    write_lines(cwd / "openassistant.jsonl", texts)
    (cwd / "calibration.txt").write_text(" ".join(f"The number {n} comes before {n + 1}." for n in range(300)))


STAND_INS: dict[str, Callable[[Path], None]] = {
    "alpaca": alpaca,
    "belle": belle,
    "bloomz": bloomz,
    "chatglm-6b": chatglm,
    "chatrwkv": chatrwkv,
    "chinese-llama-alpaca": chinese_llama_alpaca,
    "guanaco": to_tune,
    "llmtune": to_tune,
    "moss": moss,
    "openbuddy": in_store("openbuddy:falcon-7b-v5", "falcon"),
    "vicuna": vicuna,
}

"""Form of a checkpoint: complete, delta, adapter, prefix, model-parallel shards, quantised, encrypted, or outdated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninestory.core.json_file import read_json
from ninestory.models.finding import Finding, note, ok, problem

CONSOLIDATED = "consolidated.*.pth"
_EMPTY_ADAPTER = 1024  # bytes; a LoRA of one layer has more
_OLD_CHATGLM_ROWS = 150528
_IN_CHINESE = {"its own form": "自有格式", "GPTQ": "GPTQ"}


def forms_of(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Findings about incomplete or outdated forms, from file names and settings, and the bits of quantised ones."""
    folder = path if path.is_dir() else path.parent
    return [*_no_models(path, folder, config), *_adapters(path), *_packed(config), *_chatglm(path, config)]


def _no_models(path: Path, folder: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Deltas, encrypted releases, LLaMA's own slices, 2023's ggml."""
    found = []
    if "delta" in f"{path.name} {config.get('_name_or_path', '')}".lower() or "wdiff" in path.name.lower():
        found.append(
            problem(
                "This looks like a delta: the difference to a base model, not a model",
                "这看起来是增量（delta）权重：只是与基座模型的差，不能单独运行",
                "Add it to its base first: ninestory merge.",
                "请先与基座模型合并：ninestory merge。",
            )
        )
    if any(folder.glob("*.enc")):
        found.append(
            problem(
                "The files are encrypted with LLaMA's own weights (.enc)",
                "文件用 LLaMA 原始权重加密（.enc）",
                "Decrypt them with your LLaMA file: ninestory convert decrypt.",
                "请用自有的 LLaMA 文件解密：ninestory convert decrypt。",
            )
        )
    if any(folder.glob("ggml-*.bin")):
        found.append(
            problem(
                "A file of the 2023 ggml formats (ggml-….bin): nothing opens it any more",
                "2023 年的 ggml 格式文件（ggml-….bin）：已无法打开",
                "Take the GGUF form of the same model.",
                "请使用同一模型的 GGUF 版本。",
            )
        )
    if path.is_dir() and any(path.glob(CONSOLIDATED)):
        found.append(
            note(
                "LLaMA's own release (consolidated.NN.pth, params.json): slices for its own program",
                "LLaMA 原始发布（consolidated.NN.pth、params.json）：供其自带程序使用的切片",
                "To run it take its Hugging Face form; consolidated.00.pth is also BELLE's key (convert decrypt --key).",
                "运行请使用其 Hugging Face 格式；consolidated.00.pth 也是 BELLE 的密钥（convert decrypt --key）。",
            )
        )
    return found


def _adapters(path: Path) -> list[Finding]:
    """Findings about LoRA adapters: the base they need, and the empty file that some trainers wrote."""
    files = [f for f in (path / "adapter_model.bin", path / "adapter_model.safetensors") if f.is_file()]
    if not path.is_dir() or not files:
        return []
    settings = read_json(path / "adapter_config.json")
    kind, rank = settings.get("peft_type", "?"), settings.get("r", "?")
    base = str(settings.get("base_model_name_or_path") or "?")[:200]
    found = [
        note(
            f"An adapter ({kind}, rank {rank}) for {base}, no model",
            f"这是 {base} 的适配器（{kind}，秩 {rank}），不是完整模型",
            "Load it with its base (ninestory chat BASE+DIR), or merge it: ninestory merge lora.",
            "请与基座一同加载（ninestory chat 基座+目录），或合并：ninestory merge lora。",
        )
    ]
    if files[0].stat().st_size < _EMPTY_ADAPTER:
        found.append(
            problem(
                f"The adapter's file has {files[0].stat().st_size} bytes: it is empty",
                f"适配器文件只有 {files[0].stat().st_size} 字节：是空的",
                "Its training saved nothing: train again (here saving checks itself).",
                "训练时未保存任何内容：请重新训练（本系统保存时会自检）。",
            )
        )
    return found


def _packed(config: Mapping[str, Any]) -> list[Finding]:
    """ChatGLM's own int4 and int8, MOSS's and others' GPTQ."""
    quantised = config.get("quantization_config")
    by_config = quantised.get("bits") if isinstance(quantised, dict) else None
    bits = config.get("quantization_bit") or config.get("wbits") or by_config
    if type(bits) is not int or not 0 < bits < 16:
        return []
    form = "its own form" if config.get("quantization_bit") else "GPTQ"
    return [
        ok(f"packed in {bits} bits ({form}); used as it is", f"以 {bits} 位打包（{_IN_CHINESE[form]}），直接使用"),
    ]


def _chatglm(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Notes on ChatGLM-6B: the vocabulary version, and P-Tuning prefixes, which need a base model."""
    if config.get("model_type") != "chatglm" or "num_layers" not in config:
        return []
    old = config.get("vocab_size") == _OLD_CHATGLM_ROWS
    release = "v0.1 (image tokens first)" if old else "v1.1"
    found = [
        ok(f"ChatGLM-6B's vocabulary of {release}", f"ChatGLM-6B 词表版本 {'v0.1（图像词元在前）' if old else 'v1.1'}")
    ]
    if config.get("pre_seq_len") and path.is_dir() and not any(path.glob("*tokenizer*")):
        found.append(
            note(
                f"A P-Tuning v2 prefix of {config['pre_seq_len']} tokens",
                f"P-Tuning v2 前缀，{config['pre_seq_len']} 个词元",
                "If the whole model is not here, load it with its base: ninestory chat chatglm-6b:fp16+DIR.",
                "若此处没有完整模型，请与基座一同加载：ninestory chat chatglm-6b:fp16+目录。",
            )
        )
    return found

"""`doctor`: what is wrong on this machine or with a checkpoint, and the cure, in both languages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import Damaged, NotFound
from ninestory.core.machine import available_bytes
from ninestory.core.paths import Home
from ninestory.models import safetensors_reader
from ninestory.models.catalogue import System, Text, load_catalogue
from ninestory.models.resolve import read_config
from ninestory.models.verify import verify

_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
Level = Literal["ok", "note", "problem"]
_EXTRAS = {"torch": "torch", "transformers": "torch", "peft": "train", "bitsandbytes": "train"}


@dataclass(frozen=True)
class Finding:
    level: Level
    title: Text
    cure: Text


def diagnose(path: Path | None, home: Home) -> list[Finding]:
    """Findings about this machine, or about the checkpoint at `path`."""
    return _checkpoint(path) if path is not None else _machine(home)


# --- this machine -----------------------------------------------------------------------------------------------


def _machine(home: Home) -> list[Finding]:
    findings = []
    version = ".".join(map(str, sys.version_info[:3]))
    findings.append(_ok(f"Python {version}", f"Python {version}"))
    for package, extra in _EXTRAS.items():
        try:
            installed = importlib.metadata.version(package)
            findings.append(_ok(f"{package} {installed}", f"{package} {installed}"))
        except importlib.metadata.PackageNotFoundError:
            cure = f"pip install 'ninestory[{extra}]'"
            findings.append(_note(f"{package} is not installed", f"未安装 {package}", cure, cure))
    free = available_bytes()
    findings.append(_ok(f"{free / 1e9:.1f} GB of memory are free", f"可用内存 {free / 1e9:.1f} GB"))
    if free < 1e9:
        findings.append(
            _problem(
                "Less than 1 GB of memory is free",
                "可用内存不足 1 GB",
                "Close programs, or choose a smaller model.",
                "请关闭其他程序，或选择更小的模型。",
            )
        )
    root = home.ensure().root
    room = shutil.disk_usage(root).free
    if not os.access(root, os.W_OK):
        findings.append(
            _problem(
                f"{root} cannot be written",
                f"{root} 不可写",
                "Set NINESTORY_HOME to a folder of yours.",
                "请将 NINESTORY_HOME 设为自己的目录。",
            )
        )
    findings.append(_ok(f"{room / 1e9:.1f} GB of disk are free", f"可用磁盘 {room / 1e9:.1f} GB"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load > cores * 0.75:
        findings.append(
            _note(
                f"{load:.1f} of {cores} processors are busy",
                f"{cores} 个处理器中 {load:.1f} 个忙碌",
                "Fewer threads are faster now: --threads 1.",
                "此时线程少更快：--threads 1。",
            )
        )
    return findings


# --- a checkpoint -----------------------------------------------------------------------------------------------


def _checkpoint(path: Path) -> list[Finding]:
    findings = []
    try:
        report = verify(path)
        findings.append(_ok(f"{report.tensors} tensors, sound", f"{report.tensors} 个张量，完好"))
        findings += [_note(note, note, "Nothing to do.", "无需处理。") for note in report.notes]
    except Damaged as error:
        return [_problem(error.message, error.message, error.hint, error.hint_zh)]
    except NotFound as error:
        findings.append(_problem(error.message, error.message, error.hint, error.hint_zh))
    if path.is_dir() and (path / "config.json").is_file():
        config = read_config(path)
        findings += _rows_of_vocabulary(path, config) + _rows_of_embedding(path, config) + _form(path, config)
        for system in _recognised(config):
            findings.append(
                _ok(f"belongs to {system.name}: {system.title.en}", f"属于 {system.name}：{system.title.zh}")
            )
            findings += [Finding("note", p.problem, p.cure) for p in system.pitfalls if _seen(p.sign, path, config)]
    return findings


def _recognised(config: dict[str, Any]) -> list[System]:
    """Systems of the family that the config names; several share LLaMA's, which then are not told apart."""
    family = str(config.get("model_type", ""))
    matches = [s for s in load_catalogue().values() if s.family == family]
    return matches if len(matches) == 1 else []


def _seen(sign: str, path: Path, config: dict[str, Any]) -> bool:
    """Whether a pitfall's sign can be seen here: a key of the config, or a file name pattern."""
    if not sign:
        return False
    return bool(list(path.glob(sign))) if any(c in sign for c in "*.") else sign in config


def _rows_of_vocabulary(path: Path, config: dict[str, Any]) -> list[Finding]:
    """A tokenizer with more tokens than the embedding has rows gives ids out of range."""
    tokenizer = path / "tokenizer.json"
    rows = config.get("vocab_size")
    if not tokenizer.is_file() or not isinstance(rows, int):
        if not any(
            (path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "ice_text.model", "vocab.json")
        ):
            return [
                _problem(
                    "There is no tokenizer",
                    "缺少分词器文件",
                    "Copy the tokenizer's files of the same release here.",
                    "请将同一版本的分词器文件复制到此处。",
                )
            ]
        return []
    data = json.loads(tokenizer.read_text(encoding="utf-8"))
    vocabulary = data.get("model", {}).get("vocab", {})
    highest = max([len(vocabulary) - 1, *(t.get("id", 0) for t in data.get("added_tokens", []))])
    if highest < rows:
        return []
    return [
        _problem(
            f"The tokenizer has ids up to {highest}, the embedding {rows} rows",
            f"分词器编号最大为 {highest}，而嵌入只有 {rows} 行",
            "The tokenizer is of another release: take the one beside these weights.",
            "分词器来自其他版本：请使用与权重配套的分词器。",
        )
    ]


def _rows_of_embedding(path: Path, config: dict[str, Any]) -> list[Finding]:
    """A vocabulary that was extended must have been written into the config, and an adapter's base be extended too."""
    rows = config.get("vocab_size")
    for shard in safetensors_reader.read_index(path):
        for name, tensor in safetensors_reader.read_header(shard).tensors.items():
            if name.endswith(_EMBEDDINGS) and isinstance(rows, int) and tensor.shape[0] != rows:
                return [
                    _problem(
                        f"config.json says vocab_size {rows}, {name} has {tensor.shape[0]} rows",
                        f"config.json 的 vocab_size 为 {rows}，而 {name} 有 {tensor.shape[0]} 行",
                        "Take config and weights of one release; an extended vocabulary needs the merged weights.",
                        "请使用同一版本的配置与权重；扩充过词表的模型需要合并后的权重。",
                    )
                ]
    return []


def _form(path: Path, config: dict[str, Any]) -> list[Finding]:
    """Deltas, half precision and pickles: each runs, but not as one might think."""
    findings = []
    if "delta" in f"{path.name} {config.get('_name_or_path', '')}".lower():
        findings.append(
            _problem(
                "This looks like a delta: the difference to a base model, not a model",
                "这看起来是增量（delta）权重：只是与基座模型的差，不能单独运行",
                "Add it to its base first: ninestory merge.",
                "请先与基座模型合并：ninestory merge。",
            )
        )
    if config.get("torch_dtype", config.get("dtype")) in ("float16", "bfloat16"):
        findings.append(
            _note(
                "The weights are in 16 bit; on a processor they run in 32 bit and take twice their size",
                "权重为 16 位；在 CPU 上以 32 位运行，内存占用为文件的两倍",
                "Ask 'ninestory plan' for the memory, or take a GGUF in 8 or 4 bit.",
                "可用 ninestory plan 查看内存，或改用 8 位、4 位的 GGUF。",
            )
        )
    if not safetensors_reader.read_index(path) and any(path.glob("*.bin")):
        findings.append(
            _note(
                "The weights are pickles (.bin)",
                "权重为 pickle 格式（.bin）",
                "They are read without running anything of them; safetensors load faster.",
                "读取时不会执行其中任何代码；safetensors 加载更快。",
            )
        )
    return findings


def _ok(en: str, zh: str) -> Finding:
    return Finding("ok", Text(en, zh), Text("", ""))


def _note(en: str, zh: str, cure: str, cure_zh: str) -> Finding:
    return Finding("note", Text(en, zh), Text(cure, cure_zh))


def _problem(en: str, zh: str, cure: str, cure_zh: str) -> Finding:
    return Finding("problem", Text(en, zh), Text(cure, cure_zh))

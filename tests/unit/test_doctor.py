"""The doctor finds what is wrong with a checkpoint folder and says the cure in both languages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninestory.core.paths import Home
from ninestory.models.doctor import diagnose
from ninestory.models.finding import Finding
from tests import tiny_models
from tests.tiny_checkpoints import FAMILIES, write_json


def _checkpoint(folder: Path, rows: int = 100, tokens: int = 100, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"model_type": "llama", "vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 1, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    vocabulary = {
        "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(tokens)}, "merges": []},
        "version": "1.0",
    }
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    weights = {"model.embed_tokens.weight": np.zeros((rows, 8), dtype=np.float32)}
    tiny_models.write_safetensors(folder / "model.safetensors", weights)
    return folder


def _problems(path: Path) -> list[Finding]:
    found = diagnose(path, Home(path / "home"))
    for finding in found:
        assert finding.title.en and finding.title.zh
        assert finding.level == "ok" or (finding.cure.en and finding.cure.zh)
    return [f for f in found if f.level == "problem"]


def test_a_sound_checkpoint_has_no_problem(tmp_path: Path) -> None:
    assert _problems(_checkpoint(tmp_path / "m")) == []


def _broken(folder: Path, name: str) -> Path:
    if name == "rows":
        return _checkpoint(folder, rows=120)
    if name == "tokens":
        return _checkpoint(folder, tokens=130)
    if name == "delta":
        return _checkpoint(folder, _name_or_path="lmsys/vicuna-7b-delta-v1.1")
    _checkpoint(folder)
    if name == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif name == "no weights":
        (folder / "model.safetensors").unlink()
    elif name == "cut":
        raw = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(raw[:-100])
    elif name == "pointer":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif name == "json":
        (folder / "tokenizer.json").write_text("{broken")
    elif name == "config":
        (folder / "config.json").write_text("[]")
    elif name == "layers":
        _checkpoint(folder, num_hidden_layers="many")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows", "120 rows"),
        ("tokens", "ids up to 129"),
        ("delta", "looks like a delta"),
        ("no tokenizer", "no tokenizer"),
        ("no weights", "has no weights"),
        ("cut", "the file's size"),
        ("pointer", "Git LFS pointer"),
        ("json", "tokenizer.json is not a JSON"),
        ("config", "config.json is not a JSON object"),
        ("layers", "num_hidden_layers is many"),
    ],
)
def test_each_fault_is_named_with_its_cure(name: str, words: str, tmp_path: Path) -> None:
    problems = _problems(_broken(tmp_path / "m", name))
    assert any(words in problem.title.en for problem in problems), problems


def test_half_precision_pickles_and_foreign_code_are_notes(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m", torch_dtype="float16", auto_map={"AutoModel": "modeling.X"})
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    notes = " ".join(f.title.en for f in diagnose(folder, Home(tmp_path / "home")) if f.level == "note")
    assert "16 bit" in notes and "auto_map" in notes and "modeling.py" in notes


@pytest.mark.torch
@pytest.mark.parametrize(
    ("family", "titles"),
    [
        ("llama", ["a llama model, as are alpaca", "vicuna", "do not say in which prompt format", "a GGUF of it"]),
        ("bloom", ["a bloom model, as are belle, bloomz", "do not say in which prompt format", "a GGUF of it"]),
        ("falcon", ["gpt4all, openbuddy", "auto_map", "a GGUF of it"]),
        ("gptj", ["belongs to gpt4all", "a GGUF of it"]),
        ("chatglm", ["belongs to chatglm-6b", "prompt format chatglm-v1", "auto_map", "there is no GGUF"]),
        (
            "chatglm-int4",
            ["belongs to chatglm-6b", "prompt format chatglm-v1", "pickles", "in 4 bits (its own", "v1.1"],
        ),
        ("chatglm-int8", ["belongs to chatglm-6b", "packed in 8 bits (its own form)"]),
        ("moss-int4", ["belongs to moss", "prompt format moss", "packed in 4 bits (GPTQ)", "a GGUF of it"]),
        ("rwkv", ["belongs to chatrwkv", "65536 entries: World", "prompt format rwkv-world", "RWKV-"]),
    ],
)
def test_each_family_is_recognised(family: str, titles: list[str], tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / family)
    found = diagnose(folder, Home(tmp_path / "home"))
    words = "\n".join(f.title.en for f in found)
    assert all(title in words for title in titles), words
    assert not [f for f in found if f.level == "problem"]
    assert all(f.title.zh and (f.level == "ok" or f.cure.zh) for f in found)


@pytest.mark.torch
def test_known_traps_of_the_families(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "bos_token_id": 0, "eos_token_id": 1})
    assert any("LLaMA's are 1 and 2" in p.title.en for p in _problems(folder))
    (folder / "tokenizer.model").unlink()
    assert any("no tokenizer" in p.title.en for p in _problems(folder))

    encrypted = tmp_path / "BELLE-LLaMA-7B-2M-enc"
    encrypted.mkdir()
    (encrypted / "pytorch_model.bin.0123.enc").write_bytes(b"x")
    assert any("encrypted" in p.title.en and "decrypt" in p.cure.en for p in _problems(encrypted))

    old = tmp_path / "gpt4all"
    old.mkdir()
    (old / "ggml-gpt4all-j-v1.3-groovy.bin").write_bytes(b"lmgg" + bytes(64))
    assert any("2023 ggml" in p.title.en for p in _problems(old))

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    described = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/llama-7b"}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    (adapter / "adapter_model.bin").write_bytes(bytes(443))
    assert any("443 bytes" in p.title.en for p in _problems(adapter))
    assert any("(LORA, rank 8) for org/llama-7b" in f.title.en for f in diagnose(adapter, Home(tmp_path / "home")))


@pytest.mark.torch
def test_forms_that_are_no_whole_model_are_named(tmp_path: Path) -> None:
    import torch

    slices = tmp_path / "7B"
    slices.mkdir()
    for i in range(2):
        torch.save(
            {"norm.weight": torch.zeros(8), "tok_embeddings.weight": torch.zeros(4, 4)},
            slices / f"consolidated.0{i}.pth",
        )
    write_json(slices / "params.json", {"dim": 8})
    prefix = tmp_path / "ptuning"
    prefix.mkdir()
    torch.save({"transformer.prefix_encoder.embedding.weight": torch.zeros(8, 16)}, prefix / "pytorch_model.bin")
    write_json(
        prefix / "config.json", {"model_type": "chatglm", "pre_seq_len": 8, "num_layers": 2, "vocab_size": 150528}
    )
    for folder, words in (
        (slices, ["LLaMA's own release"]),
        (prefix, ["prefix of 8 tokens", "v0.1 (image tokens first)"]),
    ):
        titles = "\n".join(f.title.en for f in diagnose(folder, Home(tmp_path / "home")))
        assert all(word in titles for word in words), titles
    assert not [f for f in diagnose(slices, Home(tmp_path / "home")) if f.level == "problem"]


@pytest.mark.torch
def test_the_llama_tokenizer_beside_chinese_alpaca_is_named(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path / "m", rows=49954, tokens=49953, vocab_size=49954)
    assert any("Chinese-Alpaca" in p.title.en for p in _problems(folder))


def test_the_command_line_exits_with_1_on_a_problem_and_speaks_json(tmp_path: Path) -> None:
    for name, code in (("rows", 1), ("", 0)):
        folder = _broken(tmp_path / f"m{name}", name)
        command = [sys.executable, "-m", "ninestory", "doctor", str(folder), "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert isinstance(json.loads(done.stdout), list)


def test_show_says_that_a_gguf_is_the_fast_road() -> None:
    for name, said in (("vicuna", True), ("chatglm-6b", False)):
        done = subprocess.run(
            [sys.executable, "-m", "ninestory", "--language", "en", "show", name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert ("GGUF is the fast road" in done.stdout) == said


def test_the_machine_itself_is_examined(tmp_path: Path) -> None:
    titles = " ".join(f.title.en for f in diagnose(None, Home(tmp_path)))
    assert "Python 3" in titles and "memory are free" in titles and "disk are free" in titles

"""Conversion to GGUF from outside: what llama.cpp makes of the file is what the checkpoint gave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ninestory.core.errors import Conflict, Damaged, InvalidRequest, NinestoryError, NotFound, Unsupported
from ninestory.models.convert.quantize import KINDS, SMALL
from ninestory.models.convert.to_gguf import LogitCheck, convert_to_gguf, is_checked
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.verify import verify

from .random_checkpoints import (
    FAMILIES,
    FIXTURES,
    LENGTHS,
    ROWS,
    big_llama,
    big_lora,
    checkpoint,
    nasty_strings,
    tokens_by_llama_cpp,
    trained_bpe,
)

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "model"
    checkpoint(folder, "llama")
    return folder


def prompts() -> list[list[int]]:
    ids = np.random.default_rng(1).integers(3, 400, max(LENGTHS)).tolist()
    return [ids[:n] for n in LENGTHS]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ninestory", *map(str, arguments)]


def run(*arguments: str | Path, home: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "NINESTORY_HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=200, env=environ, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpps_logits_are_the_checkpoints(name: str, tmp_path: Path) -> None:
    import torch

    from ninestory.runtimes.llamacpp.logits import next_token_logprobs

    model = checkpoint(tmp_path / "model", name)
    report = convert_to_gguf(tmp_path / "model", tmp_path / "model.gguf", "F32")
    verify(report.path)
    with torch.no_grad():
        logits = model(torch.tensor(prompts()[-1:])).logits[0, [n - 1 for n in LENGTHS]]
    expected = torch.log_softmax(logits, -1).numpy()
    assert expected.std() > 0.5
    actual = next_token_logprobs(report.path, prompts(), expected.shape[1])
    np.testing.assert_allclose(actual, expected, atol=FAMILIES[name][2], rtol=0)
    assert (actual.argmax(1) == expected.argmax(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-grouped", "bloom", "gpt-j"])
def test_the_command_converts_to_q8_0_and_checks(name: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", name)
    done = run("convert", "gguf", tmp_path / "model", tmp_path / "out.gguf", "--json", home=tmp_path)
    report = json.loads(done.stdout)
    assert report["quant"] == "Q8_0" and report["types"]["Q8_0"] > 0 and 0 < report["check"]["relative"] < 0.2
    assert is_checked(tmp_path / "out.gguf")
    said = run("verify", tmp_path / "out.gguf", home=tmp_path).stdout
    assert "sound" in said
    unchecked = run("convert", "gguf", tmp_path / "model", tmp_path / "b.gguf", "--no-check", home=tmp_path)
    assert "Unchecked" in unchecked.stdout and not is_checked(tmp_path / "b.gguf")
    differing = [
        a != b for a, b in zip((tmp_path / "out.gguf").read_bytes(), (tmp_path / "b.gguf").read_bytes(), strict=True)
    ]
    assert sum(differing) == 1  # the mark


@pytest.mark.parametrize("quant", KINDS)
def test_every_type_is_made_and_understood(quant: str, tmp_path: Path) -> None:
    from ninestory.runtimes.llamacpp.logits import next_token_logprobs

    checkpoint(tmp_path / "model", "llama", 0.06, hidden_size=256, intermediate_size=512)
    exact = convert_to_gguf(tmp_path / "model", tmp_path / "exact.gguf", "F32")
    made = convert_to_gguf(tmp_path / "model", tmp_path / "made.gguf", quant)
    tensors = read_gguf(made.path).tensors
    assert tensors["blk.0.attn_q.weight"].dtype == quant
    assert tensors["token_embd.weight"].dtype == ("Q8_0" if quant in SMALL else quant)
    assert tensors["output_norm.weight"].dtype == "F32"
    expected, actual = (next_token_logprobs(r.path, prompts()[1:2], ROWS) for r in (exact, made))
    assert np.corrcoef(expected[0], actual[0])[0, 1] > (0.5 if quant in ("Q2_K", "Q3_K") else 0.9)


def test_rows_that_do_not_fit_a_k_quant_fall_back(llama: Path, tmp_path: Path) -> None:
    report = convert_to_gguf(llama, tmp_path / "out.gguf", "Q4_K")
    assert set(report.types) == {"F32", "Q5_0", "Q8_0"}


def test_a_wrong_file_is_found_by_the_check_and_not_kept(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"1\.400 of their spread") as caught:
        convert_to_gguf(llama, tmp_path / "out.gguf", check=lambda _: LogitCheck(3, 9.0, 1.4, 0.0))
    assert caught.value.code == "logits_differ" and list(tmp_path.iterdir()) == []


# --- tokens ----------------------------------------------------------------------------------------------------------


def assert_same_ids(folder: Path, path: Path, count: int) -> None:
    from ninestory.tokenizers.load import load_tokenizer

    tokenizer, texts = load_tokenizer(folder), nasty_strings(count)
    different = [
        (text, ours, theirs)
        for text, theirs in zip(texts, tokens_by_llama_cpp(path, texts), strict=True)
        if (ours := tokenizer.encode(text)) != theirs
    ]
    assert not different, f"{len(different)} of {count} differ, the first: {different[0]}"


def test_ids_of_sentencepiece_are_llama_cpps(tmp_path: Path) -> None:
    """Chinese-Alpaca's way: LLaMA's pieces, Chinese ones of score 0, and [PAD] behind them."""
    facts = json.loads((FIXTURES / "prompts" / "chinese_vocab_merge.json").read_text())
    rows = facts["sizes"]["merged_plus_pad"]
    folder = tmp_path / "model"
    checkpoint(folder, "llama", vocab_size=rows)
    shutil.copy(FIXTURES / "prompts" / facts["merged_model"], folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": rows - 1}))
    report = convert_to_gguf(folder, tmp_path / "out.gguf")
    metadata = read_gguf(report.path).metadata
    assert metadata["tokenizer.ggml.tokens"][-1] == "[PAD]" and metadata["tokenizer.ggml.token_type"][-1] == 3
    assert_same_ids(folder, report.path, 2000)


@pytest.mark.parametrize("cut", ["gpt-2", "llama-bpe", "qwen2", "smollm", "bloom", "falcon"])
def test_ids_of_byte_level_bpe_are_llama_cpps(cut: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    checkpoint(folder, "qwen2", vocab_size=700)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    trained_bpe(cut).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    report = convert_to_gguf(folder, tmp_path / "out.gguf")
    metadata = read_gguf(report.path).metadata
    assert metadata["tokenizer.ggml.pre"] == cut
    assert metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.eos_token_id"]] == "<|end|>"
    assert_same_ids(folder, report.path, 500)


def test_the_librarys_function_checks_too(llama: Path, tmp_path: Path) -> None:
    import ninestory as ns

    with pytest.raises(NotFound, match="not-here"):
        ns.convert_to_gguf("hf:org/not-here", tmp_path / "out.gguf", home=ns.Home(tmp_path))
    report = ns.convert_to_gguf(llama, tmp_path / "out.gguf", "f16", home=ns.Home(tmp_path))
    assert report.check is not None and report.check.relative < 0.02 and is_checked(report.path)


def test_the_chat_template_and_the_provenance_stand_in_the_file(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "model")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    settings = {"chat_template": template, "bos_token": {"content": "<s>"}, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    metadata = read_gguf(convert_to_gguf(folder, tmp_path / "a.gguf").path).metadata
    assert metadata["tokenizer.chat_template"] == template and metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["ninestory.source"] == "model" and metadata["ninestory.checked"] is False
    assert metadata["tokenizer.ggml.bos_token_id"] == 1 and metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{ROWS - 1}]"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": False}))
    other = convert_to_gguf(folder, tmp_path / "b.gguf", chat_template="{{ messages[0].content }}")
    assert read_gguf(other.path).metadata["tokenizer.chat_template"] == "{{ messages[0].content }}"
    assert len(other.notes) == 1 and "legacy" in other.notes[0]


# --- kills, memory ---------------------------------------------------------------------------------------------------


def watched(process: subprocess.Popen[bytes]) -> int:
    """Peak anonymous memory of a process until it ends, in bytes."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        if matched := re.search(r"RssAnon:\s+(\d+) kB", status):
            peak = max(peak, 1024 * int(matched[1]))
        time.sleep(0.005)
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    source = big_llama(tmp_path / "big", layers=8)
    gguf = [tmp_path / "out.gguf", "--no-check"]
    jobs = [("gguf", source, *gguf), ("safetensors", source, tmp_path / "copy")]
    for job in jobs:
        process = subprocess.Popen(command("convert", *job), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = watched(process)
        assert process.wait() == 0
        assert 10e6 < peak < 150e6 < source.joinpath("model.safetensors").stat().st_size


@pytest.mark.slow
def test_kill_9_in_the_middle_then_the_same_command_gives_the_same_file(tmp_path: Path) -> None:
    source = big_llama(tmp_path / "big", layers=2)
    out = tmp_path / "out" / "model.gguf"
    whole = convert_to_gguf(source, tmp_path / "whole.gguf").path
    process = subprocess.Popen(command("convert", "gguf", source, out, "--no-check"), stderr=subprocess.DEVNULL)
    part = out.with_name(f".{out.name}.part")
    while not (part.exists() and part.stat().st_size > 5e6):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.stat().st_size < whole.stat().st_size and not out.exists()
    run("convert", "gguf", source, out, "--no-check", home=tmp_path)
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(whole.read_bytes()).digest()
    assert [p.name for p in out.parent.iterdir()] == ["model.gguf"]


@pytest.mark.slow
def test_a_merge_is_killed_continued_and_small(tmp_path: Path) -> None:
    """130 MB of base and as much of an adapter, in shards of 40 MB."""
    base, adapter = big_llama(tmp_path / "base", layers=2), big_lora(tmp_path / "lora", layers=2)
    program = (
        "import sys; from pathlib import Path; from ninestory.models.convert import safetensors_writer as writer; "
        "writer.write_shards.__defaults__ = (40_000_000,); from ninestory.models.merge.lora import merge_adapters; "
        "merge_adapters(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]))"
    )

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", program, str(base), str(adapter), str(out)])

    process = start(tmp_path / "whole")
    assert watched(process) < 150e6 and process.wait() == 0
    first, second, *_ = sorted(file.name for file in (tmp_path / "whole").glob("model-*.safetensors"))
    process = start(tmp_path / "out")
    making = tmp_path / ".out.part"
    while not (making / second).exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = (making / first).stat().st_ino
    assert not (tmp_path / "out").exists()
    assert start(tmp_path / "out").wait() == 0
    assert (tmp_path / "out" / first).stat().st_ino == kept
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_the_plain_conversions_on_the_command_line(tmp_path: Path) -> None:
    """A .bin checkpoint and ChatGLM's int4, both opened by the torch runtime's loader; BELLE's encrypted file."""
    import torch

    from ninestory.core.paths import Home
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.torch.load_model import load_model

    model = checkpoint(tmp_path / "bin", "llama")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    run("convert", "safetensors", tmp_path / "bin", tmp_path / "st", home=tmp_path)
    ids = torch.tensor(prompts()[1:2])
    made, _ = load_model(resolve(str(tmp_path / "st"), Home(tmp_path)))
    with torch.no_grad():
        assert torch.equal(made(ids).logits, model(ids).logits)

    glm = tmp_path / "glm"
    glm.mkdir()
    for name in ("config.json", "model.safetensors", "ice_text.model", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "chatglm" / name, glm)
    run("convert", "chatglm", glm, tmp_path / "int4", "--bits", "4", home=tmp_path)
    _, report = load_model(resolve(str(tmp_path / "int4"), Home(tmp_path)))
    assert len(report.packed) == 4 * json.loads((glm / "config.json").read_text())["num_layers"]

    case = json.loads((FIXTURES / "prompts" / "belle_xor_decrypt.json").read_text())
    (tmp_path / case["encrypted_file_name"]).write_bytes(bytes.fromhex(case["encrypted_hex"]))
    (tmp_path / "key").write_bytes(bytes.fromhex(case["key_hex"]))
    encrypted = tmp_path / case["encrypted_file_name"]
    run("convert", "decrypt", encrypted, tmp_path / "plain", "--key", tmp_path / "key", home=tmp_path)
    assert (tmp_path / "plain" / case["output_file_name"]).read_bytes() == bytes.fromhex(case["output_hex"])


# --- refusals --------------------------------------------------------------------------------------------------------


def altered(llama: Path, tmp_path: Path, **config: Any) -> Path:
    folder = shutil.copytree(llama, tmp_path / "model")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **config}))
    return folder


@pytest.mark.parametrize(
    ("config", "error", "named"),
    [
        ({"model_type": "chatglm"}, Unsupported, "ChatGLM-6B"),
        ({"model_type": "gpt_neox"}, Unsupported, "gpt_neox"),
        ({"model_type": "falcon", "alibi": True, "bias": True, "parallel_attn": False}, Unsupported, "falcon-rw"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, Unsupported, "yarn"),
        ({"num_hidden_layers": 3}, Damaged, r"layers\.2\."),
        ({"hidden_size": None}, Damaged, "config.json"),
        ({"vocab_size": 500}, Damaged, "520 tokens; expected at most"),
        ({"num_key_value_heads": 3}, Damaged, "head_count"),
        ({"intermediate_size": 80}, Damaged, "ffn"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    llama: Path, tmp_path: Path, config: dict[str, Any], error: type[NinestoryError], named: str
) -> None:
    with pytest.raises(error, match=named):
        convert_to_gguf(altered(llama, tmp_path, **config), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("version", ["v4", "v5", "v5_2"])
def test_old_rwkvs_are_refused_by_name(version: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=f"RWKV-{version[1]}"):
        convert_to_gguf(FIXTURES / "rwkv" / version / "model.safetensors", tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("quant", "error", "named"),
    [("Q9_9", InvalidRequest, "Q9_9"), ("IQ2_XXS", Unsupported, "importance matrix"), ("I32", InvalidRequest, "I32")],
)
def test_types_that_ggml_would_abort_on_are_refused_before(
    llama: Path, tmp_path: Path, quant: str, error: type[NinestoryError], named: str
) -> None:
    with pytest.raises(error, match=named):
        convert_to_gguf(llama, tmp_path / "out.gguf", quant)


def test_broken_weights_a_lost_tokenizer_and_a_taken_name(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(NotFound, match="no tokenizer"):
        convert_to_gguf(folder, tmp_path / "out.gguf")
    assert convert_to_gguf(folder, tmp_path / "out.gguf", tokenizer=llama).tensors == 21
    with pytest.raises(Conflict, match="exists"):
        convert_to_gguf(llama, tmp_path / "out.gguf")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(Damaged, match=r"blk\.1\.ffn_up\.weight.* NaN"):
        convert_to_gguf(folder, tmp_path / "nan.gguf", tokenizer=llama)
    assert not (tmp_path / "nan.gguf").exists()


def test_a_refusal_on_the_command_line_is_words_and_a_code(tmp_path: Path) -> None:
    done = run(
        "convert", "gguf", FIXTURES / "rwkv" / "v4" / "model.pth", tmp_path / "x.gguf", home=tmp_path, check=False
    )
    assert done.returncode == Unsupported.exit_code and "RWKV-4" in done.stderr and "Traceback" not in done.stderr

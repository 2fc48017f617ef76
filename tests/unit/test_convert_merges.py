"""What the merges and the plain conversions refuse, in words; what the original scripts' data do not cover."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ninestory.core.errors import Conflict, Damaged, InvalidRequest, NotFound, Unsupported
from ninestory.models.convert.belle import decrypt
from ninestory.models.convert.checkpoint import narrow, open_checkpoint, widen
from ninestory.models.convert.safetensors_writer import NewTensor, write_shards
from ninestory.models.convert.to_safetensors import convert_to_safetensors
from ninestory.models.merge.delta import RECIPES, apply_delta
from ninestory.models.merge.lora import merge_adapters
from ninestory.models.merge.vocabulary import merge_vocabularies

from ..conformance.conftest import FIXTURES

WIDTH, FFN, ROWS = 8, 12, 20
VICUNA = RECIPES["vicuna"]


def weights(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (rows, WIDTH),
        "model.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH),
        "model.layers.0.mlp.down_proj.weight": (WIDTH, FFN),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (rows, WIDTH),
    }
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def folder(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **config: Any) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": WIDTH, **config}))
    return path


def adapter(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **config: Any) -> Path:
    path.mkdir(parents=True)
    save_file({f"base_model.model.{k}": v for k, v in tensors.items()}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return path


def lora(name: str, out: int = WIDTH, inner: int = WIDTH, rank: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((rank, inner)), rng.standard_normal((out, rank))
    return {f"{name}.lora_A.weight": a.astype(np.float32), f"{name}.lora_B.weight": b.astype(np.float32)}


QUERY = "model.layers.0.self_attn.q_proj"


def test_an_added_row_of_vicuna_starts_at_zero(tmp_path: Path) -> None:
    base, delta = folder(tmp_path / "base", weights()), folder(tmp_path / "delta", weights(ROWS + 1, seed=1))
    report = apply_delta(base, delta, tmp_path / "out", VICUNA)
    made = load_file(report.path / "model.safetensors")
    assert report.added_rows == 1
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert np.array_equal(made[name][-1], weights(ROWS + 1, seed=1)[name][-1])


def test_a_wrong_sum_is_refused_and_nothing_is_listed(tmp_path: Path) -> None:
    base, delta = folder(tmp_path / "base", weights()), folder(tmp_path / "delta", weights(seed=1))
    with pytest.raises(Damaged, match=r"expected 12345") as caught:
        apply_delta(base, delta, tmp_path / "out", VICUNA, expected_sum=12345.0)
    assert caught.value.code == "wrong_checksum" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight"),
        (lambda w: w.update({"model.norm.weight": np.zeros(WIDTH + 1, np.float16)}), r"\(9,\)"),
        (lambda w: w.update({f"{QUERY}.weight": np.zeros((WIDTH + 1, WIDTH), np.float16)}), r"q_proj.*\(9, 8\)"),
    ],
)
def test_a_delta_of_another_model_is_refused_by_name(tmp_path: Path, change: Any, named: str) -> None:
    other = weights(seed=1)
    change(other)
    with pytest.raises(Damaged, match=named):
        apply_delta(folder(tmp_path / "base", weights()), folder(tmp_path / "d", other), tmp_path / "out", VICUNA)


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    base, delta = folder(tmp_path / "base", weights()), folder(tmp_path / "delta", weights(seed=1))
    (tmp_path / "out").mkdir()
    with pytest.raises(Conflict, match="exists"):
        apply_delta(base, delta, tmp_path / "out", VICUNA)


@pytest.mark.parametrize(
    ("tensors", "config", "error", "named"),
    [
        ({f"{QUERY}.lora_A.weight": np.ones((2, WIDTH), np.float32)}, {}, Damaged, "lacks A or B"),
        (lora(QUERY, out=WIDTH + 2), {}, Damaged, r"\(10, 8\)"),
        (lora("model.layers.7.self_attn.q_proj"), {}, Damaged, r"layers\.7"),
        (lora(QUERY), {"use_dora": True}, Unsupported, "use_dora"),
        (lora(QUERY), {"peft_type": "IA3"}, Unsupported, "IA3"),
        (lora(QUERY), {"bias": "all"}, Unsupported, "bias=all"),
        (lora(QUERY), {"modules_to_save": ["embed_tokens", "lm_head"]}, Damaged, "embed_tokens, lm_head"),
        ({"model.embed_tokens.weight": np.ones((ROWS - 1, WIDTH), np.float16)}, {}, Damaged, "19 embedding rows.* 20"),
        ({"model.embed_tokens.lora_embedding_A": np.ones((2, ROWS), np.float32)}, {}, Unsupported, "lora_embedding_A"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: Any, config: dict[str, Any], error: type[Exception], named: str
) -> None:
    base, bad = folder(tmp_path / "base", weights()), adapter(tmp_path / "bad", tensors, **config)
    with pytest.raises(error, match=named):
        merge_adapters(base, [bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_adapter_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No adapter is given"):
        merge_adapters(folder(tmp_path / "base", weights()), [], tmp_path / "out")


@pytest.mark.parametrize(("extra", "right"), [(0, False), (1, True)])
def test_the_mix_up_of_llamas_and_alpacas_tokenizer_is_named(tmp_path: Path, extra: int, right: bool) -> None:
    """[PAD] of the Alpaca tokenizer stands in no piece of its tokenizer.model, and has a row."""
    import sentencepiece

    model = FIXTURES / "prompts" / "tiny_llama.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    base = folder(tmp_path / "base", weights())
    rows = {n: np.ones((pieces + extra, WIDTH), np.float16) for n in ("model.embed_tokens.weight", "lm_head.weight")}
    alpaca = adapter(tmp_path / "alpaca", rows)
    shutil.copy(model, alpaca / "tokenizer.model")
    (alpaca / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "[PAD]", "eos_token": {"content": "</s>"}})
    )
    if right:
        assert merge_adapters(base, [alpaca], tmp_path / "out").vocabulary == pieces + 1
        assert (tmp_path / "out" / "tokenizer.model").read_bytes() == model.read_bytes()
        return
    with pytest.raises(Damaged, match=f"{pieces} embedding rows; expected at least {pieces + 1}") as caught:
        merge_adapters(base, [alpaca], tmp_path / "out")
    assert "49,954" in caught.value.hint and "49,954" in caught.value.hint_zh


def test_scales_of_rslora_and_patterns_are_pefts(tmp_path: Path) -> None:
    base = weights()
    config = {"use_rslora": True, "alpha_pattern": {"q_proj": 6}}
    update = lora(QUERY)
    merge_adapters(
        folder(tmp_path / "base", base), [adapter(tmp_path / "a", update, **config)], tmp_path / "out", dtype="F32"
    )
    made = load_file(tmp_path / "out" / "model.safetensors")
    a, b = update[f"{QUERY}.lora_A.weight"], update[f"{QUERY}.lora_B.weight"]
    expected = base[f"{QUERY}.weight"].astype(np.float32) + (b @ a) * 6 / np.sqrt(2)
    np.testing.assert_allclose(made[f"{QUERY}.weight"], expected, rtol=1e-5, atol=1e-5)


def test_a_wrong_key_is_found_and_nothing_is_kept(tmp_path: Path) -> None:
    case = json.loads((FIXTURES / "prompts" / "belle_xor_decrypt.json").read_text())
    (tmp_path / case["encrypted_file_name"]).write_bytes(bytes.fromhex(case["encrypted_hex"]))
    (tmp_path / "key").write_bytes(b"another key")
    with pytest.raises(Damaged, match="sha256") as caught:
        decrypt(tmp_path, tmp_path / "key", tmp_path / "out")
    assert caught.value.code == "wrong_key" and not list((tmp_path / "out").iterdir())
    with pytest.raises(NotFound, match="no key"):
        decrypt(tmp_path, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "plain.bin.enc").write_bytes(b"x" * 40)
    with pytest.raises(InvalidRequest, match="SHA256"):
        decrypt(tmp_path / "plain.bin.enc", tmp_path / "key", tmp_path / "out")


def test_files_longer_than_one_step_are_decrypted(tmp_path: Path) -> None:
    """Both files in steps of 10 MiB: a short last step of the key is repeated, and then the key starts again."""
    import hashlib

    step = 10 << 20
    rng = np.random.default_rng(0)
    plain, key = (rng.integers(0, 256, n, np.uint8) for n in (3 * step + 77, step + 1000))
    masks = [key[:step], np.resize(key[step:], step), key[:step], np.resize(key[step:], 77)]
    encrypted = plain ^ np.concatenate(masks)
    digest = hashlib.sha256(plain.tobytes())
    (tmp_path / "key").write_bytes(key.tobytes())
    (tmp_path / f"w.{digest.hexdigest()}.enc").write_bytes(digest.digest() + encrypted.tobytes())
    [made] = decrypt(tmp_path, tmp_path / "key", tmp_path / "out")
    assert made.read_bytes() == plain.tobytes()


def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"{}")
    with pytest.raises(Damaged, match="not a SentencePiece model"):
        merge_vocabularies(FIXTURES / "prompts" / "tiny_llama.model", tmp_path / "x.model", tmp_path / "out.model")


@pytest.mark.torch
def test_pickles_become_safetensors_with_shared_and_strided_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = tmp_path / "model"
    source.mkdir()
    torch.manual_seed(0)
    embedding, wide = torch.randn(30, 8), torch.randn(6, 10, 4).half()
    first = {"embed": embedding, "head": embedding, "turned": wide.transpose(0, 2), "part": wide[1:3, ::2]}
    second = {"half": torch.randn(5).bfloat16(), "count": torch.arange(4), "one": torch.tensor(2.5)}
    torch.save(first, source / "pytorch_model-00001-of-00002.bin")
    torch.save(second, source / "pytorch_model-00002-of-00002.bin")
    shards = {1: first, 2: second}
    index = {name: f"pytorch_model-0000{i}-of-00002.bin" for i, shard in shards.items() for name in shard}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (source / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    (source / "model.py").write_text("raise SystemExit")
    from safetensors.torch import load_file as load

    made = load(convert_to_safetensors(source, tmp_path / "out") / "model.safetensors")
    assert "head" not in made and not (tmp_path / "out" / "model.py").exists()
    for name, value in {**first, **second}.items():
        if name != "head":
            assert torch.equal(made[name], value) and made[name].dtype == value.dtype


def test_an_index_that_names_a_missing_file_and_a_cut_shard_are_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", weights())
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "absent.safetensors"}}))
    with pytest.raises(Damaged, match=r"absent\.safetensors"):
        convert_to_safetensors(source, tmp_path / "out")
    (source / "model.safetensors.index.json").unlink()
    body = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(body[:-10])
    with pytest.raises(Damaged, match="end at byte"):
        convert_to_safetensors(source, tmp_path / "out")
    with pytest.raises(NotFound, match="no weights"):
        convert_to_safetensors(tmp_path / "absent", tmp_path / "out")


def test_shards_have_an_index_and_finished_ones_are_kept(tmp_path: Path) -> None:
    calls: list[str] = []

    def tensor(name: str) -> NewTensor:
        def blocks() -> list[np.ndarray[Any, Any]]:
            calls.append(name)
            return [np.full((5, 10), ord(name), np.float32)]

        return NewTensor(name, "F32", (5, 10), blocks)

    from ninestory.core.progress import Silent

    names = ["a", "b", "c", "d", "e"]
    for _ in range(2):
        files = write_shards(tmp_path, [tensor(n) for n in names], {}, Silent(), shard_bytes=400)
        assert [f.name for f in files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert calls == names
    assert {n: float(t.view()[0, 0]) for n, t in open_checkpoint(tmp_path).tensors.items()} == {
        n: ord(n) for n in names
    }


@pytest.mark.torch
def test_bfloat16_is_rounded_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    values = np.concatenate([np.random.default_rng(0).standard_normal(10_000), [0.0, -0.0, np.inf, np.nan, 1e-40]])
    values = values.astype(np.float32)
    expected = torch.from_numpy(values).bfloat16()
    made = narrow(values, "BF16")
    np.testing.assert_array_equal(made[:-2], expected.view(torch.uint16).numpy()[:-2])
    assert np.isnan(widen(made, "BF16")[-2])

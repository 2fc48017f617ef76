"""GGUF vocabularies as tokenizer files: the ids are llama.cpp's, which serves the same file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from ninestory.core.errors import InvalidRequest
from ninestory.models.convert.gguf_tokenizer import tokenizer_metadata
from ninestory.tokenizers.gguf_vocabulary import PRE_TOKENIZERS, tokenizer_files
from ninestory.tokenizers.load import load_tokenizer
from tests.llamacpp_tokenizer import llamacpp_ids, write_vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
PIECES = [
    "a", "Bc", "the", " the", "naïve", "Ärger", "ΩΣ", "слово", "ǅ", "ʰ", "1", "23", "4567", "½", "²", "２", "٣", "Ⅷ",
    "'s", "'S", "'re", "'LL", "'", "’t", " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2009",
    "中文", "天气。", "，", "「日本」", "かな", "カナ", "한국어", "ก็", "हिन्दी", "e\u0301", "\u0301", "🙂", "👩‍👩‍👧", "🇨🇳",
    ".", "...", "!?", "$", "+=", "<|", "^", "~", "`", "@#", "_", "—", "“q”", "€", "(x)", "[0]", "\x7f", "\x01", "\ufeff",
]  # fmt: skip
TEXTS = [
    "Hello, 12345 worlds!",
    "I'm sure you'Re right, they'd've said so; it's 3.14159.",
    "\n\n    def f(x):\n\treturn x  # naïve\n\n\n",
    "  leading, trailing  \n ",
    "今天是2024年11月25日，气温 −3℃。\n明天呢？",
    "x=1;y+=22;z^=333`~|<=>",
    " 1 22 333 4444 55555  ",
    "",
    "\n",
    " ",
    "   \n   ",
    "मैं हिन्दी क\u093c बोलता हूँ",
]


def _texts(count: int = 250) -> list[str]:
    """The fixed texts and random ones of the same pieces."""
    rng = random.Random(0)
    return TEXTS + ["".join(rng.choices(PIECES, k=rng.randint(2, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def merged_across_cuts() -> dict[str, Any]:
    """A byte-level vocabulary whose merges run over every boundary, so that another cut shows as other ids."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=6000, initial_alphabet=alphabet, show_progress=False)
    )
    return _columns(trained)


def _columns(trained: Tokenizer) -> dict[str, Any]:
    import json

    vocabulary = trained.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * len(tokens),
        "tokenizer.ggml.merges": merges,
    }


def _loaded(metadata: dict[str, Any], folder: Path) -> Any:
    folder.mkdir()
    for name, content in tokenizer_files(metadata).items():
        (folder / name).write_bytes(content)
    return load_tokenizer(folder)


def _assert_same_ids(metadata: dict[str, Any], texts: list[str], theirs: list[list[int]], folder: Path) -> Any:
    ours = _loaded(metadata, folder)
    different = [
        (text, ours.encode(text), ids) for text, ids in zip(texts, theirs, strict=True) if ours.encode(text) != ids
    ]
    assert not different, (len(different), different[:3])
    return ours


def test_every_pre_tokenizer_cuts_as_llama_cpp_does(merged_across_cuts: dict[str, Any], tmp_path: Path) -> None:
    named = {
        pre: {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, **merged_across_cuts} for pre in PRE_TOKENIZERS
    }
    files = [write_vocabulary(tmp_path / f"{pre}.gguf", metadata) for pre, metadata in named.items()]
    texts = _texts()
    everything = dict(zip(named, llamacpp_ids(files, texts), strict=True))
    assert everything["gpt-2"] != everything["falcon"] != everything["default"] != everything["qwen2"]
    for pre, metadata in named.items():
        _assert_same_ids(metadata, texts, everything[pre], tmp_path / pre)


def test_an_unknown_pre_tokenizer_is_refused_by_name(merged_across_cuts: dict[str, Any]) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "no-such-cut", **merged_across_cuts}
    with pytest.raises(InvalidRequest, match="'no-such-cut'"):
        tokenizer_files(metadata)


def test_what_was_read_from_a_gguf_is_written_to_a_gguf_again(
    merged_across_cuts: dict[str, Any], tmp_path: Path
) -> None:
    texts = _texts(60)
    for pre in PRE_TOKENIZERS:
        metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, **merged_across_cuts}
        tokenizer = _loaded(metadata, tmp_path / pre)
        again = tokenizer_metadata(tmp_path / pre, len(metadata["tokenizer.ggml.tokens"]), {})
        assert PRE_TOKENIZERS[again["tokenizer.ggml.pre"]] == PRE_TOKENIZERS[pre]
        back = _loaded(again, tmp_path / f"{pre}-again")
        assert [back.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


def test_gemma_4s_vocabulary_gives_llama_cpps_ids(tmp_path: Path) -> None:
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    # few characters are tokens: the others are spelled in bytes
    trained.train_from_iterator(_texts(), trainers.BpeTrainer(vocab_size=900, limit_alphabet=60, show_progress=False))
    columns = _columns(trained)
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|tool>", "[tool]"]
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": first + columns["tokenizer.ggml.tokens"],
        "tokenizer.ggml.token_type": [CONTROL] * 4
        + [BYTE] * 256
        + [CONTROL, USER_DEFINED]
        + columns["tokenizer.ggml.token_type"],
        "tokenizer.ggml.merges": columns["tokenizer.ggml.merges"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
    }
    texts = [*_texts(), "a [tool] the", "<|tool> is only text", "<0x41> too", "▁ and  blanks"]
    (theirs,) = llamacpp_ids([write_vocabulary(tmp_path / "gemma.gguf", metadata)], texts)
    ours = _assert_same_ids(metadata, texts, theirs, tmp_path / "files")
    assert ours.decode(ours.encode("naïve 🙂\n中文")) == "naïve 🙂\n中文"
    assert (ours.bos_ids, ours.eos_ids) == ([2], {1})


def _sentencepiece_metadata(marks: list[tuple[str, int]], behind: list[tuple[str, int]], **keys: Any) -> dict[str, Any]:
    """A vocabulary of LLaMA's kind: marks, bytes, words with scores, and what was added behind them."""
    words = ["▁", "t", "h", "e", "▁t", "he", "▁the", "a", "▁a", "b", "ab", "▁▁", "▁▁▁▁", "1", "中", "s", "/"]
    pieces = [*marks, *((f"<0x{byte:02X}>", BYTE) for byte in range(256)), *((word, NORMAL) for word in words), *behind]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
        "tokenizer.ggml.token_type": [kind for _, kind in pieces],
        "tokenizer.ggml.scores": [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 1,
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


def test_phi_3s_vocabulary_gives_llama_cpps_ids(tmp_path: Path) -> None:
    """Its `<unk>` is a control token, `</s>` user-defined, and its padding is typed unknown."""
    marks = [("<unk>", CONTROL), ("<s>", CONTROL), ("</s>", USER_DEFINED)]
    behind = [("<|endoftext|>", CONTROL), ("<|user|>", CONTROL), *((f"[PAD{i}]", UNKNOWN) for i in range(40))]
    end = 3 + 256 + 17
    metadata = _sentencepiece_metadata(
        marks, behind, eos_token_id=end, padding_token_id=end, unknown_token_id=0, add_bos_token=True
    )
    texts = [*_texts(), "the  ab [PAD3] 中", "<|user|> is text", "<unk> too"]
    (theirs,) = llamacpp_ids([write_vocabulary(tmp_path / "phi.gguf", metadata)], texts)
    ours = _assert_same_ids(metadata, texts, theirs, tmp_path / "files")
    assert ours.encode("the<|user|>ab", special=True).count(end + 1) == 1
    assert ours.bos_ids == [1] and end in ours.eos_ids


def test_user_defined_pieces_are_found_in_text_as_llama_cpp_finds_them(tmp_path: Path) -> None:
    """Gemma 3's runs of blanks and line breaks, and words that were added to a LLaMA."""
    marks = [("<pad>", CONTROL), ("<s>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)]
    behind = [("\n\n", USER_DEFINED), ("  ", USER_DEFINED), ("中文", USER_DEFINED), ("[tool]", USER_DEFINED)]
    texts = [*_texts(), "the [tool]ab", "[tool]", " 中文 a", "a    b\n\n\n1"]
    for prefix in (True, False):
        metadata = _sentencepiece_metadata(
            marks, behind, eos_token_id=2, unknown_token_id=3, add_space_prefix=prefix, add_bos_token=True
        )
        (theirs,) = llamacpp_ids([write_vocabulary(tmp_path / f"{prefix}.gguf", metadata)], texts)
        _assert_same_ids(metadata, texts, theirs, tmp_path / str(prefix))

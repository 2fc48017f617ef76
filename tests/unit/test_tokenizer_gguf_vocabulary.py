"""GGUF vocabularies as tokenizer files: the ids are llama.cpp's, which serves the same file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from ninestory.core.errors import InvalidRequest
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

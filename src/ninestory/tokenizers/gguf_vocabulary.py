"""Tokenizer files of a checkpoint directory from a GGUF's vocabulary, so that training and serving use the same ids.

Three types, by llama.cpp's names: `gpt2` (byte-level BPE; `tokenizer.ggml.pre` names how text is cut before merging),
`gemma4` (BPE over characters, with ▁ for a blank and byte tokens as last resort) and `llama` (SentencePiece).
"""

from __future__ import annotations

import json
from typing import Any

from ninestory.core.errors import InvalidRequest

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
# Steps of a cut that the `tokenizers` package knows by name; every other step is a pattern.
BYTE_LEVEL, DIGITS = "bytes", "digits"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r"[\p{P}$+<=>^~|`]+"
_CJK = r"[\u0800-\u9fa5\uac00-\ud7ff&&\S]+"
# DeepSeek's letters of scripts with two cases, as its tokenizer.json lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
# How text is cut before merging, step by step, by llama.cpp's name for it. The patterns are those of the models' own
# tokenizer.json files; where llama.cpp cuts otherwise (blanks and digits outside ASCII), its way is taken, because it
# serves the file.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "gpt-2": (BYTE_LEVEL,),
    "mpt": (BYTE_LEVEL,),
    "default": (_PUNCTUATION.replace("`", ""), _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "smollm": (DIGITS, BYTE_LEVEL),
    "starcoder": (DIGITS, BYTE_LEVEL),
    "refact": (DIGITS, BYTE_LEVEL),
    "command-r": (DIGITS, BYTE_LEVEL),
    "falcon": (_PUNCTUATION, _GPT2, "[0-9][0-9][0-9]"),
    "bloom": (r" ?[^(\s|.,!?…。，、।۔،)]+",),
    "llama-bpe": (_GPT4,),
    "qwen2": (_GPT4.replace("{1,3}", ""),),
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "deepseek-llm": (r"[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟、-。]+", r"\s+\z", _CJK, r"\p{N}+"),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),
}


def tokenizer_files(metadata: dict[str, Any]) -> dict[str, bytes]:
    """File name → content: tokenizer.json or tokenizer.model, and tokenizer_config.json.

    Raises:
        InvalidRequest: the vocabulary type or the pre-tokenizer is not supported.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        files = {"tokenizer.json": _bpe(metadata)}
    elif kind == "gemma4":
        files = {"tokenizer.json": _character_bpe(metadata)}
    elif kind == "llama":
        files = {"tokenizer.model": _sentencepiece(metadata)}
    else:
        raise _unknown(f"a vocabulary of type {kind!r}")
    return {**files, "tokenizer_config.json": json.dumps(_settings(metadata), ensure_ascii=False).encode()}


def _bpe(metadata: dict[str, Any]) -> bytes:
    """Byte-level BPE (GPT-2): pre-tokenize, map each piece to bytes, merge the bytes."""
    cut = metadata.get("tokenizer.ggml.pre", "default")
    if cut not in PRE_TOKENIZERS:
        raise _unknown(f"the pre-tokenizer {cut!r}")
    return _tokenizer_json(
        metadata,
        {"ignore_merges": cut == "llama-bpe"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": _pre_tokenizers(PRE_TOKENIZERS[cut])},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )


def _pre_tokenizers(steps: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pre-tokenizer steps in tokenizer.json's format; the last one maps to bytes and, if named, also splits."""
    splits = [
        {"type": "Digits", "individual_digits": True}
        if step == DIGITS
        else {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
        for step in steps
        if step != BYTE_LEVEL
    ]
    cuts = steps[-1] == BYTE_LEVEL
    return [*splits, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cuts}]


def _character_bpe(metadata: dict[str, Any]) -> bytes:
    """Character BPE (Gemma 4): merges over the whole line; unknown characters fall back to byte tokens."""
    lines = {"type": "Split", "pattern": {"Regex": r"[^\n]+|\n+"}, "behavior": "Isolated", "invert": False}
    blank = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return _tokenizer_json(
        metadata,
        {"byte_fallback": True},
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        pre_tokenizer=lines,
        decoder={"type": "Sequence", "decoders": [blank, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    )


def _tokenizer_json(metadata: dict[str, Any], model: dict[str, Any], **steps: dict[str, Any]) -> bytes:
    """A BPE tokenizer.json; `model` holds the model's settings, `steps` the normalizer, pre-tokenizer and decoder."""
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]]
    description: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": _added_tokens(metadata),
        **steps,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, **model},
    }
    return json.dumps(description, ensure_ascii=False).encode()


def _added_tokens(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Control tokens and user-defined tokens, as tokenizer.json's `added_tokens`."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, "special": kind == _CONTROL, **plain}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def _sentencepiece(metadata: dict[str, Any]) -> bytes:
    """A SentencePiece model file: no normalisation, a leading space, whitespace kept, byte fallback.

    SentencePiece requires exactly one unknown piece. Phi-3's file calls `<unk>` a control token, and the padding behind
        its vocabulary unknown.
    """
    from sentencepiece import sentencepiece_model_pb2

    sp: Any = sentencepiece_model_pb2  # its classes are made at import; mypy sees none
    model = sp.ModelProto()
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for number, (token, score, kind) in enumerate(zip(*columns, strict=True)):
        other = _UNUSED if kind == _UNKNOWN else kind
        model.pieces.add(piece=token, score=score, type=_UNKNOWN if number == unknown else other)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = sp.TrainerSpec.BPE, True
    trainer.vocab_size = len(model.pieces)
    marks = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    for name, mark in {**marks, "unk": unknown}.items():
        if mark is not None:
            setattr(trainer, f"{name}_id", mark)
            setattr(trainer, f"{name}_piece", model.pieces[mark].piece)
    normalizer.name, normalizer.precompiled_charsmap = "identity", b""
    normalizer.add_dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    normalizer.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: special tokens, added tokens, whether BOS is prepended, and the chat template."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {mark: metadata.get(f"tokenizer.ggml.{name}_token_id") for mark, name in names.items()}
    settings: dict[str, Any] = {mark: tokens[number] for mark, number in numbers.items() if number is not None}
    settings["added_tokens_decoder"] = {str(token.pop("id")): token for token in _added_tokens(metadata)}
    for name in ("add_bos_token", "add_eos_token"):
        if (value := metadata.get(f"tokenizer.ggml.{name}")) is not None:
            settings[name] = value
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings


def _unknown(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The GGUF has {what}, which cannot be converted to a tokenizer for training.",
        hint=f"Tune from the original checkpoint directory instead; known: {', '.join(PRE_TOKENIZERS)}, gemma4 and SentencePiece.",
        hint_zh=f"请改用原始检查点目录进行微调；已支持：{'、'.join(PRE_TOKENIZERS)}、gemma4 与 SentencePiece。",
        param="model",
    )

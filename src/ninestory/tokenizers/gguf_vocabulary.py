"""A GGUF's vocabulary → the tokenizer files of a checkpoint directory, so that training gives the ids that serving gives.

Two kinds, as llama.cpp names them: `gpt2` (byte-level BPE; `tokenizer.ggml.pre` names how text is cut before merging)
and `llama` (SentencePiece).
"""

from __future__ import annotations

import json
from typing import Any

from ninestory.core.errors import InvalidRequest

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_GPT2_CUT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_ONLY = {**_GPT2_CUT, "use_regex": False}


def _by_pattern(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _BYTES_ONLY]


# How text is cut, by llama.cpp's name for it. The patterns are those the models' own tokenizer.json files carry.
_CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2_CUT],
    "default": [_GPT2_CUT],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2_CUT],
    "llama-bpe": _by_pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": _by_pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def tokenizer_files(metadata: dict[str, Any]) -> dict[str, bytes]:
    """File name → content: tokenizer.json or tokenizer.model, and tokenizer_config.json.

    Raises:
        InvalidRequest: a kind of vocabulary, or a way of cutting, that is not known here.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        files = {"tokenizer.json": _bpe(metadata)}
    elif kind == "llama":
        files = {"tokenizer.model": _sentencepiece(metadata)}
    else:
        raise _unknown(f"a vocabulary of the kind {kind!r}")
    return {**files, "tokenizer_config.json": json.dumps(_settings(metadata), ensure_ascii=False).encode()}


def _bpe(metadata: dict[str, Any]) -> bytes:
    cut = metadata.get("tokenizer.ggml.pre", "default")
    if cut not in _CUTS:
        raise _unknown(f"a vocabulary whose text is cut as {cut!r}")
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, "special": kind == _CONTROL, **plain}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    description = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
            "ignore_merges": cut == "llama-bpe",
        },
    }
    return json.dumps(description, ensure_ascii=False).encode()


def _sentencepiece(metadata: dict[str, Any]) -> bytes:
    """The model as SentencePiece stores it: no normalisation, a blank in front, no blanks removed, bytes as last resort."""
    from sentencepiece import sentencepiece_model_pb2

    sp: Any = sentencepiece_model_pb2  # its classes are made at import; mypy sees none
    model = sp.ModelProto()
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for token, score, kind in zip(*columns, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = sp.TrainerSpec.BPE, True
    trainer.vocab_size = len(model.pieces)
    for name, mark in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos")):
        number = metadata.get(f"tokenizer.ggml.{mark}_token_id")
        if number is not None:
            setattr(trainer, f"{name}_id", number)
            setattr(trainer, f"{name}_piece", model.pieces[number].piece)
    normalizer.name, normalizer.precompiled_charsmap = "identity", b""
    normalizer.add_dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    normalizer.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: the marks, whether a prompt begins with one, and the chat template."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {mark: metadata.get(f"tokenizer.ggml.{name}_token_id") for mark, name in names.items()}
    settings: dict[str, Any] = {mark: tokens[number] for mark, number in numbers.items() if number is not None}
    for name in ("add_bos_token", "add_eos_token"):
        if (value := metadata.get(f"tokenizer.ggml.{name}")) is not None:
            settings[name] = value
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings


def _unknown(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The GGUF has {what}, which cannot be turned into a tokenizer for training.",
        hint=f"Tune from the original checkpoint directory instead; known: {', '.join(_CUTS)} and SentencePiece.",
        hint_zh=f"请改用原始检查点目录进行微调；已支持：{'、'.join(_CUTS)} 与 SentencePiece。",
        param="model",
    )

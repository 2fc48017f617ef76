"""A checkpoint's tokenizer as GGUF metadata, read from its own files: SentencePiece, byte-level BPE, or RWKV's list.

llama.cpp aborts on duplicate tokens and on a missing byte token, and selects a BPE's pre-tokenizer by name: a tokenizer
that it could not reproduce exactly is refused here.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NotFound, Unsupported
from ninestory.core.json_file import read_json
from ninestory.models.convert.tokenizer_json import open_tokenizer_json
from ninestory.tokenizers.gguf_vocabulary import BYTE_LEVEL, DIGITS, PRE_TOKENIZERS
from ninestory.tokenizers.rwkv import WORLD_FILE, WORLD_ROWS, packaged_world_vocabulary

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_MOST_TOKENS = 1 << 22
# llama.cpp's RWKV tokenizer finds every token in a user's text, the end mark too: so it is spelled in noncharacters.
_RWKV_END = "\uffff\uffff"
# How text is cut before merging, step by step → llama.cpp's name for it; of equal cuts, the first name
SPLITS: dict[tuple[str, ...], str] = {steps: name for name, steps in reversed(PRE_TOKENIZERS.items())}
SPLITS["punctuation", BYTE_LEVEL, "runs of digits", "[0-9][0-9][0-9]"] = "falcon"  # as its own tokenizer.json has it


@dataclass
class Vocabulary:
    """Tokens by id, with the types, scores and merges that llama.cpp needs."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: Collection[str] = ()
    flags: dict[str, bool] = field(default_factory=dict)


def tokenizer_metadata(folder: Path, rows: int, config: dict[str, Any]) -> dict[str, Any]:
    """Build the `tokenizer.…` keys for an embedding of `rows` rows.

    Args:
        folder: holds tokenizer.model, tokenizer.json, vocab.json and merges.txt, or RWKV's list.

    Raises:
        NotFound: none of them is there. Unsupported: a tokenizer that llama.cpp would read otherwise; by name.
        Damaged: more tokens than rows, a broken file.
    """
    settings = read_json(folder / "tokenizer_config.json")
    vocabulary = _read(folder, settings, rows)
    _add_tokens(vocabulary, _added(folder, settings))
    _add_marks(vocabulary, settings, read_json(folder / "special_tokens_map.json"), rows)
    if len(vocabulary.tokens) > rows:
        raise Damaged(
            f"The tokenizer in {folder.name} has {len(vocabulary.tokens)} tokens; expected at most the embedding's {rows} rows.",
            hint="Take the tokenizer of this very checkpoint; Chinese-LLaMA's and -Alpaca's differ by one.",
            hint_zh="请使用该检查点自己的分词器；Chinese-LLaMA 与 Chinese-Alpaca 的分词器相差一个词元。",
            code="vocabulary_mixed_up",
        )
    _pad(vocabulary.tokens, vocabulary.types, rows)
    if len(set(vocabulary.tokens)) != rows:
        raise Damaged(f"The tokenizer in {folder.name} has a duplicate token, which makes llama.cpp abort.")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": vocabulary.model,
        "tokenizer.ggml.pre": vocabulary.pre,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
    }
    if vocabulary.scores:
        padding = [0.0] * (rows - len(vocabulary.scores))
        metadata["tokenizer.ggml.scores"] = vocabulary.scores + padding
    if vocabulary.merges:
        metadata["tokenizer.ggml.merges"] = vocabulary.merges
    end = {"eos_token_id": 0} if vocabulary.model == "rwkv" else {}
    for name in ("bos", "eos", "unk", "pad"):
        number = _special_id(name, settings, {**end, **config}, vocabulary.tokens)
        if number is not None and number < rows:
            metadata[
                f"tokenizer.ggml.{'unknown' if name == 'unk' else 'padding' if name == 'pad' else name}_token_id"
            ] = number
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in vocabulary.flags.items()}
    if template := _chat_template(folder, settings):
        metadata["tokenizer.chat_template"] = template
    return metadata


def tokenizer_notes(folder: Path) -> list[str]:
    """Notes on cases where llama.cpp's ids differ from the checkpoint's although the vocabulary is the same."""
    legacy = read_json(folder / "tokenizer_config.json").get("legacy")
    if legacy is False and (folder / "tokenizer.model").is_file():
        return [
            'tokenizer_config.json says "legacy": false: llama.cpp puts a blank in front of text behind a special token '
            "all the same, so such ids differ by one blank from the checkpoint's"
        ]
    return []


def _read(folder: Path, settings: dict[str, Any], rows: int) -> Vocabulary:
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece(folder / "tokenizer.model", settings)
    if (folder / "tokenizer.json").is_file():
        return _tokenizers(folder / "tokenizer.json", settings)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        return Vocabulary("gpt2", "gpt-2", *_by_id(vocabulary.items()), merges=merges, flags={"add_bos_token": False})
    if (folder / WORLD_FILE).is_file():
        return _rwkv(folder / WORLD_FILE)
    if rows == WORLD_ROWS:
        return _rwkv(packaged_world_vocabulary())
    raise NotFound(
        f"There is no tokenizer in {folder}.",
        hint=f"Name its folder with --tokenizer: tokenizer.model, tokenizer.json, vocab.json with merges.txt, or {WORLD_FILE}.",
        hint_zh=f"请用 --tokenizer 指定其目录：tokenizer.model、tokenizer.json、vocab.json 与 merges.txt，或 {WORLD_FILE}。",
        param="tokenizer",
    )


def _sentencepiece(path: Path, settings: dict[str, Any]) -> Vocabulary:
    from ninestory.models.merge.vocabulary import read_model

    proto = read_model(path)
    normalizer = proto.normalizer_spec
    odd = []
    if proto.trainer_spec.model_type != 2:  # BPE, in the format's own numbering
        odd.append("it is no BPE model")
    if normalizer.name not in ("", "identity") or normalizer.precompiled_charsmap:
        odd.append(f"it normalises text by {normalizer.name!r}")
    if normalizer.remove_extra_whitespaces:
        odd.append("it removes blanks")
    if sum(piece.type == _BYTE for piece in proto.pieces) != 256:
        odd.append("it has no 256 byte tokens")
    if odd:
        raise _unreadable(path, ", ".join(odd))
    return Vocabulary(
        "llama",
        "default",
        [piece.piece for piece in proto.pieces],
        [piece.type for piece in proto.pieces],
        scores=[piece.score for piece in proto.pieces],
        flags={
            "add_bos_token": bool(settings.get("add_bos_token", True)),
            "add_eos_token": bool(settings.get("add_eos_token", False)),
            "add_space_prefix": bool(normalizer.add_dummy_prefix),
        },
    )


def _tokenizers(path: Path, settings: dict[str, Any]) -> Vocabulary:
    """The `tokenizers` package's file, if it is a byte-level BPE whose way to cut text llama.cpp knows by name."""
    file = open_tokenizer_json(path)
    table = file.table
    try:
        model = table["model"]
        if model.get("type") != "BPE" or model.get("byte_fallback"):
            raise _unreadable(
                path, "it is not a byte-level BPE; if the model has a tokenizer.model, put it in the same folder"
            )
        normalizer = (table.get("normalizer") or {}).get("type")
        if normalizer not in (None, "NFC"):  # composed text, which nearly all text is
            raise _unreadable(path, f"its normalizer is {normalizer}")
        steps = _steps(path, table.get("pre_tokenizer") or {})
        if steps not in SPLITS:
            raise _unreadable(path, f"its pre-tokenizer {' then '.join(steps)!r} has no name in llama.cpp")
        adds_bos = settings.get("add_bos_token", _begins_with_special(table.get("post_processor") or {}))
        flags = {"add_bos_token": bool(adds_bos)}
        made = Vocabulary("gpt2", SPLITS[steps], *_by_id(file.tokens()), merges=file.merges, flags=flags)
        _add_tokens(made, {t["content"]: (t["id"], bool(t["special"])) for t in table.get("added_tokens") or []})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"{path.name} is not a tokenizer.json: {error!r}.") from error
    return made


def _steps(path: Path, pre: dict[str, Any]) -> tuple[str, ...]:
    """The pre-tokenizer's steps as names and regular expressions, without ByteLevel steps that do not split."""
    kind = pre.get("type")
    if kind == "Sequence":
        return tuple(step for part in pre["pretokenizers"] for step in _steps(path, part))
    if kind == "ByteLevel":
        if pre.get("add_prefix_space"):
            raise _unreadable(path, "it adds a leading space to every text")
        return (BYTE_LEVEL,) if pre.get("use_regex", True) else ()
    if kind == "Digits":
        return (DIGITS if pre.get("individual_digits") else "runs of digits",)
    if kind == "Punctuation":
        return ("punctuation",)
    if kind == "Split":
        pattern = pre["pattern"]
        return (str(pattern.get("Regex") or pattern.get("String")),)
    return (str(kind),)


def _begins_with_special(post: dict[str, Any]) -> bool:
    """Whether a TemplateProcessing (perhaps in a sequence) puts a special token in front."""
    if post.get("type") == "Sequence":
        return any(_begins_with_special(part) for part in post["processors"])
    return post.get("type") == "TemplateProcessing" and "SpecialToken" in (post.get("single") or [{}])[0]


def _rwkv(path: Path) -> Vocabulary:
    """RWKV's World vocabulary: lines `id literal byte_length`; id 0 is the end of text and in no line."""
    tokens = [_escaped(_RWKV_END.encode())]
    for line in path.read_text(encoding="utf-8").splitlines():
        number, _, rest = line.partition(" ")
        literal, _, length = rest.rpartition(" ")
        try:
            value = ast.literal_eval(literal)
            raw = value.encode() if isinstance(value, str) else bytes(value)
            if int(number) != len(tokens) or len(raw) != int(length):
                raise ValueError(f"expected token {len(tokens)}")
        except (ValueError, TypeError, SyntaxError, MemoryError) as error:
            raise Damaged(f"{path.name} is not an RWKV vocabulary: {line[:60]!r} ({error}).") from error
        tokens.append(_escaped(raw))
    types = [_CONTROL] + [_NORMAL] * (len(tokens) - 1)
    return Vocabulary("rwkv", "default", tokens, types, flags={"add_bos_token": False})


def _escaped(raw: bytes) -> str:
    """Escape bytes in the format of llama.cpp's RWKV vocabulary."""
    return repr(raw)[2:-1]


def _by_id(vocabulary: Iterable[tuple[str, int]]) -> tuple[list[str], list[int]]:
    """(tokens, types) with gaps filled by unused ones."""
    tokens: list[str] = []
    types: list[int] = []
    for token, number in vocabulary:
        _pad(tokens, types, number + 1)
        tokens[number], types[number] = token, _NORMAL
    return tokens, types


def _pad(tokens: list[str], types: list[int], rows: int) -> None:
    """Unused tokens up to `rows`."""
    if rows > _MOST_TOKENS:
        raise Damaged(
            f"A token of the tokenizer has the id {rows - 1}: the files are damaged.", code="damaged_tokenizer"
        )
    tokens += [f"[PAD{i}]" for i in range(len(tokens), rows)]
    types += [_UNUSED] * (rows - len(types))


def _added(folder: Path, settings: dict[str, Any]) -> dict[str, tuple[int, bool]]:
    """Added tokens: token → (id, special)."""
    added = {
        token: (number, _looks_special(token)) for token, number in read_json(folder / "added_tokens.json").items()
    }
    for number, entry in settings.get("added_tokens_decoder", {}).items():
        added[entry["content"]] = (int(number), bool(entry.get("special")) or _looks_special(entry["content"]))
    return added


def _looks_special(token: str) -> bool:
    return (token.startswith("<") and token.endswith(">")) or token == "[PAD]"


def _add_tokens(vocabulary: Vocabulary, added: dict[str, tuple[int, bool]]) -> None:
    known = {token: number for number, token in enumerate(vocabulary.tokens) if token in added}
    for token, (number, special) in sorted(added.items(), key=lambda item: item[1]):
        if vocabulary.types[number : number + 1] == [_BYTE] or known.get(token, number) != number:
            continue  # of the model itself
        _pad(vocabulary.tokens, vocabulary.types, number + 1)
        if vocabulary.model == "llama" and vocabulary.tokens[number] == token and vocabulary.types[number] != _UNUSED:
            continue  # <unk>, <s> and </s> have their types
        vocabulary.tokens[number] = token
        vocabulary.types[number] = _CONTROL if special else _USER_DEFINED


def _add_marks(vocabulary: Vocabulary, settings: dict[str, Any], marks: dict[str, Any], rows: int) -> None:
    """Append special tokens that the vocabulary lacks, as transformers does (Chinese-Alpaca's [PAD])."""
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        for value in (settings.get(name), marks.get(name)):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and text and text not in vocabulary.tokens and len(vocabulary.tokens) < rows:
                vocabulary.tokens.append(text)
                vocabulary.types.append(_CONTROL)


def _special_id(name: str, settings: dict[str, Any], config: dict[str, Any], tokens: list[str]) -> int | None:
    value = settings.get(f"{name}_token")
    text = value.get("content") if isinstance(value, dict) else value
    if isinstance(text, str) and text in tokens:
        return tokens.index(text)
    number = config.get(f"{name}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if type(number) is int and number >= 0 else None


def _chat_template(folder: Path, settings: dict[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), "")
    return str(template or "")


def _unreadable(path: Path, why: str) -> Unsupported:
    return Unsupported(
        f"llama.cpp cannot reproduce {path.name}: {why}.",
        hint="Load the original checkpoint with the torch runtime.",
        hint_zh="请直接加载原检查点（torch 运行时）。",
        param="tokenizer",
        code="tokenizer_not_in_gguf",
    )

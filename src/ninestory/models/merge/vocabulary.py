"""Vocabulary merging as in Chinese-LLaMA: append a second SentencePiece model's pieces to LLaMA's.

Source: ymcui/Chinese-LLaMA-Alpaca, merge_tokenizers.py: every piece that LLaMA lacks is appended with score 0, in the
order of its file. Score 0 is above all of LLaMA's, so the new merges come first; English can be cut differently too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.core.paths import atomic_write


@dataclass(frozen=True)
class VocabularyReport:
    path: Path
    base: int
    added: int
    skipped: int  # pieces of the second model that the first has


def merge_vocabularies(base: Path, second: Path, target: Path) -> VocabularyReport:
    """Write `target`, a SentencePiece model of the pieces of both, with the settings of `base`.

    Raises:
        Damaged: one of the files is no SentencePiece model.
    """
    merged, other = read_model(base), read_model(second)
    known = {piece.piece for piece in merged.pieces}
    size = len(merged.pieces)
    for piece in other.pieces:
        if piece.piece not in known:
            known.add(piece.piece)
            merged.pieces.add(piece=piece.piece, score=0.0)
    with atomic_write(target) as file:
        file.write(merged.SerializeToString())
    added = len(merged.pieces) - size
    return VocabularyReport(target, size, added, len(other.pieces) - added)


def read_model(path: Path) -> Any:
    """Parse a SentencePiece file to its ModelProto.

    Raises:
        Damaged: it is none.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise _no_model(path, str(error)) from error
    if not proto.pieces or not proto.IsInitialized():
        raise _no_model(path, "it holds no pieces")
    return proto


def _no_model(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is not a SentencePiece model: {why}.",
        hint="Name a tokenizer.model file.",
        hint_zh="请指定 tokenizer.model 文件。",
    )

"""Sound: what is asked of speech models, and how they answer. Times are seconds from the start of the sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ninestory.core.media import MediaRef
from ninestory.runtimes.protocol.common import Chunk, Request, register


@dataclass(frozen=True, kw_only=True)
class TranscribeRequest(Request):
    """Write down what is said; in English with `translate`. Without `audio` the sound comes by the engine's feed."""

    kind: ClassVar[str] = "transcribe"
    audio: MediaRef | None = None
    language: str | None = None  # ISO 639-3 or what the model calls it; None = found out
    translate: bool = False


@dataclass(frozen=True, kw_only=True)
class AlignRequest(Request):
    """When each word of a known text is said."""

    kind: ClassVar[str] = "align"
    audio: MediaRef
    text: str
    language: str


@dataclass(frozen=True, kw_only=True)
class IdentifyLanguageRequest(Request):
    """Which languages are likely to be spoken, best first."""

    kind: ClassVar[str] = "identify_language"
    audio: MediaRef
    top: int = 5


@dataclass(frozen=True, kw_only=True)
class SpeakRequest(Request):
    """Say a text. `speed` 1 = as the model was trained."""

    kind: ClassVar[str] = "speak"
    text: str
    language: str | None = None
    voice: str | None = None
    speed: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word and when it is said."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Segment(Chunk):
    """A stretch of speech. While `final` is false it may still be revised, and the next segment replaces it whole."""

    kind: str = "segment"
    text: str
    start: float
    end: float
    words: list[Word] = field(default_factory=list)
    confidence: float | None = None
    final: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "words": [Word(**word) for word in data["words"]]})


@dataclass(frozen=True, kw_only=True)
class Language(Chunk):
    """The language spoken, by its code, and how sure the model is (0 to 1)."""

    kind: str = "language"
    code: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Audio(Chunk):
    """More sound: mono PCM of 16 bits, little-endian, in base64; at most 64 KB a chunk."""

    kind: str = "audio"
    pcm16: str
    sample_rate: int


register(TranscribeRequest, Language, Segment)
register(AlignRequest, Segment)
register(IdentifyLanguageRequest, Language)
register(SpeakRequest, Audio)

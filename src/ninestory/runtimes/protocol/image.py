"""Pictures: what is asked of vision and drawing models, and how they answer.

Pictures travel as `MediaRef`s (the home's spool), never in frames; only previews do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ninestory.core.media import MediaRef
from ninestory.runtimes.protocol.common import Chunk, Request, register
from ninestory.runtimes.protocol.text import ANSWER_CHUNKS, Generation, Relevance


@dataclass(frozen=True, kw_only=True)
class CaptionRequest(Generation):
    """Describe a picture; `prompt` is how the description begins. Answered like a chat."""

    kind: ClassVar[str] = "caption"
    image: MediaRef
    prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class MatchRequest(Request):
    """How well each text describes the picture; answered by `Relevance` with one value a text."""

    kind: ClassVar[str] = "match"
    image: MediaRef
    texts: list[str]


@dataclass(frozen=True, kw_only=True)
class ImageRequest(Request):
    """Draw pictures of a text; with `image` from that picture, with `mask` too only where the mask is white.

    Attributes:
        width, height: pixels; None = what the model was trained on.
        guidance: how strongly the prompt is followed (classifier-free guidance; 1 = not at all).
        strength: of `image`, how much is drawn anew (0 to 1).
        seed: of the first picture, the next ones follow; None = drawn fresh and reported.
        count: pictures.
    """

    kind: ClassVar[str] = "image"
    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    seed: int | None = None
    count: int = 1
    image: MediaRef | None = None
    mask: MediaRef | None = None
    strength: float | None = None


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest(Request):
    """Enlarge a picture `factor` times on each side."""

    kind: ClassVar[str] = "upscale"
    image: MediaRef
    factor: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Step(Chunk):
    """Steps done so far, of `total`; `stage` says of what ("sample", "decode", …)."""

    kind: str = "step"
    done: int
    total: int
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class Preview(Chunk):
    """Picture `index` as it looks now: a small JPEG in base64, at most 64 KB."""

    kind: str = "preview"
    index: int = 0
    jpeg: str


@dataclass(frozen=True, kw_only=True)
class Picture(Chunk):
    """Picture `index` is done: its digest in the home's spool, and how it was made as WebUI writes it."""

    kind: str = "picture"
    index: int = 0
    digest: str
    media_type: str = "image/png"
    seed: int | None = None
    infotext: str = ""


register(CaptionRequest, *ANSWER_CHUNKS)
register(MatchRequest, Relevance)
register(ImageRequest, Step, Preview, Picture)
register(UpscaleRequest, Step, Picture)

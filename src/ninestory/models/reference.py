"""The one grammar of model names: `SOURCE[:QUANT][@REV][+ADAPTER[=WEIGHT]]…`.

SOURCE is a catalogue name (`chatglm-6b:int4`), a path (takes only `+`), `hf:org/name`, `ms:org/name`,
`starter:name`, `openai:name` or a tuned model's alias `ft:…`. Parsing touches no disk and no network;
`models/resolve.py` turns a reference into files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ninestory.core.errors import InvalidRequest

Scheme = Literal["catalogue", "path", "hf", "ms", "starter", "openai", "ft"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_SCHEMES: tuple[Scheme, ...] = ("hf", "ms", "starter", "openai", "ft")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
MAX_WEIGHT = 1000.0
MAX_BYTES, MAX_NAME_BYTES, MAX_FILE_NAME_BYTES = 4096, 100, 255


@dataclass(frozen=True)
class Adapter:
    """One `+ADAPTER[=WEIGHT]`: `source` is a path or an installed adapter's name."""

    source: str
    weight: float = 1.0


@dataclass(frozen=True)
class Reference:
    """A parsed model name. `str()` gives it back in its shortest form."""

    scheme: Scheme
    source: str
    quant: str | None = None
    revision: str | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def base(self) -> Reference:
        """The same model without its adapters: what a worker is keyed by."""
        return Reference(self.scheme, self.source, self.quant, self.revision)

    def __str__(self) -> str:
        text = self.source if self.scheme in ("catalogue", "path") else f"{self.scheme}:{self.source}"
        text += f":{self.quant}" if self.quant else ""
        text += f"@{self.revision}" if self.revision else ""
        return text + "".join(
            f"+{a.source}" + (f"={_number(a.weight)}" if a.weight != 1 else "") for a in self.adapters
        )


def parse_reference(text: str) -> Reference:
    """Parse a model reference.

    >>> parse_reference("chatglm-6b:int4+law=0.5")
    Reference(scheme='catalogue', source='chatglm-6b', quant='int4', revision=None, adapters=(Adapter(source='law', weight=0.5),))
    >>> str(parse_reference("hf:THUDM/chatglm-6b:Q8_0@v1.1.0"))
    'hf:THUDM/chatglm-6b:Q8_0@v1.1.0'

    Raises:
        InvalidRequest: the text does not follow the grammar; the message names the part at fault.
    """
    if not text or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise _bad(text, "it is empty or holds control characters or half a character")
    if len(text.encode()) > MAX_BYTES:
        raise _bad(text, f"it is too long: {len(text.encode())} bytes; expected at most {MAX_BYTES}")
    head, *adapter_texts = text.split("+")
    adapters = tuple(_adapter(text, part) for part in adapter_texts)
    if _is_path(head):
        _check_path(text, head)
        return Reference("path", head, adapters=adapters)
    scheme, rest = _scheme(head)
    if scheme in ("openai", "ft") and not rest:
        raise _bad(text, "the name is empty")
    if scheme == "openai":  # remote names keep their own colons
        return Reference(scheme, rest, adapters=adapters)
    _check_lengths(text, re.split("[:@/]", rest), MAX_NAME_BYTES)
    if scheme == "ft":
        if not _ALIAS.fullmatch(rest):
            raise _bad(text, f"{rest[:80]!r} is not a tuned model's alias")
        return Reference(scheme, rest, adapters=adapters)
    rest, at, revision = rest.partition("@")
    source, colon, quant = rest.partition(":")
    pattern = _REPO if scheme in ("hf", "ms") else _NAME
    if not pattern.fullmatch(source):
        raise _bad(text, f"{source!r} is not {'an org/name' if pattern is _REPO else 'a name'}")
    if colon and not _QUANT.fullmatch(quant):
        raise _bad(text, f"{quant!r} is not a variant")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _bad(text, f"{revision!r} is not a revision")
    return Reference(scheme, source, quant or None, revision or None, adapters)


def _scheme(head: str) -> tuple[Scheme, str]:
    for scheme in _SCHEMES:
        if head.startswith(f"{scheme}:"):
            return scheme, head[len(scheme) + 1 :]
    return "catalogue", head


def _is_path(head: str) -> bool:
    """Paths start with '/', './', '../', '~' or a drive, or end in a file type; anything else is a name."""
    starts = (
        head.startswith(("/", "./", "../", "~", ".\\", "..\\")) or head in (".", "..") or head[1:3] in (":\\", ":/")
    )
    return starts or head.endswith((".gguf", ".safetensors", ".pth", ".bin", ".pt"))


def _check_path(text: str, path: str) -> None:
    """Refuse what no file system takes, here and not where it is opened."""
    _check_lengths(text, re.split(r"[/\\]", path), MAX_FILE_NAME_BYTES)


def _check_lengths(text: str, parts: list[str], most: int) -> None:
    if long := [part for part in parts if len(part.encode()) > most]:
        raise _bad(text, f"{long[0][:40]!r}… has {len(long[0].encode())} bytes; expected at most {most}")


def _adapter(text: str, part: str) -> Adapter:
    source, equals, weight = part.partition("=")
    if not source:
        raise _bad(text, "an adapter has no name")
    _check_path(text, source)
    if not equals:
        return Adapter(source)
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_WEIGHT:  # also refuses nan
        raise _bad(text, f"the adapter weight {weight!r} is not a number within ±{MAX_WEIGHT:g}")
    return Adapter(source, value)


def _number(weight: float) -> str:
    """The shortest text that parses back to the same value."""
    return repr(weight).removesuffix(".0")


def _bad(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:200]!r} is not a model reference: {why}.",
        hint="Write NAME[:VARIANT][@REVISION][+ADAPTER[=WEIGHT]], hf:org/name, ms:org/name, starter:name, "
        "openai:name, or a path that starts with ./ or /. 'ninestory list' shows the names.",
        hint_zh="格式：名称[:变体][@版本][+适配器[=权重]]、hf:组织/名称、ms:组织/名称、starter:名称、openai:名称，"
        "或以 ./ 或 / 开头的路径。运行 ninestory list 查看名称。",
        param="model",
        code="bad_model_reference",
    )

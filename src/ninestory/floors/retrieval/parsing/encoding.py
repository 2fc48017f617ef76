"""Bytes to text: byte-order mark, then strict UTF-8, then detection among what Chinese and Western files use."""

from __future__ import annotations

import codecs

from ninestory.core.errors import Damaged

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = ["gb18030", "big5", "utf_16_le", "utf_16_be", "cp1252", "shift_jis", "euc_kr"]
_SAMPLE_BYTES = 64 << 10
# The everyday characters of each Chinese set lie together, by their first byte (GB 2312 level 1, Big5 level 1).
_COMMON_LEADS = {"gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6)}
_COMMON_TRAIL = {"gb18030": 0xA1, "big5": 0x40}
_PUNCTUATION = frozenset("，。、；：？！“”‘’（）《》「」『』—…")
_SURE_SHARE = 0.75


def decode(data: bytes) -> tuple[str, str]:
    """The text, and the name of the encoding it was in.

    Raises:
        Damaged: binary data, or an encoding that cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data, encoding), encoding
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        encoding = _detected(data)
        return _strict(data, encoding), encoding
    if "\0" in text:  # ASCII in UTF-16 without a mark is valid UTF-8, with a zero beside each letter
        encoding = _detected(data)
        return _strict(data, encoding), encoding
    return text, "utf-8"


def _detected(data: bytes) -> str:
    from charset_normalizer import from_bytes

    even, odd = data[:_SAMPLE_BYTES:2].count(0), data[1:_SAMPLE_BYTES:2].count(0)
    few = len(data[:_SAMPLE_BYTES]) // 8
    if len(data) % 2 == 0 and odd > few and even == 0:
        return "utf_16_le"
    if len(data) % 2 == 0 and even > few and odd == 0:
        return "utf_16_be"
    sample = data[:_SAMPLE_BYTES]
    shares = {encoding: _common_share(sample, encoding) for encoding in _COMMON_LEADS}
    likeliest = max(shares, key=shares.__getitem__)
    if shares[likeliest] >= _SURE_SHARE:
        return likeliest
    for extra in range(4):  # the sample may end inside a character
        best = from_bytes(sample[: len(sample) - extra], cp_isolation=_CANDIDATES).best()
        if best is not None:
            return best.encoding
    raise Damaged(
        "The encoding cannot be told: this is binary data, or an encoding beyond UTF-8, UTF-16, GB18030 and Big5.",
        hint="Save it as UTF-8.",
        hint_zh="请另存为 UTF-8 编码。",
        code="unknown_encoding",
    )


def _common_share(sample: bytes, encoding: str) -> float:
    """Of the characters beyond ASCII, the share that are everyday Chinese ones when read in this encoding."""
    text = sample.decode(encoding, errors="ignore" if len(sample) == _SAMPLE_BYTES else "replace")
    foreign = [char for char in text if char > "\x7f"]
    first, last = _COMMON_LEADS[encoding]
    common = 0
    for char in foreign:
        pair = char.encode(encoding, errors="replace")
        common += (
            len(pair) == 2 and pair[1] >= _COMMON_TRAIL[encoding] and (first <= pair[0] <= last or char in _PUNCTUATION)
        )
    return common / len(foreign) if foreign else 0.0


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Damaged(
            f"It looks like {encoding}, but byte {error.start} does not fit.",
            hint="Save it as UTF-8.",
            hint_zh="请另存为 UTF-8 编码。",
            code="unknown_encoding",
        ) from error

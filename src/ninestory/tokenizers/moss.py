"""MOSS's tokenizer: byte-level BPE in GPT-2's file format with end marks as added tokens; no torch.

The line break after `<eoh>` is kept, as the training code's span arithmetic assumes: added tokens strip nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


class MossTokenizer:
    """Encode and decode.

    Args:
        directory: holds vocab.json and merges.txt.
        added: added tokens that text may contain → id (white-space runs).
        special: end marks → id (`<eoh>`, `<eom>`, …): matched only when asked for.
    """

    def __init__(self, directory: Path, added: Mapping[str, int], special: Mapping[str, int]) -> None:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        def build(names: Mapping[str, int]) -> Tokenizer:
            model = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
            tokenizer = Tokenizer(model)
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            tokenizer.decoder = decoders.ByteLevel()
            for name, number in sorted(names.items(), key=lambda item: item[1]):
                tokenizer.add_tokens([AddedToken(name, normalized=False, lstrip=False, rstrip=False)])
                if tokenizer.token_to_id(name) != number:
                    raise ValueError(f"the added token {name!r} got id {tokenizer.token_to_id(name)}, not {number}")
            return tokenizer

        self._with_special = build({**added, **special})
        self._special = dict(special)
        self._special_ids = frozenset(special.values())
        self._by_id = {number: name for name, number in (*added.items(), *special.items())}

    def id_of(self, name: str) -> int:
        return self._special[name]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`.

        Args:
            special: let `<eoh>` and the like become end marks (a template's own text); off for a user's text.
        """
        if special:
            return list(self._with_special.encode(text).ids)
        ids: list[int] = []
        for i, part in enumerate(_cut(text, self._special)):
            ids += self._with_special.encode(part[:1]).ids + self._with_special.encode(part[1:]).ids if i else []
            ids += [] if i else self._with_special.encode(part).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of `ids`, without the blanks that old libraries put around added tokens."""
        out = ""
        run: list[int] = []
        for number in ids:
            if number in self._by_id:
                out += self._with_special.decode(run) if run else ""
                out += "" if skip_special and number in self._special_ids else self._by_id[number]
                run = []
            else:
                run.append(number)
        return out + (self._with_special.decode(run) if run else "")


def _cut(text: str, names: Mapping[str, int]) -> list[str]:
    """Cut a text in front of everything that looks like an end mark, so that none is matched."""
    parts, start = [], 0
    for at in sorted(i for name in names for i in _places(text, name)):
        parts.append(text[start:at])
        start = at
    return [*parts, text[start:]]


def _places(text: str, name: str) -> list[int]:
    places, at = [], text.find(name)
    while at >= 0:
        places.append(at)
        at = text.find(name, at + 1)
    return places

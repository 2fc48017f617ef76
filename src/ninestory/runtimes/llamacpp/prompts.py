"""Prompts by the GGUF's own template and llama.cpp's own tokenizer.

llama.cpp is given ids only: so a user's text never becomes a special token, both numbers of an overflow are known
beforehand, and chat and completion are one path.
"""

from __future__ import annotations

from collections.abc import Sequence

from ninestory.core.errors import InvalidRequest
from ninestory.models.gguf_reader import GgufFile
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.llamacpp.library import Library
from ninestory.runtimes.prompts import Prompts
from ninestory.runtimes.protocol import CompletionRequest
from ninestory.tokenizers.tokenizer import Segment, SpecialTokens

_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens


class GgufPrompts(Prompts):
    """What a GGUF file says about its prompts, and the native tokenizer."""

    def __init__(self, model: ResolvedModel, file: GgufFile, library: Library, context: int, template: str) -> None:
        metadata = file.metadata
        tokens, kinds = metadata.get("tokenizer.ggml.tokens", []), metadata.get("tokenizer.ggml.token_type", [])
        specials = {
            i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == _CONTROL_TOKEN
        }
        self._library = library
        self._pieces: dict[int, str] = {}
        self._special = SpecialTokens({token: i for i, token in specials.items()})
        self.bos_id: int = metadata.get("tokenizer.ggml.bos_token_id", -1)
        eos_id: int = metadata.get("tokenizer.ggml.eos_token_id", -1)
        adds_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", False)) and self.bos_id >= 0
        super().__init__(
            model,
            own=str(metadata.get("tokenizer.chat_template", "")),
            template=template,
            context=context,
            vocabulary=len(tokens),
            specials=specials,
            marks={"bos_token": specials.get(self.bos_id, ""), "eos_token": specials.get(eos_id, "")},
            bos_ids=[self.bos_id] if adds_bos else [],
        )

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        return [i for i, _ in self.pieces(segments)]

    def _start_ids(self) -> list[int]:
        return [self.bos_id] if self.bos_id >= 0 else []

    def embedded(self, given: str | list[int]) -> list[int]:
        """Ids of one text to embed, with what the tokenizer wants around it.

        Raises:
            ContextOverflow: with both numbers.
            InvalidRequest: nothing to embed, or a wrong id.
        """
        ids = given if isinstance(given, list) else [i for i, _ in self._tokenise(given, surround=True)]
        self.check_ids(ids, "input")
        if not given:
            raise InvalidRequest("An input is empty.", param="input")
        self.check_fits(len(ids), CompletionRequest(prompt="", max_tokens=0), param="input")
        return ids

    def pieces(self, segments: Sequence[Segment]) -> list[tuple[int, str]]:
        """(id, spelling) of a rendered prompt; what lies between two special tokens is encoded in one piece."""
        spellings = {i: token for token, i in self._special.ids.items()}
        made: list[tuple[int, str]] = []
        for part in self._special.cut(segments):
            made += [(part, spellings[part])] if isinstance(part, int) else self._tokenise(part)
        return made

    def piece(self, token_id: int) -> str:
        """What a token is written as, special tokens too; U+FFFD stands for bytes that are no whole character."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.detokenise([token_id])
        return self._pieces[token_id]

    def is_special(self, token_id: int) -> bool:
        return token_id in self._specials

    def detokenise(self, ids: list[int]) -> str:
        return str(self._library.post("/detokenize", {"tokens": ids})["content"])

    def _tokenise(self, text: str, surround: bool = False) -> list[tuple[int, str]]:
        """(id, spelling) of plain text; special tokens are added around it only if `surround`."""
        body = {"content": text, "add_special": surround, "parse_special": False, "with_pieces": True}
        return [(t["id"], _piece_text(t["piece"])) for t in self._library.post("/tokenize", body)["tokens"]]


def _piece_text(piece: str | list[int]) -> str:
    """llama.cpp gives a piece that is no valid UTF-8 as a list of bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", errors="replace")

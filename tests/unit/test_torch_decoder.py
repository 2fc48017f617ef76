"""Decoders: packed rows give the numbers of the model's own forward, whoever else is in the step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from ninestory.runtimes.torch.decoder import Decoder, decoder_of  # noqa: E402
from ninestory.runtimes.torch.step import Row  # noqa: E402
from tests.tiny_decoders import FAMILIES, VOCABULARY, build  # noqa: E402

pytestmark = pytest.mark.torch
CONTEXT = 160


def _ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY - 8, (length,), generator=torch.Generator().manual_seed(seed))


def _run(decoder: Decoder, parts: Sequence[tuple[Row, torch.Tensor]]) -> list[torch.Tensor]:
    """Logits of each row's tokens."""
    with torch.inference_mode():
        hidden = decoder.forward(torch.cat([ids for _, ids in parts]), [row for row, _ in parts])
        return list(decoder.logits(hidden).split([row.n for row, _ in parts]))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_the_logits_of_the_plain_forward(family: str) -> None:
    """A chunk, another chunk beside someone else's token, then one token: all as one plain forward has them."""
    ids, other = _ids(100), _ids(8, seed=1)
    with torch.inference_mode():
        wanted = build(family)(input_ids=ids[None]).logits[0]
    decoder = decoder_of(build(family), slots=3, context=CONTEXT)
    _run(decoder, [(Row(0, 0, 7), other[:7])])
    first = _run(decoder, [(Row(2, 0, 64), ids[:64])])[0]
    second = _run(decoder, [(Row(0, 7, 1), other[7:]), (Row(2, 64, 35), ids[64:99])])[1]
    last = _run(decoder, [(Row(2, 99, 1), ids[99:])])[0]
    torch.testing.assert_close(torch.cat([first, second, last]), wanted, atol=1e-4, rtol=0)

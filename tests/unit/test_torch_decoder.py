"""Decoders: packed rows give the numbers of the model's own forward, whoever else is in the step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from ninestory.runtimes.torch.decoder import Decoder, decoder_of  # noqa: E402
from ninestory.runtimes.torch.open import suit  # noqa: E402
from ninestory.runtimes.torch.step import Row  # noqa: E402
from tests.tiny_decoders import FAMILIES, GMASK, PLAIN, SOP, build  # noqa: E402

pytestmark = pytest.mark.torch
CONTEXT = 160


def _ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, PLAIN, (length,), generator=torch.Generator().manual_seed(seed))


def _prompt(family: str, length: int, seed: int = 0) -> torch.Tensor:
    """A prompt of `length` tokens; ChatGLM's ends with its marks."""
    ids = _ids(length, seed)
    if family.startswith("chatglm"):
        ids[-2:] = torch.tensor([GMASK, SOP])
    return ids


def _run(decoder: Decoder, parts: Sequence[tuple[Row, torch.Tensor]]) -> list[torch.Tensor]:
    """Logits of each row's tokens."""
    with torch.inference_mode():
        hidden = decoder.forward(torch.cat([ids for _, ids in parts]), [row for row, _ in parts])
        return list(decoder.logits(hidden).split([row.n for row, _ in parts]))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_the_logits_of_the_plain_forward(family: str) -> None:
    """A prompt in chunks where the family allows it, the last beside someone else's token, then tokens one by one."""
    prompt, answer, other = _prompt(family, 99), _ids(3), _prompt(family, 7, seed=1)
    with torch.inference_mode():
        wanted = build(family)(input_ids=torch.cat((prompt, answer))[None]).logits[0]
    decoder = decoder_of(build(family), slots=3, context=CONTEXT)
    _run(decoder, [(Row(0, 0, 7), other)])
    cuts = [64, 35] if decoder.chunked else [99]
    got, at = [], 0
    for n in cuts:
        rows = [(Row(0, 7 + len(got), 1), _ids(1)), (Row(2, at, n), prompt[at : at + n])]
        got.append(_run(decoder, rows)[1])
        at += n
    got += [_run(decoder, [(Row(2, 99 + i, 1), answer[i : i + 1])])[0] for i in range(3)]
    torch.testing.assert_close(torch.cat(got), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_has_the_same_bits_alone_and_among_eight(family: str) -> None:
    """Prefill and twenty forced tokens: logits compared bit for bit, others joining and leaving around it."""
    model = build(family)
    suit(model, "float32")
    decoder = decoder_of(model, slots=8, context=CONTEXT)
    text = torch.cat((_prompt(family, 67), _ids(20)))
    cuts = [64, 3] if decoder.chunked else [67]

    def play(slot: int, others: Sequence[int]) -> torch.Tensor:
        """The request's logits, beside others that decode from the middle of whatever stands in their slots."""
        got, at = [], 0
        for i, n in enumerate([*cuts, *[1] * 20]):
            new = text[at : at + n]
            neighbours = [(Row(s, 20 + i, 1), _ids(1, seed=s)) for s in others[: 1 + i % 7]]
            cut = i % (len(neighbours) + 1) if neighbours else 0  # another place among them each time
            rows = [*neighbours[:cut], (Row(slot, at, n), new), *neighbours[cut:]]
            got.append(_run(decoder, rows)[cut])
            at += n
        return torch.cat(got)

    for other in range(8):
        _run(decoder, [(Row(other, 0, 20), _prompt(family, 20, seed=other))])
    alone = play(5, [])
    crowded = play(2, [0, 1, 3, 4, 5, 6, 7])
    assert len(alone) == 87 and (alone != crowded).any(dim=1).sum() == 0

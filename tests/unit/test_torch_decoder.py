"""Decoders: packed rows give the numbers of the model's own forward, whoever else is in the step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from ninestory.runtimes.torch.decoder import Decoder, decoder_of  # noqa: E402
from ninestory.runtimes.torch.gpu_linear import quantise_linears  # noqa: E402
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


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("chatglm")])
def test_the_step_names_no_processor(family: str) -> None:
    """On a device without numbers every tensor made for the processor would be refused. ChatGLM reads ids, so not it."""
    decoder = decoder_of(build(family).to("meta"), slots=3, context=64)
    for rows in ([Row(0, 0, 20)], [Row(0, 20, 1), Row(1, 0, 20)], [Row(0, 21, 1), Row(1, 20, 1)]):
        ids = torch.zeros(sum(row.n for row in rows), dtype=torch.int64, device="meta")
        with torch.inference_mode():
            logits = decoder.logits(decoder.forward(ids, rows))
        assert logits.device.type == "meta" and logits.shape == (len(ids), decoder.vocabulary)


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


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.13)])
def test_the_linears_of_a_gpu_are_close_and_leave_the_head(bits: int, error: float) -> None:
    """bitsandbytes runs them on a processor too, only slowly."""
    pytest.importorskip("bitsandbytes")
    plain, packed = build("llama"), build("llama")
    quantise_linears(packed, bits, torch.device("cpu"))
    kinds = {type(module).__name__ for module in packed.modules() if "Linear" in type(module).__name__}
    assert kinds == {"Linear", "Linear8bitLt" if bits == 8 else "Linear4bit"}
    assert type(packed.lm_head) is torch.nn.Linear
    x = torch.randn(9, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, got = (model.model.layers[1].mlp.down_proj(x) for model in (plain, packed))
    assert 0 < (got - wanted).norm() / wanted.norm() < error
    logits = _run(decoder_of(packed, slots=1, context=CONTEXT), [(Row(0, 0, 40), _prompt("llama", 40))])[0]
    assert logits.shape == (40, packed.config.vocab_size) and logits.isfinite().all()

"""Packed linears: the plain product's numbers, and bits that no neighbour changes, on whatever processor this is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from ninestory.runtimes.torch import probe  # noqa: E402
from ninestory.runtimes.torch.packed_linear import (  # noqa: E402
    Int8Linear,
    MklLinear,
    OneDnnLinear,
    PackedLinear,
    PairedOneDnnLinear,
    PlainLinear,
    RowByRowLinear,
    replace_linears,
)
from ninestory.runtimes.torch.probe import choose_linears, is_invariant  # noqa: E402

pytestmark = pytest.mark.torch
SHAPES = [(64, 64), (192, 64), (64, 192), (320, 512), (1003, 517)]
EXACT = [MklLinear, OneDnnLinear, PairedOneDnnLinear, PlainLinear, RowByRowLinear]


def _linear(shape: tuple[int, int], bias: bool = True) -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=bias)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear


def _inputs(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("rows", [1, 2, 65])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_is_the_plain_one(kind: type[PackedLinear], rows: int, bias: bool) -> None:
    linear, x = _linear((192, 64), bias), _inputs(rows, 64)
    packed = kind(linear.weight, linear.bias)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x[None]), linear(x[None]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_chosen_linear_gives_a_row_the_same_bits_in_every_step(shape: tuple[int, int]) -> None:
    """More row counts and places than the check at load looks at."""
    linear = _linear(shape)
    kind = choose_linears(linear).classes[shape]
    packed, x = kind(linear.weight, linear.bias), _inputs(80, shape[1])
    with torch.inference_mode():
        alone = torch.cat([packed(row[None]) for row in x])
        for rows in (2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64, 65, 71):
            for start in (0, 80 - rows):
                assert torch.equal(packed(x[start : start + rows]), alone[start : start + rows]), (kind, rows, start)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_close_and_does_not_depend_on_its_neighbours(shape: tuple[int, int]) -> None:
    linear, x = _linear(shape), _inputs(8, shape[1])
    packed = Int8Linear(linear.weight, linear.bias)
    with torch.inference_mode():
        wanted = linear(x)
        assert (packed(x) - wanted).norm() / wanted.norm() < 0.03
        assert is_invariant(packed)
        loud = torch.cat((x, 1000 * x[:1]))  # a neighbour of another range
        assert torch.equal(packed(loud)[:8], packed(x))


def test_int8_does_not_overflow_at_the_ends_of_its_ranges() -> None:
    packed = Int8Linear(torch.ones(32, 512), None)
    x = torch.cat(
        (torch.ones(1, 512), -torch.ones(1, 512), torch.ones(1, 512).index_fill(1, torch.arange(0, 512, 2), -1))
    )
    torch.testing.assert_close(packed(x), x.sum(1, keepdim=True).expand(-1, 32), atol=5.0, rtol=0.01)


def test_int8_of_zeros_is_zero() -> None:
    linear = nn.Linear(8, 4, bias=False)
    nn.init.zeros_(linear.weight)
    packed = Int8Linear(linear.weight, None)
    assert torch.equal(packed(torch.zeros(2, 8)), torch.zeros(2, 4))
    assert torch.equal(packed(torch.ones(2, 8)), torch.zeros(2, 4))


def test_a_linear_that_depends_on_its_neighbours_is_found_out() -> None:
    class Leaky(RowByRowLinear):
        def product(self, x: torch.Tensor) -> torch.Tensor:
            return super().product(x) + 1e-6 * x.shape[0]

    weight = _linear((64, 64)).weight
    with torch.inference_mode():
        assert is_invariant(RowByRowLinear(weight, None)) and not is_invariant(Leaky(weight, None))


@pytest.mark.parametrize("fast", [False, True])
def test_every_linear_of_a_model_is_replaced(fast: bool) -> None:
    model = nn.Sequential(_linear((64, 32)), nn.ReLU(), nn.Sequential(_linear((16, 64), bias=False)))
    x = _inputs(3, 32)
    with torch.inference_mode():
        wanted = model(x)
        replace_linears(model, choose_linears(model, fast=fast).classes)
        torch.testing.assert_close(model(x), wanted, atol=1e-4, rtol=1e-5)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())


def test_the_faster_of_two_types_is_taken_and_its_times_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says which type wins; that both run, and that the promise holds for both, is as it is."""
    model = nn.Sequential(_linear((128, 64)), _linear((64, 128)))
    for ratio, winner in ((0.5, torch.bfloat16), (0.9, torch.float32), (2.0, torch.float32)):
        times = {torch.float32: 0.001, torch.bfloat16: 0.001 * ratio}
        monkeypatch.setattr(probe, "_seconds", lambda linear, dtype, times=times: times[dtype])
        choice = choose_linears(model, dtypes=[torch.float32, torch.bfloat16], fast=True)
        assert choice.dtype == winner and set(choice.classes) == {(128, 64), (64, 128)}
        assert f"float32 {2.0:.1f} ms, bfloat16 {2000 * 0.001 * ratio:.1f} ms" in choice.note
        assert "may depend" in choice.note


def test_bfloat16_is_not_chosen_where_its_rows_depend_on_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    made = probe._made
    monkeypatch.setattr(
        probe, "_made", lambda kind, w, fast: None if w.dtype == torch.bfloat16 else made(kind, w, fast)
    )
    choice = choose_linears(_linear((64, 64)), dtypes=[torch.float32, torch.bfloat16])
    assert choice.dtype == torch.float32 and "bfloat16 not without" in choice.note


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_that_was_asked_for_runs(fast: bool) -> None:
    model = nn.Sequential(_linear((64, 32)).bfloat16())
    x = _inputs(3, 32).bfloat16()
    with torch.inference_mode():
        wanted = model(x)
        choice = choose_linears(model, dtypes=[torch.bfloat16], fast=fast)
        replace_linears(model, choice.classes)
        assert model(x).dtype == torch.bfloat16
        torch.testing.assert_close(model(x), wanted, atol=0.3, rtol=0.02)

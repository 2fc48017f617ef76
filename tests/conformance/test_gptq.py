"""GPTQ packing against the original packers (tests/fixtures/gptq/README.md). Calibration comes with the tuning floor."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file

from ninestory.architectures.gptq_linear import GPTQLinear, dequantize, unpack_zeros

from .conftest import FIXTURES

pytestmark = pytest.mark.torch
FOLDER = FIXTURES / "gptq"
PACKED = load_file(FOLDER / "gptq_v1_pack.safetensors") if FOLDER.exists() else {}
CASES = sorted({key.rsplit(".", 1)[0] for key in PACKED if key.endswith(".qweight")})


@pytest.mark.parametrize("case", CASES)
def test_dequantised_weight_and_output(case: str) -> None:
    data = {key.rsplit(".", 1)[1]: value for key, value in PACKED.items() if key.startswith(f"{case}.")}
    packed = (data["qweight"], data["qzeros"], data["scales"], data["g_idx"])
    weight = dequantize(*packed, 4, torch.float32).T  # [out, in]
    assert torch.equal(weight, data["dequant"])
    assert (weight - data["weight_q"]).abs().max() < 4e-4  # the scales are stored in float16
    outputs, inputs = weight.shape
    linear = GPTQLinear(inputs, outputs, 4, inputs // data["scales"].shape[0], bias=True)
    linear.load_state_dict({k: data[k] for k in ("qweight", "qzeros", "scales", "g_idx", "bias")})
    torch.testing.assert_close(linear(PACKED["x"]), data["y"], atol=1e-5, rtol=1e-5)


def test_a_zero_point_of_zero_is_read_back() -> None:
    data = load_file(FOLDER / "zero_point_zero.safetensors")
    zeros = unpack_zeros(data["qzeros_nibble_masked"], 4)
    assert (zeros == 0).any()
    packed = next((data[k] for k in ("zero", "zeros") if k in data), None)
    if packed is not None:
        assert torch.equal(zeros.T.float(), packed.float().reshape(zeros.T.shape))

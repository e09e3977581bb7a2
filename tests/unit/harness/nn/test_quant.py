"""Quantization is the paper's: its 16 NF4 values, its bits a parameter, gradients through it, lm_head left alone."""

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from harness.config.schema import DType, QuantConfig, QuantMethod
from harness.nn.quant import quantize_linear

CPU = torch.device("cpu")
# QLoRA, arXiv 2305.14314, appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def config(method: QuantMethod = QuantMethod.nf4, double_quant: bool = True, block_size: int = 64) -> QuantConfig:
    return QuantConfig(
        name="x", method=method, double_quant=double_quant, block_size=block_size, compute_dtype=DType.float32
    )


def linear(num_in: int = 128, num_out: int = 96, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(num_in, num_out, bias=bias)


def quantized(layer: nn.Linear, how: QuantConfig) -> Any:
    """A bitsandbytes layer, which has no type stubs."""
    return quantize_linear(layer, how, CPU)


def dequantized(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def stored_bits(layer: Any) -> float:
    """Of the packed weights and their constants, for each parameter."""
    state = layer.weight.quant_state
    tensors = [layer.weight.data, state.absmax]
    if state.nested:
        tensors.append(state.state2.absmax)
    bits: float = 8 * sum(t.numel() * t.element_size() for t in tensors) / state.shape.numel()
    return bits


def test_nf4_has_the_papers_values() -> None:
    layer = quantized(linear(), config(double_quant=False))
    torch.testing.assert_close(layer.weight.quant_state.code, torch.tensor(NF4), rtol=0, atol=1e-7)
    absmax = layer.weight.quant_state.absmax
    used = (dequantized(layer).view(-1, 64) / absmax[:, None]).unique()
    distance = (used[:, None] - torch.tensor(NF4)).abs().min(dim=1).values
    assert distance.max() < 1e-6
    assert len((used * 1e4).round().unique()) == 16, "all of them occur in a random matrix"


@pytest.mark.parametrize(
    ("method", "double_quant", "block_size", "bits"),
    [
        (QuantMethod.nf4, True, 64, 4 + 8 / 64 + 32 / (64 * 256)),  # 4.127: section 3, "0.373 bits saved"
        (QuantMethod.nf4, False, 64, 4.5),
        (QuantMethod.fp4, True, 64, 4 + 8 / 64 + 32 / (64 * 256)),
        (QuantMethod.nf4, False, 128, 4.25),
        (QuantMethod.nf4, False, 4096, 4 + 32 / 4096),
        (QuantMethod.nf4, True, 256, 4 + 8 / 256 + 32 / (256 * 256)),
    ],
)
def test_bits_a_parameter(method: QuantMethod, double_quant: bool, block_size: int, bits: float) -> None:
    layer = quantized(linear(512, 1024), config(method, double_quant, block_size))
    assert layer.weight.quant_state.blocksize == block_size
    assert stored_bits(layer) == bits
    assert round(4 + 8 / 64 + 32 / (64 * 256), 3) == 4.127


@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.fp4])
@pytest.mark.parametrize("double_quant", [True, False])
def test_weights_come_back_within_half_a_gap(method: QuantMethod, double_quant: bool) -> None:
    original = linear()
    weight = original.weight.detach().clone()
    layer = quantized(original, config(method, double_quant))
    code = layer.weight.quant_state.code.sort().values
    half_gap = float(code.diff().max()) / 2
    absmax = weight.view(-1, 64).abs().amax(dim=1, keepdim=True)
    error = ((dequantized(layer) - weight).view(-1, 64).abs() / absmax).max()
    assert error < half_gap + (0.02 if double_quant else 1e-5)
    assert error > 0.01, "it was quantized"


def test_smaller_blocks_are_nearer() -> None:
    def error(block_size: int) -> float:
        original = linear(512, 64)
        with torch.no_grad():
            original.weight.mul_(torch.randn(64, 1).exp())  # rows of differing scale, as in real models
        weight = original.weight.detach().clone()
        layer = quantized(original, config(block_size=block_size))
        return float((dequantized(layer) - weight).square().mean())

    assert error(64) < error(256) < error(4096)


@pytest.mark.parametrize("bias", [False, True])
def test_nf4_forward_and_gradient_are_those_of_its_weights(bias: bool) -> None:
    layer = quantized(linear(bias=bias), config())
    weight = dequantized(layer)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1), requires_grad=True)
    out = layer(x)
    torch.testing.assert_close(out, nn.functional.linear(x, weight, layer.bias), rtol=1e-4, atol=1e-4)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    out.backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, upstream @ weight, rtol=1e-4, atol=1e-4)
    assert layer.weight.grad is None


def test_int8_forward_is_near_and_gradient_flows() -> None:
    original = linear(bias=True)
    weight, bias = original.weight.detach().clone(), original.bias.detach().clone()
    layer = quantized(original, config(QuantMethod.int8))
    x = torch.randn(8, 128, generator=torch.Generator().manual_seed(1), requires_grad=True)
    expected = nn.functional.linear(x.detach(), weight, bias)
    out = layer(x)
    assert float((out.detach() - expected).norm() / expected.norm()) < 0.02
    assert layer.weight.data.dtype is torch.int8
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(8, -1), rtol=0.05, atol=0.05)

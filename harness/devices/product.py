"""Products with frozen float32 weights on a CPU, by the library that has kernels for its processor.

torch multiplies float32 on x86 by MKL, which keeps to AVX2 on AMD's processors. oneDNN, which every build of torch has
too, uses their AVX-512: 2.1 to 2.5 times as fast on a Zen 5, with the same rounding errors
(benchmarks/results/products-cpu-2026-11-30.md). Elsewhere torch's own choice stands. What decides is the processor
alone and no race of the two, so that a run and its resumption compute the same numbers.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

WeightOf = Callable[[], Tensor]  # -> [O, I]


def is_by_onednn(x: Tensor) -> bool:
    """Whether products with `x` are oneDNN's; `torch.backends.mkldnn.flags(enabled=False)` forbids it."""
    return x.dtype is torch.float32 and x.is_cpu and not isinstance(x, FakeTensor) and _is_faster()


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, [..., I] -> [..., O], where no gradient is wanted; W may be a transposed view."""
    if is_by_onednn(x):
        flat_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x.flatten(0, -2), weight_OI, bias_O, "none", [], "")
        out: Tensor = torch.ops.aten._unsafe_view(flat_NO, (*x.shape[:-1], len(weight_OI)))  # no view: may be added to
        return out
    return functional.linear(x, weight_OI, bias_O)


def frozen_linear(x: Tensor, weight_of: WeightOf, bias_O: Tensor | None) -> Tensor:
    """As `linear`, differentiable in x alone; the weight is read anew in the backward pass, so it may be made then."""
    if not torch.is_grad_enabled() or not x.requires_grad:
        return linear(x, weight_of(), bias_O)
    out: Tensor = _FrozenLinear.apply(x, weight_of, bias_O)  # type: ignore[no-untyped-call]
    return out


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_of: WeightOf, bias_O: Tensor | None) -> Tensor:
        ctx.weight_of = weight_of
        return linear(x, weight_of(), bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return linear(grads[0], ctx.weight_of().T), None, None


def _is_faster() -> bool:
    return _is_amd_with_avx512() and torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()


@cache
def _is_amd_with_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and processor_vendor() == "AuthenticAMD"


def processor_vendor() -> str:
    """As Linux names it; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")

"""LLM.int8 with outliers found token by token, so that a token's output depends on no other token.

The paper takes every column of the whole input that has an entry of 6.0 or more out of the int8 product and multiplies
it in 16 bits. Which columns those are depends on who shares the pass: a member's loss would depend on its group, a
question's score on its batch, and an answer on how it is decoded. Here only the entries themselves are taken out: a
token is multiplied in 16 bits where it is large, and in int8 elsewhere. With no outliers both are bitsandbytes' own
product. Source: LLM.int8 (arXiv 2208.07339) section 3.2; tests/unit/harness/nn/test_int8.py.
"""

from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

THRESHOLD = 6.0  # of an entry that is an outlier, as in the paper


class TokenwiseInt8(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """A frozen linear layer with int8 weights."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]"""
        if self.weight.CB is not None:
            self.init_8bit_state()
        bias = None if self.bias is None else self.bias.to(x.dtype)
        out: Tensor = Product.apply(x, self.state.CB, self.state.SCB, bias)  # type: ignore[no-untyped-call]
        self.weight.data = self.state.CB
        return out


class Product(torch.autograd.Function):
    """x W^T + b; the weight is frozen, so the backward pass needs nothing of x, and nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, scales_O: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.weight = weight_OI, scales_O
        x_NI = x.reshape(-1, x.shape[-1])
        is_large_NI = x_NI.abs() >= THRESHOLD
        small_NI = x_NI.masked_fill(is_large_NI, 0.0).to(torch.float16)
        int8_NI, scales_N, _ = bnb.functional.int8_vectorwise_quant(small_NI)
        y_NO: Tensor = torch.ops.bitsandbytes.int8_scaled_mm.default(
            int8_NI, weight_OI, scales_N, scales_O, bias=bias_O, dtype=x.dtype
        )
        columns_C = is_large_NI.any(dim=0).nonzero()[:, 0]
        if len(columns_C):
            large_NC = x_NI[:, columns_C] * is_large_NI[:, columns_C]
            y_NO = y_NO + large_NC @ _dequantized(weight_OI[:, columns_C], scales_O, x.dtype).T
        return y_NO.reshape(*x.shape[:-1], len(weight_OI))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        weight_OI, scales_O = ctx.weight
        return grads[0] @ _dequantized(weight_OI, scales_O, grads[0].dtype), None, None, None


def _dequantized(int8_OI: Tensor, scales_O: Tensor, dtype: torch.dtype) -> Tensor:
    return int8_OI.to(dtype).mul_((scales_O[:, None] / 127.0).to(dtype))

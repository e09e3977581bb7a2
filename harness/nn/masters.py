"""Keeps what is trained in float32 while its model computes in 16 bits.

A bfloat16 weight w has 8 significant bits: an update smaller than about |w| / 512 rounds to nothing, and at a rate
of 1e-5 most updates are. So trained tensors, their gradients and the optimizer's moments are float32, and the
module that owns a tensor casts it each time it computes. Activations are bit for bit those of a model whose
weights were read in 16 bits; evaluation, which reads the saved weights so, scores the model that was trained.

Nothing holds a 16-bit copy of the model: a linear layer keeps its float32 weight for the backward pass and casts it
there again, an embedding casts the rows that it looked up. Any other module with weights of its own (norms) casts
all of them, and autograd keeps those copies; so would the stacked matrices of a mixture of experts.

Why not otherwise: `torch.autocast` leaves norms and the residual stream in float32, which is another forward pass
than evaluation's, and its cache is a second copy of all weights. Parametrizations rename weights, in checkpoints
too. `saved_tensors_hooks` inside a gradient checkpoint take the place of the checkpoint's own.

Source: Mixed Precision Training (arXiv 1710.03740) section 3.1.
"""

import re
from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def hold_in_float32(model: nn.Module, dtype: torch.dtype, apart: Collection[nn.Module] = ()) -> None:
    """Turns every trained tensor into float32, in place; the modules that own them go on computing in `dtype`.

    Args:
        model: `requires_grad` says what is trained. What is frozen stays as it is.
        dtype: of activations; float32 changes nothing.
        apart: modules that compute in float32 as well.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if dtype is torch.float32:
        return
    for module in set(model.modules()) - set(apart):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.compute_dtype = dtype  # type: ignore[assignment]
            module.__class__ = _casting(type(module))  # type: ignore[arg-type]


def float32_modules(model: Any, dtype: torch.dtype) -> list[nn.Module]:
    """The modules that transformers leaves in float32 where it reads a model in `dtype` (T5's `wo` in float16)."""
    patterns = [re.compile(pattern.replace("*", ".*")) for pattern in model._get_dtype_plan(dtype)]
    return [module for name, module in model.named_modules() if any(p.search(f"{name}.weight") for p in patterns)]


class _CastLinear(torch.autograd.Function):
    """x W^T + b for float32 W and b, in x's dtype. Keeps x and W for the backward pass, not the cast W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return functional.linear(x, weight_OI.to(x.dtype), None if bias_O is None else bias_O.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight_OI) = grads, ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_NO = grad.reshape(-1, grad.shape[-1])
        return (
            grad @ weight_OI.to(grad.dtype) if of_x else None,
            (grad_NO.T @ x.reshape(-1, x.shape[-1])).to(weight_OI.dtype) if of_weight else None,
            grad_NO.sum(0, dtype=torch.float32) if of_bias else None,
        )


class _Linear(nn.Linear):
    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.compute_dtype)  # T5 casts what goes into `wo` to its weight's dtype
        out: Tensor = _CastLinear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class _Embedding(nn.Embedding):
    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(self.compute_dtype)


class _Casting(nn.Module):
    """A mix-in for a module class: while the module computes, its weights are cast to `compute_dtype`."""

    compute_dtype: torch.dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = dict(self._parameters)
        try:
            for name, parameter in own.items():
                if parameter is not None:
                    self._parameters[name] = parameter.to(self.compute_dtype)  # type: ignore[assignment]
            return super().forward(*args, **kwargs)
        finally:
            self._parameters.update(own)


@cache
def _casting(kind: type[nn.Module]) -> type[nn.Module]:
    """The class `kind` with `_Casting`. Hooks would do too, but would tie the model into a reference cycle."""
    if kind is nn.Linear:
        return _Linear
    if kind is nn.Embedding:
        return _Embedding
    return type(kind.__name__, (_Casting, kind), {"__module__": kind.__module__})

"""Whether a layer of an adapter computes plain LoRA, s B A x with LoRA's gradients, whatever its tensors are called."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.banks.bank import Bank

_NUM_TOKENS = 8
_SIZES = {torch.float32: 0.1, torch.float16: 0.1, torch.bfloat16: 1.0}  # of factors, so that s B A x isn't lost in W x
_MAX_ERROR = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.08}  # of the size of what is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A layer with two factors, held against LoRA's."""

    is_lora: bool
    scale: float  # s, by least squares
    differs_by: str | None = None  # what of it isn't LoRA's
    a_RI: Tensor | None = None  # the values of A and B at which both were computed
    b_OR: Tensor | None = None
    gradients: Mapping[str, tuple[Tensor | None, Tensor]] = field(default_factory=dict)  # of A, of B: its own, LoRA's


def low_rank_of(bank: Bank, name: str) -> LowRank | None:
    """Compares a layer of a member's with s B A x at random factors, which it leaves there; None where none has two."""
    found = _layer_with_factors(bank, name)
    if found is None:
        return None
    layer, base, a_RI, b_OR = found
    dtype, limit = bank.dtype, _MAX_ERROR[bank.dtype]
    _draw(layer, base, (a_RI, b_OR), _SIZES[dtype])
    x = torch.randn(1, _NUM_TOKENS, a_RI.shape[1], generator=torch.Generator().manual_seed(1)).to(bank.device, dtype)
    trained = {key: factor for key, factor in {"a": a_RI, "b": b_OR}.items() if factor.requires_grad}
    with _training(layer):
        own = (layer(x) - base(x)).float()
    gradients = torch.autograd.grad(own.square().sum() / 2, [*trained.values()], allow_unused=True)
    product = (x.float() @ a_RI.float().T) @ b_OR.float().T
    scale = float((own.detach() * product.detach()).sum() / product.detach().square().sum())
    if error_of(own.detach(), (scale * product).detach()) > limit:
        return LowRank(is_lora=False, scale=scale)
    wanted = _gradients_of_lora(scale, x, a_RI, b_OR, [*trained])
    pairs = dict(zip(trained, zip(gradients, wanted, strict=True), strict=True))
    is_lora = all(mine is not None and error_of(mine, lora) <= limit for mine, lora in pairs.values())
    return LowRank(
        is_lora=is_lora,
        scale=scale,
        differs_by=None if is_lora else "passed: LoRA's function, with gradients of its own",
        a_RI=a_RI.detach(),
        b_OR=b_OR.detach(),
        gradients=pairs,
    )


def _gradients_of_lora(scale: float, x: Tensor, a_RI: Tensor, b_OR: Tensor, keys: list[str]) -> tuple[Tensor, ...]:
    """By copies of the factors, which no hook of the method's is on."""
    factors = {"a": a_RI.detach().clone().requires_grad_(), "b": b_OR.detach().clone().requires_grad_()}
    product = scale * ((x.float() @ factors["a"].float().T) @ factors["b"].float().T)
    return torch.autograd.grad(product.square().sum() / 2, [factors[key] for key in keys])


def _draw(layer: Any, base: Any, factors: tuple[nn.Parameter, nn.Parameter], size: float) -> None:
    """Random values for the factors that are trained, and every other trained tensor of the layer moved at random.

    The rows of a factor are of unlike length, as rows of other lengths may learn at other rates.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in _own_tensors(layer, base):
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            if tensor.requires_grad:
                is_factor = any(tensor is factor for factor in factors)
                rows_N = torch.linspace(0.5, 2, len(tensor)).to(tensor)[:, None] if is_factor else None
                tensor.copy_(tensor + noise * 0.1 if rows_N is None else noise * rows_N * size)


@contextmanager
def _training(layer: nn.Module) -> Iterator[None]:
    """The layer as it trains, but for its dropout: some variants of LoRA do something in training only."""
    modes = [(module, module.training) for module in layer.modules()]
    for module, _ in modes:
        module.training = "dropout" not in type(module).__name__.lower()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def error_of(mine: Tensor, lora: Tensor) -> float:
    """By how much of its size the second is off."""
    return float((mine - lora).norm() / lora.norm().clamp_min(1e-12))


def _layer_with_factors(bank: Bank, name: str) -> tuple[Any, Any, nn.Parameter, nn.Parameter] | None:
    """-> a layer, the base's layer in it, and its factors [r, I] and [O, r]"""
    for layer, base, (num_in, num_out) in bank.adapter_layers(name):
        matrices = [tensor for tensor in _own_tensors(layer, base) if tensor.ndim == 2]
        pairs = [
            (a_RI, b_OR)
            for a_RI in matrices
            for b_OR in matrices
            if a_RI is not b_OR and a_RI.shape[1] == num_in and tuple(b_OR.shape) == (num_out, a_RI.shape[0])
        ]
        if len(pairs) == 1:
            return layer, base, *pairs[0]
    return None


def _own_tensors(layer: Any, base: Any) -> list[nn.Parameter]:
    """The adapter's tensors in a layer."""
    of_base = {id(parameter) for parameter in base.parameters()}
    return [parameter for parameter in layer.parameters() if id(parameter) not in of_base]

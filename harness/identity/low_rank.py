"""Whether a layer of an adapter computes plain LoRA, s B A x with LoRA's gradients, whatever its tensors are called."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.banks.bank import Bank

_NUM_TOKENS = 8
_MAX_ERROR = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.08}  # of the size of what is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A layer with two factors, held against LoRA's."""

    is_lora: bool
    scale: float  # s, by least squares
    differs_by: str | None = None  # what of it isn't LoRA's


def low_rank_of(bank: Bank) -> LowRank | None:
    """Compares an adapted layer with s B A x at random factors, which it leaves there; None where none has such two."""
    found = _layer_with_factors(bank)
    if found is None:
        return None
    layer, base, a_RI, b_OR = found
    _draw(layer, base, a_RI, b_OR)
    dtype, limit = bank.dtype, _MAX_ERROR[bank.dtype]
    x = torch.randn(1, _NUM_TOKENS, a_RI.shape[1], generator=torch.Generator().manual_seed(1)).to(bank.device, dtype)
    trained = [factor for factor in (a_RI, b_OR) if factor.requires_grad]
    with _training(layer):
        own = (layer(x) - base(x)).float()
    gradients = torch.autograd.grad(own.square().sum() / 2, trained, allow_unused=True)
    product = (x.float() @ a_RI.float().T) @ b_OR.float().T
    scale = float((own.detach() * product.detach()).sum() / product.detach().square().sum())
    wanted = torch.autograd.grad((scale * product).square().sum() / 2, trained)
    if _error(own.detach(), (scale * product).detach()) > limit:
        return LowRank(is_lora=False, scale=scale)
    if any(mine is None or _error(mine, lora) > limit for mine, lora in zip(gradients, wanted, strict=True)):
        return LowRank(is_lora=False, scale=scale, differs_by="passed: LoRA's function, with gradients of its own")
    return LowRank(is_lora=True, scale=scale)


def _draw(layer: Any, base: Any, a_RI: nn.Parameter, b_OR: nn.Parameter) -> None:
    """Random values for the factors that are trained, and every other trained tensor of the layer moved at random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in _own_tensors(layer, base):
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            if tensor.requires_grad:
                is_factor = tensor is a_RI or tensor is b_OR
                tensor.copy_(noise * 0.1 if is_factor else tensor + noise * 0.1)


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


def _error(mine: Tensor, lora: Tensor) -> float:
    return float((mine - lora).norm() / lora.norm().clamp_min(1e-12))


def _layer_with_factors(bank: Bank) -> tuple[Any, Any, nn.Parameter, nn.Parameter] | None:
    """-> a layer, the base's layer in it, and its factors [r, I] and [O, r]"""
    for layer, base, (num_in, num_out) in bank.adapter_layers():
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

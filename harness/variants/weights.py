"""Which of a model's own weights learn: all (full finetuning), those of some blocks, or a half of each kind (HFT)."""

from collections.abc import Collection

import torch
from torch import nn

from harness.config.schema import AdapterConfig, AdapterMethod
from harness.methods.blocks import block_of, in_blocks
from harness.variants.hft import chosen_half

_HEADS = ("classifier", "score")  # a classification head is new, and always learns


def train_weights(model: nn.Module, config: AdapterConfig, seed: int) -> nn.Module:
    """Marks what learns by `requires_grad`, and all else as frozen. -> the model

    Args:
        model: with its own weights only.
        config: of a method that trains them.
        seed: of the run, by which HFT draws its half.

    Raises:
        ValueError: blocks that the model doesn't have.
    """
    if config.method is AdapterMethod.full and config.layers is None:
        return model.requires_grad_(True)
    modules = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    inside = [name for name in modules if block_of(f"{name}.") is not None]
    learning = set(in_blocks([f"{name}." for name in inside], config.layers))
    chosen = {name.rstrip(".") for name in learning}
    if config.method is AdapterMethod.hft:
        chosen = chosen_half(inside, config.layers, seed)
    model.requires_grad_(False)
    for name, module in model.named_modules():
        if name in chosen or name.partition(".")[0] in _HEADS:
            for parameter in module.parameters(recurse=name.partition(".")[0] in _HEADS):
                parameter.requires_grad_(True)
    return model


def cast_frozen(model: nn.Module, dtype: torch.dtype, apart: Collection[nn.Module]) -> None:
    """Puts frozen weights into the data type that is computed with, but for modules that compute in float32."""
    for module in set(model.modules()) - set(apart):
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

"""Quantizes a model that is whole in memory, one layer after another: the reference for `harness.models.reading`."""

import torch
from torch import nn

from harness.config.schema import QuantConfig, QuantMethod
from harness.nn.quant import linear_layers, quantize_linear
from harness.nn.shards import ShardedLayers, decoder_layers


def quantize_linear_layers(
    model: nn.Module, config: QuantConfig, device: torch.device, shards: ShardedLayers | None = None
) -> None:
    """Replaces every linear layer but lm_head in place, and shards the decoder layers afterwards."""
    for name, linear in list(linear_layers(model)) if config.method is not QuantMethod.none else ():
        model.set_submodule(name, quantize_linear(linear, config, device))
    for layer in decoder_layers(model) if shards is not None else ():
        assert shards is not None
        shards.add(layer)
    model.to(device)

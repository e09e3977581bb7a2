"""Finds the linear layers of a base that get an adapter, and quantizes them in place.

PEFT's wrappers may be around them already; then the layer under the wrapper is quantized.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from harness.config.schema import ALL_LINEAR, QuantConfig, QuantMethod
from harness.methods.blocks import in_blocks
from harness.methods.formats import format_of
from harness.models.reading import OnTheWay
from harness.nn.quant import LINEAR, as_linear, linear_layers, quantize_linear
from harness.variants.lq_rounding import SimulatedLinear, rounded

HEADS = ("classifier", "score")  # classification heads are trained whole, never quantized
_FLOAT_STORED = "wo"  # T5 casts what goes into it to its weight's dtype, which must not be uint8


def layer_names(model: nn.Module) -> list[str]:
    """Names of the linear layers that are quantized and adapted: all but the output layer and a classification head."""
    return [name for name, _ in linear_layers(model) if name.partition(".")[0] not in HEADS]


def resolve_targets(names: Sequence[str], wanted: Sequence[str], blocks: Sequence[int] | None = None) -> list[str]:
    """Full names of the layers that `adapter.targets` means: all-linear, last parts of names, or names.

    Args:
        names: of the linear layers.
        wanted: `adapter.targets`.
        blocks: `adapter.layers`: only what lies in them; None: all.

    Raises:
        ValueError: an entry that matches no linear layer, or a block that isn't there.
    """
    if list(wanted) == [ALL_LINEAR]:
        return in_blocks(names, blocks)
    last = {name.rsplit(".", 1)[-1] for name in names}
    if unknown := set(wanted) - last - set(names):
        raise ValueError(f"adapter.targets={sorted(unknown)}: no such linear layer; this model has {sorted(last)}")
    return in_blocks([name for name in names if name.rsplit(".", 1)[-1] in wanted or name in wanted], blocks)


def quantize_layers(
    model: nn.Module, names: Sequence[str], quant: QuantConfig, device: torch.device, keep_error: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Quantizes the named layers in place, under PEFT's wrappers if there are any, and moves the model to `device`.

    Returns:
        W - Q(W) of each layer in `keep_error`, [out, in] float32.
    """
    errors: dict[str, Tensor] = {}
    for name in names if quant.method is not QuantMethod.none else ():
        owner, child = _place(model, name)
        linear = owner.get_submodule(child)
        if type(linear) not in LINEAR:  # quantized when it was read
            continue
        weight = None
        if name in keep_error:
            weight = layer_weight(owner, child).detach().to(device=device, dtype=torch.float32, copy=True)
        quantized = _quantized(name, linear, quant, device)
        if weight is not None:
            errors[name] = weight - dequantize_module_weight(quantized).detach().float()
        setattr(owner, child, quantized)
    model.to(device)
    return errors


def simulate(model: nn.Module, formats: Mapping[str, str]) -> None:
    """Rounds layers in place, by name under PEFT's wrappers if there are any, to formats that have no kernel here.

    Args:
        model: in 16/32 bits.
        formats: the name of each layer's format (`harness.methods.formats`).
    """
    for name, kind in formats.items():
        owner, child = _place(model, name)
        linear = as_linear(owner.get_submodule(child))
        simulated = SimulatedLinear(linear.in_features, linear.out_features, bias=False, device="meta")
        simulated.weight = nn.Parameter(rounded(linear.weight.data, format_of(kind)), requires_grad=False)
        simulated.bias = linear.bias
        setattr(owner, child, simulated)


def quantization_of(weight_OI: Tensor, quant: QuantConfig, device: torch.device) -> Tensor:
    """-> the numbers that a layer of this weight has once it is quantized, [out, in] float32"""
    linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight_OI, requires_grad=False)
    numbers: Tensor = dequantize_module_weight(quantize_linear(linear, quant, device)).detach().float()
    return numbers


def quantizing(quant: QuantConfig, device: torch.device) -> OnTheWay:
    """Quantizes the layers of `layer_names` while a model is read, so that `quantize_layers` has nothing left to do."""
    return OnTheWay(names=layer_names, place=lambda name, linear: _quantized(name, linear, quant, device))


def layer_weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer by its full name."""
    weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
    return weight


def _quantized(name: str, linear: nn.Module, quant: QuantConfig, device: torch.device) -> nn.Module:
    quantized = quantize_linear(linear, quant, device)
    if name.rsplit(".", 1)[-1] == _FLOAT_STORED and quant.method is not QuantMethod.int8:
        _store_as(quantized, quantized.compute_dtype)  # type: ignore[arg-type]
    if quant.method is QuantMethod.int8:
        quantized.register_forward_pre_hook(_keep_scales)
    return quantized


def _store_as(layer: nn.Module, dtype: torch.dtype) -> None:
    """Views the packed bytes as another dtype, which bitsandbytes reads alike (its `quant_storage`)."""
    weight: Any = layer.weight
    weight.data = weight.data.flatten().view(dtype)[:, None]
    weight.quant_storage = dtype


def _keep_scales(layer: Any, _inputs: Any) -> None:
    """Restores an int8 weight's scales on a CPU, where PEFT's dequantizing (DoRA) drops them."""
    if layer.weight.SCB is None and layer.state.SCB is not None:
        layer.weight.CB = None


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """-> what holds a linear layer, and its name there: PEFT's wrapper, if it has one"""
    module = model.get_submodule(name)
    if isinstance(module, LoraLayer):
        return module, "base_layer"
    parent, _, child = name.rpartition(".")
    return (model.get_submodule(parent) if parent else model), child

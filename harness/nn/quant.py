"""Quantizes linear layers with bitsandbytes; `harness.models.reading` calls it layer by layer.

The output layer, embeddings and norms stay as they are (QLoRA section 5). transformers' integration is not used,
because it fixes the block size at 64, and block size is an axis of the grid.
Source: QLoRA section 3 (NF4, double quantization), LLM.int8 (arXiv 2208.07339).
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.config.schema import DType, QuantConfig, QuantMethod

LINEAR = (nn.Linear, Conv1D)  # the latter is GPT-2's, no convolution

MIN_QUANTIZED = 0.75  # of the weights between embeddings and output layer

TORCH_DTYPES = {
    DType.float32: torch.float32,
    DType.bfloat16: torch.bfloat16,
    DType.float16: torch.float16,
}


def quantize_linear(linear: nn.Module, config: QuantConfig, device: torch.device) -> nn.Module:
    """-> a bitsandbytes layer with the same weights, quantized, on `device`. A bias on the meta device stays there."""
    import bitsandbytes as bnb  # a second, for torch's compiler: an unquantized run starts without it

    linear = as_linear(linear)
    make = _int8_layer if config.method is QuantMethod.int8 else _four_bit_layer
    layer = make(bnb, linear, config, device)
    layer.bias = linear.bias
    if linear.bias is not None and not linear.bias.is_meta:
        linear.bias.data = linear.bias.data.to(device)
    return layer


def as_linear(layer: nn.Module) -> nn.Linear:
    """-> the layer itself, or for GPT-2's `Conv1D` (weight [in, out]) an equal `nn.Linear`."""
    if isinstance(layer, nn.Linear):
        return layer
    assert isinstance(layer, Conv1D)
    linear = nn.Linear(layer.nx, layer.nf, device="meta")
    linear.weight, linear.bias = nn.Parameter(layer.weight.data.T.contiguous()), layer.bias
    return linear


def features(layer: nn.Module) -> tuple[int, int]:
    """-> numbers of a linear layer's input and output features"""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]


def _int8_layer(bnb: Any, linear: nn.Linear, config: QuantConfig, device: torch.device) -> nn.Module:
    """An int8 layer; quantizes on the device, as `Int8Params.to` takes a weight that lies there for quantized."""
    from harness.nn.int8 import THRESHOLD, TokenwiseInt8

    layer: nn.Module = TokenwiseInt8(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=THRESHOLD,
        device="meta",
    )
    weight_OI = linear.weight.data.contiguous().to(device=device, dtype=torch.float16)
    int8_OI, scales_O, _ = bnb.functional.int8_vectorwise_quant(weight_OI)
    layer.weight = bnb.nn.Int8Params(int8_OI, requires_grad=False, has_fp16_weights=False, CB=int8_OI, SCB=scales_O)
    return layer


def _four_bit_layer(bnb: Any, linear: nn.Linear, config: QuantConfig, device: torch.device) -> nn.Module:
    layer: nn.Module = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=TORCH_DTYPES[config.compute_dtype],
        device="meta",
    )
    weight = bnb.nn.Params4bit(
        linear.weight.data,
        requires_grad=False,
        blocksize=config.block_size,
        compress_statistics=config.double_quant,
        quant_type=config.method.value,
        module=layer,
    )
    layer.weight = weight.to(device)
    # On CPUs with bf16 instructions bitsandbytes would repack the weights in place in inference mode and
    # compute in bfloat16: a run's scores would depend on the machine.
    layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return layer


def dequantized(layer: nn.Module) -> Tensor | None:
    """-> a 4-bit layer's weight [O, I] with the very numbers that its products are computed with; None for others.

    Layers of 8 bits are none of these: their forward pass multiplies the int8 numbers themselves.
    """
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return None
    import bitsandbytes as bnb

    compute_dtype: torch.dtype = layer.compute_dtype  # type: ignore[assignment]
    weight_OI: Tensor = bnb.functional.dequantize_4bit(layer.weight, state)
    return weight_OI.to(compute_dtype)


def float32_weight(layer: nn.Module) -> Callable[[], Tensor] | None:
    """-> what reads a frozen layer's weight [O, I], where its product is a plain one in float32; None for others."""
    if type(layer) in LINEAR and layer.weight.dtype is torch.float32:
        return lambda: layer.weight.T if isinstance(layer, Conv1D) else layer.weight  # type: ignore[return-value]
    if (
        getattr(layer.weight, "quant_state", None) is not None
        and getattr(layer, "compute_dtype", None) is torch.float32
    ):
        return lambda: cast(Tensor, dequantized(layer))
    return None


def linear_layers(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer by its name but the output layer, in the model's order, quantized ones included."""
    output = base.get_output_embeddings()  # type: ignore[operator]
    found = [(n, m) for n, m in base.named_modules() if isinstance(m, LINEAR) and m is not output]
    yield from found


def quantized_share(base: nn.Module) -> float:
    """-> the share of a model's weights that is stored in fewer bits, embeddings and output layer counted."""
    quantized, others = _num_weights(base)
    return quantized / max(1, quantized + others)


def require_quantized(base: nn.Module, where: object) -> None:
    """Refuses a model most of whose layers' weights are in no linear layer: quantization would not reach them.

    Raises:
        ValueError: names the share, and what the weights are in (experts fused to one tensor).
    """
    quantized, others = _num_weights(base)
    tables = {base.get_input_embeddings(), base.get_output_embeddings()}  # type: ignore[operator]
    others -= sum({id(p): p.numel() for table in tables if table for p in table.parameters()}.values())
    share = quantized / max(1, quantized + others)
    if share < MIN_QUANTIZED:
        large = max(
            ((name, p) for name, p in base.named_parameters() if p.is_floating_point()), key=lambda found: found[1].ndim
        )
        raise ValueError(
            f"{where}: quantization reaches {share:.0%} of its layers' weights, the others are in no linear layer "
            f"({large[0]}, of shape {list(large[1].shape)}: experts fused to one tensor): use quant=bf16 with "
            "adapter.targets that name its linear layers, or a dense model"
        )


def _num_weights(base: nn.Module) -> tuple[int, int]:
    """-> number of weights that are quantized, and number of all others; a shared weight counts once."""
    quantized, of_layers = 0, set[int]()
    for _, layer in linear_layers(base):
        if type(layer) not in LINEAR:
            inputs, outputs = features(layer)
            quantized += inputs * outputs
            of_layers |= {id(p) for name, p in layer.named_parameters(recurse=False) if name == "weight"}
    others = sum(p.numel() for p in base.parameters() if id(p) not in of_layers)
    return quantized, others

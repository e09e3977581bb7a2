"""Quantizes a linear layer with bitsandbytes; `harness.models.reading` brings one after another.

The output layer, embeddings and norms stay as they are (QLoRA section 5). Own layers instead
of transformers' integration because block size is an axis of the grid and that integration fixes it at 64.
Source: QLoRA section 3 (NF4, double quantization), LLM.int8 (arXiv 2208.07339).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.config.schema import DType, QuantConfig, QuantMethod

TORCH_DTYPES = {
    DType.float32: torch.float32,
    DType.bfloat16: torch.bfloat16,
    DType.float16: torch.float16,
}


def quantize_linear(linear: nn.Module, config: QuantConfig, device: torch.device) -> nn.Module:
    """-> a bitsandbytes layer with the same weights, quantized, on `device`. A bias without values stays so."""
    import bitsandbytes as bnb  # a second, for torch's compiler: an unquantized run starts without it

    assert isinstance(linear, nn.Linear)
    make = _int8_layer if config.method is QuantMethod.int8 else _four_bit_layer
    layer = make(bnb, linear, config, device)
    layer.bias = linear.bias
    if linear.bias is not None and not linear.bias.is_meta:
        linear.bias.data = linear.bias.data.to(device)
    return layer


def _int8_layer(bnb: Any, linear: nn.Linear, config: QuantConfig, device: torch.device) -> nn.Module:
    """Its weight is quantized on the device, where `Int8Params.to` would take one that is there for quantized."""
    layer: nn.Module = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=6.0,
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


def linear_layers(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer but the output layer, in the model's order, quantized ones included."""
    output = base.get_output_embeddings()  # type: ignore[operator]
    found = [(n, m) for n, m in base.named_modules() if isinstance(m, nn.Linear) and m is not output]
    yield from found

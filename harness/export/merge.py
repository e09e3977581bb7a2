"""Adds an adapter to its base and writes the whole model.

For a quantized base it is refused, because the merged model is not the one that was trained and scored, unless it is
forced: then the adapter is added to the dequantized weights, which are the ones it learned on.
Source: QLoRA (arXiv 2305.14314) section 3.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.schema import ModelKind, PathsConfig, QuantConfig, QuantMethod
from harness.export.base import base_folder
from harness.export.checks import ExportRefusedError
from harness.runs.record import RunRecord
from harness.runs.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def check_merge(spec: RunSpec, force: bool) -> None:
    """Raises ExportRefusedError for merges that make another model than the one that was trained."""
    if spec.model.kind is not ModelKind.causal:
        raise ExportRefusedError(
            f"model.kind={spec.model.kind.value}: only causal models are merged; leave --merge out"
        )
    if spec.quant.method is QuantMethod.none or force:
        return
    raise ExportRefusedError(
        f"--merge of an adapter that was trained on a {spec.quant.method.value} base: the adapter learned to correct "
        "the quantized weights, and was scored on them. Merged into 16-bit weights, or merged and quantized again, "
        "it is another model whose scores drift. Export the adapter (leave --merge out), or give --force-merge to "
        "add it to the dequantized weights, and measure the result"
    )


def write_merged(adapter: Path, folder: Path, record: RunRecord, spec: RunSpec, paths: PathsConfig) -> None:
    """Saves base + adapter as one checkpoint with its tokenizer, in the run's compute dtype.

    The base is the run's own: of a residual adapter less its start, of a quantized one rounded to its values.

    Raises:
        ExportRefusedError: the base isn't here, or isn't the one that the run was trained on.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.banks.loading import load_adapter
    from harness.nn.quant import TORCH_DTYPES

    checkpoint = base_folder(record, spec.model, paths)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=TORCH_DTYPES[spec.quant.compute_dtype])
    unquantized = replace(spec.quant, method=QuantMethod.none)
    adapted = load_adapter(model, adapter, unquantized, torch.device("cpu"), "CAUSAL_LM").model
    if spec.quant.method is not QuantMethod.none:
        round_to_quantized(model, spec.quant)
    adapted.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def round_to_quantized(model: "nn.Module", quant: QuantConfig) -> None:
    """Gives every quantizable linear layer of a base, in place, the values that it has once quantized."""
    import torch

    from harness.nn.quant import linear_layers, quantize_linear

    for name, linear in linear_layers(model):
        if ".lora_" in name:
            continue
        weight: Tensor = linear.weight  # type: ignore[assignment]
        copy = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        copy.weight = torch.nn.Parameter(weight.data.clone(), requires_grad=False)
        weight.data.copy_(dequantized(quantize_linear(copy, quant, torch.device("cpu"))))


def dequantized(layer: "nn.Module") -> "Tensor":
    """[out, in]: the weights that a bitsandbytes layer multiplies with (LLM.int8's outliers apart)."""
    import bitsandbytes as bnb

    weight: Any = layer.weight
    if isinstance(layer, bnb.nn.Linear8bitLt):
        values: Tensor = weight.CB.float() * weight.SCB[:, None] / 127
        return values
    values = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    return values

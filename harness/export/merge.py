"""Adds an adapter to its base and writes the whole model.

For a quantized base it is refused, because the merged model is not the one that was trained and scored, unless it is
forced: then the adapter is added to the dequantized weights, which are the ones it learned on. What was written is read
again and held against what the run's own bank computes, before anybody gets it.
Source: QLoRA (arXiv 2305.14314) section 3.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.schema import ModelKind, PathsConfig, QuantConfig, QuantMethod
from harness.export.base import base_folder
from harness.export.checks import ExportRefusedError
from harness.runs.adapter_files import bank_method
from harness.runs.record import RunRecord
from harness.runs.spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_INT8_ERROR = 0.1  # LLM.int8 rounds its inputs too, to a 127th of the largest, which no merged weight can do


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
        ExportRefusedError: the base isn't here, or isn't the one that the run was trained on; the merged model computes
            something else than the run's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.banks.adapters.loading import load_adapter
    from harness.nn.quant import TORCH_DTYPES

    checkpoint = base_folder(record, spec.model, paths)
    trained = _trained_logits(checkpoint, adapter, spec.quant)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=TORCH_DTYPES[spec.quant.compute_dtype])
    unquantized = replace(spec.quant, method=QuantMethod.none)
    adapted = load_adapter(model, adapter, unquantized, torch.device("cpu"), "CAUSAL_LM").model
    if spec.quant.method is not QuantMethod.none:
        round_to_quantized(model, spec.quant)
    adapted.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    _require_trained(folder, adapter, trained, spec.quant)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logits:
    """What the run's own bank computes for two short sequences."""

    sequences: "list[Tensor]"  # [1, T] each
    logits_NV: "Tensor"  # one behind the other


def _trained_logits(checkpoint: Path, adapter: Path, quant: QuantConfig) -> _Logits:
    import torch

    from harness.banks.load import make_bank
    from harness.nn.batch import Segment
    from harness.nn.rows import trial_sequences

    bank = make_bank(checkpoint, ModelKind.causal, bank_method(adapter), quant, torch.device("cpu"))
    bank.load_member("merged", adapter)
    bank.eval()
    sequences = trial_sequences(bank.base)
    segments = [Segment(num_tokens=ids_1T.shape[1], member="merged") for ids_1T in sequences]
    with torch.no_grad():
        hidden_1ND = bank(torch.cat(sequences, dim=1), segments)
        return _Logits(sequences=sequences, logits_NV=bank.logits(hidden_1ND[0]))


def _require_trained(folder: Path, adapter: Path, trained: _Logits, quant: QuantConfig) -> None:
    """Raises ExportRefusedError where a written model isn't the trained one up to rounding."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.nn.quant import TORCH_DTYPES
    from harness.nn.rows import MAX_ERRORS, difference

    dtype = TORCH_DTYPES[quant.compute_dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        merged_NV = torch.cat([model(input_ids=ids_1T, use_cache=False).logits[0] for ids_1T in trained.sequences])
    limit = MAX_ERRORS[dtype] if quant.method is not QuantMethod.int8 else max(MAX_ERRORS[dtype], _INT8_ERROR)
    if (unlike := difference(merged_NV, trained.logits_NV, limit)) is not None:
        raise ExportRefusedError(
            f"{adapter}: merged into its base it is not the model that was trained and scored: {unlike}. Export the "
            "adapter (leave --merge out)"
        )


def round_to_quantized(model: "nn.Module", quant: QuantConfig) -> None:
    """Gives every quantizable linear layer of a base, in place, the values that it has once quantized."""
    import torch

    from harness.nn.quant import linear_layers, quantize_linear
    from harness.variants.lq_rounding import SimulatedLinear

    for name, linear in linear_layers(model):
        if ".lora_" in name or isinstance(linear, SimulatedLinear):  # is rounded already
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

"""An adapter of PEFT's own layers over one model: what it holds and how it is saved.

DoRA and EVA leave the base as it is. So does LoftQ as used here: one round, in which the adapter starts at the rank-r
part of the quantization error, so that the saved adapter loads on the plain quantized base.
PiSSA, OLoRA, CorDA and LoRA-GA move part of the weights into the adapter:

    W = W_res + s B0 A0,  trained: W_res + s B A = W + s (B A - B0 A0)

PEFT's start runs on the 16/32-bit weights (`harness.banks.adapters.starts`); then W_res is quantized. Saved is PEFT's
own conversion, a plain LoRA of rank 2 r, [A; A0] and [B, -B0]. On a float32 base any PEFT program computes with it what
was trained, on a 16-bit one up to W_res's rounding. On a quantized one, Q(W) + s (B A - B0 A0) is not Q(W_res) + s B A:
so `residual.json` marks the folder, and `harness.banks.adapters.loading` rebuilds W_res from the original weights,
exactly. A plain PEFT load on Q(W) is off by a quantization error.

Source: PEFT 0.21 (`LoraModel.subtract_mutated_init`), PiSSA (arXiv 2404.02948) section 4.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from safetensors.torch import save
from torch import Tensor, nn

from harness.config.schema import AdapterMethod, DType, QuantConfig
from harness.files.atomic import write_atomically
from harness.nn.masters import hold_in_float32
from harness.nn.quant import TORCH_DTYPES
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PEFT_PREFIX, RESIDUAL_FILE

ADAPTER = "default"  # the one adapter's name within PEFT; the bank's member name stays outside


@dataclass(slots=True, kw_only=True)
class Started:
    """A model with its one adapter."""

    model: PeftModel
    method: AdapterMethod
    initial: dict[str, Tensor] = field(default_factory=dict)  # A0 and B0 by their names in PEFT's file
    served: dict[str, Any] = field(default_factory=dict)  # of a loaded one: other fields that change its result
    formats: dict[str, str] = field(default_factory=dict)  # of layers that LQ-LoRA stores each in one of its own


def save_adapter(started: Started, folder: Path, base_model: str, revision: str) -> str:
    """Writes PEFT's two files, the weights last. -> sha256 of the weights."""
    tensors = adapter_tensors(started.model)
    description = _plain_config(started.model.peft_config[ADAPTER])
    description |= {"base_model_name_or_path": base_model, "revision": revision, "inference_mode": True}
    folder.mkdir(parents=True, exist_ok=True)
    if started.initial:
        tensors = converted(tensors, started.initial)
        description |= {"r": 2 * description["r"], "lora_alpha": 2 * description["lora_alpha"]}
        about: dict[str, Any] = {
            "schema_version": 1,
            "method": started.method.value,
            "about": "converted to plain LoRA: rows 0..r-1 of A are trained, the others are A0; columns of B alike, "
            "with -B0. Exact on a float32 base, on a 16-bit one up to rounding. On a quantized base this run's own "
            "base was Q(W - s B0 A0): harness.banks.adapters.loading rebuilds it; plain PEFT on Q(W) is a quantization "
            "error off.",
        }
        if started.formats:
            about |= {"schema_version": 2, "formats": started.formats}
        write_atomically(folder / RESIDUAL_FILE, json.dumps(about, indent=2))
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata={"format": "pt"})
    write_atomically(folder / ADAPTER_CONFIG, json.dumps(description, indent=2, sort_keys=True))
    write_atomically(folder / ADAPTER_WEIGHTS, data)
    return hashlib.sha256(data).hexdigest()


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The tensors that PEFT saves, whole: AdaLoRA's pruned triplets stay in as zeros, so ranks need no pattern."""
    config = model.peft_config[ADAPTER]
    pattern = getattr(config, "rank_pattern", None)
    pruned = config.peft_type is PeftType.ADALORA and pattern is not None
    if pruned:
        config.rank_pattern = None
    try:
        tensors: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    finally:
        if pruned:
            config.rank_pattern = pattern
    return {name: tensors[name] for name in _once(tensors)}


def _once(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors without those that show another one's memory: RandLoRA's layers share two matrices."""
    first: dict[tuple[Any, ...], str] = {}
    for name in sorted(tensors, key=len):
        tensor = tensors[name]
        view = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() and not tensor.is_meta else (name,)
        first.setdefault(view, name)
    kept = set(first.values())
    return [name for name in tensors if name in kept]


def hold_adapter_in_float32(model: PeftModel, quant: QuantConfig) -> None:
    """Keeps what is trained, heads included, in float32; A and B of a layer compute in the dtype of its input.

    PEFT keeps A and B in float32 too, but casts the input up to them: activations of twice the size. It leaves heads in
    the base's dtype, and starts DoRA's magnitudes from norms rounded to it.
    """
    apart: list[nn.Module] = [
        part
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and (not isinstance(layer, LoraLayer) or isinstance(layer, AdaLoraLayer))
        for part in layer.modules()
    ]  # PEFT's other methods compute in the dtype that they choose
    for layer in (m for m in model.modules() if isinstance(m, LoraLayer) and not isinstance(m, AdaLoraLayer)):
        layer.cast_input_dtype_enabled = False
        weight = getattr(layer.get_base_layer(), "weight", None)  # a mixture's experts have none of that name
        if weight is not None and weight.dtype is torch.float32:
            apart += layer.modules()
        has_magnitudes = ADAPTER in layer.lora_magnitude_vector and ADAPTER in layer.lora_A  # no embedding
        if has_magnitudes and quant.compute_dtype is not DType.float32:
            layer.lora_magnitude_vector[ADAPTER] = _magnitudes(layer)
            apart.append(layer.lora_magnitude_vector[ADAPTER])
    hold_in_float32(model.get_base_model(), TORCH_DTYPES[quant.compute_dtype], apart)


def residual(weight_OI: Tensor, initial: dict[str, Tensor], name: str, scale: float) -> Tensor:
    """-> W - s B0 A0 of one layer, in W's dtype; the same bits whenever it is computed."""
    a_RI = initial[f"{PEFT_PREFIX}{name}.lora_A.weight"].to(weight_OI.device).float()
    b_OR = initial[f"{PEFT_PREFIX}{name}.lora_B.weight"].to(weight_OI.device).float()
    return (weight_OI.float() - scale * (b_OR @ a_RI)).to(weight_OI.dtype)


def converted(tensors: dict[str, Tensor], initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """Writes s (B A - B0 A0) as one adapter of rank 2 r; leaves other tensors (a head) as they are."""
    out = dict(tensors)
    for key, start_value in initial.items():
        first = tensors[key].detach()
        is_a = ".lora_A." in key
        out[key] = torch.cat([first, start_value.to(first) * (1 if is_a else -1)], dim=0 if is_a else 1)
    return out


def split(tensors: dict[str, Tensor], r: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reverse of `converted`. -> trained tensors, initial tensors"""
    trained, initial = dict(tensors), dict[str, Tensor]()
    for key, value in tensors.items():
        if ".lora_A." in key:
            trained[key], initial[key] = value[:r], value[r:]
        elif ".lora_B." in key:
            trained[key], initial[key] = value[:, :r], -value[:, r:]
    return trained, initial


class _Magnitudes(DoraLinearLayer):  # type: ignore[misc]
    """DoRA's magnitudes. Their division by the norms of W + s B A stays in 32 bits: |m / norm - 1| starts at 0."""

    def get_weight_norm(
        self, weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None
    ) -> Tensor:
        norms: Tensor = super().get_weight_norm(weight.float(), lora_weight.float(), scaling)
        return norms


def _magnitudes(layer: Any) -> _Magnitudes:
    made = _Magnitudes(fan_in_fan_out=layer.fan_in_fan_out)
    made.update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER].weight,
        lora_B=layer.lora_B[ADAPTER].weight,
        scaling=layer.scaling[ADAPTER],
    )
    return made


def _plain_config(lora: PeftConfig) -> dict[str, Any]:
    """The config without how the adapter started, which is over, and which PEFT would do again."""
    started_by = ("eva_config", "corda_config", "lora_ga_config", "loftq_config")
    values = {key: value for key, value in lora.to_dict().items() if key not in started_by}
    if lora.peft_type is PeftType.LORA:
        values["init_lora_weights"] = True
    if lora.peft_type is PeftType.ADALORA:
        values["rank_pattern"] = None  # its tensors are whole
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}

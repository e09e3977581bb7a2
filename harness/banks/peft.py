"""How an adapter that PEFT ships starts on a base, is saved and is read again: the weights' side of a bank.

DoRA and EVA leave the base as it is. LoftQ as used here too: one round, the adapter starting at the rank-r part of
the quantization error, so that what is saved loads on the plain quantized base.
PiSSA, OLoRA, CorDA and LoRA-GA move part of the weights into the adapter:

    W = W_res + s B0 A0,  trained: W_res + s B A = W + s (B A - B0 A0)

PEFT's start runs on the 16/32-bit weights; then W_res is quantized. Saved is PEFT's own conversion, a plain LoRA
of rank 2 r, [A; A0] and [B, -B0]. On a float32 base any PEFT program computes with it what was trained, on a
16-bit one up to W_res's rounding. On a quantized one, Q(W) + s (B A - B0 A0) is not Q(W_res) + s B A: so
`residual.json` marks the folder, and `load_adapter` rebuilds W_res from the original weights, exactly. A plain PEFT
load on Q(W) is off by a quantization error.

Source: PEFT 0.21 (`LoraLayer.update_layer`, `LoraModel.subtract_mutated_init`), PiSSA (arXiv 2404.02948) section 4,
LoftQ (arXiv 2310.08659) algorithm 1 with T = 1.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import (
    EvaConfig,
    LoraConfig,
    LoraGAConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.banks.shared import ALL_LINEAR
from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod
from harness.files.atomic import write_atomically
from harness.models.reading import OnTheWay
from harness.nn.masters import hold_in_float32
from harness.nn.quant import TORCH_DTYPES, linear_layers, quantize_linear
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from harness.runs.compatibility import CALIBRATED_METHODS, RESIDUAL_METHODS, rank_problem

ADAPTER = "default"  # the one adapter's name within PEFT; the bank's member name stays outside
RESIDUAL_FILE = "residual.json"
HEADS = ("classifier", "score")  # classification heads are trained whole, never quantized
_FLOAT_STORED = "wo"  # T5 casts what goes into it to its weight's dtype, which must not be uint8

_MAX_EVA_PASSES = 200
_PEFT_PREFIX = "base_model.model."

Calibration = Callable[[nn.Module, bool], None]  # runs the examples through a model; True: backward too


@dataclass(slots=True, kw_only=True)
class Started:
    """A model with its one adapter."""

    model: PeftModel
    method: AdapterMethod
    initial: dict[str, Tensor] = field(default_factory=dict)  # A0 and B0 by their names in PEFT's file


def start(
    model: nn.Module,
    config: AdapterConfig,
    quant: QuantConfig,
    device: torch.device,
    task_type: str,
    calibrate: Calibration | None,
) -> Started:
    """Wraps a 16/32-bit model, quantizes it and starts the adapter. Draws from torch's generator: seed it first.

    Args:
        model: in 16/32 bits, on any device, or with its layers quantized already; changed in place.
        config: any method but none and full.
        quant: `none` only moves the model.
        device: where the model goes; methods that change the weights need room there for the 16/32-bit model.
        task_type: PEFT's: CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS.
        calibrate: needed by EVA, CorDA and LoRA-GA.

    Raises:
        ValueError: targets that are not there, a rank too large, no calibration examples.
    """
    names = layer_names(model)
    wanted = resolve_targets(names, config.targets)
    _check_rank(model, wanted, config)
    if config.method in CALIBRATED_METHODS and calibrate is None:
        raise ValueError(
            f"adapter.method={config.method.value} starts from data: give the bank examples first (bank.calibrate)"
        )
    lora = lora_config(config, wanted, names, task_type)
    if config.method in RESIDUAL_METHODS:
        return _start_residual(model, lora, config, quant, device, calibrate, names, wanted)
    errors = quantize_layers(model, names, quant, device, wanted if config.method is AdapterMethod.loftq else ())
    peft_model = get_peft_model(model, lora, low_cpu_mem_usage=config.method is AdapterMethod.eva)  # EVA makes its own
    if config.method is AdapterMethod.loftq:
        _start_loftq(peft_model, errors, config.lora_r)
    elif config.method is AdapterMethod.eva:
        assert calibrate is not None
        _start_eva(peft_model, calibrate)
    _hold_in_float32(peft_model, quant)
    return Started(model=peft_model, method=config.method)


def save_adapter(started: Started, folder: Path, base_model: str, revision: str) -> str:
    """Writes PEFT's two files, the weights last. -> sha256 of the weights."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        started.model, adapter_name=ADAPTER, save_embedding_layers=False
    )
    description = _plain_config(started.model.peft_config[ADAPTER])
    description |= {"base_model_name_or_path": base_model, "revision": revision, "inference_mode": True}
    folder.mkdir(parents=True, exist_ok=True)
    if started.initial:
        tensors = _converted(tensors, started.initial)
        description |= {"r": 2 * description["r"], "lora_alpha": 2 * description["lora_alpha"]}
        about = {
            "schema_version": 1,
            "method": started.method.value,
            "about": "converted to plain LoRA: rows 0..r-1 of A are trained, the others are A0; columns of B alike, "
            "with -B0. Exact on a float32 base, on a 16-bit one up to rounding. On a quantized base this run's own "
            "base was Q(W - s B0 A0): harness.banks.causal rebuilds it; plain PEFT on Q(W) is a quantization "
            "error off.",
        }
        write_atomically(folder / RESIDUAL_FILE, json.dumps(about, indent=2))
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata={"format": "pt"})
    write_atomically(folder / ADAPTER_CONFIG, json.dumps(description, indent=2, sort_keys=True))
    write_atomically(folder / ADAPTER_WEIGHTS, data)
    return hashlib.sha256(data).hexdigest()


def saved_method(folder: Path) -> AdapterMethod:
    """Which method `save_adapter` wrote; LoRA where the base's weights were left as they are."""
    about = folder / RESIDUAL_FILE
    return AdapterMethod(json.loads(about.read_text())["method"]) if about.is_file() else AdapterMethod.lora


def load_adapter(model: nn.Module, folder: Path, quant: QuantConfig, device: torch.device) -> Started:
    """Rebuilds what `save_adapter` wrote, or reads any LoRA adapter in PEFT's format.

    Raises:
        ValueError: not a LoRA adapter, or one made for another base.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{folder}: no {ADAPTER_CONFIG}; expected a folder written by PEFT or by a run")
    lora = PeftConfig.from_pretrained(str(folder))
    if not isinstance(lora, LoraConfig):
        raise ValueError(f"{folder / ADAPTER_CONFIG}: peft_type {lora.peft_type}; only LoRA and its variants are read")
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    about = folder / RESIDUAL_FILE
    method, initial = AdapterMethod.dora if lora.use_dora else AdapterMethod.lora, dict[str, Tensor]()
    names = layer_names(model)
    if about.is_file():
        method = saved_method(folder)
        lora.r, lora.lora_alpha = lora.r // 2, lora.lora_alpha // 2
        tensors, initial = _split(tensors, lora.r)
        model.to(device)
        for name in (key.removesuffix(".lora_A.weight") for key in initial if key.endswith(".lora_A.weight")):
            name = name.removeprefix(_PEFT_PREFIX)
            weight = _weight(model, name)
            weight.data = _residual(weight.data, initial, name, lora.lora_alpha / lora.r)
    origin, lora.base_model_name_or_path = lora.base_model_name_or_path, None  # else PEFT warns that it is a hub id
    lora.init_lora_weights = False
    lora.inference_mode = False  # else nothing of the adapter counts as the member's
    quantize_layers(model, names, quant, device)
    try:
        peft_model = get_peft_model(model, lora)
    except ValueError as error:  # PEFT's report that none of the adapter's layers is there
        raise ValueError(f"{folder}: doesn't fit this base model; it was made for {origin}") from error
    _hold_in_float32(peft_model, quant)
    try:
        unknown = set_peft_model_state_dict(peft_model, tensors, adapter_name=ADAPTER).unexpected_keys
    except RuntimeError as error:  # torch's report of shapes that differ
        raise ValueError(f"{folder}: doesn't fit this base model; it was made for {origin}") from error
    if unknown or not tensors:
        raise ValueError(f"{folder}: {unknown[:3]} is not in this base model; it was made for {origin}")
    return Started(model=peft_model, method=method, initial=initial)


def lora_config(config: AdapterConfig, wanted: Sequence[str], names: Sequence[str], task_type: str) -> LoraConfig:
    """PEFT's config of a method, its targets spelled out."""
    start_by: dict[AdapterMethod, dict[str, Any]] = {
        AdapterMethod.rslora: {"use_rslora": True},
        AdapterMethod.dora: {"use_dora": True},
        AdapterMethod.pissa: {"init_lora_weights": "pissa"},
        AdapterMethod.olora: {"init_lora_weights": "olora"},
        AdapterMethod.corda: {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="ipm")},
        AdapterMethod.eva: {"init_lora_weights": "eva", "eva_config": EvaConfig()},
        AdapterMethod.lora_ga: {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig()},
    }
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout or 0.0,
        target_modules=short_names(wanted, names),
        bias="none",
        task_type=task_type,
        **start_by.get(config.method, {}),
    )


def layer_names(model: nn.Module) -> list[str]:
    """The linear layers that are quantized and adapted: all but the output layer and a classification head."""
    return [name for name, _ in linear_layers(model) if name.partition(".")[0] not in HEADS]


def resolve_targets(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Full names of the layers that `adapter.targets` means: all-linear, last parts of names, or names.

    Raises:
        ValueError: an entry that matches no linear layer.
    """
    if list(wanted) == [ALL_LINEAR]:
        return list(names)
    last = {name.rsplit(".", 1)[-1] for name in names}
    if unknown := set(wanted) - last - set(names):
        raise ValueError(f"adapter.targets={sorted(unknown)}: no such linear layer; this model has {sorted(last)}")
    return [name for name in names if name.rsplit(".", 1)[-1] in wanted or name in wanted]


def short_names(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The last parts of the wanted names where those mean the same layers, else the names themselves.

    A last part that a head also has (RoBERTa's `dense`) would reach into it, so short ones are for layers only.
    """
    last = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    meant = [name for name in names if name.rsplit(".", 1)[-1] in last]
    return last if meant == list(wanted) and "dense" not in last else list(wanted)


def quantize_layers(
    model: nn.Module, names: Sequence[str], quant: QuantConfig, device: torch.device, keep_error: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Quantizes the named layers in place, PEFT's wrappers staying around them, and moves all to `device`.

    Returns:
        W - Q(W) of each layer in `keep_error`, [out, in] float32.
    """
    errors: dict[str, Tensor] = {}
    for name in names if quant.method is not QuantMethod.none else ():
        module = model.get_submodule(name)
        owner, child = (module, "base_layer") if isinstance(module, LoraLayer) else _parent(model, name)
        linear = owner.get_submodule(child)
        if type(linear) is not nn.Linear:  # quantized when it was read
            continue
        weight = None
        if name in keep_error:
            weight = _weight(owner, child).detach().to(device=device, dtype=torch.float32, copy=True)
        quantized = _quantized(name, linear, quant, device)
        if weight is not None:
            errors[name] = weight - dequantize_module_weight(quantized).detach().float()
        setattr(owner, child, quantized)
    model.to(device)
    return errors


def quantizing(quant: QuantConfig, device: torch.device) -> OnTheWay:
    """Quantizes the layers that `layer_names` has while a model is read; `quantize_layers` finds nothing to do then."""
    return OnTheWay(names=layer_names, place=lambda name, linear: _quantized(name, linear, quant, device))


def _quantized(name: str, linear: nn.Module, quant: QuantConfig, device: torch.device) -> nn.Module:
    quantized = quantize_linear(linear, quant, device)
    if name.rsplit(".", 1)[-1] == _FLOAT_STORED and quant.method is not QuantMethod.int8:
        _store_as(quantized, quantized.compute_dtype)  # type: ignore[arg-type]
    if quant.method is QuantMethod.int8:
        quantized.register_forward_pre_hook(_keep_scales)
    return quantized


def _start_residual(
    model: nn.Module,
    lora: LoraConfig,
    config: AdapterConfig,
    quant: QuantConfig,
    device: torch.device,
    calibrate: Calibration | None,
    names: Sequence[str],
    wanted: Sequence[str],
) -> Started:
    model.to(device)
    if config.method is AdapterMethod.corda:
        assert calibrate is not None
        preprocess_corda(model, lora, run_model=lambda: calibrate(model, False))
    elif config.method is AdapterMethod.lora_ga:
        assert calibrate is not None
        with warnings.catch_warnings():  # of the first layer, whose input has no gradient and needs none
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            preprocess_loraga(model, lora, lambda: calibrate(model, True))
    originals = {name: _weight(model, name).detach().to("cpu", copy=True) for name in wanted}
    peft_model = get_peft_model(model, lora)
    initial = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER, save_embedding_layers=False)
    initial = {key: value.detach().clone() for key, value in initial.items() if ".lora_" in key}
    # PEFT rounds A and B to the base's dtype after it has subtracted them: subtract what is really there
    for name in wanted:
        layer: Any = model.get_submodule(name)
        layer.base_layer.weight.data = _residual(originals.pop(name).to(device), initial, name, layer.scaling[ADAPTER])
    quantize_layers(model, names, quant, device)
    _hold_in_float32(peft_model, quant)
    return Started(model=peft_model, method=config.method, initial=initial)


def _start_loftq(model: PeftModel, errors: dict[str, Tensor], r: int) -> None:
    """A and B from the error's first r singular values, s B A being the error; PEFT leaves the scale s out."""
    for name, error_OI in errors.items():
        layer: Any = model.base_model.model.get_submodule(name)
        u_OR, s_R, v_RI = torch.linalg.svd(error_OI, full_matrices=False)
        root_R = (s_R[:r] / layer.scaling[ADAPTER]).sqrt()
        layer.lora_A[ADAPTER].weight.data = (root_R[:, None] * v_RI[:r]).contiguous()
        layer.lora_B[ADAPTER].weight.data = (u_OR[:, :r] * root_R).contiguous()


def _start_eva(model: PeftModel, calibrate: Calibration) -> None:
    base, passes = model.get_base_model(), iter(range(_MAX_EVA_PASSES))

    def forward(_model: nn.Module, _inputs: dict[str, Any]) -> None:
        if next(passes, None) is None:
            raise ValueError(
                f"adapter.method=eva: its components didn't settle in {_MAX_EVA_PASSES} passes over the calibration "
                "examples; use a smaller adapter.lora_r, more data, or adapter=lora"
            )
        calibrate(base, False)

    initialize_lora_eva_weights(
        model,
        dataloader=[{}],
        forward_fn=forward,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        adapter_name=ADAPTER,
        show_progress_bar=False,
    )


class _Magnitudes(DoraLinearLayer):  # type: ignore[misc]
    """DoRA's, whose division by the norms of W + s B A must not be rounded to 16 bits: |m / norm - 1| starts at 0."""

    def get_weight_norm(
        self, weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None
    ) -> Tensor:
        norms: Tensor = super().get_weight_norm(weight.float(), lora_weight.float(), scaling)
        return norms


def _hold_in_float32(model: PeftModel, quant: QuantConfig) -> None:
    """What is trained, heads included, is float32; a layer's A and B compute in the dtype of what goes into it.

    PEFT keeps A and B in float32 too, but casts the input up to them: activations of twice the size. It leaves heads in
    the base's dtype, and starts DoRA's magnitudes from norms rounded to it.
    """
    apart: list[nn.Module] = []
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        layer.cast_input_dtype_enabled = False
        if layer.get_base_layer().weight.dtype is torch.float32:
            apart += layer.modules()
        if ADAPTER in layer.lora_magnitude_vector and quant.compute_dtype is not DType.float32:
            layer.lora_magnitude_vector[ADAPTER] = _magnitudes(layer)
            apart.append(layer.lora_magnitude_vector[ADAPTER])
    hold_in_float32(model.get_base_model(), TORCH_DTYPES[quant.compute_dtype], apart)


def _magnitudes(layer: Any) -> _Magnitudes:
    made = _Magnitudes(fan_in_fan_out=False)
    made.update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER].weight,
        lora_B=layer.lora_B[ADAPTER].weight,
        scaling=layer.scaling[ADAPTER],
    )
    return made


def _residual(weight_OI: Tensor, initial: dict[str, Tensor], name: str, scale: float) -> Tensor:
    """-> W - s B0 A0 of one layer, in W's dtype; the same bits whenever it is computed."""
    a_RI = initial[f"{_PEFT_PREFIX}{name}.lora_A.weight"].to(weight_OI.device).float()
    b_OR = initial[f"{_PEFT_PREFIX}{name}.lora_B.weight"].to(weight_OI.device).float()
    return (weight_OI.float() - scale * (b_OR @ a_RI)).to(weight_OI.dtype)


def _converted(tensors: dict[str, Tensor], initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """s (B A - B0 A0) as one adapter of rank 2 r; other tensors (a head) as they are."""
    out = dict(tensors)
    for key, start_value in initial.items():
        first = tensors[key].detach()
        is_a = ".lora_A." in key
        out[key] = torch.cat([first, start_value.to(first) * (1 if is_a else -1)], dim=0 if is_a else 1)
    return out


def _split(tensors: dict[str, Tensor], r: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reverse of `_converted`: trained tensors, initial ones."""
    trained, initial = dict(tensors), dict[str, Tensor]()
    for key, value in tensors.items():
        if ".lora_A." in key:
            trained[key], initial[key] = value[:r], value[r:]
        elif ".lora_B." in key:
            trained[key], initial[key] = value[:, :r], -value[:, r:]
    return trained, initial


def _plain_config(lora: LoraConfig) -> dict[str, Any]:
    """What a reader needs: how it started doesn't matter any more, and PEFT would start it again."""
    started_by = ("eva_config", "corda_config", "lora_ga_config", "loftq_config")
    values = {key: value for key, value in lora.to_dict().items() if key not in started_by}
    values["init_lora_weights"] = True
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def _check_rank(model: nn.Module, wanted: Sequence[str], config: AdapterConfig) -> None:
    layers: list[Any] = [model.get_submodule(name) for name in wanted]
    sides = [min(layer.in_features, layer.out_features) for layer in layers]  # a quantized weight's own shape is packed
    if problem := rank_problem(config, min(sides)):
        raise ValueError(problem)


def _store_as(layer: nn.Module, dtype: torch.dtype) -> None:
    """The same packed bytes under another dtype; bitsandbytes reads them alike (its `quant_storage`)."""
    weight: Any = layer.weight
    weight.data = weight.data.flatten().view(dtype)[:, None]
    weight.quant_storage = dtype


def _keep_scales(layer: Any, _inputs: Any) -> None:
    """On a CPU, PEFT's dequantizing (DoRA) leaves an int8 weight without scales, which the layer would then take."""
    if layer.weight.SCB is None and layer.state.SCB is not None:
        layer.weight.CB = None


def _weight(model: nn.Module, name: str) -> Tensor:
    weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
    return weight


def _parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return (model.get_submodule(parent) if parent else model), child

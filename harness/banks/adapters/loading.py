"""Loads an adapter in PEFT's format into a model, whether one of our runs or another program saved it.

Every tensor of the file and every field of `adapter_config.json` is used, or the load is refused and names it: PEFT
itself only warns of tensors that it has no place for, and draws at random what the file lacks. The result computes what
`PeftModel.from_pretrained` computes (tests/unit/harness/banks/test_loading.py).

Source: PEFT 0.21, `set_peft_model_state_dict`, `PeftModel.load_adapter`.
"""

import dataclasses
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.banks.adapters.any_peft import other_fields, wrapped
from harness.banks.adapters.layers import layer_names, layer_weight, quantize_layers, simulate
from harness.banks.adapters.peft import ADAPTER, Started, adapter_tensors, hold_adapter_in_float32, residual, split
from harness.config.schema import AdapterMethod, QuantConfig
from harness.runs.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    DEFAULT_ALPHA,
    DEFAULT_RANK,
    LORA,
    PEFT_PREFIX,
    RESIDUAL_FILE,
    RESIDUAL_STARTS,
    listed,
    read_peft_config,
    require_finite,
    require_lora,
    saved_formats,
    saved_method,
    serving_fields,
    tensor_shapes,
)

# How the start was computed, which is over; and what is only for a process that trains
_OF_THE_START = ("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """An adapter's tensors by their names in the file.

    Raises:
        ValueError: no such file, a damaged one, one without LoRA's tensors, or numbers that aren't finite.
    """
    path = folder / (ADAPTER_PICKLE if tensor_shapes(folder) is None else ADAPTER_WEIGHTS)
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); copy it anew") from error
    require_lora(path, tensors)
    require_finite(path, tensors)
    return tensors


def load_adapter(model: nn.Module, folder: Path, quant: QuantConfig, device: torch.device, task_type: str) -> Started:
    """Rebuilds what `harness.banks.adapters.peft.save_adapter` wrote, or reads any LoRA adapter in PEFT's format.

    Args:
        model: in 16/32 bits where `starts_from_weights` says so, else quantized already perhaps; changed in place.
        folder: of the adapter.
        quant: how the base's layers are stored.
        device: where it all goes.
        task_type: PEFT's name of what the model does.

    Raises:
        ValueError: an adapter of another kind or for another base, or with parts that have no place here.
    """
    saved = read_peft_config(folder, task_type)
    if saved["peft_type"] != LORA:
        return _load_other(model, folder, saved, quant, device)
    tensors, initial = read_tensors(folder), dict[str, Tensor]()
    lora, formats = _lora_config(folder, saved), saved_formats(folder)
    names = [name for name in layer_names(model) if not _is_saved_whole(name, lora.modules_to_save or ())]
    if (folder / RESIDUAL_FILE).is_file():
        lora.r, lora.lora_alpha = lora.r // 2, lora.lora_alpha // 2
        tensors, initial = split(tensors, lora.r)
        _take_start_out(model.to(device), initial, lora.lora_alpha / lora.r)
        _require_layers(folder, formats, initial)
        simulate(model, formats)
    _resize_vocabulary(model, folder, tensors)
    if lora.init_lora_weights is False:
        quantize_layers(model, names, quant, device)
        peft_model = _injected(model, lora, folder, saved)
    else:  # the start comes out of the 16/32-bit weights, and what is left is quantized
        peft_model = _injected(model.to(device), lora, folder, saved)
        quantize_layers(model, names, quant, device)
    hold_adapter_in_float32(peft_model, quant)
    _fill(peft_model, tensors, folder, saved)
    method = AdapterMethod.dora if lora.use_dora else AdapterMethod.lora
    return Started(
        model=peft_model,
        method=saved_method(folder) if initial else method,
        initial=initial,
        served=serving_fields(saved) | ({"formats": formats} if formats else {}),
        formats=formats,
    )


def fill_again(started: Started, folder: Path) -> None:
    """Reads the file of an adapter into the model that it was saved from, or into one like it.

    Raises:
        ValueError: as `load_adapter`; or LoRA of another scale.
    """
    saved, tensors = read_peft_config(folder), read_tensors(folder)
    mine = started.model.peft_config[ADAPTER]
    if saved["peft_type"] == LORA:
        scales = saved.get("lora_alpha", DEFAULT_ALPHA) / saved.get("r", DEFAULT_RANK), mine.lora_alpha / mine.r
        if scales[0] != scales[1] or bool(saved.get("use_rslora")) != mine.use_rslora:
            raise ValueError(
                f"{folder}: lora_alpha / r is {scales[0]:g}, here {scales[1]:g}, or use_rslora is another; take the "
                "same adapter.method and adapter.lora_alpha"
            )
    if started.initial:
        tensors, _ = split(tensors, started.model.peft_config[ADAPTER].r)
    _fill(started.model, tensors, folder, saved)


def _load_other(
    model: nn.Module, folder: Path, saved: dict[str, Any], quant: QuantConfig, device: torch.device
) -> Started:
    """An adapter of another method than LoRA, around a base that is quantized first."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(saved["peft_type"])]
    known = {field.name for field in dataclasses.fields(kind) if field.init} - {"runtime_config"}
    values = {key: value for key, value in saved.items() if key in known and value is not None}
    values |= {"base_model_name_or_path": None, "inference_mode": False}
    tensors = read_tensors(folder)
    names = [name for name in layer_names(model) if not _is_saved_whole(name, saved.get("modules_to_save") or ())]
    quantize_layers(model, names, quant, device)
    try:
        peft_model = wrapped(model, kind(**values), quant)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_misfit(folder, saved)} ({error})") from error
    hold_adapter_in_float32(peft_model, quant)
    _fill(peft_model, tensors, folder, saved)
    return Started(model=peft_model, method=AdapterMethod.peft, served=other_fields(peft_model))


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: can't be read as weights only ({reason}); save it as {ADAPTER_WEIGHTS}") from error
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"{path}: expected tensors by name; save it as {ADAPTER_WEIGHTS}")
    return dict(values)


def _lora_config(folder: Path, saved: dict[str, Any]) -> LoraConfig:
    known = {field.name for field in dataclasses.fields(LoraConfig) if field.init} - set(_OF_THE_START)
    values = {key: value for key, value in saved.items() if key in known and value is not None}
    values["base_model_name_or_path"] = None  # else PEFT warns that it is a hub id
    values["inference_mode"] = False  # else nothing of the adapter counts as the member's
    if saved.get("init_lora_weights") not in RESIDUAL_STARTS:
        values["init_lora_weights"] = False  # all is read from the file
    try:
        return LoraConfig(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG}: {error}") from error


def _is_saved_whole(name: str, modules_to_save: tuple[str, ...] | list[str]) -> bool:
    """Whether the file holds all weights of a layer, by PEFT's rule for `modules_to_save`."""
    return any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in modules_to_save)


def _take_start_out(model: nn.Module, initial: dict[str, Tensor], scale: float) -> None:
    """Turns W into W - s B0 A0 in every layer of a residual adapter."""
    for key in (key for key in initial if key.endswith(".lora_A.weight")):
        name = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
        weight = layer_weight(model, name)
        weight.data = residual(weight.data, initial, name, scale)


def _require_layers(folder: Path, formats: Mapping[str, str], initial: Mapping[str, Tensor]) -> None:
    """Raises ValueError for formats of other layers than the adapter's, or of some of them only."""
    adapted = {key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight") for key in initial if "lora_A" in key}
    if formats and (unlike := adapted ^ formats.keys()):
        raise ValueError(f"{folder / RESIDUAL_FILE}: no format, or no adapter, for {listed(unlike)}; copy both anew")


def _resize_vocabulary(model: Any, folder: Path, tensors: dict[str, Tensor]) -> None:
    """Gives the base as many tokens as the adapter's own embeddings have."""
    rows = {name: _rows_in_file(name, tensors) for name in _embedding_names(model)}
    wanted = {number for number in rows.values() if number is not None}
    if not wanted - {model.get_input_embeddings().weight.shape[0]}:
        return
    if len(wanted) > 1 or None in rows.values():
        raise ValueError(
            f"{folder}: its vocabulary has {listed([str(number) for number in wanted])} tokens in some of "
            f"{listed(rows)}, and not in others; save it with save_embedding_layers=True"
        )
    model.resize_token_embeddings(wanted.pop(), mean_resizing=False)  # every row comes from the file


def _embedding_names(model: Any) -> list[str]:
    """The input embeddings, and the output layer where it has weights of its own."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = {id(layer.weight): layer for layer in reversed(layers) if layer is not None and hasattr(layer, "weight")}
    return [name for name, module in model.named_modules() if any(module is layer for layer in own.values())]


def _rows_in_file(name: str, tensors: dict[str, Tensor]) -> int | None:
    keys = [f"{PEFT_PREFIX}{name}.{part}weight" for part in ("", "base_layer.")]
    return next((int(tensors[key].shape[0]) for key in keys if key in tensors), None)


def _injected(model: nn.Module, lora: LoraConfig, folder: Path, saved: dict[str, Any]) -> PeftModel:
    try:
        return get_peft_model(model, lora)
    except (ValueError, re.error) as error:  # PEFT's report that none of the adapter's layers is there, and others
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{_misfit(folder, saved)} ({reason})") from error


def _fill(model: PeftModel, tensors: dict[str, Tensor], folder: Path, saved: dict[str, Any]) -> None:
    """Copies the file's tensors into the model. Refuses a tensor without a place and a place without a tensor."""
    wanted = adapter_tensors(model)
    possible = wanted | get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=True)
    if unused := tensors.keys() - possible.keys():
        raise ValueError(f"{_misfit(folder, saved)}: nothing in it has a use for {listed(unused)}")
    if missing := wanted.keys() - tensors.keys():
        raise ValueError(f"{folder}: the file lacks {listed(missing)}, which {ADAPTER_CONFIG} asks for; copy both anew")
    for key, tensor in tensors.items():
        if tensor.shape != possible[key].shape:
            shapes = f"{list(tensor.shape)}, here {list(possible[key].shape)}"
            raise ValueError(f"{_misfit(folder, saved)}: {key} has the shape {shapes}")
    set_peft_model_state_dict(model, tensors, adapter_name=ADAPTER)
    parameters = dict(model.named_parameters())  # a saved module's copy in the file has another name there
    for key in tensors.keys() & parameters.keys() - wanted.keys():  # embeddings of another vocabulary
        parameters[key].requires_grad_(True)  # belong to the member, too


def _misfit(folder: Path, saved: dict[str, Any]) -> str:
    return f"{folder}: doesn't fit this base model; it was made for {saved.get('base_model_name_or_path')}"

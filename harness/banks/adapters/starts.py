"""Starts an adapter of a kind that PEFT ships: PiSSA, OLoRA, CorDA, LoRA-GA, EVA, LoftQ, DoRA and plain LoRA.

The algebra of the methods that move part of the weights into the adapter is in `harness.banks.adapters.peft`.

Source: PEFT 0.21 (`LoraLayer.update_layer`), PiSSA (arXiv 2404.02948) section 4, LoftQ (arXiv 2310.08659) algorithm 1
with T = 1.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from peft import (
    EvaConfig,
    LoraConfig,
    LoraGAConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    initialize_lora_eva_weights,
)
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.banks.adapters.any_peft import config_of, other_fields, wrapped
from harness.banks.adapters.layers import layer_names, layer_weight, quantize_layers, resolve_targets
from harness.banks.adapters.lq_start import Examples, start_lq
from harness.banks.adapters.peft import ADAPTER, Started, hold_adapter_in_float32, residual
from harness.config.schema import AdapterConfig, AdapterMethod, QuantConfig
from harness.methods.sizes import Layer, size_problem
from harness.nn.quant import features
from harness.runs.adapter_files import short_names
from harness.runs.compatibility import RESIDUAL_METHODS, SVD_METHODS, is_calibrated, rank_problem
from harness.variants.allora import adapt_gradients
from harness.variants.s2ft import ranks, select

_MAX_EVA_PASSES = 200


class Calibration(Examples, Protocol):
    """The same of methods that take several examples to a row."""

    def __call__(self, model: nn.Module, backward: bool) -> None:
        """Runs them through a model, several to a row; backward too where asked."""


def start(
    model: nn.Module,
    config: AdapterConfig,
    quant: QuantConfig,
    device: torch.device,
    task_type: str,
    calibrate: Calibration | None,
) -> Started:
    """Wraps a 16/32-bit model, quantizes it and starts the adapter. Draws from torch's generator; seed that first.

    Args:
        model: in 16/32 bits, on any device, or with its layers quantized already; changed in place.
        config: any method but none and full.
        quant: `none` only moves the model.
        device: where the model goes; methods that change the weights need room there for the 16/32-bit model.
        task_type: PEFT's: CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS.
        calibrate: needed by EVA, CorDA, LoRA-GA and `adapter.fisher`.

    Raises:
        ValueError: targets that are not there, a rank too large, no calibration examples, transposed weights.
    """
    names = layer_names(model)
    wanted = resolve_targets(names, config.targets, config.layers)
    _check_sizes(model, wanted, config)
    if is_calibrated(config) and calibrate is None:
        raise ValueError(
            f"adapter.method={config.method.value} starts from data: give the bank examples first (bank.calibrate)"
        )
    if config.method is AdapterMethod.s2ft:
        return _start_s2ft(model, config, quant, device, names, task_type)
    lora = lora_config(config, wanted, names, task_type)
    if config.method is AdapterMethod.peft:
        return _start_peft(model, config, quant, device, names, task_type)
    if config.method is AdapterMethod.lq_lora:
        return start_lq(model.to(device), lora, config, quant, names, wanted, calibrate)
    if config.method in RESIDUAL_METHODS:
        return _start_residual(model, lora, config, quant, device, calibrate, names, wanted)
    errors = quantize_layers(model, names, quant, device, wanted if config.method is AdapterMethod.loftq else ())
    peft_model = get_peft_model(model, lora, low_cpu_mem_usage=config.method is AdapterMethod.eva)  # EVA makes its own
    if config.method is AdapterMethod.loftq:
        _start_loftq(peft_model, errors, config.lora_r)
    elif config.method is AdapterMethod.eva:
        assert calibrate is not None
        _start_eva(peft_model, calibrate)
    hold_adapter_in_float32(peft_model, quant)
    if config.method is AdapterMethod.lora_fa:
        _freeze_a(peft_model)
    if config.allora_eta is not None:
        _adapt_gradients(peft_model, config.allora_eta)
    return Started(model=peft_model, method=config.method)


def lora_config(config: AdapterConfig, wanted: Sequence[str], names: Sequence[str], task_type: str) -> LoraConfig:
    """PEFT's config of a method, with the full names of its target layers."""
    kind: Literal["ipm", "kpm"] = "ipm" if config.corda_keep is None else "kpm"  # trains the first ones, or the last
    start_by: dict[AdapterMethod, dict[str, Any]] = {
        AdapterMethod.rslora: {"use_rslora": True},
        AdapterMethod.dora: {"use_dora": True},
        AdapterMethod.pissa: {"init_lora_weights": "pissa"},
        AdapterMethod.olora: {"init_lora_weights": "olora"},
        AdapterMethod.corda: {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method=kind)},
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


def _start_peft(
    model: nn.Module, config: AdapterConfig, quant: QuantConfig, device: torch.device, names: Sequence[str], task: str
) -> Started:
    quantize_layers(model, names, quant, device)
    peft_model = wrapped(model, config_of(config, model, names, task), quant)
    hold_adapter_in_float32(peft_model, quant)
    return Started(model=peft_model, method=config.method, served=other_fields(peft_model))


def _start_s2ft(
    model: Any, config: AdapterConfig, quant: QuantConfig, device: torch.device, names: Sequence[str], task: str
) -> Started:
    """LoRA whose one factor selects heads or channels; its ranks are as many as these have features."""
    assert config.s2ft_share is not None
    wanted, num_heads = resolve_targets(names, config.targets, config.layers), int(model.config.num_attention_heads)
    sizes = [(*features(model.get_submodule(name)), name) for name in wanted]
    by_name = ranks(sizes, config.s2ft_share, num_heads)
    rank = next(iter(by_name.values()))
    others = {name: number for name, number in by_name.items() if number != rank}
    quantize_layers(model, names, quant, device)
    lora = lora_config(replace(config, lora_r=rank, lora_alpha=rank), wanted, names, task)
    lora.rank_pattern, lora.alpha_pattern = dict(others), dict(others)
    peft_model = get_peft_model(model, lora)
    hold_adapter_in_float32(peft_model, quant)
    seed = int(torch.randint(2**31, ()))  # drawn from the run's own, as other methods' starts are
    for name in wanted:
        select(model.get_submodule(name), ADAPTER, name, config.s2ft_share, num_heads, seed)
    return Started(model=peft_model, method=config.method)


def _adapt_gradients(model: PeftModel, eta: float) -> None:
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            adapt_gradients(parameter, eta)


def _freeze_a(model: PeftModel) -> None:
    """LoRA-FA: A stays as it was drawn, so its layer's input need not be kept for the backward pass."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)


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
    originals = {name: layer_weight(model, name).detach().to("cpu", copy=True) for name in wanted}
    peft_model = get_peft_model(model, lora)
    initial = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER, save_embedding_layers=False)
    initial = {key: value.detach().clone() for key, value in initial.items() if ".lora_" in key}
    # PEFT rounds A and B to the base's dtype after it has subtracted them: subtract what is really there
    for name in wanted:
        layer: Any = model.get_submodule(name)
        layer.base_layer.weight.data = residual(originals.pop(name).to(device), initial, name, layer.scaling[ADAPTER])
    quantize_layers(model, names, quant, device)
    hold_adapter_in_float32(peft_model, quant)
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


def _check_sizes(model: nn.Module, wanted: Sequence[str], config: AdapterConfig) -> None:
    """Raises ValueError for a rank or a block that doesn't fit a layer; PEFT would take another block for some.

    And for layers whose weights lie transposed, where a method takes its start out of them.
    """
    if config.method in SVD_METHODS and (turned := [n for n in wanted if type(model.get_submodule(n)) is Conv1D]):
        raise ValueError(
            f"adapter.method={config.method.value}: {turned[0]} holds its weight transposed, as GPT-2's layers do, and "
            "its start can't be taken out of it here; use adapter=lora, dora or eva"
        )
    layers = [Layer(*features(model.get_submodule(name)), name) for name in wanted]
    smallest = min(min(layer.num_in, layer.num_out) for layer in layers)
    if problem := rank_problem(config, smallest) or size_problem(config, layers):
        raise ValueError(problem)

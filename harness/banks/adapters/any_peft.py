"""Adapters of PEFT's other methods: their config, the layers around a base, and the state that some keep over steps.

What PEFT computes is left as it is. Two things are ours: dropout is drawn for each example (`SegmentDropout`), as for
LoRA, and AdaLoRA's rank allocator is driven and saved by the training loop.

Source: PEFT 0.21 (`AdaLoraModel.forward`, `RankAllocator`), AdaLoRA (arXiv 2303.10512) equations 4, 7 to 11.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from torch import Tensor, nn

from harness.banks.adapters.layers import resolve_targets
from harness.banks.adapters.peft import ADAPTER, adapter_tensors
from harness.config.schema import AdapterConfig, QuantConfig, QuantMethod
from harness.methods.blocks import in_blocks
from harness.methods.keys import peft_values
from harness.methods.table import entry_of
from harness.runs.adapter_files import short_names

_NOT_YET = 10**9  # AdaLoRA's total steps until the loop says them
_FOUR_BITS = (QuantMethod.nf4, QuantMethod.fp4)
_NOISE = (".*fan_in_fan_out.*", ".*is_gradient_checkpointing.*", ".*CUDA extension.*", ".*boft_n_butterfly_factor.*")
_ALLOCATOR_STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def config_of(adapter: AdapterConfig, model: nn.Module, names: Sequence[str], task_type: str) -> Any:
    """PEFT's config of `adapter.method=peft`.

    Args:
        adapter: checked by `keys_problem`.
        model: that will be adapted.
        names: its linear layers.
        task_type: PEFT's.

    Raises:
        ValueError: values that PEFT refuses, or targets that aren't there.
    """
    assert adapter.peft_type is not None
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(adapter.peft_type)]
    values = peft_values(adapter)
    if adapter.peft_type == "ADALORA":
        values["total_step"] = _NOT_YET
    if (targets := _targets(adapter, model, names)) is not None:
        values["target_modules"] = targets
    if adapter.peft_type != "TRAINABLE_TOKENS":  # it has no task
        values["task_type"] = task_type
    try:
        return kind(**values)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"adapter.peft_type={adapter.peft_type}: {error}") from error


def _targets(adapter: AdapterConfig, model: nn.Module, names: Sequence[str]) -> list[str] | None:
    entry = entry_of(adapter)
    if entry is None or entry.on_layers:
        return short_names(resolve_targets(names, adapter.targets, adapter.layers), names)
    if adapter.peft_type == "LN_TUNING":
        norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
        return in_blocks(norms, adapter.layers)
    return None  # PEFT's own: the input embeddings


def wrapped(model: nn.Module, config: Any, quant: QuantConfig) -> PeftModel:
    """Puts the adapter around the model's layers, whose quantized ones PEFT takes for what they are.

    Raises:
        ValueError: layers that the method can't be around.
    """
    tells = config.peft_type is not PeftType.IA3  # whose 4-bit layer hands float32 on where the base is in 16 bits
    with _told_of_quantization(model, quant if tells else None), warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        try:
            peft_model = get_peft_model(model, config)
        except (RuntimeError, TypeError, AssertionError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0]
            raise ValueError(f"adapter.peft_type={config.peft_type.value}: doesn't fit this base ({reason})") from error
    for name, parameter in peft_model.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's divisor, which PEFT thaws when it casts a 16-bit base's adapter
            parameter.requires_grad_(False)
    return peft_model


@contextmanager
def _told_of_quantization(model: Any, quant: QuantConfig | None) -> Iterator[None]:
    """PEFT asks the model by these names whether its layers are bitsandbytes'; None tells it nothing."""
    method = QuantMethod.none if quant is None else quant.method
    marks = {"is_loaded_in_4bit": method in _FOUR_BITS, "is_loaded_in_8bit": method is QuantMethod.int8}
    before = {name: model.__dict__.get(name) for name in marks}
    model.__dict__.update(marks)
    try:
        yield
    finally:
        for name, value in before.items():
            model.__dict__.pop(name) if value is None else model.__dict__.update({name: value})


def tuner_layers(model: nn.Module) -> list[nn.Module]:
    """PEFT's layers around the base's, in the model's order."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def dropout_places(layer: nn.Module) -> list[nn.ModuleDict]:
    """Where a layer of PEFT's keeps what drops its input."""
    kept = [child for child in layer.children() if isinstance(child, nn.ModuleDict) and ADAPTER in child]
    return [child for child in kept if type(child[ADAPTER]) is nn.Dropout]


def other_fields(model: PeftModel) -> dict[str, Any]:
    """What of an adapter of these methods changes its result beside its trained tensors, for the keys of caches."""
    values = model.peft_config[ADAPTER].to_dict()
    left_out = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "total_step", "auto_mapping")
    kept = {key: value for key, value in values.items() if key not in left_out and not key.endswith("dropout")}
    kept = {key: sorted(value) if isinstance(value, set) else value for key, value in kept.items()}
    return {key: getattr(value, "value", value) for key, value in kept.items()} | {"fixed": _fixed_sha256(model)}


def _fixed_sha256(model: PeftModel) -> str:
    """Of the adapter's tensors that aren't trained: SHiRA's places, VeRA's matrices."""
    trained = {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter_tensors(model).items()):
        if tensor.data_ptr() not in trained:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class RankAllocation:
    """AdaLoRA's schedule of ranks over a run's steps."""

    def __init__(self, model: PeftModel) -> None:
        self.model: Any = model.base_model
        self.config: Any = model.peft_config[ADAPTER]

    def begin(self, total_steps: int) -> None:
        """Raises ValueError where the schedule doesn't fit into so many steps."""
        config = self.config
        if config.init_r <= config.target_r:
            raise ValueError(
                f"adapter.peft.init_r={config.init_r} with adapter.lora_r={config.target_r}: AdaLoRA begins with more "
                "ranks than it keeps; raise adapter.peft.init_r, or leave it out"
            )
        if config.tinit >= total_steps - config.tfinal:
            raise ValueError(
                f"adapter.peft.tinit={config.tinit}, tfinal={config.tfinal}: the run has {total_steps} steps, and "
                "AdaLoRA moves its ranks between the two; lower them, or train longer"
            )
        config.total_step = total_steps

    def penalty(self) -> Tensor:
        """The mean of |P^T P - I| and |Q Q^T - I| over the layers, times its weight (equation 4)."""
        parts = []
        for name, tensor in self.model.model.named_parameters():
            if f"lora_A.{ADAPTER}" in name or f"lora_B.{ADAPTER}" in name:
                squared_RR = tensor @ tensor.T if "lora_A" in name else tensor.T @ tensor
                parts.append((squared_RR - torch.eye(len(squared_RR), device=tensor.device)).norm())
        return float(self.config.orth_reg_weight) * torch.stack(parts).mean()

    def after_step(self, step: int) -> None:
        """Updates the importance of each triplet and masks the least important; gradients are still there."""
        self.model.update_and_allocate(step)

    def state(self) -> dict[str, Any]:
        """What the next step depends on, for a checkpoint."""
        allocator = self.model.rankallocator
        pattern = self.config.rank_pattern
        kept: dict[str, Any] = {key: dict(getattr(allocator, key)) for key in _ALLOCATOR_STATE}
        return kept | {"rank_pattern": None if pattern is None else {k: list(v) for k, v in pattern.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""
        allocator = self.model.rankallocator
        devices = {name: tensor.device for name, tensor in self.model.model.named_parameters()}
        for key in _ALLOCATOR_STATE:
            setattr(allocator, key, {name: tensor.to(devices[name]) for name, tensor in state[key].items()})
        self.config.rank_pattern = state["rank_pattern"]


def rank_allocation(model: PeftModel) -> RankAllocation | None:
    """The schedule of ranks; None of a method that has none."""
    return RankAllocation(model) if model.peft_config[ADAPTER].peft_type is PeftType.ADALORA else None

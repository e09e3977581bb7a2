"""Reads a checkpoint tensor by tensor: each is moved to its device and quantized there before the next is read.

Read whole and quantized afterwards, a model wants all its 16-bit weights in host memory at once: 131 GB for 65B, eight
times that for eight workers. Here the host holds one tensor, mapped from the file and cast to the compute dtype. The
mapped pages belong to the system, which shares them among workers and takes them back when it needs them.

transformers' own loader does the reading, so renamed and fused keys, tied weights, buffers and dtypes are what
`from_pretrained` makes of them. It offers each tensor to a quantizer before the next is read; ours is registered as its
documentation tells libraries to (`register_quantizer`) and leaves a plain model behind
(docs/decisions/0010-read-by-tensor.md). What `from_pretrained` only warns of is refused here: a weight that the
checkpoint lacks, or has in another shape.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from harness.nn.shards import ShardedLayers, decoder_layers

_NAME = "harness"  # of our quantizer in transformers' register
_OUTPUT_LAYERS = ("lm_head", "classifier", "score", "cls", "qa_outputs")  # another kind of model has no use for them
_MAX_NAMED = 5  # tensors in a message

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTheWay:
    """What happens to parts of a model while the rest is still to be read.

    Args:
        names: the linear layers to be replaced, given the model without weights.
        place: given a layer's name and the layer, its weight on the device, returns what takes its place.
        shards: empty; takes the decoder layers, each as soon as it is whole.
    """

    names: Callable[[nn.Module], Iterable[str]]
    place: Callable[[str, nn.Linear | Conv1D], nn.Module]
    shards: ShardedLayers | None = None


def read_config(folder: Path, **changes: Any) -> PretrainedConfig:
    """A checkpoint's config.json, with `changes` made to it."""
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, **changes)
    return config


def without_dropout(config: PretrainedConfig) -> tuple[str, ...]:
    """Turns off, in place, whatever a model drops out of its own accord (docs/decisions/0013-base-dropout.md).

    Returns:
        The settings that were on, as `attention_dropout=0.1`.
    """
    turned_off = []
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        for key, value in list(vars(part).items()) if part is not None else ():
            is_probability = isinstance(value, float | int) and not isinstance(value, bool) and bool(value)
            if is_probability and ("drop" in key or key.endswith("_pdrop")) and not key.startswith("classifier"):
                turned_off.append(f"{key}={value}")
                setattr(part, key, type(value)(0))
    return tuple(sorted(set(turned_off)))


def dropout_notes(turned_off: Collection[str]) -> tuple[str, ...]:
    """-> a note for a run's record on the dropout that was turned off"""
    return (f"the model's own dropout is off: {', '.join(turned_off)}",) if turned_off else ()


def read_model(
    auto_class: Any,
    folder: Path,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    on_the_way: OnTheWay | None = None,
    fresh: Collection[str] = (),
    **options: Any,
) -> Any:
    """Reads a model to a device.

    Args:
        auto_class: `AutoModelForCausalLM` or one of its sisters.
        folder: the checkpoint: safetensors, or PyTorch's own files, which are mapped too.
        config: what `read_config` made of it.
        dtype: floating-point weights are cast to it, those excepted that transformers keeps in float32.
        device: where the model goes.
        on_the_way: what is done to layers as they come; None leaves them as they are.
        fresh: first parts of the names of modules that are drawn from torch's CPU generator where the checkpoint
            lacks them or has them in another shape.
        options: further arguments of `from_pretrained`.

    Returns:
        A transformers model in evaluation mode.

    Raises:
        ValueError: a checkpoint that is quantized already, one that lacks weights, or has them in another shape.
    """
    stored = stored_quantization(config)
    if stored and on_the_way is not None:
        raise ValueError(
            f"{folder}: its weights are quantized already (quantization_config in config.json: {stored}); point "
            "model.path at the 16-bit checkpoint that it was made from"
        )
    placing = None
    if not stored and (on_the_way is not None or device.type != "cpu"):
        placing = options["quantization_config"] = _Placing(on_the_way, device, fresh)
    try:
        model, report = auto_class.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except RuntimeError:
        if placing is not None and placing.error is not None:
            raise placing.error from None  # transformers keeps no more than its text
        raise
    _check_report(folder, model, report, fresh)
    return model if device.type == "cpu" else model.to(device)  # fresh modules and buffers


def stored_quantization(config: PretrainedConfig) -> str | None:
    """The name of the method by which a checkpoint's weights are quantized; None if they are floating-point numbers."""
    stored = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    return str(getattr(method, "value", method) or "of no named method")


def _check_report(folder: Path, model: nn.Module, report: dict[str, Any], fresh: Collection[str]) -> None:
    """Refuses a model with a parameter that the checkpoint lacks, and warns of tensors without a use."""
    missing = sorted(key for key in report["missing_keys"] if not _is_within(key, fresh))
    if missing:
        raise ValueError(
            f"{folder}: lacks {_listed(missing)}, which {type(model).__name__} needs; the checkpoint is damaged, or of "
            "another kind of model"
        )
    misfits = sorted(entry for entry in report["mismatched_keys"] if not _is_within(entry[0], fresh))
    if misfits:
        raise ValueError(_misfit(folder, *misfits[0]))
    unused = sorted(key for key in report["unexpected_keys"] if not _is_within(key, _OUTPUT_LAYERS))
    if unused:
        _log.warning("%s: %s has no use for %s", folder, type(model).__name__, _listed(unused))


def _is_within(name: str, modules: Collection[str]) -> bool:
    return name.partition(".")[0] in modules


def _misfit(where: object, name: str, stored: Iterable[int], wanted: Iterable[int]) -> str:
    return (
        f"{where}: {name} has shape {list(stored)}, by config.json it is {list(wanted)}; weights and config are not of "
        "the same model"
    )


def _listed(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


@register_quantization_config(_NAME)
class _Placing(QuantizationConfigMixin):
    """Passes `OnTheWay` through `from_pretrained`, and brings back an error that transformers would replace."""

    def __init__(self, on_the_way: OnTheWay | None, device: torch.device, fresh: Collection[str]) -> None:
        self.quant_method = _NAME  # type: ignore[assignment]  # transformers takes registered names too
        self.on_the_way, self.device, self.fresh = on_the_way, device, fresh
        self.error: Exception | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Placing":
        return self

    def to_dict(self) -> dict[str, Any]:
        """What transformers writes into a model's config: nothing of `OnTheWay`, whose shards can't be copied."""
        return {"quant_method": _NAME}


@register_quantizer(_NAME)
class _Quantizer(HfQuantizer):
    """Takes each parameter as soon as it is read, and the layer around it where that is to be replaced."""

    quantization_config: _Placing

    def preprocess_model(self, model: Any, dtype: Any = None, **_: Any) -> None:
        """Called when the model has its modules but no weights yet."""
        orders, parameters = self.quantization_config, dict(model.named_parameters())
        way = orders.on_the_way
        self.linears = set(way.names(model)) if way else set[str]()
        # One that the model itself wants in another dtype is left to transformers, which knows of it.
        kept = [name for name, p in parameters.items() if p.dtype is dtype and not _is_within(name, orders.fresh)]
        self.names = {*kept, *(f"{name}.weight" for name in self.linears)}
        self.unsharded = decoder_layers(model) if way and way.shards is not None else []

    def postprocess_model(self, model: Any, **_: Any) -> None:
        """Called when the model has all its weights. Moves the few small ones that are not on the device yet."""
        for layer in self.unsharded:
            self._shard(layer.to(self.quantization_config.device))
        del model.hf_quantizer, model.config.quantization_config

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:
        return param_name in self.names

    def get_quantize_ops(self) -> "_Place":
        return _Place(self)

    def place(self, model: Any, name: str, value: Tensor) -> nn.Parameter:
        """Moves a parameter's value to the device and puts what is made of it into the model."""
        owner, _, kind = name.rpartition(".")
        module = model.get_submodule(owner)
        wanted = getattr(module, kind).shape
        if value.shape != wanted:
            raise ValueError(_misfit(model.config.name_or_path, name, value.shape, wanted))
        parameter = nn.Parameter(value.to(self.quantization_config.device))
        setattr(module, kind, parameter)
        if owner in self.linears and kind == "weight":
            way = self.quantization_config.on_the_way
            assert way is not None
            assert isinstance(module, nn.Linear | Conv1D)
            placed = way.place(owner, module)
            model.set_submodule(owner, placed)
            parameter = placed.weight  # type: ignore[assignment]
        while self.unsharded and self._is_whole(self.unsharded[0]):
            self._shard(self.unsharded.pop(0))
        return parameter

    def _is_whole(self, layer: nn.Module) -> bool:
        tensors = [*layer.parameters(), *layer.buffers()]
        return all(tensor.device.type == self.quantization_config.device.type for tensor in tensors)

    def _shard(self, layer: nn.Module) -> None:
        way = self.quantization_config.on_the_way
        assert way is not None
        assert way.shards is not None
        way.shards.add(layer)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Place(ConversionOps):
    """The last operation between a file's tensors and a model's parameter."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self.quantizer = quantizer

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, list[Tensor]]:
        """-> {name: parameter}. After an error it does nothing, because transformers goes on to the last tensor."""
        orders, model = self.quantizer.quantization_config, kwargs["model"]
        if orders.error is not None:
            raise orders.error
        placed: dict[str, list[Tensor]] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            try:
                wanted = self.quantizer.param_needs_quantization(model, name)
                placed[name] = [self.quantizer.place(model, name, tensor) if wanted else tensor]
            except Exception as error:
                orders.error = error
                raise
        return placed

"""Reads a checkpoint tensor by tensor, each straight to its device, its linear layers quantized on the way.

Reading a model whole and quantizing it afterwards wants all 16-bit weights in host memory at once: 131 GB for 65B, eight
times that for eight workers. Here the host holds one tensor: it is mapped from the file, cast to the compute dtype on the
device, quantized there and let go. Pages of a mapped file belong to the system, which shares them among workers.

transformers' own loader does the reading, so renamed and fused keys, tied weights, buffers and dtypes are what
`from_pretrained` makes of them. It offers each tensor to a quantizer as soon as it is read; ours is registered with
`register_quantizer`, as its documentation tells libraries to, and calls back (docs/decisions/0010-read-by-tensor.md).
What `from_pretrained` only warns of is refused here: a weight that the checkpoint lacks, or has in another shape.
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
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from harness.shards import ShardedLayers, decoder_layers

_NAME = "harness"  # of our quantizer in transformers' register
_OUTPUT_LAYERS = ("lm_head", "classifier", "score", "cls", "qa_outputs")  # which another kind of model has no use for
_MAX_NAMED = 5  # tensors in a message

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTheWay:
    """What happens to linear layers while the rest is still to be read.

    Args:
        names: the layers it concerns, of a model that has no weights yet.
        place: given a layer's name and the layer, its weight on the device, returns what takes its place.
        shards: empty; takes the decoder layers, each as soon as it is whole.
    """

    names: Callable[[nn.Module], Iterable[str]]
    place: Callable[[str, nn.Linear], nn.Module]
    shards: ShardedLayers | None = None


def read_config(folder: Path, **changes: Any) -> PretrainedConfig:
    """A checkpoint's config.json, with `changes` made to it."""
    config: PretrainedConfig = AutoConfig.from_pretrained(folder, **changes)
    return config


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
        config: what `read_config` said of it.
        dtype: floating-point weights are cast to it, those excepted that transformers keeps in float32.
        device: where all of it goes.
        on_the_way: what is done to linear layers as they come; None reads the model as it is.
        fresh: the first parts of names of modules that are drawn from torch's generator where the checkpoint lacks
            them or has them in another shape.
        options: further arguments of `from_pretrained`.

    Returns:
        A transformers model in evaluation mode.

    Raises:
        ValueError: a checkpoint that is quantized already, one that lacks weights, or has them in another shape.
    """
    if on_the_way is not None:
        _check_not_quantized(folder, config)
        options["quantization_config"] = _Config(on_the_way)
    if device.type != "cpu":  # on the CPU needless, and it imports accelerate
        options["device_map"] = {"": device}
    try:
        model, report = auto_class.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except RuntimeError:
        if on_the_way is not None and options["quantization_config"].error is not None:
            raise options["quantization_config"].error from None  # transformers keeps its text only
        raise
    _check_report(folder, model, report, fresh)
    return model


def stored_quantization(config: PretrainedConfig) -> str | None:
    """How a checkpoint's weights are quantized already; None where they are floating-point numbers."""
    stored = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    return str(getattr(method, "value", method) or "an unnamed method")


def _check_not_quantized(folder: Path, config: PretrainedConfig) -> None:
    if method := stored_quantization(config):
        raise ValueError(
            f"{folder}: its weights are quantized already ({method}, in config.json's quantization_config), and would "
            "be quantized a second time; point model.path at the 16-bit checkpoint it was made from, or use a quant "
            "whose method is none"
        )


def _check_report(folder: Path, model: nn.Module, report: dict[str, Any], fresh: Collection[str]) -> None:
    """Every parameter has got its value from the checkpoint, and every tensor of it is used, or named."""
    missing = sorted(key for key in report["missing_keys"] if key.partition(".")[0] not in fresh)
    if missing:
        raise ValueError(
            f"{folder}: holds no {_listed(missing)}, which {type(model).__name__} needs; the checkpoint is damaged, or "
            "of another kind of model"
        )
    misfits = sorted(entry for entry in report["mismatched_keys"] if entry[0].partition(".")[0] not in fresh)
    if misfits:
        name, stored, wanted = misfits[0]
        raise ValueError(
            f"{folder}: {name} has shape {list(stored)}, config.json makes it {list(wanted)} "
            f"({len(misfits)} such tensors); weights and config are not of the same model"
        )
    unused = sorted(key for key in report["unexpected_keys"] if key.partition(".")[0] not in _OUTPUT_LAYERS)
    if unused:
        _log.warning("%s: %s has no use for %s", folder, type(model).__name__, _listed(unused))


def _listed(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


@register_quantization_config(_NAME)
class _Config(QuantizationConfigMixin):  # type: ignore[misc]
    """Carries `OnTheWay` through `from_pretrained`, and back the error that transformers would replace."""

    def __init__(self, on_the_way: OnTheWay) -> None:
        self.quant_method = _NAME
        self.on_the_way = on_the_way
        self.error: Exception | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Config":
        return self


@register_quantizer(_NAME)
class _Quantizer(HfQuantizer):  # type: ignore[misc]
    """Leaves a plain model behind: what transformers notes on quantized ones is for its own layers."""

    quantization_config: _Config

    def preprocess_model(self, model: nn.Module, **_: Any) -> None:
        """The model has its modules, and no weights yet."""
        on_the_way = self.quantization_config.on_the_way
        self._weights = {f"{name}.weight" for name in on_the_way.names(model)}
        self._whole_layers = [] if on_the_way.shards is None else decoder_layers(model)

    def postprocess_model(self, model: Any, **_: Any) -> None:
        """The model has all its weights."""
        self._shard_layers(self._whole_layers)
        del model.hf_quantizer, model.config.quantization_config

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:
        return param_name in self._weights

    def param_element_size(self, *_: Any) -> float:
        """0: no device memory is taken up front for a model that is smaller when it is there."""
        return 0

    def get_quantize_ops(self) -> "_Place":
        return _Place(self)

    def place(self, model: nn.Module, weight_name: str, weight: Tensor) -> nn.Parameter:
        """Puts a linear layer's weight, and what is made of the layer, in its place."""
        name = weight_name.removesuffix(".weight")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        if weight.shape != linear.weight.shape:
            raise ValueError(
                f"{weight_name} has shape {list(weight.shape)} in the checkpoint, config.json makes it "
                f"{list(linear.weight.shape)}; weights and config are not of the same model"
            )
        linear.weight = nn.Parameter(weight)
        placed = self.quantization_config.on_the_way.place(name, linear)
        model.set_submodule(name, placed)
        whole = 0
        while whole < len(self._whole_layers) and not _lacks_tensors(self._whole_layers[whole]):
            whole += 1
        self._shard_layers(self._whole_layers[:whole])
        self._whole_layers = self._whole_layers[whole:]
        placed_weight: nn.Parameter = placed.weight  # type: ignore[assignment]
        return placed_weight

    def _shard_layers(self, layers: list[nn.Module]) -> None:
        shards = self.quantization_config.on_the_way.shards
        for layer in layers:
            assert shards is not None
            shards.add(layer)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Place(ConversionOps):  # type: ignore[misc]
    """The last of the operations between a file's tensors and a model's weight."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self.quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], *, model: nn.Module, **_: Any) -> dict[str, Any]:
        """Weights of linear layers are placed; what else the file's tensor was split into passes."""
        config = self.quantizer.quantization_config
        if config.error is not None:
            raise config.error
        placed: dict[str, Any] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            try:
                wanted = self.quantizer.param_needs_quantization(model, name)
                placed[name] = self.quantizer.place(model, name, tensor) if wanted else tensor
            except Exception as error:
                config.error = error
                raise
        return placed


def _lacks_tensors(module: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])

"""What all banks have in common that own their base and hold one member.

The base is read anew for each member, because many of these methods change it; `remove_member` lets it go. What
is trained is an adapter started by PEFT (`harness.banks.adapters.peft`) or every weight (`adapter.method=full`),
in float32 (`harness.nn.masters`).
Subclasses say how the model is read, how examples become a batch and what their losses are.
"""

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from harness.banks.adapters.any_peft import RankAllocation, rank_allocation
from harness.banks.adapters.layers import layer_names, layer_weight, quantize_layers, quantizing
from harness.banks.adapters.loading import fill_again, load_adapter
from harness.banks.adapters.peft import ADAPTER, Started, save_adapter
from harness.banks.adapters.starts import Calibration, start
from harness.config.schema import WHOLE_METHODS, AdapterConfig, AdapterMethod, MasterWeights, QuantConfig, QuantMethod
from harness.files.atomic import sha256_files, write_atomically
from harness.methods.formats import summary
from harness.models.reading import OnTheWay
from harness.nn.batch import Item
from harness.nn.dropout import mix_seed
from harness.nn.masters import float32_modules, hold_in_float32
from harness.nn.quant import LINEAR, TORCH_DTYPES, features, quantized_share
from harness.nn.rows import MAX_ERRORS
from harness.runs.adapter_files import ADAPTER_CONFIG, MODEL_CONFIG, starts_from_weights
from harness.runs.compatibility import RESIDUAL_METHODS, is_calibrated, quant_problem
from harness.variants.weights import cast_frozen, train_weights

_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "*.model", "vocab.*", "merges.txt", "*.jinja")
FIRST_WEIGHTS = 0  # what the member's seed is mixed with for its first weights; dropout keys begin at 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayer:
    """A linear layer of the base in the shape of `AdapterBank.layers`."""

    base: nn.Module


class OwnedBank(nn.Module, ABC):
    """A bank of one member over a base of its own.

    Args:
        folder: the checkpoint, with config.json and safetensors.
        quant: how its linear layers are stored; `compute_dtype` resolved, not auto.
        device: where it goes.
    """

    task_type: str  # PEFT's
    isolates_members = True  # it has one
    shards = None  # its base is never sharded: many of its methods change it

    def __init__(self, folder: Path, quant: QuantConfig, device: torch.device) -> None:
        super().__init__()
        self.folder, self.quant, self._device = folder, quant, device
        self.configs: dict[str, AdapterConfig] = {}
        self.seed = 0
        self.master_weights = MasterWeights.float32  # of the next new member that trains every weight
        self.model: Any = None  # the transformers model, adapters injected
        self.notes: tuple[str, ...] = ()  # what the records of runs on its base say
        self._started: Started | None = None
        self._examples: list[Item] = []

    @abstractmethod
    def read(self, folder: Path, dtype: torch.dtype, device: torch.device, on_the_way: OnTheWay | None) -> nn.Module:
        """Reads the model to a device (`harness.models.reading`); a head that the checkpoint lacks is drawn
        by torch.
        """

    @abstractmethod
    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood of every target of the items, in their order, [targets] float32."""

    def calibration(self) -> Calibration | None:
        """A function that runs the examples of `calibrate`; None if there are none, or the bank can't run them."""
        return None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def quantized_share(self) -> float:
        """The share of the base's weights that is quantized."""
        return quantized_share(self.base)

    @property
    def dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.quant.compute_dtype]

    @property
    def base(self) -> Any:
        """The transformers model; the untouched base where no member is in."""
        if self.model is None:
            model = self._read_for(AdapterMethod.none)
            quantize_layers(model, layer_names(model), self.quant, self.device)
            self._take(model.requires_grad_(False).eval())
        return self.model

    @property
    def layers(self) -> dict[str, BaseLayer]:
        """The base's linear layers by name, without the adapter around them."""
        layers: dict[str, BaseLayer] = {}
        for name, module in self.base.named_modules():
            if isinstance(module, LINEAR) and not _is_of_adapter(self.base, name):
                layers[name.replace(".base_layer", "")] = BaseLayer(base=module)
        return layers

    def calibrate(self, items: Sequence[Item]) -> None:
        """Keeps the examples that EVA, CorDA, LoRA-GA and `adapter.fisher` start from. Call it before `add_member`."""
        self._examples = list(items)

    def add_member(self, name: str, config: AdapterConfig, seed: int) -> None:
        """Reads the base and starts the member on it, from `seed`.

        Raises:
            ValueError: another member is in, or the method doesn't fit the model (`harness.runs.compatibility`).
        """
        self._require_free(name)
        _check_method(config.method, self.quant)
        self.seed = seed
        with self._drawing(FIRST_WEIGHTS):
            if config.method in WHOLE_METHODS:
                self._take(self._read_to_train(config))
            else:
                model = self._read_for(config.method)
                calibrate = self.calibration() if is_calibrated(config) else None
                self._started = start(model, config, self.quant, self.device, self.task_type, calibrate)
                self._take(self._started.model.get_base_model())
        self.configs[name] = config
        self.adapted(config)
        self.train(self.training)  # a model is read for evaluation, where nothing is recomputed or dropped

    def _read_to_train(self, config: AdapterConfig) -> nn.Module:
        """-> the model with its own weights trained, in float32 unless `master_weights` is `compute`."""
        if self.master_weights is MasterWeights.compute:
            model = self.read(self.folder, self.dtype, self.device, None)
            return train_weights(model, config, self.seed)
        model = train_weights(self.read(self.folder, torch.float32, self.device, None), config, self.seed)
        apart = float32_modules(model, self.dtype)
        cast_frozen(model, self.dtype, apart)
        hold_in_float32(model, self.dtype, apart)
        return model

    def adapted(self, config: AdapterConfig) -> None:
        """Called after a member was added or loaded; subclasses may change its adapter layers here."""

    def load_member(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote.

        Raises:
            ValueError: another member is in, or files of another base or kind.
        """
        self._require_free(name)
        if not (folder / ADAPTER_CONFIG).is_file():
            if not (folder / MODEL_CONFIG).is_file():
                raise ValueError(f"{folder}: no {ADAPTER_CONFIG}; expected a folder written by PEFT or by a run")
            _check_method(AdapterMethod.full, self.quant)
            self._take(self.read(folder, self.dtype, self.device, None))
            self.configs[name] = AdapterConfig(name="full", method=AdapterMethod.full)
            return
        with self._drawing(FIRST_WEIGHTS):
            model = self._read_base(as_it_is=starts_from_weights(folder))
            self._started = load_adapter(model, folder, self.quant, self.device, self.task_type)
        self._take(self._started.model.get_base_model())
        self.configs[name] = _loaded_config(self._started)
        self.eval()

    @property
    def serving_fields(self) -> dict[str, Any]:
        """Fields of a loaded adapter's config that change its result, besides tensors, rank, alpha and method."""
        return {} if self._started is None else self._started.served

    def rank_allocation(self, name: str) -> RankAllocation | None:
        """What the loop drives over the member's steps; None of a method without such a thing."""
        return None if self._started is None or name not in self.configs else rank_allocation(self._started.model)

    def adapted_layers(self, name: str) -> list[tuple[int, int, str]]:
        """-> inputs, outputs and name of each layer that PEFT has put something around"""
        layers = [(key, layer) for key, layer in self.base.named_modules() if isinstance(layer, BaseTunerLayer)]
        return [(*_sizes(layer.get_base_layer()), key) for key, layer in layers]

    def adapter_fields(self, name: str) -> dict[str, Any]:
        """The config of PEFT's that the member was made by, and what else its number of weights follows from."""
        num_heads = getattr(self.base.config, "num_attention_heads", 0)
        own = {"s2ft_share": self.configs[name].s2ft_share, "num_heads": num_heads}
        return own if self._started is None else own | self._started.model.peft_config[ADAPTER].to_dict()

    def adapter_layers(self, name: str) -> Iterator[tuple[nn.Module, nn.Module, tuple[int, int]]]:
        """PEFT's layers around linear ones: each with the base's layer in it, and its inputs and outputs."""
        for layer in self.base.modules():
            if isinstance(layer, BaseTunerLayer) and isinstance(base := layer.get_base_layer(), LINEAR):
                yield layer, base, features(base)

    def storage(self, name: str) -> dict[str, Any] | None:
        """How many bits a weight the layers take that are stored in formats of their own, and in which; None: none."""
        formats = {} if self._started is None else self._started.formats
        sizes = {key: math.prod(layer_weight(self.base, key).shape) for key in formats}
        return summary(formats, sizes) if formats else None

    @contextmanager
    def without_member(self, name: str) -> Iterator[str | None]:
        """Within this context PEFT's layers leave the base alone. Gives the member's own name."""
        layers = [m for m in self.base.modules() if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
        for layer in layers:
            layer._disable_adapters = True  # `disable_adapter` of PEFT's model thaws what is frozen of an adapter
        try:
            yield name
        finally:
            for layer in layers:
                layer._disable_adapters = False

    def read_again(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote into the member that wrote it."""
        if self._started is not None:
            fill_again(self._started, folder)
            return
        saved = dict(self.read(folder, torch.float32, self.device, None).named_parameters())
        with torch.no_grad():
            for key, parameter in self.member_parameters(name).items():
                parameter.copy_(saved[key])

    def remove_member(self, name: str) -> None:
        """Drops the member and its base."""
        self.configs.pop(name)
        self.model, self._started = None, None

    def member_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """-> the member's trainable tensors, by their names in PEFT's file or in the model."""
        if name not in self.configs:
            raise ValueError(f"no member {name} in this bank; it holds {sorted(self.configs)}")
        root = self.model if self._started is None else self._started.model
        return {k.replace(f".{ADAPTER}.", "."): p for k, p in root.named_parameters() if p.requires_grad}

    def save_member(self, name: str, folder: Path, base_model: str, revision: str) -> str:
        """Writes PEFT's two files, or a whole checkpoint. -> sha256 of the weights (of several files' digests).

        Tensors are written as they were trained, in float32. A whole checkpoint's config.json names the compute dtype
        nevertheless, so that programs which go by it read the weights that were computed with.
        """
        if self._started is not None:
            return save_adapter(self._started, folder, base_model, revision)
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in _TOKENIZER_FILES:
            for path in self.folder.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        self.model.save_pretrained(folder)
        described = json.loads((folder / "config.json").read_text())
        described["dtype"] = self.quant.compute_dtype.value
        described |= _dropout_of(json.loads((self.folder / "config.json").read_text()))  # it is off in training only
        write_atomically(folder / "config.json", json.dumps(described, indent=2, sort_keys=True) + "\n")
        return sha256_files(sorted(folder.glob("*.safetensors")))

    def set_checkpointing(self, on: bool) -> None:
        """Turns on or off that each layer is recomputed in the backward pass."""
        if on:
            self.base.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.base.activation_checkpointing_disable()

    @contextmanager
    def _drawing(self, key: int) -> Iterator[None]:
        """Seeds torch's generators from (member's seed, key) within this context, and restores them after it."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mix_seed(self.seed, key, 0))
            yield

    def _read_for(self, method: AdapterMethod) -> nn.Module:
        """Reads the base for a method: quantized on the way, or in 16/32 bits where the method needs those weights."""
        if method is AdapterMethod.loftq:  # holds each layer against what quantization makes of it
            return self.read(self.folder, self.dtype, torch.device("cpu"), None)
        return self._read_base(as_it_is=method in RESIDUAL_METHODS)

    def _read_base(self, as_it_is: bool) -> nn.Module:
        as_it_is = as_it_is or self.quant.method is QuantMethod.none
        on_the_way = None if as_it_is else quantizing(self.quant, self.device)
        return self.read(self.folder, self.dtype, self.device, on_the_way)

    def _take(self, model: nn.Module) -> None:
        self.model = model

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Within this context nothing is dropped, and no gradients are kept."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with torch.no_grad():
            yield
        for module, training in modes:
            module.training = training

    def _require_own(self, ours_N: Tensor, own_N: Tensor) -> None:
        """Compares the results of two sequences in a batch with those of the model's own `forward` for each alone.

        Raises:
            ValueError: they differ by more than rounding, or are no numbers.
        """
        kind = self.model.config.model_type
        what = f"{self.folder}: model_type {kind} can't be trained or scored here in {self.dtype}"
        if not own_N.isfinite().all():
            raise ValueError(f"{what}: it gives NaN or infinite numbers for a short text; take another data type")
        error = float((ours_N - own_N).abs().max() / own_N.abs().max().clamp_min(1e-6))
        if not error <= MAX_ERRORS[self.dtype]:
            raise ValueError(
                f"{what}: what it gives for a sequence alone is not what it gives beside another one, by "
                f"{error:.2g} of its size"
            )

    def _require_free(self, name: str) -> None:
        if self.configs:
            raise ValueError(
                f"member {name}: {', '.join(self.configs)} is in this bank, and it holds one; train such runs "
                "one by one (launch.max_group_size=1)"
            )
        self.model, self._started = None, None


def _loaded_config(started: Started) -> AdapterConfig:
    """The adapter of a file, as far as it is in the config of a run."""
    config = started.model.peft_config[ADAPTER]
    if started.method is AdapterMethod.peft:
        peft_type = config.peft_type.value
        return AdapterConfig(name=peft_type.lower(), method=started.method, peft_type=peft_type)
    name = started.method.value
    return AdapterConfig(name=name, method=started.method, lora_r=config.r, lora_alpha=config.lora_alpha)


def _sizes(layer: Any) -> tuple[int, int]:
    """-> inputs and outputs of a layer; of a table its rows and columns, of a norm 1 and the number of its weights"""
    if isinstance(layer, LINEAR):
        return features(layer)
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return 1, sum(parameter.numel() for parameter in layer.parameters())


def _is_of_adapter(model: nn.Module, name: str) -> bool:
    """Whether a module lies within one of PEFT's layers and isn't the base's own."""
    parts = name.split(".")
    owners = (model.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts)))
    return any(isinstance(owner, BaseTunerLayer) for owner in owners) and parts[-1] != "base_layer"


def _dropout_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if "drop" in key}


def _check_method(method: AdapterMethod, quant: QuantConfig) -> None:
    if problem := quant_problem(method, quant.method):
        raise ValueError(problem)

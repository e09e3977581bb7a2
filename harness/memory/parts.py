"""What methods train that aren't plain low-rank factors, and what they keep beside it: S2FT, HFT and PEFT's own.

    trained = trained_parts(shape, adapter, seed=0)     # trained.tensors: elements of each trained tensor

By the methods' own formulas (`harness.methods.table`, docs/methods.md), which each run's proof holds to its tensors.
tests/unit/harness/memory/test_floor.py holds them to the program. A tensor is here what a method trains of one
layer.
"""

from dataclasses import dataclass

from harness.config.schema import ALL_LINEAR, AdapterConfig, AdapterMethod, QuantMethod, ShapeConfig
from harness.memory.activations import ADAPTER_BYTES, Linear, linears
from harness.methods.keys import peft_values
from harness.methods.peft_fields import defaults_of
from harness.methods.submatrices import BY_INPUTS, chosen_features
from harness.methods.table import entry_of
from harness.variants.hft import chosen_half

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Elements of what a method trains, and bytes of what it keeps frozen beside the base's weights."""

    tensors: tuple[int, ...]
    frozen_bytes: int = 0
    in_base: bool = False  # the tensors are the base's own weights


def trained_parts(shape: ShapeConfig, adapter: AdapterConfig, quant: QuantMethod, seed: int) -> Trained | None:
    """What a method trains of a decoder with LLaMA's names; None where no formula tells it.

    Args:
        shape: of the decoder.
        adapter: of S2FT, HFT, or a method of PEFT's around linear layers.
        quant: of the base.
        seed: of the run, by which HFT draws its half.
    """
    blocks = list(range(shape.num_layers)) if adapter.layers is None else list(adapter.layers)
    if adapter.method is AdapterMethod.hft:
        half = half_of(shape, adapter, seed)
        return Trained(tensors=tuple(half.values()), in_base=True) if quant is QuantMethod.none else None
    known = linears(shape)
    if set(adapter.targets) - {ALL_LINEAR, *(linear.name for linear in known)}:
        return None
    targets = [linear for linear in known if linear.is_target(adapter)]
    if adapter.method is AdapterMethod.s2ft:
        return _submatrices(targets, shape, adapter, len(blocks))
    return _of_peft(targets, adapter, len(blocks)) if adapter.method is AdapterMethod.peft else None


def half_of(shape: ShapeConfig, adapter: AdapterConfig, seed: int) -> dict[str, int]:
    """-> elements of the matrices and norms that `harness.variants.hft` draws, by their names"""
    blocks = range(shape.num_layers) if adapter.layers is None else list(adapter.layers)
    sizes: dict[str, int] = {}
    for block in range(shape.num_layers):
        for linear in linears(shape):
            part = "self_attn" if linear.name in _ATTENTION else "mlp"
            sizes[f"model.layers.{block}.{part}.{linear.name}"] = linear.in_features * linear.out_features
        for norm in ("input_layernorm", "post_attention_layernorm"):
            sizes[f"model.layers.{block}.{norm}"] = shape.hidden_size
    chosen = chosen_half(list(sizes), None if len(blocks) == shape.num_layers else list(blocks), seed)
    return {name: size for name, size in sizes.items() if name in chosen}


def _submatrices(targets: list[Linear], shape: ShapeConfig, adapter: AdapterConfig, num_blocks: int) -> Trained:
    """The chosen rows or columns of each layer, and the selection, which is as wide as what it chooses from."""
    tensors, frozen = [], 0
    for linear in targets:
        num_in, num_out = linear.in_features, linear.out_features
        number = chosen_features(linear.name, num_in, num_out, adapter.s2ft_share or 0.0, shape.num_heads)
        by_inputs = linear.name in BY_INPUTS
        tensors.append(number * (num_out if by_inputs else num_in))
        frozen += number * (num_in if by_inputs else num_out)
    return Trained(tensors=tuple(tensors) * num_blocks, frozen_bytes=frozen * ADAPTER_BYTES * num_blocks)


def _of_peft(targets: list[Linear], adapter: AdapterConfig, num_blocks: int) -> Trained | None:
    """By the formula of the method's row; None where it has none, or numbers that differ by layer."""
    entry = entry_of(adapter)
    if entry is None or entry.count is None or not entry.on_layers or adapter.peft_type is None:
        return None
    fields = defaults_of(adapter.peft_type) | peft_values(adapter)
    if any(key.endswith("_pattern") and value for key, value in fields.items()):
        return None
    try:
        counts = [entry.count([(each.in_features, each.out_features, each.name)], fields) for each in targets]
        every = [(each.in_features, each.out_features, each.name) for each in targets] * num_blocks
        total = entry.count(every, fields)
    except (KeyError, TypeError, ZeroDivisionError):
        return None  # a field that PEFT fills in when it makes its layers
    apart = sum(counts) * num_blocks == total
    frozen = 0
    if adapter.peft_type == "VERA":  # two matrices for all layers, of the largest sides
        sides = max(each.in_features for each in targets) + max(each.out_features for each in targets)
        frozen = ADAPTER_BYTES * int(fields["r"]) * sides
    return Trained(tensors=tuple(counts) * num_blocks if apart else (total,), frozen_bytes=frozen)

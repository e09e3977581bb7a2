"""What QST's side network takes: its tensors, and what a pass keeps beside a base whose own activations are not kept.

Derived by reading `harness.variants.qst` and `harness.banks.side`, and held to the program on tensors without data by
tests/unit/harness/memory/test_side_network.py. N tokens, D hidden size, E of the side network, c bytes of the compute
dtype, k the rank of the downsampling:

| kept | bytes | why |
|---|---|---|
| embeddings and each layer's output | c N D | for the gradient of the first downsampling matrix |
| downsampling, a layer (of the first one twice) | c N (2 k + 2 E) | around SiLU; the layer norm's input, output |
| a block of the side network | as full finetuning of a model of its sizes | its weights are trained |
| what goes into a block | c N E | the gate's own gradient |
| mixing | 8 N D | the base's last states and the side network's in float32 |

With gradient checkpointing a block keeps its two inputs alone. A matrix of rank 0 keeps its input, and its output E.
"""

from dataclasses import dataclass, replace

from harness.config.schema import AdapterConfig, AdapterMethod, ShapeConfig
from harness.memory.activations import Pass, block_bytes, linears

_MIXING_COPIES = 4  # in float32, in its backward pass: the gradient, its products with both states, one to send on


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Bytes of a forward and backward pass."""

    kept_bytes: int  # until the side network's backward pass, rotary tables included
    recomputed_bytes: int  # of one block, with gradient checkpointing
    mixed_bytes: int  # kept from the mixing to its backward pass
    mixing_bytes: int  # of the mixing's backward pass, what it kept included
    working_bytes: int  # what passes through a layer of the base, or a block of the side network


def side_tensors(shape: ShapeConfig, adapter: AdapterConfig) -> list[int]:
    """The elements of each tensor of a side network."""
    reduction, rank, wide = adapter.qst_reduction or 1, adapter.qst_down_rank, shape.hidden_size
    narrow = wide // reduction
    block = [linear.in_features * linear.out_features // reduction**2 for linear in linears(shape)]
    down = [wide * rank, rank * narrow, narrow, narrow] if rank else [wide * narrow]
    norms_and_gate = 3 * [narrow]
    return [*(block + down + norms_and_gate) * shape.num_layers, narrow, narrow * wide, wide, 1]


def beside(run: Pass, gradient_checkpointing: bool, dequantization_bytes: int) -> Beside:
    """What a pass over a packed row takes, but for the loss.

    Args:
        run: of the base.
        gradient_checkpointing: whether blocks of the side network are computed again.
        dequantization_bytes: of the base's widest layer.
    """
    shape, side = run.shape, _side(run)
    of_wide, of_narrow = (run.compute_bytes * run.tokens * each.hidden_size for each in (shape, side.shape))
    block, rank = block_bytes(side), run.adapter.qst_down_rank or 0
    down = 2 * run.compute_bytes * run.tokens * rank + (2 if rank else 1) * of_narrow
    inner = run.compute_bytes * run.tokens * shape.intermediate_size
    of_side = shape.num_layers * (of_narrow if gradient_checkpointing else block + of_narrow)
    rotary = 2 * run.compute_bytes * run.tokens * (side.shape.hidden_size // side.shape.num_heads)
    mixed = 8 * run.tokens * shape.hidden_size
    of_base = dequantization_bytes + 2 * inner + 2 * of_wide
    return Beside(
        kept_bytes=(shape.num_layers + 1) * (of_wide + down) + of_side + rotary,
        recomputed_bytes=block if gradient_checkpointing else 0,
        mixed_bytes=mixed,
        mixing_bytes=mixed + _MIXING_COPIES * 4 * run.tokens * shape.hidden_size,
        working_bytes=max(of_base - of_side, 3 * inner // (run.adapter.qst_reduction or 1) + of_narrow),
    )


def _side(run: Pass) -> Pass:
    """The side network's own pass, as one of a model of its sizes that is finetuned whole."""
    reduction, shape = run.adapter.qst_reduction or 1, run.shape
    small = replace(
        shape, hidden_size=shape.hidden_size // reduction, intermediate_size=shape.intermediate_size // reduction
    )
    return replace(run, shape=small, adapter=replace(run.adapter, method=AdapterMethod.full))

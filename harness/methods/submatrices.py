"""How much of a layer S2FT trains: whole heads of attention, and channels of the feed-forward layers.

Layers that are coupled choose alike: a head is a part of the value layer's outputs and of the output layer's inputs, a
channel one of the gate's and the up layer's outputs and of the down layer's inputs.
"""

from collections.abc import Sequence

BY_INPUTS = ("o_proj", "down_proj")  # whose chosen columns learn
BY_OUTPUTS = ("v_proj", "gate_proj", "up_proj")  # whose chosen rows learn
OF_HEADS = ("v_proj", "o_proj")
LAYERS = (*BY_OUTPUTS, *BY_INPUTS)


def num_chosen(share: float, number: int) -> int:
    """So many of the heads or channels learn: their share, at least one."""
    return max(1, round(share * number))


def chosen_features(name: str, num_in: int, num_out: int, share: float, num_heads: int) -> int:
    """-> how many of a layer's inputs, or outputs, learn"""
    last = name.rpartition(".")[2]
    number = num_in if last in BY_INPUTS else num_out
    if last not in OF_HEADS:
        return num_chosen(share, number)
    return num_chosen(share, num_heads) * (number // num_heads)


def trained_weights(layers: Sequence[tuple[int, int, str]], share: float, num_heads: int) -> int:
    """-> the number of weights in the submatrices of layers, each of (inputs, outputs, name)"""
    total = 0
    for num_in, num_out, name in layers:
        other_side = num_out if name.rpartition(".")[2] in BY_INPUTS else num_in
        total += other_side * chosen_features(name, num_in, num_out, share, num_heads)
    return total


def heads_problem(num_heads: int) -> str:
    """What is said of a value layer with fewer heads than the queries have."""
    return (
        f"adapter.targets with v_proj: this model has fewer heads of values than its {num_heads} of queries, so they "
        "can't be chosen alike; use adapter.targets=[o_proj,down_proj]"
    )

"""How large QST's side network is, by the sizes of its base, as a plan knows them too.

Its blocks are the base's at 1 / reduction of every width, as many heads included; see `harness.variants.qst`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

FAMILIES = frozenset({"llama", "mistral", "qwen2"})  # whose layers take what these are called with
_REMEDY = "use adapter=lora or another low-rank method"


def family_problem(model_type: str) -> str | None:
    """-> why a model of this type can't have a side network, with what works instead; None if it can"""
    if model_type in FAMILIES:
        return None
    return f"adapter=qst with model_type {model_type}: known are {', '.join(sorted(FAMILIES))}; {_REMEDY}"


def side_problem(reduction: int, hidden_size: int, intermediate_size: int, head_size: int) -> str | None:
    """-> why a base's widths can't be divided so, with the remedy; None if they can

    Args:
        reduction: `adapter.qst_reduction`.
        hidden_size: of the base; its heads' together may be another one.
        intermediate_size: of its feed-forward layers.
        head_size: what a head has; half of it is rotated, so that of the side network has to be even.
    """
    if _divides(reduction, hidden_size, intermediate_size, head_size):
        return None
    fitting = [number for number in range(2, head_size) if _divides(number, hidden_size, intermediate_size, head_size)]
    remedy = f"use one of {', '.join(str(number) for number in fitting)}" if fitting else _REMEDY
    return (
        f"adapter.qst_reduction={reduction}: it has to divide the model's width of {hidden_size:,}, the "
        f"{intermediate_size:,} of its feed-forward layers, and its heads of {head_size} into even ones; {remedy}"
    )


def _divides(reduction: int, hidden_size: int, intermediate_size: int, head_size: int) -> bool:
    return not (hidden_size % reduction or intermediate_size % reduction or head_size % (2 * reduction))


def side_numbers(layers: Sequence[tuple[int, int, str]], fields: Mapping[str, Any]) -> int:
    """-> how many numbers a side network has

    Args:
        layers: the base's linear layers within its blocks, each (inputs, outputs, name).
        fields: qst_reduction, qst_down_rank; of the base hidden_size, num_layers and num_biases, the elements of the
            biases in its blocks.
    """
    reduction, rank, wide = fields["qst_reduction"], fields["qst_down_rank"], fields["hidden_size"]
    narrow = wide // reduction
    down = rank * (wide + narrow) + 2 * narrow if rank else wide * narrow  # with a layer norm's weight and bias
    blocks = sum(i * o for i, o, _ in layers) // reduction**2 + fields["num_biases"] // reduction
    norms_and_gate = 3 * narrow
    up = narrow + narrow * wide + wide  # with the norm before it and a bias
    return int(blocks + fields["num_layers"] * (down + norms_and_gate) + up + 1)

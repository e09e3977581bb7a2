"""S2FT: a few heads and channels are chosen, and the dense submatrices that they are joined by learn.

    y = W x + D x[chosen]            of an attention's output layer and a feed-forward block's last one; D starts at 0
    y[chosen] = W[chosen] x + D x    of the layers before them, where `adapter.targets` names them too

The paper permutes the coupled layers so that what is chosen lies side by side; the function is the same, so an index
does here. D beside W is W's own submatrix, trained in place: W + D is what the paper's run ends with. As a LoRA the
other factor is a selection, a single 1 in each row, and any program that reads PEFT's files computes it.

Source: S2FT (arXiv 2412.06289) section 3.2, chosen at random (S2FT-R).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.methods.blocks import block_of
from harness.methods.submatrices import BY_INPUTS, OF_HEADS, chosen_features, heads_problem, num_chosen


class _Selection(nn.Linear):
    """The product with a selection: it takes the chosen inputs, or lays what it is given into the chosen outputs."""

    index_R: Tensor
    takes: bool

    def forward(self, input: Tensor) -> Tensor:
        if self.takes:
            return input[..., self.index_R]
        return input.new_zeros(*input.shape[:-1], self.out_features).index_copy_(-1, self.index_R, input)


def ranks(sizes: Sequence[tuple[int, int, str]], share: float, num_heads: int) -> dict[str, int]:
    """-> how many features of each layer learn, by the last part of its name

    Raises:
        ValueError: heads of values that several heads of queries share.
    """
    found: dict[str, int] = {}
    for num_in, num_out, name in sizes:
        last, features = name.rpartition(".")[2], num_in if name.endswith(BY_INPUTS) else num_out
        if last in OF_HEADS and (features % num_heads or (last == "v_proj" and features < num_in)):
            raise ValueError(heads_problem(num_heads))
        found[last] = chosen_features(name, num_in, num_out, share, num_heads)
    return found


def select(layer: Any, adapter: str, name: str, share: float, num_heads: int, seed: int) -> None:
    """Makes one factor of PEFT's LoRA around a layer a selection, which is frozen; the other one starts at 0.

    Args:
        layer: PEFT's.
        adapter: the adapter's name in it.
        name: the layer's.
        share: of heads and channels.
        num_heads: of the attention.
        seed: of the run.
    """
    factors = {True: layer.lora_A[adapter], False: layer.lora_B[adapter]}
    takes = name.endswith(BY_INPUTS)
    selection, learned = factors[takes], factors[not takes]
    number = layer.in_features if takes else layer.out_features
    index_R = chosen(name, number, share, num_heads, seed).to(selection.weight.device)
    one_hot = torch.nn.functional.one_hot(index_R, number).to(selection.weight.dtype)
    with torch.no_grad():
        selection.weight.copy_(one_hot if takes else one_hot.T)
        learned.weight.zero_()
    selection.weight.requires_grad_(False)
    selection.__class__, selection.index_R, selection.takes = _Selection, index_R, takes


def chosen(name: str, number: int, share: float, num_heads: int, seed: int) -> Tensor:
    """-> which of a layer's features learn, ascending; equal for coupled layers of one block, [R]"""
    place = block_of(f"{name}.")
    of_heads = name.rpartition(".")[2] in OF_HEADS
    units = num_heads if of_heads else number
    rng = np.random.default_rng([seed, int(of_heads), 0 if place is None else place[1]])
    picked = np.sort(rng.permutation(units)[: num_chosen(share, units)])
    size = number // units
    return torch.from_numpy((picked[:, None] * size + np.arange(size)).reshape(-1))

"""Half finetuning: of every kind of weight in a layer one half learns, and the other half keeps what it knows.

    of each layer 2 of 4 attention matrices, 1 or 2 of 3 feed-forward ones (in turn) and 1 of 2 norms learn

The weights that learn are those of full finetuning, so nothing is added to the model. The half is drawn
at random. A layer with another number of
matrices of a kind has a half of them, rounded down in one layer and up in the next.

Source: HFT (arXiv 2404.18466), selection by category, section 3.2.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from harness.methods.blocks import block_of

_ATTENTION = ("attn", "attention", "query_key_value")
_NORM = ("norm", "ln_", "layernorm")


def kind_of(module: str) -> str:
    """The kind of weight that a module of a block holds, by its name: attention, norm or feed-forward."""
    own, within = module.rpartition(".")[2].lower(), module.lower()
    if any(word in own for word in _NORM):
        return "norm"
    return "attention" if any(word in within for word in _ATTENTION) else "feed-forward"


def categories(modules: Sequence[str]) -> dict[tuple[str, int, str], list[str]]:
    """-> the modules of each (stack, block, kind), in their order; those outside of blocks are in none"""
    found: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for module in modules:
        if (place := block_of(f"{module}.")) is not None:
            found[(*place, kind_of(module))].append(module)
    return dict(found)


def chosen_half(modules: Sequence[str], blocks: Collection[int] | None, seed: int) -> set[str]:
    """The modules whose weights learn.

    Args:
        modules: names of those that have weights of their own, in the model's order.
        blocks: `adapter.layers`; None: all.
        seed: of the run; each category draws from its own stream.
    """
    chosen = set[str]()
    for (stack, block, kind), members in categories(modules).items():
        if blocks is not None and block not in blocks:
            continue
        rng = np.random.default_rng([seed, block, *kind.encode(), *stack.encode()])
        number = half_of(len(members), block)
        chosen |= {members[index] for index in rng.permutation(len(members))[:number]}
    return chosen


def half_of(number: int, block: int) -> int:
    """A half of so many, an odd one rounded down in even blocks and up in odd ones."""
    return (number + block % 2) // 2

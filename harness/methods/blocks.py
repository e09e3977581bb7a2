"""Which block of a model a layer or a trained tensor belongs to, by its name.

    block_of("base_model.model.model.layers.3.mlp.up_proj.lora_A.weight")    # ("model.layers", 3)

A block is what a decoder repeats: an attention with its feed-forward layers. An encoder-decoder has two stacks, each
counted from 0.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

_BEFORE = re.compile(r"embed(?!_out)|\.wte\.|\.wpe\.|shared\.")  # tables of tokens and of positions
_BLOCK = re.compile(r"(?:base_model\.model\.)?(?P<stack>[A-Za-z_.]*?[A-Za-z_])\.(?P<block>\d+)\.")


def block_of(name: str) -> tuple[str, int] | None:
    """-> the stack and the block's number in it; None of what stands before, behind or beside the blocks"""
    match = _BLOCK.match(name)
    return None if match is None else (match["stack"], int(match["block"]))


def in_blocks(names: Sequence[str], blocks: Sequence[int] | None) -> list[str]:
    """Those of the names that lie in the numbered blocks; all of them where `blocks` is None.

    Raises:
        ValueError: a block that none of the names has.
    """
    if blocks is None:
        return list(names)
    there = {place[1] for name in names if (place := block_of(name)) is not None}
    if beyond := sorted(set(blocks) - there):
        raise ValueError(blocks_problem(beyond, max(there, default=-1) + 1))
    return [name for name in names if (place := block_of(name)) is not None and place[1] in blocks]


def blocks_problem(beyond: Sequence[int], num_blocks: int) -> str:
    """What is said of blocks that a model doesn't have."""
    return f"adapter.layers={list(beyond)}: no such layer; this model has {num_blocks}, counted from 0"


def depths(names: Iterable[str]) -> dict[str, int]:
    """-> the number of blocks of each stack that the names are of"""
    found: dict[str, int] = {}
    for stack, block in (place for name in names if (place := block_of(name)) is not None):
        found[stack] = max(found.get(stack, 0), block + 1)
    return found


def rate_ratio(name: str, decay: float, num_blocks: Mapping[str, int]) -> float:
    """The learning rate of a trained tensor, as a part of the run's: the last block has all of it.

    Each block before another has `decay` times its rate, embeddings `decay` times the first block's; what stands behind
    the blocks (a last norm, a head) learns at the run's rate. Source: ULMFiT (arXiv 1801.06146) section 3.2; layer-wise
    rate decay of ELECTRA (arXiv 2003.10555, appendix A).

    Args:
        name: the tensor's.
        decay: `train.layer_lr_decay`.
        num_blocks: of each stack (`depths`).
    """
    place = block_of(name)
    if place is not None:
        stack, block = place
        return float(decay ** (num_blocks.get(stack, block + 1) - 1 - block))
    if _BEFORE.search(name):
        return float(decay ** max(num_blocks.values(), default=0))
    return 1.0

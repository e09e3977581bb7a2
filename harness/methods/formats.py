"""The formats among which LQ-LoRA shares out its bits, and what a matrix takes in each.

    format_of("nf3-u8-fp32-64x256")     # 3 bits; 64 weights share a uint8 scale, 256 scales a float32 constant

No kernel for them is here: a layer in such a format is simulated (`harness.variants.lq_rounding`), so that it takes the
memory of the compute dtype, and `stored_bits` is what the format itself would take.

Source: LQ-LoRA (arXiv 2311.12023) section 3.2, and the authors' code (github.com/HanGuo97/lq-lora), whose 432 formats
these are. Theirs need a multiple of a whole group of blocks; here the last block and group may be shorter.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

_CONSTANT_BITS = {"bf16": 16, "fp16": 16, "fp32": 32}
_OFFSET_BITS = 32  # the smallest scale, one number a matrix


class Format(NamedTuple):
    """A way of storing a matrix."""

    bits: int  # of a weight
    scale_bits: int  # of a block's scale
    constant: str  # data type of a group's largest scale: bf16, fp16, fp32
    block_size: int  # weights that share a scale
    group_size: int  # blocks whose scales share a constant

    @property
    def name(self) -> str:
        """What `format_of` reads."""
        return f"nf{self.bits}-u{self.scale_bits}-{self.constant}-{self.block_size}x{self.group_size}"


FORMATS = tuple(
    Format(*values)
    for values in itertools.product((2, 3, 4, 8), (2, 3, 4, 8), ("bf16", "fp16", "fp32"), (16, 32, 64), (16, 64, 256))
)
_BY_NAME = {known.name: known for known in FORMATS}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: no such format.
    """
    if name not in _BY_NAME:
        raise ValueError(f"{name}: no format of LQ-LoRA's; they are named as {FORMATS[0].name} is")
    return _BY_NAME[name]


def stored_bits(kind: Format, num_weights: int) -> int:
    """What a matrix takes: its codes, scales, constants and offset."""
    num_blocks = -(-num_weights // kind.block_size)
    num_groups = -(-num_blocks // kind.group_size)
    scales = kind.scale_bits * num_blocks + _CONSTANT_BITS[kind.constant] * num_groups
    return kind.bits * num_weights + scales + _OFFSET_BITS


def bits_a_weight(kind: Format) -> float:
    """What a weight of a large matrix takes, its part of scales and constants included."""
    return kind.bits + (kind.scale_bits + _CONSTANT_BITS[kind.constant] / kind.group_size) / kind.block_size


LEAST_BITS, MOST_BITS = (choose(map(bits_a_weight, FORMATS)) for choose in (min, max))


def summary(formats: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """What a record says of layers in such formats.

    Args:
        formats: the name of each layer's format.
        sizes: the number of weights of each layer.
    """
    taken = sum(stored_bits(format_of(kind), sizes[name]) for name, kind in formats.items())
    num_weights = sum(sizes[name] for name in formats)
    return {
        "simulated": True,  # held in the compute dtype
        "bits": taken / num_weights,  # of a weight in these formats
        "num_weights": num_weights,
        "layers": dict(sorted(Counter(formats.values()).items())),  # by format
        "sha256": digest(formats),
    }


def digest(formats: Mapping[str, str]) -> str:
    """The sha256 of which layer has which format."""
    return hashlib.sha256(json.dumps(formats, sort_keys=True).encode()).hexdigest()

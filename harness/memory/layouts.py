"""The linear layers of a T5 and of a RoBERTa, block by block, as transformers has them.

Source: T5 v1.1 (arXiv 1910.10683, 2002.05202) and RoBERTa (arXiv 1907.11692).
"""

from harness.config.schema import ShapeConfig
from harness.memory.activations import ATTENTION, Linear

T5_HEAD_SIZE = 64  # whatever the width
ENCODED = "encoded"  # the encoder's output, which the decoder's blocks read


def t5_encoder(shape: ShapeConfig) -> list[Linear]:
    """The layers of a block of the encoder."""
    return [*_t5_attention(shape, "norm1", "norm1"), *_t5_feed_forward(shape)]


def t5_decoder(shape: ShapeConfig) -> list[Linear]:
    """The layers of a block of the decoder, which attends to the encoder's output, too."""
    own, cross = _t5_attention(shape, "norm1", "norm1"), _t5_attention(shape, "norm2", ENCODED)
    return [*own, *cross, *_t5_feed_forward(shape)]


def roberta_block(shape: ShapeConfig) -> list[Linear]:
    """The layers of a block; each has a bias."""
    width, wide = shape.hidden_size, shape.intermediate_size
    names = (("query", "input"), ("key", "input"), ("value", "input"), ("dense", ATTENTION))
    attention = [_linear(name, reads, width, width) for name, reads in names]
    return [*attention, _linear("dense", "norm1", width, wide), _linear("dense", "inner", wide, width)]


def _t5_attention(shape: ShapeConfig, queries: str, keys: str) -> list[Linear]:
    width, inner = shape.hidden_size, shape.num_heads * T5_HEAD_SIZE
    reads = (("q", queries), ("k", keys), ("v", keys))
    return [*(_linear(name, of, width, inner) for name, of in reads), _linear("o", ATTENTION, inner, width)]


def _t5_feed_forward(shape: ShapeConfig) -> list[Linear]:
    names = ("wi_0", "wi_1") if shape.gated_mlp else ("wi",)
    into = [_linear(name, "norm3", shape.hidden_size, shape.intermediate_size) for name in names]
    return [*into, _linear("wo", "inner", shape.intermediate_size, shape.hidden_size)]


def _linear(name: str, reads: str, in_features: int, out_features: int) -> Linear:
    return Linear(name=name, reads=reads, in_features=in_features, out_features=out_features)

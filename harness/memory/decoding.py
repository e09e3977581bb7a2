"""Predicts the memory of scoring and of generating: the base, an adapter, keys and values, a pass without gradients.

Arithmetic as in `harness.memory`, for a plan: an evaluation under way asks the loaded model and the device.
tests/unit/harness/memory/test_decoding.py holds it to fake CUDA tensors.
"""

from dataclasses import dataclass

from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod, ShapeConfig
from harness.memory.activations import ADAPTER_BYTES
from harness.memory.predict import (
    DTYPE_BYTES,
    check,
    check_targets,
    dequantization_bytes,
    factor_copies_bytes,
    trained_tensors,
    weights_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingPrediction:
    """Bytes while sequences are generated, by what they are for."""

    weights_bytes: int
    adapter_bytes: int  # in float32, and the copies in the compute dtype that a GPU makes once a row
    cache_bytes: int  # keys and values of every slot, as long as its sequence may get
    working_bytes: int  # of the pass over new prompts, whose keys and values wait to be copied, or of a step's logits

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.adapter_bytes + self.cache_bytes + self.working_bytes


def key_value_bytes_per_token(shape: ShapeConfig, dtype: DType) -> int:
    """Keys and values of one token in every layer, in the compute dtype."""
    head_size = shape.hidden_size // shape.num_heads
    return 2 * shape.num_layers * shape.num_kv_heads * head_size * DTYPE_BYTES[dtype]


def predict_decoding(
    shape: ShapeConfig, quant: QuantConfig, adapter: AdapterConfig, slots: int, tokens: int, prompt_tokens: int
) -> DecodingPrediction:
    """The memory of generating with one adapter.

    Args:
        shape: of a decoder.
        quant: `compute_dtype` resolved, not auto.
        adapter: method `none`: the base alone.
        slots: sequences that are generated at a time.
        tokens: of a sequence at most, its prompt included; each slot has room for so many.
        prompt_tokens: of a row of prompts that enter together.

    Raises:
        ValueError: an unknown shape, `compute_dtype=auto`, or targets that a LLaMA block doesn't have.
    """
    check(shape, quant)
    check_targets(shape, adapter)
    adapted = adapter.method not in (AdapterMethod.none, AdapterMethod.full)
    per_token = key_value_bytes_per_token(shape, quant.compute_dtype)
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    prefill = per_token * prompt_tokens + forward_bytes(shape, quant, prompt_tokens)
    logits = slots * shape.vocab_size * (4 if compute_bytes == 4 else 4 + compute_bytes)
    elements = sum(trained_tensors(shape, adapter)) if adapted else 0
    return DecodingPrediction(
        weights_bytes=weights_bytes(shape, quant),
        adapter_bytes=ADAPTER_BYTES * elements + factor_copies_bytes(elements, compute_bytes, num_members=1),
        cache_bytes=slots * tokens * per_token,
        working_bytes=max(prefill, logits),
    )


def forward_bytes(shape: ShapeConfig, quant: QuantConfig, tokens: int) -> int:
    """What passes through a block without gradients: a row of prompts, or of questions that are scored.

    The embedded tokens, the stream as the block got it, as attention left it, and normed; of the feed-forward part
    three widths, or two beside a dequantized matrix with its float32 constants.
    """
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    stream = compute_bytes * tokens * shape.hidden_size
    inner = compute_bytes * tokens * shape.intermediate_size
    rotary = 2 * compute_bytes * tokens * (shape.hidden_size // shape.num_heads)
    matrix = dequantization_bytes(shape, quant)
    if quant.method in (QuantMethod.nf4, QuantMethod.fp4) and quant.double_quant:
        matrix += 4 * matrix // compute_bytes // quant.block_size
    widths = 3 if shape.gated_mlp else 2
    return 4 * stream + rotary + max(widths * inner, (widths - 1) * inner + matrix)

"""Computes what autograd keeps of a padded batch of a T5 or a RoBERTa that PEFT's LoRA trains.

Derived by reading transformers' blocks and PEFT's layers, and held to the program itself on tensors without data
(tests/unit/harness/memory/test_padded.py; benchmarks/results/memory-2026-11-30.md). N tokens of a batch with its
padding (of a decoder M), D hidden size, F feed-forward width, I = 64 H for H heads, c bytes of the compute dtype, r the
rank. A batch of several examples counts as padded: each of them has a mask of its own.

| kept by one block of a T5 | bytes | why |
|---|---|---|
| each norm | (4 + c) N D + 4 N; in float32 4 N D + 4 N | its input, in float32 too, and 1/rms |
| queries, keys, values, what attention gives | 4 c N I + 4 N H | log-sum-exp for each head |
| what is added to scores | c H N S; in the decoder c H T T, c H M S | position, order, padding; S keys, T targets |
| GELU with its gate, or ReLU | 6 c N F, or c N F | GELU is six operations |
| the model's own dropout | 2 N D + N F, in the decoder 3 N D + N F | masks |
| adapters | c N r, and what they read once | x A^T; norms' results, what the last layer reads |
| dropout of the adapters' | (1 + c) N I for a layer of I inputs | mask and result, instead of what they read |

| kept by one block of RoBERTa | bytes | why |
|---|---|---|
| each norm | c N D + 8 N | its input, mean and 1/deviation |
| queries, keys, values, what attention gives | 4 c N D + 4 N H | |
| a padded batch's mask | c N S | |
| GELU | c N F | its input |
| the model's own dropout | 2 N D | |
| adapters, and their dropout | as above | |

With gradient checkpointing a block keeps its input alone; T5's biases of position and the masks are kept once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.memory.activations import ATTENTION, INT8_INPUT_BYTES, Linear
from harness.memory.floor import least
from harness.memory.layouts import ENCODED, T5_HEAD_SIZE, roberta_block, t5_decoder, t5_encoder
from harness.memory.predict import DTYPE_BYTES, MemoryPrediction, logits_bytes

LORA_METHODS = frozenset(  # by PEFT's LoRA layers, whatever A and B start from
    {
        *(AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.pissa, AdapterMethod.olora, AdapterMethod.corda),
        *(AdapterMethod.eva, AdapterMethod.loftq, AdapterMethod.lora_ga),
    }
)
BIAS_ALIGNMENT = 8  # elements to which rows of numbers that are added to scores are filled up
SUMS_ALIGNMENT = 32  # of log-sum-exp


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedPass:
    """One forward and backward pass over a padded batch of examples of one length."""

    kind: ModelKind
    shape: ShapeConfig
    quant: QuantConfig
    adapter: AdapterConfig
    examples: int
    source: int  # tokens that the encoder reads, an EOS included
    target: int  # tokens of the decoder; 0: there is none
    compute_bytes: int

    @property
    def inner(self) -> int:
        """The width of attention."""
        return self.shape.num_heads * T5_HEAD_SIZE if self.kind is ModelKind.seq2seq else self.shape.hidden_size

    @property
    def read(self) -> int:
        """Tokens of the encoder."""
        return self.examples * self.source

    @property
    def written(self) -> int:
        """Tokens of the decoder."""
        return self.examples * self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Bytes that autograd keeps of a batch."""

    blocks_bytes: int  # from the forward to the backward pass
    recomputed_bytes: int  # with gradient checkpointing: one block's, made again in the backward pass
    working_bytes: int  # temporary tensors of the backward pass of the last block, less what is gone by then


def predict_padded(
    model: ModelConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    train: TrainConfig | None,
    row_tokens: int,
    longest: int,
    source: int,
) -> MemoryPrediction | None:
    """The memory of a training pass of a T5 or a RoBERTa over a full row of examples as long as they may be.

    Rows of examples of other lengths are padded to as many tokens at most (`harness.nn.batch.padded_batches`), but
    where a T5's long sources meet long targets of others in one batch, it takes more.

    Args:
        model: an encoder-decoder of T5's kind, or an encoder that classifies as RoBERTa does.
        quant: `compute_dtype` resolved, not auto.
        adapter: LoRA, whatever it starts from; other methods keep what is not derived here.
        train: optimizer and gradient checkpointing; None trains nothing.
        row_tokens: of all examples of a pass, sources and targets; one example always makes a row.
        longest: tokens of an example, source and target.
        source: of them, what a T5's encoder reads, without EOS.

    Returns:
        None where it is not known.
    """
    static = least(model, quant, adapter, train)
    if static is None or train is None or adapter.method is AdapterMethod.none:
        return static
    if adapter.method not in LORA_METHODS:
        return None
    writes = model.kind is ModelKind.seq2seq
    whole = max(1, row_tokens // longest)
    full = PaddedPass(
        kind=model.kind,
        shape=model.shape,
        quant=quant,
        adapter=adapter,
        examples=whole,
        source=source + 1 if writes else longest,
        target=max(1, longest - source) if writes else 0,
        compute_bytes=DTYPE_BYTES[quant.compute_dtype],
    )
    matrix_bytes = _dequantization_bytes(full)
    kept = kept_by_batch(full, train.gradient_checkpointing, matrix_bytes)
    activations, loss = kept.blocks_bytes, _loss_bytes(full)
    if left := max(0, row_tokens - whole * longest):  # room for a shorter example, in a batch of its own
        share = left / longest
        last = replace(full, examples=1, source=round(full.source * share), target=round(full.target * share))
        of_last = kept_by_batch(last, train.gradient_checkpointing, matrix_bytes).blocks_bytes
        activations, loss = activations + of_last, max(_loss_bytes(last), loss - of_last)
    return replace(
        static,
        activation_bytes=activations,
        recomputed_bytes=kept.recomputed_bytes,
        logits_bytes=loss,
        last_norm_bytes=5 * 4 * full.written * model.shape.hidden_size,
        dequantization_bytes=matrix_bytes,
        working_bytes=kept.working_bytes,
    )


def _loss_bytes(run: PaddedPass) -> int:
    """Bytes of a batch's loss: a chunk of logits, the states that go in and out of it; a classifier's are few."""
    if run.kind is ModelKind.classifier:
        return 0
    states = run.written * (8 + run.compute_bytes * run.shape.hidden_size)
    return states + logits_bytes(run.shape, run.written, run.compute_bytes)


def _dequantization_bytes(run: PaddedPass) -> int:
    """Bytes of the last layer in the compute dtype, where it is quantized."""
    if run.quant.method is QuantMethod.none:
        return 0
    return run.shape.hidden_size * run.shape.intermediate_size * run.compute_bytes


def kept_by_batch(run: PaddedPass, checkpointing: bool, dequantization_bytes: int) -> Kept:
    """What a pass over every block keeps, and what passes through one."""
    shape = run.shape
    last = _roberta(run) if run.kind is ModelKind.classifier else _t5_decoder(run)
    blocks = [last] if run.kind is ModelKind.classifier else [_t5_encoder(run), last]
    tokens = run.read if run.kind is ModelKind.classifier else run.written
    working = _working(run, tokens, dequantization_bytes)
    if not checkpointing:
        kept = shape.num_layers * sum(blocks) + _ends(run)
        return Kept(blocks_bytes=kept, recomputed_bytes=0, working_bytes=working)
    stream = run.compute_bytes * shape.hidden_size
    kept = shape.num_layers * stream * (run.read + run.written) + _ends(run) + _kept_once(run)
    return Kept(blocks_bytes=kept, recomputed_bytes=max(blocks), working_bytes=working)


def _t5_encoder(run: PaddedPass) -> int:
    """Bytes that a block of the encoder keeps."""
    shape, tokens = run.shape, run.read
    bias = run.compute_bytes * run.examples * shape.num_heads * run.source * _filled(run.source)
    attention = 4 * run.compute_bytes * tokens * run.inner + _sums(run, run.source)
    norms = 2 * _norm(run, tokens)
    dropped = tokens * (2 * shape.hidden_size + shape.intermediate_size)
    return bias + attention + norms + dropped + _gate(run, tokens) + _adapters(run, t5_encoder(shape), tokens)


def _t5_decoder(run: PaddedPass) -> int:
    """Bytes that a block of the decoder keeps."""
    shape, tokens, c = run.shape, run.written, run.compute_bytes
    own = c * shape.num_heads * run.target * _filled(run.target)
    cross = c * run.examples * shape.num_heads * run.target * _filled(run.source)
    attention = c * run.inner * (6 * tokens + 2 * run.read) + 2 * _sums(run, run.target)
    norms = 3 * _norm(run, tokens)
    dropped = tokens * (3 * shape.hidden_size + shape.intermediate_size)
    return own + cross + attention + norms + dropped + _gate(run, tokens) + _adapters(run, t5_decoder(shape), tokens)


def _roberta(run: PaddedPass) -> int:
    """Bytes that a block of RoBERTa keeps."""
    shape, tokens, c = run.shape, run.read, run.compute_bytes
    mask = c * tokens * _filled(run.source) if run.examples > 1 else 0
    attention = 4 * c * tokens * run.inner + _sums(run, run.source)
    norms = 2 * (c * tokens * shape.hidden_size + 8 * tokens)
    dropped = 2 * tokens * shape.hidden_size
    gelu = c * tokens * shape.intermediate_size
    return mask + attention + norms + dropped + gelu + _adapters(run, roberta_block(shape), tokens)


def _adapters(run: PaddedPass, layers: Sequence[Linear], tokens: int) -> int:
    """Bytes that the adapters of a block keep: A's results, and what they read, or what dropout leaves of it."""
    own, inputs = 0, dict[str, int]()
    for layer in layers:
        number = run.read if layer.reads == ENCODED else tokens
        if not layer.is_target(run.adapter):
            continue
        own += run.compute_bytes * run.adapter.lora_r * number
        if run.adapter.lora_dropout:
            own += (1 + run.compute_bytes) * number * layer.in_features
        else:
            inputs[layer.reads] = run.compute_bytes * number * layer.in_features
    inputs.pop(ATTENTION, None)  # it is there already
    inputs.pop(ENCODED, None)  # once for all blocks
    return own + sum(inputs.values())


def _gate(run: PaddedPass, tokens: int) -> int:
    """Bytes that the feed-forward part's activation keeps."""
    return (6 if run.shape.gated_mlp else 1) * run.compute_bytes * tokens * run.shape.intermediate_size


def _norm(run: PaddedPass, tokens: int) -> int:
    width = 4 if run.compute_bytes == 4 else 4 + run.compute_bytes
    return width * tokens * run.shape.hidden_size + 4 * tokens


def _sums(run: PaddedPass, length: int) -> int:
    """Bytes of log-sum-exp of an attention whose sequences have so many queries."""
    return 4 * run.examples * run.shape.num_heads * math.ceil(length / SUMS_ALIGNMENT) * SUMS_ALIGNMENT


def _filled(length: int) -> int:
    return math.ceil(length / BIAS_ALIGNMENT) * BIAS_ALIGNMENT


def _ends(run: PaddedPass) -> int:
    """Bytes kept once for all blocks: the last dropouts' masks; a T5's encoder's output."""
    if run.kind is ModelKind.classifier:
        return 0
    hidden = run.shape.hidden_size
    return hidden * (run.read + run.written) + run.compute_bytes * hidden * run.read


def _kept_once(run: PaddedPass) -> int:
    """Bytes that blocks are handed, with checkpointing: masks, biases of position, the embeddings' dropout."""
    embedded = run.shape.hidden_size * (run.read + run.written)
    if run.kind is ModelKind.classifier:
        sums = 2 * run.compute_bytes * run.read * run.shape.hidden_size  # the first norm's input, and the embeddings
        return embedded + sums + (run.read * run.source if run.examples > 1 else 0)
    heads = run.compute_bytes * run.shape.num_heads
    positions = heads * (run.source**2 + run.target**2 + run.target * run.source)
    masks = run.read * run.source + run.written * run.source if run.examples > 1 else 0
    return embedded + positions + masks + _norm(run, run.read) + _norm(run, run.written)


def _working(run: PaddedPass, tokens: int, dequantization_bytes: int) -> int:
    """Bytes of temporary tensors where the last block's feed-forward part needs most, less what is gone by then.

    The largest of these moments:

    1. backward, the frozen product of its last layer: the matrix, both parts of its input's gradient
    2. backward, the product with the gate, or the activation
    3. LLM.int8, forward: the input in float16 and int8, which are outliers; the result in int32, float16 and 16 bits

    In the backward moments there are two gradients of the residual stream, and that of the encoder's output.
    """
    shape, c = run.shape, run.compute_bytes
    inner, stream = c * tokens * shape.intermediate_size, c * tokens * shape.hidden_size
    if run.kind is ModelKind.classifier:
        gone = inner + stream + tokens * shape.hidden_size
    else:
        gone = inner + _norm(run, tokens) + 2 * tokens * shape.hidden_size
    gates = 3 if run.shape.gated_mlp else 2
    of_encoder = c * run.read * shape.hidden_size if run.target else 0
    backward = max(dequantization_bytes + 2 * inner, gates * inner) + 2 * stream + of_encoder - gone
    if run.quant.method is not QuantMethod.int8:
        return backward
    input_bytes = INT8_INPUT_BYTES + (0 if run.adapter.lora_dropout else 1)
    return max(backward, tokens * (input_bytes * shape.intermediate_size + (4 + 2 + c) * shape.hidden_size))

"""Computes what autograd keeps between the forward and the backward pass of a packed row.

Derived by reading harness/banks/shared.py, harness/nn/attention.py, harness/nn/loss.py and transformers' LLaMA block,
and held to `torch.autograd.graph.saved_tensors_hooks` in tests/unit/harness/memory/test_predict.py. N tokens, D hidden
size, F feed-forward width, H query heads of d, c bytes of the compute dtype, r the rank.

Kept by one block:

| kept | bytes | why |
|---|---|---|
| both RMS norms | 2 (4 N D + 4 N) | the input in float32 and 1/rms; the gain is frozen |
| rotated queries, keys, values | c N (H + 2 K) d | in bfloat16, by one variable-length call; K heads of keys |
| the same, other dtypes | 3 c N H d | keys and values repeated to H heads (grouped queries) |
| attention output, log-sum-exp | c N H d + 4 N H | in bfloat16 it is what the next layer reads, too |
| gate, silu(gate), up | 3 c N F | of a gated MLP; else the activation's input, c N F |
| adapter of a layer with I inputs | c N r | x A^T, and c N I once for layers that share an input |
| with dropout | N I | the mask, a byte an element |
| full finetuning | c N I once a shared input, c N D a norm | for the weights' own gradients |

The first block's input needs no gradient: its first norm keeps nothing. Kept once:
rotary cosines and sines 2 c N d, the last norm, target positions (8 bytes each) and the loss's gradient c N D.
With gradient checkpointing a block keeps its input alone, c N D.
"""

from dataclasses import dataclass

from harness.config.schema import ALL_LINEAR, AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod, ShapeConfig
from harness.devices.buffers import DRAW_BYTES

ADAPTER_BYTES = 4  # adapters and their gradients are float32
ATTENTION = "attention"  # what the output projection reads
MAX_HEAD_SIZE = 256  # of the variable-length kernel
INT8_INPUT_BYTES = 3  # of an element, beside a masked copy, while LLM.int8 quantizes it: a bool and float16


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer of one block. Layers of equal `reads` read the same tensor."""

    name: str
    reads: str
    in_features: int
    out_features: int

    def is_target(self, adapter: AdapterConfig) -> bool:
        """Whether the adapter learns here."""
        if adapter.method in (AdapterMethod.none, AdapterMethod.full):
            return False
        return list(adapter.targets) == [ALL_LINEAR] or self.name in adapter.targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass over a packed row."""

    shape: ShapeConfig
    quant: QuantConfig
    adapter: AdapterConfig
    tokens: int
    compute_bytes: int

    @property
    def in_one_call(self) -> bool:
        """Whether a GPU attends by one variable-length call (`harness.nn.attention_kernels`): what has bfloat16 can."""
        head_size = self.shape.hidden_size // self.shape.num_heads
        return self.quant.compute_dtype is DType.bfloat16 and head_size % 8 == 0 and head_size <= MAX_HEAD_SIZE

    @property
    def has_dropout(self) -> bool:
        """Whether the adapter's inputs are dropped."""
        return bool(self.adapter.lora_dropout)

    def mask_bytes(self, linear: Linear) -> int:
        """Bytes of the adapter's dropout mask for each element of the layer's input."""
        return 1 if linear.is_target(self.adapter) and self.has_dropout else 0

    def keeps_input(self, linear: Linear) -> bool:
        """Whether the very tensor that the layer reads is kept (once, if others keep it too)."""
        if self.adapter.method is AdapterMethod.full:
            return True
        return linear.is_target(self.adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Bytes that autograd keeps from the forward to the backward pass."""

    blocks_bytes: int  # of all blocks, with the rotary tables that they share
    loss_bytes: int  # after the last block; gone when the blocks' backward pass begins
    recomputed_bytes: int  # of one block, made again in the backward pass (gradient checkpointing)


def linears(shape: ShapeConfig) -> list[Linear]:
    """The linear layers of one block, in the order of the forward pass, by LLaMA's names."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    keys = hidden // shape.num_heads * shape.num_kv_heads
    up = ["gate_proj", "up_proj"] if shape.gated_mlp else ["up_proj"]
    rows = [("q_proj", "norm1", hidden, hidden), ("k_proj", "norm1", hidden, keys), ("v_proj", "norm1", hidden, keys)]
    rows += [("o_proj", ATTENTION, hidden, hidden), *((name, "norm2", hidden, inner) for name in up)]
    rows += [("down_proj", "inner", inner, hidden)]
    return [Linear(name=name, reads=reads, in_features=i, out_features=o) for name, reads, i, o in rows]


def saved_by_pass(run: Pass, gradient_checkpointing: bool) -> Saved:
    """The bytes that a pass over every block and the loss keeps, if every token is a target."""
    shape, tokens = run.shape, run.tokens
    rotary = 2 * run.compute_bytes * tokens * (shape.hidden_size // shape.num_heads)
    loss = _norm(run) + tokens * (8 + run.compute_bytes * shape.hidden_size)
    if not gradient_checkpointing:
        blocks = shape.num_layers * block_bytes(run) - _untracked(run)
        return Saved(blocks_bytes=blocks + rotary, loss_bytes=loss, recomputed_bytes=0)
    stream = run.compute_bytes * tokens * shape.hidden_size
    # in float32 the first norm keeps the stream itself, which is the input that the checkpoint holds
    shared = stream if run.compute_bytes == 4 else 0
    return Saved(
        blocks_bytes=shape.num_layers * stream + rotary,
        loss_bytes=loss,
        recomputed_bytes=block_bytes(run) - shared,
    )


def block_bytes(run: Pass) -> int:
    """The bytes that one block keeps, by the table above."""
    shape, tokens, compute = run.shape, run.tokens, run.compute_bytes
    key_heads = shape.num_kv_heads if run.in_one_call else shape.num_heads
    head = compute * tokens * (shape.hidden_size // shape.num_heads)
    attention = 2 * head * (shape.num_heads + key_heads) + 4 * tokens * shape.num_heads
    inputs = _shared_inputs(run)
    if run.in_one_call:
        inputs.pop(ATTENTION, None)  # it is the attention's output, a view of it
    inner = (3 if shape.gated_mlp else 1) * compute * tokens * shape.intermediate_size
    full = run.adapter.method is AdapterMethod.full
    norms = 2 * (_norm(run) + (compute * tokens * shape.hidden_size if full else 0))
    own = 0
    for linear in linears(shape):
        own += run.mask_bytes(linear) * tokens * linear.in_features
        if linear.is_target(run.adapter):
            own += compute * run.adapter.lora_r * tokens
    return norms + attention + inner + own + sum(inputs.values())


def working_bytes(run: Pass, gradient_checkpointing: bool, dequantization_bytes: int, num_members: int = 1) -> int:
    """The bytes of temporary tensors where a block needs most: at its last layer, when everything else is kept.

    The largest of these moments, of which `python -m harness.memory --measure --at-peak` shows each tensor:

    1. forward, the frozen product: the dequantized matrix and the layer's output; no mask yet
    2. forward, the mask's: the layer's output, random numbers in float32, which a GPU draws in two parts at most
    3. forward, the adapter's: the layer's output, its sum with the adapter's and the dropped-out input
    4. backward, the adapter's: the gradient to its input, the dropped-out input, the gradients of every member's A, B
    5. backward, the frozen product's: the matrix, both parts of the input's gradient; mask and input are gone
    6. backward, the gate's product: three gradients of the feed-forward width
    7. LLM.int8, forward: the input without its outliers, the same in float16, and which they are

    In the forward moments, frames hold what autograd doesn't keep, and with checkpointing they come within the
    backward pass, beside the residual stream's gradient. In the backward moments that gradient is there.
    """
    last = linears(run.shape)[-1]
    stream = run.compute_bytes * run.tokens * run.shape.hidden_size
    inner = run.compute_bytes * run.tokens * last.in_features
    mask = run.mask_bytes(last) * run.tokens * last.in_features
    adapted = last.is_target(run.adapter)
    is_int8 = run.quant.method is QuantMethod.int8
    frames = _frames_bytes(run, gradient_checkpointing)
    dropped = inner if mask else 0
    gone = mask + (inner if adapted else 0)  # once the adapter's backward pass is through
    parts = 2 if adapted else 1  # of the input's gradient
    forward = [
        dequantization_bytes + frames + stream - mask,
        frames + stream + (min(4 * run.tokens * last.in_features, 2 * DRAW_BYTES) if mask else 0),
        frames + stream + (stream if adapted else 0) + dropped,
        frames - mask + inner + INT8_INPUT_BYTES * run.tokens * last.in_features if is_int8 else 0,
    ]
    backward = [
        stream + (inner + dropped if adapted else 0) + _factor_gradients(run, last, num_members),
        dequantization_bytes + stream + parts * inner - gone,
        stream + (3 if run.shape.gated_mlp else 2) * inner - gone,
    ]
    return max(*forward, *backward)


def last_norm_bytes(run: Pass) -> int:
    """The last norm's backward pass, when every block's activations are there: what it keeps, and 5 float32 copies.

    They are the gradient by the product, the square's gradient, and the three factors that it is made of.
    """
    return _norm(run) + 5 * 4 * run.tokens * run.shape.hidden_size


def _frames_bytes(run: Pass, gradient_checkpointing: bool) -> int:
    """What the feed-forward part's frames, and the model's, hold in the forward pass without autograd keeping it.

    In 16 bits the residual stream and the block's input, which the norms keep in float32 (a checkpoint keeps the
    latter); the inputs of layers that keep none; with checkpointing, the residual stream's gradient.
    """
    layers = linears(run.shape)
    stream = run.compute_bytes * run.tokens * run.shape.hidden_size
    inner = run.compute_bytes * run.tokens * layers[-1].in_features
    held = 0
    if run.compute_bytes < 4:
        held += stream if gradient_checkpointing else 2 * stream
    held += 0 if any(run.keeps_input(linear) for linear in layers if linear.reads == "norm2") else stream
    held += 0 if run.keeps_input(layers[-1]) else inner
    return held + (stream if gradient_checkpointing else 0)


def _factor_gradients(run: Pass, linear: Linear, num_members: int) -> int:
    """Bytes of a layer's new gradients before they are added to earlier passes': of A and B, or of the matrix."""
    if run.adapter.method is AdapterMethod.full:
        return run.compute_bytes * linear.in_features * linear.out_features
    if not linear.is_target(run.adapter):
        return 0
    return num_members * ADAPTER_BYTES * run.adapter.lora_r * (linear.in_features + linear.out_features)


def _shared_inputs(run: Pass) -> dict[str, int]:
    """Bytes of the tensors that layers read, once each, where the layer keeps them as they are."""
    size = run.compute_bytes * run.tokens
    return {linear.reads: size * linear.in_features for linear in linears(run.shape) if run.keeps_input(linear)}


def _norm(run: Pass) -> int:
    return 4 * run.tokens * run.shape.hidden_size + 4 * run.tokens


def _untracked(run: Pass) -> int:
    """What the first block doesn't keep, as its input needs no gradient unless everything is trained."""
    if run.adapter.method is AdapterMethod.full:
        return 0
    return _norm(run)

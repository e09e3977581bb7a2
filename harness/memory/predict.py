"""Computes how much memory a run needs, from the model's shape alone.

    python -m harness.memory [--json]      # LLaMA 7B to 65B, beside what the QLoRA paper states

`predict` adds up what lies on the device at the worst moment of a training step: weights as bitsandbytes
stores them, adapters, gradients, optimizer state, what autograd keeps for the backward pass, and the
passing buffers of the loss or of one layer's backward pass. Nothing in it is fitted to a measurement.

Weights are exact for the LLaMA family. Other decoders (OPT, Pythia, BLOOM) have biases and other norms, less
than 1 % of their weights. Activations are derived from our own packed forward pass, term by term, in
`harness.memory.activations`; tests/unit/harness/memory/test_predict.py holds both to real tensors.
Source: QLoRA (arXiv 2305.14314) sections 2 and 3; the layouts read in bitsandbytes 0.50.
"""

import math
from dataclasses import asdict, dataclass, replace

from harness.config.schema import (
    ALL_LINEAR,
    AdapterConfig,
    AdapterMethod,
    DType,
    MasterWeights,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.devices.buffers import CHUNK_BYTES, MIN_PAGED_ELEMENTS
from harness.memory.activations import (
    ADAPTER_BYTES,
    Linear,
    Pass,
    last_norm_bytes,
    linears,
    saved_by_pass,
    working_bytes,
)

DTYPE_BYTES = {DType.float32: 4, DType.bfloat16: 2, DType.float16: 2}
NESTED_BLOCK = 256  # absmax constants that share one second-level constant (paper section 3)
SHAPE_NUMBERS = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")
CODEBOOK_BYTES = 16 * 4  # the 16 float32 levels, a copy a layer
NESTED_STATE_BYTES = 256 * 4 + 4  # the 8-bit map of the absmax constants and their mean, a copy a layer
MIN_8BIT_ELEMENTS = 4096  # bitsandbytes keeps the state of smaller tensors in 32 bits
OPTIMIZER_BLOCK = 256  # 8-bit state: elements that share one constant


def weights_bytes(shape: ShapeConfig, quant: QuantConfig, num_shards: int = 1) -> int:
    """Bytes of the base in memory: blocks, embeddings, output layer and norms, rotary frequencies.

    Sharded, a device has its part of every block and one block whole; embeddings and output layer are not sharded.
    """
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    layer = sum(linear_bytes(linear, quant) for linear in linears(shape))
    tables = (1 if shape.tied_embeddings else 2) * shape.vocab_size * shape.hidden_size
    block = layer + 2 * shape.hidden_size * compute_bytes
    blocks = shape.num_layers * block
    if num_shards > 1:
        blocks = math.ceil(blocks / num_shards) + block
    frequencies = 2 * 4 * (shape.hidden_size // shape.num_heads // 2)
    return blocks + (tables + shape.hidden_size) * compute_bytes + frequencies


def simulated_bytes(shape: ShapeConfig, quant: QuantConfig, adapter: AdapterConfig) -> int:
    """Bytes by which the adapted layers are larger with `adapter.bits`: they are held in the compute dtype."""
    if adapter.bits is None:
        return 0
    plain = replace(quant, method=QuantMethod.none)
    adapted = [linear for linear in linears(shape) if linear.is_target(adapter)]
    num_blocks = shape.num_layers if adapter.layers is None else len(adapter.layers)
    return num_blocks * sum(linear_bytes(linear, plain) - linear_bytes(linear, quant) for linear in adapted)


def optimizer_bytes(tensors: list[int], optimizer: Optimizer, element_bytes: int = ADAPTER_BYTES) -> tuple[int, int]:
    """-> bytes of the optimizer's moments on the device, and in pages that may leave it.

    Args:
        tensors: elements of each trained tensor.
        element_bytes: of the trained tensors; torch's AdamW keeps its moments in their type, the paged ones don't.
    """
    resident = paged = 0
    plain_bytes = element_bytes if optimizer in (Optimizer.adamw, Optimizer.muon) else 4
    for count in tensors:
        in_8bit = optimizer.in_8_bits and count >= MIN_8BIT_ELEMENTS
        moments = optimizer.num_moments * count * (1 if in_8bit else plain_bytes)
        if not optimizer.value.startswith("paged_") or count < MIN_PAGED_ELEMENTS:
            resident += moments
        else:
            paged += moments
        resident += optimizer.num_moments * 4 * math.ceil(count / OPTIMIZER_BLOCK) if in_8bit else 0
    return resident, paged


def factor_copies_bytes(num_elements: int, compute_bytes: int, num_members: int) -> int:
    """Bytes of the members' factors in the compute dtype, which `harness.nn.member_row` casts on a GPU for each row.

    A lone member in float32 is computed as it is. (A CPU casts a factor where it is used.)
    """
    return compute_bytes * num_elements if compute_bytes < ADAPTER_BYTES or num_members > 1 else 0


def logits_bytes(shape: ShapeConfig, num_targets: int, compute_bytes: int) -> int:
    """Bytes of a chunk of logits in `harness.nn.loss`, and of the states around the loss.

    A chunk is in float32, in 16 bits also as the product leaves it; from the second on, the one before is still there.
    The states are the last norm's output, the gathered target positions of it, and the chunk's part of the gradient.
    """
    rows = min(num_targets, max(1, CHUNK_BYTES // (4 * shape.vocab_size)))
    element_bytes = 4 if compute_bytes == 4 else 4 + compute_bytes
    of_second = 4 * rows + element_bytes * min(rows, num_targets - rows)
    chunk = shape.vocab_size * max(element_bytes * rows, of_second)
    return chunk + (2 * num_targets + rows) * shape.hidden_size * compute_bytes


def dequantization_bytes(
    shape: ShapeConfig, quant: QuantConfig, adapter: AdapterConfig | None = None, masters: bool = False
) -> int:
    """Bytes of the widest linear layer in the compute dtype, dequantized or cast from float32 to be multiplied.

    With `adapter.bits` an adapted layer is neither.
    """
    if quant.method is QuantMethod.none and not masters:
        return 0
    layers = linears(shape)
    if adapter is not None and adapter.bits is not None and adapter.layers is None:
        layers = [linear for linear in layers if not linear.is_target(adapter)]
    return max((n.in_features * n.out_features for n in layers), default=0) * DTYPE_BYTES[quant.compute_dtype]


def kept_dequantized_bytes(shape: ShapeConfig, quant: QuantConfig) -> int:
    """Bytes of all 4-bit layers in the compute dtype, where they are kept beside the base (launch.keep_dequantized)."""
    if quant.method not in (QuantMethod.nf4, QuantMethod.fp4):
        return 0
    weights = sum(linear.in_features * linear.out_features for linear in linears(shape)) * shape.num_layers
    return weights * DTYPE_BYTES[quant.compute_dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPrediction:
    """Bytes at the worst moment of a training step, by what they are for."""

    weights_bytes: int  # the base: quantized linear layers with their constants, the rest in the compute dtype
    adapter_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0  # on the device, whatever happens
    paged_optimizer_bytes: int = 0  # in unified memory: the driver moves it to the host when the device is full
    factor_copies_bytes: int = 0  # A and B in the compute dtype, made once a row, of all members
    one_copy_bytes: int = 0  # of these, one member's
    activation_bytes: int = 0  # what the blocks keep from the forward to the backward pass
    recomputed_bytes: int = 0  # with gradient checkpointing: one block's activations, made again in the backward pass
    logits_bytes: int = 0  # the loss: a chunk of logits, the states that go in and out of it
    last_norm_bytes: int = 0  # the last norm's backward pass
    dequantization_bytes: int = 0  # the largest quantized linear layer in the compute dtype; part of working_bytes
    working_bytes: int = 0  # what passes through one block where it needs most

    @property
    def static_bytes(self) -> int:
        """What stays over a whole step, the paged optimizer state left out."""
        return self.weights_bytes + self.adapter_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def resident_bytes(self) -> int:
        """The peak that has to fit: what `torch.cuda.max_memory_allocated` measures."""
        return self.static_bytes + max(self.full_row_bytes, self.shared_row_bytes)

    @property
    def passing_bytes(self) -> int:
        """The largest of the buffers that pass: of the loss, of the last norm, of one block."""
        return max(self.logits_bytes, self.last_norm_bytes, self.recomputed_bytes + self.working_bytes)

    @property
    def full_row_bytes(self) -> int:
        """What a row of one member adds when its forward pass is done, all members' gradients being there already.

        A row of more members adds less at that moment: their gradients, which are twice as large as their copies in 16
        bits, aren't there yet, but for the member that an earlier row began with.
        """
        return self.one_copy_bytes + self.activation_bytes + self.passing_bytes

    @property
    def shared_row_bytes(self) -> int:
        """What a row of all members adds when its backward pass reaches the first block: their gradients are there."""
        return self.factor_copies_bytes + self.passing_bytes

    @property
    def total_bytes(self) -> int:
        """The peak with all of the optimizer's state."""
        return self.resident_bytes + self.paged_optimizer_bytes

    def fits(self, device_bytes: int) -> bool:
        """Whether the run trains in this much memory, paging optimizer state if it must.

        Args:
            device_bytes: free for tensors: the CUDA context and other processes are not in the prediction.
        """
        return self.resident_bytes <= device_bytes

    def paged_bytes(self, device_bytes: int) -> int:
        """Optimizer state that leaves a device of this size for the host: 0 where the run doesn't page.

        Args:
            device_bytes: free for tensors, as for `fits`.
        """
        return min(self.paged_optimizer_bytes, max(0, self.total_bytes - device_bytes))

    def to_dict(self) -> dict[str, int]:
        """All terms and sums, for JSON."""
        sums = ("static_bytes", "resident_bytes", "total_bytes")
        return asdict(self) | {name: int(getattr(self, name)) for name in sums}


def predict(
    shape: ShapeConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    train: TrainConfig | None,
    tokens_per_microbatch: int,
    longest_sequence: int,
    num_members: int = 1,
    num_shards: int = 1,
) -> MemoryPrediction:
    """The memory of one training pass over a full row whose every token is a target.

    Args:
        shape: of a decoder; `num_layers` blocks.
        quant: `compute_dtype` resolved, not auto.
        adapter: method `none` trains nothing: weights only. The variants of LoRA count as LoRA.
        train: optimizer and gradient checkpointing; None trains nothing.
        tokens_per_microbatch: tokens of a packed row.
        longest_sequence: tokens; one sequence always makes a row, however small a row may be.
        num_members: adapters of a group, each with gradients and optimizer state of its own.
        num_shards: devices that each keep a part of the decoder layers (`launch.shard_base`), and one layer whole.

    Raises:
        ValueError: an unknown shape, `compute_dtype=auto`, or targets that a LLaMA block doesn't have.
    """
    check(shape, quant)
    masters = has_masters(adapter, train)
    stored = replace(quant, compute_dtype=DType.float32) if masters else quant
    simulated = simulated_bytes(shape, quant, adapter)
    base = MemoryPrediction(weights_bytes=weights_bytes(shape, stored, num_shards) + simulated)
    if train is None or adapter.method is AdapterMethod.none:
        return base
    check_targets(shape, adapter)
    tokens = max(tokens_per_microbatch, longest_sequence)
    run = Pass(shape=shape, quant=quant, adapter=adapter, tokens=tokens, compute_bytes=DTYPE_BYTES[quant.compute_dtype])
    static = _trained_bytes(run, train, masters, num_members)
    return replace(base, **static, **_passing_bytes(run, train, masters, num_members))


def _trained_bytes(run: Pass, train: TrainConfig, masters: bool, num_members: int) -> dict[str, int]:
    """Bytes that training adds for a whole step: trained weights, gradients, optimizer state and cast copies."""
    tensors = trained_tensors(run.shape, run.adapter) * num_members
    full = run.adapter.method is AdapterMethod.full
    element_bytes = run.compute_bytes if full and not masters else ADAPTER_BYTES
    resident, paged = optimizer_bytes(tensors, train.optimizer, element_bytes)
    copies = 0 if full else factor_copies_bytes(sum(tensors), run.compute_bytes, num_members)
    return {
        "adapter_bytes": 0 if full else sum(tensors) * element_bytes,
        "gradient_bytes": sum(tensors) * element_bytes,
        "optimizer_bytes": resident,
        "paged_optimizer_bytes": paged,
        "factor_copies_bytes": copies,
        "one_copy_bytes": copies // num_members,
    }


def _passing_bytes(run: Pass, train: TrainConfig, masters: bool, num_members: int) -> dict[str, int]:
    """Bytes that the forward and backward pass of a row take and free again."""
    shape, saved = run.shape, saved_by_pass(run, train.gradient_checkpointing)
    matrix_bytes = dequantization_bytes(shape, run.quant, run.adapter, masters)
    output_layer_bytes = shape.vocab_size * shape.hidden_size * run.compute_bytes if masters else 0  # cast for the loss
    loss_bytes = saved.loss_bytes + logits_bytes(shape, run.tokens, run.compute_bytes)
    return {
        "activation_bytes": saved.blocks_bytes,
        "recomputed_bytes": saved.recomputed_bytes,
        "logits_bytes": loss_bytes + output_layer_bytes,
        "last_norm_bytes": last_norm_bytes(run),
        "dequantization_bytes": matrix_bytes,
        "working_bytes": working_bytes(run, train.gradient_checkpointing, matrix_bytes, num_members),
    }


def has_masters(adapter: AdapterConfig, train: TrainConfig | None) -> bool:
    """Whether every weight is trained, and kept in float32 (`harness.nn.masters`)."""
    if train is None or adapter.method is not AdapterMethod.full:
        return False
    return train.master_weights is MasterWeights.float32


def linear_bytes(linear: Linear, quant: QuantConfig) -> int:
    """Bytes of one linear layer without bias, as bitsandbytes stores it.

    4-bit: two weights a byte; an absmax constant a block, float32, or with double quantization uint8 and a
    float32 constant for every 256 of them; the codebooks. LLM.int8: a byte a weight, a float32 scale a row.
    """
    count = linear.in_features * linear.out_features
    if quant.method is QuantMethod.none:
        return count * DTYPE_BYTES[quant.compute_dtype]
    if quant.method is QuantMethod.int8:
        return count + 4 * linear.out_features
    blocks = math.ceil(count / quant.block_size)
    constants = 4 * blocks
    if quant.double_quant:
        constants = blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + NESTED_STATE_BYTES
    return math.ceil(count / 2) + constants + CODEBOOK_BYTES


def trained_tensors(shape: ShapeConfig, adapter: AdapterConfig) -> list[int]:
    """The number of elements of every trained tensor: A and B of each adapted layer, or all weights."""
    if adapter.method is AdapterMethod.full:
        norms = [shape.hidden_size] * (2 * shape.num_layers + 1)
        tables = [shape.vocab_size * shape.hidden_size] * (1 if shape.tied_embeddings else 2)
        return [n.in_features * n.out_features for n in linears(shape)] * shape.num_layers + norms + tables
    adapted = [linear for linear in linears(shape) if linear.is_target(adapter)]
    sizes = [n for linear in adapted for n in (linear.in_features, linear.out_features)]
    return [adapter.lora_r * size for size in sizes] * (
        shape.num_layers if adapter.layers is None else len(adapter.layers)
    )


def check(shape: ShapeConfig, quant: QuantConfig) -> None:
    """Raises ValueError for a shape or a compute dtype that isn't set."""
    missing = [name for name in SHAPE_NUMBERS if getattr(shape, name) <= 0]
    if missing:
        raise ValueError(f"model.shape: {', '.join(missing)} not set; give the architecture's numbers in its YAML")
    if quant.compute_dtype is DType.auto:
        raise ValueError("quant.compute_dtype=auto: say bfloat16, float16 or float32, the plan resolves it")


def check_targets(shape: ShapeConfig, adapter: AdapterConfig) -> None:
    """Raises ValueError for target layers with other names than LLaMA's, whose sizes are not known here."""
    if adapter.method is AdapterMethod.peft:
        raise ValueError(
            f"adapter.peft_type={adapter.peft_type}: its memory can't be predicted, only LoRA's and the like"
        )
    partly = adapter.method is AdapterMethod.full and adapter.layers is not None
    if adapter.method is AdapterMethod.qst:
        raise ValueError("adapter=qst: the memory of a pass beside the base is not derived, only what it trains")
    if partly or adapter.method in (AdapterMethod.hft, AdapterMethod.s2ft):
        raise ValueError(f"adapter={adapter.method_name}: memory where a part of the weights learns can't be predicted")
    known = [linear.name for linear in linears(shape)]
    unknown = set(adapter.targets) - {ALL_LINEAR, *known}
    if unknown and adapter.method is not AdapterMethod.full:
        raise ValueError(
            f"adapter.targets={sorted(unknown)}: the memory of these layers can't be predicted; known: {known}"
        )

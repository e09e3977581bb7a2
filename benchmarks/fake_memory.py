"""Measures, without a GPU, how many bytes a training pass holds on one, and compares them with the predictor's.

    python -m benchmarks.fake_memory --size 7b --tokens 528
    python -m benchmarks.fake_memory --size 65b --tokens 8448 --checkpointing --members 8 --at-peak
    python -m benchmarks.fake_memory --table         # every size and length of the record, as Markdown

The whole program runs as it does on a GPU: the transformers model from its config, packed attention, adapters,
dropout, checkpointing, loss and backward pass. Its tensors are fake (`torch._subclasses.fake_tensor`): they have a
type and a size, and no data. A dispatch mode follows every storage from the operation that makes it to its death and
adds up what is alive, in blocks of 512 bytes as CUDA's allocator cuts them.

A torch without CUDA has no backward pass for fake CUDA tensors, so these lie on a fake CPU, and the harness and
bitsandbytes are told that they lie on `cuda:0`: the branches that run are CUDA's. A kernel's own buffers are no
tensors that Python sees. Where they are large, the mode adds them: the matrix that bitsandbytes dequantizes for a
product, LLM.int8's int32 and float16 products, the float32 gradient of the query in flash attention's backward pass.
cuBLAS' workspace (32 MiB on an H100) and the CUDA context are left out; `harness.memory.row_length.CONTEXT_BYTES` has
them.

`tests/unit/benchmarks/test_fake_memory.py` holds the mode to real CPU tensors. Record:
benchmarks/results/memory-fake-*.md.
"""

import itertools
import json
import logging
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any
from unittest import mock

import bitsandbytes as bnb
import numpy as np
import torch
import typer
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from bitsandbytes.functional import QuantState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import varlen  # noqa: F401  registers its operations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from transformers import AutoModelForCausalLM

from benchmarks.gpu.shapes import llama_config
from harness.banks.shared import AdapterBank
from harness.config.choices import quant_choice
from harness.config.schema import AdapterConfig, DType, QuantConfig, QuantMethod, ShapeConfig, TrainConfig
from harness.memory.paper import LLAMA_SIZES, llama_shape
from harness.memory.predict import NESTED_BLOCK, MemoryPrediction, predict
from harness.nn import attention_kernels
from harness.nn.attention import PACKED
from harness.nn.batch import Item
from harness.nn.int8 import Product
from harness.nn.quant import TORCH_DTYPES, linear_layers

BLOCK_BYTES = 512  # CUDA's allocator rounds each tensor up to it
SEQUENCE_TOKENS = 528  # OASST1: 16 source and 512 target tokens
SHALLOW_LAYERS = 4  # enough to tell what each layer adds from what there is once
CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
H100 = (9, 0)  # its compute capability, which decides what kernels the harness takes
MASKED_MODULES = ("harness.", "bitsandbytes.autograd.")  # whose code is told that fake tensors lie on `CUDA`
aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training pass."""

    size: str = "7b"
    quant: str = "nf4"  # a choice of conf/quant
    tokens: int = SEQUENCE_TOKENS  # of the packed row
    members: int = 1
    checkpointing: bool = False
    dropout: float = 0.1
    lora_r: int = 64
    layers: int | None = None  # the model's first so many; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes of the tensors alive, and what was alive at the worst moment."""

    static_bytes: int  # weights, adapters and gradients, before the pass
    peak_bytes: int
    at_peak: dict[str, int]  # operation, shape and type -> bytes alive at the peak that the pass made


class LiveStorages(TorchDispatchMode):
    """Adds up the storages alive, from the operation that makes one to its death.

    Args:
        block_bytes: what the allocator cuts memory into.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()
        self.block_bytes = block_bytes
        self.live_bytes = 0
        self.peak_bytes = 0
        self._alive: dict[int, tuple[int, str]] = {}  # number of a storage -> its bytes and what made it
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._count = itertools.count()
        self._before: set[int] = set()
        self._at_peak: dict[int, tuple[int, str]] = {}

    def start_pass(self) -> None:
        """What lives now is no part of the pass; its peak counts from here."""
        self._before = set(self._alive)
        self.peak_bytes = self.live_bytes

    def at_peak(self) -> dict[str, int]:
        """Operation, shape and type -> bytes that the pass held at its peak, the largest first."""
        found: dict[str, int] = {}
        for number, (num_bytes, origin) in self._at_peak.items():
            if number in self._before:
                continue
            found[origin] = found.get(origin, 0) + num_bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(torch.device, lambda device: CPU, (args, kwargs or {}))
        if func in _PARTS:
            with self:
                return _PARTS[func](*args, **kwargs)
        if func in _ATTENTION_BACKWARD:  # CUDA's kernel adds the query's gradient up in float32
            self._note_peak(4 * args[1].numel())
        if func is aten.add.Tensor and _accumulates(*args, **kwargs):
            func = aten.add_.Tensor
        out = func(*args, **kwargs)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor, func)
        return out

    def _follow(self, tensor: Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        if storage in self._numbers:
            return
        number, num_bytes = next(self._count), -(-storage.nbytes() // self.block_bytes) * self.block_bytes
        self._numbers[storage] = number
        self._alive[number] = (num_bytes, f"{func} {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
        weakref.finalize(storage, self._forget, number)
        self.live_bytes += num_bytes
        self._note_peak()

    def _note_peak(self, of_a_kernel: int = 0) -> None:
        if self.live_bytes + of_a_kernel > self.peak_bytes:
            self.peak_bytes = self.live_bytes + of_a_kernel
            self._at_peak = dict(self._alive)

    def _forget(self, number: int) -> None:
        self.live_bytes -= self._alive.pop(number)[0]


def _accumulates(one: Tensor, other: Any, **options: Any) -> bool:
    """Whether this sum is autograd's own of two gradients, which it makes in place, though not of fake tensors."""
    in_backward = torch._C._current_graph_task_id() >= 0 and not torch.is_grad_enabled()
    return in_backward and isinstance(other, Tensor) and one.shape == other.shape


def _int8_vectorwise_quant(x_NI: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """As bitsandbytes' on CUDA, of an input without outlier columns."""
    row_stats = x_NI.new_empty(x_NI.shape[0], dtype=torch.float32)
    out_NI = x_NI.new_empty(x_NI.shape, dtype=torch.int8)
    outliers = x_NI.abs() >= threshold
    del outliers
    return out_NI, row_stats, x_NI.new_empty(0, dtype=torch.int64)


def _int8_scaled_mm(
    int8_NI: Tensor, weight_OI: Tensor, row_stats: Tensor, scales_O: Tensor, bias_O: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """As bitsandbytes' on CUDA: the product in int32, float16, then its type."""
    in_int32 = int8_NI.new_empty((int8_NI.shape[0], weight_OI.shape[0]), dtype=torch.int32)
    return torch.empty_like(in_int32, dtype=torch.float16).to(dtype)


_PARTS: dict[Any, Callable[..., Any]] = {  # operations whose own buffers count
    aten.nonzero.default: lambda mask: mask.new_empty((0, mask.dim()), dtype=torch.int64),  # of int8's outliers
    aten._pin_memory.default: lambda tensor, *_: tensor,  # on the host
    torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit_default_impl,
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _int8_vectorwise_quant,
    torch.ops.bitsandbytes.int8_scaled_mm.default: _int8_scaled_mm,
}
_ATTENTION_BACKWARD = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    torch.ops.torch_attn._varlen_attn_backward.default,
}


class FourBitLinear(nn.Linear):
    """Holds and calls what `bnb.nn.Linear4bit` does; its Params4bit can't be made of a fake tensor."""

    def __init__(self, in_features: int, out_features: int, quant: QuantConfig) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        count = in_features * out_features
        num_blocks = -(-count // quant.block_size)
        self.packed = torch.empty((-(-count // 2), 1), dtype=torch.uint8)
        nested: dict[str, Any] = {}
        if quant.double_quant:
            constants = torch.empty(-(-num_blocks // NESTED_BLOCK))
            nested["state2"] = QuantState(
                absmax=constants, code=torch.empty(256), blocksize=NESTED_BLOCK, dtype=torch.float32
            )
            nested["offset"] = torch.empty(())
        self.quant_state = QuantState(
            absmax=torch.empty(num_blocks, dtype=torch.uint8 if quant.double_quant else torch.float32),
            shape=torch.Size([out_features, in_features]),
            code=torch.empty(16),
            blocksize=quant.block_size,
            quant_type=quant.method.value,
            dtype=TORCH_DTYPES[quant.compute_dtype],
            **nested,
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = bnb.matmul_4bit(x, self.packed, quant_state=self.quant_state)
        return y


class Int8Linear(nn.Linear):
    """Holds and calls what `harness.nn.int8.TokenwiseInt8` does after its first pass, of an input without outliers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.state = bnb.MatmulLtState()
        self.state.CB = torch.empty((out_features, in_features), dtype=torch.int8)
        self.state.SCB = torch.empty(out_features, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        assert self.state.CB is not None
        y: Tensor = Product.apply(x, self.state.CB, self.state.SCB, None)  # type: ignore[no-untyped-call]
        return y


def measure(shape: ShapeConfig, quant: QuantConfig, case: Case, device: torch.device = CUDA) -> Measured:
    """Runs forward and backward of one row, gradients being there already, as in every pass but a step's first."""
    with fake_tensors(device), LiveStorages() as storages:
        bank = make_bank(shape, quant, case)
        for member in bank.configs:
            for parameter in bank.member_parameters(member).values():
                parameter.grad = torch.empty_like(parameter)
        storages.start_pass()
        static_bytes = storages.live_bytes
        losses = bank.item_losses(make_items(case, shape.vocab_size))
        (losses * torch.ones_like(losses)).sum().backward()
        return Measured(static_bytes=static_bytes, peak_bytes=storages.peak_bytes, at_peak=storages.at_peak())


def predicted(shape: ShapeConfig, quant: QuantConfig, case: Case) -> MemoryPrediction:
    """What the harness says of the same pass."""
    train = TrainConfig(gradient_checkpointing=case.checkpointing)
    return predict(shape, quant, adapter_of(case), train, case.tokens, min(case.tokens, SEQUENCE_TOKENS), case.members)


def make_bank(shape: ShapeConfig, quant: QuantConfig, case: Case) -> AdapterBank:
    """A LLaMA of this shape with fake weights, its members added."""
    config = llama_config(shape)
    dtype = TORCH_DTYPES[quant.compute_dtype]
    model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=dtype)
    for name, linear in [] if quant.method is QuantMethod.none else list(linear_layers(model)):
        size = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
        model.set_submodule(
            name, Int8Linear(*size) if quant.method is QuantMethod.int8 else FourBitLinear(*size, quant)
        )
    bank = AdapterBank(model)
    for place in range(case.members):
        bank.add_member(f"member{place}", adapter_of(case), seed=place)
    bank.set_checkpointing(case.checkpointing)
    bank.train()
    return bank


def adapter_of(case: Case) -> AdapterConfig:
    """The recipe's adapter at the case's dropout."""
    return AdapterConfig(name="lora", lora_r=case.lora_r, lora_alpha=16, lora_dropout=case.dropout)


def make_items(case: Case, vocab_size: int) -> list[Item]:
    """Sequences of `SEQUENCE_TOKENS`, the last one shorter; each member has as many tokens, every one a target."""
    items: list[Item] = []
    rng = np.random.default_rng(0)
    for place, share in enumerate(np.array_split(np.arange(case.tokens), case.members)):
        for start in range(0, len(share), SEQUENCE_TOKENS):
            tokens = rng.integers(3, vocab_size, len(share[start : start + SEQUENCE_TOKENS])).astype(np.int32)
            items.append(Item(member=f"member{place}", tokens=tokens, num_source=1, dropout_key=len(items), weight=1.0))
    return items


@contextmanager
def fake_tensors(seen_device: torch.device = CUDA) -> Iterator[None]:
    """Fake tensors on the CPU, whose `device` to the harness and to bitsandbytes is another: an H100, or the CPU."""

    def device(tensor: FakeTensor) -> torch.device:
        asks = sys._getframe(1).f_globals.get("__name__", "")
        told = asks.startswith(MASKED_MODULES) and not tensor.fake_mode.in_kernel_invocation
        return seen_device if told else real(tensor)

    real = FakeTensor.device.fget
    assert real is not None
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(FakeTensor, "device", property(device)))
        on_cuda = seen_device.type == "cuda"
        stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", property(lambda tensor: on_cuda), create=True))
        stack.enter_context(mock.patch.object(attention_kernels, "device_capability", return_value=H100))
        stack.enter_context(mock.patch.object(torch, "Generator", _CpuGenerator))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", return_value=H100))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


class _CpuGenerator(torch.Generator):
    """Of whatever device was asked for: nothing is drawn."""

    def __new__(cls, device: object = None) -> "_CpuGenerator":
        return super().__new__(cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A case, as it was measured and as the harness predicts it."""

    case: Case
    measured: Measured
    predicted: MemoryPrediction

    @property
    def predicted_bytes(self) -> int:
        """Of the same tensors: no optimizer runs in the measurement."""
        return self.predicted.resident_bytes - self.predicted.optimizer_bytes

    @property
    def ratio(self) -> float:
        """Measured bytes divided by predicted bytes."""
        return self.predicted_bytes / self.measured.peak_bytes

    @property
    def pass_bytes(self) -> tuple[int, int]:
        """-> measured and predicted, of what a pass needs beside weights, adapters and gradients."""
        static = self.predicted.static_bytes - self.predicted.optimizer_bytes
        return self.measured.peak_bytes - self.measured.static_bytes, self.predicted_bytes - static


def compare(case: Case) -> Comparison:
    """Measures a LLaMA's pass in bfloat16 and predicts it."""
    shape = llama_shape(case.size)
    shape = replace(shape, num_layers=case.layers or shape.num_layers)
    quant = replace(quant_choice(case.quant), compute_dtype=DType.bfloat16)
    return Comparison(case=case, measured=measure(shape, quant, case), predicted=predicted(shape, quant, case))


def table_cases() -> list[Case]:
    """The record's: whole models; then every size, groups, other bases and no dropout, four layers deep."""
    lengths, checkpoints = (528, 2112, 8448), (False, True)
    shallow: list[dict[str, Any]] = [{"size": size, "members": n} for size in LLAMA_SIZES for n in (1, 8)]
    shallow += [{"quant": "bf16"}, {"quant": "int8"}, {"quant": "nf4", "dropout": 0.0}]
    kinds: list[dict[str, Any]] = [{"size": "7b"}, *(kind | {"layers": SHALLOW_LAYERS} for kind in shallow)]
    whole = [Case(size="65b", checkpointing=checkpointing) for checkpointing in checkpoints]
    return whole + [
        Case(**kind, tokens=tokens, checkpointing=checkpointing)
        for kind in kinds
        for tokens in lengths
        for checkpointing in checkpoints
    ]


def main(
    size: Annotated[str, typer.Option(help=f"A LLaMA: {', '.join(LLAMA_SIZES)}.")] = "7b",
    tokens: Annotated[int, typer.Option(help="Of the packed row.")] = SEQUENCE_TOKENS,
    quant: Annotated[str, typer.Option(help="A choice of conf/quant.")] = "nf4",
    members: Annotated[int, typer.Option(help="Adapters that share the row.")] = 1,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Recompute activations.")] = False,
    dropout: float = 0.1,
    layers: Annotated[int | None, typer.Option(help="The first so many layers of the model only.")] = None,
    at_peak: Annotated[bool, typer.Option("--at-peak", help="List the tensors alive at the peak.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Every case of the record; takes half an hour.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Prints measured and predicted bytes, and their ratio."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says for each product that it casts to float16
    if table:
        print(TABLE_HEAD)
        for each in table_cases():
            print(_row(compare(each)), flush=True)
        return
    case = Case(
        size=size,
        quant=quant,
        tokens=tokens,
        members=members,
        checkpointing=checkpointing,
        dropout=dropout,
        layers=layers,
    )
    found = compare(case)
    if as_json:
        print(json.dumps(asdict(found) | {"predicted_bytes": found.predicted_bytes, "ratio": found.ratio}, indent=2))
        return
    print(TABLE_HEAD, _row(found), sep="\n")
    for name, value in found.predicted.to_dict().items():
        print(f"{value / 1e6:12,.1f} MB  {name.removesuffix('_bytes')}")
    for origin, num_bytes in found.measured.at_peak.items() if at_peak else ():
        print(f"{num_bytes / 1e6:12,.1f} MB  {origin}")


TABLE_HEAD = (
    "| model | layers | base | row | members | dropout | checkpointing | measured, GB | predicted, GB | ratio "
    "| pass measured, GB | pass predicted, GB | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _row(found: Comparison) -> str:
    case, (measured, expected) = found.case, found.pass_bytes
    cells = [case.size, case.layers or "all", case.quant, f"{case.tokens:,}", case.members, case.dropout]
    cells += ["yes" if case.checkpointing else "no", f"{found.measured.peak_bytes / 1e9:.3f}"]
    cells += [f"{found.predicted_bytes / 1e9:.3f}", f"{found.ratio:.3f}"]
    cells += [f"{measured / 1e9:.3f}", f"{expected / 1e9:.3f}", f"{expected / measured:.3f}"]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    typer.run(main)

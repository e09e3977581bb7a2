"""Kernel launches of one forward and backward pass of training at LLaMA-7B's widths, counted without a GPU.

    python -m benchmarks.launches

The model lies on torch's meta device, where each operation is dispatched as on a GPU and computes nothing; what
reaches the dispatcher below autograd is counted, views and empty tensors left out. Whoever asks such a tensor for a
number gets an error, so no pass that is counted makes the host wait for the device. A multi-tensor operation counts as
the launches that it is cut into, and those that are known to start several kernels as so many. The count of a few
decoder layers is extrapolated to all 32: each adds the same.

Not seen: how long a kernel runs, and the optimizer. Results: benchmarks/results/launches-2026-11-29.md.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from unittest.mock import patch

import bitsandbytes as bnb
import numpy as np
import torch
import typer
from bitsandbytes.functional import QuantState
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig
from harness.nn.attention import PACKED
from harness.nn.batch import Item
from harness.nn.member_row import Kernels
from harness.training.passes import forward_backward
from harness.training.stopping import stops_at_layers

NUM_LAYERS = 32
_META = torch.device("meta")
_NO_LAUNCH = ("empty", "detach", "alias", "_unsafe_view", "lift_fresh", "is_same_size", "_reshape_alias", "as_strided")
_SEVERAL = {  # operations that start more than one kernel
    "gemm_4bit": 4,  # bitsandbytes, beyond a few tokens: constants, their offset, weights, product
    "_grouped_mm": 2,  # fills in its pointers first
}
KERNELS = {
    "compute capability 9.0, 10.x": Kernels(together=True, grouped=frozenset({torch.bfloat16}), row_masks=True),
    "other GPUs": Kernels(together=True, row_masks=True),
}
_MULTI_TENSOR = 64, 320, 65536  # tensors a launch, chunks a launch, elements a chunk (ATen's MultiTensorApply.cuh)


class LaunchCounter(TorchDispatchMode):
    """Counts the operations within it that start a kernel or a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of launches of all operations."""
        return self.by_name.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.by_name[str(func)] += _launches(func, args, out)
        return out


def _launches(func: Any, args: Any, out: Any) -> int:
    name = func.__name__.split(".")[0]
    if func.is_view or name.startswith(_NO_LAUNCH) or name.startswith("new_empty"):
        return 0
    if name.startswith("_foreach_"):
        sizes = [tensor.numel() for tensor in args[0]]
        tensors, chunks, elements = _MULTI_TENSOR
        return max(-(-len(sizes) // tensors), -(-sum(-(-size // elements) for size in sizes) // chunks))
    tensors_out = [out] if isinstance(out, Tensor) else [one for one in out or () if isinstance(one, Tensor)]
    return _SEVERAL.get(name, 1) if any(tensor.numel() for tensor in tensors_out) else 0


class NF4Linear(nn.Linear):
    """bitsandbytes' `Linear4bit` with double quantization, made of tensors that may hold nothing.

    `Params4bit` itself can't be made on the meta device.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device=_META)
        size = linear.weight.numel()
        packed = torch.empty(size // 2, 1, dtype=torch.uint8, device=_META)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.state = QuantState(
            absmax=torch.empty(size // 64, dtype=torch.uint8, device=_META),
            shape=linear.weight.shape,
            code=torch.empty(16, device=_META),
            blocksize=64,
            quant_type="nf4",
            dtype=linear.weight.dtype,
            offset=torch.empty((), device=_META),
            state2=QuantState(
                absmax=torch.empty(-(-size // 64 // 256), device=_META),
                code=torch.empty(256, device=_META),
                blocksize=256,
                dtype=torch.float32,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = bnb.matmul_4bit(x, self.weight.t(), quant_state=self.state)
        return out


def llama_7b(num_layers: int) -> nn.Module:
    """LLaMA-7B in NF4 and bfloat16 with fewer decoder layers, on the meta device."""
    config = LlamaConfig(num_hidden_layers=num_layers, attn_implementation=PACKED, vocab_size=32000)
    with _META:
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    for layer in model.model.layers:
        for name, linear in [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]:
            parent, _, child = name.rpartition(".")
            setattr(layer.get_submodule(parent), child, NF4Linear(linear))
    return model


@contextmanager
def _one_kernel_attention() -> Iterator[None]:
    """On the meta device torch would take attention apart; on a GPU it is one kernel, here flash attention's."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: Any = None,
    ) -> Tensor:
        assert attn_mask is None, "flash attention takes no mask"
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, scale=scale
        )[0]
        return out

    with patch.object(functional, "scaled_dot_product_attention", attend):
        yield


def count_pass(
    num_layers: int,
    num_members: int,
    kernels: Kernels,
    *,
    tokens: int = 512,
    checkpointing: bool = False,
    num_rows: int = 1,
) -> LaunchCounter:
    """Counts the last of some forward and backward passes, each over an example of every member."""
    bank = AdapterBank(llama_7b(num_layers))
    bank.row.kernels = kernels
    config = AdapterConfig(name="lora", lora_r=64, lora_alpha=16, lora_dropout=0.05)
    names = [f"member{place}" for place in range(num_members)]
    for name in names:
        bank.add_member(name, config, seed=0)
    bank.train()
    bank.set_checkpointing(checkpointing)
    ids = np.zeros(tokens, dtype=np.int32)
    items = [
        Item(member=name, tokens=ids, num_source=tokens // 2, dropout_key=key, weight=1.0)
        for key, name in enumerate(names)
    ]
    with _one_kernel_attention():
        for _ in range(num_rows):
            with LaunchCounter() as counter, stops_at_layers(bank, lambda: False):
                forward_backward(bank, items)
    return counter


def extrapolate(num_members: int, kernels: Kernels, **options: Any) -> int:
    """-> launches of a pass over all of LLaMA-7B's layers; `options` as `count_pass` takes them."""
    two, three = (count_pass(num_layers, num_members, kernels, **options).total for num_layers in (2, 3))
    return two + (NUM_LAYERS - 2) * (three - two)


def main(tokens: Annotated[int, typer.Option(help="Of each member's one example.")] = 512) -> None:
    """Prints the tables."""
    for name, kernels in KERNELS.items():
        print(f"\n{name}\n\n| members | first row | later rows | with checkpointing |\n|---|---|---|---|")
        for num_members in (1, 2, 4, 8):
            first = extrapolate(num_members, kernels, tokens=tokens)
            later = extrapolate(num_members, kernels, tokens=tokens, num_rows=2)
            again = extrapolate(num_members, kernels, tokens=tokens, checkpointing=True)
            print(f"| {num_members} | {first:,} | {later:,} | {again:,} |")


if __name__ == "__main__":
    typer.run(main)

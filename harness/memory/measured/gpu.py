"""A GPU whose tensors have no data: torch's meta tensors, which the program takes for tensors on `cuda:0`.

Within `gpu_without_data` the program runs as it is, at any size, and nothing is computed. Tensors on the host are real.
What asks a tensor for its device gets `cuda:0` where it is code that chooses kernels by it (`MASKED`), and so takes the
branches that a GPU takes. Where an operation needs data or a CUDA library, the smallest stand-in serves, which makes
the tensors that the real one makes:

| stand-in | the real thing on CUDA |
|---|---|
| reading a number on the host | waits for the device; here it is 0, or True: a loss of 0 is finite |
| `nonzero` of LLM.int8's outliers | as many rows as there are outliers; here there are none |
| an index of booleans | keeps the tokens that are no padding; here all of them |
| whether a batch is padded | looks at the mask; here every batch of more than one sequence is |
| `bitsandbytes::gemm_4bit` | dequantizes the matrix and multiplies: rows above 1,536 tokens, most others on an H100 |
| `bitsandbytes::int8_vectorwise_quant` | int8 rows and a float32 scale each |
| `bitsandbytes::int8_scaled_mm` | the product in int32, then in float16, then in its type |
| `scaled_dot_product_attention` | FlashAttention 2 without a mask in 16 bits, else the memory-efficient kernel |
| FlashAttention's backward pass | adds up the query's gradient in float32 within the call |
| `dropout` | the fused kernel: keeps a boolean mask |
| paged memory | `cudaMallocManaged`: not the allocator's, and not counted here |
| initial values | drawn; here left as they are |
| a copy of a 4-bit weight, of which DoRA starts | freed at once; here the weight itself |

cuBLAS' workspace (32 MiB on an H100) and the CUDA context are left out: `harness.memory.row_length.CONTEXT_BYTES`.
tests/unit/harness/memory/test_measured.py holds meta tensors to real ones.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import bitsandbytes as bnb
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import varlen  # noqa: F401  registers its operations
from torch.utils._device import _device_constructors
from transformers import masking_utils

from harness.memory.measured.storages import NOWHERE, LiveStorages
from harness.nn import attention_kernels
from harness.training import paged as paged_state

CUDA, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
BIAS_ALIGNMENT = 8  # elements to which the memory-efficient kernel's rows of numbers added to scores are filled up
H100 = (9, 0)  # its compute capability, which decides what kernels the harness takes
MASKED = (  # modules that are told `cuda:0`; not the meta kernels of bitsandbytes._ops
    "harness.",
    "bitsandbytes.autograd",
    "bitsandbytes.functional",
    "bitsandbytes.nn",
    "bitsandbytes.optim",
    "peft.",
    "torch.optim.",
)

_aten = torch.ops.aten
_device_of = torch._C.TensorBase.device.__get__


@contextmanager
def gpu_without_data(num_bytes: int, seen: torch.device = CUDA) -> Iterator[LiveStorages]:
    """A GPU, on which all storages are followed.

    Args:
        num_bytes: of its memory, which decides what pages.
        seen: what the program takes its device for. On a `cpu`, tensors that the program makes there have no data
            either, so that real ones can be held against them.
    """
    storages = _Meta(seen)
    with ExitStack() as stack:
        # torch keeps the functions that `with torch.device` reaches; `torch.tensor` is another one meanwhile
        stack.callback(_device_constructors.cache_clear)
        for target, name, replacement in _replacements(storages, num_bytes, seen):
            stack.enter_context(mock.patch.object(target, name, replacement, create=True))
        stack.enter_context(storages)
        yield storages


class _Meta(LiveStorages):
    """Follows meta tensors, and turns what is to be made on the device into them."""

    def __init__(self, seen: torch.device) -> None:
        super().__init__(True, _KERNELS, _workspace)
        self.seen = seen

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it takes time

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is _aten._to_copy.default and args[0].is_meta and device is not None and device.type != "meta":
            if device.type == "cpu" and self.seen.type != "cpu":
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if kwargs.get("dtype") in (None, args[0].dtype):
                return _aten.alias.default(args[0])  # it is there already
        if func is _aten.lift_fresh.default and self.seen.type == "cpu":  # of `torch.tensor`
            return torch.empty_like(args[0], device=META)
        if device is not None and device.type == "meta":  # a model that is being built, before its weights are read
            made = func(*args, **kwargs)
            self.mark([made], NOWHERE)
            return made
        if device is not None and device.type == self.seen.type:
            kwargs["device"] = META
        return super().__torch_dispatch__(func, types, args, kwargs)


def _replacements(storages: LiveStorages, num_bytes: int, seen: torch.device) -> Iterator[tuple[Any, str, Any]]:
    """-> what to change within the program: owner, name, and what stands there meanwhile"""

    def device(tensor: Tensor) -> torch.device:
        found: torch.device = _device_of(tensor)
        asks = sys._getframe(1).f_globals.get("__name__", "")
        return seen if found.type == "meta" and asks.startswith(MASKED) else found

    def free(*_: Any) -> tuple[int, int]:
        return max(0, num_bytes - storages.live_bytes), num_bytes

    def paged(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device = CUDA) -> Tensor:
        buffer: Any = torch.empty(shape, dtype=dtype, device=META)  # in unified memory
        buffer.is_paged, buffer.page_deviceid = True, device.index
        return buffer  # type: ignore[no-any-return]

    yield torch.Tensor, "device", property(device)
    yield torch, "tensor", _tensor
    yield bnb.nn.Params4bit, "__deepcopy__", _same
    yield bnb.functional, "name2qmap", {}  # it keeps tensors of the device for good
    yield masking_utils, "_ignore_bidirectional_mask_sdpa", _is_whole
    yield functional, "scaled_dot_product_attention", _attention_on_host if seen.type == "cpu" else _attention
    yield functional, "dropout", _dropout
    if seen.type == "cpu":
        yield torch, "from_numpy", _from_numpy
        yield torch.Tensor, "tolist", lambda tensor: np.zeros(tensor.shape).tolist()
        return
    yield torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta)
    yield torch, "Generator", _Generator
    yield torch.random, "fork_rng", lambda *args, **kwargs: nullcontext()
    yield torch.cuda, "_lazy_init", lambda: None
    yield torch.cuda, "get_device_capability", lambda *_: H100
    yield torch.cuda, "mem_get_info", free
    yield torch.cuda, "memory_reserved", lambda *_: 0
    yield torch.cuda, "memory_allocated", lambda *_: 0
    yield attention_kernels, "device_capability", lambda *_: H100
    yield bnb.functional, "get_paged", paged
    yield paged_state, "POOL", paged_state.BufferPool()
    yield bnb.functional, "fill", lambda *args, **kwargs: None
    yield bnb.functional, "prefetch_tensor", lambda *args, **kwargs: None


class _Generator(torch.Generator):
    """A generator for whatever device was asked for: nothing is drawn from it."""

    def __new__(cls, device: object = None) -> "_Generator":
        return super().__new__(cls)


_torch_tensor = torch.tensor


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor`, whose copy to the device no mode sees."""
    made = _torch_tensor(data, **options)
    return made if device is None else made.to(device)


def _from_numpy(array: Any) -> Tensor:
    with torch.utils._python_dispatch._disable_current_modes():
        dtype = torch.as_tensor(array[:0] if array.ndim else array).dtype
    return torch.empty(array.shape, dtype=dtype, device=META)


def _same(parameter: Tensor, memo: dict[int, Any]) -> Tensor:
    return parameter


def _is_whole(padding_mask: Tensor | None, kv_length: int, local_attention_size: int | None = None) -> bool:
    """Whether no sequence of a batch is padded, as `transformers` asks for models that look both ways."""
    return padding_mask is None or len(padding_mask) == 1


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    heads = query.shape[1]
    key, value = (attention_kernels.repeat_heads(part, heads) if enable_gqa else part for part in (key, value))
    out: Tensor
    if attn_mask is None and query.dtype is not torch.float32:
        out = _aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return out
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)  # the numbers that are added to the scores
        if missing := -key.shape[2] % BIAS_ALIGNMENT:
            attn_mask = functional.pad(attn_mask, (0, missing))[..., : key.shape[2]]
        attn_mask = attn_mask.expand(query.shape[0], heads, query.shape[2], key.shape[2])
    needs_grad = torch.is_grad_enabled() and query.requires_grad
    out = _aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, needs_grad, dropout_p, is_causal, scale=scale
    )[0]
    return out


def _attention_on_host(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    out: Tensor = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return input if not training or not p else _aten.native_dropout(input, p, True)[0]


def _number(tensor: Tensor) -> bool | int | float:
    if not tensor.is_meta:
        with torch.utils._python_dispatch._disable_current_modes():
            number: bool | int | float = tensor.item()
        return number
    if tensor.dtype is torch.bool:
        return True
    return 0.0 if tensor.is_floating_point() else 0


def _index(tensor: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    first = indices[0]
    if first is not None and first.dtype is torch.bool and first.is_meta:
        places = first.new_empty((first.numel(), first.dim()), dtype=torch.int64)
        indices = [*places.unbind(1), *indices[1:]]
    with torch.utils._python_dispatch._disable_current_modes():
        shape = _aten.index.Tensor(tensor, indices).shape
    return tensor.new_empty(shape)


def _int8_vectorwise_quant(x_NI: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, None]:
    assert threshold == 0.0, "outliers are taken out by the harness itself"
    return x_NI.new_empty(x_NI.shape, dtype=torch.int8), x_NI.new_empty(x_NI.shape[0], dtype=torch.float32), None


def _int8_scaled_mm(
    int8_NI: Tensor, weight_OI: Tensor, row_stats: Tensor, scales_O: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    in_int32 = int8_NI.new_empty((int8_NI.shape[0], weight_OI.shape[0]), dtype=torch.int32)
    return torch.empty_like(in_int32, dtype=torch.float16).to(dtype)


def _pinned(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


_KERNELS: dict[Any, Any] = {
    _aten._local_scalar_dense.default: _number,
    _aten._pin_memory.default: _pinned,
    _aten.uniform_.default: _pinned,
    _aten.normal_.default: _pinned,
    _aten.nonzero.default: lambda mask: mask.new_empty((0, mask.dim()), dtype=torch.int64),
    _aten.index.Tensor: _index,
    torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit_default_impl,
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _int8_vectorwise_quant,
    torch.ops.bitsandbytes.int8_scaled_mm.default: _int8_scaled_mm,
}
_FLASH_BACKWARD = (
    torch.ops.torch_attn._varlen_attn_backward.default,
    _aten._scaled_dot_product_flash_attention_backward.default,
)


def _workspace(operation: Any, args: Sequence[Any]) -> int:
    """Bytes that a kernel takes and frees within a call: flash attention's float32 gradient of the query."""
    return 4 * args[1].numel() if operation in _FLASH_BACKWARD else 0

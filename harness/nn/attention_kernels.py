"""Chooses the kernel that computes attention, by device, data type and head size, and calls it.

There are three sorts: one variable-length call for a whole row of sequences (FlashAttention 2, CUDA from compute
capability 8.0, 16 bits); torch's `scaled_dot_product_attention`, called for each sequence; and, to merge with a prefix,
kernels that also give the log-sum-exp of the scores, with a plain one in float32 where torch has none.

cuDNN's attention is turned off when this module is imported: it builds and keeps a graph for every new pair of lengths,
about 30 ms each on an H100, where torch prefers it; here nearly every call has lengths of its own. The setting is
torch's own and so covers transformers' attention too (padded batches, T5, classifiers).

Shapes: N tokens in one row, H query heads, K key/value heads, D their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

Capability = tuple[int, int]  # of a CUDA device, as (8, 0); (0, 0) without one

PLAIN_SCORES_BYTES = 2**28  # of scores that the plain kernel holds at once

torch.backends.cuda.enable_cudnn_sdp(False)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Where the sequences of a flat row begin and end, as the variable-length kernel takes it."""

    starts: Tensor  # [sequences + 1], int32: 0, then each end
    longest: int  # tokens

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Sequences":
        """The sequences of these lengths, one after the other."""
        ends = [0]
        for length in lengths:
            ends.append(ends[-1] + length)
        return cls(starts=torch.tensor(ends, dtype=torch.int32, device=device), longest=max(lengths))


@cache
def device_capability(device: torch.device) -> Capability:
    """The compute capability of a CUDA device; (0, 0) for anything else."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return (0, 0)
    return torch.cuda.get_device_capability(device)


def takes_varlen(query: Tensor) -> bool:
    """Whether the attention of a whole row can be one variable-length call."""
    return has_varlen_kernel(query.device.type, query.dtype, query.shape[-1], device_capability(query.device))


def has_varlen_kernel(device_type: str, dtype: torch.dtype, head_size: int, capability: Capability) -> bool:
    """Whether FlashAttention 2 serves this: 16 bits, head sizes up to 256 in steps of 8.

    Its backward pass takes heads above 192 only on devices with an A100's or H100's shared memory.
    """
    if device_type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or capability < (8, 0):
        return False
    large_memory = capability == (8, 0) or capability[0] in (9, 10)
    return head_size % 8 == 0 and head_size <= (256 if large_memory else 192)


def has_efficient_kernel(device_type: str, dtype: torch.dtype, head_size: int, capability: Capability) -> bool:
    """Whether torch's memory-efficient kernel serves this: CUDA from capability 5.0 on; bfloat16 from 8.0 on."""
    if device_type != "cuda" or capability < (5, 0) or head_size % 8:
        return False
    return dtype in (torch.float16, torch.float32) or (dtype is torch.bfloat16 and capability >= (8, 0))


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequences,
    keys: Sequences,
    causal: bool,
    scaling: float,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each sequence of queries to the sequence of keys at the same place, in one call.

    Args:
        query: [N, H, D].
        key: [M, K, D], as `value`.
        queries: of the N tokens.
        keys: of the M tokens, as many sequences.
        causal: only where both have the same lengths.
        scaling: of the scores.
        window: how many tokens a token sees, itself included; None: all before it; causal only.

    Returns:
        The output [N, H, D], and the log-sum-exp of the scores [H, N], float32.
    """
    # imported where it is used: it brings torch's compiler along, over a second
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    out, lse = varlen_attn(
        query,
        key,
        value,
        queries.starts,
        keys.starts,
        queries.longest,
        keys.longest,
        return_aux=AuxRequest(lse=True),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out, lse


def causal_segments(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scaling: float, window: int | None = None
) -> Tensor:
    """Causal attention within each segment of a row. [1, H, N, D], [1, K, N, D] -> [1, H, N, D].

    Neighbours of equal length are a batch of one call.

    Args:
        window: how many tokens a token sees, itself included; None: all before it.
    """
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    parts = []
    for (length, count), *row in zip(runs, *(part.split(sizes, 2) for part in (query, key, value)), strict=True):
        q, k, v = (part[0].unflatten(1, (count, length)).transpose(0, 1) for part in row)  # [count, H, length, D]
        seen = _banded(length, window, query.device) if window is not None and length > window else None
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None, scale=scaling)
        parts.append(out.transpose(0, 1).flatten(1, 2))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))[None]


def _banded(length: int, window: int, device: torch.device) -> Tensor:
    """A mask [T, T] of what each token sees: itself and the tokens before it within the window."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - window)


def attention_lse(query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    """-> the attention's output [1, H, N, D] and the log-sum-exp of its scores [1, H, N], float32."""
    if query.device.type == "cpu":  # takes fewer key/value heads than query heads as they are
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
        return out, lse
    heads = query.shape[1]
    if not has_efficient_kernel(query.device.type, query.dtype, query.shape[-1], device_capability(query.device)):
        return plain_attention_lse(query, key, value, causal, scaling)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, repeat_heads(key, heads), repeat_heads(value, heads), None, True, 0.0, causal, scale=scaling
    )
    return out, lse[..., : query.shape[2]]


def plain_attention_lse(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """As `attention_lse`, by matrix products in float32, a chunk of queries at a time."""
    heads, kv_heads, num_keys = query.shape[1], key.shape[1], key.shape[2]
    size = max(1, PLAIN_SCORES_BYTES // (4 * heads * num_keys))
    keys, values = key.float()[:, :, None], value.float()[:, :, None]  # [1, K, 1, T, D]: one for H/K query heads
    places = torch.arange(num_keys, device=query.device)
    outs, lses = [], []
    for start in range(0, query.shape[2], size):
        part = query[:, :, start : start + size].float().unflatten(1, (kv_heads, heads // kv_heads))
        scores = part @ keys.transpose(-1, -2) * scaling
        if causal:
            own = torch.arange(start, start + part.shape[3], device=query.device)
            scores.masked_fill_(places > own[:, None], -torch.inf)
        lse = scores.logsumexp(dim=-1)
        outs.append(((scores - lse[..., None]).exp() @ values).flatten(1, 2))
        lses.append(lse.flatten(1, 2))
    return torch.cat(outs, dim=2).to(query.dtype), torch.cat(lses, dim=2)


def repeat_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """Repeats each key/value head H/K times, for grouped-query attention. [B, K, T, D] -> [B, H, T, D]"""
    batch, kv_heads, tokens, size = tensor.shape
    if kv_heads == num_heads:
        return tensor
    spread = tensor[:, :, None].expand(batch, kv_heads, num_heads // kv_heads, tokens, size)
    return spread.reshape(batch, num_heads, tokens, size)

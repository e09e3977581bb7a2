"""Attention over packed rows: many sequences in one flat row, no padding, none sees another.

Which question it answers: how one forward pass of an unchanged transformers model serves training
(segments of any length), shared-prefix scoring (MMLU, judging) and decoding (a key/value cache).
The model is loaded with `attn_implementation="packed"`; each call passes an `AttentionPlan` through the
model's keyword arguments, and every layer asks the plan. No mask of [N, N] is ever built.

Shapes: N tokens of all segments in one row, H query heads, K key/value heads, D their size.
Source of the log-sum-exp merge: Flash-Decoding (Dao et al. 2023), Hydragen (arXiv 2402.05099).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

PACKED = "packed"

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer: [1, K, tokens, D] each


class AttentionPlan(Protocol):
    """Says what each token of a packed row may look at."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query [1, H, N, D], key and value [1, K, N, D] -> [1, H, N, D]."""
        ...


@dataclass(slots=True)
class Packed:
    """Causal attention within each segment; `record` keeps every layer's keys and values."""

    lengths: Sequence[int]
    record: "list[KeyValue] | None" = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self.record is not None:
            self.record.append((key, value))
        return _causal_segments(query, key, value, self.lengths, scaling)


@dataclass(slots=True)
class PrefixGroup:
    """Segments that continue one common prefix, whose keys and values were recorded before."""

    prefix: list[KeyValue]  # a layer each; empty: the segments stand alone
    lengths: Sequence[int]

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


@dataclass(slots=True)
class SharedPrefix:
    """Each segment sees its group's prefix and, causally, itself. Inference only."""

    groups: Sequence[PrefixGroup]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        out, start = [], 0
        for group in self.groups:
            tokens = slice(start, start + group.num_tokens)
            own = (query[:, :, tokens], key[:, :, tokens], value[:, :, tokens])
            if group.prefix:
                out.append(_with_prefix(*own, group, group.prefix[layer], scaling))
            else:
                out.append(_causal_segments(*own, group.lengths, scaling))
            start = tokens.stop
        return torch.cat(out, dim=2)


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of up to `num_slots` sequences of up to `max_tokens`, for decoding.

    Slot s of layer l is `keys[l][s]`, [K, max_tokens, D]. `lengths[s]` tokens of it are filled.
    """

    num_slots: int
    max_tokens: int
    lengths: list[int] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def fill(self, slot: int, recorded: Sequence[KeyValue], tokens: slice) -> None:
        """Copies a prefilled segment (its `tokens` of a recorded packed row) into a slot."""
        if not self.keys:
            for key, value in recorded:
                shape = (self.num_slots, key.shape[1], self.max_tokens, key.shape[3])
                self.keys.append(key.new_zeros(shape))
                self.values.append(value.new_zeros(shape))
            self.lengths = [0] * self.num_slots
        num_tokens = tokens.stop - tokens.start
        for layer, (key, value) in enumerate(recorded):
            self.keys[layer][slot, :, :num_tokens] = key[0, :, tokens]
            self.values[layer][slot, :, :num_tokens] = value[0, :, tokens]
        self.lengths[slot] = num_tokens

    def move(self, source: int, target: int) -> None:
        """Moves a sequence to another slot, so that the used slots stay the first ones."""
        num_tokens = self.lengths[source]
        for layer in range(len(self.keys)):
            self.keys[layer][target, :, :num_tokens] = self.keys[layer][source, :, :num_tokens]
            self.values[layer][target, :, :num_tokens] = self.values[layer][source, :, :num_tokens]
        self.lengths[target] = num_tokens


@dataclass(slots=True)
class Decode:
    """One new token for each of the first B slots. `lengths` counts grow by the caller, after the pass."""

    cache: KeyValueCache
    num_active: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        active, lengths = self.num_active, self.cache.lengths[: self.num_active]
        longest = max(lengths) + 1
        rows = torch.arange(active, device=query.device)
        at = torch.tensor(lengths, device=query.device)
        self.cache.keys[layer][rows, :, at] = key[0].transpose(0, 1)
        self.cache.values[layer][rows, :, at] = value[0].transpose(0, 1)
        visible = torch.arange(longest, device=query.device)[None, :] <= at[:, None]
        out = functional.scaled_dot_product_attention(
            query.permute(2, 1, 0, 3),  # [B, H, 1, D]
            _repeat_heads(self.cache.keys[layer][:active, :, :longest], query.shape[1]),
            _repeat_heads(self.cache.values[layer][:active, :, :longest], query.shape[1]),
            attn_mask=visible[:, None, None, :],
            scale=scaling,
        )
        return out.permute(2, 1, 0, 3)


def _causal_segments(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
    key, value = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1])
    sizes = list(lengths)
    parts = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    return torch.cat(parts, dim=2)


def _with_prefix(
    query: Tensor, key: Tensor, value: Tensor, group: PrefixGroup, prefix: KeyValue, scaling: float
) -> Tensor:
    """Attention to prefix and own tokens apart, merged by their log-sum-exp: the prefix is never copied."""
    heads = query.shape[1]
    out_p, lse_p = _attention_lse(query, _repeat_heads(prefix[0], heads), _repeat_heads(prefix[1], heads), False, scaling)
    key, value, sizes = _repeat_heads(key, heads), _repeat_heads(value, heads), list(group.lengths)
    own = [
        _attention_lse(q, k, v, True, scaling)
        for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    out_o, lse_o = torch.cat([out for out, _ in own], dim=2), torch.cat([lse for _, lse in own], dim=2)
    weight = torch.sigmoid(lse_p - lse_o).unsqueeze(-1).to(out_p.dtype)
    return out_o + weight * (out_p - out_o)


def _attention_lse(query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    """-> the attention's output [1, H, N, D] and the log-sum-exp of its scores [1, H, N], float32."""
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
        return out, lse
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal, scale=scaling
    )
    return out, lse[..., : query.shape[2]]


def _repeat_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """[B, K, T, D] -> [B, H, T, D]: grouped-query attention's heads, each key/value head H/K times."""
    batch, kv_heads, tokens, size = tensor.shape
    if kv_heads == num_heads:
        return tensor
    spread = tensor[:, :, None].expand(batch, kv_heads, num_heads // kv_heads, tokens, size)
    return spread.reshape(batch, num_heads, tokens, size)


def _packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: shapes as there, [1, H, N, D] -> [1, N, H, D]."""
    if plan is None:
        raise ValueError("a model loaded for packed rows needs plan=...: call it through AdapterBank")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return plan.attend(layer, query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(PACKED, _packed_attention)

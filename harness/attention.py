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

# Slots that attend in one call, as far as the longest of them: on a CPU reading keys costs more than a call.
_SLOTS_TOGETHER = {"cpu": 8}

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer: [1, K, tokens, D] each


class AttentionPlan(Protocol):
    """Says what each token of a packed row may look at."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, its prefix or cached part included."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """query [1, H, N, D], key and value [1, K, N, D] -> [1, H, N, D]."""
        ...


@dataclass(slots=True)
class Packed:
    """Causal attention within each segment; `record` keeps every layer's keys and values."""

    lengths: Sequence[int]
    record: "list[KeyValue] | None" = None

    @property
    def longest(self) -> int:
        return max(self.lengths)

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

    @property
    def longest(self) -> int:
        return max((g.prefix[0][0].shape[2] if g.prefix else 0) + max(g.lengths) for g in self.groups)

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
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)


@dataclass(slots=True)
class Branches:
    """Sequences that begin alike, all in one row: a group's common beginning once, its continuations behind it.

    As `SharedPrefix` in a single pass, for prefixes that serve a few short continuations. Inference only.
    """

    groups: Sequence[tuple[int, Sequence[int]]]  # tokens of the beginning (0: none), tokens of each continuation

    @property
    def longest(self) -> int:
        return max(num_prefix + max(lengths, default=0) for num_prefix, lengths in self.groups)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        out, start = [], 0
        for num_prefix, lengths in self.groups:
            first = slice(start, start + num_prefix)
            own = slice(first.stop, first.stop + sum(lengths))
            start = own.stop
            shared: KeyValue = key[:, :, first], value[:, :, first]
            if num_prefix:
                out.append(_causal_segments(query[:, :, first], *shared, [num_prefix], scaling))
            if not lengths:
                continue
            q, k, v = query[:, :, own], key[:, :, own], value[:, :, own]
            if num_prefix:
                out.append(_with_prefix(q, k, v, PrefixGroup([], lengths), shared, scaling))
            else:
                out.append(_causal_segments(q, k, v, lengths, scaling))
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)


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
    """One new token for each of the first B slots; the row's token i continues slot `slots[i]`.

    So a row can keep members together however the slots are filled. `lengths` are counted up by the
    caller, after the pass. A plan serves one pass.
    """

    cache: KeyValueCache
    slots: Sequence[int]  # a permutation of 0 .. B-1
    _at: "_DecodeIndex | None" = None

    @property
    def longest(self) -> int:
        return max(self.cache.lengths[slot] for slot in self.slots) + 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        at = self._at = self._at or _DecodeIndex.of(self.cache.lengths, self.slots, query)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[at.slots, :, at.ends] = key[0].transpose(0, 1)
        values[at.slots, :, at.ends] = value[0].transpose(0, 1)
        active, heads, kv_heads, size = len(self.slots), query.shape[1], key.shape[1], query.shape[3]
        # the H/K query heads of a key/value head become its queries: nothing of the cache is copied
        by_slot = query[0].transpose(0, 1)[at.rows].reshape(active, kv_heads, heads // kv_heads, size)
        out = torch.empty_like(by_slot)
        for part, mask in at.parts:
            longest = mask.shape[-1]
            out[part] = functional.scaled_dot_product_attention(
                by_slot[part], keys[part, :, :longest], values[part, :, :longest], attn_mask=mask, scale=scaling
            )
        return out.reshape(active, heads, size)[at.slots].transpose(0, 1)[None]


@dataclass(slots=True)
class _DecodeIndex:
    """What all layers of one decoding pass share."""

    slots: Tensor  # [B], of each row
    rows: Tensor  # [B], of each slot
    ends: Tensor  # [B], where each row's new token goes in its slot
    parts: list[tuple[slice, Tensor]]  # neighbouring slots, and their mask: 0 or -inf, [slots, 1, 1, their longest]

    @classmethod
    def of(cls, lengths: Sequence[int], slots: Sequence[int], query: Tensor) -> "_DecodeIndex":
        device = query.device
        by_row = torch.tensor(list(slots), device=device)
        by_slot = torch.tensor(list(lengths[: len(slots)]), device=device)
        num_together = _SLOTS_TOGETHER.get(device.type, len(slots))
        parts = []
        for start in range(0, len(slots), num_together):
            part = slice(start, min(start + num_together, len(slots)))
            hidden = torch.arange(max(lengths[part]) + 1, device=device)[None, :] > by_slot[part, None]
            mask = query.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            parts.append((part, mask[:, None, None, :]))
        return cls(by_row, torch.argsort(by_row), by_slot[by_row], parts)


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
    out_p, lse_p = _attention_lse(query, *prefix, False, scaling)
    merged = torch.empty_like(out_p)
    start = 0
    for length in group.lengths:
        own = slice(start, start + length)
        out_o, lse_o = _attention_lse(query[:, :, own], key[:, :, own], value[:, :, own], True, scaling)
        weight = torch.sigmoid(lse_p[:, :, own] - lse_o).unsqueeze(-1).to(out_p.dtype)
        torch.lerp(out_o, out_p[:, :, own], weight, out=merged[:, :, own])
        start = own.stop
    return merged


def _attention_lse(query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float) -> tuple[Tensor, Tensor]:
    """-> the attention's output [1, H, N, D] and the log-sum-exp of its scores [1, H, N], float32."""
    if query.device.type == "cpu":  # takes fewer key/value heads than query heads as they are
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
        return out, lse
    heads = query.shape[1]
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, _repeat_heads(key, heads), _repeat_heads(value, heads), None, True, 0.0, causal, scale=scaling
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
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: shapes as there, [1, H, N, D] -> [1, N, H, D]."""
    if plan is None:
        raise ValueError("a model loaded for packed rows needs plan=...: call it through AdapterBank")
    if softcap is not None:
        raise ValueError(f"{type(module).__name__} caps its attention scores, which packed rows don't implement")
    if sliding_window is not None and plan.longest > sliding_window:
        raise ValueError(
            f"a sequence of {plan.longest} tokens is longer than the model's sliding window of {sliding_window}; "
            "shorten it: packed rows attend to everything before a token"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return plan.attend(layer, query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(PACKED, _packed_attention)

"""Attention over packed rows: many sequences lie in one flat row without padding, and none sees another.

With it one forward pass of an unchanged transformers model serves training (segments of any length),
shared-prefix scoring (MMLU, judging) and decoding (a key/value cache). The model is loaded with
`attn_implementation="packed"`; each call passes an `AttentionPlan` through the model's keyword arguments,
and every layer calls the plan. No mask of [N, N] is ever built.

Shapes: N tokens of all segments in one row, H query heads, K key/value heads, D their size.
Source of the log-sum-exp merge: Flash-Decoding (Dao et al. 2023), Hydragen (arXiv 2402.05099).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from harness.nn.attention_kernels import Sequences, attention_lse, causal_segments, takes_varlen, varlen_attention

PACKED = "packed"

_WITHOUT_EFFECT = frozenset({"position_ids", "cache_position"})  # what a layer hands on that rotated its states before

KeyValue = tuple[Tensor, Tensor]  # keys and values of one layer: [1, K, tokens, D] each


class AttentionPlan(Protocol):
    """Says what each token of a packed row may look at."""

    @property
    def longest(self) -> int:
        """The number of tokens of the longest sequence, its prefix or cached part included."""
        ...

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """query [1, H, N, D], key and value [1, K, N, D] -> [1, H, N, D].

        Args:
            window: how many tokens a token sees, itself included; None: all before it.

        Raises:
            ValueError: a sequence longer than the window, where the plan doesn't serve one.
        """
        ...


@dataclass(slots=True)
class Packed:
    """Causal attention within each segment; `record` keeps every layer's keys and values."""

    lengths: Sequence[int]
    record: "list[KeyValue] | None" = None
    _sequences: Sequences | None = None  # made in the first layer

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        if self.record is not None:
            self.record.append((key, value))
        if not takes_varlen(query):
            return causal_segments(query, key, value, self.lengths, scaling, window)
        if self._sequences is None:
            self._sequences = Sequences.of(self.lengths, query.device)
        rows = self._sequences
        out_NHD, _ = varlen_attention(_flat(query), _flat(key), _flat(value), rows, rows, True, scaling, window)
        return _unflat(out_NHD)


@dataclass(slots=True)
class PrefixGroup:
    """Segments that continue one common prefix, whose keys and values were recorded before."""

    prefix: list[KeyValue]  # a layer each; empty: the segments stand alone
    lengths: Sequence[int]

    @property
    def num_tokens(self) -> int:
        """The number of the segments' own tokens."""
        return sum(self.lengths)


@dataclass(slots=True)
class SharedPrefix:
    """Each segment sees its group's prefix and, causally, itself. Inference only."""

    groups: Sequence[PrefixGroup]
    _row: "_PrefixedRow | None" = None

    @property
    def longest(self) -> int:
        return max((g.prefix[0][0].shape[2] if g.prefix else 0) + max(g.lengths) for g in self.groups)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        if any(group.prefix for group in self.groups):
            _require_within(window, self.longest)
        if takes_varlen(query):
            return self._attend_at_once(layer, query, key, value, scaling, window)
        out, start = [], 0
        for group in self.groups:
            tokens = slice(start, start + group.num_tokens)
            own = (query[:, :, tokens], key[:, :, tokens], value[:, :, tokens])
            if group.prefix:
                out.append(_with_prefix(*own, group, group.prefix[layer], scaling))
            else:
                out.append(causal_segments(*own, group.lengths, scaling, window))
            start = tokens.stop
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def _attend_at_once(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        if self._row is None:
            parts = [(g.prefix[0][0].shape[2] if g.prefix else 0, g.lengths) for g in self.groups]
            self._row = _PrefixedRow.of(parts, False, query.device)
        prefixes = [group.prefix[layer] for group in self.groups if group.prefix]
        prefix = None
        if prefixes:
            keys, values = ([_flat(pair[i]) for pair in prefixes] for i in (0, 1))
            prefix = (_joined(keys), _joined(values))
        return self._row.attend(query, key, value, prefix, scaling, window)


@dataclass(slots=True)
class Branches:
    """Sequences with common beginnings in one row: each beginning once, followed by its continuations.

    As `SharedPrefix` in a single pass, for prefixes that serve a few short continuations. Inference only.
    """

    groups: Sequence[tuple[int, Sequence[int]]]  # tokens of the beginning (0: none), tokens of each continuation
    _row: "_PrefixedRow | None" = None

    @property
    def longest(self) -> int:
        return max(num_prefix + max(lengths, default=0) for num_prefix, lengths in self.groups)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        _require_within(window, self.longest)
        if takes_varlen(query):
            return self._attend_at_once(query, key, value, scaling)
        out, start = [], 0
        for num_prefix, lengths in self.groups:
            first = slice(start, start + num_prefix)
            own = slice(first.stop, first.stop + sum(lengths))
            start = own.stop
            shared: KeyValue = key[:, :, first], value[:, :, first]
            if num_prefix:
                out.append(causal_segments(query[:, :, first], *shared, [num_prefix], scaling))
            if not lengths:
                continue
            q, k, v = query[:, :, own], key[:, :, own], value[:, :, own]
            if num_prefix:
                out.append(_with_prefix(q, k, v, PrefixGroup([], lengths), shared, scaling))
            else:
                out.append(causal_segments(q, k, v, lengths, scaling))
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def _attend_at_once(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self._row is None:
            self._row = _PrefixedRow.of(self.groups, True, query.device)
        prefix = None
        if self._row.prefix_P is not None:
            prefix = (_flat(key)[self._row.prefix_P], _flat(value)[self._row.prefix_P])
        return self._row.attend(query, key, value, prefix, scaling, None)


@dataclass(frozen=True, slots=True)
class _PrefixedRow:
    """A row whose sequences may see a prefix, as the variable-length kernel takes it. All layers share it."""

    own: Sequences  # every sequence of the row
    queries: Sequences | None  # the tokens that see a prefix, a group each; None: there are none
    keys: Sequences | None  # the prefixes they see
    seeing_Q: Tensor | None  # places of the tokens that see a prefix; None: all do
    prefix_P: Tensor | None  # places of the prefixes, where they are in the row

    @classmethod
    def of(cls, groups: Sequence[tuple[int, Sequence[int]]], in_row: bool, device: torch.device) -> "_PrefixedRow":
        """Groups: tokens of the prefix (0: none), tokens of each sequence. `in_row`: prefixes stand in the row."""
        own: list[int] = []
        seeing: list[int] = []
        prefix: list[int] = []
        position = 0
        for num_prefix, lengths in groups:
            if in_row and num_prefix:
                own.append(num_prefix)
                prefix += range(position, position + num_prefix) if lengths else ()
                position += num_prefix
            own += lengths
            seeing += range(position, position + sum(lengths)) if num_prefix else ()
            position += sum(lengths)
        shared = [(num_prefix, sum(lengths)) for num_prefix, lengths in groups if num_prefix and lengths]
        return cls(
            own=Sequences.of(own, device),
            queries=Sequences.of([count for _, count in shared], device) if shared else None,
            keys=Sequences.of([num_prefix for num_prefix, _ in shared], device) if shared else None,
            seeing_Q=None if len(seeing) == position else torch.tensor(seeing, device=device),
            prefix_P=torch.tensor(prefix, device=device) if prefix else None,
        )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: KeyValue | None,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """-> [1, H, N, D]. Args: prefix: keys and values of all prefixes, one after the other, [P, K, D] each."""
        q_NHD = _flat(query)
        out_NHD, lse_HN = varlen_attention(q_NHD, _flat(key), _flat(value), self.own, self.own, True, scaling, window)
        if prefix is None or self.queries is None or self.keys is None:
            return _unflat(out_NHD)
        seeing = slice(None) if self.seeing_Q is None else self.seeing_Q
        out_p, lse_p = varlen_attention(q_NHD[seeing], *prefix, self.queries, self.keys, False, scaling)
        weight = torch.sigmoid(lse_p - lse_HN[:, seeing]).T.unsqueeze(-1).to(out_p.dtype)
        out_NHD[seeing] = torch.lerp(out_NHD[seeing], out_p, weight)
        return _unflat(out_NHD)


def _flat(tensor: Tensor) -> Tensor:
    """[1, H, N, D] -> [N, H, D]"""
    return tensor[0].transpose(0, 1)


def _unflat(tensor: Tensor) -> Tensor:
    """[N, H, D] -> [1, H, N, D]"""
    return tensor.transpose(0, 1)[None]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _with_prefix(
    query: Tensor, key: Tensor, value: Tensor, group: PrefixGroup, prefix: KeyValue, scaling: float
) -> Tensor:
    """Attends to the prefix and to own tokens separately and merges by log-sum-exp, so the prefix is never copied."""
    out_p, lse_p = attention_lse(query, *prefix, False, scaling)
    merged = torch.empty_like(out_p)
    start = 0
    for length in group.lengths:
        own = slice(start, start + length)
        out_o, lse_o = attention_lse(query[:, :, own], key[:, :, own], value[:, :, own], True, scaling)
        weight = torch.sigmoid(lse_p[:, :, own] - lse_o).unsqueeze(-1).to(out_p.dtype)
        torch.lerp(out_o, out_p[:, :, own], weight, out=merged[:, :, own])
        start = own.stop
    return merged


def _require_within(window: int | None, longest: int) -> None:
    if window is not None and longest > window:
        raise ValueError(
            f"a sequence of {longest} tokens is longer than the model's sliding window of {window}, and shares its "
            "beginning with others, which is only done within the window; give each sequence a segment of its own"
        )


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
    """The attention function that transformers calls, with its shapes: [1, H, N, D] -> [1, N, H, D].

    Raises:
        ValueError: no plan, or a term in the scores that packed rows don't have and that would be lost.
    """
    if plan is None:
        raise ValueError("a model loaded for packed rows needs plan=...: call it through a bank")
    lost = [name for name, value in kwargs.items() if isinstance(value, Tensor) and name not in _WITHOUT_EFFECT]
    if softcap is not None or lost:
        what = "caps its attention scores" if softcap is not None else f"adds {', '.join(lost)} to its attention"
        raise ValueError(f"{type(module).__name__} {what}, which packed rows don't implement")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return plan.attend(layer, query, key, value, scale, sliding_window).transpose(1, 2), None


AttentionInterface.register(PACKED, _packed_attention)

"""The row that an `AdapterBank` computes: which tokens belong to which member, and the terms of every adapted layer.

What can be done once a row or once a layer is (`Kernels`): the factors of all members are put together, in the dtype of
their products, by one call before the first layer; members of one rank share their products, on a GPU neighbours, on a
CPU those with about as many tokens; and on a GPU the dropout masks of a layer come from one call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.nn.batch import Segment
from harness.nn.dropout import Drawn, RowMasks, can_draw_rows, draw_mask, mix_seed, rounded_probability
from harness.nn.low_rank import (
    BLOCK_ELEMENTS,
    GROUP_ALIGNMENT,
    Alone,
    Batch,
    Blocks,
    Grouped,
    Neighbours,
    Products,
    Stacked,
    Term,
    cast_together,
)

BASE = ""  # stands for "no member" within a row
STACKED_TOKENS = 512  # of a member that is computed in a batch with others; a longer one is as fast alone
SHORTEST_SHARE = 0.5  # of the longest member's tokens, that the others of a batch have at least; the rest is padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Which work of several members a device does by one call."""

    together: bool = False  # factors are put together once a row, members share products
    stacked: bool = False  # by batches of members, wherever they are (`Stacked`); else neighbours
    grouped: frozenset[torch.dtype] = frozenset()  # that `grouped_mm` has a kernel for; else `Blocks`
    row_masks: bool = False  # dropout masks of a row by one call a layer

    @classmethod
    def of(cls, device: torch.device) -> "Kernels":
        """-> what is faster by one call on this device."""
        if device.type != "cuda":
            return cls(together=True, stacked=True)
        has_kernel = torch.version.hip is None and torch.cuda.get_device_capability(device)[0] in (9, 10)
        grouped = frozenset({torch.bfloat16} if has_kernel else ())
        return cls(together=True, grouped=grouped, row_masks=can_draw_rows(device))


class AdaptedLayer(Protocol):
    """What a row needs of a linear layer with members' factors (`harness.banks.shared.BankLinear`)."""

    @property
    def layer(self) -> int: ...

    @property
    def lora_a(self) -> nn.ParameterDict: ...

    @property
    def lora_b(self) -> nn.ParameterDict: ...

    @property
    def scale(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """All tokens of one member, which are neighbours."""

    member: str  # "": the untouched base
    start: int
    end: int
    segments: list[Segment]

    @property
    def num_tokens(self) -> int:
        """The number of tokens of the member's segments."""
        return self.end - self.start


@dataclass(slots=True)
class _Planned:
    """Spans that share their products in one layer: all of their term but the masks."""

    spans: list[Span]
    rows: Neighbours | Batch
    products: Products
    a_KRI: Tensor
    b_KOR: Tensor
    factors: list[nn.Parameter]


@dataclass(slots=True)
class MemberRow:
    """The row that a bank computes; begun anew by every forward pass."""

    kernels: Kernels
    dropout: dict[str, tuple[float, int]] = field(default_factory=dict)  # member -> probability, seed
    spans: list[Span] = field(default_factory=list)
    training: bool = False
    _stride: int = 0  # tokens that each segment takes up in a padded batch; 0: packed, its own number
    _masks: RowMasks | None = None
    _planned: dict[int, list[_Planned]] = field(default_factory=dict)  # layer -> its runs
    _products: dict[tuple[bool, tuple[tuple[int, int, float], ...]], Products] = field(default_factory=dict)

    def begin(
        self,
        segments: Sequence[Segment],
        stride: int,
        training: bool,
        layers: Iterable[AdaptedLayer],
        like: Tensor,
    ) -> None:
        """Lays out a row.

        In evaluation the factors cast for a row serve the next one of the same spans (a token that is decoded), until
        `forget`.

        Args:
            segments: in the row's order.
            stride: tokens that each takes up in a padded batch; 0: packed, its own number.
            training: whether inputs are dropped.
            layers: of the bank.
            like: a tensor of the dtype and on the device of the layers' inputs.

        Raises:
            ValueError: a member's segments are not neighbours.
        """
        spans = _spans(segments, stride)
        if training or self.training or spans != self.spans:
            self.forget()
        self.spans, self.training, self._stride = spans, training, stride
        if training and self.kernels.row_masks and any(self._probability(span) for span in spans):
            self._masks = RowMasks([drawn for span in spans for drawn in self._drawn(span)], like.device)
        if self.kernels.together and not self._planned:
            self._plan(layers, like)

    def forget(self) -> None:
        """Drops what was computed for the row; call it when weights have changed."""
        self._masks = None
        self._planned.clear()
        self._products.clear()

    def terms(self, layer: AdaptedLayer, spans: Sequence[Span], x: Tensor) -> list[Term]:
        """-> the terms of a layer, given the spans of the members that it has, and its input [..., I]."""
        planned = self._planned[layer.layer] if self.kernels.together else [self._alone(layer, span) for span in spans]
        mask_NI = None if self._masks is None else self._masks.draw(layer.layer, x.shape[-1])
        return [
            Term(
                rows=run.rows,
                products=run.products,
                a_KRI=run.a_KRI,
                b_KOR=run.b_KOR,
                factors=run.factors,
                mask_TI=self._mask(run, layer, x) if mask_NI is None else run.rows.take(mask_NI),
            )
            for run in planned
        ]

    def _alone(self, layer: AdaptedLayer, span: Span) -> _Planned:
        factors = _factors(layer, [span])
        products = Alone(self._scale(layer, span, factors[0].device))
        a_KRI, b_KOR = (factor.detach()[None] for factor in factors)
        return _Planned([span], Neighbours(span.start, span.end), products, a_KRI, b_KOR, factors)

    def _plan(self, layers: Iterable[AdaptedLayer], like: Tensor) -> None:
        """Finds which spans share products in every layer, and puts their factors together, all by one call."""
        runs: list[tuple[AdaptedLayer, list[Span]]] = []
        for layer in layers:
            self._planned[layer.layer] = []
            for spans in self._runs(layer, like.dtype):
                if self.kernels.stacked and len(spans) == 1:  # a CPU casts a member's factors where they are used
                    self._planned[layer.layer].append(self._alone(layer, spans[0]))
                else:
                    runs.append((layer, spans))
        factors = [_factors(layer, spans) for layer, spans in runs]
        copies = cast_together([half for own in factors for half in (own[::2], own[1::2])], like.dtype)
        for (layer, spans), own, a_KRI, b_KOR in zip(runs, factors, copies[::2], copies[1::2], strict=True):
            products = self._shared_products(layer, spans, like)
            self._planned[layer.layer].append(_Planned(spans, self._rows(spans), products, a_KRI, b_KOR, own))

    def _runs(self, layer: AdaptedLayer, dtype: torch.dtype) -> list[list[Span]]:
        """-> the layer's spans, those together that share products."""
        own = [span for span in self.spans if span.member in layer.lora_a]
        if self.kernels.stacked:
            batches = stacked_batches([(len(layer.lora_a[span.member]), span.num_tokens) for span in own])
            return [[own[place] for place in batch] for batch in batches]
        runs: list[list[Span]] = []
        for span in own:
            if runs and self._may_join(layer, [*runs[-1], span], dtype):
                runs[-1].append(span)
            else:
                runs.append([span])
        return runs

    def _rows(self, spans: Sequence[Span]) -> Neighbours | Batch:
        are_neighbours = all(before.end == after.start for before, after in pairwise(spans))
        lengths = {span.num_tokens for span in spans}
        if are_neighbours and (len(lengths) == 1 or not self.kernels.stacked):
            return Neighbours(spans[0].start, spans[-1].end)
        return Batch(tuple((span.start, span.end) for span in spans), max(lengths))

    def _may_join(self, layer: AdaptedLayer, spans: Sequence[Span], dtype: torch.dtype) -> bool:
        ranks = {len(layer.lora_a[span.member]) for span in spans}
        if len(ranks) > 1 or any(before.end != after.start for before, after in pairwise(spans)):
            return False
        if self._is_grouped(layer, spans, dtype):
            return True
        columns = len(spans) * ranks.pop()
        return columns * sum(span.num_tokens for span in spans) <= BLOCK_ELEMENTS

    def _is_grouped(self, layer: AdaptedLayer, spans: Sequence[Span], dtype: torch.dtype) -> bool:
        sizes = *layer.lora_a[spans[0].member].shape, len(layer.lora_b[spans[0].member])
        return dtype in self.kernels.grouped and all(size % GROUP_ALIGNMENT == 0 for size in sizes)

    def _shared_products(self, layer: AdaptedLayer, spans: list[Span], like: Tensor) -> Products:
        scales = [self._scale(layer, span, like.device) for span in spans]
        if len(spans) == 1:
            return Alone(scales[0])
        if self.kernels.stacked:
            return Stacked.of(scales, like)
        grouped = self._is_grouped(layer, spans, like.dtype)
        key = grouped, tuple((span.start, span.end, scale) for span, scale in zip(spans, scales, strict=True))
        if key not in self._products:
            make = Grouped.of if grouped else Blocks.of
            self._products[key] = make([span.num_tokens for span in spans], scales, like.device)
        return self._products[key]

    def _scale(self, layer: AdaptedLayer, span: Span, device: torch.device) -> float:
        probability = self._probability(span)
        if not self.training or not probability:
            return layer.scale[span.member]
        kept = 1 - (probability if self._masks is not None else rounded_probability(probability, device))
        return layer.scale[span.member] / kept

    def _probability(self, span: Span) -> float:
        return self.dropout[span.member][0] if span.member in self.dropout else 0.0

    def _drawn(self, span: Span) -> list[Drawn]:
        probability, seed = self.dropout.get(span.member, (0.0, 0))
        return [
            Drawn(
                num_tokens=self._stride or segment.num_tokens,
                probability=probability,
                seed=mix_seed(seed, segment.dropout_key, 0),
            )
            for segment in span.segments
        ]

    def _mask(self, run: _Planned, layer: AdaptedLayer, x: Tensor) -> Tensor | None:
        """Draws the masks of spans that share products, segment by segment."""
        if not self.training or not any(self._probability(span) for span in run.spans):
            return None
        longest = run.rows.longest if isinstance(run.rows, Batch) else None
        num_tokens = run.rows.num_tokens if longest is None else len(run.spans) * longest
        mask_TI = torch.ones(num_tokens, x.shape[-1], dtype=torch.bool, device=x.device)
        for place, span in enumerate(run.spans):
            probability, seed = self.dropout.get(span.member, (0.0, 0))
            position = span.start - run.spans[0].start if longest is None else place * longest
            for segment in span.segments if probability else ():
                own = mask_TI[position : position + segment.num_tokens]
                draw_mask(own, probability, mix_seed(seed, segment.dropout_key, layer.layer))
                position += self._stride or segment.num_tokens
        return mask_TI


def stacked_batches(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Finds members whose products are computed in one batch.

    Args:
        sizes: rank and number of tokens of each member, in the row's order.

    Returns:
        The members of each batch, ascending. In a batch all have one rank, and at least `SHORTEST_SHARE` of the longest
        one's tokens; a member of over `STACKED_TOKENS` tokens is alone.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(sizes)), key=lambda place: sizes[place], reverse=True):
        together = [*batches[-1], place] if batches else []
        if together and _may_stack([sizes[other] for other in together]):
            batches[-1] = together
        else:
            batches.append([place])
    return sorted(sorted(batch) for batch in batches)


def _may_stack(sizes: Sequence[tuple[int, int]]) -> bool:
    ranks, lengths = zip(*sizes, strict=True)
    if len(set(ranks)) > 1 or max(lengths) > STACKED_TOKENS:
        return False
    return bool(min(lengths) >= SHORTEST_SHARE * max(lengths))


def _factors(layer: AdaptedLayer, spans: Sequence[Span]) -> list[nn.Parameter]:
    """-> A and B of each span's member in turn."""
    return [factor for span in spans for factor in (layer.lora_a[span.member], layer.lora_b[span.member])]


def _spans(segments: Sequence[Segment], stride: int) -> list[Span]:
    by_member: dict[str, list[Segment]] = {}
    starts: dict[str, int] = {}
    last, end = None, 0
    for segment in segments:
        member = segment.member or BASE
        if member != last and member in by_member:
            raise ValueError(f"segments of {member or 'the base'} are not neighbours in the packed row")
        starts.setdefault(member, end)
        by_member.setdefault(member, []).append(segment)
        last, end = member, end + (stride or segment.num_tokens)
    ends = [*list(starts.values())[1:], end]
    return [
        Span(member=member, start=starts[member], end=after, segments=by_member[member])
        for member, after in zip(by_member, ends, strict=True)
    ]

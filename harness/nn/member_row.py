"""The row that an `AdapterBank` computes: which tokens belong to which member, and the terms of every adapted layer.

What can be done once a row or once a layer is (`Kernels`). On a GPU the factors of all members are cast by one call
before the first layer, neighbours of one rank share their products, and the dropout masks of a layer come from one
call. On a CPU neighbours of one rank and length share them; another member's factors are cast where they are used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.nn.batch import Segment
from harness.nn.dropout import Drawn, RowMasks, can_draw_rows, draw_mask, mix_seed, rounded_probability
from harness.nn.low_rank import (
    BLOCK_ELEMENTS,
    GROUP_ALIGNMENT,
    Alone,
    Blocks,
    Grouped,
    Products,
    Stacked,
    Term,
    cast_together,
)

BASE = ""  # stands for "no member" within a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Which work of several members a device does by one call."""

    together: bool = False  # factors are cast once a row, neighbours share products
    stacked: bool = False  # those of one length, by `Stacked`, and a member alone keeps its factors as they are
    grouped: frozenset[torch.dtype] = frozenset()  # that `grouped_mm` has a kernel for; else `Blocks`
    row_masks: bool = False  # dropout masks of a row by one call a layer

    @property
    def isolate_members(self) -> bool:
        """Whether what isn't finite in one member stays with it: `Blocks` multiplies it by 0, which is NaN again."""
        return self.stacked or not self.together

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
    """A run of neighbouring spans in one layer: all of its term but the masks."""

    spans: list[Span]
    products: Products
    a_KRI: Tensor
    b_KOR: Tensor


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
                start=run.spans[0].start,
                end=run.spans[-1].end,
                products=run.products,
                a_KRI=run.a_KRI,
                b_KOR=run.b_KOR,
                mask_TI=self._mask(run.spans, layer, x) if mask_NI is None else _rows(mask_NI, run.spans),
            )
            for run in planned
        ]

    def _alone(self, layer: AdaptedLayer, span: Span) -> _Planned:
        a_RI, b_OR = layer.lora_a[span.member].detach(), layer.lora_b[span.member].detach()
        return _Planned([span], Alone(self._scale(layer, span, a_RI.device)), a_RI[None], b_OR[None])

    def _plan(self, layers: Iterable[AdaptedLayer], like: Tensor) -> None:
        """Finds every layer's runs and casts their factors, all by one call."""
        runs: list[tuple[AdaptedLayer, list[Span], Products]] = []
        for layer in layers:
            self._planned[layer.layer] = []
            for spans in self._runs(layer, like.dtype):
                runs.append((layer, spans, self._shared_products(layer, spans, like)))
        factors = [(factors, spans) for layer, spans, _ in runs for factors in (layer.lora_a, layer.lora_b)]
        copies = self._copies([[of[span.member].detach() for span in spans] for of, spans in factors], like.dtype)
        for (layer, spans, products), a_KRI, b_KOR in zip(runs, copies[::2], copies[1::2], strict=True):
            self._planned[layer.layer].append(_Planned(spans, products, a_KRI, b_KOR))

    def _copies(self, stacks: list[list[Tensor]], dtype: torch.dtype) -> list[Tensor]:
        """-> the factors of each run, [K, ...], in the dtype of the products; a single one's on a CPU as they are."""
        if not self.kernels.stacked:
            return cast_together(stacks, dtype)
        copied = iter(cast_together([stack for stack in stacks if len(stack) > 1], dtype))
        return [next(copied) if len(stack) > 1 else stack[0][None] for stack in stacks]

    def _runs(self, layer: AdaptedLayer, dtype: torch.dtype) -> list[list[Span]]:
        """-> neighbouring spans of one rank, as many together as one call may compute."""
        runs: list[list[Span]] = []
        rank_before = 0
        for span in self.spans:
            if span.member not in layer.lora_a:
                continue
            rank = layer.lora_a[span.member].shape[0]
            if runs and rank == rank_before and self._may_join(layer, runs[-1], span, rank, dtype):
                runs[-1].append(span)
            else:
                runs.append([span])
            rank_before = rank
        return runs

    def _may_join(self, layer: AdaptedLayer, run: Sequence[Span], span: Span, rank: int, dtype: torch.dtype) -> bool:
        """Whether the next span, of the rank of those in the run, shares their products."""
        if run[-1].end != span.start:
            return False
        if self.kernels.stacked:
            return run[-1].num_tokens == span.num_tokens
        if self._is_grouped(layer, run, dtype):
            return True
        return (len(run) + 1) * rank * (span.end - run[0].start) <= BLOCK_ELEMENTS

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

    def _mask(self, spans: Sequence[Span], layer: AdaptedLayer, x: Tensor) -> Tensor | None:
        """Draws the masks of a run segment by segment."""
        if not self.training or not any(self._probability(span) for span in spans):
            return None
        shape = spans[-1].end - spans[0].start, x.shape[-1]
        is_all_drawn = not self._stride and all(self._probability(span) for span in spans)
        mask_TI = (torch.empty if is_all_drawn else torch.ones)(shape, dtype=torch.bool, device=x.device)
        position = 0
        for span in spans:
            probability, seed = self.dropout[span.member]
            for segment in span.segments:
                own = mask_TI[position : position + segment.num_tokens]
                if probability:
                    draw_mask(own, probability, mix_seed(seed, segment.dropout_key, layer.layer))
                position += self._stride or segment.num_tokens
        return mask_TI


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


def _rows(mask_NI: Tensor, spans: Sequence[Span]) -> Tensor:
    return mask_NI[spans[0].start : spans[-1].end]

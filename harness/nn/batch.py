"""Packs the examples of a step, of all members of a group, into flat rows without padding.

A `Segment` is one sequence of a packed row: how long it is and whose adapter serves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example of one member's step."""

    member: str
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]]  # input and output
    num_source: int  # leading tokens that carry no loss
    dropout_key: int
    weight: float  # what each of its target tokens counts in the member's step loss
    label: float | None = None  # the class, or the number to predict: then it is the one target, and no token is

    @property
    def num_targets(self) -> int:
        """The number of tokens that carry loss; 1 for a labelled example."""
        if self.label is not None:
            return 1
        return len(self.tokens) - max(self.num_source, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One sequence of a packed row."""

    num_tokens: int
    member: str | None  # whose adapter serves it; None: the untouched base
    dropout_key: int = 0  # identifies (step, example) to the member's dropout stream


@dataclass(slots=True, kw_only=True)
class PackedRow:
    """A flat row of N tokens with M target positions."""

    input_ids_1N: Tensor
    position_ids_1N: Tensor  # of each token in its own sequence
    segments: list[Segment]
    target_at_M: Tensor  # positions whose next token is a target
    targets_M: Tensor


def split_rows(items: Sequence[Item], max_tokens: int) -> list[list[Item]]:
    """Cuts a step's items (members in order) into rows of at most `max_tokens`; a longer item has a row of its own."""
    rows: list[list[Item]] = []
    used = 0
    for item in items:
        if not rows or used + len(item.tokens) > max_tokens:
            rows.append([])
            used = 0
        rows[-1].append(item)
        used += len(item.tokens)
    return rows


def pack(items: Sequence[Item], device: torch.device) -> PackedRow:
    """Lays items one after the other, by few copies to the device; items of one member must be neighbours."""
    segments, target_at, targets = [], [], []
    start = 0
    for item in items:
        segments.append(Segment(num_tokens=len(item.tokens), member=item.member, dropout_key=item.dropout_key))
        first = max(item.num_source, 1)  # the first token of a sequence is predicted by nothing
        target_at.append(np.arange(start + first - 1, start + len(item.tokens) - 1))
        targets.append(item.tokens[first:])
        start += len(item.tokens)
    tokens, positions = [item.tokens for item in items], [np.arange(len(item.tokens)) for item in items]
    parts = [np.concatenate(part).astype(np.int64) for part in (tokens, positions, targets)]
    ids_N, positions_N, targets_M = send(np.concatenate(parts), device).split([len(part) for part in parts])
    return PackedRow(
        input_ids_1N=ids_N[None],
        position_ids_1N=positions_N[None],
        segments=segments,
        target_at_M=send(np.concatenate(target_at), device),  # of its own, as it is kept for the backward pass
        targets_M=targets_M,
    )


def counted_positions(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Each token's position in its own sequence, counted from 0, [1, N]."""
    return send(np.concatenate([np.arange(length) for length in lengths])[None], device)


def segments_read(segments: Sequence[Segment], read_at: Sequence[int]) -> list[Segment]:
    """The segments of a row that has only some of another's places.

    Args:
        segments: of the other row.
        read_at: the places, ascending.
    """
    ends = np.cumsum([segment.num_tokens for segment in segments])
    counts = np.bincount(np.searchsorted(ends, read_at, side="right"), minlength=len(segments)).tolist()
    return [replace(segment, num_tokens=count) for segment, count in zip(segments, counts, strict=True) if count]


def only_at(read_at: Sequence[int] | None, hidden_1ND: Tensor) -> Tensor:
    """The hidden states of these places of a row; None: of all."""
    return hidden_1ND if read_at is None else hidden_1ND[:, torch.tensor(list(read_at), dtype=torch.long)]


def send(array: np.ndarray[Any, np.dtype[Any]], device: torch.device) -> Tensor:
    """Copies an array to a device, without waiting until the device has done its earlier work."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def share_out(items: Sequence[Item], num_ranks: int) -> list[list[Item]]:
    """Splits a step's items over ranks so that each has about as many tokens; every rank computes the same split.

    The longest item goes first, each to the rank with the fewest tokens so far; within a rank items keep their order.
    """
    tokens = [0] * num_ranks
    places: list[list[int]] = [[] for _ in range(num_ranks)]
    for place in sorted(range(len(items)), key=lambda i: -len(items[i].tokens)):
        rank = min(range(num_ranks), key=lambda r: tokens[r])
        tokens[rank] += len(items[place].tokens)
        places[rank].append(place)
    return [[items[place] for place in sorted(mine)] for mine in places]


def padded_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Cuts examples, longest first, into batches whose padded size is at most the sum of all lengths.

    So padding takes no more memory than a packed row of all examples would.

    Returns:
        The indices of each batch's examples.
    """
    budget, batches = sum(lengths), list[list[int]]()
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def pad(rows: Sequence[Tokens], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pads on the right. -> token ids [B, T], and 1 where a token is no padding [B, T]; both int64"""
    longest = max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), longest), fill), torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)

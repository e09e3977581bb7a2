"""Packs the examples of a step, of all members of a group, into flat rows without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.segments import Segment


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
        if self.label is not None:
            return 1
        return len(self.tokens) - max(self.num_source, 1)


@dataclass(slots=True, kw_only=True)
class PackedRow:
    """A flat row of N tokens with M target positions."""

    input_ids_1N: Tensor
    position_ids_1N: Tensor  # of each token in its own sequence
    segments: list[Segment]
    target_at_M: Tensor  # positions whose next token is a target
    targets_M: Tensor


def split_rows(items: Sequence[Item], max_tokens: int) -> list[list[Item]]:
    """Cuts a step's items (members in order) into rows of at most `max_tokens`; one item always fits."""
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
    """Lays items one behind the other, by few copies to the device; those of one member must be neighbours."""
    segments, at, targets = [], [], []
    start = 0
    for item in items:
        segments.append(Segment(num_tokens=len(item.tokens), member=item.member, dropout_key=item.dropout_key))
        first = max(item.num_source, 1)  # the first token of a sequence is predicted by nothing
        at.append(np.arange(start + first - 1, start + len(item.tokens) - 1))
        targets.append(item.tokens[first:])
        start += len(item.tokens)
    tokens, positions = [item.tokens for item in items], [np.arange(len(item.tokens)) for item in items]
    parts = [np.concatenate(part).astype(np.int64) for part in (tokens, positions, targets)]
    ids_N, positions_N, targets_M = send(np.concatenate(parts), device).split([len(part) for part in parts])
    return PackedRow(
        input_ids_1N=ids_N[None],
        position_ids_1N=positions_N[None],
        segments=segments,
        target_at_M=send(np.concatenate(at), device),  # of its own, as it is kept for the backward pass
        targets_M=targets_M,
    )


def send(array: np.ndarray[Any, np.dtype[Any]], device: torch.device) -> Tensor:
    """Copies an array to a device, without waiting for what the device has to do before."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

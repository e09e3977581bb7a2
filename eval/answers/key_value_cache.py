"""The cache of keys and values while sequences are decoded: filled by a packed row, extended by every token.

Sequences of similar length lie together in a `Shelf`, one tensor a layer; sequences of other lengths have a shelf of
their own, so that none takes the room of a longer one. A pass continues the sequences of all shelves by one token.

Shapes: N tokens in one row, H query heads, K key/value heads, D their size, B sequences under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from harness.nn.attention import Packed

# Slots that attend in one call, as far as the longest of them: on a CPU reading keys costs more than a call.
_SLOTS_TOGETHER = {"cpu": 8}


@dataclass(slots=True)
class Shelf:
    """Keys and values of up to `num_slots` sequences of up to `max_tokens`.

    Slot s of layer l is `keys[l][s]`, [K, max_tokens, D]. The used slots are the first ones, as many as `lengths`.
    """

    num_slots: int
    max_tokens: int
    lengths: list[int] = field(default_factory=list)  # filled tokens of each used slot
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def num_free(self) -> int:
        """The number of free slots."""
        return self.num_slots - len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """The number of tokens that the shelf has memory for."""
        return self.num_slots * self.max_tokens

    def add(self, length: int) -> int:
        """Takes the next slot for a sequence of `length` tokens, which a `Prefill` then fills. -> the slot"""
        assert self.num_free > 0
        assert length <= self.max_tokens
        self.lengths.append(length)
        return len(self.lengths) - 1

    def fill(self, layer: int, slot: int, key: Tensor, value: Tensor) -> None:
        """Copies one layer's keys and values of a sequence, [K, tokens, D] each, into a slot."""
        if layer == len(self.keys):
            shape = (self.num_slots, key.shape[0], self.max_tokens, key.shape[2])
            self.keys.append(key.new_zeros(shape))
            self.values.append(value.new_zeros(shape))
        self.keys[layer][slot, :, : key.shape[1]] = key
        self.values[layer][slot, :, : value.shape[1]] = value

    def remove(self, slot: int) -> None:
        """Frees a slot; the last used one's sequence moves there, so that the used slots stay the first ones."""
        length = self.lengths.pop()
        last = len(self.lengths)
        if slot == last:
            return
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[slot, :, :length] = tensor[last, :, :length]
        self.lengths[slot] = length


@dataclass(slots=True)
class Prefill:
    """Attends as `Packed`, and copies every layer's keys and values into the segments' slots."""

    lengths: Sequence[int]
    slots: Sequence[tuple[Shelf, int]]  # of each segment
    _packed: Packed = field(init=False)

    def __post_init__(self) -> None:
        self._packed = Packed(self.lengths)

    @property
    def longest(self) -> int:
        return self._packed.longest

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        start = 0
        for (shelf, slot), length in zip(self.slots, self.lengths, strict=True):
            shelf.fill(layer, slot, key[0, :, start : start + length], value[0, :, start : start + length])
            start += length
        return self._packed.attend(layer, query, key, value, scaling, window)


@dataclass(slots=True)
class Slots:
    """Which sequences the rows of a pass continue, on the device: made when that changes, counted up in between.

    Args:
        shelves: their used slots, one shelf after the other, are the slots meant below.
        by_row: the slot of each row; all slots in any order, so that a row can keep members together.
        device: of the cache.
    """

    shelves: Sequence[Shelf]
    by_row: Sequence[int]
    device: torch.device
    slot_of_row: Tensor = field(init=False)  # [B]
    row_of_slot: Tensor = field(init=False)  # [B]
    ends: Tensor = field(init=False)  # [B], filled tokens of each slot: where its new token goes

    def __post_init__(self) -> None:
        lengths = [length for shelf in self.shelves for length in shelf.lengths]
        assert sorted(self.by_row) == list(range(len(lengths)))
        row_of_slot = sorted(range(len(lengths)), key=lambda row: self.by_row[row])
        packed = torch.tensor([list(self.by_row), row_of_slot, lengths], device=self.device)
        self.slot_of_row, self.row_of_slot, self.ends = packed.unbind()

    @property
    def positions_1B(self) -> Tensor:
        """The position of each row's new token in its sequence."""
        return self.ends[self.slot_of_row][None]

    def count_up(self) -> None:
        """Notes that every sequence has one token more."""
        self.ends += 1
        for shelf in self.shelves:
            shelf.lengths = [length + 1 for length in shelf.lengths]


def _masks(lengths: Sequence[int], ends: Tensor, query: Tensor, window: int | None) -> list[tuple[slice, Tensor]]:
    """Neighbouring slots of a shelf, and their mask: 0 or -inf, [slots, 1, 1, tokens of their longest]."""
    together = _SLOTS_TOGETHER.get(ends.device.type, max(1, len(lengths)))
    parts = []
    for start in range(0, len(lengths), together):
        part = slice(start, min(start + together, len(lengths)))
        places = torch.arange(max(lengths[part]) + 1, device=ends.device)[None, :]
        hidden = places > ends[part, None]
        if window is not None:
            hidden |= places <= ends[part, None] - window
        mask = query.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        parts.append((part, mask[:, None, None, :]))
    return parts


@dataclass(slots=True)
class Decode:
    """One new token for each sequence of `slots`, which the caller counts up after the pass. Serves one pass."""

    slots: Slots
    _masks: "dict[int | None, list[list[tuple[slice, Tensor]]]]" = field(default_factory=dict, init=False)

    @property
    def longest(self) -> int:
        return max(max(shelf.lengths, default=0) for shelf in self.slots.shelves) + 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        if window not in self._masks:
            self._masks[window] = self._all_masks(query, window)
        slots, heads, kv_heads, size = self.slots, query.shape[1], key.shape[1], query.shape[3]
        # the H/K query heads of a key/value head become its queries: nothing of the cache is copied
        by_slot = query[0].transpose(0, 1)[slots.row_of_slot].unflatten(1, (kv_heads, heads // kv_heads))
        new_keys, new_values = (new[0].transpose(0, 1)[slots.row_of_slot] for new in (key, value))
        out = torch.empty_like(by_slot)
        start = 0
        for shelf, masks in zip(slots.shelves, self._masks[window], strict=True):
            used = slice(start, start + len(shelf.lengths))
            keys, values, ends = shelf.keys[layer], shelf.values[layer], slots.ends[used]
            places = torch.arange(len(shelf.lengths), device=ends.device)
            keys[places, :, ends] = new_keys[used]
            values[places, :, ends] = new_values[used]
            for part, mask in masks:
                longest, own = mask.shape[-1], slice(start + part.start, start + part.stop)
                out[own] = functional.scaled_dot_product_attention(
                    by_slot[own], keys[part, :, :longest], values[part, :, :longest], attn_mask=mask, scale=scaling
                )
            start = used.stop
        return out.reshape(start, heads, size)[slots.slot_of_row].transpose(0, 1)[None]

    def _all_masks(self, query: Tensor, window: int | None) -> "list[list[tuple[slice, Tensor]]]":
        """The masks of each shelf, kept by the window, in which layers may differ."""
        masks, start = [], 0
        for shelf in self.slots.shelves:
            ends = self.slots.ends[start : start + len(shelf.lengths)]
            masks.append(_masks(shelf.lengths, ends, query, window))
            start += len(shelf.lengths)
        return masks

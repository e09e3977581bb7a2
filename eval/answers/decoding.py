"""Answers many prompts, of several adapters of one base, in continuous batches.

Prompts wait longest first; free slots are filled by prefilling several prompts in one packed row; each
pass then continues every active sequence by one token. A finished sequence leaves its slot at once.
A pass keeps the tokens of one member together, as the bank wants them.

Memory: as many slots as are asked for, or as fit. Sequences of like length share a shelf of the cache
(`eval.answers.key_value_cache`); one that would fill less than half of a slot opens a shelf of its own while slots are
left. Where the device has no room after all, everything under way waits again, its tokens kept, and half as many slots
go on. The host waits for the device once a token, for all rows together.

Source: continuous batching as in Orca (OSDI 2022). tests/unit/eval/answers/test_generate.py holds greedy texts against
transformers' `generate`, one prompt at a time.

A base whose rows are padded is answered from by `eval.answers.padded_batch`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from eval.answers.key_value_cache import Decode, Prefill, Shelf, Slots
from eval.answers.padded_batch import PaddedBatch
from eval.answers.sampling import TokenPicker
from eval.answers.sequences import (
    Decoded,
    DecodingRequest,
    DecodingSettings,
    UnderWay,
    longest_first,
    member_ranks,
    numbers_ahead,
    uniform_numbers,
    wait_again,
)
from eval.scoring.row_sizes import MAX_SLOTS, PREFILL_TOKENS, Backoff, RowSizes, row_sizes
from harness.banks.load import LoadedBase
from harness.nn.batch import Segment

_NUMBERS_AHEAD = 64  # random numbers of each sequence that the device has in advance

ShouldStop = Callable[[Sequence[int]], bool]  # of the tokens generated so far


def decode(
    base: LoadedBase,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    eos_tokens: frozenset[int],
    should_stop: ShouldStop | None = None,
) -> Iterator[Decoded]:
    """Answers requests, in the order in which they finish.

    Args:
        base: with the requests' members in its bank.
        eos_tokens: any of them ends a sequence and is left out.
        should_stop: looked at after each token; a true one ends the sequence, the token included.

    Raises:
        ValueError: an empty prompt, or one that leaves no room for a token in the model's context; logits that are
            NaN or infinite.
        torch.OutOfMemoryError: a single sequence doesn't fit beside the model.
    """
    waiting = deque(_sequences(base, requests, settings))
    if not waiting:
        return
    backoff = Backoff(
        min(settings.num_slots or MAX_SLOTS, len(waiting)),
        base.bank.device,
        "prompt with its answer",
        "shorten the prompts or take a lower max_new_tokens",
    )
    sizes = row_sizes(base.bank, usual=PREFILL_TOKENS)
    picker = TokenPicker(bank=base.bank, settings=settings, model=base.source.location)
    kind = _Batch if base.bank.layout.is_packed else PaddedBatch
    batch = kind(picker, [request.member for request in requests], sizes)
    while waiting or not batch.is_empty:
        stepped = backoff.run(
            lambda num_slots: batch.advance(waiting, num_slots, backoff.num_halvings),
            smallest=1,
            give_up=lambda: batch.give_up(waiting),
        )
        yield from batch.retire(_finish_reasons(stepped, eos_tokens, should_stop))


def _sequences(base: LoadedBase, requests: Sequence[DecodingRequest], settings: DecodingSettings) -> list[UnderWay]:
    sequences = []
    for index, request in enumerate(requests):
        room = base.max_length - len(request.tokens)
        if not request.tokens or room < 1:
            raise ValueError(
                f"request {index} has a prompt of {len(request.tokens)} tokens; this model's context of "
                f"{base.max_length} must hold it and an answer: shorten it, or leave it out"
            )
        num_new = min(settings.max_new_tokens, room)
        uniform_T = None if settings.greedy else uniform_numbers(request.seed, num_new)
        sequences.append(UnderWay(index, request, num_new, uniform_T))
    return longest_first(sequences)


@dataclass(slots=True)
class _OnShelf:
    """A shelf of the cache and whose keys and values are in its slots."""

    cache: Shelf
    sequences: list[UnderWay] = field(default_factory=list)

    def holds(self, sequence: UnderWay) -> bool:
        return self.cache.num_free > 0 and sequence.num_tokens <= self.cache.max_tokens

    def suits(self, sequence: UnderWay) -> bool:
        """Whether the sequence takes half of a slot at least."""
        return 2 * sequence.num_tokens >= self.cache.max_tokens


@dataclass(slots=True)
class _Step:
    """What a decoding pass needs on the device; made when the sequences under way change."""

    rows: list[UnderWay]  # those of one member together
    slots: Slots
    segments: list[Segment]
    tokens_B: Tensor  # each row's newest
    uniform_BS: Tensor | None  # each row's next random numbers; None: greedy
    num_done: int = 0  # passes


class _Batch:
    """The sequences under way and their cache."""

    def __init__(self, picker: TokenPicker, members: Sequence[str | None], sizes: RowSizes) -> None:
        self.shelves: list[_OnShelf] = []
        self._bank, self._picker, self._sizes = picker.bank, picker, sizes
        self._ranks = member_ranks(members)
        self._step: _Step | None = None

    @property
    def is_empty(self) -> bool:
        return not self.shelves

    @torch.inference_mode()
    def advance(self, waiting: deque[UnderWay], num_slots: int, num_halvings: int) -> list[UnderWay]:
        """Starts waiting sequences where there are slots, else continues all by one token. -> those with a new token"""
        started = self._place(waiting, num_slots, num_halvings)
        if not started:
            return self._continue()
        self._prefill(started)
        return [sequence for _, _, sequence in started]

    @torch.inference_mode()
    def retire(self, reasons: dict[int, str]) -> list[Decoded]:
        """Takes finished sequences out, by their index, and drops shelves that are empty."""
        finished = []
        for shelf in reversed(self.shelves):
            for slot in range(len(shelf.sequences) - 1, -1, -1):
                sequence = shelf.sequences[slot]
                if (reason := reasons.get(sequence.index)) is None:
                    continue
                shelf.cache.remove(slot)
                last = shelf.sequences.pop()
                if last is not sequence:
                    shelf.sequences[slot] = last
                finished.append(sequence.finished(reason))
        if finished:
            self.shelves = [shelf for shelf in self.shelves if shelf.sequences]
            self._step = None
        return finished

    def give_up(self, waiting: deque[UnderWay]) -> None:
        """Drops the cache; all that was under way waits again and keeps its new tokens."""
        under_way = [sequence for shelf in self.shelves for sequence in shelf.sequences]
        wait_again(waiting, under_way)
        self.shelves, self._step = [], None

    def _place(self, waiting: deque[UnderWay], num_slots: int, num_halvings: int) -> list[tuple[Shelf, int, UnderWay]]:
        """Takes as many waiting sequences as there are slots and room in a row. -> shelf, slot, sequence"""
        limit, total = self._sizes.row_tokens >> num_halvings, 0
        started: list[tuple[Shelf, int, UnderWay]] = []
        while waiting:
            num_tokens = len(waiting[0].known)
            total += num_tokens
            if started and total > limit:
                break
            shelf = self._shelf_for(waiting, num_slots, num_halvings)
            if shelf is None:
                break
            shelf.sequences.append(waiting.popleft())
            started.append((shelf.cache, shelf.cache.add(num_tokens), shelf.sequences[-1]))
        return started

    def _shelf_for(self, waiting: deque[UnderWay], num_slots: int, num_halvings: int) -> _OnShelf | None:
        """Where the first waiting sequence goes: a shelf of its length, a new one, or any once all slots are given out.

        None where it has to wait: for a free slot, or for longer ones to give their memory back.
        """
        first = waiting[0]
        fitting = sorted((s for s in self.shelves if s.holds(first)), key=lambda s: s.cache.max_tokens)
        if fitting and fitting[0].suits(first):
            return fitting[0]
        num_left = num_slots - sum(shelf.cache.num_slots for shelf in self.shelves)
        if num_left < 1:
            return fitting[0] if fitting else None
        wanted = min(num_left, sum(2 * s.num_tokens >= first.num_tokens for s in waiting))
        if self._picker.settings.num_slots is None:  # what the user asked for is tried as it is
            tokens_left = (self._sizes.kept_tokens >> num_halvings) - sum(s.cache.num_tokens for s in self.shelves)
            wanted = min(wanted, tokens_left // first.num_tokens)
        if wanted < 1 and self.shelves:
            return None
        self.shelves.append(_OnShelf(Shelf(num_slots=max(1, wanted), max_tokens=first.num_tokens)))
        return self.shelves[-1]

    def _prefill(self, started: list[tuple[Shelf, int, UnderWay]]) -> None:
        """Reads the started sequences in one packed row and picks each one's next token."""
        started.sort(key=lambda found: self._ranks[found[2].request.member])
        rows = [sequence for _, _, sequence in started]
        lengths = [len(sequence.known) for sequence in rows]
        segments = [Segment(num_tokens=n, member=s.request.member) for n, s in zip(lengths, rows, strict=True)]
        device = self._bank.device
        row_1N = torch.tensor([token for sequence in rows for token in sequence.known], device=device)[None]
        plan = Prefill(lengths, [(shelf, slot) for shelf, slot, _ in started])
        last_1BD = self._bank(row_1N, segments, plan=plan, read_at=[end - 1 for end in accumulate(lengths)])
        self._picker.pick(last_1BD[0], rows, numbers_ahead(rows, 1, device))
        self._step = None

    def _continue(self) -> list[UnderWay]:
        """One token more for every sequence under way."""
        step = self._step
        if step is None or step.num_done == _NUMBERS_AHEAD:
            step = self._step = self._new_step()
        hidden_1BD = self._bank(
            step.tokens_B[None], step.segments, position_ids_1N=step.slots.positions_1B, plan=Decode(step.slots)
        )
        uniform_B1 = None if step.uniform_BS is None else step.uniform_BS[:, step.num_done, None]
        step.tokens_B = self._picker.pick(hidden_1BD[0], step.rows, uniform_B1)
        step.slots.count_up()
        step.num_done += 1
        return step.rows

    def _new_step(self) -> _Step:
        sequences = [sequence for shelf in self.shelves for sequence in shelf.sequences]
        by_row = sorted(range(len(sequences)), key=lambda slot: self._ranks[sequences[slot].request.member])
        rows = [sequences[slot] for slot in by_row]
        device = self._bank.device
        return _Step(
            rows=rows,
            slots=Slots([shelf.cache for shelf in self.shelves], by_row, device),
            segments=[Segment(num_tokens=1, member=sequence.request.member) for sequence in rows],
            tokens_B=torch.tensor([sequence.new_tokens[-1] for sequence in rows], device=device),
            uniform_BS=numbers_ahead(rows, _NUMBERS_AHEAD, device),
        )


def _finish_reasons(
    stepped: Sequence[UnderWay], eos_tokens: frozenset[int], should_stop: ShouldStop | None
) -> dict[int, str]:
    """Of the sequences that are done, by their index."""
    reasons = {}
    for sequence in stepped:
        if sequence.new_tokens[-1] in eos_tokens:
            reasons[sequence.index] = "eos"
        elif should_stop is not None and should_stop(sequence.new_tokens):
            reasons[sequence.index] = "stop"
        elif len(sequence.new_tokens) >= sequence.max_new_tokens:
            reasons[sequence.index] = "length"
    return reasons

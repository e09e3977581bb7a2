"""Decodes answers from a base whose rows are padded, a batch of sequences at a time.

For models that can't be packed (Gemma 2, Falcon, BLOOM, GPT-J). Prompts are padded on the left and decoded from the
model's own cache where a trial at load has shown that this changes nothing (`harness.nn.rows`); a model without such a
cache (RecurrentGemma) reads every sequence anew for each token. A batch is filled again when its last sequence is done.
tests/unit/eval/answers/test_padded_batch.py holds greedy texts against transformers' `generate`.
"""

from collections import deque
from collections.abc import Sequence

import torch

from eval.answers.sampling import TokenPicker
from eval.answers.sequences import Decoded, UnderWay, member_ranks, numbers_ahead, wait_again
from eval.scoring.row_sizes import RowSizes
from harness.nn.batch import Segment
from harness.nn.rows import BatchCache


class PaddedBatch:
    """The sequences under way and, where the model keeps one, their cache."""

    def __init__(self, picker: TokenPicker, members: Sequence[str | None], sizes: RowSizes) -> None:
        self._bank, self._picker, self._sizes = picker.bank, picker, sizes
        self._ranks = member_ranks(members)
        self._rows: list[UnderWay] = []  # those of one member together
        self._cache: BatchCache | None = None

    @property
    def is_empty(self) -> bool:
        return not self._rows

    @torch.inference_mode()
    def advance(self, waiting: deque[UnderWay], num_slots: int, num_halvings: int) -> list[UnderWay]:
        """One token more for every sequence of the batch, after a new one is begun where there is none."""
        is_new = self.is_empty
        if is_new:
            self._rows = self._take(waiting, num_slots, num_halvings)
            self._cache = BatchCache.of(self._bank.base) if self._bank.layout.keeps_cache else None
        goes_on = self._cache is not None and not is_new
        tokens = [row.new_tokens[-1:] if goes_on else row.known for row in self._rows]
        segments = [
            Segment(num_tokens=len(own), member=row.request.member) for own, row in zip(tokens, self._rows, strict=True)
        ]
        device = self._bank.device
        row_1N = torch.tensor([token for own in tokens for token in own], device=device)[None]
        hidden_1ND = self._bank(row_1N, segments, plan=self._cache)
        ends_B = torch.tensor([segment.num_tokens for segment in segments], device=device).cumsum(0) - 1
        self._picker.pick(hidden_1ND[0, ends_B], self._rows, numbers_ahead(self._rows, 1, device))
        return self._rows

    @torch.inference_mode()
    def retire(self, reasons: dict[int, str]) -> list[Decoded]:
        """Takes finished sequences out, by their index."""
        finished = [row.finished(reasons[row.index]) for row in self._rows if row.index in reasons]
        kept = [place for place, row in enumerate(self._rows) if row.index not in reasons]
        if finished and kept and self._cache is not None:
            self._cache.keep(kept)
        self._rows = [self._rows[place] for place in kept]
        return finished

    def give_up(self, waiting: deque[UnderWay]) -> None:
        """Drops the cache; all that was under way waits again and keeps its new tokens."""
        wait_again(waiting, self._rows)
        self._rows, self._cache = [], None

    def _take(self, waiting: deque[UnderWay], num_slots: int, num_halvings: int) -> list[UnderWay]:
        """The first waiting sequences, as many as there are slots and room, padding counted."""
        limit = self._sizes.kept_tokens if self._bank.layout.keeps_cache else self._sizes.row_tokens
        taken: list[UnderWay] = []
        longest = 0
        while waiting and len(taken) < num_slots:
            longest = max(longest, waiting[0].num_tokens)
            if taken and self._picker.settings.num_slots is None and (len(taken) + 1) * longest > limit >> num_halvings:
                break
            taken.append(waiting.popleft())
        return sorted(taken, key=lambda sequence: self._ranks[sequence.request.member])

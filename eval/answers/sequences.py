"""The requests for answers, and their sequences while they are decoded."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingSettings:
    max_new_tokens: int
    greedy: bool
    temperature: float
    top_p: float
    num_slots: int | None = None  # sequences under way at once; None: as many as fit, at most MAX_SLOTS
    top_k: int | None = None  # sample from this many likeliest tokens only; None: from all
    repetition_penalty: float = 1.0  # divides the positive logits of tokens that were read or written, as transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingRequest:
    tokens: Sequence[int]  # the whole prompt
    member: str | None  # whose adapter answers; None: the untouched base
    seed: int = 0  # of this prompt's random stream
    system: str | None = None  # what a message calls whoever answers; None: the member's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    index: int  # of the request
    tokens: tuple[int, ...]  # without the end-of-sequence token
    finish_reason: str  # eos, stop, length


@dataclass(slots=True)
class UnderWay:
    """A request whose answer is being decoded."""

    index: int  # of the request
    request: DecodingRequest
    max_new_tokens: int
    uniform_T: Tensor | None  # the random number behind each new token; None: greedy
    new_tokens: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """The number of tokens that its slot needs."""
        return len(self.request.tokens) + self.max_new_tokens

    @property
    def known(self) -> list[int]:
        """The tokens that are prefilled: the prompt, and the new tokens of a sequence that is taken up again."""
        return [*self.request.tokens, *self.new_tokens]

    def finished(self, reason: str) -> Decoded:
        """The finished answer."""
        tokens = self.new_tokens[:-1] if reason == "eos" else self.new_tokens
        return Decoded(index=self.index, tokens=tuple(tokens), finish_reason=reason)


def longest_first(sequences: Iterable[UnderWay]) -> list[UnderWay]:
    """Sorts sequences by the length of their prompts, the longest first."""
    return sorted(sequences, key=lambda sequence: -len(sequence.request.tokens))


def wait_again(waiting: deque[UnderWay], under_way: Iterable[UnderWay]) -> None:
    """Puts sequences back among those that wait; they keep their new tokens."""
    again = longest_first([*under_way, *waiting])
    waiting.clear()
    waiting.extend(again)


def member_ranks(members: Iterable[str | None]) -> dict[str | None, int]:
    """The order in which members stand in a row, where each one's tokens are neighbours."""
    return {member: rank for rank, member in enumerate(dict.fromkeys(members))}


def uniform_numbers(seed: int, count: int) -> Tensor:
    """A prompt's random stream: the number behind each of its tokens. -> [count], float64, on the CPU"""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers_ahead(rows: Sequence[UnderWay], count: int, device: torch.device) -> Tensor | None:
    """The next `count` random numbers of each row, [B, count], 0 beyond its last token; None where none has any."""
    ahead = torch.zeros(len(rows), count, dtype=torch.float64)
    for place, sequence in enumerate(rows):
        if sequence.uniform_T is None:
            return None
        part = sequence.uniform_T[len(sequence.new_tokens) :][:count]
        ahead[place, : len(part)] = part
    return ahead.to(device)

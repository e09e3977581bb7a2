"""Computes how likely each continuation is, token by token, for perplexity and lm-eval's tasks.

    requests = [Continuation(tokens=context + choice, num_context=len(context), group=question) for choice in choices]
    for places, scores in score_continuations(base, requests): ...

Requests of one group that begin alike pay for the common beginning once: it stands in the flat row once, and the
continuations behind it (`harness.nn.attention.Branches`), so that four endings of one sentence cost little more than
one. Only positions that predict a scored token reach the output layer, a chunk of logits at a time: [tokens,
vocabulary] never exists whole. tests/unit/eval/scoring/test_continuations.py holds it against plain passes of
transformers.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.finite import require_finite
from eval.scoring.next_token import MIN_PREFIX_TOKENS, common_prefix
from eval.scoring.row_sizes import Backoff, row_sizes
from harness.banks.bank import CausalBank
from harness.banks.load import LoadedBase
from harness.nn.attention import Branches
from harness.nn.batch import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A tokenized sequence whose last tokens are scored."""

    tokens: Sequence[int]  # context, then what is scored
    num_context: int  # leading tokens that are given, at least 1
    member: str | None = None  # whose adapter scores it; None: the untouched base
    group: str | None = None  # requests of one member and equal group are expected to begin alike


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationScore:
    """The log-probabilities of one request's scored tokens."""

    logprobs: NDArray[np.float32]  # of each scored token over the full vocabulary, nats
    is_greedy: bool  # each of them was the likeliest


@dataclass(slots=True)
class _Group:
    member: str | None
    requests: list[int]  # indices into the caller's list
    num_prefix: int  # tokens of their inputs that are in the row once

    def num_row_tokens(self, requests: Sequence[Continuation]) -> int:
        return self.num_prefix + sum(len(requests[i].tokens) - 1 - self.num_prefix for i in self.requests)

    def halves(self, requests: Sequence[Continuation]) -> "list[_Group]":
        """Splits the group into two, each with its own copy of the beginning; a group of one stays as it is."""
        half = len(self.requests) // 2
        parts = [part for part in (self.requests[:half], self.requests[half:]) if part]
        return [_Group(self.member, part, _num_prefix(part, requests)) for part in parts]


def score_continuations(
    base: LoadedBase, requests: Sequence[Continuation], row_tokens: int | None = None
) -> Iterator[tuple[list[int], list[ContinuationScore]]]:
    """Scores requests, the longest groups of each member first, row by row as they are computed.

    Args:
        base: with the requests' members in its bank.
        row_tokens: tokens of a flat row; default by device and free memory. A longer group has a row of its own.

    Yields:
        Indices into `requests`, and their scores.

    Raises:
        ValueError: a request without context or scored tokens, or longer than the model's context; logits that are no
            numbers.
    """
    _check(base, requests)
    shares = base.bank.layout.may_share(max((len(request.tokens) for request in requests), default=0))
    sizes = row_sizes(base.bank, row_tokens)
    backoff = Backoff(sizes.row_tokens, base.bank.device, "sequence", "take a shorter context or window")
    waiting = deque(_groups(requests, shares))

    def split_first() -> None:
        if waiting[0].num_row_tokens(requests) > backoff.size // 2:  # it will have a row of its own, and not fit
            waiting.extendleft(reversed(waiting.popleft().halves(requests)))

    rows = backoff.in_batches(
        waiting,
        lambda groups, limit: _next_row(groups, requests, limit),
        lambda row: _score_row(base.bank, row, requests, shares),
        smallest=lambda group: max(len(requests[index].tokens) - 1 for index in group.requests),
        give_up=split_first,
    )
    for row, scores in rows:
        indices = [index for group in row for index in group.requests]
        members = [requests[i].member for i, score in zip(indices, scores, strict=True) for _ in score.logprobs]
        require_finite(base, members, np.concatenate([score.logprobs for score in scores]))
        yield indices, scores


def _groups(requests: Sequence[Continuation], shares: bool) -> list[_Group]:
    """Groups requests, those of one member together and the longest first, so that trouble with memory comes early."""
    by_member: dict[str | None, dict[str, list[int]]] = {}
    for index, request in enumerate(requests):
        key = f"={index}" if request.group is None or not shares else f"g{request.group}"
        by_member.setdefault(request.member, {}).setdefault(key, []).append(index)
    groups: list[_Group] = []
    for member, by_key in by_member.items():
        mine = [_Group(member, indices, _num_prefix(indices, requests)) for indices in by_key.values()]
        groups += sorted(mine, key=lambda group: -group.num_row_tokens(requests))
    return groups


def _num_prefix(indices: Sequence[int], requests: Sequence[Continuation]) -> int:
    if len(indices) < 2:
        return 0
    shared = common_prefix([list(requests[index].tokens[:-1]) for index in indices])
    return shared if shared >= MIN_PREFIX_TOKENS else 0


def _next_row(groups: Iterable[_Group], requests: Sequence[Continuation], limit: int) -> list[_Group]:
    """The first groups of about `limit` tokens; one at least."""
    row: list[_Group] = []
    used = 0
    for group in groups:
        size = group.num_row_tokens(requests)
        if row and used + size > limit:
            break
        row.append(group)
        used += size
    return row


@torch.inference_mode()
def _score_row(
    bank: CausalBank, row: Sequence[_Group], requests: Sequence[Continuation], shares: bool
) -> list[ContinuationScore]:
    layout = _Layout()
    for group in row:
        layout.add(group, requests)
    device = bank.device
    options: dict[str, Any] = {}
    if shares:
        positions = torch.cat(layout.positions)[None].to(device)
        options = {"position_ids_1N": positions, "plan": Branches(layout.branches)}
    read_at, at_M = np.unique(layout.at, return_inverse=True)  # continuations share a place that predicts their first
    row_1N = torch.tensor(layout.tokens, device=device)[None]
    hidden_1ND = bank(row_1N, layout.segments, **options, read_at=read_at.tolist())
    logprobs, is_best = _token_logprobs(bank, hidden_1ND[0], torch.from_numpy(at_M).to(device), layout.targets)
    sizes = [len(requests[i].tokens) - requests[i].num_context for group in row for i in group.requests]
    ends = np.cumsum(sizes)[:-1]
    return [
        ContinuationScore(logprobs=part, is_greedy=bool(best.all()))
        for part, best in zip(np.split(logprobs, ends), np.split(is_best, ends), strict=True)
    ]


@dataclass(slots=True)
class _Layout:
    """A row under construction: each group's common beginning, then what its requests add."""

    tokens: list[int] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    branches: list[tuple[int, list[int]]] = field(default_factory=list)
    at: list[int] = field(default_factory=list)  # places that predict a scored token, request by request
    targets: list[int] = field(default_factory=list)

    def add(self, group: _Group, requests: Sequence[Continuation]) -> None:
        first, shared = len(self.tokens), group.num_prefix
        self._place(requests[group.requests[0]].tokens[:shared], 0, group.member)
        lengths = []
        for index in group.requests:
            request = requests[index]
            own = request.tokens[shared:-1]  # the last token predicts nothing that is scored
            start = len(self.tokens) - shared
            predicting = range(request.num_context - 1, len(request.tokens) - 1)
            self.at += [place + (first if place < shared else start) for place in predicting]
            self.targets += request.tokens[request.num_context :]
            self._place(own, shared, group.member)
            lengths += [len(own)] * bool(own)
        self.branches.append((shared, lengths))

    def _place(self, part: Sequence[int], begin: int, member: str | None) -> None:
        if part:
            self.tokens.extend(part)
            self.positions.append(torch.arange(begin, begin + len(part)))
            self.segments.append(Segment(num_tokens=len(part), member=member))


def _token_logprobs(
    bank: CausalBank, hidden_ND: Tensor, at_M: Tensor, targets: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """-> log-probability of each target, and whether it is the likeliest token, [M] both."""
    targets_M = torch.tensor(list(targets), device=hidden_ND.device)
    size = bank.head.chunk
    logprobs, best = [], []
    for begin in range(0, len(targets), size):
        wanted_B = targets_M[begin : begin + size]
        logits_BV = bank.logits(hidden_ND[at_M[begin : begin + size]])
        chosen_B = logits_BV.gather(1, wanted_B[:, None])[:, 0]
        logprobs.append(chosen_B - logits_BV.logsumexp(dim=1))
        best.append(logits_BV.argmax(dim=1) == wanted_B)
    return torch.cat(logprobs).cpu().numpy(), torch.cat(best).cpu().numpy()


def _check(base: LoadedBase, requests: Sequence[Continuation]) -> None:
    for index, request in enumerate(requests):
        if not 0 < request.num_context < len(request.tokens):
            raise ValueError(
                f"request {index}: {request.num_context} tokens of context of {len(request.tokens)} in all; "
                f"it needs one token at least that is given, and one that is scored"
            )
        if len(request.tokens) - 1 > base.max_length:
            raise ValueError(
                f"request {index} has {len(request.tokens)} tokens; this model takes {base.max_length} "
                f"and one to predict"
            )
        if request.member is not None and request.member not in base.bank.configs:
            raise ValueError(
                f"request {index}: adapter {request.member} is not loaded; loaded are {sorted(base.bank.configs)}"
            )

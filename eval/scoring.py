"""How likely is each candidate as the next token after each prompt? Prompts that share a prefix pay for it once.

    prompts = [Prompt(member="run1", group="anatomy", tokens=ids), ...]
    logprobs = next_token_logprobs(base, prompts, candidates=[330, 389, 340, 422])

All questions of an MMLU subject begin with the same examples, all matches of a judge with the same
question and first answer. The prefix of a group is the longest common token prefix of its fully
tokenized prompts, so that no tokenization changes. It is encoded once, its keys and values are kept
until the group is done, and only each prompt's own tokens run against them, in flat rows without
padding; the output layer sees last positions only. Memory doesn't grow with the number of prompts.

Source: Hydragen (arXiv 2402.05099) for shared prefixes; tests/unit/test_scoring.py holds it against plain passes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.adapters import AdapterBank
from harness.attention import KeyValue, Packed, PrefixGroup, SharedPrefix
from harness.models import LoadedBase
from harness.segments import Segment

Progress = Callable[[int, int], None]  # prompts done, prompts in all
Candidates = Sequence[int] | Sequence[Sequence[int]] | NDArray[np.int64]

MIN_PREFIX_TOKENS = 16  # a shorter common prefix isn't worth a pass of its own
ROW_TOKENS = {"cpu": 1024, "cuda": 16384}  # of a flat row: enough to keep matrix products busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A fully tokenized prompt, BOS included where the model wants one."""

    tokens: Sequence[int]
    member: str | None = None  # whose adapter serves it; None: the untouched base
    group: str = ""  # prompts of one member and equal group are expected to share a prefix


@dataclass(slots=True)
class _Group:
    member: str | None
    prompts: list[int]  # indices into the caller's list
    num_prefix: int  # tokens
    prefix: list[KeyValue] = field(default_factory=list)  # a layer each, while the group is under way


def next_token_logprobs(
    base: LoadedBase,
    prompts: Sequence[Prompt],
    candidates: Candidates,
    on_progress: Progress | None = None,
    row_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Log-probabilities, over the full vocabulary, of candidates for the token after each prompt.

    Args:
        base: the model with the prompts' members loaded in its bank.
        prompts: of any members and groups, in any order.
        candidates: token ids [C] for all prompts, or [num_prompts, C].
        on_progress: called after each row with the prompts done and in all.
        row_tokens: tokens of a flat row; default by device.

    Returns:
        [num_prompts, C], nats, in the prompts' order.

    Raises:
        ValueError: an empty prompt, one longer than the model's context, a member that isn't loaded, or
            candidates of another shape.
    """
    wanted = _candidate_table(candidates, len(prompts))
    logprobs = np.full(wanted.shape, np.nan, dtype=np.float32)
    done = 0
    for indices, scores in score_rows(base, prompts, candidates, row_tokens):
        logprobs[indices] = scores
        done += len(indices)
        if on_progress is not None:
            on_progress(done, len(prompts))
    assert done == len(prompts)
    return logprobs


def score_rows(
    base: LoadedBase, prompts: Sequence[Prompt], candidates: Candidates, row_tokens: int | None = None
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """As `next_token_logprobs`, row by row as they are computed: (prompt indices, log-probabilities [., C])."""
    wanted = torch.from_numpy(_candidate_table(candidates, len(prompts))).to(base.bank.device)
    _check(base, prompts)
    limit = row_tokens or ROW_TOKENS.get(base.bank.device.type, 1024)
    for row in _rows(_groups(prompts), prompts, limit):
        with torch.inference_mode():
            _encode_prefixes(base.bank, [group for group, _ in row if not group.prefix], prompts, limit)
            last_BD = _last_hidden(base.bank, row, prompts)
            indices = [index for _, members in row for index in members]
            scores = _candidate_logprobs(base.bank, last_BD, wanted[indices])
        for group, members in row:
            if members[-1] == group.prompts[-1]:
                group.prefix = []
        yield indices, scores.cpu().numpy()


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """-> the number of leading tokens that all sequences share."""
    first, last = min(sequences), max(sequences)  # in lexical order, these differ the earliest
    for position, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return position
    return min(len(first), len(last))


def _groups(prompts: Sequence[Prompt]) -> list[_Group]:
    """Groups in order of appearance, those of one member together (the bank wants them neighbours)."""
    found: dict[str | None, dict[str, list[int]]] = {}
    for index, prompt in enumerate(prompts):
        found.setdefault(prompt.member, {}).setdefault(prompt.group, []).append(index)
    groups = []
    for member, by_key in found.items():
        for indices in by_key.values():
            token_lists = [list(prompts[index].tokens) for index in indices]
            shared = min(common_prefix(token_lists), min(map(len, token_lists)) - 1)  # one own token at least
            worth_it = len(indices) > 1 and shared >= MIN_PREFIX_TOKENS
            groups.append(_Group(member, indices, shared if worth_it else 0))
    return groups


def _rows(groups: Sequence[_Group], prompts: Sequence[Prompt], limit: int) -> Iterator[list[tuple[_Group, list[int]]]]:
    """Cuts the groups' own tokens into rows of about `limit` tokens, the prefixes they need kept to 8 times that."""
    row: list[tuple[_Group, list[int]]] = []
    num_own = num_prefix = 0
    for group in groups:
        for index in group.prompts:
            own = len(prompts[index].tokens) - group.num_prefix
            is_new = not row or row[-1][0] is not group
            if row and (num_own + own > limit or num_prefix + group.num_prefix * is_new > 8 * limit):
                yield row
                row, num_own, num_prefix, is_new = [], 0, 0, True
            if is_new:
                row.append((group, []))
                num_prefix += group.num_prefix
            row[-1][1].append(index)
            num_own += own
    if row:
        yield row


def _encode_prefixes(bank: AdapterBank, groups: Sequence[_Group], prompts: Sequence[Prompt], limit: int) -> None:
    """Fills `prefix` of groups that have one, several in a pass while they fit."""
    waiting = [group for group in groups if group.num_prefix]
    while waiting:
        count, total = 1, waiting[0].num_prefix
        while count < len(waiting) and total + waiting[count].num_prefix <= limit:
            total += waiting[count].num_prefix
            count += 1
        _encode(bank, waiting[:count], prompts)
        waiting = waiting[count:]


def _encode(bank: AdapterBank, groups: Sequence[_Group], prompts: Sequence[Prompt]) -> None:
    tokens = [list(prompts[group.prompts[0]].tokens[: group.num_prefix]) for group in groups]
    segments = [Segment(num_tokens=group.num_prefix, member=group.member) for group in groups]
    record: list[KeyValue] = []
    plan = Packed([group.num_prefix for group in groups], record=record)
    bank(_row(bank, tokens), segments, plan=plan)
    start = 0
    for group in groups:
        end = start + group.num_prefix
        group.prefix = [(key[:, :, start:end], value[:, :, start:end]) for key, value in record]
        start = end


def _last_hidden(bank: AdapterBank, row: Sequence[tuple[_Group, list[int]]], prompts: Sequence[Prompt]) -> Tensor:
    """Runs a row's own tokens. -> hidden states at each prompt's last token, [B, hidden]."""
    tokens, segments, positions, groups = [], [], [], []
    for group, indices in row:
        lengths = []
        for index in indices:
            own = list(prompts[index].tokens[group.num_prefix :])
            tokens.append(own)
            lengths.append(len(own))
            segments.append(Segment(num_tokens=len(own), member=group.member))
            positions.append(torch.arange(group.num_prefix, group.num_prefix + len(own)))
        groups.append(PrefixGroup(group.prefix, lengths))
    hidden_1ND = bank(
        _row(bank, tokens),
        segments,
        position_ids_1N=torch.cat(positions)[None].to(bank.device),
        plan=SharedPrefix(groups),
    )
    ends = torch.tensor([len(own) for own in tokens], device=bank.device).cumsum(0) - 1
    last: Tensor = hidden_1ND[0, ends]
    return last


def _candidate_logprobs(bank: AdapterBank, hidden_BD: Tensor, wanted_BC: Tensor) -> Tensor:
    logits_BV = bank.logits(hidden_BD)
    chosen_BC = logits_BV.gather(1, wanted_BC)
    return chosen_BC - logits_BV.logsumexp(dim=1, keepdim=True)


def _row(bank: AdapterBank, tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([token for part in tokens for token in part], device=bank.device)[None]


def _candidate_table(candidates: Candidates, num_prompts: int) -> NDArray[np.int64]:
    table = np.asarray(candidates, dtype=np.int64)
    if table.ndim == 1:
        table = np.broadcast_to(table, (num_prompts, len(table)))
    if table.ndim != 2 or table.shape[0] != num_prompts:
        raise ValueError(f"candidates: shape {table.shape}; expected [C] or [{num_prompts}, C], one row a prompt")
    return np.array(table)


def _check(base: LoadedBase, prompts: Sequence[Prompt]) -> None:
    for index, prompt in enumerate(prompts):
        if prompt.member is not None and prompt.member not in base.bank.configs:
            known = sorted(base.bank.configs)
            raise ValueError(f"prompt {index}: adapter {prompt.member} is not loaded; loaded are {known}")
        if not 0 < len(prompt.tokens) <= base.max_length:
            raise ValueError(
                f"prompt {index} (group {prompt.group!r}) has {len(prompt.tokens)} tokens; this model takes "
                f"1 to {base.max_length}: shorten it or drop examples"
            )

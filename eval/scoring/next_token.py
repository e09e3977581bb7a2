"""Computes how likely each candidate is as the next token after a prompt; a shared prefix is computed once.

    prompts = [Prompt(member="run1", group="anatomy", tokens=ids), ...]
    logprobs = next_token_logprobs(base, prompts, candidates=[330, 389, 340, 422])

All questions of an MMLU subject begin with the same examples, all matches of a judge with the same
question and first answer. The prefix of a group is the longest common token prefix of its fully
tokenized prompts, so that no tokenization changes. It is encoded once, its keys and values are kept
until the group is done, and only each prompt's own tokens run against them, in flat rows without
padding; the output layer sees last positions only. Memory doesn't grow with the number of prompts: rows and kept
prefixes are as large as the device has room for (`eval.scoring.row_sizes`), and are halved where that was too much.

Source: Hydragen (arXiv 2402.05099) for shared prefixes; tests/unit/eval/scoring/test_next_token.py holds it against
plain passes.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.scoring.finite import require_finite
from eval.scoring.row_sizes import PREFIX_ROWS, Backoff, row_sizes
from harness.banks.bank import CausalBank
from harness.banks.load import LoadedBase
from harness.nn.attention import KeyValue, Packed, PrefixGroup, SharedPrefix
from harness.nn.batch import Segment
from harness.progress import Progress

Candidates = Sequence[int] | Sequence[Sequence[int]] | NDArray[np.int64]

MIN_PREFIX_TOKENS = 16  # a shorter common prefix isn't worth a pass of its own


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


_Part = tuple[_Group, int]  # a prompt of a group, by its index
_Row = list[tuple[_Group, list[int]]]  # each group's prompts, by their indices


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
        row_tokens: tokens of a flat row; default by device and free memory.

    Returns:
        [num_prompts, C], nats, in the prompts' order.

    Raises:
        ValueError: an empty prompt, one longer than the model's context, a member that isn't loaded, candidates of
            another shape, or logits that are no numbers.
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
    sizes = row_sizes(base.bank, row_tokens)
    backoff = Backoff(sizes.row_tokens, base.bank.device, "prompt", "shorten the prompts")
    shares = base.bank.layout.may_share(max((len(prompt.tokens) for prompt in prompts), default=0))
    waiting = deque((group, index) for group in _groups(prompts, shares) for index in group.prompts)

    def kept_tokens() -> int:
        return min(PREFIX_ROWS * backoff.size, sizes.kept_tokens >> backoff.num_halvings)

    rows = backoff.in_batches(
        waiting,
        lambda parts, limit: _next_row(parts, prompts, limit, kept_tokens()),
        lambda row: _score_row(base.bank, row, prompts, wanted, backoff.size),
        smallest=lambda part: len(prompts[part[1]].tokens) - part[0].num_prefix,
        give_up=lambda: _drop_prefixes(waiting),
    )
    for row, scores in rows:
        for group, index in row:
            if index == group.prompts[-1]:
                group.prefix = []
        require_finite(base, [prompts[index].member for _, index in row], scores)
        yield [index for _, index in row], scores


@torch.inference_mode()
def _score_row(
    bank: CausalBank, parts: Sequence[_Part], prompts: Sequence[Prompt], wanted_PC: Tensor, limit: int
) -> NDArray[np.float32]:
    row: _Row = []
    for group, index in parts:
        if not row or row[-1][0] is not group:
            row.append((group, []))
        row[-1][1].append(index)
    _encode_prefixes(bank, [group for group, _ in row if not group.prefix], prompts, limit)
    last_BD = _last_hidden(bank, row, prompts)
    scores: NDArray[np.float32] = _candidate_logprobs(bank, last_BD, wanted_PC[[i for _, i in parts]]).cpu().numpy()
    return scores


def _drop_prefixes(waiting: Iterable[_Part]) -> None:
    for group, _ in waiting:
        group.prefix = []


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """-> the number of leading tokens that all sequences share."""
    first, last = min(sequences), max(sequences)  # in lexical order, these differ the earliest
    for position, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return position
    return min(len(first), len(last))


def _groups(prompts: Sequence[Prompt], shares: bool) -> list[_Group]:
    """Groups in order of appearance, those of one member together (the bank wants them neighbours)."""
    by_member: dict[str | None, dict[str, list[int]]] = {}
    for index, prompt in enumerate(prompts):
        by_member.setdefault(prompt.member, {}).setdefault(prompt.group, []).append(index)
    groups = []
    for member, by_key in by_member.items():
        for indices in by_key.values():
            token_lists = [list(prompts[index].tokens) for index in indices]
            shared = min(common_prefix(token_lists), min(map(len, token_lists)) - 1)  # one own token at least
            worth_it = shares and len(indices) > 1 and shared >= MIN_PREFIX_TOKENS
            groups.append(_Group(member, indices, shared if worth_it else 0))
    return groups


def _next_row(waiting: Iterable[_Part], prompts: Sequence[Prompt], limit: int, kept: int) -> list[_Part]:
    """The first prompts whose own tokens are about `limit`, and the prefixes they need about `kept`; one at least."""
    row: list[_Part] = []
    num_own = num_prefix = 0
    for group, index in waiting:
        own = len(prompts[index].tokens) - group.num_prefix
        prefix = 0 if row and row[-1][0] is group else group.num_prefix
        if row and (num_own + own > limit or num_prefix + prefix > kept):
            break
        row.append((group, index))
        num_own += own
        num_prefix += prefix
    return row


def _encode_prefixes(bank: CausalBank, groups: Sequence[_Group], prompts: Sequence[Prompt], limit: int) -> None:
    """Fills `prefix` of groups that have one, several in a pass while they fit."""
    waiting = [group for group in groups if group.num_prefix]
    while waiting:
        count, total = 1, waiting[0].num_prefix
        while count < len(waiting) and total + waiting[count].num_prefix <= limit:
            total += waiting[count].num_prefix
            count += 1
        _encode(bank, waiting[:count], prompts)
        waiting = waiting[count:]


def _encode(bank: CausalBank, groups: Sequence[_Group], prompts: Sequence[Prompt]) -> None:
    tokens = [list(prompts[group.prompts[0]].tokens[: group.num_prefix]) for group in groups]
    segments = [Segment(num_tokens=group.num_prefix, member=group.member) for group in groups]
    record: list[KeyValue] = []
    plan = Packed([group.num_prefix for group in groups], record=record)
    bank(_row(bank, tokens), segments, plan=plan, read_at=())
    start = 0
    for group in groups:
        end = start + group.num_prefix
        group.prefix = [(key[:, :, start:end], value[:, :, start:end]) for key, value in record]
        start = end


def _last_hidden(bank: CausalBank, row: _Row, prompts: Sequence[Prompt]) -> Tensor:
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
    hidden_1BD = bank(
        _row(bank, tokens),
        segments,
        position_ids_1N=torch.cat(positions)[None].to(bank.device),
        plan=SharedPrefix(groups),
        read_at=(np.cumsum([len(own) for own in tokens]) - 1).tolist(),
    )
    return hidden_1BD[0]


def _candidate_logprobs(bank: CausalBank, hidden_BD: Tensor, wanted_BC: Tensor) -> Tensor:
    """A chunk of logits at a time. -> [B, C]"""
    size = bank.head.chunk
    parts = []
    for hidden, wanted in zip(hidden_BD.split(size), wanted_BC.split(size), strict=True):
        logits_BV = bank.logits(hidden)
        parts.append(logits_BV.gather(1, wanted) - logits_BV.logsumexp(dim=1, keepdim=True))
    return torch.cat(parts)


def _row(bank: CausalBank, tokens: Sequence[Sequence[int]]) -> Tensor:
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

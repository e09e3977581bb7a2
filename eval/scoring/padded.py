"""Computes how likely each candidate is as the next token, on a model that can't share prefixes.

It scores padded batches of whole prompts, in place of `eval.scoring.next_token.score_rows`, for BLOOM (ALiBi), whose
attention takes no plan of ours. Prompts of similar length are in one batch, so that little is padding.
tests/unit/eval/scoring/test_continuations.py compares the results with transformers' own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from eval.scoring.finite import require_finite
from eval.scoring.next_token import Prompt
from eval.scoring.row_sizes import Backoff, row_sizes
from harness.banks.bank import CausalBank
from harness.banks.load import LoadedBase
from harness.nn.batch import Segment


def score_padded(
    base: LoadedBase, prompts: Sequence[Prompt], candidates: Sequence[Sequence[int]], row_tokens: int | None = None
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """As `eval.scoring.next_token.score_rows`: (prompt indices, log-probabilities over the full vocabulary [., C]), as
    computed.

    Args:
        base: with the prompts' members in its bank.
        prompts: each at most the model's context.
        candidates: token ids, [num_prompts][C].
        row_tokens: tokens of a batch, padding counted; default by device and free memory.

    Raises:
        ValueError: logits that are no numbers.
    """
    bank = base.bank
    backoff = Backoff(row_sizes(bank, row_tokens).row_tokens, bank.device, "prompt", "shorten the prompts")
    batches = backoff.in_batches(
        deque(_ordered(prompts)),
        lambda waiting, limit: _next_batch(waiting, prompts, limit),
        lambda batch: _score_batch(bank, batch, prompts, candidates),
        smallest=lambda index: len(prompts[index].tokens),
    )
    for batch, scores in batches:
        require_finite(base, [prompts[index].member for index in batch], scores)
        yield batch, scores


@torch.inference_mode()
def _score_batch(
    bank: CausalBank, batch: Sequence[int], prompts: Sequence[Prompt], candidates: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    lengths = [len(prompts[index].tokens) for index in batch]
    tokens = [token for index in batch for token in prompts[index].tokens]
    segments = [Segment(num_tokens=n, member=prompts[i].member) for n, i in zip(lengths, batch, strict=True)]
    hidden_1ND = bank(torch.tensor(tokens, device=bank.device)[None], segments)
    ends = torch.tensor(lengths, device=bank.device).cumsum(0) - 1
    logits_BV = bank.logits(hidden_1ND[0, ends])
    wanted_BC = torch.tensor([list(candidates[index]) for index in batch], device=bank.device)
    scores_BC = logits_BV.gather(1, wanted_BC) - logits_BV.logsumexp(dim=1, keepdim=True)
    scores: NDArray[np.float32] = scores_BC.cpu().numpy()
    return scores


def _ordered(prompts: Sequence[Prompt]) -> list[int]:
    """Prompts of one member together, in the order of their first, each member's longest first."""
    by_member: dict[str | None, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_member.setdefault(prompt.member, []).append(index)
    return [i for indices in by_member.values() for i in sorted(indices, key=lambda i: -len(prompts[i].tokens))]


def _next_batch(waiting: Sequence[int], prompts: Sequence[Prompt], limit: int) -> list[int]:
    """The first prompts, of one member, of about `limit` tokens, padding counted."""
    first = prompts[waiting[0]]
    places = islice(waiting, max(1, limit // len(first.tokens)))
    return list(takewhile(lambda index: prompts[index].member == first.member, places))

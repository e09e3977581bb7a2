"""How likely is each candidate as the next token, on a model that can't share prefixes? Padded batches, whole prompts.

The plain path behind `eval.scoring.score_rows` for BLOOM (ALiBi), whose attention takes no plan of ours. Prompts of
like length stand together, so that little is padding. tests/unit/test_continuations.py: equal to transformers' own.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from eval.scoring import ROW_TOKENS, Prompt
from harness.models import LoadedBase
from harness.segments import Segment


def score_padded(
    base: LoadedBase, prompts: Sequence[Prompt], candidates: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """As `eval.scoring.score_rows`: (prompt indices, log-probabilities over the full vocabulary [., C]), as computed.

    Args:
        base: with the prompts' members in its bank.
        prompts: each at most the model's context.
        candidates: token ids, [num_prompts][C].
    """
    bank = base.bank
    for batch in _batches(prompts, ROW_TOKENS.get(bank.device.type, 1024)):
        lengths = [len(prompts[index].tokens) for index in batch]
        tokens = [token for index in batch for token in prompts[index].tokens]
        segments = [Segment(num_tokens=n, member=prompts[i].member) for n, i in zip(lengths, batch, strict=True)]
        with torch.inference_mode():
            hidden_1ND = bank(torch.tensor(tokens, device=bank.device)[None], segments)
            ends = torch.tensor(lengths, device=bank.device).cumsum(0) - 1
            logits_BV = bank.logits(hidden_1ND[0, ends])
            wanted_BC = torch.tensor([list(candidates[index]) for index in batch], device=bank.device)
            scores_BC = logits_BV.gather(1, wanted_BC) - logits_BV.logsumexp(dim=1, keepdim=True)
        yield batch, scores_BC.cpu().numpy()


def _batches(prompts: Sequence[Prompt], limit: int) -> Iterator[list[int]]:
    """Prompts of one member, longest first, in batches of about `limit` tokens, padding counted."""
    by_member: dict[str | None, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_member.setdefault(prompt.member, []).append(index)
    for indices in by_member.values():
        ordered = sorted(indices, key=lambda index: -len(prompts[index].tokens))
        start = 0
        while start < len(ordered):
            size = max(1, limit // len(prompts[ordered[start]].tokens))
            yield ordered[start : start + size]
            start += size

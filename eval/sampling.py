"""Which token comes next? Greedy, or nucleus sampling with a random stream a prompt.

Each prompt owns a generator, and draws one number a token: what it samples doesn't depend on who else
is in the batch. Source: nucleus sampling (arXiv 1904.09751); p = 0.9 and temperature 0.7 are the paper's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_NUCLEUS_GUESS = 256  # tokens looked at first; most nuclei are smaller, and a full sort costs more than the layer


def greedy_tokens(logits_BV: Tensor) -> list[int]:
    """The most likely token of each row, the first of equals."""
    return [int(token) for token in logits_BV.argmax(dim=-1)]


def nucleus_tokens(
    logits_BV: Tensor, generators: Sequence[torch.Generator], temperature: float, top_p: float
) -> list[int]:
    """Samples from the smallest set of likeliest tokens whose probabilities sum to at least `top_p`.

    Args:
        logits_BV: float32.
        generators: one a row, on the CPU, so that a seed means the same on every device.
        temperature: above 0; divides the logits.
        top_p: above 0, at most 1.
    """
    uniform_B1 = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators]).to(logits_BV.device)
    probs_BV = (logits_BV / temperature).softmax(dim=-1)
    likely = probs_BV.topk(min(_NUCLEUS_GUESS, probs_BV.shape[1]), dim=-1)
    chosen_B = _draw(likely.values, likely.indices, uniform_B1, top_p)
    wide_B = likely.values.double().sum(dim=-1) < top_p
    if wide_B.any():
        everything = probs_BV[wide_B].sort(dim=-1, descending=True)
        chosen_B[wide_B] = _draw(everything.values, everything.indices, uniform_B1[wide_B], top_p)
    return [int(token) for token in chosen_B]


def _draw(sorted_BK: Tensor, tokens_BK: Tensor, uniform_B1: Tensor, top_p: float) -> Tensor:
    """Inverts the cumulative distribution of the nucleus at a uniform number. -> [B]"""
    probs_BK = sorted_BK.double()
    before_BK = probs_BK.cumsum(dim=-1) - probs_BK
    nucleus_BK = probs_BK * (before_BK < top_p)
    mass_BK = nucleus_BK.cumsum(dim=-1)
    place_B1 = (mass_BK <= uniform_B1 * mass_BK[:, -1:]).sum(dim=-1, keepdim=True)
    last_B1 = (nucleus_BK > 0).sum(dim=-1, keepdim=True) - 1
    return tokens_BK.gather(1, place_B1.minimum(last_B1))[:, 0]

"""Which token comes next? Greedy, or nucleus sampling with a random stream a prompt.

Each prompt has uniform numbers of its own, one a token, drawn on the CPU from its seed: what it samples doesn't depend
on who else is in the batch, on the device, or on where a sequence was taken up again. A step waits for the device
once, for all rows' tokens together; twice where a nucleus is wider than the first look.
Source: nucleus sampling (arXiv 1904.09751); p = 0.9 and temperature 0.7 are the paper's.
"""

import torch
from torch import Tensor

_NUCLEUS_GUESS = 256  # tokens looked at first; most nuclei are smaller, and a full sort costs more than the layer
_WIDE = -1  # stands for a token of a row whose nucleus is wider than that


def uniform_numbers(seed: int, count: int) -> Tensor:
    """A prompt's random stream: the number behind each of its tokens. -> [count], float64, on the CPU"""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def greedy_tokens(logits_BV: Tensor) -> tuple[Tensor, list[int]]:
    """The most likely token of each row, the first of equals: on the device, and on the host."""
    tokens_B = logits_BV.argmax(dim=-1)
    return tokens_B, tokens_B.tolist()


def nucleus_tokens(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, list[int]]:
    """Samples from the smallest set of likeliest tokens whose probabilities sum to at least `top_p`.

    Args:
        logits_BV: float32.
        uniform_B: float64 from 0 to 1, on the logits' device: each row's random number.
        temperature: above 0; divides the logits.
        top_p: above 0, at most 1.

    Returns:
        Each row's token, on the device and on the host.
    """
    probs_BV = (logits_BV / temperature).softmax(dim=-1)
    likely = probs_BV.topk(min(_NUCLEUS_GUESS, probs_BV.shape[1]), dim=-1)
    tokens_B = _draw(likely.values, likely.indices, uniform_B[:, None], top_p)
    if likely.values.shape[1] == probs_BV.shape[1]:
        return tokens_B, tokens_B.tolist()
    is_wide_B = likely.values.double().sum(dim=-1) < top_p
    tokens_B = tokens_B.masked_fill(is_wide_B, _WIDE)
    found: list[int] = tokens_B.tolist()
    wide = [row for row, token in enumerate(found) if token == _WIDE]
    if wide:
        everything = probs_BV[wide].sort(dim=-1, descending=True)
        tokens_B[wide] = _draw(everything.values, everything.indices, uniform_B[wide, None], top_p)
        found = tokens_B.tolist()
    return tokens_B, found


def _draw(sorted_BK: Tensor, tokens_BK: Tensor, uniform_B1: Tensor, top_p: float) -> Tensor:
    """Inverts the cumulative distribution of the nucleus at a uniform number. -> [B]"""
    probs_BK = sorted_BK.double()
    before_BK = probs_BK.cumsum(dim=-1) - probs_BK
    nucleus_BK = probs_BK * (before_BK < top_p)
    mass_BK = nucleus_BK.cumsum(dim=-1)
    place_B1 = (mass_BK <= uniform_B1 * mass_BK[:, -1:]).sum(dim=-1, keepdim=True)
    last_B1 = (nucleus_BK > 0).sum(dim=-1, keepdim=True) - 1
    return tokens_BK.gather(1, place_B1.minimum(last_B1))[:, 0]

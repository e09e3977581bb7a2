"""Picks the next token of each sequence: the likeliest one, or one drawn from the nucleus.

Each prompt owns a random generator and draws one number a token: what it samples doesn't depend on who else is in the
batch. Source of nucleus sampling: arXiv 1904.09751; p = 0.9 and temperature 0.7 are the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.answers.sequences import DecodingSettings, UnderWay
from harness.banks.bank import CausalBank

_NUCLEUS_GUESS = 256  # tokens looked at first; most nuclei are smaller, and a full sort costs more than the layer
_WIDE = -1  # stands for a token of a row whose nucleus is wider than that
_NOT_FINITE = -2  # stands for a token of a row whose logits are no numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPicker:
    """Turns last hidden states into tokens.

    Args:
        bank: whose output layer makes logits of them.
        settings: how a token is chosen.
        model: what a message calls the base.
    """

    bank: CausalBank
    settings: DecodingSettings
    model: str

    def pick(self, hidden_BD: Tensor, rows: Sequence[UnderWay], uniform_B1: Tensor | None) -> Tensor:
        """Appends each row's next token.

        Args:
            hidden_BD: of each row's newest token.
            rows: the sequences under way.
            uniform_B1: each row's random number; None takes the likeliest token.

        Returns:
            The tokens, on the device, [B].

        Raises:
            ValueError: logits that are NaN or infinite; names the model and whose adapter it is.
        """
        settings = self.settings
        logits_BV = self.bank.logits(hidden_BD)
        if settings.repetition_penalty != 1.0:
            logits_BV = penalized(logits_BV, [sequence.known for sequence in rows], settings.repetition_penalty)
        if uniform_B1 is None:
            tokens_B, found = greedy_tokens(logits_BV)
        else:
            if settings.top_k is not None:
                logits_BV = likeliest_only(logits_BV, settings.top_k)
            tokens_B, found = nucleus_tokens(logits_BV, uniform_B1[:, 0], settings.temperature, settings.top_p)
        if _NOT_FINITE in found:
            self._refuse(rows[found.index(_NOT_FINITE)])
        for sequence, token in zip(rows, found, strict=True):
            sequence.new_tokens.append(token)
        return tokens_B

    def _refuse(self, row: UnderWay) -> None:
        member = row.request.member
        who = "no adapter" if member is None else f"adapter {row.request.system or member}"
        raise ValueError(
            f"{self.model} with {who}: its logits are NaN or infinite after {len(row.known)} tokens, so it has no "
            "next token; its training diverged, a file is damaged, or the numbers are too large for its data type "
            "(quant.compute_dtype=float16): score it in bfloat16 or float32"
        )


def penalized(logits_BV: Tensor, known: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Makes tokens that a row has already less likely: positive logits are divided, others multiplied.

    Source: CTRL (arXiv 1909.05858), in the form of transformers' `RepetitionPenaltyLogitsProcessor`.
    """
    changed_BV = logits_BV.clone()
    for row, tokens in enumerate(known):
        seen = torch.tensor(sorted(set(tokens)), device=logits_BV.device)
        values = logits_BV[row, seen]
        changed_BV[row, seen] = torch.where(values < 0, values * penalty, values / penalty)
    return changed_BV


def likeliest_only(logits_BV: Tensor, top_k: int) -> Tensor:
    """The logits of the `top_k` likeliest tokens of each row, minus infinity for the others."""
    least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[1]), dim=-1).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))


def greedy_tokens(logits_BV: Tensor) -> tuple[Tensor, list[int]]:
    """The most likely token of each row, the first of equals: on the device, and on the host."""
    likeliest = logits_BV.max(dim=-1)
    tokens_B = likeliest.indices.masked_fill(~likeliest.values.isfinite(), _NOT_FINITE)  # the maximum of NaN is NaN
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
    tokens_B = tokens_B.masked_fill(likely.values[:, 0].isnan(), _NOT_FINITE)  # of NaN, and of an infinite maximum
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
    return tokens_BK.gather(1, place_B1.minimum(last_B1).clamp_min(0))[:, 0]  # of NaN: any

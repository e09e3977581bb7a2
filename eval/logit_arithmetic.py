"""Adds what a small model learned to the logits of a large one, while both stay as they are.

    proxy:llama13b+0a1b2c3d4e5f          logits = large + (small run - its small base)
    proxy:llama13b+0a1b2c3d4e5f@0.5      half of the difference

As `--model` of mmlu, perplexity, tasks and generate. Both models read the same tokens, so their vocabularies have to be
one. A bank computes the three passes of a row and hands on their hidden states side by side, which `logits` combines; a
plan of attention sees the three models as the layers of one.
Source: Liu et al. 2024, Tuning Language Models by Proxy (arXiv 2401.08565), equation 1; Mitchell et al. 2023, An
Emulator for Fine-Tuning Large Language Models using Small Language Models (arXiv 2310.12962), which is alpha = 1.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.nn import functional

from harness.banks.bank import CausalBank
from harness.banks.load import LoadedBase
from harness.nn.attention import AttentionPlan, Packed
from harness.nn.batch import Segment
from harness.nn.rows import BatchCache, Layout

PREFIX = "proxy:"
MEMBER = "proxy"  # the arithmetic's name in its bank; without a member the large model answers alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySpec:
    """A large model, and the run whose change is added to its logits."""

    large: str  # a choice of conf/model, or a checkpoint folder
    run: str
    alpha: float = 1.0


def is_proxy(model: str) -> bool:
    """Whether a model's name asks for logit arithmetic."""
    return model.startswith(PREFIX)


def parse_proxy(model: str) -> ProxySpec:
    """Reads proxy:LARGE+RUN or proxy:LARGE+RUN@ALPHA. Raises ValueError for anything else."""
    large, plus, rest = model.removeprefix(PREFIX).rpartition("+")
    run, at, text = rest.partition("@")
    try:
        alpha = float(text) if at else 1.0
    except ValueError:
        alpha = math.nan
    if not (is_proxy(model) and plus and large and run and math.isfinite(alpha)):
        raise ValueError(f"{model}: expected proxy:LARGE+RUN, or proxy:LARGE+RUN@ALPHA with a number, as @0.5")
    return ProxySpec(large=large, run=run, alpha=alpha)


@dataclass(slots=True)
class _LayersFrom:
    """A plan as one of several models sees it: its layer 0 is the plan's layer `first`."""

    plan: AttentionPlan
    first: int

    @property
    def longest(self) -> int:
        return self.plan.longest

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        return self.plan.attend(self.first + layer, query, key, value, scaling, window)


class ProxyBank:
    """A `CausalBank` of logit arithmetic, with one member.

    Args:
        large: the large model; its base alone is used.
        small: one that shares its base, with the run's adapter loaded.
        member: of `small`.
        alpha: what the difference is multiplied with.
    """

    def __init__(self, large: CausalBank, small: CausalBank, member: str, alpha: float) -> None:
        self.large, self.small, self.alpha, self._member = large, small, alpha, member
        self.configs = {MEMBER: small.configs[member]}
        self.factors = {MEMBER: alpha}  # a part of the digest that results are tied to
        windows = [bank.layout.window for bank in (large, small) if bank.layout.window is not None]
        self.layout = Layout(is_packed=True, window=min(windows, default=None))
        self._sizes = [_hidden_size(bank) for bank in (large, small, small)]
        self._first_layers = (0, _num_layers(large), _num_layers(large) + _num_layers(small))

    def __getattr__(self, name: str) -> Any:
        """Everything else is the large model's: device, data type, base, layers, head."""
        return getattr(self.large, name)

    def member_parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The small adapter's tensors."""
        assert name == MEMBER
        return self.small.member_parameters(self._member)

    def add_scaled(self, name: str, of: str, factor: float) -> NoReturn:
        """Refuses: a scale of the adapter is not one of the difference."""
        raise ValueError(f"--adapter-scale with {PREFIX}...: say its alpha in the name instead, as @{factor:g}")

    def __call__(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | BatchCache | None = None,
        read_at: Sequence[int] | None = None,
    ) -> Tensor:
        """As `CausalBank`. -> the three models' hidden states and alpha side by side, float32."""
        assert not isinstance(plan, BatchCache)
        plain = [dataclasses.replace(segment, member=None) for segment in segments]
        tuned = [dataclasses.replace(segment, member=segment.member and self._member) for segment in segments]
        plan = plan or Packed([segment.num_tokens for segment in segments])
        parts = [
            bank(input_ids_1N, of, position_ids_1N, _LayersFrom(_fresh(plan), first), read_at).float()
            for bank, of, first in zip(
                (self.large, self.small, self.small), (plain, tuned, plain), self._first_layers, strict=True
            )
        ]
        return torch.cat([*parts, self._alphas(segments, read_at, parts[0])], dim=2)

    def _alphas(self, segments: Sequence[Segment], read_at: Sequence[int] | None, like: Tensor) -> Tensor:
        """[1, M, 1] of the places that are read; 0 where the large model answers alone."""
        values = [0.0 if s.member is None else self.alpha for s in segments for _ in range(s.num_tokens)]
        read = values if read_at is None else [values[place] for place in read_at]
        return torch.tensor(read, dtype=like.dtype, device=like.device)[None, :, None]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Equation 1 of the paper. -> [N, V] of the large model; rows that the small one lacks are no tokens."""
        large_ND, tuned_ND, base_ND, alpha_N1 = hidden_ND.split([*self._sizes, 1], dim=1)
        logits_NV = self.large.logits(large_ND.to(self.large.dtype))
        tuned_NV, base_NV = (self.small.logits(part.to(self.small.dtype)) for part in (tuned_ND, base_ND))
        missing = logits_NV.shape[1] - tuned_NV.shape[1]
        change_NV: Tensor = alpha_N1 * functional.pad(tuned_NV - base_NV, (0, missing))
        return logits_NV + change_NV


def proxied(large: LoadedBase, small: LoadedBase, member: str, alpha: float, name: str) -> LoadedBase:
    """The large base with the arithmetic for its bank; it reads texts by the large one's tokenizer.

    Args:
        name: of the arithmetic, for messages.

    Raises:
        ValueError: other tokens, or rows of a model that aren't packed.
    """
    if problem := _problem(large, small):
        raise ValueError(f"{name}: {problem}")
    small_layer = next(iter(small.bank.layers.values())).base.weight
    parts = [PREFIX, large.fingerprint, small.fingerprint, str(small_layer.dtype), str(small.bank.dtype)]
    return dataclasses.replace(
        large,
        bank=cast(CausalBank, ProxyBank(large.bank, small.bank, member, alpha)),
        fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        max_length=min(large.max_length, small.max_length),
    )


def _problem(large: LoadedBase, small: LoadedBase) -> str | None:
    """Why the logits of both can't be added; None if they can."""
    mine, theirs = large.tokenizer.get_vocab(), small.tokenizer.get_vocab()
    if mine != theirs:
        unlike = sorted(word for word in mine.keys() | theirs.keys() if mine.get(word) != theirs.get(word))
        shown = ", ".join(repr(word) for word in unlike[:3])
        return (
            f"{large.source.location} and {small.source.location} have other vocabularies ({len(mine)} and "
            f"{len(theirs)} tokens; {len(unlike)} differ, as {shown}), so their logits can't be added; take models "
            "of one family"
        )
    if padded := [base.source.location for base in (large, small) if not base.bank.layout.is_packed]:
        return f"{padded[0]}: a model whose rows are padded; logit arithmetic takes models whose rows are packed"
    rows = [base.bank.head.weight.shape[0] for base in (large, small)]
    if rows[1] > rows[0] or rows[1] <= max(mine.values()):
        return f"the output layers have {rows[0]} and {rows[1]} rows for {len(mine)} tokens; they can't be added"
    return None


def _fresh(plan: AttentionPlan) -> AttentionPlan:
    """A copy without what a pass of another model left in it; caches that it fills are the same ones."""
    return cast(AttentionPlan, dataclasses.replace(cast(Any, plan)))


def _hidden_size(bank: CausalBank) -> int:
    return int(bank.head.weight.shape[1])


def _num_layers(bank: CausalBank) -> int:
    return int(bank.base.config.get_text_config(decoder=True).num_hidden_layers)

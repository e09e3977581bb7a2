"""Tells how far a tournament's judge can be trusted: its name, size and measured bias, and a warning where due.

QLoRA (arXiv 2305.14314, sections 5.3 and 6.2) finds GPT-4 biased to the first answer and in moderate
agreement with people; a small local model is far below that, and the page has to say so beside its numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.formats import parameters
from analysis.report.records import Judge
from harness.runs.estimate import Estimate

SMALL_JUDGE_PARAMETERS = 3e9  # below this a warning stands beside the ratings
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[ _-]?([mb])(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeView:
    """A judge of the tournament."""

    name: str
    num_parameters: float | None  # None: not recorded, and in no name
    caution: str | None  # why its verdicts say little
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasView:
    """ratings.json's position bias, with the shares that a bar needs."""

    first_wins: int
    second_wins: int
    ties: int
    first_win_rate: Estimate | None  # of decisive verdicts
    swapped_reversals: int
    swapped_pairs: int

    @property
    def shares(self) -> tuple[tuple[str, int, float], ...]:
        """(what, how many, percent of all) in the order in which they are drawn."""
        total = max(self.first_wins + self.second_wins + self.ties, 1)
        parts = (("first", self.first_wins), ("tie", self.ties), ("second", self.second_wins))
        return tuple((name, count, round(100 * count / total, 2)) for name, count in parts)


def judge_view(judge: Judge, hub_ids: Mapping[str, str] | None = None) -> JudgeView:
    """What a tournament records of one of its judges.

    Args:
        judge: name and settings, as recorded.
        hub_ids: model name or base fingerprint -> hub id of models known here; a hub id may state the size that the
            judge's name doesn't.
    """
    fingerprint = judge.settings.get("base_fingerprint")
    known = [hub_id for key, hub_id in (hub_ids or {}).items() if key in judge.name or key == fingerprint]
    size = _recorded_size(judge.settings) or _named_size([judge.name, *_texts(judge.settings), *known])
    shown = {key: value for key, value in judge.settings.items() if value not in (None, "", [], {})}
    return JudgeView(
        name=judge.name,
        num_parameters=size,
        caution=_caution(judge, size),
        settings=tuple((str(key), str(value)) for key, value in shown.items()),
    )


def bias_view(ratings: dict[str, Any] | None) -> BiasView | None:
    """The measured position bias; None where there is none."""
    bias = (ratings or {}).get("position_bias")
    if not bias:
        return None
    rate = bias.get("first_win_rate")
    return BiasView(
        first_wins=bias["first_wins"],
        second_wins=bias["second_wins"],
        ties=bias["ties"],
        first_win_rate=None if rate is None else Estimate(value=rate, low=bias.get("low"), high=bias.get("high")),
        swapped_reversals=bias["swapped_reversals"],
        swapped_pairs=bias["swapped_pairs"],
    )


def _caution(judge: Judge, size: float | None) -> str | None:
    name, kind = judge.name, judge.settings.get("kind")
    if size is not None and size < SMALL_JUDGE_PARAMETERS:
        return (
            f"The judge {name} is a local model of {parameters(size)} parameters. A model this small can hardly "
            "compare two answers: take these ratings as proof that the tournament works, not as evidence of which "
            "system is better. The bias measured below is the yardstick. For conclusions, judge with a strong model "
            "or with people."
        )
    if size is None and kind == "local":
        return (
            f"The judge {name} is a local model whose size is not recorded. Small models can hardly compare two "
            "answers: look at the bias measured below before believing a rating."
        )
    return None


def _recorded_size(settings: dict[str, Any]) -> float | None:
    value = settings.get("num_parameters")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None


def _named_size(texts: Sequence[str]) -> float | None:
    """The size that a name states, as in `smollm2-135m-instruct`; None where none does."""
    for text in texts:
        found = _SIZE.search(text.replace("-", " ").replace("/", " ").replace("_", " "))
        if found:
            return float(found[1]) * (1e9 if found[2].lower() == "b" else 1e6)
    return None


def _texts(value: Any) -> list[str]:
    """Texts that name a model: values of keys with `model`, `hub_id`, `path` or `name` in them, at any depth."""
    if not isinstance(value, dict):
        return []
    texts = []
    for key, item in value.items():
        if isinstance(item, str) and any(word in key for word in ("model", "hub_id", "name", "path", "base")):
            texts.append(item)
        texts += _texts(item)
    return texts

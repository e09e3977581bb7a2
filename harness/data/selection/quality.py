"""Predicts what rows are worth by a rule that was fitted on finished runs' held-out losses.

InstructMining (Cao et al. 2023, arXiv 2307.06290) regresses the log of the held-out loss of runs on the means, over the
rows that each trained on, of indicators of a row; rows of which the rule predicts a low loss train first. These
indicators are those of the paper that need no other model than the base:

    input_tokens, target_tokens   lengths
    perplexity                    minus the mean log-probability of the target's tokens by the untouched base, nats
    knn                           distance to the 6th nearest row, of the base's mean hidden states at unit length

Its scores by a reward model and by UniEval, and its lexical diversity, are left out. `python -m sweeps quality-rule`
fits a rule and writes it; `dataset.select=quality dataset.quality_rule=FILE` chooses by it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INDICATORS = ("input_tokens", "target_tokens", "perplexity", "knn")
_NEIGHBOUR = 6  # whose distance is `knn`, as in the paper
_BLOCK_ROWS = 1024  # of a product of embeddings
_FORMS = 'expected {"intercept": number, "weights": {indicator: number}} as `python -m sweeps quality-rule` writes it'


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRule:
    """log(held-out loss) = intercept + the sum of weight times indicator."""

    intercept: float
    weights: Mapping[str, float]

    def predicted(self, indicators: Mapping[str, Floats]) -> Floats:
        """(num_rows,) log losses, of each indicator of each row."""
        parts = [weight * indicators[name] for name, weight in self.weights.items()]
        return np.asarray(self.intercept + np.sum(parts, axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRule:
    """A rule, and how well it is known."""

    rule: QualityRule
    standard_errors: Mapping[str, float]  # of the weights
    r2: float  # share of the variance between runs that the rule explains
    num_runs: int


def fit_rule(means: Mapping[str, Sequence[float]], losses: Sequence[float]) -> FittedRule:
    """Least squares of log losses on the means of indicators.

    Args:
        means: of each indicator a value a run, over the rows that it trained on.
        losses: held-out losses of the runs, nats.

    Raises:
        ValueError: too few runs, an indicator that is equal in all of them, or indicators that can't be told apart.
    """
    names, values = list(means), np.array([means[name] for name in means], dtype=np.float64).T
    if len(losses) < len(names) + 2:
        raise ValueError(f"{len(losses)} runs for {len(names)} indicators: take {len(names) + 2} runs, or drop some")
    centre, spread = values.mean(axis=0), values.std(axis=0)
    if same := [name for name, wide in zip(names, spread, strict=True) if wide <= 1e-12 * max(1.0, abs(centre).max())]:
        raise ValueError(f"{', '.join(same)}: equal in all runs, so its weight can't be told; leave it out")
    design = np.column_stack([np.ones(len(values)), (values - centre) / spread])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{', '.join(names)}: they vary together in these runs; take more runs, or fewer indicators")
    y = np.log(np.asarray(losses, dtype=np.float64))
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    left = y - design @ solution
    variance = float(left @ left) / (len(y) - design.shape[1])
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))[1:] / spread
    weights = solution[1:] / spread
    total = float(((y - y.mean()) ** 2).sum())
    return FittedRule(
        rule=QualityRule(
            intercept=float(solution[0] - weights @ centre),
            weights={name: float(weight) for name, weight in zip(names, weights, strict=True)},
        ),
        standard_errors={name: float(error) for name, error in zip(names, errors, strict=True)},
        r2=1.0 - float(left @ left) / total if total > 0 else 0.0,
        num_runs=len(y),
    )


def rule_text(given: str) -> str:
    """The text of a rule, in one form, of a rule's file or of such a text.

    Raises:
        ValueError: no such file, or no rule in it.
    """
    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"dataset.quality_rule={given}: no such file ({error}); {_FORMS}") from error
    rule = read_rule(text, given)
    return json.dumps({"intercept": rule.intercept, "weights": dict(sorted(rule.weights.items()))})


def read_rule(text: str, where: str = "dataset.quality_rule") -> QualityRule:
    """Reads a rule's text. Raises ValueError for any other."""
    try:
        values = json.loads(text)
        rule = QualityRule(
            intercept=float(values["intercept"]), weights={str(k): float(v) for k, v in values["weights"].items()}
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where:.80}: no rule ({type(error).__name__}: {error}); {_FORMS}") from None
    unknown = sorted(set(rule.weights) - set(INDICATORS))
    if unknown or not rule.weights:
        raise ValueError(f"{where:.80}: indicators {unknown}; there are {', '.join(INDICATORS)}")
    if not all(map(math.isfinite, (rule.intercept, *rule.weights.values()))):
        raise ValueError(f"{where:.80}: a number that is none; fit the rule again")
    return rule


def neighbour_distances(points: Floats) -> Floats:
    """(num_rows,) the distance of each of (num_rows, hidden) unit vectors to its 6th nearest, or its farthest."""
    neighbour = min(_NEIGHBOUR, len(points) - 1)
    found = [
        np.partition(2.0 - 2.0 * points[start : start + _BLOCK_ROWS] @ points.T, neighbour, axis=1)[:, neighbour]
        for start in range(0, len(points), _BLOCK_ROWS)
    ]
    return np.sqrt(np.maximum(np.concatenate(found), 0.0))

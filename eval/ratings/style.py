"""Rates systems by Bradley-Terry with the length, style and place of answers held equal.

Used by `python -m eval rate --answers`. A match's logit is the difference of strengths plus a coefficient for each
feature's difference.

Source: the style control of Chatbot Arena (lmsys.org/blog/2024-08-28-style-control): a feature's difference is taken
relative to its sum and standardised. Answer files are JSON lines with `question_id`, `system`, `answer`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from eval.ratings.bradley_terry import (
    ANCHOR,
    MAX_NEWTON_STEPS,
    MAX_STEP_NATS,
    PRIOR_PRECISION,
    prompt_weights,
    to_points,
)
from eval.ratings.intervals import resampled_error, student_t
from eval.ratings.unanimous import least_errors
from eval.verdicts.table import Matches
from harness.runs.estimate import Estimate

Array = NDArray[np.float64]
Answers = Mapping[tuple[str, str], str]  # (system, question_id) -> text
STYLE = {
    "num_characters": None,
    "num_headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "num_list_items": re.compile(r"^\s*(?:[-*+]|\d+[.)])\s", re.MULTILINE),
    "num_bold": re.compile(r"\*\*[^*\n]+\*\*"),
}
MAX_RESAMPLES = 200  # each is a fit over all matches
RESAMPLE_TOLERANCE_NATS = 1e-4  # 0.02 point, far below a bound's own noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled:
    """Ratings at equal features (points, mean 1000), and what one standard deviation of each is worth (points).

    Intervals are over prompts, of which each estimate's `n` is the number; None with a single prompt.
    """

    ratings: dict[str, Estimate]
    effects: dict[str, Estimate]  # `shown_first` is the worth of the first place itself
    num_matches: int  # those whose two answers are known


def style_features(answer: str) -> list[float]:
    """An answer's counts of the features, in the order of `STYLE`."""
    return [float(len(answer)) if rule is None else float(len(rule.findall(answer))) for rule in STYLE.values()]


def controlled_ratings(
    matches: Matches,
    systems: Sequence[str],
    questions: Sequence[str],
    answers: Answers,
    num_resamples: int,
    rng: np.random.Generator,
    *,
    has_places: bool = True,
) -> Controlled | None:
    """Ratings with style held equal; None where no match has both answers.

    Args:
        matches: Matches whose `question`, `first` and `second` are positions in `questions` and `systems`.
        systems: Names.
        questions: Question ids.
        answers: Texts by (system, question_id).
        num_resamples: Bootstrap over prompts; at most MAX_RESAMPLES are drawn.
        rng: Draws them.
        has_places: whether `first` was shown first; else the place is held equal to nothing and has no effect.
    """
    table = np.full((len(systems), len(questions), len(STYLE)), np.nan)
    system_code, question_code = ({n: i for i, n in enumerate(names)} for names in (systems, questions))
    for (system, question), text in answers.items():
        if system in system_code and question in question_code:
            table[system_code[system], question_code[question]] = style_features(text)
    one, two = table[matches.first, matches.question], table[matches.second, matches.question]
    known = np.isfinite(one[:, 0] + two[:, 0])
    if not known.any():
        return None
    used, gap = matches.pick(known), (one - two)[known] / np.maximum((one + two)[known], 1.0)
    spread = gap.std(axis=0)
    names = [name for name, sd in zip(STYLE, spread, strict=True) if sd > 0]
    gap = gap[:, spread > 0] / spread[spread > 0]
    if has_places:
        names, gap = ["shown_first", *names], np.column_stack([np.ones(len(gap)), gap])
    return _fit_all(used, systems, names, gap, num_resamples, rng)


def _fit_all(
    matches: Matches,
    systems: Sequence[str],
    names: Sequence[str],
    features: Array,
    num_resamples: int,
    rng: np.random.Generator,
) -> Controlled:
    num = len(matches)
    played, codes = np.unique(np.concatenate([matches.first, matches.second]), return_inverse=True)
    design = np.zeros((num, len(played) + features.shape[1]))
    design[np.arange(num), codes[:num]] = 1.0
    design[np.arange(num), codes[num:]] = -1.0
    design[:, len(played) :] = features
    score = matches.half_points / 2.0
    point = _maximise(design, score)
    questions, question = np.unique(matches.question, return_inverse=True)
    weights = prompt_weights(len(questions), min(num_resamples, MAX_RESAMPLES), rng)
    draws = np.array([point, *(_newton(design, score, weight[question], point) for weight in weights)])
    draws[:, : len(played)] -= draws[:, : len(played)].mean(axis=1, keepdims=True)
    points = to_points(draws)
    points[:, : len(played)] += ANCHOR
    rated = np.full(len(systems), ANCHOR)
    rated[played] = points[0, : len(played)]
    least = [*least_errors(matches, rated)[played], *np.zeros(features.shape[1])]
    estimates = [_estimate(column, len(questions), error) for column, error in zip(points.T, least, strict=True)]
    best_first = np.argsort(-points[0, : len(played)], kind="stable")
    return Controlled(
        ratings={systems[played[column]]: estimates[column] for column in best_first},
        effects=dict(zip(names, estimates[len(played) :], strict=True)),
        num_matches=num,
    )


def _estimate(draws: Array, num_prompts: int, least_error: float) -> Estimate:
    """Makes an estimate of the point value, which comes first, and the values of the resamples.

    None for an effect on which all resamples agree.
    """
    value = float(draws[0])
    error = max(resampled_error(draws[1:], num_prompts), least_error) if num_prompts > 1 else 0.0
    half = student_t(num_prompts) * error if error > 1e-9 else 0.0
    return Estimate.of(value, (value - half, value + half) if half else None, num_prompts)


def _derivatives(x: Array, design: Array, score: Array, weight: Array) -> tuple[float, Array, Array]:
    """Negative log-likelihood with the weak prior of eval.ratings.bradley_terry, gradient and Hessian."""
    logit = design @ x
    chance = expit(logit)
    value = float(weight @ (np.logaddexp(0.0, logit) - score * logit)) + PRIOR_PRECISION * float(x @ x) / 2.0
    gradient = design.T @ (weight * (chance - score)) + PRIOR_PRECISION * x
    hessian = design.T @ (design * (weight * chance * (1.0 - chance))[:, None]) + PRIOR_PRECISION * np.eye(len(x))
    return value, gradient, hessian


def _maximise(design: Array, score: Array) -> Array:
    ones = np.ones(len(score))
    optimum = minimize(  # type: ignore[call-overload]  # the stubs reject functions of plain arrays
        lambda x: _derivatives(x, design, score, ones)[0] / len(score),
        np.zeros(design.shape[1]),
        jac=lambda x: _derivatives(x, design, score, ones)[1] / len(score),
        hess=lambda x: _derivatives(x, design, score, ones)[2] / len(score),
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    return np.asarray(optimum.x)


def _newton(design: Array, score: Array, weight: Array, start: Array) -> Array:
    x = start
    for _ in range(MAX_NEWTON_STEPS):
        _, gradient, hessian = _derivatives(x, design, score, weight)
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, MAX_STEP_NATS / max(float(np.abs(step).max()), 1e-300))
        x = x - step
        if np.abs(step).max() < RESAMPLE_TOLERANCE_NATS:
            break
    return np.asarray(x)

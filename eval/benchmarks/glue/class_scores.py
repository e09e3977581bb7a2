"""Scores a classifier's choices: accuracy, F1, Matthews; for numbers Pearson and Spearman correlation.

Each has a 95 % interval: Wilson for accuracy, a bootstrap over rows for the others. Where a class was never met or
never chosen, F1 and Matthews count 0, as scikit-learn has it (tests/unit/eval/benchmarks/test_class_scores.py holds
them to it); a correlation of constant numbers has no value. Which of them a task reports: GLUE (arXiv 1804.07461),
table 1; which one enters a mean over tasks: LoRA (arXiv 2106.09685), table 2.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from eval.benchmarks.intervals import NUM_RESAMPLES, percentile_interval, wilson_interval
from harness.runs.estimate import Estimate

_Numbers = NDArray[np.float64]

# The metrics that a task officially reports; the one that enters a mean over tasks comes first.
OFFICIAL: dict[str, tuple[str, ...]] = {
    "glue_cola": ("matthews",),
    "glue_mrpc": ("accuracy", "f1"),
    "glue_qqp": ("accuracy", "f1"),
    "glue_stsb": ("pearson", "spearman"),
}
CLASSES_DEFAULT = ("accuracy", "f1_weighted", "matthews")
NUMBERS_DEFAULT = ("pearson", "spearman")
_RESAMPLED_AT_ONCE = 2_000_000  # numbers in memory while a correlation is resampled


def official_metrics(format: str, is_regression: bool) -> tuple[str, ...]:
    """The metrics of a dataset of this format, the main one first."""
    if format in OFFICIAL:
        return OFFICIAL[format]
    if is_regression:
        return NUMBERS_DEFAULT
    return ("accuracy",) if format.startswith("glue_") else CLASSES_DEFAULT


def class_scores(
    answers: Sequence[int], choices: Sequence[int], num_labels: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Accuracy, weighted and macro F1 and Matthews correlation; F1 of class 1 too where there are two.

    Args:
        answers: classes from 0, at least one.
        choices: what was chosen, as many.
        num_labels: classes of the task.
        rng: draws the resamples.
    """
    cells = np.asarray(answers) * num_labels + np.asarray(choices)
    counts = np.bincount(cells, minlength=num_labels**2)
    n = len(cells)
    draws = rng.multinomial(n, counts / n, size=NUM_RESAMPLES)  # rows drawn with replacement, as confusion matrices
    shape = (1 + NUM_RESAMPLES, num_labels, num_labels)
    confusion_DAC = np.concatenate([counts[None], draws]).reshape(shape).astype(np.float64)
    scores = {
        name: Estimate.of(float(values[0]), percentile_interval(values[1:]))
        for name, values in _from_confusion(confusion_DAC).items()
    }
    correct = int(np.trace(counts.reshape(num_labels, num_labels)))
    return {"accuracy": Estimate.of(correct / n, wilson_interval(correct, n)), **scores}


def number_scores(answers: Sequence[float], guesses: Sequence[float], rng: np.random.Generator) -> dict[str, Estimate]:
    """Pearson and Spearman correlation of two rows of numbers, at least one each."""
    one, two = np.asarray(answers), np.asarray(guesses)
    order = np.lexsort((two, one))  # the same interval in any order of the rows
    one, two = one[order], two[order]
    point = _correlations(one[None], two[None])
    draws: dict[str, list[_Numbers]] = {name: [] for name in point}
    done = 0
    while done < NUM_RESAMPLES:
        count = min(NUM_RESAMPLES - done, max(1, _RESAMPLED_AT_ONCE // len(one)))
        drawn = rng.integers(len(one), size=(count, len(one)))
        for name, values in _correlations(one[drawn], two[drawn]).items():
            draws[name].append(values)
        done += count
    return {name: _defined(float(value[0]), np.concatenate(draws[name])) for name, value in point.items()}


def _defined(value: float, draws: _Numbers) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None)
    return Estimate.of(value, percentile_interval(draws))


def _from_confusion(confusion_DAC: _Numbers) -> dict[str, _Numbers]:
    """-> metrics of each of D confusion matrices (answers x choices), [D]."""
    hits_DC = np.diagonal(confusion_DAC, axis1=1, axis2=2)
    support_DC, chosen_DC = confusion_DAC.sum(axis=2), confusion_DAC.sum(axis=1)
    met_DC = support_DC + chosen_DC
    f1_DC = 2 * hits_DC / np.maximum(met_DC, 1)
    n_D = support_DC.sum(axis=1)
    metrics = {
        "f1_weighted": (f1_DC * support_DC).sum(axis=1) / n_D,
        "f1_macro": f1_DC.sum(axis=1) / (met_DC > 0).sum(axis=1),
        "matthews": _matthews(hits_DC.sum(axis=1), support_DC, chosen_DC, n_D),
    }
    return {"f1": f1_DC[:, 1], **metrics} if confusion_DAC.shape[1] == 2 else metrics


def _matthews(hits_D: _Numbers, support_DC: _Numbers, chosen_DC: _Numbers, n_D: _Numbers) -> _Numbers:
    """Gorodkin's R_K, which is Matthews' correlation for two classes; 0 where either side has one class only."""
    covariance = hits_D * n_D - (support_DC * chosen_DC).sum(axis=1)
    spread = (n_D**2 - (support_DC**2).sum(axis=1)) * (n_D**2 - (chosen_DC**2).sum(axis=1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 1)), 0.0)


def _correlations(one_DN: _Numbers, two_DN: _Numbers) -> dict[str, _Numbers]:
    return {
        "pearson": _pearson(one_DN, two_DN),
        "spearman": _pearson(rankdata(one_DN, axis=1), rankdata(two_DN, axis=1)),
    }


def _pearson(one_DN: _Numbers, two_DN: _Numbers) -> _Numbers:
    """-> [D]; NaN where a row of numbers is constant."""
    constant_D = (one_DN == one_DN[:, :1]).all(axis=1) | (two_DN == two_DN[:, :1]).all(axis=1)
    one_DN, two_DN = (x - x.mean(axis=1, keepdims=True) for x in (one_DN, two_DN))
    spread_D = np.sqrt((one_DN**2).sum(axis=1) * (two_DN**2).sum(axis=1))
    found_D = np.full(len(one_DN), np.nan)
    np.divide((one_DN * two_DN).sum(axis=1), spread_D, out=found_D, where=~constant_D)
    return found_D

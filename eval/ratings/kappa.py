"""Chance-corrected agreement and rank correlation, each for a whole batch of resamples at once.

Every statistic here is a function of sums over items, so that a bootstrap clustered by prompt only reweights them.
Leading axis B: resamples (the first row is usually the whole). An undefined value (one category only, say) is NaN.

Sources: Cohen (1960); Fleiss (1971); Krippendorff's alpha for nominal data (2011, "Computing Krippendorff's
Alpha-Reliability"); Kendall's tau-b (1945); Spearman's rho with average ranks. tests/parity holds them against
scikit-learn, statsmodels, krippendorff and scipy.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def percent_agreement(confusion: Array) -> Array:
    """Share of equal labels. `confusion` (B, C, C): rows are one judge's label, columns the other's."""
    return _divide(np.einsum("bii->b", confusion), confusion.sum(axis=(1, 2)))


def cohen_kappa(confusion: Array) -> Array:
    """Agreement beyond what each judge's own label frequencies would give."""
    total = confusion.sum(axis=(1, 2))
    by_chance = _divide((confusion.sum(axis=2) * confusion.sum(axis=1)).sum(axis=1), total**2)
    return _beyond(percent_agreement(confusion), by_chance)


def fleiss_kappa_of_pairs(confusion: Array) -> Array:
    """Fleiss' kappa for two judges: chance is the pooled label frequencies squared."""
    pooled = confusion.sum(axis=2) + confusion.sum(axis=1)
    frequency = _divide(pooled, pooled.sum(axis=1, keepdims=True))
    return _beyond(percent_agreement(confusion), (frequency**2).sum(axis=1))


def krippendorff_alpha_of_pairs(confusion: Array) -> Array:
    """Krippendorff's nominal alpha for two judges who both labelled every item."""
    pooled = confusion.sum(axis=2) + confusion.sum(axis=1)
    return _alpha(2.0 * np.einsum("bii->b", confusion), pooled)


def fleiss_kappa(pair_agreement: Array, num_items: Array, labels: Array) -> Array:
    """Fleiss' kappa for equally many raters an item.

    Args:
        pair_agreement: (B,) sum over items of the share of rater pairs that agree.
        num_items: (B,) items.
        labels: (B, C) how often each label was given.
    """
    frequency = _divide(labels, labels.sum(axis=1, keepdims=True))
    return _beyond(_divide(pair_agreement, num_items), (frequency**2).sum(axis=1))


def krippendorff_alpha(coincidences: Array, labels: Array) -> Array:
    """Krippendorff's nominal alpha; items may have unequally many raters, from two up.

    Args:
        coincidences: (B,) sum over items of sum_c n_c (n_c - 1) / (n - 1).
        labels: (B, C) how often each label was given, over those items.
    """
    return _alpha(coincidences, labels)


def kendall_tau_of_table(table: Array) -> Array:
    """Kendall's tau-b of two ordinal labels. `table` (B, C, C), categories in order on both axes."""
    total = table.sum(axis=(1, 2))
    later = table[:, ::-1, ::-1].cumsum(axis=1).cumsum(axis=2)[:, ::-1, ::-1]  # [i, j]: rows >= i, columns >= j
    earlier = table[:, ::-1, :].cumsum(axis=1).cumsum(axis=2)[:, ::-1, :]  # [i, j]: rows >= i, columns <= j
    concordant = (table[:, :-1, :-1] * later[:, 1:, 1:]).sum(axis=(1, 2))
    discordant = (table[:, :-1, 1:] * earlier[:, 1:, :-1]).sum(axis=(1, 2))
    pairs = total * total / 2.0
    untied = [pairs - (table.sum(axis=axis) ** 2).sum(axis=1) / 2.0 for axis in (1, 2)]
    return _divide(concordant - discordant, np.sqrt(np.maximum(untied[0] * untied[1], 0.0)))


def spearman_of_table(table: Array) -> Array:
    """Spearman's rho of two ordinal labels, equal labels sharing their average rank. `table` (B, C, C)."""
    rows, columns = table.sum(axis=2), table.sum(axis=1)
    row_rank, column_rank = (counts.cumsum(axis=1) - counts / 2.0 for counts in (rows, columns))
    total = table.sum(axis=(1, 2))
    row_gap, column_gap = (rank - total[:, None] / 2.0 for rank in (row_rank, column_rank))
    covariance = np.einsum("bij,bi,bj->b", table, row_gap, column_gap)
    spread = np.einsum("bi,bi->b", rows, row_gap**2) * np.einsum("bj,bj->b", columns, column_gap**2)
    return _divide(covariance, np.sqrt(spread))


def kendall_tau(x: Array, y: Array) -> Array:
    """Kendall's tau-b between ratings `x` and `y` (B, num_systems)."""
    one, two = _signs(x), _signs(y)
    return _divide((one * two).sum(axis=(1, 2)), np.sqrt((one**2).sum(axis=(1, 2)) * (two**2).sum(axis=(1, 2))))


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rho between ratings `x` and `y` (B, num_systems)."""
    one, two = _signs(x).sum(axis=2), _signs(y).sum(axis=2)  # twice the centred average rank
    return _divide((one * two).sum(axis=1), np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1)))


def pair_order_agreement(x: Array, y: Array) -> Array:
    """Share of system pairs that `x` and `y` (B, num_systems) put in the same order."""
    num = x.shape[1]
    above = np.triu_indices(num, k=1)
    return np.asarray((_signs(x)[:, *above] == _signs(y)[:, *above]).mean(axis=1))


def _signs(x: Array) -> Array:
    return np.sign(x[:, :, None] - x[:, None, :])


def _alpha(coincidences: Array, labels: Array) -> Array:
    num = labels.sum(axis=1)
    observed = 1.0 - _divide(coincidences, num)
    expected = _divide(num**2 - (labels**2).sum(axis=1), num * (num - 1.0))
    return 1.0 - _divide(observed, expected)


def _beyond(observed: Array, by_chance: Array) -> Array:
    return _divide(observed - by_chance, 1.0 - by_chance)


def _divide(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is zero, up to rounding."""
    usable = np.abs(denominator) > 1e-12
    return np.where(usable, numerator / np.where(usable, denominator, 1.0), np.nan)

"""LQ-LoRA's choice of formats and its weighted decomposition."""

import itertools

import numpy as np
import pytest
import torch

from harness.variants.lq_budget import best_weighted, choose_formats, fisher_roots


@pytest.mark.parametrize("seed", range(5))
def test_choice_equals_brute_force_and_keeps_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits_LF = rng.integers(1, 5, (5, 1)) * 100.0 * np.array([[2.25, 3.25, 4.25, 8.25]])
    errors_LF = np.sort(rng.random((5, 4)), axis=1)[:, ::-1].copy()
    budget = float(bits_LF.min(1).sum() + rng.random() * (bits_LF.max(1).sum() - bits_LF.min(1).sum()))
    chosen_L = choose_formats(errors_LF, bits_LF, budget)
    rows = np.arange(5)
    fitting = [c for c in itertools.product(range(4), repeat=5) if bits_LF[rows, c].sum() <= budget]
    assert bits_LF[rows, chosen_L].sum() <= budget
    assert errors_LF[rows, chosen_L].sum() == pytest.approx(min(errors_LF[rows, c].sum() for c in fitting))


def test_a_budget_under_the_smallest_formats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"raise adapter\.bits"):
        choose_formats(np.ones((2, 1)), np.full((2, 1), 10.0), 19.0)


def test_weighted_factors_have_the_least_weighted_error_and_keep_an_important_row() -> None:
    torch.manual_seed(0)
    matrix_OI, fisher_OI = torch.randn(12, 8, dtype=torch.float64), torch.rand(12, 8, dtype=torch.float64)
    fisher_OI[3] *= 1000
    row_O, column_I = roots = fisher_roots(fisher_OI)
    assert torch.equal(row_O, fisher_OI.mean(1).sqrt())
    assert torch.equal(column_I, fisher_OI.mean(0).sqrt())
    ones = (torch.ones_like(row_O), torch.ones_like(column_I))
    (b, a), (plain_b, plain_a) = best_weighted(matrix_OI, 2, roots), best_weighted(matrix_OI, 2, ones)
    own, plain = matrix_OI - b @ a, matrix_OI - plain_b @ plain_a
    assert (row_O[:, None] * own * column_I).norm() < (row_O[:, None] * plain * column_I).norm()
    assert plain.norm() < own.norm()  # which is what the unweighted one is least in
    assert own[3].norm() < plain[3].norm() / 2


def test_rows_that_no_example_reaches_stay_finite() -> None:
    fisher_OI = torch.zeros(4, 3)
    fisher_OI[0] = 1.0
    b, a = best_weighted(torch.randn(4, 3), 2, fisher_roots(fisher_OI))
    assert b.isfinite().all()
    assert a.isfinite().all()
    assert torch.equal(fisher_roots(torch.zeros(4, 3))[0], torch.ones(4))

"""LQ-LoRA's choice of formats: the budget holds, the choice is the best there is, and outliers get more bits."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.methods.formats import FORMATS, stored_bits
from harness.variants import lq_budget, lq_rounding
from harness.variants.lq_budget import Candidates, candidates, choose_formats, error_left, hull, share_out
from harness.variants.lq_fisher import weighting_of
from harness.variants.lq_lora import best_factors
from harness.variants.lq_rounding import rounded, rounding_errors


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


def test_a_budget_is_kept_to_the_last_bit_and_used_where_it_fits_exactly() -> None:
    errors_LF, bits_LF = np.array([[9.0, 1.0]] * 3), np.array([[2e6, 3e6]] * 3)
    assert choose_formats(errors_LF, bits_LF, 9e6).tolist() == [1, 1, 1]
    assert choose_formats(errors_LF, bits_LF, 9e6 - 1).sum() == 2
    assert choose_formats(errors_LF, bits_LF, 6e6).tolist() == [0, 0, 0]


def test_a_budget_under_the_smallest_formats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adapter\.bits: .* 19 bits, and the smallest formats take 20, 1\.053 times"):
        choose_formats(np.ones((2, 1)), np.full((2, 1), 10.0), 19.0)


def test_a_solver_that_gives_up_chooses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(x=None, status=1, message="Node limit reached")

    monkeypatch.setattr(lq_budget, "milp", gives_up)
    with pytest.raises(ValueError, match=r"adapter\.bits: no choice of formats was found \(Node limit reached\)"):
        choose_formats(np.ones((2, 2)), np.array([[1.0, 2.0]] * 2), 3.0)


def test_layers_may_have_unlike_numbers_of_candidates() -> None:
    def layer(errors: list[float], bits: list[float]) -> Candidates:
        return Candidates(FORMATS[: len(errors)], np.array(errors), np.array(bits))

    layers = [layer([9.0, 3.0, 0.0], [1.0, 2.0, 9.0]), layer([5.0], [2.0])]
    assert share_out(layers, 4.0) == [FORMATS[1], FORMATS[0]]
    assert share_out(layers, 100.0) == [FORMATS[2], FORMATS[0]]


def test_the_lower_hull() -> None:
    bits_F = np.array([4.0, 1.0, 2.0, 3.0, 2.0, 5.0])
    errors_F = np.array([1.0, 10.0, 4.0, 3.5, 6.0, 1.0])
    assert hull(errors_F, bits_F) == [1, 2, 0]  # 3.5 at 3 bits lies above the line from 4 at 2 to 1 at 4
    assert hull(np.array([2.0, 1.0]), np.array([1.0, 1.0])) == [1]


def test_what_is_left_is_what_a_singular_value_decomposition_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((12, 30), (30, 12), (8, 8)):
        matrix_OI = torch.randn(shape, generator=generator)
        values_K = torch.linalg.svdvals(matrix_OI)
        assert error_left(matrix_OI, 3) == pytest.approx(float(values_K[3:].square().sum()), rel=1e-4)
        weighting = weighting_of(torch.rand(shape, generator=generator) ** 4)
        a_RI, b_OR = best_factors(matrix_OI, 3, 1.0, weighting)
        expected = float((weighting.root_OI * (matrix_OI - b_OR @ a_RI)).norm()) ** 2
        assert error_left(matrix_OI, 3, weighting) == pytest.approx(expected, rel=1e-3)


def test_of_a_large_matrix_it_is_nearly_that(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    exact = error_left(weight_OI, 16)
    monkeypatch.setattr(lq_budget, "_EXACT_UP_TO", 100)
    found = error_left(weight_OI, 16)
    assert exact * (1 - 1e-5) <= found < 1.01 * exact
    assert error_left(weight_OI, 16) == found


def test_candidates_are_worth_their_bits_and_their_numbers_are_the_layers() -> None:
    weight_OI = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    found = candidates(weight_OI, 4)
    assert (np.diff(found.bits_C) > 0).all()
    assert found.bits_C[0] == min(stored_bits(kind, weight_OI.numel()) for kind in FORMATS)
    for kind, error, bits in zip(*found, strict=True):
        assert bits == stored_bits(kind, weight_OI.numel())
        assert error == pytest.approx(error_left(weight_OI - rounded(weight_OI, kind), 4))
    large = candidates(torch.randn(640, 640, generator=torch.Generator().manual_seed(0)), 4)  # of a sample
    assert {kind.bits for kind in large.formats} == {2, 3, 4, 8}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_nearest_value_is_that_of_a_search_among_the_middles(bits: int) -> None:
    """To the last bit: on the middles, at the cells' edges, a step beside them, and beyond the codebook."""
    values_K = lq_rounding._codebook(bits)
    middles = (values_K[1:] + values_K[:-1]) / 2
    exact = torch.cat([middles, torch.arange(-300, 301) / 256.0])
    beside = [torch.nextafter(exact, torch.tensor(side)) for side in (-9.0, 9.0)]
    drawn = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) / 3
    far = torch.tensor([0.0, -0.0, 1e-30, 1e30, -1e30, torch.inf, -torch.inf])
    shares = torch.cat([exact, *beside, drawn, far])
    found = lq_rounding._nearest(shares, lq_rounding._cells(shares), bits)
    assert torch.equal(found, values_K[torch.bucketize(shares, middles)])
    nothing = torch.tensor([torch.nan])
    assert lq_rounding._nearest(nothing, lq_rounding._cells(nothing), bits).isfinite()


@pytest.mark.parametrize("num_weights", [64 * 256, 1517, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_of_all_formats_together_are_those_of_each_alone(num_weights: int, weighted: bool) -> None:
    """To the last bit, whole groups of blocks or not."""
    generator = torch.Generator().manual_seed(0)
    flat_W, counts_W = torch.randn(num_weights, generator=generator), torch.rand(num_weights, generator=generator)
    flat_W[:16] = 0.0  # a block without a scale
    counts = counts_W if weighted else 1.0
    alone = [float((counts * (flat_W - rounded(flat_W, kind))).norm()) ** 2 for kind in FORMATS]
    assert rounding_errors(flat_W, FORMATS, counts_W if weighted else None).tolist() == alone
    assert rounding_errors(flat_W, FORMATS[7::50], counts_W if weighted else None).tolist() == alone[7::50]


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (300, 230)])  # the last one's plain errors are of a sample
@pytest.mark.parametrize("weighted", [False, True])
def test_candidates_are_those_of_one_format_after_the_other(shape: tuple[int, int], weighted: bool) -> None:
    """The plain way: each format's whole error, and of those on the hull what all singular vectors leave."""
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(shape, generator=generator)
    weighting = weighting_of(torch.rand(shape, generator=generator) ** 4) if weighted else None
    root_OI = weighting.root_OI if weighting is not None else torch.ones(shape)
    sample, counts = lq_budget._sampled(weight_OI), lq_budget._sampled(root_OI)
    plain = np.array([float((counts * (sample - rounded(sample, kind))).norm()) ** 2 for kind in FORMATS])
    bits = np.array([stored_bits(kind, weight_OI.numel()) for kind in FORMATS], dtype=np.float64)
    found = candidates(weight_OI, 4, weighting)
    assert found.formats == tuple(FORMATS[place] for place in hull(plain, bits))
    assert found.bits_C.tolist() == [stored_bits(kind, weight_OI.numel()) for kind in found.formats]
    for kind, error in zip(found.formats, found.errors_C, strict=True):
        rest_OI = weight_OI - rounded(weight_OI, kind)
        scaled_OI = rest_OI if weighting is None else weighting.row_O[:, None] * rest_OI * weighting.column_I
        u_OK, s_K, v_KI = torch.linalg.svd(scaled_OI, full_matrices=False)
        low_OI = (u_OK[:, :4] * s_K[:4]) @ v_KI[:4]
        if weighting is not None:
            low_OI = low_OI / weighting.row_O[:, None] / weighting.column_I
        assert error == pytest.approx(float((root_OI * (rest_OI - low_OI)).norm()) ** 2, rel=1e-4)


def test_a_layer_with_outliers_gets_more_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(64, 64, generator=generator) for _ in range(4)]
    outliers = torch.randperm(4096, generator=generator)[:40]
    weights[2].view(-1)[outliers] *= 20
    budget = 3.0 * 4 * 4096
    chosen = share_out([candidates(weight, 4) for weight in weights], budget)
    taken = [stored_bits(kind, 4096) for kind in chosen]
    assert sum(taken) <= budget < sum(taken) + 0.1 * 4096
    assert taken[2] > max(taken[:2] + taken[3:])


def test_a_layer_whose_weights_count_more_gets_more_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(64, 64, generator=generator) for _ in range(3)]
    counts = [weighting_of(torch.full((64, 64), count)) for count in (1.0, 100.0, 1.0)]
    chosen = share_out([candidates(w, 4, c) for w, c in zip(weights, counts, strict=True)], 3.0 * 3 * 4096)
    assert chosen[1].bits > max(chosen[0].bits, chosen[2].bits)

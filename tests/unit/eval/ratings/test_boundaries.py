"""Limits of the ratings on both sides, defaults and sentences that users see, and small parts by hand."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, t

from eval.ratings import bradley_terry, comparisons, elo, kappa, people, style
from eval.ratings.agreement import AgreeOptions, _either_way, _example_level, _with_share, agree_files
from eval.ratings.agreement import Statistic as Found
from eval.ratings.bias import length_bias, own_wins, position_bias, share
from eval.ratings.bradley_terry import Fit, connected_groups, count_cells, fit, fit_resamples, prompt_weights
from eval.ratings.canonical import _mixed, canonical_order, joined, parted
from eval.ratings.comparisons import (
    Comparison,
    Rank,
    agreeing,
    benjamini_hochberg,
    compare_all,
    exact_p_values,
    flip_p,
    probability,
    prompts_to_decide,
    ranks,
    two_sided_p,
    verdict,
)
from eval.ratings.elo import (
    _parts,
    _without_noise,
    elo_drawn,
    elo_given,
    elo_over_prompts,
    elo_resamples,
    ordering_interval,
)
from eval.ratings.intervals import clopper_pearson_interval, clustered_interval, ratio_interval, resampled_error
from eval.ratings.people import CorrectedStrengths, _Counts, _power
from eval.ratings.rate import RateOptions, RatingsResult, rate_files
from eval.ratings.relative import load_scores, relative_scores
from eval.ratings.style import _estimate, controlled_ratings, style_features
from eval.ratings.unanimous import (
    Doubt,
    ResampledPrompts,
    _with_doubt,
    doubted_cells,
    doubted_matches,
    doubtful_pairs,
    least_errors,
)
from eval.verdicts.columns import VerdictError
from eval.verdicts.table import Matches, Verdicts, load_verdicts

HEADER = "question_id,system_a,system_b,verdict"


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def verdicts_of(folder: Path, rows: list[str], header: str = HEADER) -> Verdicts:
    return load_verdicts([write(folder / "verdicts.csv", rows, header)])


def matches(*rows: tuple[int, int, int, int]) -> Matches:
    question, first, second, points = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    return Matches(question=question, first=first, second=second, half_points=points.astype(np.int8))


def test_defaults_are_those_of_the_docs() -> None:
    assert asdict(RateOptions()) == {
        "k": 32.0, "start": 1000.0, "orderings": 10_000, "sample_size": None, "seed": 0, "resamples": 1000,
        "aggregate": "majority", "people": (), "answers": (), "benchmark": None, "turn": None,
    }  # fmt: skip
    assert asdict(AgreeOptions()) == {
        "seed": 0, "resamples": 1000, "without": (), "own_a": None, "own_b": None, "answers": (), "benchmark": None,
        "turn": None,
    }  # fmt: skip
    assert (RateOptions(orderings=0, resamples=2, sample_size=1).resamples, AgreeOptions(resamples=2).resamples) == (
        2,
        2,
    )
    with pytest.raises(ValueError, match="resamples=1: an interval needs at least 2"):
        AgreeOptions(resamples=1)


# Elo


@pytest.mark.parametrize(
    ("asked", "plays", "expected"),
    [(1000, 100, 1000), (1000, 10_000, 419), (1000, 10**6, 100), (50, 10**6, 50), (10**9, 0, 2**27 // 32)],
)
def test_fewer_resamples_of_many_matches_but_a_hundred(asked: int, plays: int, expected: int) -> None:
    assert elo_resamples(asked, plays) == expected


def test_the_limits_of_elo() -> None:
    played, order = matches((0, 0, 1, 2)), np.array([[0]], dtype=np.int32)
    assert elo_given(played, 2, order, k=400.0)[0].tolist() == pytest.approx([1200.0, 800.0])
    with pytest.raises(ValueError, match=r"k=400\.5: the points at stake in a match are above 0 and at most 400"):
        elo_given(played, 2, order, k=400.5)
    with pytest.raises(ValueError, match="32769 systems: Elo takes at most 32768"):
        elo_given(played, 32769, order)
    with pytest.raises(ValueError, match=r"outside 0 \.\. 0"):
        elo_given(played, 2, np.array([[-1]], dtype=np.int32))
    with pytest.raises(ValueError, match="sample_size=0: there are 1 matches; take 1 to 1, or all"):
        elo_drawn(played, 2, 1, np.random.default_rng(0), sample_size=0)
    assert elo_given(played, 2, np.zeros((0, 1), dtype=np.int32)).shape == (0, 2)
    drawn = elo_drawn(played, 2, 2, np.random.default_rng(0))
    assert drawn == pytest.approx(np.tile([1016.0, 984.0], (2, 1)))
    over = elo_over_prompts(played, 2, iter([np.array([0])] * 2), np.random.default_rng(0))
    assert over == pytest.approx(np.tile([1016.0, 984.0], (2, 1)))
    larger = elo_over_prompts(played, 2, iter([np.array([0])] * 2), np.random.default_rng(0), k=8.0, start=0.0)
    assert larger == pytest.approx(np.tile([4.0, -4.0], (2, 1)))


@pytest.mark.parametrize(("num", "workers"), [(1, 1), (32, 1), (33, 1), (1000, 3), (5000, 2)])
def test_every_ordering_is_in_one_share_of_whole_lanes(num: int, workers: int) -> None:
    shares = list(_parts(num, workers))
    assert [n for one in shares for n in range(num)[one]] == list(range(num))
    assert all(one.start % 32 == 0 for one in shares)


def test_the_noise_of_orderings_is_taken_out_by_hand() -> None:
    """Variances 4 and 1 over resamples, of which 3 and 4 are noise: half of the spread is kept, and nothing."""
    means = np.array([[2.0, 1.0, np.nan], [4.0, 2.0, np.nan], [6.0, 3.0, np.nan]])
    noise = np.tile([3.0, 4.0, 0.0], (3, 1))
    found = _without_noise(means, noise)
    np.testing.assert_allclose(found[:, :2], [[3.0, 2.0], [4.0, 2.0], [5.0, 2.0]])
    assert np.isnan(found[:, 2]).all()


def test_orderings_that_agree_have_no_interval() -> None:
    assert ordering_interval(np.array([1000.0])) == (1000.0, 0.0, None, None)
    assert ordering_interval(np.array([990.0, 990.0])) == (990.0, 0.0, None, None)


def test_a_share_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(elo, "_play_drawn", fail)
    played = matches((0, 0, 1, 2))
    with pytest.raises(MemoryError, match="no room"):
        elo_drawn(played, 2, 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="k=0: the points at stake"):
        elo_over_prompts(played, 2, iter([]), np.random.default_rng(0), k=0)


# Intervals


def test_shares_and_ratios_at_their_edges() -> None:
    assert np.isnan(resampled_error(np.array([1.0, np.nan]), 5))
    assert resampled_error(np.array([1.0, 3.0, np.nan]), 2) == pytest.approx(2.0)
    assert clopper_pearson_interval(0.5, 0.5) == (pytest.approx(0.025**2), 1.0)
    assert clopper_pearson_interval(1, 2) == pytest.approx((1 - np.sqrt(0.975), np.sqrt(0.975)))
    assert ratio_interval(np.array([1.0, 2.0]), np.array([0.0, 0.0])) is None
    assert ratio_interval(np.array([1.0]), np.array([2.0])) is None
    low, high = ratio_interval(np.array([1.0, 2.0]), np.array([1.0, 1.0])) or (0, 0)
    assert (low, high) == pytest.approx((1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5), rel=1e-4)
    assert clustered_interval(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == (pytest.approx(0.025**0.5), 1.0)
    mixed = clustered_interval(np.array([3.0, 0.0]), np.array([4.0, 2.0]))  # effective 2 at most, t of 1 makes it less
    variance = ((3 - 2.0) ** 2 + 1.0) / 36 * 2
    effective = 0.25 / variance * (1.959964 / 12.7062) ** 2
    assert mixed == pytest.approx(clopper_pearson_interval(effective / 2, effective), rel=1e-4)


def test_shares_over_no_rows_one_question_and_several() -> None:
    none = share(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int32))
    assert (none.wins, none.num, none.rate, none.low, none.high) == (0, 0, None, None, None)
    one = share(np.array([True, False, True]), np.array([4, 4, 4], dtype=np.int32))
    assert (one.wins, one.num, one.rate, one.low, one.high) == (2.0, 3.0, pytest.approx(2 / 3), None, None)


def test_bias_by_hand(tmp_path: Path) -> None:
    """x wins both orders of question 1 and ties 2; y wins question 3 from either side; z is longer, and loses."""
    rows = ["1,x,y,1", "1,y,x,2", "2,x,y,3", "3,x,y,2", "3,y,x,1", "1,x,z,1", "2,x,z,-1", "3,z,y,2"]
    found = verdicts_of(tmp_path, rows)
    x, y = own_wins(found, "x"), own_wins(found, "y")
    assert ((x.wins, x.num), (y.wins, y.num)) == ((3.0, 5.0), (3.0, 5.0))
    lengths = {("x", "1"): 5.0, ("y", "1"): 5.0, ("z", "1"): 9.0, ("z", "3"): 9.0, ("y", "3"): 2.0, ("w", "1"): 1.0}
    longer = length_bias(found, {**lengths, ("x", "9"): 1.0})
    assert (longer.wins, longer.num) == (0.0, 2.0)
    shorter = length_bias(found, {**lengths, ("z", "3"): 1.0})
    assert (shorter.wins, shorter.num) == (1.0, 2.0)
    bias = position_bias(found)
    assert (bias.first_wins, bias.second_wins, bias.ties, bias.swapped_pairs, bias.swapped_reversals) == (3, 3, 1, 2, 0)
    with pytest.raises(ValueError, match="own system 'w' is not judged here; there are x, y, z"):
        own_wins(found, "w")


def test_both_orders_are_compared_within_judge_rater_and_turn(tmp_path: Path) -> None:
    header = f"{HEADER},judge,rater,turn"
    rows = ["1,x,y,1,j,r,1", "1,y,x,1,j,r,2", "1,y,x,1,k,r,1", "1,y,x,1,j,s,1", "1,y,x,1,j,r,1"]
    bias = position_bias(verdicts_of(tmp_path, rows, header))
    assert (bias.swapped_pairs, bias.swapped_reversals) == (1, 1)
    ties = position_bias(verdicts_of(tmp_path, ["1,x,y,3", "1,y,x,3", "2,x,y,3", "2,y,x,1"]))
    assert (ties.swapped_pairs, ties.swapped_reversals, ties.first_win_rate) == (2, 0, 1.0)


# Order


def test_mixing_is_splitmix64s() -> None:
    """The first outputs of the generator seeded with 0, as published (Steele, Lea & Flood 2014)."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 2 * golden % 2**64], dtype=np.uint64)
    assert [int(value) for value in _mixed(states)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_rows_sides_and_names_come_into_one_order() -> None:
    """c beats b beats a, on three prompts of which the last two are alike; turned round, mirrored and renamed."""
    one = matches((0, 0, 1, 0), (0, 1, 2, 0), (1, 0, 2, 0), (2, 0, 2, 0))
    other = matches(
        (7, 1, 0, 2), (4, 0, 1, 0), (2, 2, 1, 2), (2, 0, 2, 2)
    )  # b of the first is 2 of this, a is 1, c is 0
    other = replace(other, first=np.array([0, 1, 2, 0], dtype=np.int32), second=np.array([1, 0, 1, 2], dtype=np.int32))
    systems, questions, found = canonical_order(one, 3)
    again = canonical_order(other, 3)
    assert [("abc")[s] for s in systems] == [{0: "c", 1: "a", 2: "b"}[s] for s in again[0]]
    assert sorted(questions) == [0, 1, 2]
    assert sorted(again[1]) == [2, 4, 7]
    wins = [[(q, *((a, b) if p else (b, a))) for q, a, b, p in rows(part)] for part in (found, again[2])]
    assert wins[0] == wins[1]
    assert canonical_order(matches(), 2)[:2] == ([0, 1], [])


def rows(played: Matches) -> list[tuple[int, int, int, int]]:
    return [tuple(row) for row in np.stack([played.question, played.first, played.second, played.half_points], 1)]  # type: ignore[misc]


def test_two_judges_are_joined_and_parted() -> None:
    one, other = matches((0, 0, 1, 2), (1, 1, 0, 1)), matches((1, 0, 1, 0))
    other = replace(other, turn=np.array([2], dtype=np.int16))
    both = joined(one, other)
    assert both.half_points.tolist() == [2, 1, 3]
    assert both.turn is not None
    assert both.turn.tolist() == [1, 1, 2]
    for found, expected in zip(parted(both), (one, other), strict=True):
        assert rows(found) == rows(expected)


# Bradley-Terry


def test_counts_of_no_match_and_of_sparse_numbers() -> None:
    empty = count_cells(matches(), 3)
    assert (empty.num_questions, empty.pair.shape, empty.totals().shape) == (0, (0, 2), (0, 3))
    assert connected_groups(empty) == []
    assert fit_resamples(empty, empty.resampled([]), Fit(points=np.full(3, np.nan), nu=0.0)).shape == (0, 3)
    cells = count_cells(matches((9, 2, 1, 2), (9, 1, 2, 2), (4, 0, 2, 1), (9, 2, 1, 2)), 3)
    assert (cells.codes.tolist(), cells.pair.tolist()) == ([4, 9], [[0, 2], [1, 2]])
    assert cells.totals().tolist() == [[0.0, 0.0, 1.0], [1.0, 2.0, 0.0]]
    assert cells.prompts_of_systems().tolist() == [1, 1, 2]


def test_resamples_are_the_same_however_many_weights_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = count_cells(matches(*((q, q % 2, 2, q % 3) for q in range(6))), 3)
    weights = list(prompt_weights(6, 5, np.random.default_rng(0)))
    expected = cells.resampled(weights)
    for held in (1, 13):
        monkeypatch.setattr(bradley_terry, "MAX_WEIGHTS", held)
        np.testing.assert_array_equal(cells.resampled(iter(weights)), expected)
    assert cells.resampled([]).shape == (0, 2, 3)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_what_newton_does_not_finish_scipy_does(num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cells = count_cells(matches(*((q, *rng.permutation(4)[:2], rng.integers(3)) for q in range(60))), 4)
    counts, whole = cells.resampled(prompt_weights(60, 4, rng)), fit(cells, cells.totals())
    expected = fit_resamples(cells, counts, whole)
    monkeypatch.setattr(bradley_terry, "MAX_NEWTON_STEPS", num_steps)
    np.testing.assert_allclose(fit_resamples(cells, counts, whole), expected, atol=1e-4)


def test_a_fit_without_a_maximum_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = count_cells(matches((0, 0, 1, 2), (1, 0, 1, 0)), 2)
    short = SimpleNamespace(jac=np.array([0.0, 2e-7, 0.0]), x=np.zeros(3), message="too few steps")
    monkeypatch.setattr(bradley_terry, "minimize", lambda *_, **__: short)
    with pytest.raises(ArithmeticError, match="trust-exact stopped short of a maximum: too few steps"):
        fit(cells, cells.totals())
    short.jac = np.array([0.0, -0.9e-7, 0.0])
    assert fit(cells, cells.totals()).points.tolist() == [1000.0, 1000.0]


def test_the_prior_by_hand() -> None:
    """A system that always wins: its strength x is where n / (1 + exp(2 x)) is the prior's precision times x."""
    cells = count_cells(matches(*((q, 0, 1, 2) for q in range(3))), 2)
    half = (fit(cells, cells.totals()).points[0] - 1000.0) / bradley_terry.POINTS_PER_NAT
    assert 3 / (1 + np.exp(2 * half)) == pytest.approx((bradley_terry.POINTS_PER_NAT / 800.0) ** 2 * half, rel=1e-6)


# Comparisons


def test_step_up_correction_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert benjamini_hochberg([0.9, 0.02]) == pytest.approx([0.9, 0.04])
    assert benjamini_hochberg([]) == []


def test_students_p_at_its_edges() -> None:
    assert two_sided_p(-3.0, 1.5, 4) == pytest.approx(2 * t.sf(2.0, 4))
    assert (two_sided_p(3.0, 0.0, 4), two_sided_p(0.0, 1.0, 4)) == (1.0, 1.0)


def test_large_sign_flip_tests_are_normal() -> None:
    assert flip_p(np.array([3999, 1])) == pytest.approx(0.5)  # exact up to a sum of 4,000
    assert flip_p(np.array([4000, 1])) == pytest.approx(2 * norm.sf(4001 / np.sqrt(4000**2 + 1)))
    assert flip_p(np.array([8000, 2, 0])) == flip_p(np.array([4000, 1]))  # in units of what all have in common


def test_tables_of_exact_tests_have_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    played = matches((0, 0, 1, 2), (1, 0, 1, 2))
    for most, is_none in ((8, False), (7, True)):
        monkeypatch.setattr(comparisons, "MAX_SCORES", most)
        assert (exact_p_values(played, 2, 2) is None) is is_none


def test_exact_tests_count_third_systems_on_the_same_prompts() -> None:
    """x beats w and y loses to w on 3 prompts, without meeting; where y beats x, too, a prompt says nothing."""
    thirds = [row for q in range(3) for row in ((q, 0, 2, 2), (q, 1, 2, 0))]
    apart = exact_p_values(matches(*thirds), 3, 3)
    even = exact_p_values(matches(*thirds, *((q, 0, 1, 0) for q in range(3))), 3, 3)
    assert apart is not None
    assert even is not None
    assert (apart[0, 1], apart[0, 2], apart[1, 2]) == (0.25, 0.25, 0.25)
    assert (even[0, 1], even[0, 2]) == (1.0, 1.0)
    half = [(q, 0, 1, 2) for q in range(2)] + [(q, 0, 2, 2) for q in (2, 3)] + [(q, 1, 3, 2) for q in (4, 5)]
    found = exact_p_values(matches(*half), 4, 6)
    assert found is not None
    assert np.isnan(found[0, 1])  # alike on half of the prompts, which is not more than half
    assert found[0, 2] == 0.5


def pair_of(higher: str, lower: str, **facts: Any) -> Comparison:
    given = {
        "difference": 20.0, "low": None, "high": None, "low_unadjusted": None, "high_unadjusted": None, "p_value": 0.2,
        "p_holm": 0.4, "significant": False, "num_prompts": 30, "num_prompts_needed": 50, **facts,
    }  # fmt: skip
    return Comparison(higher=higher, lower=lower, **given)


def sentence(*pairs: Comparison, best: float | None = 0.9) -> str:
    ranking = ["a", *(pair.lower for pair in pairs)]
    return verdict(ranking, {"a": Rank(rank=1, low=1, high=2, best=best)}, pairs)


def test_sentences_about_the_best() -> None:
    told = {"significant": True, "p_holm": 0.012}
    assert sentence(pair_of("a", "b", **told), pair_of("a", "c", significant=True, p_holm=0.0)) == (
        "a is best with probability 0.90; it is told from every other system (largest p, corrected by Holm: 0.012)"
    )
    assert sentence(pair_of("a", "b", significant=True, p_holm=0.0)).endswith("(largest p, corrected by Holm: 0)")
    rivals = [pair_of("a", name, p_holm=0.9 - 0.1 * n) for n, name in enumerate("bcde")]
    assert "it can't be told from b, c and d (p = 0.9, corrected by Holm)" in sentence(*rivals[:3])
    assert "it can't be told from b, c, d and 1 more (p = 0.9," in sentence(*rivals)
    assert "it can't be told from b, c and d (p = 0.9, corrected by Holm)" in sentence(*rivals[2::-1])  # hardest first
    assert "it can't be told from c (p" in sentence(pair_of("a", "b", **told), pair_of("a", "c"))
    plain = {"p_value": 0.4}  # Holm changes nothing
    for needed, words in (
        (50, "about 20 more prompts would"),
        (31, "about 1 more prompt would"),
        (9, "about 1 more prompt would"),
    ):
        assert words in sentence(pair_of("a", "b", num_prompts_needed=needed, **plain))
    single = sentence(
        pair_of("a", "b", difference=5e-7), pair_of("a", "c"), pair_of("b", "c", difference=0.0), best=None
    )
    assert single == "a and b are even, on a single prompt: that can't say how sure it is"
    assert sentence(pair_of("a", "b", difference=1.5e-6), best=None).startswith("a is ahead, on a single prompt")


def test_probabilities_are_never_certain() -> None:
    values = (0.9951, 0.995, 0.9949, 0.005, 0.0049)
    assert [probability(v) for v in values] == ["above 0.99", "above 0.99", "0.99", "0.01", "below 0.01"]


def test_prompts_to_decide_at_holms_level() -> None:
    assert prompts_to_decide(pair_of("a", "b", p_value=0.4)) == 50
    assert prompts_to_decide(pair_of("a", "b", num_prompts_needed=None)) is None
    assert prompts_to_decide(pair_of("a", "b", p_value=None, p_holm=None)) == 50
    assert prompts_to_decide(pair_of("a", "b", p_value=0.0, p_holm=0.0)) == 50
    assert prompts_to_decide(pair_of("a", "b")) == np.ceil(50 * ((2.241403 + 0.841621) / 2.801585) ** 2)


def test_comparisons_at_their_edges() -> None:
    names, ranking, num = "ab", [[0, 1]], np.array([2, 9])
    (two,) = compare_all(names, ranking, np.array([30.0, 0.0]), np.full((2, 2), 1.0), np.full((2, 2), np.nan), num)
    assert (two.p_value, two.num_prompts) == (0.5, 2)  # two prompts at least: 2 ** (1 - 2)
    (one,) = compare_all(names, ranking, np.array([30.0, 0.0]), np.full((2, 2), 1.0), None, np.array([1, 9]))
    assert (one.p_value, one.low, one.significant, one.num_prompts_needed) == (None, None, None, None)
    (lost,) = compare_all(names, ranking, np.array([30.0, 0.0]), np.full((2, 2), np.nan), None, num)
    assert lost.p_value is None
    (clear,) = compare_all(
        names, ranking, np.array([300.0, 0.0]), np.ones((2, 2)), np.full((2, 2), 1e-99), np.array([40, 40])
    )
    assert clear.num_prompts_needed == 2
    implied = 300.0 / t.isf(clear.p_value / 2, 39)  # type: ignore[operator]
    assert clear.low == pytest.approx(300.0 - implied * t.ppf(0.975, 39))
    (even,) = compare_all(names, ranking, np.array([0.0, 0.0]), np.full((2, 2), 8.0), None, np.array([40, 40]))
    assert (even.p_value, even.num_prompts_needed) == (1.0, None)
    assert (even.low, even.high) == pytest.approx((-8 * t.ppf(0.975, 39), 8 * t.ppf(0.975, 39)))
    (exactly,) = compare_all(
        names, ranking, np.array([300.0, 0.0]), np.ones((2, 2)), np.full((2, 2), 0.05), np.array([40, 40])
    )
    assert (exactly.p_holm, exactly.significant) == (0.05, False)
    (sure,) = compare_all(
        names, ranking, np.array([300.0, 0.0]), np.full((2, 2), 1e-30), np.zeros((2, 2)), np.array([40, 40])
    )
    assert (sure.p_value, sure.p_holm, sure.low, sure.high, sure.significant) == (0.0, 0.0, 300.0, 300.0, True)
    (none,) = compare_all(names, ranking, np.array([0.0, 0.0]), np.full((2, 2), 0.0), None, np.array([40, 40]))
    assert (none.low, none.high, none.low_unadjusted) == (None, None, None)


def test_systems_that_lead_together_share_the_chance() -> None:
    draws = np.tile([5.0, 5.0, -10.0], (9, 1))
    found = ranks("abc", [[0, 1, 2]], np.array([5.0, 5.0, -10.0]), draws, 100)
    assert [found[name].best for name in "abc"] == pytest.approx([(4.5 + 1 / 3) / 10] * 2 + [1 / 30])
    assert [(found[name].low, found[name].high) for name in "abc"] == [(1, 1), (1, 2), (3, 3)]
    bare = ranks("abc", [[2, 0], [1]], np.zeros(3), None, 1)
    assert {name: (r.rank, r.low, r.best) for name, r in bare.items()} == {
        "c": (1, None, None), "a": (2, None, None), "b": (1, None, None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "places"),
    [
        ({"p_value": 0.05}, [(1, 2), (1, 2)]),  # at the level it is open
        ({"p_value": 0.0499}, [(1, 1), (2, 2)]),
        ({"p_value": None}, [(1, 2), (1, 2)]),
    ],
)
def test_open_pairs_may_change_places(facts: dict[str, Any], places: list[tuple[int, int]]) -> None:
    apart = {"a": Rank(rank=1, low=1, high=1, best=0.5), "b": Rank(rank=2, low=2, high=2, best=0.5)}
    found = agreeing(apart, [pair_of("a", "b", **facts)])
    assert [(found[name].low, found[name].high) for name in "ab"] == places
    meeting = {"a": Rank(rank=1, low=1, high=2, best=0.5), "b": Rank(rank=2, low=2, high=2, best=0.5)}
    assert agreeing(meeting, [pair_of("a", "b", p_value=0.9)])["b"].low == 2  # they meet already
    assert (
        agreeing(meeting, [pair_of("a", "b", p_value=1.0, difference=0.0)])["b"].low == 1
    )  # even: either may be first
    unknown = {name: replace(rank, low=None, high=None, best=None) for name, rank in apart.items()}
    assert agreeing(unknown, [pair_of("a", "b", p_value=None)]) == unknown


# People


def test_counts_corrected_by_a_judge() -> None:
    """Four votes, 2 won and 1 tied; the judge gives 0.9 of 3 matches, 0.5 of it where people voted once."""
    counts = _Counts(people=np.array([[[2.0, 1.0, 1.0]]]), votes=np.array([[4.0]]), judge=np.array([[[0.5, 0.9, 3.0]]]))
    assert counts.corrected(0.0).tolist() == [[[2.5, 1.5, 0.0]]]
    assert counts.corrected(0.5)[0, 0].tolist() == pytest.approx([2.5 + 0.5 * (1.2 - 0.5), 1.5 - 0.35, 0.0])


def test_the_judges_weight_is_where_draws_vary_least() -> None:
    alone = np.array([[2.0], [-2.0], [0.0]])
    assert _power(alone, np.array([[1.0], [-1.0], [0.0]])) == 1.0  # more than 1 would be better
    assert _power(alone, np.array([[-2.0], [2.0], [0.0]])) == pytest.approx(0.5)
    assert _power(alone, np.array([[5.0], [-5.0], [0.0]])) == 0.0
    assert _power(alone, alone + 3.0) == 0.0


@pytest.mark.parametrize(("fits_at", "tried", "weight"), [(0.8, 1, 0.8), (0.1, 4, 0.1), (0.0, 4, 0.0)])
def test_the_judges_weight_is_halved_while_it_widens(
    fits_at: float, tried: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts stand for their weight, and draws vary more than people's alone above the weight that fits."""
    fitted: list[float] = []

    def fits(cells: Any, counts: float, start: Any) -> float:
        fitted.append(counts)
        return counts

    monkeypatch.setattr(people, "fit_resamples", fits)
    monkeypatch.setattr(people, "linear_resamples", lambda *_: 0.0)
    monkeypatch.setattr(people, "_power", lambda *_: 0.8)
    monkeypatch.setattr(people, "_spread", lambda draws: float(draws > fits_at))
    counts: Any = SimpleNamespace(corrected=lambda w: w if isinstance(w, float) else 0.0)
    whole: Any = SimpleNamespace(corrected=lambda w: [w])
    cells: Any = None
    found = people._tuned(cells, whole, counts, cells)
    assert found == (weight, weight, 0.0)
    assert fitted == [0.0, *(0.8 / 2**n for n in range(tried))]


def test_an_interval_by_people_needs_two_prompts() -> None:
    draws = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, np.nan]])
    found = CorrectedStrengths(
        weight=1.0, points=np.array([10.0, 20.0]), resamples=draws, people_points=np.array([11.0, 21.0]),
        people_resamples=2 * draws, prompts=np.array([3, 1]), least_error=np.array([0.1, 0.1]), num_prompts=4,
        num_votes=5, num_unmatched=0, groups=[[0, 1]], exact=None,
    )  # fmt: skip
    half = t.ppf(0.975, 2) * 2.0 * np.sqrt(4 / 3)
    assert found.interval(0) == pytest.approx((10 - half, 10 + half))
    assert found.interval(0, people_only=True) == pytest.approx((11 - 2 * half, 11 + 2 * half))
    assert found.interval(1) is None
    assert replace(found, resamples=None).interval(0) is None
    assert replace(found, resamples=np.full((3, 2), np.nan)).interval(0) is None
    least = replace(found, prompts=np.array([3, 2]), least_error=np.array([9.0, 9.0]))
    assert least.interval(1) == pytest.approx((20 - 9 * t.ppf(0.975, 1), 20 + 9 * t.ppf(0.975, 1)))


def test_no_further_prompt_is_added_for_two_even_systems_alone() -> None:
    """Of two that tie, either may win the further prompt; its weight is exponential, in shares of a gamma's."""
    assert Doubt(pairs=np.array([[0, 1]]), leaders=np.array([2])).outcomes().tolist() == [[0], [1]]
    rng, again = np.random.default_rng(4), np.random.default_rng(4)
    found = _with_doubt(np.array([2.0, 1.0, 0.0]), 2, rng)
    exponential, gamma, at = again.exponential(), again.gamma(3.0), again.integers(2)
    assert found[:3].tolist() == [2.0, 1.0, 0.0]
    assert (found[3 + at], found[4 - at]) == (pytest.approx(exponential * 3.0 / gamma), 0.0)


def test_further_prompts_beside_the_matches() -> None:
    """x beats y on both prompts, z is even with w: one further prompt each has y win, and z or w."""
    played = matches(*((q, *pair) for q in range(2) for pair in ((0, 1, 2), (2, 3, 1))))
    cells = count_cells(played, 4)
    doubt = doubtful_pairs(cells)
    assert (doubt.pairs.tolist(), doubt.leaders.tolist()) == ([[0, 1], [2, 3]], [0, 2])
    assert doubt.outcomes().tolist() == [[1, 0], [1, 1]]
    further = doubted_cells(cells, doubt)
    assert (further.num_questions, further.question.tolist()[4:], further.column.tolist()[4:]) == (
        4, [2, 2, 3, 3], [1, 3, 1, 4],
    )  # fmt: skip
    assert further.count.tolist() == [1.0] * 8
    added = rows(doubted_matches(played, 2, doubt))[4:]
    assert added == [(2, 0, 1, 0), (2, 2, 3, 2), (3, 0, 1, 0), (3, 2, 3, 0)]
    drawn = list(ResampledPrompts(2, 5, 7, doubt))
    assert [(len(weight), weight[:2].sum(), (weight[2:] > 0).sum()) for weight in drawn] == [(4, 2.0, 1)] * 5
    again = list(ResampledPrompts(2, 5, 7, doubt))
    assert all((one == two).all() for one, two in zip(drawn, again, strict=True))
    assert list(ResampledPrompts(1, 5, 7, doubt)) == []


def test_a_circle_is_as_unsure_as_one_match() -> None:
    """a beats b beats c beats a on 3 prompts: each has 6 decided matches; on one prompt nothing is said."""
    circle = [(q, *pair) for q in range(3) for pair in ((0, 1, 2), (1, 2, 2), (2, 0, 2))]
    even = np.full(3, 1000.0)
    assert least_errors(matches(*circle), even) == pytest.approx([4 * bradley_terry.POINTS_PER_NAT / 6] * 3)
    assert least_errors(matches(*circle[:3]), even).tolist() == [0.0, 0.0, 0.0]
    assert least_errors(matches(*((q, 0, 1, 1) for q in range(3))), even[:2]).tolist() == [0.0, 0.0]


# Style


def test_features_of_an_answer() -> None:
    text = "# One\n####### no\n- a\n * b\n3) c\n4.d\n**bold** and **more**\n** **"
    assert style_features(text) == [float(len(text)), 1.0, 3.0, 3.0]
    assert style_features("") == [0.0, 0.0, 0.0, 0.0]


def test_style_is_controlled_where_answers_are_known() -> None:
    played = matches((0, 0, 1, 2), (1, 0, 1, 0), (1, 0, 1, 2))
    answers = {("x", "q1"): "aa", ("y", "q1"): "b", ("z", "q1"): "c", ("x", "q9"): "d"}
    found = controlled_ratings(played, ["x", "y"], ["q0", "q1"], answers, 5, np.random.default_rng(0))
    assert found is not None
    assert found.num_matches == 2
    assert (list(found.effects), sorted(found.ratings)) == (["shown_first"], ["x", "y"])
    assert controlled_ratings(played, ["x", "y"], ["q0", "q1"], {}, 5, np.random.default_rng(0)) is None


def test_style_is_resampled_200_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    monkeypatch.setattr(style, "_newton", lambda design, score, weight, start: starts.append(start) or start)
    played = matches((0, 0, 1, 2), (1, 0, 1, 0))
    answers = {(system, question): "a" for system in "xy" for question in "pq"}
    for asked, drawn in ((201, 200), (7, 7)):
        starts.clear()
        controlled_ratings(played, ["x", "y"], ["p", "q"], answers, asked, np.random.default_rng(0))
        assert len(starts) == drawn


def test_estimates_without_spread_have_no_interval() -> None:
    one = _estimate(np.array([3.0, 1.0, 5.0]), 1, 9.0)
    assert (one.value, one.low, one.n) == (3.0, None, 1)
    assert _estimate(np.array([3.0, 4.0, 4.0]), 2, 0.0).low is None


# Files


SCORES = "question_id,system,order,score_candidate,score_reference"


@pytest.mark.parametrize("score", ["0", "10", "-1", "7.5", "-1.0"])
def test_scores_in_their_range_are_read(score: str, tmp_path: Path) -> None:
    found = load_scores([write(tmp_path / "s.csv", [f"1,x,candidate_first,{score},5"], SCORES)])
    assert found.candidate.tolist() == [float(score)]
    assert found.parsed.tolist() == [float(score) != -1.0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,x,candidate_first,10.1,5", r"score_candidate '10.1'; expected a number from 0 to 10, or -1 for unparsed"),
        ("1,x,candidate_first,5,-0.5", "score_reference '-0.5'; expected"),
        ("1,x,candidate_first,5,nan", "score_reference 'nan'; expected"),
        ("1,x,candidate_first,good,5", "score_candidate 'good'; expected"),
        ("1,x,both,5,5", "order 'both'; expected candidate_first or candidate_second"),
        (",x,candidate_first,5,5", "question_id is empty"),
        ("1,,candidate_first,5,5", "system is empty"),
    ],
)
def test_scores_that_are_none_are_named(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match=rf"s\.csv(?s:.*){words}"):
        load_scores([write(tmp_path / "s.csv", ["2,x,candidate_first,1,1", row], SCORES)])


def test_score_files_lack_columns_and_repeat_rows(tmp_path: Path) -> None:
    with pytest.raises(
        VerdictError, match="no column order, score_chatgpt; it has question_id, system, score_candidate"
    ):
        load_scores([write(tmp_path / "s.csv", ["1,x,5"], "question_id,system,score_candidate")])
    one = write(
        tmp_path / "one.csv", ["1,x,candidate_first,5,5", "1,x,candidate_second,5,5", "1,y,candidate_first,5,5"], SCORES
    )
    assert len(load_scores([one]).candidate) == 3
    two = write(tmp_path / "two.csv", ["2,x,candidate_first,5,5", "1,y,candidate_first,6,5"], SCORES)
    with pytest.raises(VerdictError, match=r"two\.csv.*3 repeats .*one\.csv.*4: same system, order and question"):
        load_scores([one, two])
    turns = write(tmp_path / "t.csv", [f"1,x,candidate_first,{n},5,{n}" for n in (1, 2)], f"{SCORES},turn")
    assert load_scores([turns]).turn.tolist() == [1, 2]
    assert load_scores([turns], turn=2).candidate.tolist() == [2.0]


def test_relative_scores_at_their_edges(tmp_path: Path) -> None:
    rows = [
        "1,x,candidate_first,6,8",
        "1,x,candidate_second,2,8",
        "2,y,candidate_second,9,3",
        "3,z,candidate_first,1,0",
        "4,w,candidate_first,1,-1",
        "5,v,candidate_first,2,1",
    ]
    found = relative_scores(load_scores([write(tmp_path / "s.csv", rows, SCORES)]))
    assert list(found) == ["y", "v", "x"]
    assert found["v"].mean == 200.0
    assert (found["x"].first, found["x"].second, found["x"].mean) == pytest.approx((75.0, 25.0, 50.0))
    assert (found["x"].num_prompts, found["x"].ci95, found["x"].low) == (1, None, None)
    rows = ["1,x,candidate_first,4,8", "2,x,candidate_first,4,8"]
    same = relative_scores(load_scores([write(tmp_path / "t.csv", rows, SCORES)]))["x"]
    assert (same.second, same.mean, same.ci95, same.num_prompts) == (None, 50.0, None, 2)


def rated(folder: Path, rows: list[str], header: str = HEADER, **options: Any) -> RatingsResult:
    return rate_files(
        [write(folder / "v.csv", rows, header)], RateOptions(**{"orderings": 0, "resamples": 5, **options})
    )


@pytest.mark.parametrize(
    ("num", "note"),
    [
        (1, "only 1 prompt: no interval over prompts"),
        (9, "only 9 prompts: the intervals over prompts rest on hardly anything"),
        (10, None),
    ],
)
def test_few_prompts_are_said(num: int, note: str | None, tmp_path: Path) -> None:
    found = [n for n in rated(tmp_path, [f"{q},x,y,{1 + q % 2}" for q in range(num)]).notes if n.startswith("only")]
    assert found == ([] if note is None else [note])


def test_notes_of_rate(tmp_path: Path) -> None:
    """Everything that a reader has to know, in its order."""
    header = f"{HEADER},judge,rater,benchmark,turn"
    rows = [
        "1,x,y,1,j,r,,1", "1,x,y,3,j,s,,1", "1,x,y,2,k,r,,2", "2,v,w,1,k,r,b,1", "2,v,w,-1,j,r,b,1", "2,u,w,-1,j,r,b,1",
    ]  # fmt: skip
    assert rated(tmp_path, rows, header).notes == [
        "2 of 6 verdicts (33.3%) are unparsed and left out",
        "several raters an item count as one match: more than half of the votes wins, else it is a tie",
        "verdicts of 2 judges are pooled: j, k",
        "2 benchmarks are pooled: b, none named; --bench takes one",
        "turns of a dialogue are matches of their own and one prompt: 2 on turn 1, 1 on turn 2; --turn takes one",
        "u met nobody (none of its verdicts is parsed) and has no rating",
        *rated(tmp_path, rows, header).notes[6:],
    ]
    rest = rated(tmp_path, rows, header).notes[6:]
    assert "2 groups of systems never met: " in rest[0]
    assert rest[1].startswith("w has nothing but losses against the rest: likelihood gives it no finite")
    assert rest[2].startswith(
        "no system lost to one rated below it, but some tied: likelihood gives no finite Davidson"
    )
    assert rest[3:] == ["only 2 prompts: the intervals over prompts rest on hardly anything", "orderings=0: no Elo"]
    each = rated(tmp_path, rows, header, aggregate="each", orderings=1)
    assert not any("several raters" in note or "no Elo" in note for note in each.notes)
    assert each.num_matches == 4


def test_notes_of_ten_point_scores(tmp_path: Path) -> None:
    header = f"{SCORES},turn"
    paths = [
        write(
            tmp_path / "s.csv",
            ["1,x,candidate_first,5,5,1", "1,x,candidate_first,5,5,2", "2,y,candidate_first,-1,5,1"],
            header,
        )
    ]
    result = rate_files(paths, RateOptions())
    assert result.notes == [
        "1 rows of ten-point scores could not be parsed and are left out",
        "ten-point scores of a question's turns are averaged; --turn takes one",
        "y has no relative score: none of its is parsed, or the reference's are 0",
    ]
    assert (result.num_unparsed, result.num_matches, result.position_bias, result.tie_parameter) == (1, 0, None, None)
    assert (result.pairs, result.verdict, result.ranks, result.people) == ([], [], {}, None)
    assert result.settings["files"] == [str(paths[0])]
    assert len(rate_files(paths, RateOptions(turn=1)).notes) == 2


def test_the_control_is_told_where_it_has_rivals(tmp_path: Path) -> None:
    rows = ["1,x,null-model,-1", "1,x,y,1", "1,y,x,1"]
    assert not any(note.startswith("control") for note in rated(tmp_path, rows).notes)
    found = rated(tmp_path, [f"{q},x,null-model,{1 + (q == 0)}" for q in range(3)]).notes
    assert "control: null-model, which says the same to everything, is last of 2, as it should be" in found
    led = rated(tmp_path, [f"{q},null-model,{s},1" for q in range(3) for s in "xy"]).notes
    assert any(
        n.startswith("control: null-model, which says the same to everything, ranks 1 of 3, above ") for n in led
    )


def test_styles_of_groups_that_never_met_are_not_controlled(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    answers.write_text(
        '{"question_id": 1, "system": "x", "answer": "aa"}\n{"question_id": 1, "system": "y", "answer": "b"}\n'
    )
    result = rated(tmp_path, ["1,x,y,1", "1,v,w,1"], answers=(answers,))
    assert result.controlled is None
    assert result.length_bias is not None
    assert (result.length_bias.wins, result.length_bias.num) == (1.0, 1.0)
    assert "length and style are not controlled for, as not all systems are linked by matches" in result.notes
    assert result.settings["answers"] == [str(answers)]


def test_win_rates_count_ties_half(tmp_path: Path) -> None:
    found = rated(tmp_path, ["1,x,y,1", "2,x,y,1", "3,x,y,3", "4,y,x,1"]).win_matrix
    assert asdict(found["x"]["y"]) == {"wins": 2, "losses": 1, "ties": 1, "win_rate": 0.625}
    assert asdict(found["y"]["x"]) == {"wins": 1, "losses": 2, "ties": 1, "win_rate": 0.375}


def test_people_vote_on_the_benchmark_that_is_rated(tmp_path: Path) -> None:
    rows = [f"{q},x,y,{1 + q % 2},{bench}" for q, bench in ((1, "b"), (2, "b"), (3, "c"))]
    plain = write(tmp_path / "plain.csv", ["1,x,y,1", "2,x,y,1"])
    marked = write(tmp_path / "marked.csv", ["1,x,y,1,b", "3,x,y,1,c"], f"{HEADER},benchmark")
    for votes, num in ((plain, 2), (marked, 1)):
        found = rated(tmp_path, rows, f"{HEADER},benchmark", people=(votes,), benchmark="b").people
        assert found is not None
        assert (found.num_votes, found.num_unmatched) == (num, 0)


# Agreement


def test_agreement_of_none_and_of_all_by_hand() -> None:
    """Judges that never agree on 4 questions: kappa is -1, and goes with percent agreement's exact bound."""
    tables = np.array([[[0.0, 0, 1], [0, 0, 0], [0, 0, 0]], [[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]] * 2)
    level = _example_level(tables, 20, np.random.default_rng(0))
    bound = 1 - 0.025**0.25
    share_, cohen = level.statistics["percent_agreement"], level.statistics["cohen_kappa"]
    assert (level.num, share_.value, share_.low, share_.high) == (4, 0.0, 0.0, pytest.approx(bound))
    assert cohen.value == pytest.approx(-1.0)


def test_a_kappa_without_an_interval_follows_percent_agreement() -> None:
    found = {
        "percent_agreement": Found(value=0.5, low=None, high=None),
        "cohen_kappa": Found(value=0.25, low=0.1, high=0.3),
        "fleiss_kappa": Found(value=None, low=None, high=None),
        "krippendorff_alpha": Found(value=0.25, low=None, high=None),
    }
    agreed, num = np.array([1.0, 0.0, 7.0]), np.array([1.0, 1.0, 0.0])  # the last question has no item
    _with_share(found, agreed, num)
    low, high = clustered_interval(agreed[:2], num[:2]) or (0.0, 0.0)
    assert (found["percent_agreement"].low, found["percent_agreement"].high) == (low, high)
    assert found["cohen_kappa"].low == 0.1
    assert found["fleiss_kappa"].low is None
    by_chance = (0.5 - 0.25) / 0.75
    alpha = found["krippendorff_alpha"]
    assert (alpha.low, alpha.high) == pytest.approx(
        ((low - by_chance) / (1 - by_chance), (high - by_chance) / (1 - by_chance))
    )
    single = {"percent_agreement": Found(value=1.0, low=None, high=None)}
    _with_share(single, np.array([1.0]), np.array([1.0]))
    assert single["percent_agreement"].low is None


def test_three_systems_on_a_single_question_have_no_intervals(tmp_path: Path) -> None:
    """A ranks x, y, z and B ranks x, z, y: two of three pairs are in one order, Kendall's tau is 1 / 3."""
    a = write(tmp_path / "a.csv", ["1,x,y,1", "1,y,z,1", "1,x,z,1"])
    b = write(tmp_path / "b.csv", ["1,x,y,1", "1,z,y,1", "1,x,z,1"])
    result = agree_files(a, b, AgreeOptions(resamples=5))
    assert (result.system.num, result.notes) == (3, [])
    expected = {"percent_agreement": 2 / 3, "kendall_tau": 1 / 3, "spearman": 1 / 2}
    for name, value in expected.items():
        found = result.system.statistics[name]
        assert found.value == pytest.approx(value)
        assert (found.low, found.high) == (None, None)
    assert result.example.statistics["percent_agreement"].low is None


def test_agreement_measures_no_place_where_answers_were_graded_alone(tmp_path: Path) -> None:
    rows = ["1,x,y,1", "2,x,y,2", "3,x,y,1"]
    a, b = write(tmp_path / "verdicts.csv", rows), write(tmp_path / "graded_verdicts.csv", rows)
    result, usual = agree_files(a, b, AgreeOptions(resamples=5)), agree_files(a, a, AgreeOptions(resamples=5))
    assert (result.judges[0].position_bias, result.judges[1].position_bias) == (usual.judges[0].position_bias, None)
    assert result.notes[:-1] == usual.notes
    assert result.notes[-1].startswith("graded_verdicts.csv: pairs stand in the order of their names")


def test_tables_of_several_pairs_count_either_way() -> None:
    table = np.array([[[4.0, 1, 2], [0, 3, 0], [0, 5, 6]]])
    assert _either_way(table)[0].tolist() == [[5.0, 3.0, 1.0], [0.0, 3.0, 0.0], [1.0, 3.0, 5.0]]


def test_notes_of_agreement(tmp_path: Path) -> None:
    trio = [f"{q},{a},{b},{1 + q % 2}" for q in range(3) for a, b in ("xy", "yz", "xz")]
    duo = [*(f"{q},x,y,1" for q in range(3)), *(f"{q},y,z,1" for q in range(3)), "0,v,w,1"]
    a, b = write(tmp_path / "a.csv", trio), write(tmp_path / "b.csv", duo)
    result = agree_files(a, b, AgreeOptions(resamples=5))
    assert result.notes == [
        "ranks are compared over the systems that each file's largest connected group shares: x, y, z"
    ]
    assert (result.system.num, set(result.system.statistics)) == (3, {"percent_agreement", "kendall_tau", "spearman"})
    few = agree_files(a, write(tmp_path / "c.csv", ["1,x,y,1", "2,x,y,1"]), AgreeOptions(resamples=5))
    assert few.notes == [
        "ranks are compared over the systems that each file's largest connected group shares: x, y",
        "fewer than three shared systems: no rank correlation",
    ]
    assert (few.system.num, few.system.statistics, few.example.num) == (2, {}, 2)
    with pytest.raises(ValueError, match="nothing is left without x, y"):
        agree_files(a, b, AgreeOptions(resamples=5, without=("x", "y")))
    with pytest.raises(
        ValueError, match=r"a\.csv and .*d\.csv share no item \(a question, its turn and a pair of systems\)"
    ):
        agree_files(a, write(tmp_path / "d.csv", ["7,x,y,1"]), AgreeOptions(resamples=5))
    assert result.settings["files"] == [str(a), str(b)]


@pytest.mark.parametrize("labels", [(2.0, 2.0, 0.0), (1.0, 1.0, 2.0)])
def test_kappas_of_two_judges_by_hand(labels: tuple[float, float, float]) -> None:
    """Judges that agree on every item have a kappa of 1; where one says a single label, chance is by the other."""
    table = np.diag(labels)[None]
    for statistic in (kappa.cohen_kappa, kappa.fleiss_kappa_of_pairs, kappa.krippendorff_alpha_of_pairs):
        assert statistic(table)[0] == pytest.approx(1.0)
    one = np.array([[[3.0, 0, 1], [0, 0, 0], [0, 0, 0]]])  # 3 of 4 agree; A says 0 always, B 2 once
    assert kappa.percent_agreement(one)[0] == 0.75
    assert kappa.cohen_kappa(one)[0] == pytest.approx(0.0)
    pooled = (7 / 8) ** 2 + (1 / 8) ** 2
    assert kappa.fleiss_kappa_of_pairs(one)[0] == pytest.approx((0.75 - pooled) / (1 - pooled))
    expected = (64 - 49 - 1) / (8 * 7)  # disagreement by chance, of 8 labels without those of the same item
    assert kappa.krippendorff_alpha_of_pairs(one)[0] == pytest.approx(1 - 0.25 / expected)
    assert np.isnan(kappa.percent_agreement(np.zeros((1, 3, 3)))[0])


def test_kappas_of_several_raters_by_hand() -> None:
    """Three items: raters' pairs agree on 1, 1 / 3 and 0 of them; labels in numbers of 4, 3 and 1."""
    counts = np.array([[4.0, 3.0, 1.0]])
    chance = (16 + 9 + 1) / 64
    found = kappa.fleiss_kappa(np.array([4 / 3]), np.array([3.0]), counts)[0]
    assert found == pytest.approx((4 / 9 - chance) / (1 - chance))
    alpha = kappa.krippendorff_alpha(np.array([5.0]), counts)[0]
    assert alpha == pytest.approx(1 - (3 / 8) / ((64 - 26) / 56))


def test_correlations_with_ties_by_hand() -> None:
    """x has a tie: tau-b is 2 / sqrt(2 x 3), rho that of ranks 1.5, 1.5, 3 and 1, 2, 3; none where all are even."""
    x, y = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0]] * 2)
    tau, rho = kappa.kendall_tau(x, y), kappa.spearman(x, y)
    assert (tau[0], rho[0]) == (pytest.approx(2 / np.sqrt(6)), pytest.approx(1.5 / np.sqrt(1.5 * 2)))
    assert np.isnan([tau[1], rho[1]]).all()
    assert kappa.pair_order_agreement(x, y).tolist() == pytest.approx([2 / 3, 0.0])

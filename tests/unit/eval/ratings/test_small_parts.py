"""Parts of the ratings by hand: what is left out, what is tested exactly, and what a sentence says then."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr, t

from eval.ratings import style
from eval.ratings.agreement import _statistic, rater_agreement
from eval.ratings.bradley_terry import POINTS_PER_NAT, count_cells, fit, fit_resamples, linear_resamples
from eval.ratings.comparisons import Rank, agreeing, compare_all, exact_p_values, prompts_to_decide, ranks, verdict
from eval.ratings.kappa import kendall_tau_of_table, spearman_of_table
from eval.ratings.people import _tabulated
from eval.ratings.relative import is_score_file, load_scores, relative_scores
from eval.ratings.style import _derivatives, _fit_all
from eval.ratings.unanimous import LOST, TIED, WON, Doubt, doubtful_pairs, least_errors
from eval.verdicts.table import Matches, load_verdicts

VOTES = "question_id,system_a,system_b,verdict,rater\n"
SCORES = "question_id,system,order,score_candidate,score_chatgpt\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def matches(rows: list[tuple[int, int, int, int]]) -> Matches:
    question, first, second, points = np.array(rows).T.astype(np.int32)
    return Matches(question=question, first=first, second=second, half_points=points.astype(np.int8))


def test_an_item_with_one_vote_says_nothing_of_agreement(tmp_path: Path) -> None:
    rows = "1,x,y,1,ann\n1,x,y,1,bob\n1,y,x,1,cyd\n2,x,y,1,ann\n"
    level = rater_agreement(load_verdicts([write(tmp_path / "v.csv", VOTES + rows)]), 10, np.random.default_rng(0))
    assert level["all"].num == 1
    assert level["all"].statistics["percent_agreement"].value == pytest.approx(1 / 3)
    alone = rater_agreement(
        load_verdicts([write(tmp_path / "w.csv", VOTES + "2,x,y,1,ann\n")]), 10, np.random.default_rng(0)
    )
    assert alone == {}


def test_a_pair_is_tested_exactly_where_it_has_matches_alike_on_half_of_the_fewer_prompts() -> None:
    """x and y meet on 3 prompts; y has 4 prompts in all, x has 9: 3 of 4 are more than half. z meets y on 1 of 4."""
    rows = [(q, 0, 1, 2) for q in range(3)] + [(3, 1, 2, 2)] + [(q, 0, 2, 2) for q in range(4, 10)]
    found = exact_p_values(matches(rows), 3, 10)
    assert found is not None
    assert found[0, 1] == found[1, 0] == pytest.approx(2 * 0.5**3)
    assert np.isnan(found[1, 2])
    assert found[0, 2] == pytest.approx(2 * 0.5**6)


def test_an_exact_test_counts_wins_ties_and_losses() -> None:
    """x wins 3 prompts, loses 1 and ties 1: of 16 ways to flip 4 signs 2 x (1 + 4) are as far apart as 2 of 4."""
    found = exact_p_values(matches([(0, 0, 1, 2), (1, 1, 0, 0), (2, 0, 1, 2), (3, 0, 1, 0), (4, 0, 1, 1)]), 2, 5)
    assert found is not None
    assert found[0, 1] == pytest.approx(10 / 16)
    even = exact_p_values(matches([(0, 0, 1, 2), (1, 0, 1, 0), (2, 0, 1, 1)]), 2, 3)
    assert even is not None
    assert even[0, 1] == 1.0


def test_the_sentence_where_a_pair_played_on_one_prompt() -> None:
    errors = np.full((3, 3), 5.0)
    comparisons = compare_all("abc", [[0, 1, 2]], np.array([50.0, 0.0, -9.0]), errors, None, np.array([30, 30, 1]))
    assert [c.p_value is None for c in comparisons] == [False, True, True]
    places = {name: Rank(rank=n, low=1, high=3, best=0.5) for n, name in enumerate("abc", 1)}
    assert verdict("abc", places, comparisons) == (
        "a is best with probability 0.50; it can't be told from all others, as not every pair played on two prompts"
    )


def test_the_chance_to_be_best_is_no_bolder_than_the_tests() -> None:
    """Four wins of four: p = 0.125 leaves 0.9375, and what the resamples said too much goes to rivals by their p."""
    draws = np.tile([90.0, 0.0, -90.0], (999, 1))
    draws[0] = [0.0, 90.0, -90.0]
    points, errors = draws.mean(axis=0), np.full((3, 3), 1.0)
    plain = ranks("abc", [[0, 1, 2]], points, draws, 10_000)
    assert plain["a"].best == pytest.approx((998 + 1 / 3) / 1000)
    for exact, best in ((0.125, 0.9375), (1.0, 0.5)):
        tests = np.full((3, 3), exact / 4)
        tests[0, 1] = exact
        comparisons = compare_all("abc", [[0, 1, 2]], points, errors, tests, np.array([10, 10, 10]))
        found = agreeing(plain, comparisons)
        excess = (plain["a"].best or 0.0) - best
        chances = [found[name].best for name in "abc"]
        assert chances == pytest.approx([best, (1 + 1 / 3) / 1000 + 0.8 * excess, 1 / 3000 + 0.2 * excess])
        places = [(1, 2), (1, 2), (3, 3)] if exact < 0.2 else [(1, 3), (1, 3), (1, 3)]  # all tests are open
        assert [(found[name].low, found[name].high) for name in "abc"] == places


def test_further_prompts_of_even_systems_favour_none() -> None:
    """Three systems that always tie, and a fourth that always loses to the first: orders around a circle, both ways."""
    pairs = np.array([[0, 1], [0, 2], [1, 2], [0, 3]])
    outcomes = Doubt(pairs=pairs, leaders=np.array([TIED, TIED, TIED, WON])).outcomes()
    assert outcomes.shape == (6, 4)
    assert (outcomes[:, 3] == LOST).all()
    assert (outcomes[:, :3] == WON).sum(axis=0).tolist() == [3, 3, 3]
    above_both = [(outcomes[:, :2] == WON).all(axis=1).sum(), (outcomes[:, 1:3] == LOST).all(axis=1).sum()]
    assert above_both == [2, 2]  # of the first and of the last, so of the second too


def test_the_sentence_says_how_many_prompts_would_decide() -> None:
    errors = np.full((2, 2), 20.0)
    (pair,) = compare_all("ab", [[0, 1]], np.array([30.0, 0.0]), errors, None, np.array([40, 40]))
    places = {name: Rank(rank=n, low=1, high=2, best=0.9) for n, name in enumerate("ab", 1)}
    needed = prompts_to_decide(pair)
    assert needed == pair.num_prompts_needed  # of one pair, Holm changes nothing
    assert needed is not None
    assert 120 < needed < 160  # (2.8 x 20 / 30) ** 2 x 40 is 139
    assert verdict("ab", places, [pair]).endswith(
        f"it can't be told from b (p = {pair.p_holm:.2g}, corrected by Holm); about {needed - 40} more prompts would "
        "decide (80 % power, the same correction)"
    )
    (even,) = compare_all("ab", [[0, 1]], np.array([0.0, 0.0]), errors, None, np.array([40, 40]))
    assert verdict("ab", places, [even]).endswith("they are even, which no number of prompts would change")


def test_linear_resamples_are_the_fits_of_counts_close_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    rows = [(q, *rng.permutation(4)[:2], int(rng.integers(3))) for q in range(300)]
    cells = count_cells(matches(rows), 4)
    whole, rated = cells.totals(), fit(cells, cells.totals())
    near = whole[None] * (1 + 0.02 * rng.normal(size=(5, *whole.shape)))
    exact = fit_resamples(cells, near, rated) - rated.points
    assert linear_resamples(cells, near, whole, rated) == pytest.approx(exact, abs=0.05 * np.abs(exact).max())
    assert linear_resamples(cells, whole[None], whole, rated) == pytest.approx(np.zeros((1, 4)), abs=0.5)
    assert pytest.approx(173.7178) == POINTS_PER_NAT


def test_score_files_are_known_by_their_columns() -> None:
    columns = ["question_id", "system", "order", "score_candidate"]
    assert not is_score_file(columns)
    assert is_score_file([*columns, "score_reference"])
    assert is_score_file([*columns, "score_chatgpt", "more"])
    assert not is_score_file([*columns[1:], "score_chatgpt"])


def test_a_system_without_a_score_that_counts_is_left_out(tmp_path: Path) -> None:
    rows = "1,ann,candidate_first,8,0\n1,bob,candidate_first,-1,9\n1,cyd,candidate_second,9,10\n"
    rows += "2,cyd,candidate_second,-1,10\n"
    scores = load_scores([write(tmp_path / "s.csv", SCORES + rows)])
    found = relative_scores(scores)
    assert list(found) == ["cyd"]
    cyd = found["cyd"]
    assert (cyd.first, cyd.second, cyd.mean, cyd.num_prompts) == (None, pytest.approx(90.0), pytest.approx(90.0), 1)
    assert (cyd.low, cyd.high, cyd.ci95) == (None, None, None)


def test_pairs_of_one_mind_are_doubted_unless_other_pairs_say_how_far_prompts_differ() -> None:
    """a and b vary; c beats d always and ties with e, d loses to e; f, which varies against b, beats a always."""
    rows = [(q, 0, 1, 2 * (q % 2)) for q in range(4)]
    rows += [(q, *pair, points) for q in range(4) for pair, points in (((2, 3), 2), ((2, 4), 1), ((3, 4), 0))]
    rows += [(q, 5, 1, 2 * (q % 2)) for q in range(4)] + [(q, 5, 0, 2) for q in range(4)]
    doubt = doubtful_pairs(count_cells(matches(rows), 6))
    assert doubt.pairs.tolist() == [[2, 3], [2, 4], [3, 4]]
    assert doubt.leaders.tolist() == [WON, TIED, LOST]
    assert doubt.outcomes().tolist() == [[LOST, WON, WON], [LOST, LOST, WON]]


def test_the_least_error_is_what_a_sign_test_asks() -> None:
    """a beats b on 5 prompts in both orders: p = 2 x 0.5 ** 5. c varies and d is even: no least error."""
    rows = [row for q in range(5) for row in ((q, 0, 1, 2), (q, 1, 0, 0))]
    rows += [(q, 2, 3, 2 * (q % 2)) for q in range(5, 9)] + [(9, 4, 5, 1), (10, 4, 5, 1)]
    points = np.array([1200.0, 800.0, 1100.0, 900.0, 1005.0, 995.0])
    expected = 200.0 / t.isf(0.5**5, 4)
    assert least_errors(matches(rows), points) == pytest.approx([expected, expected, 0.0, 0.0, 0.0, 0.0])
    assert least_errors(matches(rows), points, average=1100.0)[0] == pytest.approx(expected / 2)
    ladder = [(q, *pair, 2) for q in range(5) for pair in ((0, 1), (1, 2), (0, 2))]
    middle = least_errors(matches(ladder), np.array([1500.0, 1000.0, 500.0]))
    assert middle == pytest.approx([500 / t.isf(0.5**5, 4), 250 / t.isf(0.5**5, 4), 500 / t.isf(0.5**5, 4)])


def test_spearmans_rho_of_a_table_is_scipys() -> None:
    table = np.array([[3, 1, 0], [2, 4, 1], [0, 0, 5]])
    rows, columns = np.repeat(np.argwhere(table >= 0), table.ravel(), axis=0).T
    assert spearman_of_table(table[None].astype(float))[0] == pytest.approx(spearmanr(rows, columns).statistic)


def test_controlled_ratings_are_finite_and_best_first() -> None:
    """c beats b and b beats a on every prompt, which has no maximum without the prior."""
    played = matches([(q, one, two, 2) for q in range(4) for one, two in ((2, 1), (1, 0))])
    found = _fit_all(played, "abc", [], np.zeros((8, 0)), 20, np.random.default_rng(0))
    assert list(found.ratings) == ["c", "b", "a"]
    best, middle, last = (rating.value for rating in found.ratings.values())
    assert middle == pytest.approx(1000.0, abs=1e-3)
    assert 100 < best - middle == pytest.approx(middle - last, abs=1e-3)
    assert best < 3000


def test_the_derivatives_of_controlled_ratings_are_those_of_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "PRIOR_PRECISION", 0.7)  # so that a wrong prior is seen
    rng = np.random.default_rng(0)
    design, x, weight = rng.normal(size=(6, 3)), rng.normal(size=3), rng.integers(0, 3, 6).astype(float)
    score = np.array([0.0, 0.5, 1.0, 1.0, 0.0, 0.5])
    value, gradient, hessian = _derivatives(x, design, score, weight)
    chance = 1.0 / (1.0 + np.exp(-design @ x))
    likelihood = -(weight * (score * np.log(chance) + (1.0 - score) * np.log(1.0 - chance))).sum()
    assert value == pytest.approx(likelihood + 0.35 * (x**2).sum())
    steps = 1e-5 * np.eye(3)
    both = [[_derivatives(x + sign * step, design, score, weight) for step in steps] for sign in (1, -1)]
    slopes = [(up[0] - down[0]) / 2e-5 for up, down in zip(*both, strict=True)]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6)
    np.testing.assert_allclose(hessian, [(up[1] - down[1]) / 2e-5 for up, down in zip(*both, strict=True)], rtol=1e-6)


def test_the_interval_of_a_statistic_by_hand() -> None:
    """Percentiles of the resamples, spread by t's quantile of 3 questions and by the root of 3 / 2, kept in range."""
    wider = t.ppf(0.975, 2) / 1.959963984540054 * np.sqrt(1.5)
    found = _statistic(np.array([0.5, 0.49, 0.51]), 3)
    low, high = np.percentile([0.49, 0.51], [2.5, 97.5])
    assert (found.low, found.high) == (
        pytest.approx(0.5 + wider * (low - 0.5)), pytest.approx(0.5 + wider * (high - 0.5)),
    )  # fmt: skip
    wide = _statistic(np.array([0.0, -1.0, 1.0]), 3)
    assert (wide.low, wide.high) == (-1.0, 1.0)
    assert _statistic(np.array([0.5, 0.0, 1.0]), 3, least=0.0).low == 0.0
    for none in ([0.5, 0.4], [0.5, 0.4, np.nan], [np.nan, 0.4, 0.6]):
        assert _statistic(np.array(none), 3).low is None


def test_each_table_of_a_stack_has_its_own_correlation() -> None:
    tables = np.array(
        [[[4, 1, 0], [1, 3, 1], [0, 2, 5]], [[0, 2, 5], [1, 3, 1], [4, 1, 0]], [[2, 2, 0], [0, 1, 1], [3, 0, 1]]]
    )
    for correlation, scipys in ((kendall_tau_of_table, kendalltau), (spearman_of_table, spearmanr)):
        pairs = [[(i, j) for (i, j), count in np.ndenumerate(table) for _ in range(count)] for table in tables]
        expected = [scipys(*zip(*rows, strict=True)).statistic for rows in pairs]
        np.testing.assert_allclose(correlation(tables.astype(float)), expected)


def test_places_are_spread_as_few_prompts_ask() -> None:
    """10 points apart; resamples 3 away from their mean are 8.1 away after t's quantile and the root of 3 / 2."""
    draws = np.array([[13.0, 0.0], [7.0, 0.0]] * 20)
    (one, two) = ranks("ab", [[0, 1]], np.array([10.0, 0.0]), draws, 3).values()
    assert (one.low, one.high, two.low, two.high) == (1, 1, 2, 2)
    draws[:, 0] += np.array([1.0, -1.0] * 20)
    assert ranks("ab", [[0, 1]], np.array([10.0, 0.0]), draws, 3)["a"].high == 2


def test_the_judges_score_of_an_item_is_the_mean_of_its_verdicts() -> None:
    """y beats x and ties with it on question 0, and x beats y on question 1; people voted on question 0 alone."""
    judged = matches([(0, 1, 0, 2), (0, 0, 1, 1), (1, 1, 0, 0)])
    votes = _tabulated(judged, matches([(0, 0, 1, 2), (0, 1, 0, 2)]), 2, 2)
    assert votes.judge.count.tolist() == [2 * 0.25, 0.0, 0.25, 1.0, 1.0, 1.0]
    assert votes.judge.question.tolist() == [0, 1] * 3

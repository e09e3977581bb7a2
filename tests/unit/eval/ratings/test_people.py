"""Ratings corrected by people: do their intervals cover where the judge is biased, and what do they come to by hand?"""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t

from eval.commands.rate import rate_command
from eval.ratings.bradley_terry import POINTS_PER_NAT
from eval.ratings.comparisons import compare_all, probability, standard_errors
from eval.ratings.people import CorrectedStrengths, corrected_ratings
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.table import Matches

HEADER = "question_id,system_a,system_b,verdict\n"
QUICK = RateOptions(orderings=0, resamples=100)
STRENGTHS = np.array([0.6, 0.2, -0.2, -0.6])  # what people think, in nats
BIAS = np.array([-0.5, 0.5, -0.5, 0.5])  # the judge's own preference
TRUTH = 1000 + POINTS_PER_NAT * STRENGTHS
PAIRS = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])


def simulated(seed: int, num_prompts: int = 60, share: float = 0.25) -> tuple[Matches, Matches]:
    """(verdicts of a judge that shares people's reasons and has a bias, people's votes on a random share of them)."""
    rng = np.random.default_rng(seed)
    first, second = np.tile(PAIRS, (num_prompts, 1)).T.astype(np.int32)
    question = np.repeat(np.arange(num_prompts), len(PAIRS)).astype(np.int32)
    reasons = STRENGTHS[first] - STRENGTHS[second] + rng.logistic(size=len(question))
    biased = reasons + BIAS[first] - BIAS[second] + rng.normal(0, 0.5, len(question))
    judged, people = (
        Matches(question=question, first=first, second=second, half_points=(2 * (liking > 0)).astype(np.int8))
        for liking in (biased, reasons)
    )
    return judged, people.pick(rng.random(len(question)) < share)


def corrected(seed: int, num_resamples: int = 100) -> CorrectedStrengths:
    return corrected_ratings(*simulated(seed), 4, num_resamples, np.random.default_rng(seed))


def covers(found: CorrectedStrengths, system: int) -> bool:
    interval = found.interval(system)
    assert interval is not None
    return bool(interval[0] <= TRUTH[system] <= interval[1])


def check_coverage(num_tournaments: int, num_resamples: int) -> None:
    """Of one system's interval, as those of one tournament are not independent; people on all matches: the judge's."""
    found = [corrected(seed, num_resamples) for seed in range(num_tournaments)]
    judge_only = [
        corrected_ratings(judged, judged, 4, num_resamples, np.random.default_rng(0))
        for judged, _ in (simulated(seed) for seed in range(num_tournaments // 4))
    ]
    error = np.sqrt(0.95 * 0.05 / num_tournaments)
    for system in (0, 1):
        assert abs(np.mean([covers(one, system) for one in found]) - 0.95) < 3 * error
        assert np.mean([covers(one, system) for one in judge_only]) < 0.6
    widths = [
        [high - low for low, high in (one.interval(0, people_only=alone) or (0.0, 0.0) for one in found)]
        for alone in (False, True)
    ]
    assert np.mean(widths[0]) < 0.9 * np.mean(widths[1])


def test_intervals_cover_where_the_judge_is_biased() -> None:
    check_coverage(num_tournaments=60, num_resamples=50)


@pytest.mark.slow
def test_intervals_cover_at_the_stated_rate() -> None:
    check_coverage(num_tournaments=300, num_resamples=100)


def test_a_judge_that_tosses_a_coin_counts_for_little() -> None:
    judged, people = simulated(0)
    coin = np.random.default_rng(1).choice(np.array([0, 2], dtype=np.int8), len(judged))
    judged = Matches(question=judged.question, first=judged.first, second=judged.second, half_points=coin)
    found = corrected_ratings(judged, people, 4, 200, np.random.default_rng(0))
    assert found.weight < 0.25
    np.testing.assert_allclose(found.points, found.people_points, atol=40)


def rows_by_hand() -> tuple[list[str], list[str]]:
    """The judge has x win 24 of 40; people see the first 20, of which the judge gives x 10 and they give it 2 more."""
    judge = [1] * 10 + [2] * 10 + [1] * 14 + [2] * 6
    people = [1] * 12 + [2] * 8
    return (
        [f"{prompt},x,y,{verdict}" for prompt, verdict in enumerate(judge)],
        [f"{prompt},y,x,{3 - verdict}" for prompt, verdict in enumerate(people)],
    )


def write(path: Path, rows: list[str]) -> Path:
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_by_hand(tmp_path: Path) -> None:
    judged, votes = (write(tmp_path / f"{at}.csv", rows) for at, rows in enumerate(rows_by_hand()))
    people = rate_files([judged], RateOptions(orderings=0, people=(votes,))).people
    assert people is not None
    assert 0.0 < people.judge_weight < 1.0
    share = 12 / 20 + people.judge_weight * (24 / 40 - 10 / 20)
    gap = POINTS_PER_NAT * np.log(share / (1 - share))
    x, y = people.ratings["x"], people.ratings["y"]
    assert x.rating - y.rating == pytest.approx(gap, abs=3)  # a weak prior holds it
    assert x.people_only - y.people_only == pytest.approx(POINTS_PER_NAT * np.log(12 / 8), abs=3)
    assert (people.num_votes, people.num_unmatched, people.num_prompts) == (20, 0, 20)
    assert list(people.ratings) == ["x", "y"]
    best = probability(people.ranks["x"].best or 0.0)
    (sentence,) = people.verdict
    assert sentence.startswith(
        f"corrected by people's votes on 20 matches, x is best with probability {best}; it can't be"
    )
    assert "more prompts with votes would decide" in sentence
    (pair,) = people.comparisons
    assert (pair.higher, pair.lower, pair.num_prompts) == ("x", "y", 20)
    assert pair.difference == pytest.approx(x.rating - y.rating)
    assert pair.low is not None
    assert pair.low < 0 < pair.difference
    assert not pair.significant


def test_pairs_are_tested_by_the_corrected_ratings_and_corrected_by_holm() -> None:
    judged, people = simulated(2, num_prompts=120)
    found = corrected_ratings(judged, people, 4, 300, np.random.default_rng(0))
    assert found.weight > 0.0
    assert found.exact is None
    assert found.resamples is not None
    errors = standard_errors(found.resamples, found.num_prompts)
    (ranking,) = (sorted(group, key=lambda system: -found.points[system]) for group in found.groups)
    tests = compare_all("0123", [ranking], found.points, errors, None, found.prompts)
    assert len(tests) == 6
    widest = max(tests, key=lambda c: c.difference)
    gap = found.points[int(widest.higher)] - found.points[int(widest.lower)]
    apart = found.resamples[:, int(widest.higher)] - found.resamples[:, int(widest.lower)]
    error = apart.std(ddof=1) * np.sqrt(found.num_prompts / (found.num_prompts - 1))
    freedom = int(min(found.prompts[int(widest.higher)], found.prompts[int(widest.lower)])) - 1
    assert widest.p_value == pytest.approx(2 * t.sf(gap / error, freedom), rel=1e-6)
    assert widest.significant
    assert widest.p_holm == pytest.approx(6 * widest.p_value)


def files(tmp_path: Path, rename: dict[str, str], order: np.random.Generator) -> tuple[Path, Path]:
    """A simulated tournament with names, in some order of the rows."""
    paths = []
    for name, matches in zip(("judged", "votes"), simulated(3, 12, 0.5), strict=True):
        columns = zip(matches.question, matches.first, matches.second, matches.half_points, strict=True)
        rows = [f"{q},{rename[str(a)]},{rename[str(b)]},{1 if points else 2}" for q, a, b, points in columns]
        paths.append(write(tmp_path / f"{name}.csv", [rows[at] for at in order.permutation(len(rows))]))
    return paths[0], paths[1]


def test_shuffled_rows_and_other_names_give_the_same_digits(tmp_path: Path) -> None:
    found = []
    renames = {name: name for name in "0123"}, dict(zip("0123", ["zz", "a", "m", "k"], strict=True))
    for seed, rename in enumerate(renames):
        judged, votes = files(tmp_path, rename, np.random.default_rng(seed))
        people = rate_files([judged], RateOptions(orderings=0, resamples=50, people=(votes,))).people
        assert people is not None
        found.append([(people.ratings[rename[name]], people.ranks[rename[name]]) for name in "0123"])
    assert found[0] == found[1]


def test_where_people_voted_on_everything_the_judge_adds_nothing(tmp_path: Path) -> None:
    judged, _ = files(tmp_path, {name: name for name in "0123"}, np.random.default_rng(0))
    alone = rate_files([judged], QUICK).bradley_terry
    people = rate_files([judged], RateOptions(orderings=0, resamples=100, people=(judged,))).people
    assert people is not None
    assert people.judge_weight == 0.0
    for system, rating in people.ratings.items():
        assert rating.rating == rating.people_only
        assert rating.rating == pytest.approx(alone[system].rating, abs=2)  # a weak prior holds it


def test_people_of_one_mind_are_not_certain(tmp_path: Path) -> None:
    judged = write(tmp_path / "judged.csv", [f"{prompt},x,y,{1 + prompt % 2}" for prompt in range(20)])
    votes = write(tmp_path / "votes.csv", [f"{prompt},x,y,1" for prompt in range(5)])
    people = rate_files([judged], RateOptions(orderings=0, resamples=200, people=(votes,))).people
    assert people is not None
    x = people.ratings["x"]
    assert x.low is not None
    assert x.low < 1000 < x.rating  # five of five: p = 0.06
    assert people.ranks["x"].best < 1.0  # type: ignore[operator]
    (pair,) = people.comparisons
    assert pair.p_value == pytest.approx(2 * 0.5**5)
    assert not pair.significant


def test_people_alone_have_no_p_below_that_of_an_exact_test(tmp_path: Path) -> None:
    """The judge says a tie to everything, so people rate alone: x wins 6 of 7 prompts, sign test 16/128."""
    judged = write(tmp_path / "judged.csv", [f"{prompt},x,y,3" for prompt in range(20)])
    votes = write(tmp_path / "votes.csv", [f"{prompt},x,y,{1 if prompt else 2}" for prompt in range(7)])
    people = rate_files([judged], RateOptions(orderings=0, resamples=200, people=(votes,))).people
    assert people is not None
    assert people.judge_weight == 0.0
    (pair,) = people.comparisons
    assert pair.p_value is not None
    assert pair.p_value >= 0.125


def test_votes_on_one_prompt_have_no_interval_and_strangers_are_counted(tmp_path: Path) -> None:
    judged, votes = rows_by_hand()
    strange = ["99,x,y,1", "1,x,w,1"]
    paths = write(tmp_path / "judged.csv", judged), write(tmp_path / "votes.csv", [votes[0], *strange])
    people = rate_files([paths[0]], RateOptions(orderings=0, resamples=50, people=(paths[1],))).people
    assert people is not None
    assert (people.num_votes, people.num_unmatched) == (1, 2)
    assert people.ratings["x"].low is None
    (sentence,) = people.verdict
    assert sentence.startswith("corrected by people's votes on 1 match, x is ahead, on a single prompt")
    assert [(c.p_value, c.low, c.significant) for c in people.comparisons] == [(None, None, None)]
    only_strange = write(tmp_path / "strange.csv", strange)
    with pytest.raises(ValueError, match=r"strange\.csv: no vote is on a match that was judged"):
        rate_files([paths[0]], RateOptions(orderings=0, people=(only_strange,)))


def test_a_system_without_votes_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """As a null model does, on which nobody votes."""
    judged, people = simulated(3)
    beside = judged.pick(np.arange(0, len(judged), 6))
    more = Matches(
        question=np.concatenate([judged.question, beside.question]),
        first=np.concatenate([judged.first, beside.first]),
        second=np.concatenate([judged.second, np.full(len(beside), 4, dtype=np.int32)]),
        half_points=np.concatenate([judged.half_points, beside.half_points]),
    )
    alone = corrected_ratings(judged, people, 4, 100, np.random.default_rng(0))
    found = corrected_ratings(more, people, 5, 100, np.random.default_rng(0))
    assert 0.2 < alone.weight < 1.0
    assert 0.2 < found.weight < 1.0, "the judge counts as it did, with other resamples"
    assert found.points[:4] == pytest.approx(alone.points, abs=10)
    assert np.isnan(found.points[4])


def test_votes_and_verdicts_that_do_not_meet_are_said(tmp_path: Path) -> None:
    judged, votes = rows_by_hand()
    paths = write(tmp_path / "judged.csv", [*judged, "1,x,null-model,1"]), write(tmp_path / "votes.csv", votes)
    notes = rate_files([paths[0]], RateOptions(orderings=0, resamples=50, people=(paths[1],))).notes
    assert "1 systems of the verdicts have no votes, and no corrected rating: null-model" in notes
    write(paths[1], [*votes, "99,x,y,1", "1,x,w,1"])
    notes = rate_files([paths[0]], RateOptions(orderings=0, resamples=50, people=(paths[1],))).notes
    assert "2 matches with votes were not judged: left out" in notes
    assert "1 systems of the votes are in no verdict: w" in notes
    assert "1 questions of the votes are in no verdict: 99" in notes


def test_json_and_table_say_it(tmp_path: Path) -> None:
    judged, votes = files(tmp_path, {name: f"system-{name}" for name in "0123"}, np.random.default_rng(0))
    result, shown = rate_command([judged], RateOptions(orderings=0, resamples=50, people=(votes,)))
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))["people"]
    assert "arXiv 2301.09633" in found["method"]
    assert set(found["ratings"]["system-0"]) == {
        "rating", "low", "high", "people_only", "people_only_low", "people_only_high"
    }  # fmt: skip
    console = Console(width=140, record=True)
    console.print(shown)
    text = console.export_text()
    assert "Bradley-Terry corrected by people" in text
    assert "Corrected by people: the best against the others" in text
    assert result.people is not None
    assert result.people.verdict[0] in " ".join(text.split())

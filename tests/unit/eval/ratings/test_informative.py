"""Which pair next: the greedy design by hand, and what it buys."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.human.items import draw_contest
from eval.ratings.bradley_terry import PRIOR_PRECISION
from eval.ratings.people import informative_order
from tests.voting import SYSTEMS, contest_options

PAIRS = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])


def total_variance(strengths: NDArray[np.float64], order: list[int]) -> float:
    """The sum of the ratings' variances after these votes, from the information matrix itself."""
    information = PRIOR_PRECISION * np.eye(len(strengths))
    for pair in order:
        one, two = PAIRS[pair]
        contrast = np.zeros(len(strengths))
        contrast[[one, two]] = 1.0, -1.0
        chance = 1 / (1 + np.exp(strengths[two] - strengths[one]))
        information += chance * (1 - chance) * np.outer(contrast, contrast)
    return float(np.trace(np.linalg.inv(information)))


def test_each_next_pair_is_the_one_that_takes_off_most() -> None:
    strengths = np.array([2.0, 0.3, 0.0, -1.5])
    order = informative_order(strengths, PAIRS, np.full(6, 2))
    assert sorted(order) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]  # every item once
    for at in range(8):
        left = [pair for pair in range(6) if order[:at].count(pair) < 2]
        variances = {pair: total_variance(strengths, [*order[:at], pair]) for pair in left}
        assert variances[order[at]] <= min(variances.values()) + 1e-9
    in_turn = [at % 6 for at in range(6)]
    assert total_variance(strengths, order[:6]) < total_variance(strengths, in_turn)


def test_people_are_asked_most_for_the_system_of_which_a_vote_says_least(tmp_path: Path) -> None:
    options = contest_options(tmp_path, num_questions=6, order="informative")
    options.tournament.mkdir(exist_ok=True)
    far, one, two = SYSTEMS
    rows = [f"{q},{far},{other},1" for q in range(1, 7) for other in (one, two)]
    rows += [f"{q},{one},{two},{1 + q % 2}" for q in range(1, 7)]
    (options.tournament / "verdicts.csv").write_text("question_id,system_a,system_b,verdict\n" + "\n".join(rows) + "\n")
    items = draw_contest(options).items
    assert len({(item.question_id, item.system_one, item.system_two) for item in items}) == 18
    first = [{item.system_one, item.system_two} for item in items[:10]]
    assert first.count({one, two}) == 2
    even = draw_contest(contest_options(tmp_path, num_questions=6)).items[:9]
    assert sum({item.system_one, item.system_two} == {one, two} for item in even) == 3

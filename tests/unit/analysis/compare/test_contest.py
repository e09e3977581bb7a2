"""Which setting is chosen, what is compared, and every number of a pair: by value, on grids of a few runs."""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.compare import contest, search
from analysis.compare.contest import Pair, Standing, compare_levels
from analysis.compare.levels import ADAPTER, Layout
from analysis.compare.options import Correction, Options, SelectOn
from analysis.compare.search import Split, entrant_of, split_of
from analysis.effects.grid import GridResults
from eval.benchmarks.replicates import detectable

LAYOUT = Layout(axis=ADAPTER, within=(), searched=("lora_r",), along=(), seeds=("seed",))
QUESTIONS = SelectOn.questions


def rows_of(methods: Sequence[Any], ranks: Sequence[Any], seeds: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip((ADAPTER, "lora_r", "seed"), values, strict=True)) for values in product(methods, ranks, seeds)]


def grid_of(values: Any, rows: Sequence[Mapping[str, Any]], **more: Any) -> GridResults:
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    runs = pd.DataFrame(list(rows), index=[f"run{number}" for number in range(len(rows))])
    names = [f"q{number}" for number in range(table.shape[1])] if table.shape[1] > 1 else [""]
    options = {"measure": "score", "axes": LAYOUT.columns, "seeds": ("seed",), "questions": names} | more
    return GridResults.of(runs, table, **options)


def split(grid: GridResults, select_on: SelectOn = SelectOn.auto, loss: Mapping[int, float] | None = None) -> Split:
    return split_of(grid, range(len(grid.runs)), True, loss or {}, select_on)


@pytest.mark.parametrize(
    ("num_seeds", "choosing", "compared"),
    [(2, [0], [1]), (3, [0], [1, 2]), (5, [0], [1, 2, 3, 4]), (6, [0, 1], [2, 3, 4, 5]), (7, [0, 1], [2, 3, 4, 5, 6])],
)  # fmt: skip
def test_the_first_third_of_the_seeds_chooses(num_seeds: int, choosing: list[int], compared: list[int]) -> None:
    seeds = list(range(num_seeds))
    found = split(grid_of(np.zeros(2 * num_seeds), rows_of(["a"], [8, 16], seeds[::-1])))
    assert [seed for (seed,) in found.choosing_seeds] == choosing
    assert [seed for (seed,) in found.compared_seeds] == compared
    assert found.note == ""
    assert found.source == "score of " + " and ".join(f"seed {seed}" for seed in choosing)
    assert found.compared_questions.tolist() == [True]


def test_without_a_search_all_is_compared() -> None:
    grid = grid_of(np.zeros((4, 3)), rows_of(["a", "b"], [8], [1, 0]))
    found = split_of(grid, range(4), False, {}, SelectOn.eval_loss)
    assert (found.choosing_seeds, found.compared_seeds, found.source) == ((), ((0,), (1,)), "")
    assert found.compared_questions.tolist() == [True] * 3


def test_numbers_stand_in_order_and_what_is_not_set_comes_last() -> None:
    assert sorted([10, None, 9, "b", 2.5, "a", True], key=search._sortable) == [2.5, 9, 10, True, "a", "b", None]
    assert search._sortable(None) == (True, "None", 0.0)


def test_seeds_that_are_not_set_choose_last_and_two_questions_can_be_halved() -> None:
    found = split(grid_of(np.zeros((6, 2)), rows_of(["a"], [8, 16], [None, 1, 0])))
    assert (found.choosing_seeds, found.compared_seeds) == (((0.0,),), ((1.0,), (None,)))
    assert (found.source, found.compared_questions.sum()) == ("half of the questions of seed 0", 1)
    alone = split(grid_of(np.zeros((2, 2)), rows_of(["a"], [8, 16], [0])))
    assert (alone.source, alone.compared_questions.sum()) == ("half of the questions of seed 0", 1)


def test_by_what_settings_are_chosen() -> None:
    grid = grid_of(np.zeros((4, 4)), rows_of(["a"], [8, 16], [0, 1]))
    whole: dict[int, float] = dict.fromkeys(range(4), 2.0)
    by_loss = split(grid, SelectOn.auto, whole)
    assert (by_loss.source, by_loss.compared_questions.all()) == ("the held-out loss of seed 0", True)
    assert split(grid, SelectOn.eval_loss, whole).source == by_loss.source
    for found in (split(grid, QUESTIONS, whole), split(grid), split(grid, SelectOn.auto, {0: 1.0, 1: 1.0, 2: 1.0})):
        assert (found.source, found.compared_questions.sum()) == ("half of the questions of seed 0", 2)
    with pytest.raises(ValueError, match=r"^--select-on eval_loss: no held-out loss of run1, run2, run3; say ques"):
        split(grid, SelectOn.eval_loss, {0: 2.0})
    bare = replace(grid, seeds=())
    assert search._seeds_text(bare, [()]) == "its run"


@pytest.mark.parametrize(
    ("measure", "select_on", "loss", "fails"),
    [
        ("score", SelectOn.auto, False, True),
        ("score", SelectOn.auto, True, False),
        ("score", QUESTIONS, True, True),
        ("eval_loss", SelectOn.auto, True, True),
        ("final_loss", SelectOn.auto, True, True),
    ],
)
def test_one_seed_and_one_number_can_choose_by_another_number_alone(
    measure: str, select_on: SelectOn, loss: bool, fails: bool
) -> None:
    grid = grid_of([1.0, 2.0], rows_of(["a"], [8, 16], [0]), measure=measure)
    losses = dict.fromkeys(range(2), 2.0) if loss else {}
    if fails:
        with pytest.raises(ValueError, match=f"^{measure}: one seed and one number a run: nothing is left to compare"):
            split(grid, select_on, losses)
        return
    found = split(grid, select_on, losses)
    assert found.choosing_seeds == found.compared_seeds == ((0,),)
    assert found.note == "one seed: the luck of the run that was chosen stays in its result"


def test_halves_by_a_hash_of_the_names() -> None:
    names = [f"q{number}" for number in range(8)]
    hashed = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert {names[place] for place in search.halves(names).nonzero()[0]} == set(hashed[:4])
    assert [int(search.halves(["x"] * num).sum()) for num in (0, 1, 2, 3)] == [0, 1, 1, 2]


def entrant(values: Any, rows: Any, loss: Mapping[int, float] | None = None, **more: Any) -> Any:
    grid = grid_of(values, rows, **more)
    select_on = SelectOn.auto if loss else QUESTIONS
    divided = split_of(grid, range(len(rows)), True, loss or {}, select_on)
    return entrant_of(grid, "a", grid.rows_of(ADAPTER, "a"), ("lora_r",), divided, loss or {})


def test_the_setting_that_is_best_for_the_seeds_that_choose() -> None:
    rows = rows_of(["a"], [8, 16], [0, 1, 2])
    found = entrant([1.0, 5.0, 6.0, 2.0, 3.0, 4.0], rows)
    assert (found.setting, found.rows, found.num_settings, found.num_runs, found.num_seeds) == ("r 16", (4, 5), 2, 6, 3)
    assert (found.uncorrected, found.problems) == (4.0, ())
    lower = entrant([1.0, 5.0, 6.0, 2.0, 3.0, 4.0], rows, higher_is_better=False)
    assert (lower.setting, lower.rows, lower.uncorrected) == ("r 8", (1, 2), 3.0)
    by_loss = entrant([1.0, 5.0, 6.0, 2.0, 3.0, 4.0], rows, {0: 1.0, 1: 9.0, 2: 9.0, 3: 2.0, 4: 0.0, 5: 0.0})
    assert by_loss.setting == "r 8"
    by_loss = entrant([9.0, 5.0, 6.0, 2.0, 3.0, 4.0], rows, {0: 2.0, 1: 0.0, 2: 0.0, 3: 1.0, 4: 9.0, 5: 9.0})
    assert by_loss.setting == "r 16"


def test_a_setting_without_the_seeds_that_choose_or_without_others_is_said() -> None:
    rows = [
        row for row in rows_of(["a"], [8, 16, 32], [0, 1, 2])
        if (row["lora_r"], row["seed"]) not in {(16, 0), (32, 1), (32, 2)}
    ]  # fmt: skip
    found = entrant([3.0, 3.0, 3.0, 9.0, 9.0, 1.0], rows)
    assert (found.setting, found.rows) == ("r 8", (1, 2))
    assert found.problems == ("1 of its 3 settings has no run with the seeds that choose",)
    found = entrant([3.0, 3.0, 3.0, 9.0, 9.0, 9.5], rows)
    assert (found.setting, found.rows) == ("r 32", ())
    assert found.problems[1] == "its best setting (r 32) was not run with another seed"
    late = [row for row in rows_of(["a", "b"], [8, 16], [0, 1, 2]) if row[ADAPTER] == "b" or row["seed"] > 0]
    found = entrant(np.arange(len(late), dtype=float), late)
    assert (found.setting, found.rows) == ("", ())
    assert found.problems == ("no setting was run with the seeds that choose",)
    some = [row for row in rows_of(["a"], [8, 16], [0, 1, 2]) if (row["lora_r"], row["seed"]) != (16, 2)]
    found = entrant([1.0, 1.0, 1.0, 2.0, 5.0], some)
    assert (found.rows, found.problems) == ((4,), ("1 of the 2 seeds that are compared has no value",))


def test_a_single_setting_is_chosen_by_nothing() -> None:
    grid = grid_of([1.0, 2.0, 3.0, 4.0], rows_of(["a", "b"], [8], [0, 1]))
    every = split_of(grid, range(4), False, {}, SelectOn.auto)
    found = entrant_of(grid, "a", [0, 1], (), every, {})
    assert (found.setting, found.rows, found.uncorrected, found.num_settings) == ("", (0, 1), None, 1)


def test_a_mean_of_runs_by_the_questions_that_each_has() -> None:
    nan = float("nan")
    grid = grid_of([[1.0, 2.0, 6.0], [4.0, nan, 8.0]], rows_of(["a"], [8], [0, 1]), weights=np.array([1.0, 2.0, 3.0]))
    assert search._mean(grid, [0, 1], None) == pytest.approx(((1 + 4 + 18) / 6 + (4 + 24) / 4) / 2)
    assert search._mean(grid, [0], np.array([True, True, False])) == pytest.approx(5 / 3)
    with warnings.catch_warnings(action="error"):
        assert math.isnan(search._mean(grid, [0, 1], np.array([False, True, False])))
    plain = replace(grid, weights=None)
    assert search._mean(plain, [0], None) == 3.0
    assert search._mean(plain, [1], np.array([True, False, False])) == 4.0


def test_the_best_of_means() -> None:
    nan = float("nan")
    assert [search._best([1.0, nan, 3.0], higher) for higher in (True, False, None)] == [3.0, 1.0, None]
    assert search._best([nan], True) is None


NUMBERS = [[1.0], [2.0], [4.0], [2.0], [4.0], [6.0]]


def test_every_number_of_a_pair() -> None:
    grid = grid_of(NUMBERS, rows_of(["a", "b"], [8], [0, 1, 2]))
    found = compare_levels(grid, LAYOUT, {}, Options(margin=3.0))
    [pair] = found.pairs
    spread = (np.var([1, 2, 4], ddof=1) + np.var([2, 4, 6], ddof=1)) / 2
    error = math.sqrt(spread * 2 / 3)
    half = stats.t.ppf(0.975, 4) * error
    assert (pair.first, pair.second, pair.block, pair.note) == ("b", "a", "", "")
    assert pair.difference == pytest.approx(5 / 3)
    assert (pair.low, pair.high) == pytest.approx((5 / 3 - half, 5 / 3 + half))
    assert pair.p_value == pair.p_corrected == pytest.approx(2 * stats.t.sf(5 / 3 / error, 4))
    assert pair.p_equal == pytest.approx(stats.t.sf((3 - 5 / 3) / error, 4))
    assert pair.freedom == 4
    assert pair.detectable == pair.detectable_corrected == pytest.approx(detectable(error, 4.0))
    assert pair.detectable > 3 * error  # 80 % power at 5 % asks for t(0.975) and t(0.8) together
    assert [standing.level for standing in found.standings] == ["b", "a"]
    assert [standing.value for standing in found.standings] == pytest.approx([4.0, 7 / 3])
    reach = stats.t.ppf(0.975, 4) * math.sqrt(spread / 3)
    assert (found.standings[0].low, found.standings[0].high) == pytest.approx((4 - reach, 4 + reach))
    assert (found.measure, found.unit, found.higher_is_better, found.axis) == ("score", "", True, ADAPTER)
    assert (found.num_questions, found.margin, found.correction) == (1, 3.0, Correction.holm)
    assert (found.source, found.budget_note, found.notes) == ("", "", ())
    first = found.standings[0]
    assert (first.num_settings, first.num_seeds, first.num_runs, first.num_compared_runs) == (1, 3, 3, 3)
    assert (first.uncorrected, first.problems, first.setting) == (None, (), "r 8")


@pytest.mark.parametrize(
    ("higher", "firsts", "levels"),
    [(True, ["c", "c", "b"], "cba"), (False, ["a", "a", "b"], "abc"), (None, ["c", "c", "b"], "abc")],
)  # fmt: skip
def test_the_better_one_stands_first(higher: bool | None, firsts: list[str], levels: Sequence[str]) -> None:
    values = [[1.0], [2.0], [3.0], [4.0], [7.0], [8.0]]
    grid = grid_of(values, rows_of(["a", "b", "c"], [8], [0, 1]), higher_is_better=higher)
    found = compare_levels(grid, LAYOUT, {}, Options())
    assert sorted(pair.first for pair in found.pairs) == sorted(firsts)
    assert all((pair.difference > 0) is (higher is not False) for pair in found.pairs)
    assert [standing.level for standing in found.standings] == list(levels)
    assert [pair.p_equal for pair in found.pairs] == [None] * 3


def test_equal_levels_stay_in_their_order() -> None:
    values = [[1.0], [2.0], [1.0], [2.0]]
    for higher in (True, False, None):
        grid = grid_of(values, rows_of(["a", "b"], [8], [0, 1]), higher_is_better=higher)
        [pair] = compare_levels(grid, LAYOUT, {}, Options()).pairs
        assert (pair.first, pair.difference, pair.p_value) == ("a", 0.0, 1.0)


PAIR = Pair(
    first="b", second="a", block="", difference=1.0, low=0.0, high=2.0, p_value=0.01, p_corrected=None, p_equal=None,
    detectable=2 * detectable(1.0, 7.0), detectable_corrected=None, freedom=7.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("correction", "expected", "level"),
    [
        (Correction.holm, [0.03, 0.04, 0.04], 0.05 / 3),
        (Correction.bh, [0.03, 0.03, 0.03], 0.05 / 3),
        (Correction.none, [0.01, 0.02, 0.03], 0.05),
    ],
)
def test_p_and_what_is_detected_are_corrected_for_the_pairs_that_have_a_p(
    correction: Correction, expected: list[float], level: float
) -> None:
    untested = replace(PAIR, p_value=None, detectable=None, freedom=None)
    pairs = [PAIR, untested, replace(PAIR, p_value=0.02), replace(PAIR, p_value=0.03, detectable=None)]
    one, none, two, three = contest._corrected(pairs, correction)
    assert none == untested
    assert [pair.p_corrected for pair in (one, two, three)] == pytest.approx(expected)
    assert one.detectable_corrected == pytest.approx(2 * detectable(1.0, 7.0, level))
    assert three.detectable_corrected is None
    assert list(contest._corrected([untested], correction)) == [untested]
    assert contest._at_level(replace(PAIR, freedom=None), 0.01) is None


def test_runs_that_were_measured_otherwise_than_most() -> None:
    grid = grid_of([1.0] * 5, rows_of(["a"], [8], range(5)), settings=["y", "x", "x", "y", "x"])
    kept, notes = contest._of_one_protocol(grid, [0, 1, 2, 4])
    assert (kept, notes) == ([1, 2, 4], ["measured on other questions or settings, left out: run0"])
    assert contest._of_one_protocol(grid, [0, 3, 1, 2]) == (
        [0, 3], ["measured on other questions or settings, left out: run1, run2"],
    )  # fmt: skip
    assert contest._of_one_protocol(grid, [1, 2]) == ([1, 2], [])


def test_questions_that_some_run_lacks_are_left_out_of_all() -> None:
    nan = float("nan")
    values = [[1.0, 2.0, nan, 4.0], [2.0, 3.0, 5.0, nan], [1.0, 5.0, 5.0, 5.0], [2.0, 2.0, 2.0, 2.0]]
    weights = np.array([1.0, 3.0, 1.0, 1.0])
    grid = grid_of(values, rows_of(["a", "b"], [8], [0, 1]), weights=weights)
    found = compare_levels(grid, LAYOUT, {}, Options())
    assert found.num_questions == 2
    assert "questions that some run lacks, left out: 2" in found.notes
    assert {s.level: s.value for s in found.standings} == pytest.approx({"a": 9 / 4, "b": 3.0})
    lost = grid_of([[1.0, nan], [nan, 1.0]], rows_of(["a", "b"], [8], [0]))
    with pytest.raises(ValueError, match="score: no question is common to all runs that are compared"):
        compare_levels(lost, LAYOUT, {}, Options())


def test_points_end_at_nought_and_a_hundred() -> None:
    grid = grid_of([[1.0], [9.0], [92.0], [99.0]], rows_of(["a", "b"], [8], [0, 1]), unit="points")
    found = {s.level: s for s in compare_levels(grid, LAYOUT, {}, Options()).standings}
    assert (found["a"].low, found["b"].high) == (0.0, 100.0)
    assert found["a"].high is not None
    assert found["a"].high < 100.0
    free = compare_levels(replace(grid, unit=""), LAYOUT, {}, Options()).standings[0]
    assert free.high is not None
    assert free.high > 100.0


def test_spreads_that_differ_are_said_with_their_p() -> None:
    rng = np.random.default_rng(1)
    values = [*rng.normal(0, 0.01, 8), *rng.normal(0, 5.0, 8), *rng.normal(0, 0.01, 8)]
    found = compare_levels(grid_of(values, rows_of(["a", "b", "c"], [8], range(8))), LAYOUT, {}, Options())
    [note] = found.notes
    assert note.startswith("the spreads between seeds differ (Cochran's p = ")
    assert note.endswith("): each level's is its own")


def test_a_level_that_cannot_choose_stands_last_and_is_in_no_pair() -> None:
    rows = rows_of(["a", "b"], [8, 16], [0, 1, 2]) + [{ADAPTER: "c", "lora_r": r, "seed": 2} for r in (8, 16)]
    found = compare_levels(grid_of(np.arange(14.0), rows), LAYOUT, {}, Options())
    assert [standing.level for standing in found.standings] == ["b", "a", "c"]
    lost = found.standings[2]
    assert (lost.value, lost.low, lost.high, lost.num_compared_runs, lost.num_runs) == (None, None, None, 0, 2)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("b", "a")]
    assert found.budget_note == (
        "unequal budgets between methods: b 2 settings in 6 runs, a 2 settings in 6 runs, c 2 settings in 2 runs"
    )


def test_where_no_level_can_be_compared_there_is_no_number_of_any() -> None:
    rows = [{ADAPTER: "a", "lora_r": r, "seed": 1} for r in (8, 16)] + [{ADAPTER: "b", "lora_r": 8, "seed": 0}]
    found = compare_levels(grid_of(np.zeros((3, 4)), rows), LAYOUT, {}, Options())
    assert (found.pairs, found.num_questions) == ((), 0)
    assert [(s.level, s.value, s.problems) for s in found.standings] == [
        ("a", None, ("no setting was run with the seeds that choose",)),
        ("b", None, ("its best setting (r 8) was not run with another seed",)),
    ]


def test_blocks_are_compared_apart_and_named() -> None:
    layout = replace(LAYOUT, within=("model",), searched=())
    rows = [row | {"model": model} for model in ("x", "y") for row in rows_of(["a", "b"], [8], [0, 1])]
    table = np.array([[1.0, 3.0], [2.0, 3.0], [4.0, 3.0], [5.0, np.nan]] * 2)
    grid = grid_of(table, rows, axes=layout.columns, left_out=("1 run left out",))
    found = compare_levels(grid, layout, {}, Options())
    named = [f"{standing.block}: {standing.level}" for standing in found.standings]
    assert named == ["model x: b", "model x: a", "model y: b", "model y: a"]
    assert [pair.block for pair in found.pairs] == ["model x", "model y"]
    assert found.notes == (
        "1 run left out", "model x: questions that some run lacks, left out: 1",
        "model y: questions that some run lacks, left out: 1",
    )  # fmt: skip
    assert found.num_questions == 1
    some = table[:, :1].repeat(2, axis=1)
    some[:4, 1] = np.nan
    uneven = compare_levels(grid_of(some, rows, axes=layout.columns), layout, {}, Options())
    assert uneven.num_questions == 2  # of the block that has most
    fewer = grid_of(table[:-1], rows[:-1], axes=layout.columns)
    assert compare_levels(fewer, layout, {}, Options()).budget_note == (
        "model y: unequal budgets between methods: b 1 setting in 1 runs, a 1 setting in 2 runs"
    )
    losses = {f"run{n}": 1.0 for n in range(12)}
    searched = replace(LAYOUT, within=("model",))
    rows = [row | {"model": model} for model in ("x", "y") for row in rows_of(["a"], [8, 16], [0, 1, 2])]
    rows += [row | {"model": "z"} for row in rows_of(["a"], [8], [0, 1, 2])]
    grid = grid_of(np.arange(15.0), rows, axes=searched.columns)
    assert compare_levels(grid, searched, losses, Options()).source == "the held-out loss of seed 0"
    assert compare_levels(grid, searched, {"run0": 1.0}, Options()).source == "score of seed 0"


def test_a_pair_says_what_its_interval_leaves_out() -> None:
    found = compare_levels(grid_of([[1.0, 2.0], [2.0, 5.0]], rows_of(["a", "b"], [8], [0])), LAYOUT, {}, Options())
    assert found.pairs[0].note == "one run each: the interval is over questions, not over seeds"
    assert found.pairs[0].freedom == 1


def test_what_says_nothing_of_quality_chooses_no_setting() -> None:
    grid = grid_of(np.zeros(8), rows_of(["a", "b"], [8, 16], [0, 1]), higher_is_better=None)
    with pytest.raises(ValueError, match="score: nothing says whether more is better, so that no setting can"):
        compare_levels(grid, LAYOUT, {}, Options())


def test_what_differs_along_with_a_level() -> None:
    along = ("method", "adapter.use_dora", "lora_alpha", "train.optimizer")
    assert contest._along(replace(LAYOUT, along=along)) == [
        "methods differ in alpha, train.optimizer, too: it is a part of each"
    ]
    assert contest._along(replace(LAYOUT, axis="lora_r", along=along[:2])) == [
        "rs differ in method, adapter.use_dora, too: it is a part of each"
    ]
    assert contest._along(replace(LAYOUT, along=("method",))) == []


def test_standings_without_a_value_come_last_in_their_order() -> None:
    made = [
        Standing(level=level, block="", setting="", value=value, low=None, high=None, uncorrected=None, num_settings=1,
                 num_seeds=1, num_runs=1, num_compared_runs=1, problems=())
        for level, value in (("a", None), ("b", 0.0), ("c", -1.0), ("d", None), ("e", 0.5))
    ]  # fmt: skip
    order = [[s.level for s in contest._best_first(made, higher)] for higher in (True, False, None)]
    assert order == [["e", "b", "c", "a", "d"], ["c", "b", "e", "a", "d"], ["b", "c", "e", "a", "d"]]


def test_defaults_of_what_is_chosen_before_looking() -> None:
    assert Options() == Options(margin=None, correction=Correction.holm, select_on=SelectOn.auto)

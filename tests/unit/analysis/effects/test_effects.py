"""Effects of axes by hand: pairs, along, corrections, equivalence, and grids with holes."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.effects.compare import effect_of, effects, effects_frame, equivalence
from analysis.effects.crossed import ALL_EQUAL
from analysis.effects.grid import GridResults, followers
from analysis.effects.tables import best_by_axis, interaction, mean_of, merged, parallel_coordinates


def grid_of(rows: Sequence[dict[str, Any]], values: Any, **more: Any) -> GridResults:
    runs = pd.DataFrame(list(rows), index=[f"run{number}" for number in range(len(rows))])
    table = np.asarray(values, dtype=np.float64)
    names = [f"q{number}" for number in range(table.shape[1])] if table.ndim == 2 else [""]
    return GridResults.of(runs, table, measure="accuracy", unit="share", questions=names, **more)


def rows_of(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def test_an_effect_is_the_mean_over_pairs_by_hand() -> None:
    """r 64 against 8, two data types, two seeds: differences 1, 2, 3, 6."""
    grid = grid_of(rows_of(data_type=["bf16", "nf4"], seed=[0, 1], lora_r=[8, 64]), [1, 2, 1, 3, 1, 4, 1, 7])
    found = effect_of(grid, "lora_r", 64, 8)
    scipys = stats.ttest_1samp([1, 2, 3, 6], 0.0)
    assert (found.difference, found.num_pairs, found.num_settings, found.num_questions) == (3.0, 4, 2, 1)
    assert found.p_value == pytest.approx(scipys.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(scipys.confidence_interval(0.95)))
    assert effect_of(grid, "lora_r", 8, 64).difference == -3.0


def test_all_effects_of_a_call_share_holms_correction() -> None:
    rng = np.random.default_rng(0)
    rows = rows_of(data_type=["bf16", "fp4", "nf4"], lora_r=[8, 64], seed=[0, 1, 2])
    values = [10.0 * (row["lora_r"] == 64) + rng.normal() for row in rows]
    found = effects(grid_of(rows, values))
    assert [(e.axis, e.value, e.against) for e in found] == [
        ("data_type", "fp4", "bf16"),
        ("data_type", "nf4", "bf16"),
        ("data_type", "nf4", "fp4"),
        ("lora_r", 64, 8),
    ]
    least = min(e.p_value for e in found if e.p_value is not None)
    assert found[3].p_value == least
    assert found[3].p_holm == pytest.approx(4 * least)
    assert [e.is_significant for e in found] == [False, False, False, True]
    frame = effects_frame(found)
    assert frame["difference"].tolist() == [e.difference for e in found]
    assert frame["value"].tolist() == ["fp4", "nf4", "nf4", "64"]


def test_a_learning_rate_that_goes_with_the_model_is_said_to_come_along() -> None:
    rows = [
        row | {"learning_rate": 1e-4 if row["model"] == "33b" else 2e-4}
        for row in rows_of(model=["7b", "33b"], data_type=["bf16", "nf4"])
    ]
    grid = grid_of(rows, [1, 2, 4, 6])
    assert followers(grid, "model") == ["learning_rate"]
    by_axis = {effect.axis: effect for effect in effects(grid)}
    assert (by_axis["model"].num_pairs, by_axis["model"].along) == (2, ("learning_rate",))
    assert "together with learning rate" in by_axis["model"].sentence()
    assert by_axis["learning_rate"].difference is None
    assert "no two runs differ in learning rate alone" in by_axis["learning_rate"].note


def test_a_random_search_has_no_pairs_and_says_so() -> None:
    rows = [{"model": "a", "lora_r": 8, "learning_rate": 1.0}, {"model": "b", "lora_r": 8, "learning_rate": 2.0}]
    rows += [{"model": "b", "lora_r": 64, "learning_rate": 3.0}, {"model": "a", "lora_r": 64, "learning_rate": 5.0}]
    rows += [{"model": "a", "lora_r": 8, "learning_rate": 7.0}, {"model": "b", "lora_r": 64, "learning_rate": 8.0}]
    found = effects(grid_of(rows, [1, 2, 3, 4, 5, 6]))
    assert {effect.axis for effect in found if effect.num_pairs} == {
        "learning_rate"
    }  # a's two runs with r 8, b's with 64
    assert all("no two runs differ" in effect.note for effect in found if not effect.num_pairs)


def test_one_pair_without_questions_has_no_interval_and_says_why() -> None:
    (found,) = effects(grid_of(rows_of(lora_r=[8, 64]), [1.0, 3.0]))
    assert (found.difference, found.low, found.p_value, found.p_holm) == (2.0, None, None, None)
    assert found.note == "one pair with one value: no interval"
    assert found.is_significant is None


def test_a_run_that_failed_leaves_its_partner_alone() -> None:
    rows = rows_of(lora_r=[8, 64], seed=[0, 1, 2])[:-1]
    (found,) = effects(grid_of(rows, [0, 1, 2, 4, 4]))
    assert (found.num_pairs, found.difference) == (2, 3.5)
    assert found.note == "1 run has no partner of the same setting and seed"


def test_runs_on_other_questions_are_not_compared() -> None:
    grid = grid_of(rows_of(lora_r=[8, 64], seed=[0, 1]), [1, 2, 3, 4], settings=["x", "y", "x", "x"])
    (found,) = effects(grid)
    assert (found.num_pairs, found.difference) == (1, 2.0)
    assert "1 pair was measured on other questions or settings" in found.note


def test_pairs_that_share_no_question_count_as_one_number_each() -> None:
    hole = np.nan
    rows = rows_of(dataset=["a", "b", "c"], lora_r=[8, 64])
    values = [[1, 1, hole, hole, hole], [2, 4, hole, hole, hole]]  # +2
    values += [[hole, hole, 0, 0, hole], [hole, hole, 3, 5, hole]]  # +4
    values += [[hole, hole, hole, hole, 1], [hole, hole, hole, hole, 7]]  # +6
    found = effect_of(grid_of(rows, values), "lora_r", 64, 8)
    assert (found.difference, found.num_pairs, found.num_questions) == (4.0, 3, 1)
    assert "each pair is one number" in found.note


def test_a_question_that_one_run_lacks_is_left_out_of_all() -> None:
    found = effect_of(grid_of(rows_of(lora_r=[8, 64]), [[0, 1, np.nan], [1, 1, 1]]), "lora_r", 64, 8)
    assert (found.difference, found.num_questions) == (0.5, 2)
    assert "questions that some run lacks are left out: 1" in found.note


def test_one_pair_scored_right_or_wrong_is_no_surer_than_mcnemars_exact_test() -> None:
    before, after = [0] * 40, [1] * 5 + [0] * 35  # five of forty differ, all one way: p = 2 * 0.5^5
    found = effect_of(grid_of(rows_of(lora_r=[8, 64]), [before, after]), "lora_r", 64, 8)
    assert found.p_value == pytest.approx(0.0625)
    assert found.low is not None
    assert found.low < 0


def test_equivalence_is_two_one_sided_t_tests() -> None:
    differences = np.array([0.01, -0.02, 0.015, 0.0, 0.01])
    rows = rows_of(data_type=["bf16", "nf4"], seed=range(5))
    grid = grid_of(rows, [*(0.5 + np.zeros(5)), *(0.5 + differences)])
    found = equivalence(grid, "data_type", "nf4", "bf16", margin=0.03)
    above = stats.ttest_1samp(differences, -0.03, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.03, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below))
    assert found.is_equivalent is True
    assert "are equal within 0.03 share" in found.verdict
    close = equivalence(grid, "data_type", "nf4", "bf16", margin=0.005)
    assert close.is_equivalent is False
    assert "not shown to be equal" in close.verdict
    assert close.low90 is not None
    assert close.low90 < -0.005


def test_equal_answers_to_every_question_are_equal_up_to_an_exact_bound() -> None:
    grid = grid_of(rows_of(data_type=["bf16", "nf4"]), [[1, 0] * 50, [1, 0] * 50])
    found = equivalence(grid, "data_type", "nf4", "bf16", margin=0.03)
    assert found.p_value == pytest.approx(0.97**100)
    assert found.is_equivalent is True
    assert found.high90 == pytest.approx(1 - 0.05**0.01)
    assert effects(grid)[0].note == ALL_EQUAL
    assert equivalence(grid, "data_type", "nf4", "bf16", margin=0.02).is_equivalent is False
    losses = grid_of(rows_of(data_type=["bf16", "nf4"], seed=[0, 1]), [2.0, 2.0, 2.0, 2.0])
    assert equivalence(losses, "data_type", "nf4", "bf16", margin=0.1).is_equivalent is None


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_must_be_one(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        equivalence(grid_of(rows_of(lora_r=[8, 64]), [1, 2]), "lora_r", 64, 8, margin=margin)


def test_seeds_are_merged_with_their_spread() -> None:
    frame = merged(grid_of(rows_of(lora_r=[8, 64], seed=[0, 1]), [[0, 1], [1, 1], [0, 0], [0, 0]]))
    assert frame["value"].tolist() == [0.75, 0.0]
    assert frame["num_seeds"].tolist() == [2, 2]
    assert frame["sd_seeds"].tolist() == pytest.approx([np.std([0.5, 1.0], ddof=1), 0.0])
    assert frame["note"].tolist() == ["", ALL_EQUAL]
    assert frame["low"].isna().tolist() == [False, True]
    assert frame["low"].min() >= 0
    assert frame["runs"].tolist() == ["run0, run1", "run2, run3"]


def test_one_seed_has_wilsons_interval_as_its_own_score() -> None:
    frame = merged(grid_of(rows_of(lora_r=[8, 64]), [[0, 0, 1, 1], [1, 1, 1, 1]]))
    assert frame["low"].tolist() == pytest.approx([0.15003899, 0.51010892])
    assert frame["sd_seeds"].isna().all()
    assert frame["note"].iloc[0] == "one seed: the interval is over questions, not over seeds"


def test_the_best_of_an_axis_is_judged_on_settings_that_all_its_values_have() -> None:
    rows = [*rows_of(lora_r=[8, 64], data_type=["bf16", "nf4"]), {"lora_r": 8, "data_type": "fp4"}]
    frame = best_by_axis(grid_of(rows, [1, 2, 3, 4, 100])).set_index(["axis", "level"])
    assert frame.loc[("lora_r", "8"), "value"] == 1.5
    assert frame.loc[("lora_r", "64"), "is_best"]
    assert frame.loc[("lora_r", "8"), "behind_best"] == -2.0
    assert frame.loc[("lora_r", "8"), "best_value"] == 100
    assert frame.loc[("lora_r", "8"), "best_setting"] == "data type fp4, r 8"
    assert frame.loc[("data_type", "fp4"), "num_runs"] == 1


def test_a_measure_of_no_quality_has_no_best() -> None:
    frame = best_by_axis(grid_of(rows_of(lora_r=[8, 64]), [1, 2], higher_is_better=None))
    assert frame["is_best"].isna().all()
    assert frame["best_setting"].tolist() == ["", ""]


def test_many_values_are_each_compared_with_the_usual_one() -> None:
    rows = [*rows_of(lora_r=range(1, 15)), {"lora_r": 3, "seed": 1}]
    grid = grid_of([{"seed": 0, **row} for row in rows], [float(row["lora_r"]) for row in rows])
    found = effects(grid)
    assert {effect.against for effect in found} == {3}
    assert [effect.difference for effect in found] == [r - 3.0 for r in range(1, 15) if r != 3]
    frame = best_by_axis(grid, found).set_index("level")
    assert frame["is_best"].idxmax() == "14"
    assert frame["behind_best"]["2"] == -12.0


def test_two_axes_against_each_other() -> None:
    frame = interaction(grid_of(rows_of(lora_r=[8, 64], model=["a", "b"]), [1, 2, 3, 8]), "lora_r", "model")
    assert frame["value"].tolist() == [1, 2, 3, 8]
    assert frame["departure"].tolist() == [1, -1, -1, 1]
    rows = rows_of(lora_r=[8, 64], model=["a", "b"])[:-1]
    frame = interaction(grid_of(rows, [1, 2, 3]), "lora_r", "model")
    assert frame["note"].iloc[-1] == "no run"
    assert frame["value"].isna().tolist() == [False, False, False, True]
    assert frame["departure"].isna().all()


def uneven(firsts: Sequence[float], seconds: Sequence[float]) -> GridResults:
    """lr 1 has three seeds and lr 2 has one, each with r 8 and r 64."""
    places = [(1, 0), (1, 1), (1, 2), (2, 0)]
    rows = [{"learning_rate": lr, "seed": seed, "lora_r": r} for lr, seed in places for r in (8, 64)]
    return grid_of(rows, [value for pair in zip(firsts, seconds, strict=True) for value in pair])


def test_a_setting_counts_once_in_a_cell_however_many_seeds_it_has() -> None:
    """r 8: seeds 1, 1, 4 of lr 1 (mean 2) and 8 of lr 2 give 5, not 3.5."""
    grid = uneven([1, 1, 4, 8], [0, 0, 0, 0])
    runs, axes = grid.runs.assign(model=["a", "b"] * 4), ["learning_rate", "lora_r", "model"]
    grid = GridResults.of(runs, grid.values, measure="accuracy", axes=axes)
    frame = interaction(grid, "lora_r", "model")
    assert frame["value"].tolist()[:1] == [5.0]
    assert frame["num_runs"].tolist()[:1] == [4]
    assert frame["num_settings"].tolist()[:1] == [2]


def test_a_setting_counts_once_in_an_effect_however_many_of_its_seeds_are_paired() -> None:
    """Differences 1, 2, 3 of lr 1 (mean 2) and 6 of lr 2: 4, not 3; linearised to 2, 8/3, 10/3, 8."""
    found = effect_of(uneven([0, 0, 0, 0], [1, 2, 3, 6]), "lora_r", 64, 8)
    scipys = stats.ttest_1samp([2, 8 / 3, 10 / 3, 8], 0.0).confidence_interval(0.95)
    assert (found.difference, found.num_pairs, found.num_settings) == (pytest.approx(4.0), 4, 2)
    assert (found.low, found.high) == pytest.approx(tuple(scipys))
    assert found.sd_pairs == pytest.approx(np.std([1, 2, 3, 6], ddof=1))


def test_parallel_coordinates_place_every_setting_on_every_axis() -> None:
    figure = parallel_coordinates(grid_of(rows_of(lora_r=[8, 16, 64], model=["a", "b"]), [1, 2, 3, 4, 5, 6]))
    assert [axis.name for axis in figure.axes] == ["model", "lora_r", "value"]
    assert figure.axes[1].ticks == (("8", 0.0), ("16", 0.5), ("64", 1.0))
    assert figure.lines["at lora_r"].tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert figure.lines["at value"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_runs_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="run0 and run1 have the same values"):
        grid_of([{"lora_r": 8}, {"lora_r": 8}], [1, 2])


def test_a_run_without_any_value_is_refused() -> None:
    with pytest.raises(ValueError, match="run1: no value of accuracy"):
        grid_of(rows_of(lora_r=[8, 64]), [1, np.nan])


@pytest.mark.parametrize(("axis", "value"), [("lora_r", 9), ("colour", 8)])
def test_what_the_grid_has_not_is_named(axis: str, value: int) -> None:
    with pytest.raises(ValueError, match="the runs"):
        effect_of(grid_of(rows_of(lora_r=[8, 64]), [1, 2]), axis, value, 8)


def test_equal_answers_leave_an_interval_around_zero_and_say_that_it_is_exact() -> None:
    grid = grid_of(rows_of(data_type=["bf16", "nf4"]), [[1, 0] * 50, [1, 0] * 50])
    found = equivalence(grid, "data_type", "nf4", "bf16", margin=0.03)
    assert found.low90 == pytest.approx(-(1 - 0.05**0.01))
    assert "the same on all 100 questions: an exact bound on the share that would differ" in found.note
    wide = equivalence(grid, "data_type", "nf4", "bf16", margin=1.5)
    assert (wide.p_value, wide.is_equivalent) == (0.0, True)


def test_the_mean_of_runs_that_share_no_question_is_that_of_their_own_weighted_means() -> None:
    nan = float("nan")
    grid = grid_of(rows_of(lora_r=[8, 64]), [[0.2, 0.8, nan], [nan, nan, 0.9]], weights=np.array([3.0, 1.0, 2.0]))
    mean, note = mean_of(grid, [0, 1])
    assert mean.mean == pytest.approx((0.25 * (3 * 0.2 + 0.8) + 0.9) / 2)
    assert note == "no question is common to all runs: each run is one number"
    assert mean.num_questions == 1
    shared, lacking = mean_of(grid_of(rows_of(lora_r=[8, 64]), [[0.2, 0.8, 0.5], [nan, 0.4, 0.9]]), [0, 1])
    assert shared.mean == pytest.approx((0.8 + 0.5 + 0.4 + 0.9) / 4)
    assert lacking == "questions that some run lacks are left out: 1"
    unweighted, _ = mean_of(grid_of(rows_of(lora_r=[8, 64]), [[0.2, 0.8, nan], [nan, nan, 0.9]]), [0, 1])
    assert unweighted.mean == pytest.approx((0.5 + 0.9) / 2)


def test_a_departure_is_what_a_cell_has_beyond_its_row_and_its_column() -> None:
    grid = grid_of(rows_of(lora_r=[8, 64], dataset=["a", "b"]), [1.0, 2.0, 4.0, 9.0])
    found = interaction(grid, "lora_r", "dataset")
    assert found["departure"].tolist() == pytest.approx([1.0, -1.0, -1.0, 1.0])
    assert found["value"].tolist() == [1.0, 2.0, 4.0, 9.0]
    assert (found["num_runs"].tolist(), found["num_settings"].tolist()) == ([1] * 4, [1] * 4)
    with pytest.raises(ValueError, match="interaction of lora_r with itself: name two axes"):
        interaction(grid, "lora_r", "lora_r")


@pytest.mark.parametrize(
    ("values", "more", "why"),
    [
        ([1.0], {}, r"values of shape \(1, 1\): expected 2 runs x 1 questions"),
        ([1.0, 2.0], {"axes": ["lora_r", "size"], "seeds": ["s"]}, "no column size, s; the runs have lora_r"),
        ([1.0, float("nan")], {}, "run1: no value of accuracy; leave these runs out"),
    ],
)
def test_tables_that_do_not_fit_their_runs_are_refused(values: list[float], more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        grid_of(rows_of(lora_r=[8, 64]), values, **more)


def test_levels_are_in_order_and_an_absent_value_comes_last() -> None:
    runs = pd.DataFrame({"size": pd.Categorical(["7b", "13b", None], categories=["7b", "13b", "65b"]), "r": [64, 8, 8]})
    grid = GridResults.of(runs, np.array([1.0, 2.0, 3.0]), measure="m", unit="", axes=["size", "r"], seeds=[])
    assert grid.levels("size") == ["7b", "13b", None]
    assert grid.levels("r") == [8, 64]
    assert (grid.rows_of("size", None), grid.rows_of("r", 8)) == ([2], [1, 2])
    assert (grid.setting(0), grid.setting(0, without=("size",)), grid.seed(0)) == (("7b", 64), (64,), ())
    assert grid.settings_rows(without=("size",)) == {(64,): [0], (8,): [1, 2]}
    with pytest.raises(ValueError, match="axis 'x': the runs differ in size, r"):
        grid.levels("x")

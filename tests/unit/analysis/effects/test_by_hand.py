"""Words, followers, notes and measures of grids by hand, and what stands in the frames of `analysis.effects`."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.effects import measures, tables
from analysis.effects.compare import Effect, Equivalence, effect_of, effects, effects_frame, equivalence
from analysis.effects.grid import (
    GridResults,
    even_weights,
    followers,
    level_text,
    pair_up,
    pairings,
    setting_text,
)
from analysis.effects.measures import of_column, of_questions, of_scores, of_verdicts
from analysis.effects.tables import best_by_axis, interaction, merged, parallel_coordinates
from eval.benchmarks.intervals import wilson_interval
from eval.verdicts.table import Verdicts

NAN = float("nan")


def grid_of(rows: Sequence[dict[str, Any]], values: Any, **more: Any) -> GridResults:
    runs = pd.DataFrame(list(rows), index=[f"run{number}" for number in range(len(rows))])
    table = np.asarray(values, dtype=np.float64)
    names = [f"q{number}" for number in range(table.shape[1])] if table.ndim == 2 else [""]
    return GridResults.of(runs, table, **({"measure": "accuracy", "unit": "share", "questions": names} | more))


def rows_of(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


EFFECT = Effect(
    axis="lora_r",
    value=64,
    against=8,
    measure="m",
    unit="share",
    difference=0.125,
    low=-0.5,
    high=0.75,
    p_value=0.5,
    p_holm=0.04,
    num_pairs=2,
    num_settings=1,
    num_questions=1,
    sd_pairs=None,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "r 64 against 8: +0.125 [-0.5, +0.75] share, 2 pairs"),
        ({"num_pairs": 1, "low": None, "unit": ""}, "r 64 against 8: +0.125, 1 pair"),
        (
            {"along": ("lora_alpha", "train.x"), "note": "one run", "value": None},
            "r not set against 8, together with alpha, train.x: +0.125 [-0.5, +0.75] share, 2 pairs; one run",
        ),
        ({"difference": None, "note": "no pair"}, "r 64 against 8: no pair"),
    ],
)
def test_an_effect_in_words(changes: dict[str, Any], said: str) -> None:
    assert replace(EFFECT, **changes).sentence() == said


def test_an_effect_is_significant_below_five_percent() -> None:
    found = [replace(EFFECT, p_holm=p).is_significant for p in (0.049, 0.05, None)]
    assert found == [True, False, None]


EQUAL = Equivalence(
    axis="lora_r",
    value=64,
    against=8,
    measure="m",
    unit="points",
    margin=1.5,
    difference=0.5,
    low90=-0.25,
    high90=1.25,
    p_value=0.012,
    is_equivalent=True,
    num_pairs=2,
    num_questions=1,
    note="",
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "r 64 and 8 are equal within 1.5 points (p = 0.012, 90 % interval [-0.25, +1.25])"),
        (
            {"is_equivalent": False, "unit": "", "note": "one run"},
            "r 64 and 8 are not shown to be equal within 1.5 (p = 0.012, 90 % interval [-0.25, +1.25], one run)",
        ),
        ({"is_equivalent": None, "note": "no pair"}, "r 64 and 8: can't be tested (no pair)"),
    ],
)
def test_equality_in_words(changes: dict[str, Any], said: str) -> None:
    assert replace(EQUAL, **changes).verdict == said


def test_an_equality_has_every_number() -> None:
    grid = grid_of(rows_of(lora_r=[8, 64], seed=[0, 1, 2]), [1.0, 2.0, 3.0, 1.5, 2.5, 3.25])
    found = equivalence(grid, "lora_r", 64, 8, margin=1.0)
    assert (found.difference, found.num_pairs, found.num_questions) == (pytest.approx(1.25 / 3), 3, 1)
    assert (found.measure, found.unit, found.margin, found.axis, found.value, found.against) == (
        "accuracy",
        "share",
        1.0,
        "lora_r",
        64,
        8,
    )
    none = equivalence(grid_of([*rows_of(lora_r=[8, 64])[:1], {"lora_r": 64, "x": 1}], [1, 2]), "lora_r", 64, 8, 1.0)
    assert (none.difference, none.p_value, none.is_equivalent) == (1.0, None, None)


def test_effects_without_a_pair_or_a_common_question_have_no_number() -> None:
    rows = [
        row | {"lora_r": 8 if row["model"] == "a" else 64} for row in rows_of(model=["a", "b"], data_type=["x", "y"])
    ]
    lone = effects(grid_of(rows, [1.0, 2.0, 3.0, 4.0]), ["lora_r"])[0]
    assert (lone.difference, lone.num_pairs, lone.num_questions) == (None, 0, 0)
    assert lone.note == "no two runs differ in r alone (they also differ in model, data type)"
    apart = effect_of(grid_of(rows_of(lora_r=[8, 64]), [[1.0, NAN], [NAN, 1.0]]), "lora_r", 64, 8)
    assert (apart.difference, apart.num_pairs, apart.num_questions) == (None, 1, 0)
    assert apart.note == "the runs of a pair have no question in common"


def test_the_frame_of_effects() -> None:
    frame = effects_frame([replace(EFFECT, along=("a", "b"), value=None), replace(EFFECT, p_holm=None, low=None)])
    assert list(frame) == [
        "axis",
        "value",
        "against",
        "measure",
        "unit",
        "difference",
        "low",
        "high",
        "p_value",
        "p_holm",
        "num_pairs",
        "num_settings",
        "num_questions",
        "sd_pairs",
        "along",
        "note",
        "is_significant",
    ]
    assert (frame["value"].tolist(), frame["against"].tolist(), frame["along"].tolist()) == (
        ["not set", "64"],
        ["8", "8"],
        ["a, b", ""],
    )
    assert frame["is_significant"].isna().tolist() == [False, True]
    types = {name: str(frame[name].dtype) for name in ("axis", "value", "along", "low", "sd_pairs", "is_significant")}
    assert types == {
        "axis": "category",
        "value": "string",
        "along": "string",
        "low": "Float64",
        "sd_pairs": "Float64",
        "is_significant": "boolean",
    }
    assert len(effects_frame([])) == 0


RANDOM = [{"model": "a", "lora_r": 8, "learning_rate": 1.0}, {"model": "b", "lora_r": 8, "learning_rate": 2.0}]


@pytest.mark.parametrize(
    ("rows", "axis", "found"),
    [
        ([*RANDOM, {"model": "a", "lora_r": 64, "learning_rate": 3.0}], "model", []),  # points of a random search
        (
            [{"model": m, "lora_r": r, "learning_rate": m + r} for m in (1, 2) for r in (10, 20)],
            "model",
            ["learning_rate"],
        ),
        ([{"model": m, "lora_r": r, "learning_rate": m} for m in (1, 2) for r in (10, 20)], "model", ["learning_rate"]),
        (
            [{"model": m, "lora_r": r, "learning_rate": m} for m in (1, 2) for r in (10, 20)],
            "lora_r",
            ["learning_rate"],
        ),
        ([{"model": m, "lora_r": m} for m in (1, 2)], "model", ["lora_r"]),
        (
            [{"model": m, "lora_r": r, "learning_rate": x} for m in (1, 2) for r in (10, 20) for x in (1, 2)],
            "model",
            [],
        ),
        (
            [
                {"model": m, "lora_r": r, "batch_size": b, "learning_rate": m * b}
                for m in (1, 2)
                for r in (10, 20)
                for b in (3, 5)
            ],
            "model",
            ["batch_size", "learning_rate"],
        ),
        (
            [
                {"model": m, "lora_r": r, "batch_size": b, "learning_rate": r * b}
                for m in (1, 2)
                for r in (10, 20)
                for b in (3, 5)
            ],
            "model",
            [],
        ),
    ],
)
def test_later_axes_that_follow_one(rows: list[dict[str, Any]], axis: str, found: list[str]) -> None:
    grid = grid_of(rows, np.arange(len(rows)), axes=list(rows[0]), seeds=[])
    assert followers(grid, axis) == found


def test_what_changes_along_is_what_differs_where_both_are_set() -> None:
    places = ((1, 8, 1.0), (2, 8, None), (1, 16, 1.0), (2, 16, None))
    rows = [{"model": m, "lora_r": r, "learning_rate": rate} for m, r, rate in places]
    grid = grid_of(rows, [1, 2, 3, 4], axes=["model", "lora_r", "learning_rate"], seeds=[])
    assert followers(grid, "model") == ["learning_rate"]
    assert pair_up(grid, "model", 2, 1).along == ()
    changed = [row | {"learning_rate": float(row["model"])} for row in rows]
    grid = grid_of(changed, [1, 2, 3, 4], axes=["model", "lora_r", "learning_rate"], seeds=[])
    assert pair_up(grid, "model", 2, 1).along == ("learning_rate",)


@pytest.mark.parametrize(("num", "expected"), [(12, 66), (13, 12)])
def test_twelve_values_are_all_compared_and_thirteen_with_the_usual_one(num: int, expected: int) -> None:
    rows = [*rows_of(lora_r=range(1, num + 1), seed=[0]), {"lora_r": 5, "seed": 1}]
    found = list(pairings(grid_of(rows, np.arange(num + 1)), "lora_r"))
    assert len(found) == expected
    if num > 12:
        assert {pairing.against for pairing in found} == {5}


@pytest.mark.parametrize(
    ("rows", "settings", "note"),
    [
        (rows_of(lora_r=[8, 64], seed=[0, 1]), "xyxy", ""),
        (
            rows_of(lora_r=[8, 64], seed=[0, 1]),
            "xyxx",
            "1 pair was measured on other questions or settings and can't be compared",
        ),
        (
            rows_of(lora_r=[8, 64], seed=[0, 1]),
            "xxyy",
            "2 pairs were measured on other questions or settings and can't be compared; no two runs differ in r alone "
            "(they also differ in seed)",
        ),
        (rows_of(lora_r=[8, 64], seed=[0, 1, 2])[1:5], "xxxx", "2 runs have no partner of the same setting and seed"),
        (rows_of(lora_r=[8, 64], seed=[0, 1])[1:], "xxx", "1 run has no partner of the same setting and seed"),
    ],
)
def test_runs_without_a_partner_are_counted(rows: list[dict[str, Any]], settings: str, note: str) -> None:
    grid = grid_of(rows, np.arange(len(rows)), settings=list(settings), axes=["lora_r"], seeds=["seed"])
    assert pair_up(grid, "lora_r", 64, 8).note == note


def test_weights_by_which_each_setting_counts_once() -> None:
    assert even_weights([(1,), (2,)]) is None
    assert even_weights([]) is None
    weights = even_weights([(1,), (2,), (1,)])
    assert weights is not None
    assert weights.tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        (0.0002, "0.0002"),
        (1.0, "1"),
        (0.12345678, "0.12345678"),
        (64, "64"),
        (True, "True"),
        ("a", "a"),
    ],
)
def test_values_in_words(value: Any, text: str) -> None:
    assert level_text(value) == text
    assert setting_text(["lora_r", "x"], [value, 1]) == f"r {text}, x 1"


def test_a_grid_keeps_what_it_was_given() -> None:
    runs = pd.DataFrame({"lora_r": [8, 64], "seed": [0, 0], "x": [1, 1]}, index=["a", "b"])
    grid = GridResults.of(runs, np.array([1, 2]), measure="m")
    assert (grid.unit, grid.higher_is_better, grid.questions, grid.weights) == ("", True, ("",), None)
    assert (grid.settings, grid.axes, grid.seeds, grid.left_out) == (("", ""), ("lora_r",), (), ())
    assert grid.values.tolist() == [[1.0], [2.0]]
    assert [type(level) for level in grid.columns["lora_r"]] == [int, int]
    with pytest.raises(ValueError, match=r"lora_r=9: no run has it; the runs have 8, 64"):
        pair_up(grid, "lora_r", 9, 8)
    empty = pd.DataFrame({"lora_r": [8] * 7}, index=list("abcdefg"))
    with pytest.raises(ValueError, match=r"^a, b, c, d, e: no value of m; leave these runs out$"):
        GridResults.of(empty, np.full(7, NAN), measure="m", axes=["lora_r"], seeds=[])
    with pytest.raises(ValueError, match="a and b have the same values of all axes: name the axis or seed"):
        GridResults.of(empty[:2], np.ones(2), measure="m", axes=[], seeds=[])


def runs_of(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {"state": "done", "method": "lora"}
    return pd.DataFrame([base | {"run_id": f"id{n}", "label": f"run{n}"} | row for n, row in enumerate(rows)])


def test_a_column_of_runs_leaves_out_and_names_the_others() -> None:
    frame = runs_of(
        {"lora_r": 8, "final_loss": 1.0},
        {"lora_r": 64, "final_loss": 2.0},
        {"method": "none", "final_loss": 3.0},
        {"state": "failed", "final_loss": 4.0},
        {"final_loss": None, "label": None},
    )
    grid = of_column(frame, "final_loss", axes=["lora_r"])
    assert (grid.values.tolist(), grid.measure, grid.unit, grid.higher_is_better) == (
        [[1.0], [2.0]],
        "final_loss",
        "nats a token",
        False,
    )
    assert list(grid.runs.index) == ["run0", "run1"]
    assert grid.left_out == (
        "1 untouched base left out, no point of the grid: run2",
        "1 run left out, not done: run3",
        "1 run left out, without final_loss: id4",
    )
    with pytest.raises(ValueError, match="final_los: no such column; the runs have state, method, run_id, label"):
        of_column(frame, "final_los")
    with pytest.raises(ValueError, match=r"^final_loss: no run has a value; 1 run left out, not done: run3$"):
        of_column(frame[3:4], "final_loss")
    named = [
        of_column(frame[:2].assign(**{name: 1.0}), name, axes=["lora_r"]) for name in ("train_seconds", "accuracy")
    ]
    assert [grid.higher_is_better for grid in named] == [False, True]
    assert of_column(frame[:2], "final_loss", higher_is_better=True, axes=["lora_r"]).higher_is_better is True


def test_runs_of_one_label_go_by_their_ids_and_many_are_counted() -> None:
    frame = runs_of(*({"lora_r": n, "label": "same" if n < 2 else f"l{n}", "final_loss": 1.0} for n in range(3)))
    assert list(of_column(frame, "final_loss", axes=["lora_r"]).runs.index) == ["id0", "id1", "l2"]
    many = [{"lora_r": 8, "final_loss": 1.0}, *({"state": "failed", "final_loss": 1.0} for _ in range(6))]
    assert of_column(runs_of(*many), "final_loss", axes=[]).left_out == (
        "6 runs left out, not done: run1, run2, run3, run4, run5 and 1 more",
    )
    assert of_column(runs_of(*many[:6]), "final_loss", axes=[]).left_out == (
        "5 runs left out, not done: run1, run2, run3, run4, run5",
    )


def scores_of(**more: Any) -> pd.DataFrame:
    values = {
        "run_id": ["id1", "id0", "id1"],
        "evaluation": ["mmlu", "mmlu", "x"],
        "metric": ["accuracy", "accuracy", "y"],
        "value": [0.75, 0.5, None],
        "unit": "share",
        "higher_is_better": True,
        "settings_sha256": ["s1", None, "s"],
    }
    return pd.DataFrame(values | more)


def test_scores_of_runs() -> None:
    frame = runs_of({"lora_r": 8}, {"lora_r": 64})
    grid = of_scores(frame, scores_of(), "mmlu", "accuracy")
    assert (grid.values.tolist(), grid.measure, grid.unit, grid.higher_is_better, grid.settings) == (
        [[0.5], [0.75]],
        "mmlu accuracy",
        "share",
        True,
        ("", "s1"),
    )
    bare = of_scores(frame, scores_of(unit=None, higher_is_better=None), "mmlu", "accuracy")
    assert (bare.unit, bare.higher_is_better) == ("", None)
    assert of_scores(frame, scores_of(higher_is_better=False), "mmlu", "accuracy").higher_is_better is False
    with pytest.raises(ValueError, match=r"^x y: no run has such a score; there is mmlu accuracy$"):
        of_scores(frame, scores_of(), "x", "y")
    with pytest.raises(ValueError, match=r"^x y: no run has such a score; there is none$"):
        of_scores(frame, scores_of()[2:], "x", "y")


def questions_of(**more: Any) -> pd.DataFrame:
    values = {
        "run_id": ["id1", "id1", "id0", "id0"],
        "evaluation": "p",
        "metric": "loss",
        "question": ["b", "a", "b", "a"],
        "value": [1.0, 2.0, 3.0, 4.0],
        "weight": [5.0, 7.0, 5.0, 7.0],
        "unit": "nats",
        "higher_is_better": False,
        "settings_sha256": ["s1", "s1", None, None],
    }
    return pd.DataFrame(values | more)


def test_questions_of_runs() -> None:
    frame = runs_of({"lora_r": 8}, {"lora_r": 64}, {"method": "none"})
    grid = of_questions(frame, questions_of(), "p")
    assert (grid.values.tolist(), grid.questions) == ([[4.0, 3.0], [2.0, 1.0]], ("a", "b"))
    assert grid.weights is not None
    assert grid.weights.tolist() == [7.0, 5.0]
    assert (grid.measure, grid.unit, grid.higher_is_better, grid.settings) == ("p loss", "nats", False, ("", "s1"))
    assert grid.left_out == ("1 untouched base left out, no point of the grid: run2",)
    for even in (None, 3.0):
        bare = of_questions(frame, questions_of(weight=even, unit=None, higher_is_better=None), "p", "loss")
        assert (bare.weights, bare.unit, bare.higher_is_better) == (None, "", None)
    two = questions_of(metric=["loss", "acc", "loss", "acc"])
    assert of_questions(frame, two, "p", "acc").measure == "p acc"
    for frame_of, metric, why in (
        (two, None, "p: name a metric; there are loss, acc"),
        (two, "x", "p x: no run has such results by question; there is p"),
        (questions_of(value=None), None, "p : no run has such results by question; there is p"),
        (questions_of(question="a"), None, "p: run id1 has question 'a' twice; score it again"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            of_questions(frame, frame_of, "p", metric)
        assert str(caught.value) == why


def verdicts_of(*wins: tuple[str, str, str]) -> Verdicts:
    return Verdicts.of(
        questions=[question for question, _, _ in wins],
        pairs=[(one, other) for _, one, other in wins],
        verdicts=[1] * len(wins),
        judges=["j"] * len(wins),
    )


def test_ratings_of_runs_name_who_only_won() -> None:
    frame = runs_of({"lora_r": 8}, {"lora_r": 64}, {"lora_r": 128})
    wins = [("q1", "run0", "run1"), ("q2", "run0", "run1"), ("q1", "run1", "other"), ("q2", "other", "run1")]
    grid = of_verdicts(frame, verdicts_of(*wins))
    assert (grid.measure, grid.unit, grid.questions) == ("Bradley-Terry rating", "points", ("q1", "q2"))
    assert grid.left_out == (
        "1 run left out, without a rating: run2",
        "run0: only wins or only losses, so a weak prior holds the rating",
    )
    assert grid.values[0].mean() > grid.values[1].mean()
    twice = frame.assign(label=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"^a: several runs have this label, so a verdict names none of them"):
        of_verdicts(twice, verdicts_of(*wins))
    with pytest.raises(ValueError, match="2 groups of systems never met, so their ratings can't be compared"):
        of_verdicts(frame, verdicts_of(("q", "run0", "run1"), ("q", "x", "y")))


def test_prompts_are_moved_in_blocks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cells: Any = SimpleNamespace(num_systems=3, num_questions=5)
    for most, expected in ((32, [[0, 1], [2, 3], [4]]), (48, [[0, 1, 2], [3, 4]]), (1, [[0], [1], [2], [3], [4]])):
        monkeypatch.setattr(measures, "_MAX_NUMBERS", most)
        assert [block.tolist() for block in measures._blocks(cells)] == expected


def test_settings_of_seeds_and_of_shares_end_at_one() -> None:
    def one_setting(*values: list[int]) -> pd.DataFrame:
        return merged(grid_of(rows_of(lora_r=[8], seed=[0, 1]), values, axes=["lora_r"], seeds=["seed"]))

    high = one_setting([1, 1, 1, 0], [1, 1, 1, 1])
    assert (high["high"][0], high["value"][0]) == (1.0, 0.875)
    assert 0.0 <= high["low"][0] < 0.875
    low = one_setting([0, 0, 0, 1], [0, 0, 0, 0])
    assert low["low"][0] == 0.0
    assert 0.125 < low["high"][0] <= 1.0
    free = one_setting([0, 0, 0, 2], [0, 0, 0, 0])
    assert free["low"][0] < 0.0


def test_one_value_stands_in_the_middle_of_parallel_coordinates() -> None:
    figure = parallel_coordinates(grid_of(rows_of(lora_r=[8, 64]), [2.0, 2.0]))
    assert figure.axes[-1].ticks == (("2", 0.5),)
    assert figure.lines["at value"].tolist() == [0.5, 0.5]
    wide = parallel_coordinates(grid_of(rows_of(lora_r=[8, 64]), [1.0, 3.0]))
    assert (wide.axes[-1].ticks, wide.axes[-1].title) == ((("1", 0.0), ("3", 1.0)), "accuracy")
    single = parallel_coordinates(grid_of([{"lora_r": 8}], [1.0], axes=["lora_r"], seeds=[]))
    assert single.axes[0].ticks == (("8", 0.0),)


def test_the_best_of_an_axis_with_its_distance_and_interval() -> None:
    grid = grid_of(rows_of(lora_r=[8, 64], seed=[0, 1, 2]), [1.0, 2.0, 3.0, 2.0, 3.5, 4.25])
    frame = best_by_axis(grid).set_index("level")
    effect = effect_of(grid, "lora_r", 64, 8)
    behind = frame.loc["8"]
    assert effect.low is not None
    assert effect.high is not None
    assert behind["behind_best"] == pytest.approx(-(effect.difference or 0.0))
    assert (behind["low"], behind["high"]) == pytest.approx((-effect.high, -effect.low))
    assert behind["p_holm"] == pytest.approx(effect.p_holm)
    assert frame["note"].tolist() == ["", ""]
    lower = best_by_axis(replace(grid, higher_is_better=False)).set_index("level")
    assert (lower["is_best"].tolist(), lower.loc["64", "low"]) == ([True, False], pytest.approx(effect.low))
    assert lower.loc["8", ["best_setting", "best_value"]].tolist() == ["r 8", 2.0]


def test_values_of_an_axis_that_share_no_setting_are_said() -> None:
    rows = [{"lora_r": 8, "model": "a"}, {"lora_r": 64, "model": "b"}]
    frame = best_by_axis(grid_of(rows, [1.0, 2.0], axes=["lora_r", "model"], seeds=[]))
    said = "no setting of the other axes was run with every value: means are over different ones"
    assert all(note.startswith(said) for note in frame["note"][2:])
    assert frame["value"].tolist()[2:] == [1.0, 2.0]
    cells = interaction(grid_of([*rows, {"lora_r": 8, "model": "b"}], [1.0, 2.0, 3.0]), "lora_r", "model")
    assert cells["note"].tolist()[2] == "no run"
    assert cells["num_runs"].tolist() == [1, 1, 0, 1]


def test_cells_of_different_settings_are_said() -> None:
    rows = [
        {"lora_r": r, "model": m, "dataset": d}
        for r, m, d in ((8, "a", "x"), (8, "b", "x"), (64, "a", "x"), (64, "b", "y"))
    ]
    axes = ["dataset", "model", "lora_r"]
    found = interaction(grid_of(rows, [1.0, 2.0, 3.0, 4.0], axes=axes, seeds=[]), "lora_r", "model")
    assert all(note.endswith("cells hold different settings of the other axes") for note in found["note"])
    alike = interaction(grid_of(rows[:3], [1.0, 2.0, 3.0], axes=axes, seeds=[]), "lora_r", "model")
    assert not any("different settings" in note for note in alike["note"])


def test_shares_of_one_run_have_wilsons_interval_and_end_where_shares_end() -> None:
    """Two of three right; a single number of a run is no count, whatever it is."""
    one = grid_of(rows_of(lora_r=[8, 64]), [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mean, _ = tables.mean_of(one, [0])
    assert tables._interval(one, [0], mean) == pytest.approx(wilson_interval(2, 3))
    holed = grid_of(rows_of(lora_r=[8, 64]), [[1.0, np.nan, 0.0], [0.0, 0.0, 0.0]])
    assert tables._interval(holed, [0], tables.mean_of(holed, [0])[0]) == pytest.approx(wilson_interval(1, 2))
    number = grid_of(rows_of(lora_r=[8, 64]), [1.0, 0.0])
    assert tables._interval(number, [0], tables.mean_of(number, [0])[0]) == (None, None)
    seeds = grid_of(rows_of(lora_r=[8], seed=[0, 1]), [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]], seeds=["seed"])
    both = tables.mean_of(seeds, [0, 1])[0]
    wide = both.interval()
    assert wide is not None
    assert tables._interval(seeds, [0, 1], both) == (max(0.0, wide[0]), min(1.0, wide[1]))
    percent = grid_of(rows_of(lora_r=[8, 64]), [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    alone = tables.mean_of(percent, [0])[0]
    assert tables._interval(percent, [0], alone) == alone.interval()

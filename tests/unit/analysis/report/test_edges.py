"""Edges of the report's parts: points of tied matches, round steps, MMLU by subject, what templates are given."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.effects.grid import level_text
from analysis.report import figures, grid, leaderboard, records, render, sections
from analysis.report.examples.failures import _points
from analysis.report.figures import Scale, round_ticks
from analysis.report.formats import FILTERS
from analysis.report.leaderboard import LeaderboardRow
from analysis.report.plots import axes, drawing, tournament
from analysis.report.plots import runs as run_figures
from analysis.report.plots.charts import Line, curves
from analysis.report.sections import DENSE_ABOVE, run_settings
from analysis.tidy.axes import title_of
from eval.ratings.comparisons import probability
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_points_of_each_answer_over_both_orders() -> None:
    """A win is two half points, a tie one; what could not be read is no match."""
    one = made(question_id="q", one="a", two="b", forward=(FIRST, FIRST, TIE), backward=(SECOND, UNPARSED))
    other = made(question_id="q", one="a", two="c", forward=(TIE, TIE), backward=())
    assert _points([one, other]) == {("q", "a"): (7, 6), ("q", "b"): (3, 4), ("q", "c"): (2, 2)}


@pytest.mark.parametrize(
    ("low", "high", "num", "ticks"),
    [
        (0.0, 10.0, 10, (0, 2, 4, 6, 8, 10)),  # 11 ones are too many
        (0.0, 10.0, 11, tuple(range(11))),
        (0.0, 9.0, 10, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (0.0, 10.0, 6, (0, 2, 4, 6, 8, 10)),
        (0.0, 10.0, 5, (0, 5, 10)),
        (0.0, 10.0, 3, (0, 5, 10)),
        (0.0, 10.0, 2, (0, 10)),
        (0.0, 21.0, 2, (0, 20)),
        (1.0, 21.0, 1, (20,)),
        (39.0, 59.0, 1, (40,)),
        (0.0, 20.0 - 1e-10, 2, (0, 20)),  # three tens, up to rounding
        (0.5, 4.5, 4, (1, 2, 3, 4)),  # the least step of all: the span over their number
        (11.0, 12.0, 4, (11, 11.5, 12)),
        (-1.0, 1.0, 5, (-1, -0.5, 0, 0.5, 1)),
    ],
)
def test_steps_are_one_two_or_five_of_a_power_of_ten(low: float, high: float, num: int, ticks: tuple[float]) -> None:
    assert round_ticks(low, high, num) == pytest.approx(ticks)


def test_mmlu_of_a_grid_is_read_subject_by_subject() -> None:
    """A run without MMLU is left out; a subject that a run lacks is a hole."""
    frame = pd.DataFrame(
        [
            {"run_id": f"r{n}", "label": label, "method": "lora", "lora_r": r, "state": "done"}
            for n, (label, r) in enumerate((("a", 8), ("b", 16), ("c", 32)))
        ]
    )
    scores = {
        "r0": made(subjects={"law": (0.5, 10), "art": (0.25, 4)}, settings_sha256="s0"),
        "r1": made(subjects={"law": (0.75, 10)}, settings_sha256="s1"),
        "r2": None,
    }
    runs = [made(record=made(run_id=name), mmlu=found) for name, found in scores.items()]
    runs.append(made(record=made(run_id="r9"), mmlu=made(subjects={})))
    seen: list[Any] = []
    kept = grid.GridResults.of
    grid_of: Any = lambda points, values, **more: seen.append((points, values, more)) or "made"  # noqa: E731
    try:
        grid.GridResults.of = grid_of  # type: ignore[method-assign]
        made_of: Any = grid._mmlu(frame, runs)
        assert made_of == "made"
        assert grid._mmlu(frame, runs[2:]) is None
    finally:
        grid.GridResults.of = kept  # type: ignore[method-assign]
    [(points, values, more)] = seen
    assert (list(points["label"]), list(points.index)) == (["a", "b"], ["a", "b"])
    np.testing.assert_array_equal(values, np.array([[0.25, 0.5], [np.nan, 0.75]]))
    assert more == {"measure": "mmlu accuracy", "unit": "share", "questions": ["art", "law"], "settings": ["s0", "s1"]}


def test_what_templates_are_given() -> None:
    given = render.environment.__wrapped__()  # made anew: the kept one was made for an earlier test
    assert {name: given.filters[name] for name in FILTERS} == FILTERS
    assert (given.filters["axis_title"], given.filters["level"]) == (title_of, level_text)
    names = {
        "run_settings": run_settings, "dense_above": DENSE_ABOVE, "control_system": render.NULL_SYSTEM,
        "probability": probability, "curve_y": figures.curve_y, "curve_width": figures.CURVE_WIDTH,
        "curve_height": figures.CURVE_HEIGHT,
    }  # fmt: skip
    assert {name: given.globals[name] for name in names} == names
    assert given.autoescape is True
    assert (given.trim_blocks, given.lstrip_blocks, given.undefined) == (True, True, render.StrictUndefined)


def test_a_record_without_a_data_type_has_the_name_of_its_quantization() -> None:
    def run_of(**quant: Any) -> Any:
        return made(setting=lambda group, key: quant.get(key))

    assert leaderboard._quant(run_of()) is None
    assert leaderboard._quant(run_of(method="nobodys")) == "nobodys"
    assert leaderboard._quant(run_of(name="mine", method="nobodys", compute_dtype="bfloat16")) == "mine"
    assert leaderboard._quant(run_of(name="nf4", method="nf4", compute_dtype="bfloat16")) == "nf4"
    assert leaderboard._quant(run_of(method="none", compute_dtype="float16")) == "fp16"


def test_held_out_rows_are_rings_beside_their_curve() -> None:
    line = Line(label="a", points=[(0.0, 2.0), (10.0, 1.0)], beside=[(5.0, 1.75)], end=1.5)
    bare = Line(label="a", points=[(0.0, 2.0), (10.0, 1.0)])
    marks, without = (curves([one], "steps", "nats").marks for one in (line, bare))
    rings = [mark for mark in marks if "open" in mark]
    assert len(rings) == 2
    assert "a, held-out rows at 5: 1.75" in rings[0]
    assert 'r="3"' in rings[0].replace("3.0", "3")
    assert "a, held out: 1.5" in rings[1]
    assert 'r="4.5"' in rings[1]
    assert [mark for mark in without if "open" in mark] == []


@pytest.mark.parametrize(("row_tokens", "most"), [(None, 7), (300, 300)])
def test_memory_is_predicted_of_the_passes_that_were_made(
    monkeypatch: pytest.MonkeyPatch, row_tokens: int | None, most: int
) -> None:
    @dataclass(frozen=True)
    class Spec:
        train: Any

    @dataclass(frozen=True)
    class Train:
        max_microbatch_tokens: int = 7

    seen: list[Any] = []
    predictions = iter([made(resident_bytes=5), None])
    monkeypatch.setattr(run_figures.RunSpec, "from_dict", lambda spec, where: seen.append((spec, where)) or Spec(spec))
    monkeypatch.setattr(run_figures, "predict_run", lambda spec: seen.append(spec.train) or next(predictions))
    one: Any = made(folder=Path("f"), record=made(spec=Train(), row_tokens=row_tokens))
    assert run_figures._predicted_bytes(one) == 5
    assert seen == [(Train(), "f/record.json"), Train(max_microbatch_tokens=most)]
    bare: Any = made(folder=Path("f"), record=made(spec=None, row_tokens=row_tokens))
    assert run_figures._predicted_bytes(bare) is None
    assert seen[3] is None


def test_systems_that_never_met_have_no_points() -> None:
    def verdict(first: str, second: str, code: int = FIRST) -> Any:
        return made(question_id="q", first=first, second=second, verdict=code)

    assert tournament._points([verdict("a", "b"), verdict("c", "d")]) == {}
    assert list(tournament._points([verdict("c", "b"), verdict("b", "a"), verdict("a", "c")])) == ["a", "b", "c"]


def test_a_tournament_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: no such folder; leave --tournament out for a report without one"):
        records.load_tournament(tmp_path / "none")
    empty = records.load_tournament(tmp_path)
    assert (empty.verdicts, empty.ratings, empty.judges, empty.votes) == ((), None, (), ())


@pytest.mark.parametrize("scale", [1.0, 0.0625])
def test_the_heat_map_is_of_the_two_largest_effects(scale: float) -> None:
    """8 points between models, 4 between ranks, 1 between datasets: in the order of their size, not of the axes."""
    rows = [{"dataset": d, "lora_r": r, "model": m} for d in "ab" for r in (8, 64) for m in ("x", "y")]
    runs = pd.DataFrame(rows, index=[f"run{n}" for n in range(8)])
    size = {"a": 0.0, "b": 1.0, 8: 0.0, 64: -4.0, "x": 0.0, "y": 8.0}
    values = [scale * sum(size[level] for level in row.values()) for row in rows]
    made_of = grid.GridResults.of(runs, np.array(values), measure="m", unit="points", axes=list(rows[0]), seeds=[])
    view = grid._filled("mmlu", "T", made_of).heat_map
    assert view is not None
    assert (view.first, view.second, view.rows, view.columns) == ("model", "r", ("x", "y"), ("8", "64"))
    assert view.values == ((scale * 0.5, scale * -3.5), (scale * 8.5, scale * 4.5))


def test_the_leaderboard_of_a_terminal_column_by_column() -> None:
    def row(system: str, rank: int | None, **more: Any) -> LeaderboardRow:
        return LeaderboardRow(rank=rank, system=system, **more)

    rows = [
        row("a", 1, elo=1010.4, elo_low=990.0, elo_high=1030.0, mmlu_macro=0.456,
            mmlu_macro_low=0.4, mmlu_macro_high=0.5),
        row("b", 2, elo=990.0, matches=6, wins=1, losses=2, ties=3), row("c", None),
    ]  # fmt: skip
    table = leaderboard.leaderboard_table(rows)
    elo, _, accuracy, won = leaderboard.MEASURES
    assert [(one.header, one.justify, one.no_wrap, one.overflow) for one in table.columns] == [
        ("#", "right", True, "ellipsis"), ("System", "left", False, "fold"),
        *((name, "right", True, "ellipsis") for name in (elo, accuracy, won)),
    ]  # fmt: skip
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    missing = leaderboard.MISSING
    assert cells[0] == ["1", "2", missing]
    assert cells[1:] == [
        ["a", "b", "c"], ["1010\n990 to 1030", "990", missing], ["45.6\n40.0 to 50.0", missing, missing],
        [missing, "1-2-3", missing],
    ]  # fmt: skip
    assert (table.title, table.caption) == (
        "Leaderboard", "below each number: its 95 % interval, of ratings over prompts",
    )  # fmt: skip
    assert (table.pad_edge, table.padding) == (False, (0, 0, 0, 0))
    assert leaderboard.leaderboard_table(rows[2:]).caption is None


@pytest.mark.parametrize(("apart", "spread"), [(0.5, 1.0), (0.0, 1.0), (30.0, 30.0)])
def test_colours_of_ratings_reach_from_the_lowest_to_the_highest(
    monkeypatch: pytest.MonkeyPatch, apart: float, spread: float
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(tournament, "heat_map", lambda *given: drawn.append(given))
    monkeypatch.setattr(tournament, "_points", lambda found: {"a": 1000.0 + apart, "b": 1000.0 - apart / 2})
    verdicts = [made(question_id=name, verdict=code) for name, code in (("1", FIRST), ("2", UNPARSED), ("3", FIRST))]
    content: Any = made(
        tournament=made(verdicts=verdicts), categories={"1": "maths", "2": "law"}, order=("b", "c", "a")
    )
    figure = tournament.rating_by_category(content)
    cells = [[1000.0 - apart / 2], [1000.0 + apart]]
    assert drawn == [(["b", "a"], ["maths"], cells, 1000 - spread, 1000 + spread)]
    assert figure.rows == (("b", "maths", cells[0][0]), ("a", "maths", cells[1][0]))
    nothing: Any = made(tournament=None, categories={}, order=())
    assert tournament.rating_by_category(nothing).caption.startswith("Not measured: the categories")


def test_characters_that_no_xml_may_hold_are_replaced() -> None:
    assert sorted(drawing.NO_XML) == [0xFFFE, 0xFFFF]
    picture = drawing.Drawing(width=1, height=1)
    picture.text(0, 0, "a\ufffe\uffff<\U00010000")
    assert ">a\ufffd\ufffd&lt;\U00010000</text>" in picture.marks[0]


def test_ticks_of_powers_of_ten_stand_on_the_ends_too() -> None:
    along = drawing.Axis(scale=Scale(low=0.0, high=1.0, ticks=()), start=0.0, end=100.0, is_log=True)
    assert along.ticks() == [(0.0, "1"), (pytest.approx(30.10), "2"), (pytest.approx(69.90), "5"), (100.0, "10")]


def test_a_tournaments_folder_part_by_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Judges are those of the verdicts, with what is recorded of them; without verdicts, those recorded."""
    judgment = made(question_id="q", system_a="a", system_b="b")
    verdicts = [made(judge="j"), made(judge=""), made(judge="k"), made(judge="j")]
    read: list[Any] = []
    (tmp_path / "verdicts.csv").touch()
    (further := tmp_path / "more.csv").touch()
    for name, value in {
        "_verdicts": lambda paths, bench: read.append((paths, bench)) or verdicts,
        "recorded_judges": lambda folder: {"j": {"temperature": 0}, "z": {}},
        "recorded_judgments": lambda folder: [("j", judgment)],
        "recorded_flags": lambda judgments: {"flags of": len(judgments)},
        "read_ratings": lambda path: {"elo": path.name},
        "_votes": lambda ratings: ("votes", ratings),
    }.items():
        monkeypatch.setattr(records, name, value)
    found: Any = records.load_tournament(tmp_path, "bench", [further])
    assert read == [([tmp_path / "verdicts.csv", further], "bench")]
    assert [(judge.name, judge.settings) for judge in found.judges] == [("j", {"temperature": 0}), ("k", {})]
    assert found.judgments == {("j", "q", "a", "b"): judgment}
    assert (found.flagged, found.ratings) == ({"flags of": 1}, {"elo": "ratings.json"})
    assert (found.votes, found.folder, found.verdicts) == (("votes", found.ratings), tmp_path, verdicts)
    verdicts.clear()
    assert [judge.name for judge in records.load_tournament(tmp_path).judges] == ["j", "z"]


def test_votes_are_read_as_far_as_their_files_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (there := tmp_path / "a.csv").touch()
    monkeypatch.setattr(records, "_verdicts", lambda paths, bench: (paths, bench))
    settings = {"settings": {"people": [str(there), str(tmp_path / "gone.csv")]}}
    found: list[Any] = [records._votes(one) for one in (settings, {"settings": None}, {}, None)]
    assert found == [([there], None)] + [([], None)] * 3


def test_items_by_the_winner_that_each_judge_names() -> None:
    """Rows: the first judge says the second answer, neither, the first one; an item that one could not read is out."""

    def item(question: str, judge: str, *forward: int, backward: tuple[int, ...] = ()) -> Any:
        return made(question_id=question, one="a", two="b", judge=judge, forward=forward, backward=backward)

    items = [
        item("1", "j", FIRST), item("1", "k", SECOND), item("2", "j", FIRST, FIRST, SECOND), item("2", "k", FIRST),
        item("3", "j", TIE), item("3", "k", SECOND, backward=(SECOND,)), item("4", "j", UNPARSED),
        item("4", "k", FIRST), item("5", "j", FIRST),
    ]  # fmt: skip
    content: Any = made(items=items, judges=("j", "k", "l"))
    found = tournament._confusions(content)
    assert list(found) == [("j", "k")]
    assert found["j", "k"].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert tournament._both_ways({("a", "b"): 0.5}, "b", "a") == 0.5
    assert tournament._both_ways({("a", "b"): 0.5, ("b", "a"): 0.25}, "b", "a") == 0.25
    assert tournament._both_ways({}, "b", "a") is None


def test_two_axes_without_a_value_are_not_measured() -> None:
    """Cells without a run have no colour; where all are so, or all are equal, nothing is drawn."""

    def content(*values: float | None) -> Any:
        heat = made(first="r", second="model", rows=("8",), columns=("x", "y"), values=(values,), cells=({"value": 1},))
        return made(grid=[made(heat_map=None), made(heat_map=heat, title="MMLU", higher_is_better=True)])

    nothing = axes.two_axes(made(grid=[made(heat_map=None)]))  # type: ignore[arg-type]
    assert axes.two_axes(content(None, None)) == nothing
    assert (nothing.caption, nothing.drawing) == (axes.NOT_MEASURED, None)
    assert axes.two_axes(content(2.0, 2.0)).caption == "Nothing to draw: all cells are equal."
    drawn = axes.two_axes(content(2.0, None))
    assert (drawn.drawing, drawn.rows, drawn.columns) == (None, ((1,),), ("value",))
    assert axes.two_axes(content(2.0, 3.0)).caption.startswith("MMLU: mean over runs; rows are r, columns model")


@pytest.mark.parametrize(("num", "kept"), [(0, 0), (1, 1), (12, 12), (13, 7), (24, 12), (25, 9)])
def test_twelve_ticks_at_most_are_named(num: int, kept: int) -> None:
    ticks = [(str(place), float(place)) for place in range(num)]
    assert len(axes._few(ticks)) == kept
    assert list(axes._few(ticks)[:1]) == ticks[:1]


def test_an_axis_of_curves_has_three_ticks_at_most() -> None:
    one: Any = made(losses=((1, 0.0), (10, 3.0)), eval_losses=())
    view = sections.curves_view([one])
    assert view is not None
    assert view.scale.ticks == (0.0, 2.0)  # 0, 1, 2 and 3 are four


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        ({"method": "none", "lora_r": 8}, "none"),
        ({"method": "lora", "lora_r": 16}, "lora r=16"),
        ({"method": "peft", "peft_type": "gralora", "lora_r": 8}, "gralora r=8"),
        ({"method": "peft", "peft_type": "nobodys", "lora_r": 8}, "nobodys r=8"),
        ({"method": "peft", "peft_type": "oft", "lora_r": 8}, "oft"),
    ],
)
def test_an_adapter_is_named_with_its_rank_where_it_has_one(adapter: dict[str, Any], name: str) -> None:
    run: Any = made(setting=lambda *keys: adapter if keys == ("adapter",) else adapter.get(keys[1]))
    assert leaderboard.adapter_name(run) == name

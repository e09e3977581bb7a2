"""Every chart and figure is drawn as recorded in tests/golden/drawings, to the last digit of its places."""

from pathlib import Path

import pytest

from analysis.report.content import Content, ReportOptions, gather
from analysis.report.figures import Scale, bar, bin_means, curve, curve_y, round_ticks, scale_over
from analysis.report.formats import duration, interval, memory, number, p_value, parameters, percent, sortable, visible
from analysis.report.plots import runs as run_figures
from analysis.report.plots.charts import Point, scatter
from analysis.report.plots.drawing import Drawing, Figure, axis, shade, short
from analysis.report.records import load_runs
from harness.ledger.finished import SweepRuns
from harness.runs.estimate import Estimate
from tests.golden.drawings.cases import HERE, drawings, recorded
from tests.records.reports import make_runs

NBSP = "\N{NO-BREAK SPACE}"


def test_what_is_drawn_is_what_was_recorded(tmp_path: Path) -> None:
    drawn = recorded(tmp_path)
    assert sorted(drawn) == sorted(path.name for path in HERE.glob("*.txt"))
    for name, text in drawn.items():
        assert text.splitlines() == (HERE / name).read_text().splitlines(), name


def test_predicted_and_measured_memory_in_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gather(SweepRuns(run_ids=()), load_runs(*make_runs(tmp_path)), None, ReportOptions(title="t"))
    sizes = iter((2**30, None, 3 * 2**29))
    monkeypatch.setattr(run_figures, "_predicted_bytes", lambda run: next(sizes))
    figure = run_figures.memory(content)
    assert [row[2:] for row in figure.rows] == [(2**30, 1_288_490_188), (3 * 2**29, 1_288_490_188)]
    assert figure.columns == ("system", "run_id", "predicted_bytes", "measured_bytes")
    assert figure.caption.startswith("Peak of a run in GiB")
    points = [Point(label=row[0], x=x, y=1_288_490_188 / 2**30) for row, x in zip(figure.rows, (1.0, 1.5), strict=True)]
    expected = scatter(points, "predicted, GiB", "measured, GiB", equal=True)
    assert figure.drawing is not None
    assert figure.drawing.marks == expected.marks


def test_a_figure_is_broad_beyond_700_units_and_names_itself_for_those_who_do_not_see_it() -> None:
    narrow, broad = (
        Figure(name="n", title="A & B", caption="", drawing=Drawing(width=w, height=1.5)) for w in (700, 701)
    )
    assert (narrow.is_broad, broad.is_broad) == (False, True)
    assert not Figure(name="n", title="t", caption="").is_broad
    assert Figure(name="n", title="t", caption="").inline is None
    size = 'viewBox="0 0 700 1.5" width="700" height="1.5"></svg>'
    assert str(narrow.inline) == f'<svg class="plot" role="img" aria-label="A &amp; B" {size}'
    assert narrow.svg.startswith(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 1.5" width="700" height="1.5">'
    )
    assert "<title>A &amp; B</title><style>text{" in narrow.svg
    assert narrow.svg.endswith("</style></svg>\n")


def test_labels_are_cut_in_their_middle_only_where_they_are_too_long() -> None:
    assert short("a" * 44) == "a" * 44
    assert short("a" * 30 + "b" * 15) == "a" * 21 + "\N{HORIZONTAL ELLIPSIS}" + "a" * 6 + "b" * 15
    assert [shade(share) for share in (0.25, 0.49, 0.75)] == ["#e4c0a2", "#f3f2ee", "#a0c2d6"]


def test_axes_hold_all_values_and_turn_logarithmic_from_a_ratio_of_twenty_on() -> None:
    along = axis([10.0, 20.0], 100.0, 300.0)
    assert (along.scale.low, along.scale.high, along.is_log) == (9.5, 20.5, False)
    assert along.at(15.0) == 200.0
    assert axis([3.0, 3.0], 0.0, 1.0).scale.low == pytest.approx(3.0 - 0.015)
    assert axis([0.5], 0.0, 1.0).scale.high == pytest.approx(0.505)
    assert [axis([1.0, high], 0.0, 1.0, is_log=True).is_log for high in (19.9, 20.0)] == [False, True]
    powers = axis([1.0, 1000.0], 0.0, 1.0, is_log=True)
    assert (powers.scale.low, powers.scale.high) == pytest.approx((-0.15, 3.15))
    assert [words for _, words in powers.ticks()] == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000"]
    assert powers.at(1000.0) == pytest.approx(1 - 0.15 / 3.3, abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "num", "ticks"),
    [
        (0.0, 1.0, 6, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (9.5, 20.5, 6, (10.0, 12.0, 14.0, 16.0, 18.0, 20.0)),
        (-3.0, 3.0, 4, (-2.0, 0.0, 2.0)),
        (0.1, 0.9, 1, (0.5,)),
        (11.0, 14.0, 1, (12.5,)),
        (0.0, 1.0, 0, (0.5,)),
        (1234.0, 1334.0, 3, (1250.0, 1300.0)),
    ],
)
def test_ticks_are_round(low: float, high: float, num: int, ticks: tuple[float, ...]) -> None:
    assert round_ticks(low, high, num) == pytest.approx(ticks)


def test_scales_bars_and_curves_by_hand() -> None:
    scale = scale_over([None, 10.0, 20.0])
    assert scale is not None
    assert (scale.low, scale.high, scale.ticks) == (9.6, 20.4, (10.0, 15.0, 20.0))
    assert scale_over([None]) is None
    alone, small = scale_over([50.0]), scale_over([0.5], pad=0.1)
    assert alone is not None
    assert small is not None
    assert (alone.low, alone.high) == pytest.approx((49.8, 50.2))
    assert (small.low, small.high) == pytest.approx((0.49, 0.51))
    unit = Scale(low=0.0, high=200.0, ticks=())
    assert [unit.percent(value) for value in (-5.0, 0.0, 33.333, 200.0, 300.0)] == [0.0, 0.0, 16.67, 100.0, 100.0]
    whole, inner = Estimate(value=50.0, low=20.0, high=90.0), Estimate(value=50.0, low=40.0, high=60.0)
    marks = bar(unit, whole, inner)
    assert (marks.at, marks.low, marks.high, marks.inner_low, marks.inner_high) == (25.0, 10.0, 45.0, 20.0, 30.0)
    bare = bar(unit, Estimate(value=50.0))
    assert (bare.low, bare.high, bare.inner_low, bare.inner_high) == (None, None, None, None)
    losses = [(step, 200.0 - 2 * step) for step in range(1, 122)]
    drawn = curve(losses, 121, unit)
    assert drawn.steps_per_point == 2
    assert len(drawn.points.split()) == 61
    assert drawn.points.split()[0] == "7.85,6.29"
    assert drawn.end == (235.0, 91.0)
    assert curve(losses[:120], 120, unit).steps_per_point == 1
    assert curve([(0, 100.0)], 0, unit).points == "5,48"
    assert [curve_y(unit, value) for value in (0.0, 50.0, 200.0)] == [91.0, 69.5, 5.0]
    assert bin_means([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1.5, 3.0), (3.0, 9.0)]


def test_numbers_of_the_report_by_hand() -> None:
    minus = "\N{MINUS SIGN}"
    assert [number(v, s) for v, s in ((-1.5, ".1f"), (1234567.0, ".4g"), (2e9, ".4g"), (1234567.0, "+.4g"))] == [
        *(f"{minus}1.5", "1,234,567", "2e+09", "+1,234,567"),
    ]  # fmt: skip
    assert (number(1e9, ".4g"), number(999_999_999.0, ".4g")) == ("1e+09", "999,999,999")
    assert (number(None), number(2.6), number(None, missing="-")) == ("not measured", "3", "-")
    assert (interval(-1.0, 2.0), interval(None, 2.0), interval(1.0, None)) == (f"{minus}1 to 2", *["no interval"] * 2)
    assert interval(0.25, 0.75, ".2f") == "0.25 to 0.75"
    assert (percent(0.1234), percent(None), percent(0.5, ".0f")) == (f"12.3{NBSP}%", "not measured", f"50{NBSP}%")
    assert [p_value(p) for p in (0.0009, 0.001, 0.25, None)] == ["< 0.001", "0.001", "0.250", "not tested"]
    times = (None, 0.5, 59.9, 60.0, 185.4, 3599.4, 3600.0, 7800.0)
    assert [duration(seconds) for seconds in times] == [
        "not measured", f"0.5{NBSP}s", f"59.9{NBSP}s", f"1{NBSP}min 00{NBSP}s", f"3{NBSP}min 05{NBSP}s",
        f"59{NBSP}min 59{NBSP}s", f"1{NBSP}h 00{NBSP}min", f"2{NBSP}h 10{NBSP}min",
    ]  # fmt: skip
    sizes = [memory(size) for size in (0, None, 2**29, 1023 * 2**20, 2**30, 5 * 2**28)]
    assert sizes == [*["not measured"] * 2, f"512{NBSP}MiB", f"1023{NBSP}MiB", f"1.00{NBSP}GiB", f"1.25{NBSP}GiB"]
    assert (sortable(None), sortable(0.25)) == ("", "0.25")
    assert [parameters(n) for n in (134.5e6, 1e9, 1.1e9, 999e6)] == ["134M", "1B", "1.1B", "999M"]
    assert visible("a\x00\x1f\n\tb\ud800") == "a\u2400\u241f\n\tb\ufffd"
    assert visible("\U0001f600") == "\U0001f600"


def test_drawings_have_names_of_their_own() -> None:
    names = [name for name, _ in drawings()]
    assert len(set(names)) == len(names)


def test_only_the_best_thirty_systems_are_columns_of_the_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Content = gather(SweepRuns(run_ids=()), load_runs(*make_runs(tmp_path)), None, ReportOptions(title="t"))
    monkeypatch.setattr(run_figures, "MAX_SYSTEMS", 1)
    figure = run_figures.mmlu_by_subject(content)
    assert len(figure.rows) == 2
    assert figure.drawing is not None
    assert sum("p-cell" in mark for mark in figure.drawing.marks) == 1

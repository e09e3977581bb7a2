"""What pages show of judges, pairs, curves, scores and questions, and which answers are chosen: by value."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.effects.grid import GridResults
from analysis.report import answers, content, figures, grid, leaderboard, page, records, sections
from analysis.report.figures import Scale
from analysis.report.judging import Judge, bias_view, judge_view
from analysis.report.matches import Tally, count_verdicts, pair_tallies, tally_systems
from analysis.report.plots import runs as run_figures
from analysis.report.plots.charts import Point, _name_points
from analysis.report.plots.tournament import _points
from eval.answers.files import Answer
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from harness.runs.estimate import Estimate


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def verdict(question: str, first: str, second: str, code: int, judge: str = "j") -> Any:
    return made(question_id=question, first=first, second=second, verdict=code, judge=judge)


def answer(name: str, text: str = "x", **more: Any) -> Answer:
    return Answer(**({"question_id": name, "system": "s", "question": "", "answer": text} | more))


MET = [verdict("q", "a", "b", FIRST), verdict("q", "b", "a", TIE), verdict("q", "a", "b", UNPARSED)]


def test_outcomes_of_pairs_and_of_systems() -> None:
    pairs = count_verdicts([*MET, verdict("q", "c", "a", SECOND)])
    assert pairs["a", "b"] == Tally(wins=1, ties=1, unparsed=1)
    assert pairs["b", "a"] == Tally(losses=1, ties=1, unparsed=1)
    assert (pairs["c", "a"], pairs["a", "c"]) == (Tally(losses=1), Tally(wins=1))
    assert tally_systems(pairs)["a"] == Tally(wins=2, ties=1, unparsed=1)
    assert (pairs["a", "b"].matches, pairs["a", "b"].win_rate, Tally(unparsed=2).win_rate) == (2, 0.75, None)
    cell = {"wins": 5, "losses": 3, "ties": 2}
    rated = made(verdicts=[*MET, verdict("q", "c", "a", UNPARSED)], ratings={"win_matrix": {"a": {"b": cell}}})
    assert pair_tallies(rated) == {
        ("a", "b"): Tally(wins=5, losses=3, ties=2, unparsed=1),
        ("c", "a"): Tally(unparsed=1),
        ("a", "c"): Tally(unparsed=1),
    }
    assert pair_tallies(made(verdicts=MET, ratings=None)) == count_verdicts(MET)


def test_the_matrix_of_win_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = {
        ("a", "b"): Tally(wins=3, losses=1), ("b", "a"): Tally(wins=1, losses=3), ("a", "c"): Tally(ties=2),
        ("c", "a"): Tally(ties=2), ("d", "a"): Tally(unparsed=1),
    }  # fmt: skip
    view = sections.matrix_view(pairs, ["c", "a", "x", "b"])
    assert view is not None
    assert (view.systems, view.num_left_out) == (("c", "a", "b"), 0)
    shown = [[None if cell is None else (cell.side, cell.strength) for cell in row] for row in view.cells]
    assert shown == [
        [None, ("even", 0.0), ("even", 0.0)],
        [("even", 0.0), None, ("ahead", 50.0)],
        [("even", 0.0), ("behind", 50.0), None],
    ]
    assert sections.matrix_view({}, ["a"]) is None
    monkeypatch.setattr(sections, "MAX_MATRIX_SYSTEMS", 2)
    less = sections.matrix_view(pairs, ["c", "a", "b"])
    assert less is not None
    assert (less.systems, less.num_left_out) == (("c", "a"), 1)


def test_separated_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def pair(higher: str, lower: str, significant: bool | None, difference: float = 10.0) -> dict[str, Any]:
        return {"higher": higher, "lower": lower, "significant": significant, "difference": difference, "p_holm": 0.01}

    ratings = {"comparisons": [pair("a", "b", True), pair("b", "c", False), pair("a", "c", None)]}
    view = sections.separation_view(ratings, ["a", "b", "c", "d"])
    assert view is not None
    assert (view.systems, view.num_pairs, view.num_separable, view.num_left_out) == (("a", "b", "c"), 2, 1, 0)
    shown = [[None if c is None else (c.difference, c.p_holm, c.side) for c in row] for row in view.cells]
    assert shown == [
        [None, (10.0, 0.01, "ahead"), None],
        [(-10.0, 0.01, "behind"), None, (10.0, 0.01, "even")],
        [None, (-10.0, 0.01, "even"), None],
    ]
    assert sections.separation_view({"comparisons": [pair("a", "b", None)]}, "ab") is None
    assert sections.separation_view({}, "ab") is None
    monkeypatch.setattr(sections, "MAX_MATRIX_SYSTEMS", 2)
    less = sections.separation_view(ratings, ["a", "b", "c"])
    assert less is not None
    assert (less.systems, less.num_left_out) == (("a", "b"), 1)


def test_curves_share_their_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        made(losses=((1, 3.0), (10, 1.0)), eval_losses=((5, 4.0),)), made(losses=(), eval_losses=()),
        made(losses=((1, 2.0), (20, 1.5)), eval_losses=()),
    ]  # fmt: skip
    view = sections.curves_view(runs)
    assert view is not None
    assert ([one.run for one in view.curves], view.max_step, view.num_left_out) == ([runs[0], runs[2]], 20, 0)
    assert view.scale.low < 1.0 < 4.0 < view.scale.high
    assert [len(one.held_out) for one in view.curves] == [1, 0]
    assert sections.curves_view(runs[1:2]) is None
    monkeypatch.setattr(sections, "MAX_CURVES", 1)
    less = sections.curves_view(runs)
    assert less is not None
    assert (less.max_step, less.num_left_out) == (10, 1)


def test_settings_as_one_types_them() -> None:
    unset = {"none": None, "empty": [], "no": {}, "text": ""}
    spec = {"a": {"on": True, "off": False} | unset, "b": ["x", 0.1, True], "c": 0}
    assert sections.run_settings(made(record=made(spec=spec))) == [
        ("a.on", "true"), ("a.off", "false"), ("b", "x, 0.1, true"), ("c", "0"),
    ]  # fmt: skip
    packages = [made(record=made(packages=one)) for one in ({"x": "1"}, {"x": "1"}, {"x": "2"})]
    assert [sections.shared_packages(part) for part in (packages[:2], packages, [])] == [{"x": "1"}, None, None]


def test_a_bar_has_its_value_and_both_ends() -> None:
    scale = Scale(low=0.0, high=10.0, ticks=())
    found = sections._bar(scale, 5.0, 2.0, 9.0, Estimate(value=5.0, low=4.0, high=6.0))
    assert found is not None
    assert (found.at, found.low, found.high, found.inner_low, found.inner_high) == (50.0, 20.0, 90.0, 40.0, 60.0)
    bare = sections._bar(scale, 12.0, None, None)
    assert bare is not None
    assert (bare.at, bare.low, bare.inner_high) == (100.0, None, None)
    assert sections._bar(None, 5.0, 2.0, 9.0) is sections._bar(scale, None, 2.0, 9.0) is None
    row = made(
        elo=5.0, elo_low=1.0, elo_high=9.0, elo_ordering_low=4.0, elo_ordering_high=6.0, bt_rating=3.0,
        bt_low=2.0, bt_high=4.0, mmlu_macro=0.5, mmlu_macro_low=0.25, mmlu_macro_high=0.75,
    )  # fmt: skip
    view = sections._ranked_view(row, None, scale, Scale(low=0.0, high=1.0, ticks=()))
    assert view.elo is not None
    assert view.bradley_terry is not None
    assert view.mmlu is not None
    assert (view.elo.low, view.elo.inner_low, view.elo.inner_high) == (10.0, 40.0, 60.0)
    assert (view.bradley_terry.low, view.bradley_terry.high, view.bradley_terry.inner_low) == (20.0, 40.0, None)
    assert (view.mmlu.at, view.mmlu.low, view.mmlu.high) == (50.0, 25.0, 75.0)


def score(evaluation: str, metric: str, settings: str = "s") -> Any:
    return made(evaluation=evaluation, metric=metric, settings_sha256=settings)


def test_tables_of_other_scores() -> None:
    one, two = score("glue rte", "accuracy"), score("glue rte", "accuracy", "t")
    runs = [
        made(record=made(label="a"), scores=(one, score("tasks arc", "acc"))),
        made(record=made(label="b"), scores=(two, score("glue sst2", "accuracy"))),
        made(record=made(label="c"), scores=()),
    ]
    glue, tasks = sections.scores_views(runs)
    assert [(c.subject, c.metric, c.is_comparable) for c in glue.columns] == [
        ("rte", "accuracy", False), ("sst2", "accuracy", True),
    ]  # fmt: skip
    assert glue.rows == (("a", (one, None)), ("b", (two, runs[1].scores[1])))
    assert ([row[0] for row in tasks.rows], tasks.columns[0].subject) == (["a"], "arc")
    assert sections._scores_view("nobodys", []).title == "nobodys"


@pytest.mark.parametrize(
    ("name", "settings", "size", "caution"),
    [
        ("smollm2-135m-instruct", {}, 135e6, "is a local model of 135M parameters"),
        ("local:x", {"kind": "local"}, None, "whose size is not recorded"),
        ("gpt-4", {"kind": "api"}, None, None),
        ("x", {"num_parameters": 7e9, "kind": "local"}, 7e9, None),
        ("x", {"num_parameters": True, "hub": {"model_id": "big-7B-chat"}}, 7e9, None),
        ("x", {"num_parameters": 0, "deep": {"base_name": "m-1.5b"}}, 1.5e9, None),
        ("x", {"other": "m-1.5b"}, None, None),
        ("x-7bit", {}, None, None),
        ("x", {"base_fingerprint": "f"}, 3e9, None),
        ("llama2 judge", {}, 13e9, None),
    ],
)
def test_a_judge_that_is_small_or_of_unknown_size_is_cautioned_against(
    name: str, settings: dict[str, Any], size: float | None, caution: str | None
) -> None:
    view = judge_view(Judge(name=name, settings=settings), {"f": "org/m-3b", "llama2": "org/llama-13b"})
    assert view.num_parameters == size
    if caution is None:
        assert view.caution is None or size is not None
    else:
        assert view.caution is not None
        assert caution in view.caution
    shown = judge_view(Judge(name="x", settings={"a": 0, "b": None, "c": "", "d": [], "e": "y"})).settings
    assert shown == (("a", "0"), ("e", "y"))


def test_position_bias_has_its_shares() -> None:
    bias = {"first_wins": 5, "second_wins": 3, "ties": 2, "first_win_rate": 0.625, "low": 0.5, "high": 0.75,
            "swapped_reversals": 1, "swapped_pairs": 4}  # fmt: skip
    view = bias_view({"position_bias": bias})
    assert view is not None
    assert view.shares == (("first", 5, 50.0), ("tie", 2, 20.0), ("second", 3, 30.0))
    assert view.first_win_rate == Estimate(value=0.625, low=0.5, high=0.75)
    assert (view.swapped_reversals, view.swapped_pairs) == (1, 4)
    none = bias_view({"position_bias": bias | {"first_win_rate": None, "first_wins": 0, "second_wins": 0, "ties": 0}})
    assert none is not None
    assert (none.first_win_rate, none.shares[0]) == (None, ("first", 0, 0.0))
    assert bias_view(None) is bias_view({}) is None


def test_rulings_stand_by_pair_and_order() -> None:
    said = [
        verdict("q", "c", "a", FIRST), verdict("q", "b", "a", SECOND), verdict("q", "a", "c", TIE),
        verdict("q", "a", "b", UNPARSED), verdict("q", "a", "nobody", FIRST),
    ]  # fmt: skip
    found = answers._rulings(said, ["a", "b", "c"])
    assert [(r.first, r.second, r.first_index, r.second_index, r.winner, r.is_tie) for r in found] == [
        ("a", "b", 0, 1, None, False), ("b", "a", 1, 0, "a", False), ("a", "c", 0, 2, None, True),
        ("c", "a", 2, 0, "c", False),
    ]  # fmt: skip


def run_of(label: str, **by_bench: Any) -> Any:
    return made(record=made(label=label), answers=by_bench)


def test_which_answers_are_shown() -> None:
    runs = [run_of("a", x=(answer("1"),), y=(answer("1"), answer("2", question="Two?")))]
    runs.append(run_of("b", z=(answer("9"),)))
    judged = made(verdicts=[verdict("1", "a", "b", FIRST), verdict("2", "a", "b", FIRST)])
    found = answers.bench_answers(runs, judged, None)
    assert found is not None
    assert (found.bench, found.other_benches, list(found.by_system)) == ("y", ("x", "z"), ["a"])
    assert found.texts == {"1": "", "2": "Two?"}
    first = answers.bench_answers(runs, None, None)
    assert first is not None
    assert first.bench == "x"
    named = answers.bench_answers(runs, judged, "z", {"other": (answer("9", question="Nine?"),)})
    assert named is not None
    assert (list(named.by_system), named.texts) == (["other", "b"], {"9": "Nine?"})
    for bench, others, why in (("q", None, "there are x, y, z"), ("q", {"o": (answer("1"),)}, "there are x, y, z")):
        with pytest.raises(ValueError, match=rf"--bench {bench}: no run has answers/{bench}.jsonl; {why}"):
            answers.bench_answers(runs, judged, bench, others)
    with pytest.raises(ValueError, match="there are none"):
        answers.bench_answers([], None, "q")
    alone = answers.bench_answers([], None, "q", {"o": (answer("1"),)})
    assert alone is not None
    assert answers.bench_answers([], None, None) is None
    three = [answer("1", question=text) for text in ("", "One?", "No")]
    assert answers._texts(three) == {"1": "One?"}
    view = answers.answers_view(found, ["b", "a"], judged, max_questions=1)
    assert view is not None
    assert (view.num_questions, view.systems, [one.question_id for one in view.questions]) == (2, ("a",), ["1"])
    assert answers.answers_view(None, [], None) is None
    only = answers.judged_only({"1": "One?", "7": ""}, ["a", "b"], judged)
    assert [(one.question_id, one.text, one.answers, len(one.rulings)) for one in only] == [
        ("1", "One?", (), 1), ("7", "", (), 0),
    ]  # fmt: skip


def test_turns_of_a_dialogue_are_one_answer() -> None:
    turns = [
        answer("1", "second", turn=1, question="Q2", num_tokens=3), answer("2", "alone", num_tokens=7),
        answer("1", "first", turn=0, question="Q1", num_tokens=2),
    ]  # fmt: skip
    one, other = sorted(records._dialogues(turns), key=lambda found: found.question_id)
    assert (one.turn, one.num_tokens, other) == (0, 5, turns[1])
    assert one.answer.index("first") < one.answer.index("second")
    assert one.question.index("Q1") < one.question.index("Q2")
    unknown = records._joined([turns[2], answer("1", "x", turn=1)])
    assert unknown.num_tokens is None
    setting = records.Run.setting(made(record=made(spec={"a": {"b": 1}})), "a", "b")
    assert setting == 1
    assert records.Run.setting(made(record=made(spec={"a": 1})), "a", "b") is None


@pytest.mark.parametrize(("systems", "verdicts", "text", "fits"), [
    (16, 4000, 1_000_000, True), (17, 0, 0, False), (1, 4001, 0, False), (1, 0, 1_000_001, False),
])  # fmt: skip
def test_a_small_report_is_one_page(systems: int, verdicts: int, text: int, fits: bool) -> None:
    by_system = {"a": {"q": made(answer="x" * text)}, "b": {}}
    view = made(rows=[0] * systems, tournament=made(verdicts=[0] * verdicts), answers=made(by_system=by_system))
    assert page.fits_one_file(view) is fits
    assert page.fits_one_file(made(rows=[], tournament=None, answers=None))


def test_the_best_by_mmlu_where_nothing_was_judged() -> None:
    def view(*values: float | None, settings: str = "ss", judged: bool = False, low: float | None = 0.25) -> Any:
        bounds = {"mmlu_macro_low": low, "mmlu_macro_high": 0.75}
        rows = [made(system=f"s{n}", mmlu_macro=value, **bounds) for n, value in enumerate(values)]
        runs = [made(mmlu=made(settings_sha256=one)) for one in settings] + [made(mmlu=None)]
        return made(rows=rows, runs=runs, tournament=made(verdicts=[1] if judged else []))

    said = "the highest MMLU of 2 systems (50.0 %, 95 % interval 25.0 to 75.0)"
    assert page._best_by_mmlu(view(0.3, 0.5, None)) == [f"s1 has {said}"]
    assert page._best_by_mmlu(view(0.5, 0.5)) == [f"s0 and 1 more have {said}"]
    assert page._best_by_mmlu(view(0.5, 0.3, low=None)) == ["s0 has the highest MMLU of 2 systems (50.0 %)"]
    for nothing in (view(0.5), view(0.5, 0.3, judged=True), view(0.5, 0.3, settings="st"), view(0.5, 0.3, settings="")):
        assert page._best_by_mmlu(nothing) == []


def test_texts_and_categories_of_questions(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(
        '{"question_id": "1", "text": "One?", "category": "maths"}\n{"question_id": "2", "text": "Two?"}\n'
    )
    assert content._texts(tmp_path / "q.jsonl") == {"1": "One?", "2": "Two?"}
    assert content._texts(None) == {}
    assert content._categories(tmp_path / "q.jsonl", None) == {"1": "maths"}
    assert content._categories(None, None) == {}


def test_fewer_than_four_runs_are_no_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grid.MIN_RUNS == 4
    assert grid.grid_views([made()] * 3, None) == []  # type: ignore[list-item]
    seen: list[int] = []
    monkeypatch.setattr(grid, "runs_frame", lambda found: seen.append(len(found)) or found)
    monkeypatch.setattr(grid, "trained_runs", lambda frame: frame[1:])
    monkeypatch.setattr(grid, "_found", lambda run: run)
    assert grid.grid_views([made()] * 4, None) == []  # type: ignore[list-item]
    assert seen == [4]

    def refused() -> Any:
        raise ValueError("why")

    few = [None, made(axes=(), runs=[1] * 9), made(axes=("r",), runs=[1] * 3)]
    assert [grid._view("n", "t", lambda found=found: found) for found in few] == [None] * 3  # type: ignore[misc]
    assert grid._view("n", "t", refused) == grid.MeasureView(name="n", title="t", problem="why")


def test_curves_have_sixty_points_at_most() -> None:
    assert run_figures.mmlu_by_subject(made(runs=())).caption.startswith("Not measured")
    assert (run_figures.MAX_BINS, run_figures.MAX_LINES, run_figures.MAX_SYSTEMS) == (60, 8, 30)


def test_names_of_points_do_not_cover_each_other() -> None:
    class Drawing:
        texts: list[Any] = []  # noqa: RUF012

        def text(self, x: float, y: float, text: str, anchor: str) -> None:
            self.texts.append((round(x, 6), y, text, anchor))

    along, up = made(at=lambda x: x, end=500.0), made(at=lambda y: y)
    places = (("aaaa", 100.0, 50.0), ("bbbb", 101.0, 55.0), ("cccc", 490.0, 52.0))
    points = [Point(label=label, x=x, y=y) for label, x, y in places]
    _name_points(Drawing(), points, along, up)  # type: ignore[arg-type]
    assert [(x, y, text) for x, y, text, _ in Drawing.texts] == [
        (108.0, 54.0, "aaaa"), (482.0, 56.0, "cccc"), (109.0, 71.0, "bbbb"),
    ]  # fmt: skip
    assert [anchor for *_, anchor in Drawing.texts] == ["start", "end", "start"]


def test_points_of_systems_do_not_depend_on_the_order_of_verdicts() -> None:
    said = [verdict("1", "a", "b", FIRST), verdict("1", "b", "a", FIRST), verdict("2", "b", "c", FIRST)]
    said += [verdict("2", "c", "b", TIE), verdict("3", "c", "a", SECOND)]
    found = _points(said)
    assert list(found) == ["a", "b", "c"]
    assert found == _points(said[::-1])


def test_columns_of_the_leaderboard() -> None:
    tokens = [answer("1", num_tokens=n) for n in (2, None, 4)]
    assert leaderboard._mean_tokens(tokens) == 3.0
    assert leaderboard._mean_tokens(tokens[1:2]) is None
    elo = {name: n for n, name in enumerate(("mean", "low", "high", "ordering_low", "ordering_high"))}
    rated = leaderboard._rating_columns(elo, {"rating": 7, "low": 6, "high": 8})
    assert list(rated.values()) == [0, 1, 2, 3, 4, 7, 6, 8]
    people = {"ratings": {"a": {"rating": 7, "low": 6, "high": 8}}}
    place = {"ranks": {"a": {"low": 1, "high": 3, "best": 0.5}}, "people": people}
    assert list(leaderboard._place_columns(place, "a").values()) == [1, 3, 0.5, 7, 6, 8]
    assert set(leaderboard._place_columns({}, "a").values()) == {None}
    tally = Tally(wins=1, losses=2, ties=3, unparsed=4)
    assert list(leaderboard._tally_columns(tally).values()) == [6, 1, 2, 3, 4]
    assert leaderboard._tally_columns(None) == {}
    assert leaderboard._number(None, ".1f") != leaderboard._number(0.0, ".1f") == "0.0"
    assert str(leaderboard._with_interval(1.5, 1.0, 2.0, ".1f")) == "1.5\n1.0 to 2.0"
    assert str(leaderboard._with_interval(1.5, None, 2.0, ".1f")) == "1.5"


def test_who_can_not_be_told_apart_and_what_judging_cost() -> None:
    pairs = [
        {"higher": "a", "lower": "b", "significant": True}, {"higher": "a", "lower": "c", "significant": False},
        {"higher": "b", "lower": "c", "significant": None},
    ]  # fmt: skip
    near = {"a": ("c",), "b": (), "c": ("a",)}
    assert leaderboard.inseparable({"comparisons": pairs}) == leaderboard.inseparable({"pairs": pairs}) == near
    assert leaderboard.inseparable({}) == {}
    prices = ((0.5, "b"), (None, "b"), (0.25, "c"))
    judged = [made(cost_usd=cost, system_a="a", system_b=other) for cost, other in prices]
    assert leaderboard.judging_costs(made(judgments=dict(enumerate(judged)))) == {"a": 0.375, "b": 0.25, "c": 0.125}
    assert leaderboard.judging_costs(None) == {}


def test_a_measure_of_a_grid_as_a_page_shows_it() -> None:
    rows = [{"model": m, "lora_r": r, "method": "lora"} for m in ("x", "y") for r in (8, 64)]
    runs = pd.DataFrame(rows, index=[f"run{n}" for n in range(4)])
    made_of = GridResults.of(runs, np.array([1.0, 5.0, 2.0, 7.0]), measure="m", unit="points", axes=["model", "lora_r"],
                             seeds=[], left_out=("one left out",))  # fmt: skip
    view = grid._filled("mmlu", "T", made_of)
    assert (view.name, view.title, view.unit, view.axes) == ("mmlu", "T", "points", ("model", "r"))
    assert (view.higher_is_better, view.left_out, view.equalities) == (True, ("one left out",), ())
    assert [row["words"] for row in view.settings] == ["y, 64", "x, 64", "y, 8", "x, 8"]
    assert [effect.axis for effect in view.effects] == ["model", "lora_r"]
    assert {row["axis"] for row in view.best} == {"model", "lora_r"}
    assert view.heat_map is not None
    assert (view.heat_map.first, view.heat_map.second) == ("r", "model")
    assert (view.heat_map.rows, view.heat_map.columns) == (("8", "64"), ("x", "y"))
    assert view.heat_map.values == ((1.0, 2.0), (5.0, 7.0))
    assert len(view.heat_map.cells) == 4
    assert view.parallel is not None
    lower = grid._filled("loss", "T", replace(made_of, higher_is_better=False))
    assert [row["words"] for row in lower.settings] == ["x, 8", "y, 8", "x, 64", "y, 64"]
    datasets = GridResults.of(runs.assign(dataset=["a", "a", "b", "b"]), made_of.values, measure="m",
                              axes=["dataset", "lora_r"], seeds=[])  # fmt: skip
    of_loss, of_score = (grid._filled(name, "T", datasets) for name in ("loss", "mmlu"))
    assert {effect.axis for effect in of_loss.effects} == {"lora_r"}
    assert {effect.axis for effect in of_score.effects} == {"dataset", "lora_r"}
    assert (of_loss.heat_map is None, of_score.heat_map is None) == (True, False)
    stored = GridResults.of(runs.assign(data_type=list("abab")), made_of.values, measure="m", unit="points",
                            axes=["model", "data_type"], seeds=[])  # fmt: skip
    assert [(one.value, one.against, one.margin) for one in grid._equalities(stored)] == [("a", "b", 20.0)]
    assert grid._equalities(replace(stored, unit="nobodys")) == []
    assert grid.MARGINS == {"points": 20.0, "share": 0.01, "nats a token": 0.01}


def test_a_curve_of_one_step_ends_at_its_right_side() -> None:
    scale = Scale(low=0.0, high=10.0, ticks=())
    assert figures.curve([(1, 5.0)], 1, scale).end == (235.0, 48.0)
    assert figures.curve_marks([(1, 5.0), (0, 10.0)], 1, scale) == [(235.0, 48.0), (5.0, 5.0)]
    assert figures.curve([(0, 5.0)], 0, scale).end == (5.0, 48.0)
    many = figures.curve([(n, 5.0) for n in range(1, 242)], 241, scale)
    assert (many.steps_per_point, len(many.points.split())) == (3, 81)
    assert figures.bin_means([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1.5, 3.0), (3.0, 9.0)]
    flat = figures.scale_over([2.0, None])
    assert flat is not None
    assert (flat.low, flat.high) == pytest.approx((2.0 - 0.04 * 0.2, 2.0 + 0.04 * 0.2))
    zero = figures.scale_over([0.0])
    assert zero is not None
    assert (zero.low, zero.high) == pytest.approx((-0.004, 0.004))
    assert figures.scale_over([None]) is None
    assert figures.round_ticks(0.0, 10.0, 4) == (0.0, 5.0, 10.0)
    assert figures.round_ticks(0.3, 0.4, 1) == (0.4,)
    assert figures.round_ticks(1.1, 1.2, 3) == (1.1, 1.15, 1.2)

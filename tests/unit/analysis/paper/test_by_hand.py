"""Words of the paper's tables, and what its commands hand on: by value."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.paper import command, fetch, figures, judged, own, released, tables, text
from analysis.paper.own import GridPlan
from analysis.paper.tables import OWN, Cell, Status, mean_absolute_error, ranks_of
from analysis.paper.text import plain
from analysis.report.plots.charts import Interval


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def cell(**more: Any) -> Cell:
    values: dict[str, Any] = {
        "row": "r", "column": "c", "setting": "s", "paper": 10.0, "ours": 12.5, "status": Status.differs, "where": "a",
    }  # fmt: skip
    return Cell(**(values | more))


GOOD = cell(status=Status.reproduces, setting="g", ours=10.0)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([cell()], "differs by +2.5"),
        ([GOOD], "reproduces"),
        ([cell(status=Status.not_run, ours=None)], "not run"),
        ([GOOD, cell(status=Status.reproduces)], "reproduces"),
        ([GOOD, cell()], "reproduces (g); differs by +2.5 s"),
        ([cell(), cell(setting="t", ours=8.0)], "differs by +2.5 s, \N{MINUS SIGN}2.0 t"),
        ([cell(status=Status.not_run)] * 2, "not run"),
        ([cell(status=Status.not_run), GOOD], "reproduces"),
        ([cell(paper=1.25, ours=1.5)], "differs by +0.25"),
        ([cell(paper=10.0, ours=10.001)], "differs by +0.001"),
        ([cell(paper="x", ours=1.0)], "differs"),
    ],
)
def test_outcomes_in_words(cells: list[Cell], words: str) -> None:
    assert text._words(cells) == words


def test_ratings_and_ranks_in_words() -> None:
    assert text._elo_text(cell(), []) == "12.5 (+2.5)"
    widths = [cell(setting="t", ours=9.0), cell(setting="s", ours=1.25)]
    assert text._elo_text(cell(), widths) == "12.5 +-1.2 (+2.5)"
    assert text._elo_text(cell(ours=None), widths) == text.MISSING
    ranks = [cell(paper=1, ours=ours) for ours in (2.0, 2.0, 3.0)]
    assert (text._rank_text(ranks[:2]), text._rank_text(ranks)) == ("1 / 2", "1 / 2, 2, 3")
    assert text._rank_text([cell(paper=1, ours=None)]) == f"1 / {text.MISSING}"


def test_a_line_a_cell() -> None:
    cells = [cell(low=1.5, high=3.0), cell(column="d"), cell(row="q", ours=None, status=Status.not_run)]
    section = text._cells_section(made(), "title", cells)
    assert section.rows == (
        ("r", "c", "10.0", plain(12.5), "1.5 to 3.0", "differs by +2.5"),
        ("", "d", "10.0", plain(12.5), text.MISSING, "differs by +2.5"),
        ("q", "c", "10.0", text.MISSING, text.MISSING, "not run"),
    )
    assert section.header[:4] == ("row", "column", "paper", "ours")
    assert text._settings_run([*cells, GOOD]) == ["s", "g"]
    assert text._settings_run(cells[2:]) == []
    assert text._csv_row("7", cell(low=1.0, note="n", where="")) == (
        "7", "r", "c", "s", 10.0, "12.50", "2.50", "1.00", "", "differs", "", "n", "from memory",
    )  # fmt: skip


def test_the_printed_value_may_lie_on_the_ends_of_our_interval() -> None:
    for low, high, status in (
        (10.0, 11.0, Status.reproduces), (9.0, 10.0, Status.reproduces), (10.1, 11.0, Status.differs),
        (9.0, 9.9, Status.differs), (None, 11.0, Status.differs), (9.0, None, Status.differs),
    ):  # fmt: skip
        assert judged._within(cell(low=low, high=high)).status is status
    assert judged._within(cell(paper="x", low=9.0, high=11.0)).status is Status.differs


def test_mean_errors_and_ranks() -> None:
    reproduction = made(cells=[cell(), cell(ours=9.0), cell(ours=None), cell(setting="t"), cell(column="d")])
    assert mean_absolute_error(reproduction, "c", "s") == pytest.approx(1.75)
    assert mean_absolute_error(reproduction, "x", "s") is None
    assert ranks_of({"a": made(mean=1.0), "b": made(mean=3.0), "c": made(mean=2.0)}) == {"b": 1, "c": 2, "a": 3}


def test_a_source_says_whether_it_is_the_released_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RELEASES", {n: made(what="scores", sha256=s) for n, s in (("x", "d"), ("y", None))})
    monkeypatch.setattr(tables, "canonical_sha256", lambda release, path: path.stem)
    assert tables._source("x", Path("f/d.csv")) == "d.csv: scores, as released"
    assert tables._source("x", Path("f/e.csv")) == "e.csv: scores, NOT the released ones"
    assert tables._source("y", Path("f/e.csv")) == "e.csv: scores"


def file_of(first: str, second: str, *rows: dict[str, Any]) -> Any:
    return made(path=Path("f"), named=(first, second), rows=rows)


def test_rows_of_released_scores() -> None:
    row = {"question_id": 1, "score": [7, 8.5]}
    shown = list(released._scores(file_of("x", released.CHATGPT, row), False))
    assert shown == [("1", "x", "candidate_first", "7", "8.5")]
    shown = list(released._scores(file_of("x", released.CHATGPT, row), True))
    assert shown == [("1", "x", "candidate_second", "8.5", "7")]
    for wrong in (None, "78", [7], [7, 8, 9], [7, "8"], ["7", 8]):
        with pytest.raises(ValueError, match=r"f: question 1: score is .*; expected two numbers"):
            list(released._scores(file_of("x", released.CHATGPT, {"question_id": 1, "score": wrong}), False))
    with pytest.raises(ValueError, match="f: ten-point scores of x and y, and neither is chatgpt"):
        list(released._scores(file_of("x", "y"), False))


def test_rows_of_released_verdicts_and_votes() -> None:
    rows = [{"question_id": 1, "score": 1}, {"message_id": "m", "score": 7}, {"question_id": 1, "score": -1}]
    file = file_of("x", "y", *rows)
    assert list(released._verdicts(file, False)) == [("1", "x", "y", "1"), ("m", "x", "y", "-1"), ("1", "x", "y", "-1")]
    assert next(iter(released._verdicts(file, True))) == ("1", "y", "x", "1")
    assert list(released._votes(file)) == [
        ("1", "1", "x", "y", "1"), ("m", "1", "x", "y", "-1"), ("1", "2", "x", "y", "-1"),
    ]  # fmt: skip
    for wrong in (True, None, "1", 1.5):
        with pytest.raises(ValueError, match=r"f: question 1: score is .*; expected 1, 2, 3 or -1"):
            released._verdict({"question_id": 1, "score": wrong}, Path("f"))
    for nothing in ({}, {"question_id": True}, {"question_id": 1.5}):
        with pytest.raises(ValueError, match="f: a line has neither question_id nor message_id"):
            released._question(nothing, Path("f"))


def test_a_figure_has_mean_and_ends_of_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(figures, "intervals", lambda shown, unit: seen.append((shown, unit)))
    runs = [made(spec={"g": g}, final_loss=loss, results={}, run_id="r") for g, loss in
            (("a", 1.0), ("a", 2.5), ("b", 4.0), ("c", None))]  # fmt: skip
    found = figures._by_setting("figure2", "T", made(runs=runs), lambda spec: str(spec["g"]))
    assert found.rows == (("a", 2, 1.75, 1.0, 2.5), ("b", 1, 4.0, 4.0, 4.0))
    assert found.columns == ("setting", "runs", "final_loss_mean", "final_loss_min", "final_loss_max")
    assert seen == [(
        [Interval(label="a", value=1.75, low=1.0, high=2.5), Interval(label="b", value=4.0, low=4.0, high=4.0)],
        figures.LOSS_UNIT,
    )]  # fmt: skip
    nothing = figures._by_setting("figure2", "T", made(runs=runs[3:]), lambda spec: "x")
    assert (nothing.drawing, nothing.rows) == (None, ())
    assert nothing.caption.startswith("not run: python -m sweeps run +grid=")


def test_half_a_digit_of_what_is_printed() -> None:
    assert [own._half_a_digit(value) for value in (38.0, 38.45, 38, 2e-05)] == pytest.approx([0.05, 0.005, 0.0, 0.0])
    assert own._short("a\n  b" + "x" * 50) == "a b" + "x" * 37
    spec, point = {"train": {"a": 1, "b": 2}}, {"train": {"a": 1, "b": 3, "c": 4}}
    assert list(own._differences(spec, point)) == ["train.b 2, the grid's 3", "train.c None, the grid's 4"]


def test_a_plan_is_asked_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("analysis.paper.planned.plan_grid", lambda *given: seen.append(given) or "plan")
    sources: Any = made(runs=Path("unasked"), device="A100", like=["a=1"], asks_plan=True)
    assert command._plan("g", sources) == "plan"
    assert command._plan("g", sources) == "plan"
    assert seen == [("g", Path("unasked"), "A100", ("a=1",))]
    sources.asks_plan = False
    assert command._plan("g", sources) is None


def test_the_summary_has_a_line_a_table() -> None:
    num = {"reproduces": 3, "differs": 2, "not run": 1}
    table = command._summary([made(table="7", num=num, caption="Elo")])
    assert table.columns == ("table", "reproduces", "differs", "not run", "of")
    assert table.rows == (("7", "3", "2", "1", "Elo"),)
    assert (table.numbers, table.prose) == (("reproduces", "differs", "not run"), ("of",))


@pytest.mark.parametrize(("every", "as_json"), [(False, False), (True, False), (False, True), (True, True)])
def test_tables_hand_on_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], every: bool, as_json: bool
) -> None:
    seen: list[Any] = []
    printed: list[Any] = []
    monkeypatch.setattr(command, "_write_all", lambda *given, **more: seen.append((given, more)) or (["made"], []))
    monkeypatch.setattr(command, "_names", lambda: ["1", "2"])
    monkeypatch.setattr(command, "_summary", lambda found: ("summary", found))
    monkeypatch.setattr(command, "STDOUT", made(print=printed.append))
    monkeypatch.setattr(command, "say", lambda words, *_: printed.append(words))
    monkeypatch.setattr(command, "to_json", lambda found, **more: f"json {found}")
    names = ["all", "7"] if every else ["7", "1", "7"]
    more: dict[str, Any] = {"data": tmp_path / "d", "runs": tmp_path, "ledger_url": "u", "sweep": "s"}
    more |= {"device": "A100", "tournament": [tmp_path], "judge": "j", "plan": False, "like": "a=1 'b c'"}
    more |= {"out": tmp_path / "o", "resamples": 7}
    command.tables(names, **more, as_json=as_json)
    [((tables_of, sources, out, is_every), shows)] = seen
    assert (tables_of, out, is_every) == (["1", "2"] if every else ["7", "1"], tmp_path / "o", every)
    assert shows == {"shows": not every and not as_json}
    assert sources == command.Sources(
        data=tmp_path / "d", runs=tmp_path, ledger_url="u", sweep="s", tournaments=[tmp_path], judge="j", device="A100",
        asks_plan=False, like=["a=1", "b c"], resamples=7,
    )  # fmt: skip
    assert printed == ([("summary", ["made"]), f"written: {tmp_path / 'o'}/table*.csv, .md, .html, .tex"]
                       if every and not as_json else [])  # fmt: skip
    assert capsys.readouterr().out == ("json ['made']\n" if as_json else "")


def test_what_is_left_to_judge_costs() -> None:
    assert judged._cost("nobodys", 10) == "whose price isn't known"
    assert judged._cost("gpt-4", 1000).startswith("about 42 USD by gpt-4 (")
    plan = GridPlan(command="c", points=(), num_to_do=1, gpu_hours=None, device="H100")
    assert judged.left_to_do("6", plan, "gpt-4")["mean_pct"].startswith(plan.words())
    assert judged._is_vicunas("80")
    assert [judged._is_vicunas(name) for name in ("0", "1", "81", "x")] == [False, True, False, False]
    assert OWN == "own runs"


def test_git_is_asked_quietly_and_its_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    ended = [made(returncode=0, stderr="")]
    monkeypatch.setattr(fetch.subprocess, "run", lambda words, **more: seen.append((words, more)) or ended[0])
    repository: Any = made(url="U", commit="C", folders=("a", "b"), name="n")
    fetch._git(repository, tmp_path / "t", tmp_path, ("init", "--quiet"))
    [(words, more)] = seen
    assert words == ["git", "-c", "advice.detachedHead=false", "-c", "core.autocrlf=false", "init", "--quiet"]
    assert (more["cwd"], more["capture_output"], more["text"], more["timeout"], more["check"]) == (
        tmp_path, True, True, fetch.TIMEOUT_SECONDS, False,
    )  # fmt: skip
    assert more["env"]["GIT_TERMINAL_PROMPT"] == "0"
    for stderr, said in (("no\n route", "no route"), ("", "git init ended with 3")):
        ended[0] = made(returncode=3, stderr=stderr)
        with pytest.raises(fetch.NotFetched, match=f"U could not be fetched: {said}. Where there is a network"):
            fetch._git(repository, tmp_path / "t", tmp_path, ("init",))

    def late(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("git", 5)

    monkeypatch.setattr(fetch.subprocess, "run", late)
    with pytest.raises(fetch.NotFetched, match=f"no answer within {fetch.TIMEOUT_SECONDS} s"):
        fetch._git(repository, tmp_path / "t", tmp_path, ("init",))
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(fetch.NotFetched, match="git is not installed"):
        fetch._fetch_one(repository, tmp_path / "t")


def test_numbers_beside_the_papers() -> None:
    found = [plain(value) for value in (None, "x", 3, 0.9999, -0.5, 1.0, 0.00002)]
    assert found == [text.MISSING, "x", "3", "0.9999", "-0.5", "1.0", "2e-05"]


def relative(column: str, **more: Any) -> Cell:
    return cell(column=f"{column}_pct", setting="", **more)


def test_scores_relative_to_chatgpt_in_words() -> None:
    off = relative("mean", ours=12.5)
    fits = relative("sys_vs_chatgpt", status=Status.reproduces)
    lost = relative("chatgpt_vs_sys", status=Status.not_run, ours=None)
    names = {one.column: text.TITLES[one.column] for one in (off, fits, lost)}
    assert text._relative_words([fits]) == "reproduces"
    assert text._relative_words([off, fits]) == f"differs: {names['mean_pct']} +2.5"
    both = f"differs: {names['mean_pct']} +2.5; not run: {names['chatgpt_vs_sys_pct']}"
    assert text._relative_words([off, lost]) == both
    assert text._relative_words([fits, lost]) == f"reproduces; not run: {names['chatgpt_vs_sys_pct']}"
    assert text._relative_words([lost, lost]) == "not run"


def test_wins_in_a_square() -> None:
    cells = [
        cell(row="a", column="b", setting="", paper=0.5, ours=0.25),
        cell(row="b", column="a", setting="", paper=-0.5, ours=None, status=Status.not_run),
        cell(row="c", column="a", setting="", paper=1.0, ours=1.0, status=Status.reproduces),
        cell(row="a", column="c", setting="other"),
    ]  # fmt: skip
    section = text._wins_section(made(cells=cells), "")
    assert section.header == ("paper / ours, against", "a", "b", "c", "reads")
    assert section.rows == (
        ("a", "", "0.50 / 0.25", "", "differs: b"),
        ("b", f"-0.50 / {text.MISSING}", "", "", "not run: a"),
        ("c", "1.00 / 1.00", "", "", "reproduces"),
    )
    assert (section.title, text._of("x"), text._of("")) == ("Wins less losses, a question", ", x", "")


def test_median_ranks_of_the_systems_that_have_one() -> None:
    ranks = [cell(column="median_rank", row=row, paper=1, ours=ours, status=status) for row, ours, status in
             (("a", 1.0, Status.reproduces), ("b", 3.0, Status.differs), ("c", None, Status.not_run))]  # fmt: skip
    section = text._median_section(made(cells=[*ranks, cell()]))
    assert section.rows == (("a", "1 / 1", "reproduces"), ("b", "1 / 3", "differs by +2.0"))
    found = text._cells(made(cells=ranks), column="median_rank", row="c")
    assert (found, text._cells(made(cells=ranks), column="x")) == (ranks[2:], [])
    assert text._line(["a|b", "c"]) == "| a\\|b | c |"


def test_bits_of_each_data_type() -> None:
    """Section 3: a constant of 32 bits for 64 weights is half a bit; doubly quantized 0.127."""
    assert figures._rouge(made(results={})) is None
    assert figures.BITS == {"BF16": 16.0, "fp4": 4 + 32 / 64, "nf4": 4 + 32 / 64, "nf4 + DQ": 4.127}


def test_accuracy_over_the_gigabytes_of_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "data_type_of", lambda spec: spec["kind"])
    monkeypatch.setattr(figures, "num_parameters", lambda shape: 8e9)
    monkeypatch.setattr(figures, "ShapeConfig", lambda **shape: shape)
    result = {"headline": {"metric": "m", "n": 9, "value": 0.5, "ci95": None}}
    found = {"tasks": result}
    runs = [
        made(spec={"kind": kind, "model": {"shape": {}}}, results=results, label="l", run_id="r")
        for kind, results in (("BF16", found), ("nf4", found), ("int8", found), ("BF16", {}))
    ]
    assert [figures._accuracy(run) for run in runs] == [("BF16", 16.0, 50.0, "l"), ("nf4", 4.5, 50.0, "l"), None, None]
    drawn = figures._figure_3(made(runs=runs))
    assert drawn.rows == (("BF16", 16.0, 50.0, "l"), ("nf4", 4.5, 50.0, "l"))
    assert figures._figure_3(made(runs=runs[2:])).drawing is None


def test_one_table_is_written_in_four_formats_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[Any] = []
    for name in ("to_csv", "to_markdown", "to_html", "to_latex", "to_terminal"):
        monkeypatch.setattr(text, name, lambda found, name=name: f"{name} {found}")
    monkeypatch.setattr(command, "_made", lambda *given: given[0])
    monkeypatch.setattr(command, "say", lambda words, *_: said.append(words))
    monkeypatch.setattr(command, "STDOUT", made(print=said.append))
    monkeypatch.setattr(command, "write_atomically", lambda path, words: said.append((path.name, words)))
    kinds = (("csv", "csv"), ("md", "markdown"), ("html", "html"), ("tex", "latex"))
    files = [(f"table7.{ending}", f"to_{kind} 7") for ending, kind in kinds]
    assert command._write("7", made(), tmp_path, shows=True) == "7"
    assert said == [*files, "to_terminal 7", f"written: {tmp_path / 'table7'}, as .csv, .md, .html, .tex"]
    said.clear()
    command._write("7", made(), tmp_path, shows=False)
    assert said == files


def test_tables_that_can_not_be_made_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[Any] = []
    monkeypatch.setattr(command, "say", lambda words, *_: said.append(words))

    def write(name: str, *_: Any) -> str:
        if name == "1":
            raise released.NoJudgments("none")
        if name == "2":
            raise ValueError("why")
        return name

    monkeypatch.setattr(command, "_write", write)
    assert command._write_all(["1", "2", "3"], made(), tmp_path, every=True, shows=False) == (["3"], ["table 2: why"])
    assert said == ["table 1: not run: none"]
    found = command._write_all(["1", "2", "3"], made(), tmp_path, every=False, shows=False)
    assert found == (["3"], ["table 1: none", "table 2: why"])
    with pytest.raises(ValueError, match="expected one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, or all;"):
        command._made("13", made(), tmp_path)


def test_systems_of_the_first_file_of_each_part_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(path: str, *names: str) -> Any:
        return made(path=Path(path), verdicts=made(system_names=names))

    parts = [[one("x", "a", "b"), one("y", "z")], [], [one("w", "b", "c")]]
    monkeypatch.setattr(judged, "_of_parts", lambda table, files: parts)
    monkeypatch.setattr(judged, "_rows", lambda table, systems, runs: ({name: name for name in systems}, ["note"]))
    found = judged.own_tournament("7", [], made(runs=()))
    assert list(found.rows) == ["a", "b", "c"]
    assert [None if part is None else part.path.name for part in found.parts] == ["x", None, "w"]
    assert found.notes == ("note", "own runs: left out, as another file has judgments of its kind: y")

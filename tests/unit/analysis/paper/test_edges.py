"""Edges of the paper's tables and figures: which sweep is read, the order of files, what only type checkers import."""

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.paper import command, fetch, judged, own, planned, released, tables
from analysis.paper.figures import FIGURES
from analysis.paper.own import OwnRuns
from analysis.paper.values import PaperTable
from eval.verdicts.table import Verdicts


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("analysis.compare.command", "Contest"),
        ("analysis.exports.command", "FoundRun"),
        ("analysis.leaderboard.entry_report", "SweepRuns"),
        ("analysis.paper.command", "Reproduction"),
    ],
)
def test_types_alone_are_not_imported(module: str, name: str) -> None:
    """A command's help waits for no table library."""
    assert not hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("sweep", [None, "mine"])
def test_a_figure_is_of_its_grids_sweep_or_of_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sweep: str | None
) -> None:
    read: list[Any] = []
    drawn: list[Any] = []
    said: list[str] = []

    def of_sweep(runs: Path, name: str, url: str) -> OwnRuns:
        read.append((runs, name, url))
        return OwnRuns(where=name, notes=("a note",))

    def figure(name: str, own: OwnRuns) -> Any:
        drawn.append((name, own.where))
        return made(drawing="d" if name == "3" else None, title=f"T{name}", caption="c", name="n", svg="s", csv="v")

    monkeypatch.setattr(OwnRuns, "of_sweep", of_sweep)
    monkeypatch.setattr("analysis.paper.figures.paper_figure", figure)
    monkeypatch.setattr(command, "say", lambda words, *_: said.append(words))
    command.figures(["3", "6", "2", "3"], runs=tmp_path, ledger_url="u", sweep=sweep, out=tmp_path / "out")
    names = [sweep or FIGURES[name].grid for name in ("3", "2")]
    assert read == [(tmp_path, name, "u") for name in names]
    assert drawn == [("3", names[0]), ("6", "no run"), ("2", names[1])]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"n.svg": "s", "n.csv": "v"}
    assert said == [
        "note: figure 3: a note", f"T3: {tmp_path / 'out' / 'n'}.svg, .csv", "T6: c", "note: figure 2: a note", "T2: c",
    ]  # fmt: skip


def test_what_is_left_of_a_table_is_left_of_its_first_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "GRIDS", {"6": ("first", "second")})
    monkeypatch.setattr("analysis.paper.tables.reproduce", lambda *given: ("released", given))
    monkeypatch.setattr(judged, "left_to_do", lambda name, plan, judge: {"x": (name, plan, judge)})
    monkeypatch.setattr(judged, "beside", lambda *given: given)
    monkeypatch.setattr(command, "_plan", lambda grid, sources: f"plan of {grid}")
    monkeypatch.setattr(command, "_own_judgments", lambda *given: None)
    sources: Any = made(data="d", resamples=7, judge="j")
    found: Any = command._judged("6", sources, Path("o"))
    left = {"x": ("6", "plan of first", "j")}
    assert found == ("6", ("released", ("6", "d", Path("o"), 7)), "", None, (), left)


def test_own_judgments_are_those_of_the_first_grid_that_has_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A named sweep alone, else the table's grids in turn; folders that are named are looked at and nothing else."""
    looked: list[Any] = []
    there = {"second": [Path("f")]}
    monkeypatch.setattr(judged, "GRIDS", {"6": ("first", "second", "third")})
    monkeypatch.setattr(judged, "tournament_folders", lambda runs, sweep: [sweep])
    monkeypatch.setattr(judged, "files_of", lambda name, folders: looked.append(folders) or there.get(str(folders[0])))
    monkeypatch.setattr(OwnRuns, "of_sweep", lambda *given: given)
    sources: Any = made(tournaments=[], runs="r", sweep=None, ledger_url="u")
    assert command._own_judgments("6", sources) == ([Path("f")], ("r", "second", "u"))
    sources.sweep = "third"
    assert command._own_judgments("6", sources) is None
    assert looked == [["first"], ["second"], ["third"]]
    sources.tournaments = [tmp_path]
    assert command._own_judgments("6", sources) is None
    assert looked[3] == [tmp_path]
    sources.tournaments = [tmp_path, tmp_path / "none"]
    with pytest.raises(ValueError, match=r"--tournament .*none: no such folder"):
        command._own_judgments("6", sources)


def test_files_are_read_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever order the file system gives: rows, and which of two copies is named first, do not depend on it."""
    for name in ("bard-vs-gpt4-gpt4-reviewer", "gpt4-vs-bard-gpt4-reviewer", "claude-vs-bard-gpt4-reviewer"):
        (tmp_path / f"{name}.jsonl").touch()
    there = sorted(tmp_path.glob("*.jsonl"))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(there[::-1]))
    names = [file.path.name for file in released._read_files(tmp_path)]
    assert names == sorted(names)
    assert len(names) == 2


def test_what_was_fetched_is_checked_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    release: Any = made(name="n", sha256="0123456789abcdef")
    digests = iter(["0123456789abcdef", "f"])
    monkeypatch.setattr(fetch, "canonical_sha256", lambda release, path: next(digests))
    assert fetch.check(release, Path("f")) == "sha256 0123456789ab, as released"
    with pytest.raises(fetch.NotFetched, match="n: the judgments' sha256 is f, and should be 0123456789abcdef; delete"):
        fetch.check(release, Path("f"))
    assert fetch.check(made(sha256=None), Path("f")) == "as the commit has it (no sha256 is known)"


def test_a_commit_without_a_folder_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is wanted is moved into place after all of it has come; a folder that is there already stays."""
    repository: Any = made(url="U", commit="C", folders=("a", "b/c"), name="n")
    asked: list[tuple[str, ...]] = []
    there = ["a"]

    def git(repository: Any, target: Path, scratch: Path, words: tuple[str, ...]) -> None:
        asked.append(words)
        for folder in there:
            (scratch / folder).mkdir(parents=True, exist_ok=True)
            (scratch / folder / "new").touch()

    monkeypatch.setattr(fetch, "_git", git)
    target = tmp_path / "data" / "n"
    with pytest.raises(fetch.NotFetched, match=r"U could not be fetched: the commit has no folder b/c\. Where there"):
        fetch._fetch_one(repository, target)
    assert list((tmp_path / "data").iterdir()) == []
    assert asked == [
        ("init", "--quiet"), ("remote", "add", "origin", "U"), ("sparse-checkout", "set", "--no-cone", "/a/", "/b/c/"),
        ("fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", "C"),
        ("checkout", "--quiet", "FETCH_HEAD"),
    ]  # fmt: skip
    there.append("b/c")
    (target / "a").mkdir(parents=True)
    fetch._fetch_one(repository, target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["a", "b", "b/c", "b/c/new"]


def test_the_data_command_says_what_was_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[Any] = []
    monkeypatch.setattr(command, "say", lambda words, *_: said.append(words))
    monkeypatch.setattr(fetch, "fetch", lambda data, say: seen.append((data, say)) or {"one": "as released", "b": "x"})
    command.fetch_data(tmp_path)
    assert (seen, said) == ([(tmp_path, command.say)], ["one: as released", "b: x"])


def test_a_sweep_that_no_ledger_knows_has_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(sweep: str, url: str) -> Any:
        raise ValueError(f"no {sweep} in {url}")

    monkeypatch.setattr(own, "sweep_runs", unknown)
    assert OwnRuns.of_sweep(Path("r"), "s", "u") == OwnRuns(where="sweep s", runs=(), notes=("no s in u",))
    known = made(unfinished=[("l", "late")], run_ids=("a", "b"))
    monkeypatch.setattr(own, "sweep_runs", lambda sweep, url: known)
    monkeypatch.setattr(own, "_runs", lambda runs, names: [f"{runs}/{name}" for name in names])
    found: Any = OwnRuns.of_sweep(Path("r"), "s", "u")
    assert (found.where, found.runs, found.notes) == ("sweep s in r", ("r/a", "r/b"), ("l is left out: late",))


def test_a_grid_is_planned_by_a_command_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    totals = {"totals": {"to_do": {"num_runs": 3, "gpu_hours": 1.5}}, "runs": [{"spec": {"a": 1}}, {"spec": {"a": 2}}]}
    ended = [made(returncode=0, stdout=json.dumps(totals), stderr="")]
    monkeypatch.setattr(planned.subprocess, "run", lambda words, **more: seen.append((words, more)) or ended[0])
    plan = planned.plan_grid("g", Path("r"), overrides=["x=1"])
    [(words, more)] = seen
    assert words == [sys.executable, "-m", "sweeps", "plan", "+grid=g", "x=1", "--device", "H100", "--json"]
    assert (more["capture_output"], more["text"], more["check"], more["env"]["HARNESS_RUNS"]) == (
        True,
        True,
        False,
        "r",
    )
    assert set(os.environ) <= set(more["env"])
    assert (plan.command, plan.points) == ("python -m sweeps run +grid=g x=1", ({"a": 1}, {"a": 2}))
    assert (plan.num_to_do, plan.gpu_hours, plan.device) == (3, 1.5, "H100")
    assert planned.plan_grid("g", Path("r"), "A100").device == "A100"
    for stderr, said in ((" no grid \n", "no grid"), ("", "ended with status 2")):
        ended[0] = made(returncode=2, stdout="", stderr=stderr)
        with pytest.raises(ValueError, match=rf"^python -m sweeps plan \+grid=g x=1: {said}$"):
            planned.plan_grid("g", Path("r"), overrides=["x=1"])


def test_released_judgments_are_in_one_place(tmp_path: Path) -> None:
    release = released.RELEASES["oa_gpt4_pairwise"]
    for name in ("a", "b"):
        folder = tmp_path / name / release.folder
        folder.mkdir(parents=True)
        (folder / "x.jsonl").touch()
    with pytest.raises(ValueError, match=r"a/ratings-gpt4/oa and .*b/ratings-gpt4/oa: keep one of the two"):
        released.locate("oa_gpt4_pairwise", tmp_path, tmp_path / "out")
    (tmp_path / "b" / release.folder / "x.jsonl").unlink()
    with pytest.raises(ValueError, match=r"a/ratings-gpt4/oa: no file in it is named <one>-vs-<other>-"):
        released.locate("oa_gpt4_pairwise", tmp_path, tmp_path / "out")
    for name in ("a", "c"):
        (tmp_path / name / "oa_gpt4_pairwise.csv").parent.mkdir(exist_ok=True)
        (tmp_path / name / "oa_gpt4_pairwise.csv").touch()
    with pytest.raises(ValueError, match=r"a/oa_gpt4_pairwise.csv and .*c/oa_gpt4_pairwise.csv: keep one of the two"):
        released.locate("oa_gpt4_pairwise", tmp_path, tmp_path / "out")
    (tmp_path / "c" / "oa_gpt4_pairwise.csv").unlink()
    place = released.locate("oa_gpt4_pairwise", tmp_path, tmp_path / "out")
    assert place == tmp_path / "a" / "oa_gpt4_pairwise.csv"
    (tmp_path / "a" / release.folder / "x.jsonl").unlink()
    with pytest.raises(released.NoJudgments, match=r"oa_gpt4_pairwise\.csv nor the folder ratings-gpt4/oa"):
        released.locate("oa_gpt4_pairwise", tmp_path, tmp_path / "a")  # what is converted there is not read again


def test_two_files_of_one_pair_are_refused(tmp_path: Path) -> None:
    for name in ("bard-vs-gpt4-gpt4-reviewer", "answer_bard-vs-answer_gpt4-human-reviewer"):
        (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(ValueError, match=r"bard-vs-gpt4-gpt4-reviewer.jsonl and .*both hold bard against gpt-4: keep"):
        list(released._read_files(tmp_path))


def test_places_are_looked_at_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file itself, then what is in a folder, then in a folder of one; each depth by name."""
    for name in ("b/x.csv", "a/x.csv", "a/b/x.csv", "x.csv", "a/b/c/d/x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    kept = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(sorted(kept(self, pattern), reverse=True)))
    names = [str(path.relative_to(tmp_path)) for path in released._below(tmp_path, "x.csv")]
    assert names == ["x.csv", "a/x.csv", "b/x.csv", "a/b/x.csv"] + ["a/b/c/d/x.csv"] * (released.DEPTH >= 4)


@pytest.mark.parametrize(
    ("ours", "low", "high", "status"),
    [
        (20.0, 10.0, 30.0, "reproduces"),  # the printed value on an end of our interval
        (5.0, 1.0, 10.0, "reproduces"),
        (20.0, 10.01, 30.0, "differs"),
        (5.0, 1.0, 9.99, "differs"),
        (20.0, 5.0, None, "differs"),
        (20.0, None, 30.0, "differs"),
        (10.05, None, None, "reproduces"),  # rounds to what is printed
        (9.95, None, None, "reproduces"),
        (10.051, None, None, "differs"),
        (None, None, None, "not run"),
    ],
)
def test_ours_reproduces_at_the_ends_of_the_interval_and_of_the_digit(
    ours: float | None, low: float | None, high: float | None, status: str
) -> None:
    table = PaperTable(caption="c", where="P", columns=("c",), rows={"r": (10.0,)})
    found = own._compared(table, "r", "c", 10.0, ours, low, high, None if ours is not None else "why")
    assert (found.status.value, found.ours, found.low, found.high) == (status, ours, low, high)


PRINTED = PaperTable(
    caption="c", where="P", columns=("chatgpt_vs_sys_pct", "sys_vs_chatgpt_pct", "mean_pct", "ci95_pct"),
    rows={"a": (90.0, 110.0, 100.0, 5.0), "b": (50.0, None, 60.0, 5.0)},
)  # fmt: skip


def test_a_relative_score_has_its_interval_at_the_mean_alone() -> None:
    score: Any = made(first=110.04, second=90.06, mean=100.25, ci95=4.96, low=95.0, high=105.0)
    found = tables.relative_cells(PRINTED, {"a": score}, "s", lambda name: f"{name} has none")
    assert [(c.row, c.column, c.ours, c.low, c.high, c.status.value) for c in found] == [
        ("a", "chatgpt_vs_sys_pct", 90.1, None, None, "differs"),
        ("a", "sys_vs_chatgpt_pct", 110.0, None, None, "reproduces"),
        ("a", "mean_pct", 100.2, 95.0, 105.0, "differs"),
        ("a", "ci95_pct", 5.0, None, None, "reproduces"),
        *(("b", name, None, None, None, "not run") for name in ("chatgpt_vs_sys_pct", "mean_pct", "ci95_pct")),
    ]
    assert {c.reason for c in found[4:]} == {"b has none"}
    assert {c.setting for c in found} == {"s"}


def test_a_column_without_judgments_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """People's votes, which come first, are missing: GPT-4's columns are made, and the median of ranks is not."""
    for name in ("vicuna_gpt4_pairwise", "oa_gpt4_pairwise"):
        rows = [f"{n},gpt-4,bard,1\n{n},bard,gpt-4,2" for n in (1, 2)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["question_id,system_a,system_b,verdict", *rows]) + "\n")
    found = tables.reproduce("7", tmp_path, tmp_path / "out", resamples=2)
    made_of = {c.column for c in found.cells if c.status is not tables.Status.not_run}
    assert made_of == {"elo_gpt4_vicuna", "rank_gpt4_vicuna", "elo_gpt4_oa", "rank_gpt4_oa"}
    assert [why.split(":")[0] for why in found.missing] == ["no people's votes on the Vicuna benchmark"]
    medians = [c for c in found.cells if c.column == "median_rank"]
    assert {str(c.reason).partition(";")[0] for c in medians} == {"needs the ranks of all three columns"}
    assert len(found.sources) == 2
    names = [setting.name for setting in found.settings]
    assert names == ["stated", "drawn", "small K", "drawn"]
    assert [(setting.k, setting.sample_size) for setting in found.settings] == [
        (32.0, None), (32.0, 500), (4.0, None), (32.0, 4240),
    ]  # fmt: skip


def test_ranks_and_half_widths_of_ratings() -> None:
    def rating(mean: float, low: float | None, high: float | None) -> Any:
        return made(mean=mean, low=mean - 50, high=mean + 50, ordering_low=low, ordering_high=high)

    columns = ("elo_gpt4_vicuna", "elo_ci95", "rank_gpt4_vicuna")
    printed = PaperTable(
        caption="c", where="P", columns=columns, rows={"a": (1000, 4, 2), "b": (1100, 4, 1), "c": (1000, 4, 3)}
    )
    column = tables.EloColumn(
        release="vicuna_gpt4_pairwise", elo=columns[0], rank=columns[2], interval=columns[1], num_drawn=1
    )
    ratings = {"a": rating(1002.0, 998.0, 1007.0), "b": rating(1102.1, None, 1107.0)}
    found = tables.elo_cells(printed, column, "s", ratings, None)
    assert [(c.row, c.column, c.ours, c.low, c.high, c.status.value) for c in found] == [
        ("a", columns[0], 1002.0, 952.0, 1052.0, "reproduces"), ("a", columns[1], 4.5, None, None, "reproduces"),
        ("a", columns[2], 2, None, None, "reproduces"), ("b", columns[0], 1102.1, 1052.1, 1152.1, "differs"),
        ("b", columns[1], None, None, None, "not run"), ("b", columns[2], 1, None, None, "reproduces"),
        *(("c", name, None, None, None, "not run") for name in columns),
    ]  # fmt: skip
    assert found[-1].reason == "c is in none of GPT-4's verdicts on the Vicuna benchmark"
    assert tables.elo_cells(printed, column, "s", {}, "too few")[0].reason == "too few"


def test_wins_less_losses_a_question() -> None:
    """Two questions in both orders: a wins both, then one and one tie; the other way round the sign is turned."""
    verdicts = Verdicts.of(
        questions=["1", "1", "2", "2", "2"],
        pairs=[("a", "b"), ("b", "a"), ("a", "b"), ("b", "a"), ("a", "c")],
        verdicts=[1, 2, 1, 3, 2],
        judges=["j"] * 5,
    )
    assert tables.net_wins(verdicts, "a", "b") == {"1": 2.0, "2": 1.0}
    assert tables.net_wins(verdicts, "b", "a") == {"1": -2.0, "2": -1.0}
    assert tables.net_wins(verdicts, "a", "c") == {"2": -1.0}
    assert tables.net_wins(verdicts, "b", "c") == tables.net_wins(verdicts, "a", "x") == {}
    printed = PaperTable(caption="c", where="P", columns=("b", "x"), rows={"a": (1.5, 0.5)})
    met, never = tables.win_cells(printed, verdicts, "s", "never met")
    assert (met.ours, met.status.value, met.setting, never.ours, never.reason) == (
        1.5, "reproduces", "s", None, "never met",
    )  # fmt: skip
    assert met.low is not None
    assert met.high is not None
    assert met.low < 1.5 < met.high
    assert [c.status.value for c in tables.win_cells(printed, None, "s", "none")] == ["not run"] * 2


def test_a_run_fills_cells_by_each_benchmark_that_it_was_scored_on() -> None:
    def result(value: float | None, *ci95: float) -> Any:
        return {"headline": {"metric": "m", "n": 9, "value": value, "ci95": ci95 or None}}

    places: Any = made(benchmark="x y z", scale=100.0, cells=lambda spec: [("row", "column", spec["part"])])
    run: Any = made(run_id="r", spec={"part": "p"}, results={"y": result(0.5, 0.25, 0.75), "z": result(None)})
    assert list(own._values("3", places, run)) == [("row", "column", "p", 50.0, 25.0, 75.0)]
    run.results["z"] = result(0.125)
    assert [found[3:] for found in own._values("3", places, run)] == [(50.0, 25.0, 75.0), (12.5, None, None)]
    places.benchmark = None
    assert list(own._values("3", places, run)) == []
    age, average = {"value": 50.0, "ci95": [40.0, 60.0]}, {"value": 55.0, "ci95": None}
    crows = {"categories": {"Age": age}, "average_of_pairs": average}
    places.benchmark = "tasks"
    run.results = {"tasks": {"tasks": {"other": {}, "c": {"crows_pairs": crows}}}}
    assert list(own._values("8", places, run)) == [
        ("Age", "column", "p", 50.0, 40.0, 60.0), ("Average", "column", "p", 55.0, None, None),
    ]  # fmt: skip


def test_a_run_that_the_folder_lacks_leaves_those_behind_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ledger may be ahead of the folder: the second run has no record, the third one is read."""
    record: Any = made(label="l", spec={"a": 1}, final_loss=1.5)
    monkeypatch.setattr(own, "load_record", lambda folder: None if folder.name == "b" else record)
    monkeypatch.setattr(own, "read_typed", lambda path, *_: {"read": path.name})
    for name in ("tasks", "mmlu", "empty"):
        (tmp_path / "c" / "eval" / name).mkdir(parents=True)
    for name in ("tasks", "mmlu"):
        (tmp_path / "c" / "eval" / name / f"{name}.json").touch()
    found = list(own._runs(tmp_path, ["a", "b", "c"]))
    assert [(run.run_id, run.results) for run in found] == [
        ("a", {}), ("c", {"mmlu": {"read": "mmlu.json"}, "tasks": {"read": "tasks.json"}}),
    ]  # fmt: skip
    assert (found[0].label, found[0].spec, found[0].final_loss) == ("l", {"a": 1}, 1.5)

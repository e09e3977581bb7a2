"""Edges of the paper's tables and figures: which sweep is read, the order of files, what only type checkers import."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.paper import command, judged, released
from analysis.paper.figures import FIGURES
from analysis.paper.own import OwnRuns


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

"""Edges of the leaderboard's parts: what is noted and what is not, states of a watched sweep, the recorded command."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.leaderboard import entry_report, found, watch
from analysis.leaderboard.found import FoundRun
from analysis.leaderboard.options import LeaderboardOptions
from analysis.leaderboard.watch import Watched, WatchOptions
from harness.config.schema import ModelKind
from harness.runs.steps import load_steps


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def run(name: str, kind: ModelKind = ModelKind.causal) -> FoundRun:
    facts: Any = {"run_id": name, "name": name, "group": "g", "base": "b", "folder": Path(name)}
    return FoundRun(**facts, kind=kind, plays=kind is ModelKind.causal)


@pytest.mark.parametrize(
    ("silent", "notes"),
    [
        ((), ("left out l: why", "of files")),
        (
            ("t5", "bert"),
            (
                "left out l: why",
                "2 runs answer no open prompts, as they are no causal models: t5, bert",
                "of files",
            ),
        ),
    ],
)
def test_runs_that_answer_nothing_are_noted_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    runs = (run("a"), *(run(name, ModelKind.seq2seq) for name in silent))
    questions = [made(question_id="1", turns=("x", "y")), made(question_id="2", turns=("x",))]
    asked: list[Any] = []
    monkeypatch.setattr(found, "load_open_questions", lambda *given: asked.append(given) or questions)
    monkeypatch.setattr(found, "_records", lambda options: ({}, [], True))
    monkeypatch.setattr(found, "_readable", lambda *given: (runs, [("l", "why")]))
    monkeypatch.setattr(found, "_others", lambda *given: ({"x": frozenset("1")}, ("of files",)))
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s", max_questions=2)
    there = found.look(options)
    assert asked == [("embedded", 2)]
    assert (there.notes, there.questions, there.num_turns) == (notes, ("1", "2"), 3)
    assert [one.name for one in there.players] == ["a"]
    assert (there.is_whole_sweep, there.has_verdicts, there.has_ratings, there.rated) == (False, False, False, ())
    (tmp_path / "verdicts.csv").touch()
    monkeypatch.setattr(found, "_readable", lambda *given: (runs, []))
    there = found.look(options)
    assert (there.is_whole_sweep, there.has_verdicts, there.has_ratings) == (True, True, False)


def test_ratings_are_new_until_verdicts_are_newer(tmp_path: Path) -> None:
    ratings, old, new, missing = (tmp_path / name for name in ("ratings.json", "old.csv", "new.csv", "none.csv"))
    for path, written in ((ratings, 50), (old, 50), (new, 51)):
        path.touch()
        os.utime(path, ns=(written, written))
    assert found._is_newer(ratings, ())
    assert found._is_newer(ratings, (old, missing))
    assert not found._is_newer(ratings, (old, new))
    assert not found._is_newer(missing, (missing,))


def test_the_state_of_a_sweep_is_of_its_files_in_any_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Records, answers and scores of each run and the tournament's two files; by name, whatever glob gives first."""
    runs, tournament = tmp_path / "runs", tmp_path / "a tournament"
    names = ["r1/record.json", "r1/eval/mmlu/mmlu.json", "r1/answers/open.jsonl", "r2/record.json"]
    for path in [*(runs / name for name in names), tournament / "verdicts.csv", tournament / "ratings.json"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("xy")
        os.utime(path, ns=(7, 7))
    (runs / "r1" / "log.txt").touch()
    watched = Watched(WatchOptions(sweep="s", runs=runs, tournament=tournament), tmp_path / "out")
    chosen: Any = made(run_ids=("r1", "r2"))
    of_chosen, files = watched._seen(chosen)
    assert of_chosen is chosen
    shown = [str(tournament / name) for name in ("ratings.json", "verdicts.csv")]
    shown += sorted(str(runs / name) for name in names)
    assert files == tuple((name, 7, 2) for name in shown)
    kept = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: reversed(list(kept(self, pattern))))
    assert watched._seen(chosen) == (chosen, files)
    bare = Watched(WatchOptions(sweep="s", runs=runs), tmp_path / "out")
    assert [name for name, *_ in bare._seen(chosen)[1]] == shown[2:]
    assert watch.SHOWN_IN_TOURNAMENTS == ("verdicts.csv", "ratings.json")


@pytest.mark.parametrize("has_tournament", [True, False])
def test_a_report_records_how_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_tournament: bool
) -> None:
    """The step is recorded beside the page and in the tournament, and not as done: the next call makes it again."""
    monkeypatch.setattr(sys, "argv", ["analysis", "report", "--sweep", "s", "--json"])
    out, tournament = tmp_path / "out", tmp_path / "t"
    for folder in (out, tournament):
        folder.mkdir()
    lines = entry_report._commands(out, tournament if has_tournament else None, [], [])
    assert lines == ["python -m analysis report --sweep s"]
    for folder, is_there in ((out, True), (tournament, has_tournament)):
        steps = list(load_steps(folder).values())
        assert [(step.key, step.command, step.is_done) for step in steps] == (
            [("report", ["python", "-m", "analysis", "report", "--sweep", "s"], False)] if is_there else []
        )
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert entry_report._commands(tmp_path / "other", None, [], []) == []
    assert entry_report._commands(tmp_path / "other", None, [made(folder=out)], []) == lines
    assert entry_report._commands(tmp_path / "other", None, [], [out / "answers.jsonl"]) == lines

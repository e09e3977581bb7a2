"""Where frames come from, and what is read of steps and ratings: by value."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.tidy import ratings, sources, steps
from analysis.tidy.ratings import rating_rows, read_ratings
from analysis.tidy.sources import FoundRun, Source, found_runs, tournament_verdicts


def found(name: str, label: str | None) -> FoundRun:
    return FoundRun(run_id=name, folder=Path(name), label=label, state="done", reason=None, spec={}, record=None)


def test_runs_of_a_folder_are_in_the_order_of_their_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("b", "a", "d", "not-a-run"):
        (tmp_path / name).mkdir()
    for name, file in (("b", "record.json"), ("a", "config.yaml"), ("d", "record.json")):
        (tmp_path / name / file).touch()
    read: list[str] = []
    monkeypatch.setattr(sources, "_of_run_folder", lambda path: read.append(path.name) or found(path.name, None))
    assert [run.run_id for run in found_runs(Source(runs_folder=tmp_path))] == ["a", "b", "d"]
    assert read == ["a", "b", "d"]
    (tmp_path / "ledger.sqlite").touch()
    known = [found("d", "of the ledger"), found("c", None)]
    seen: list[Any] = []
    monkeypatch.setattr(sources, "_of_ledger", lambda *given: seen.append(given) or known)
    every = found_runs(Source(runs_folder=tmp_path))
    assert [run.run_id for run in every] == ["a", "b", "c", "d"]
    assert every[3].label == "of the ledger"
    assert (seen[0][0], seen[0][2]) == (tmp_path, None)
    found_runs(Source(runs_folder=tmp_path, sweep="s", ledger_url="u"))
    assert seen[1] == (tmp_path, "u", "s")
    with pytest.raises(ValueError, match="no such folder of runs; name it by runs_folder="):
        found_runs(Source(runs_folder=tmp_path / "nowhere"))


def test_runs_of_a_tournament_are_those_that_play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(sources, "_of_folder", lambda *given: [found("a", "x"), found("b", None), found("c", "z")])
    monkeypatch.setattr(sources, "tournament_verdicts", lambda folder: SimpleNamespace(system_names=["x", "b"]))
    chosen = found_runs(Source(runs_folder=tmp_path, tournament=tmp_path / "t"))
    assert [run.name for run in chosen] == ["x", "b"]
    with pytest.raises(ValueError, match=r"tournament=.*nowhere: no such folder"):
        Source(tournament=tmp_path / "nowhere").tournament_folder()
    assert Source().tournament_folder() is None


def test_a_tournament_may_be_empty_and_must_have_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"verdicts.csv: no such file; make it with `python -m eval judge`"):
        tournament_verdicts(tmp_path)
    (tmp_path / "verdicts.csv").write_text("question_id,system_a,system_b,verdict\n")
    assert len(tournament_verdicts(tmp_path)) == 0


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"step": 2, "loss": 1.0}, {"step": 1, "loss": None}], [1, 2]),
        ([{"step": 1, "loss": 1.0}, {"step": 1, "loss": 2.0}], [1]),
        ([{"step": 1, "loss": 1}], [1]),  # a whole number is a loss too
    ],
)
def test_steps_in_their_order_each_once(tmp_path: Path, lines: list[Any], expected: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps.read_steps(path) == []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = steps.read_steps(path)
    assert [row["step"] for row in read] == expected
    assert read[-1]["loss"] == max(lines, key=lambda line: line["step"] * 10 + (line["loss"] or 0))["loss"]


@pytest.mark.parametrize("wrong", [{"loss": 1.0}, {"step": True, "loss": 1.0}, {"step": 1}, {"step": 1, "loss": "x"}])
def test_one_wrong_step_among_right_ones_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ({"step": 1, "loss": 2.0}, wrong, {"step": 3, "loss": 2.0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        steps.read_steps(path)


def test_rows_of_ratings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_ratings(tmp_path / "ratings.json") is None
    one = {"rating": 10.0, "low": 5.0, "high": 15.0}
    values = {
        "bradley_terry": {"a": one}, "elo": {"a": {"mean": 1000.0, "low": 990.0, "high": 1010.0}}, "unrated": ["b"],
        "ranks": {"a": {"rank": 1, "low": 1, "high": 2, "best": 0.75}},
    }  # fmt: skip
    monkeypatch.setattr(ratings, "read_ratings", lambda path: values if path == tmp_path / "ratings.json" else None)
    rating, elo, unrated = rating_rows(tmp_path)
    assert rating == {
        "system": "a", "rating": "bradley_terry", "value": 10.0, "low": 5.0, "high": 15.0, "rank": 1, "rank_low": 1,
        "rank_high": 2, "best_probability": 0.75, "reason": None,
    }  # fmt: skip
    assert (elo["rating"], elo["value"], elo["rank"]) == ("elo", 1000.0, 1)
    assert unrated == {"system": "b", "reason": "met nobody: none of its verdicts is parsed"}

"""What the functions of `analysis.frames` hand on, and rows of scores, questions, steps and answers: by value."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import frames, notebook
from analysis.tidy.rows import RunRows
from analysis.tidy.sources import Source
from eval.answers.files import Answer
from eval.verdicts.table import Verdicts


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize("name", ["runs", "scores", "questions", "metrics", "answers"])
def test_every_frame_is_of_the_source_that_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen: list[Source] = []
    monkeypatch.setattr(frames, "found_runs", lambda source: seen.append(source) or [])
    monkeypatch.setattr(frames, "runs_frame", lambda found: pd.DataFrame({"run_id": [], "label": []}))
    given: Any = {"runs_folder": Path("r"), "sweep": "s", "tournament": Path("t"), "ledger_url": "u"}
    getattr(frames, name)(**given)
    assert seen == [Source(**given)]
    assert frames._source("r", None, "t") == Source(runs_folder="r", tournament="t")


def run(name: str, folder: Path, **more: Any) -> Any:
    values = {"run_id": name, "label": name, "name": name, "state": "done", "reason": None, "spec": {}, "record": 1}
    return made(**(values | {"folder": folder, "evaluations": ()} | more))


def added(add: Any, *given: Any) -> list[tuple[int, dict[str, Any], str | None, str | None]]:
    rows = RunRows()
    add(rows, *given)
    return [
        (count, dict(values), reason, state)
        for count, values, reason, state in zip(rows.counts, rows.values, rows.reasons, rows.states, strict=True)
    ]


@dataclass
class Score:
    evaluation: str
    metric: str
    settings: str
    value: float = 0.5


def test_rows_of_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frames, "measured_scores", lambda folder: [Score("mmlu", "accuracy", ""), Score("x", "y", "s")])
    waiting = (made(kind="glue", reason=None, status="queued"), made(kind="tasks", reason="why", status="failed"))
    one, two, queued, failed = added(frames._add_scores, run("a", tmp_path, evaluations=waiting))
    assert one[1] == {"evaluation": ["mmlu"], "metric": ["accuracy"], "settings": [None], "value": [0.5],
                      "unit": ["share"], "higher_is_better": [True]}  # fmt: skip
    assert (two[1]["unit"], two[1]["higher_is_better"], two[1]["settings"]) == ([None], [None], ["s"])
    assert queued[1:] == ({"evaluation": ["glue"]}, "queued: not measured yet", "queued")
    assert failed[1:] == ({"evaluation": ["tasks"]}, "why", "failed")
    assert added(frames._add_scores, run("a", tmp_path, record=None)) == [(1, {}, "nothing was measured", "done")]
    [only] = added(frames._add_scores, run("a", tmp_path, record=None, evaluations=waiting[:1]))
    assert only[3] == "queued"
    assert added(frames._add_scores, run("a", tmp_path, record=None, reason="cut"))[0][2] == "cut"


def test_rows_of_questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def part(**more: Any) -> Any:
        values = {"names": ["q1", "q2"], "values": [1.0, 0.0], "categories": ["x", "y"], "weights": [2.0, 3.0],
                  "metric": "m", "unit": "u", "higher_is_better": False}  # fmt: skip
        return made(scores=made(**(values | more)), evaluation="e", settings_sha256="s")

    monkeypatch.setattr(frames, "read_questions", lambda folder: [part(), part(categories=None, weights=None, unit="")])
    whole, bare = added(frames._add_questions, run("a", tmp_path))
    assert whole[:2] == (2, {
        "question": ["q1", "q2"], "value": [1.0, 0.0], "category": ["x", "y"], "weight": [2.0, 3.0],
        "evaluation": ["e", "e"], "metric": ["m", "m"], "unit": ["u", "u"], "higher_is_better": [False, False],
        "settings_sha256": ["s", "s"],
    })  # fmt: skip
    assert (bare[1]["category"], bare[1]["weight"], bare[1]["unit"]) == ([None, None], [None, None], [None, None])
    assert added(frames._add_questions, run("a", tmp_path, record=None))[0][1:3] == ({}, "no result by question")
    assert added(frames._add_questions, run("a", tmp_path, record=None, reason="cut"))[0][2] == "cut"


def test_steps_have_all_that_some_line_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: dict[str, Any] = {"a": [{"step": 1, "loss": 2.0, "extra": 7}], "c": []}
    lines = {"a": lines["a"], "b": [{"step": 1, "loss": 3.0, "learning_rate": 0.5}], "c": []}
    found = [run(name, tmp_path / name) for name in lines]
    found = [made(**(vars(one) | {"record": None})) for one in found]
    monkeypatch.setattr(frames, "found_runs", lambda source: found)
    monkeypatch.setattr(frames, "read_steps", lambda path: lines[path.parent.name])
    frame = frames.metrics(sweep="s")
    assert frame["loss"].tolist()[:2] == [2.0, 3.0]
    assert frame["extra"].isna().tolist() == [False, True, True]
    assert frame["step_learning_rate"].tolist()[1] == 0.5
    assert frame["reason"].tolist()[2] == "no metrics.jsonl"
    assert "learning_rate" not in frame


def answer(system: str, question: str) -> Answer:
    more: Any = {"num_tokens": 3, "seed": 5, "num_dropped_turns": 1}
    return Answer(question_id=question, system=system, question="", answer="x", **more)


def test_rows_of_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frames, "read_answers", lambda path: [answer("file's", path.name), answer("other", "q")])
    read = frames.read_answers(Path("z"))
    [(count, values, _, _)] = added(frames._add_answers, tmp_path / "open.jsonl.gz", read, None)
    assert (count, values["bench"], values["system"]) == (2, ["open", "open"], ["file's", "other"])
    assert (values["question_id"], values["turn"], values["prompt"], values["answer_seed"]) == (
        ["z", "q"], [0, 0], [None, None], [5, 5],
    )  # fmt: skip
    assert (values["num_tokens"], values["num_dropped_turns"]) == ([3, 3], [1, 1])
    owner = run("a", tmp_path)
    [(_, own, _, _)] = added(frames._add_answers, tmp_path / "b.jsonl", [answer("x", "q")], owner)
    assert (own["system"], own["bench"]) == (["a"], ["b"])
    assert added(frames._add_answers_of, owner)[0][1:3] == ({"system": ["a"]}, "no answers")
    (tmp_path / "answers").mkdir()
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / "answers" / name).touch()
    assert [values["bench"][0] for _, values, _, _ in added(frames._add_answers_of, owner)] == ["a", "b"]
    seen: list[Any] = []
    monkeypatch.setattr(frames, "found_runs", lambda source: seen.append(source) or [])
    assert len(frames.answers(files=["x.jsonl"])) == 2
    assert seen == []
    for more in ({"runs_folder": "r"}, {"sweep": "s"}, {"tournament": "t"}):
        frames.answers(files=["x.jsonl"], **more)  # type: ignore[arg-type]
    assert len(seen) == 3


def test_runs_that_can_not_be_read_are_rows_unless_all_are(tmp_path: Path) -> None:
    rows, found = RunRows(), [run(name, tmp_path) for name in "ab"]

    def add(one: Any) -> None:
        if one.name == "a":
            raise OSError("torn")
        rows.add(one, {"x": 1}, None)

    frames._add_each(rows, found, add)
    assert (rows.reasons, rows.states) == (["torn", None], ["unreadable", "done"])
    with pytest.raises(ValueError, match="torn"):
        frames._add_each(RunRows(), found[:1], add)
    frames._add_each(RunRows(), [], add)


def test_verdicts_as_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Verdicts.of(
        questions=["q2", "q1", "q1", "q1"], pairs=[("b", "a"), ("a", "b"), ("a", "b"), ("a", "b")],
        verdicts=[1, 2, 3, -1], judges=["j", "", "j", "k"],
    )  # fmt: skip
    seen: list[Any] = []
    monkeypatch.setattr(frames, "load_verdicts", lambda paths: seen.append(paths) or found)
    monkeypatch.setattr(frames, "tournament_verdicts", lambda folder: seen.append(folder) or found)
    frame = frames.verdicts(files=["x.csv", "y.csv"])
    assert seen == [[Path("x.csv"), Path("y.csv")]]
    assert frame["question_id"].tolist() == ["q2", "q1", "q1", "q1"]
    assert (frame["system_a"].tolist(), frame["system_b"].tolist()) == (list("baaa"), list("abbb"))
    assert frame["verdict"].tolist() == ["system_a", "system_b", "tie", "unparsed"]
    assert frame["judge"].isna().tolist() == [False, True, False, False]
    assert frame["rater"].isna().all()
    assert (frame["judged_turn"].tolist(), frame["benchmark"].isna().all()) == ([1, 1, 1, 1], True)
    monkeypatch.setattr(frames, "_tournament", lambda source: source.tournament)
    frames.verdicts(tournament="t")
    assert seen[1] == "t"
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"name a tournament= \(its folder\) or a sweep="):
        frames.verdicts()
    assert list(frames._named(["", "x"], np.array([1, 0], dtype=np.int32)).codes) == [0, -1]


@pytest.mark.parametrize(
    ("values", "name", "shown"),
    [
        ([1.0, 2.0, None], "x", ["1", "2", "\N{EN DASH}"]),
        ([0.12345, 12.0], "x", ["0.12", "12.00"]),
        ([0.12345, 1.5], "x", ["0.123", "1.500"]),
        ([0.00001, 1234.5], "x", ["1e-05", "1,234"]),
        ([0.0, 0.5], "x", ["0.000", "0.500"]),
        ([2.5e9, 1e9], "peak_bytes", ["2.500", "1.000"]),
        ([True, False], "x", ["True", "False"]),
        (["a", 1234567], "x", ["a", "1,234,567"]),
        ([float("inf"), 1.5], "x", ["inf", "1.500"]),
    ],
)
def test_cells_of_a_notebooks_table(values: list[Any], name: str, shown: list[str]) -> None:
    assert notebook._texts(name, pd.Series(values, dtype="object")) == shown
    assert [notebook._title(text) for text in ("peak_bytes", "a_b")] == ["peak, GB", "a b"]


def test_columns_that_a_notebook_shows() -> None:
    frame = pd.DataFrame({"a": [1], "b": [2], "c": [3]})
    assert list(notebook.show(frame).frame) == ["a", "b", "c"]
    assert list(notebook.show(frame, "c", "a").frame) == ["c", "a"]
    named = frame.set_index("b")
    assert list(notebook.show(named).frame) == ["b", "a", "c"]
    assert list(notebook.show(named, "c").frame) == ["b", "c"]
    texts = frame.set_index(pd.Index(["x"]))
    assert list(notebook.show(texts, "c").frame) == ["", "c"]
    assert notebook.Table(frame[:0])._repr_html_() == "<p>none</p>"


def test_ratings_of_systems_and_of_the_runs_that_are_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"rating": "elo", "value": 1.0, "low": 0.5, "high": 2.0, "rank": 1, "reason": None}
    rated = [{"system": name, **values} for name in "ax"]
    monkeypatch.setattr(frames, "rating_rows", lambda folder: [dict(row) for row in rated])
    monkeypatch.setattr(frames, "_tournament", lambda source: Path("t"))
    looked: list[Source] = []
    runs = [made(**(vars(run(name, tmp_path)) | {"record": None})) for name in "ab"]
    monkeypatch.setattr(frames, "found_runs", lambda source: looked.append(source) or runs)
    of_folder = frames.ratings(runs_folder=tmp_path, tournament="t", ledger_url="u")
    assert looked == [Source(runs_folder=tmp_path, ledger_url="u")]
    assert (of_folder["system"].tolist(), of_folder["unit"].tolist()) == (["a", "x"], ["points", "points"])
    assert of_folder["run_id"].isna().tolist() == [False, True]
    of_sweep = frames.ratings(runs_folder=tmp_path, sweep="s")
    assert of_sweep["system"].tolist() == ["a", "x", "b"]
    assert of_sweep["reason"].tolist()[2] == "no verdict names it"
    looked.clear()
    frames.ratings(runs_folder=tmp_path / "nowhere", tournament="t")
    assert looked == []
    frames.ratings(runs_folder=tmp_path / "nowhere", sweep="s")
    assert looked == [Source(runs_folder=tmp_path / "nowhere", sweep="s")]

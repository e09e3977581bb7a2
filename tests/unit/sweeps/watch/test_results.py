"""`sweeps results`: what every run of a sweep came to, and which runs `--sweep` leaves out elsewhere."""

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.systems import chosen_systems
from harness.ledger.finished import left_out, sweep_runs
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from sweeps.__main__ import app
from sweeps.watch.results import _higher_is_better, _scores, _shown


def job(run: str, kind: str = "train") -> Job:
    after = None if kind == "train" else f"train:{run}"
    return Job(kind=kind, spec_hash=run, run_id=run, group="g", label=f"label-{run}", payload="{}", after=after)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs are trained and two scored, one of them worse by its loss and better by its score; one is queued."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.add([job(run, kind) for kind in ("train", "mmlu") for run in "abcd"], sweep="s")
    losses, scores = {"a": 1.5, "b": 1.25, "c": 2.0}, {"a": 0.5, "b": 0.25}
    for claim in ledger.claim("w", ["train"], 3, 60, max_attempts=1):
        ledger.finish(claim, {"final_loss": losses[claim.run_id], "peak_memory_bytes": 7}, 10.0)
    for claim in ledger.claim("w", ["mmlu"], 2, 60, max_attempts=1):
        ledger.finish(claim, {"accuracy_macro": scores[claim.run_id]}, 1.0)
    ledger.close()
    return tmp_path


@pytest.fixture
def call(runs: Path) -> Callable[..., tuple[int, str]]:
    def invoke(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["results", *arguments, "--runs", str(runs)])
        return done.exit_code, done.output

    return invoke


Call = Callable[..., tuple[int, str]]


def test_every_run_with_its_loss_time_and_score(call: Call) -> None:
    code, text = call("s", "--json")
    assert code == 0
    assert json.loads(text)["runs"] == [
        {"run": "a", "label": "label-a", "status": "done", "loss": 1.5, "seconds": 10.0, "mmlu": 0.5},
        {"run": "b", "label": "label-b", "status": "done", "loss": 1.25, "seconds": 10.0, "mmlu": 0.25},
        {"run": "c", "label": "label-c", "status": "done", "loss": 2.0, "seconds": 10.0, "mmlu": None},
        {"run": "d", "label": "label-d", "status": "queued", "loss": None, "seconds": None, "mmlu": None},
    ]
    table = call("s")[1]
    assert "sweep s: 4 runs, 3 done" in table
    assert "1.2500" in table


@pytest.mark.parametrize(("column", "order"), [("loss", "bacd"), ("mmlu", "abcd"), ("label", "abcd")])
def test_the_best_come_first_and_the_unknown_last(call: Call, column: str, order: str) -> None:
    found = json.loads(call("s", "--sort", column, "--json")[1])["runs"]
    assert "".join(row["run"] for row in found) == order


def test_csv_runs_nothing_in_a_spreadsheet(runs: Path, call: Call) -> None:
    ledger = Ledger.open(runs / "ledger.sqlite")
    ledger.add(
        [Job(kind="train", spec_hash="e", run_id="e", group="g", label="=HYPERLINK(1)", payload="{}")], sweep="s"
    )
    ledger.close()
    rows = list(csv.DictReader(io.StringIO(call("s", "--csv")[1])))
    assert [row["loss"] for row in rows] == ["1.5", "1.25", "2.0", "", ""]
    assert rows[-1]["label"] == "'=HYPERLINK(1)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t"], "t: no such sweep; known: s"),
        (["s", "--sort", "los"], "--sort los: no such column. Did you mean loss?"),
        (["s", "--csv", "--json"], "give one of them"),
    ],
)
def test_bad_input(call: Call, arguments: list[str], message: str) -> None:
    code, text = call(*arguments)
    assert (code, message in " ".join(text.split())) == (2, True), text


def test_a_sweep_names_its_finished_runs_and_says_what_is_left_out(runs: Path) -> None:
    found = sweep_runs("s", str(runs / "ledger.sqlite"))
    assert found.run_ids == ("a", "b", "c")
    assert left_out("s", found.unfinished) == "--sweep s: left out 1 runs that are not done: label-d (queued)"
    assert left_out("s", ()) is None
    with pytest.raises(ValueError, match=r"left out 4 runs that are not done: label-d \(queued\), a .*no record\.json"):
        chosen_systems("s", [], runs)


def test_scores_are_named_by_their_benchmark_and_only_numbers_count() -> None:
    assert _scores("mmlu", {"accuracy_macro": 0.5, "accuracy_micro": 1, "note": "x"}) == {
        "mmlu": 0.5,
        "mmlu accuracy_micro": 1.0,
    }
    assert _scores("mine", {"accuracy_macro": 0.5}) == {"mine accuracy_macro": 0.5}
    assert [_higher_is_better(name) for name in ("mmlu", "mmlu accuracy_micro", "perplexity", "loss")] == [
        True, True, False, False,
    ]  # fmt: skip
    given = ((None, "loss"), (12.6, "seconds"), (0.12345, "loss"), (3, "x"), ("a", "label"))
    assert [_shown(value, column) for value, column in given] == ["", "13", "0.1235", "3", "a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("result='[]'", "result '[]' is no JSON object"),
        ("result='{'", "result '{' is no JSON object"),
        ("seconds='abc'", "seconds of a job of run 'a' is 'abc'"),
        ("started='x'", "started of a job of run 'a' is 'x'"),
        ("result=x'ff'", "result of a job of run 'a' is b'"),
    ],
)
def test_a_value_that_no_ledger_of_ours_holds_is_named(call: Call, runs: Path, change: str, said: str) -> None:
    with closing(sqlite3.connect(runs / "ledger.sqlite")) as connection, connection:
        connection.execute(f"UPDATE jobs SET {change}")
    code, text = call("s")
    assert code == 2
    assert f"the ledger is damaged: the {said}" in text or f"the ledger is damaged: {said}" in text


def test_numbers_of_a_foreign_ledger_that_are_none_are_left_open(call: Call, runs: Path) -> None:
    with closing(sqlite3.connect(runs / "ledger.sqlite")) as connection, connection:
        huge = '{"final_loss": ' + "9" * 400 + ', "peak_memory_bytes": ' + "9" * 400 + ', "accuracy_macro": 1e999}'
        connection.execute("UPDATE jobs SET result=?", (huge,))
    code, text = call("s", "--json")
    assert code == 0
    assert {(run["loss"], run.get("mmlu")) for run in json.loads(text)["runs"]} == {(None, None)}
    assert CliRunner().invoke(app, ["status", "--sweep", "s", "--runs", str(runs)]).exit_code == 0

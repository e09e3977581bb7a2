"""Commands of `python -m eval` leave a record of themselves beside what they made, and a site prints it."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from analysis.leaderboard.record import shown_commands
from eval.__main__ import app
from eval.commands.recorded import masked, record_commands
from harness.commands import new_app
from harness.console import version
from harness.runs.steps import KEPT_BY_CALLER, StepRecord, keep_step, load_steps

VERDICTS = "question_id,system_a,system_b,verdict\n1,a,b,1\n1,b,a,2\n2,a,b,3\n"


def made_app() -> typer.Typer:
    """Commands with the options of the real ones, that end as they are told."""
    found = new_app("x")

    @found.command()
    def judge(
        tournament: Path,
        answers: Annotated[list[Path] | None, typer.Option()] = None,
        status: int = 0,
        base_url: str = "",
        run: Annotated[list[str] | None, typer.Option()] = None,
        runs: Path | None = None,
        bench: str = "open",
        estimate_only: bool = False,
    ) -> None:
        tournament.mkdir(exist_ok=True)
        if status:
            raise typer.Exit(status)

    @found.command()
    def mmlu(
        run: Annotated[list[str] | None, typer.Option()] = None,
        runs: Path | None = None,
        out: Path = Path("scores"),
        in_runs: bool = False,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        if not run:
            raise ValueError("no run")

    record_commands(found)
    return found


def call(*words: object) -> int:
    return CliRunner().invoke(made_app(), [str(word) for word in words]).exit_code


def test_rate_leaves_its_words_files_version_and_time(tmp_path: Path) -> None:
    (tmp_path / "verdicts.csv").write_text(VERDICTS)
    words = ["rate", str(tmp_path / "verdicts.csv"), "--orderings", "0", "--out", str(tmp_path / "ratings.json")]
    done = CliRunner().invoke(app, [*words, "--resamples", "2", "--json"])
    assert done.exit_code == 0, done.output
    (step,) = load_steps(tmp_path).values()
    assert step.command == ["python", "-m", "eval", *words, "--resamples", "2"]
    assert step.inputs == {str(tmp_path / "verdicts.csv"): hashlib.sha256(VERDICTS.encode()).hexdigest()}
    assert (step.is_done, step.version) == (True, version())
    assert step.started is not None
    assert step.started.endswith("+00:00")
    assert step.seconds is not None
    assert shown_commands([step]) == [f"python -m eval {' '.join(words)} --resamples 2"]
    assert json.loads((tmp_path / "ratings.json").read_text())["verdict"]


def test_a_command_that_only_prints_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "verdicts.csv").write_text(VERDICTS)
    done = CliRunner().invoke(app, ["rate", str(tmp_path / "verdicts.csv"), "--orderings", "0", "--resamples", "2"])
    assert done.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.csv"]
    assert call("judge", tmp_path / "t", "--estimate-only") == 0
    assert load_steps(tmp_path / "t") == {}


@pytest.mark.parametrize(("status", "is_done"), [(0, True), (1, False), (130, False), (2, None)])
def test_how_a_command_ended_is_kept(tmp_path: Path, status: int, is_done: bool | None) -> None:
    assert call("judge", tmp_path / "t", "--status", status) == status
    assert [step.is_done for step in load_steps(tmp_path / "t").values()] == ([] if is_done is None else [is_done])


def test_scores_in_runs_are_recorded_in_each_run_and_others_where_they_lie(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert call("mmlu", "--run", "a", "--run", "b", "--runs", tmp_path, "--in-runs", "--json") == 0
    steps = [load_steps(tmp_path / name) for name in ("a", "b")]
    assert steps[0] == steps[1]
    assert "--json" not in next(iter(steps[0].values())).command
    assert call("mmlu", "--run", "a", "--runs", tmp_path, "--out", tmp_path / "out") == 0
    assert len(load_steps(tmp_path / "out")) == len(load_steps(tmp_path / "a")) == 1
    assert call("mmlu", "--out", tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()


def test_the_answers_of_judged_runs_are_among_the_files(tmp_path: Path) -> None:
    answers, other = tmp_path / "a" / "answers" / "open.jsonl", tmp_path / "gpt.jsonl"
    answers.parent.mkdir(parents=True)
    for path in (answers, other):
        path.write_text("{}\n")
    assert call("judge", tmp_path / "t", "--run", "a", "--runs", tmp_path, "--answers", other) == 0
    (step,) = load_steps(tmp_path / "t").values()
    assert set(step.inputs) == {str(answers), str(other)}


def test_passwords_and_keys_are_masked(tmp_path: Path) -> None:
    secret = "hf_" + "a1" * 16
    words = ["--base-url", f"https://me:hunter2@host/v1?api_key={secret}", secret, "local:smollm2", "sk-short"]
    shown = list(masked(iter(words)))
    assert not any(hidden in " ".join(shown) for hidden in ("hunter2", secret))
    assert shown[3:] == words[3:]
    assert call("judge", tmp_path / "t", "--base-url", words[1]) == 0
    assert "hunter2" not in (tmp_path / "t" / "steps.json").read_text()


def test_a_step_of_a_leaderboard_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_BY_CALLER, "1")
    assert call("judge", tmp_path / "t") == 0
    assert load_steps(tmp_path / "t") == {}


def test_a_record_that_cannot_be_read_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("{torn")
    done = CliRunner().invoke(made_app(), ["judge", str(tmp_path)])
    assert done.exit_code == 0
    assert "note: this command is not recorded" in done.stderr


def test_records_of_several_folders_are_put_together_in_order(tmp_path: Path) -> None:
    places = {"rate": "t", "mmlu --run a": "a", "judge j": "t", "generate --run a": "a"}
    for key, folder in places.items():
        keep_step(StepRecord(key=key, command=["python", "-m", "eval", *key.split()], is_done=True), tmp_path / folder)
    steps = load_steps(tmp_path / "t", tmp_path / "a").values()
    assert [line.split()[3] for line in shown_commands(steps)] == ["generate", "judge", "rate", "mmlu"]

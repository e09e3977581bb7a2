"""What a leaderboard shows: its plan, a line or a bar for each step; and the record of its steps."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.leaderboard import show
from analysis.leaderboard.plan import Plan, Step
from analysis.leaderboard.record import shell_line, shown_commands, typed_command
from analysis.leaderboard.show import PLAIN_LINE_SECONDS, StepsDisplay
from harness.runs.steps import StepRecord, digests, keep_step, load_steps, save_steps

STEPS = (
    Step(key="generate a", title="answers", command=("python", "-m", "eval", "x y"), to_make="3 answers", there="2"),
    Step(key="rate", title="t" * 35, command=("rate",)),
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(show.time, "monotonic", made)
    return made


def console(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> StringIO:
    out = StringIO()
    made = Console(file=out, width=120, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(show, "STDERR", made)
    monkeypatch.setattr(show, "STDOUT", made)
    return out


def test_plain_lines_number_the_steps_and_come_at_most_every_few_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = console(monkeypatch, is_terminal=False)
    with StepsDisplay(STEPS, hidden=False) as shown:
        shown.begin(STEPS[0])
        shown.advance(STEPS[0], "answers", 1, 3)
        clock.now += PLAIN_LINE_SECONDS
        shown.advance(STEPS[0], "answers", 2, 3)
        shown.advance(STEPS[0], "answers", 3, 3)
        shown.end(STEPS[0], "done", "3 answers made")
        shown.end(STEPS[1], "skipped", "no verdicts")
        shown.say("a line")
    assert out.getvalue().splitlines() == [
        "[1/2] answers: 3 answers",
        "[1/2] answers: 2 of 3 answers",
        "[1/2] answers: 3 answers made",
        f"[2/2] {'t' * 35}: no verdicts",
        "a line",
    ]


def test_bars_show_state_count_and_a_cut_title(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    out = console(monkeypatch, is_terminal=True)
    with StepsDisplay(STEPS, hidden=False) as shown:
        tasks = shown._bars.tasks
        assert [task.description for task in tasks] == ["answers", "t" * 33 + "\N{HORIZONTAL ELLIPSIS}"]
        assert [(task.fields["mark"], task.total, task.started) for task in tasks] == [(" ", None, False)] * 2
        shown.begin(STEPS[0])
        shown.advance(STEPS[0], "answers", 1, 3)
        assert (tasks[0].fields["mark"], tasks[0].completed, tasks[0].total, tasks[0].started) == (">", 1, 3, True)
        shown.pause()
        assert not shown._bars.live.is_started
        shown.go_on()
        assert shown._bars.live.is_started
        shown.end(STEPS[0], "partly", "1 of 3")
        assert (tasks[0].fields["mark"], tasks[0].completed, tasks[0].total) == ("~", 1, 3)
        shown.end(STEPS[0], "done", "3")
        assert (tasks[0].fields["mark"], tasks[0].completed, tasks[0].total) == ("+", 3, 3)
        shown.end(STEPS[1], "there", "there")
        assert (tasks[1].fields["mark"], tasks[1].completed, tasks[1].total) == ("=", 1, 1)
        shown.say("a line that stays")
    assert not shown._bars.live.is_started
    assert "a line that stays" in out.getvalue()
    assert "[1/2]" not in out.getvalue()
    assert "3/3" in out.getvalue()


def test_hidden_steps_print_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    out = console(monkeypatch, is_terminal=True)
    with StepsDisplay(STEPS, hidden=True) as shown:
        shown.begin(STEPS[0])
        shown.advance(STEPS[0], "answers", 1, 3)
        shown.say("x")
        shown.end(STEPS[0], "failed", "x")
    assert out.getvalue() == ""


def test_a_plan_names_what_is_there_what_is_to_make_and_by_which_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = console(monkeypatch, is_terminal=False)
    show.print_plan(Plan(steps=STEPS, notes=("look out",)), ("one more",))
    table = out.getvalue()
    assert "Plan" in table
    assert [" ".join(line.split()) for line in table.splitlines() if "answers" in line] == ["answers 2 3 answers"]
    assert [line.split()[-1] for line in table.splitlines() if "ttt" in line] == ["nothing"]
    said = capsys.readouterr().out.splitlines()
    assert said == ["note: look out", "one more", "by these commands:", "  python -m eval 'x y'"]


def record(key: str, **changes: Any) -> StepRecord:
    return StepRecord(**{"key": key, "command": ["python", "-m", "x", "a b"], "is_done": True, **changes})


def test_steps_are_kept_in_their_order_and_replaced_by_their_key(tmp_path: Path) -> None:
    one, two = tmp_path / "new" / "one", tmp_path / "two"
    for key in ("report", "mmlu b", "rate", "judge x", "generate a", "mmlu a"):
        keep_step(record(key), one, two, one)
    keep_step(record("rate", is_done=False, inputs={"a": "1"}), one)
    values = json.loads((one / "steps.json").read_text())
    assert values["schema_version"] == 1
    assert [step["key"] for step in values["steps"]] == ["report", "mmlu b", "rate", "judge x", "generate a", "mmlu a"]
    assert load_steps(tmp_path, one, two)["rate"] == record("rate", is_done=False, inputs={"a": "1"})
    assert load_steps(two)["rate"].is_done
    assert load_steps(tmp_path) == {}
    save_steps(iter([record("rate")]), one, two)
    assert [list(load_steps(folder)) for folder in (one, two)] == [["rate"], ["rate"]]
    (one / "steps.json").write_text(json.dumps(values | {"schema_version": 2}))
    with pytest.raises(ValueError, match=r"steps.json: schema version 2, this code reads 1"):
        load_steps(one)


def test_commands_are_recorded_as_typed_without_what_changes_nothing(tmp_path: Path) -> None:
    typed = ["/x/analysis", "report", "--json", "--sweep", "a b", "--yes"]
    assert typed_command(typed, "report") == ["python", "-m", "analysis", "report", "--sweep", "a b"]
    assert typed_command(typed, "leaderboard") is None
    assert typed_command(["x"], "report") is None
    assert shell_line(["a", "b c"]) == "a 'b c'"
    assert shown_commands([record("a"), record("b"), record("c", command=["z"])]) == ["python -m x 'a b'", "z"]
    (tmp_path / "f").write_text("")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digests([tmp_path / "f", tmp_path / "none", tmp_path]) == {str(tmp_path / "f"): empty}

"""Edges of the leaderboard's parts: what is noted and what is not, states of a watched sweep, the recorded command."""

import json
import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.leaderboard import child, command, entry_report, found, run, watch
from analysis.leaderboard.child import Ended
from analysis.leaderboard.found import Found, FoundRun
from analysis.leaderboard.options import LeaderboardOptions
from analysis.leaderboard.plan import Plan, Step
from analysis.leaderboard.run import Outcome, Runner
from analysis.leaderboard.watch import SiteHandler, Watched, WatchOptions
from harness.config.schema import ModelKind
from harness.runs.steps import load_steps
from tests.unit.analysis.leaderboard.test_handed_on import parameters


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def one(name: str, kind: ModelKind = ModelKind.causal) -> FoundRun:
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
    runs = (one("a"), *(one(name, ModelKind.seq2seq) for name in silent))
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
    assert [player.name for player in there.players] == ["a"]
    assert (there.is_whole_sweep, there.has_verdicts, there.has_ratings, there.rated) == (False, False, False, ())
    (tmp_path / "verdicts.csv").touch()
    monkeypatch.setattr(found, "_readable", lambda *given: (runs, []))
    there = found.look(options)
    assert (there.is_whole_sweep, there.has_verdicts, there.has_ratings) == (True, True, False)
    (tmp_path / "ratings.json").touch()
    (tmp_path / "v.csv").write_text("question_id,system_a,system_b,verdict\n1,p,q,1\n")
    for path, written in (("verdicts.csv", 5), ("v.csv", 6), ("ratings.json", 6)):
        os.utime(tmp_path / path, ns=(written, written))
    there = found.look(replace(options, verdicts=(tmp_path / "v.csv",)))
    assert (there.has_ratings, there.rated, there.others) == (True, ("p", "q"), {"x": frozenset("1")})
    os.utime(tmp_path / "v.csv", ns=(7, 7))
    assert not found.look(replace(options, verdicts=(tmp_path / "v.csv",))).has_ratings


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


@pytest.mark.parametrize("is_there", [True, False])
def test_a_child_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    """The kernel is asked for it; a parent that died in between is noticed by the other parent's id."""
    asked: list[Any] = []
    kills: list[Any] = []
    monkeypatch.setattr(child.ctypes, "CDLL", lambda name: made(prctl=lambda *given: asked.append(given)))
    monkeypatch.setattr(child.os, "kill", lambda *given: kills.append(given))
    child._die_with_parent(os.getppid() if is_there else -1)()
    assert asked == [(1, signal.SIGKILL)]  # PR_SET_PDEATHSIG of linux/prctl.h
    assert kills == ([] if is_there else [(os.getpid(), signal.SIGKILL)])


JUDGING = Step(key="judge a", title="verdicts", command=("python", "-m", "eval", "judge", "--judge", "gpt"), pays=True)


def test_what_judging_costs_is_asked_where_all_answers_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ended = [Ended(status=0, output='[{"num_calls": 2}]', said=())]
    monkeypatch.setattr(command, "run_child", lambda *given: asked.append(given[:2]) or ended[0])
    answers = Step(key="generate g", title="answers", command=())
    judging = replace(JUDGING, to_make="x", needs=("generate g",))
    assert command._estimates(Plan(steps=(answers, judging))) == [{"num_calls": 2}]
    assert asked == [((*JUDGING.command, "--estimate", "--json"), command.NOWHERE)]
    for steps in (
        (replace(answers, to_make="y"), judging),
        (answers, JUDGING),
        (answers, replace(judging, pays=False)),
    ):
        assert command._estimates(Plan(steps=steps)) == []
    later = replace(judging, needs=("generate g", "generate h"))
    halves = (answers, Step(key="generate h", title="answers", command=(), to_make="y"))
    assert command._estimates(Plan(steps=(*halves, later))) == []
    assert command._estimates(Plan(steps=(*halves[::-1], later))) == []
    other = Step(key="mmlu", title="scores", command=(), to_make="scores")
    assert command._estimates(Plan(steps=(answers, judging, other))) == [{"num_calls": 2}]
    ended[0] = Ended(status=2, output="", said=("error: no such judge",))
    with pytest.raises(ValueError, match="no such judge"):
        command._estimates(Plan(steps=(answers, judging)))


def test_runs_that_can_not_be_read_are_told_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(folder: Path, *_: Any) -> str:
        if folder.name.startswith("bad"):
            raise OSError(f"{folder.name} is torn")
        return folder.name

    monkeypatch.setattr(found, "_run", read)
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s")
    torn: Any = {Path("bad"): made(label="b"), Path("bad too"): made(label="c")}
    with pytest.raises(ValueError, match=r"^bad is torn$"):
        found._readable(torn, [], options)
    left_out = [("b", "bad is torn"), ("c", "bad too is torn")]
    assert found._readable(torn | {Path("good"): made(label="g")}, [], options) == (("good",), left_out)
    (file := tmp_path / "f").touch()
    assert found._readable(torn, [], replace(options, answers=(file,))) == ((), left_out)
    assert found._readable(torn, [], replace(options, verdicts=(file,))) == ((), left_out)
    assert found._readable({}, [], options) == ((), [])


def test_answers_to_other_questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a judge is asked, some of them must be to what is asked; a cut of the questions is no news."""
    (file := tmp_path / "f").touch()
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s", answers=(file,), judges=("gpt",))
    dialogues = {"x": {"1": "a"}, "y": {"1": "b", "2": "c"}}
    monkeypatch.setattr(found, "contest_dialogues", lambda paths, asked: (dialogues, ["3 answers to others"]))
    sets = {"x": frozenset({"1"}), "y": frozenset({"1", "2"})}
    assert found._others(options, []) == (sets, ("3 answers to others",))
    assert found._others(replace(options, max_questions=2), []) == (sets, ())
    assert found._others(replace(options, answers=()), []) == ({}, ())
    dialogues["z"] = {}
    with pytest.raises(
        ValueError, match=r"^--answers: z: no answer is to one of the 0 questions of the embedded open "
    ):
        found._others(options, [])
    monkeypatch.setattr(found, "read_contestants", lambda paths: {"w": {"9": "a"}})
    assert found._others(replace(options, judges=()), []) == ({"w": frozenset({"9"})}, ())


def test_what_is_there_missing_or_without_rows_is_not_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (empty := tmp_path / "empty.csv").write_text("a,b\n")
    (full := tmp_path / "full.csv").write_text("a,b\n1,2\n")
    begun: list[str] = []
    current: list[str] = []
    steps: Any = made(
        is_current=lambda step: step.key in current, begin=lambda step: None,
        finish=lambda step: begun.append(f"finished {step.key}"),
    )  # fmt: skip
    display: Any = made(
        begin=lambda step: begun.append(step.key), end=lambda *given: None, say=begun.append, pause=None, go_on=None
    )
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s")
    runner = Runner(options=options, steps=steps, display=display, may_pay=lambda found: True)
    children: list[Any] = []
    ended = Ended(status=0, output="", said=())
    monkeypatch.setattr(Runner, "_child", lambda self, step, words: children.append(words) or ended)
    monkeypatch.setattr(Runner, "_ended", lambda self, step, state, words, *more: outcome(step, state, words))
    monkeypatch.setattr(Runner, "_skipped", lambda self, step: outcome(step, "skipped", "needs a file"))

    def outcome(step: Step, state: str, words: str) -> Outcome:
        return Outcome(key=step.key, title=step.title, state=state, words=words, command=step.command)

    def state(step: Step) -> tuple[str, str]:
        found_so = runner._one(step, {})
        return found_so.state, found_so.words

    rate = Step(key="rate", title="ratings", command=("rate",), to_make="x", inputs=(full,), there="ratings")
    assert state(replace(rate, to_make="")) == ("there", "ratings")
    assert state(replace(rate, to_make="", there="")) == ("there", "there")
    assert state(replace(rate, inputs=(full, tmp_path / "none.csv"))) == ("skipped", "needs a file")
    assert state(replace(rate, inputs=(empty, empty))) == ("skipped", "not done, as there are no verdicts yet")
    assert (children, begun) == ([], [])
    assert state(replace(rate, inputs=(empty, full))) == ("done", "done")
    assert (children, begun) == ([("rate", "--json")], ["rate", "finished rate"])
    current.append("rate")
    assert state(rate) == ("there", "ratings")
    assert len(children) == 1


def test_notes_of_a_child_are_said_and_its_progress_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[Any] = []

    def child_of(words: Any, log: Path, on_progress: Any, on_line: Any) -> Ended:
        said.append((words, log))
        for line in ("note: look", "anything", "error: no"):
            on_line(line)
        on_progress("rows", 1, 2)
        return Ended(status=0, output="", said=())

    monkeypatch.setattr(run, "run_child", child_of)
    display: Any = made(say=said.append, advance=lambda step, *more: said.append((step.key, *more)))
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path / "t", sweep="s")
    runner = Runner(options=options, steps=made(), display=display, may_pay=lambda found: True)
    runner._child(JUDGING, ("w",))
    log = tmp_path / "t" / "logs" / "judge.log"
    assert said == [(("w",), log), "verdicts: note: look", ("judge a", "rows", 1, 2)]


def test_runs_whose_answers_failed_stay_out(tmp_path: Path) -> None:
    said: list[str] = []
    display: Any = made(say=said.append)
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s", judges=("local:m",))
    runner = Runner(options=options, steps=made(is_current=lambda step: False), display=display, may_pay=lambda _: True)
    first = Step(key="generate g", title="t", command=(), to_make="x", run_ids=("a", "b"))
    plan = Plan(steps=(first, replace(first, key="generate h", run_ids=("c",))))
    there = Found(runs=tuple(one(name) for name in "abcd"), questions=("1",), num_turns=1)
    states = {step.key: Outcome(key=step.key, title="t", state="done", words="", command=()) for step in plan.steps}
    assert runner._without_failed(plan, there, states) is plan
    states["generate g"] = replace(states["generate g"], state="failed")
    anew = runner._without_failed(plan, there, states)
    assert said == ["note: 2 runs stay out of the tournament, as their answers failed"]
    [judging] = [step for step in anew.steps if step.kind == "judge"]
    assert judging.to_make.startswith("verdicts on 2 matches")  # of c and d alone, in both orders


def test_a_folder_without_a_page_shows_nothing() -> None:
    sent: list[Any] = []
    handler: Any = made(send_error=lambda *given: sent.append(given))
    SiteHandler.list_directory(handler, "folder")
    assert sent == [(404,)]


def test_the_command_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    monkeypatch.delitem(sys.modules, "analysis.__main__", raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module("analysis", run_name="__main__")
    said = capsys.readouterr().out
    assert "python -m analysis" in said.split("Usage:")[1].splitlines()[0]
    assert all(name in said for name in ("compare", "export", "leaderboard", "report", "tables", "figures", "watch"))


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_was_made_is_summed_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool, state: str
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(command, "say", lambda text, *_: said.append(text))
    monkeypatch.setattr(command, "STDOUT", made(print=said.append))
    monkeypatch.setattr(command, "leaderboard_table", lambda rows: ("table", rows))
    monkeypatch.setattr(command, "fit", lambda rows, *_: rows)
    (tmp_path / "ratings.json").write_text('{"verdict": ["a is b\u00e9st"]}', encoding="utf-8")
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s")
    site = Outcome(key="report", title="site", state="done", words="", command=(), output='[{"system": "a"}]')
    other = Outcome(key="rate", title="ratings", state=state, words="why", command=())
    plan = Plan(steps=(), notes=("a note",))
    status = command._summed_up(options, plan, [other, site], as_json)
    assert status == (0 if state == "done" else 1)
    page = str(tmp_path / "index.html")
    if as_json:
        found_so = json.loads(capsys.readouterr().out)
        assert (found_so["complete"], found_so["notes"], found_so["page"]) == (state == "done", ["a note"], page)
        assert (found_so["leaderboard"], len(found_so["steps"])) == ([{"system": "a"}], 2)
        assert said == []
    else:
        rest = ["failed: ratings: why", "the same command goes on with what is not done, and with nothing else"]
        assert said[:3] == [("table", [{"system": "a"}]), "a is b\u00e9st.", f"page: {page}"]
        assert said[3:] == ([] if state == "done" else rest)
    said.clear()
    command._summed_up(options, plan, [replace(site, state="failed", words="no")], False)
    assert said[0] == "failed: site: no"
    assert command._verdict(tmp_path / "none.json") == []


@pytest.mark.parametrize(("kind", "plays"), [("causal", True), ("seq2seq", False), (None, True)])
def test_a_finished_run_as_it_is_found(tmp_path: Path, kind: str | None, plays: bool) -> None:
    model = {"name": "m"} | ({} if kind is None else {"kind": kind})
    record: Any = made(
        run_id="r", label="l", group="g", spec={"model": model, "quant": {"name": "nf4"}, "dataset": {"name": "d"}}
    )
    (tmp_path / "eval" / "mmlu").mkdir(parents=True)
    (tmp_path / "eval" / "mmlu" / "mmlu.json").touch()
    questions: Any = [made(question_id="1", turns=("x", "y")), made(question_id="2", turns=("x",))]
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s", bench="mine")
    run_of = found._run(tmp_path, record, questions, options)
    assert (run_of.run_id, run_of.name, run_of.group, run_of.base) == ("r", "l", "g", "m, nf4")
    assert (run_of.kind.value, run_of.plays, run_of.has_dataset) == (kind or "causal", plays, True)
    assert (run_of.num_missing, run_of.scored, run_of.folder) == (3, {"mmlu"}, tmp_path)
    (tmp_path / "answers").mkdir()
    row = {"question_id": "1", "turn": 1, "question": "q", "answer": "a", "system": "s"}
    (tmp_path / "answers" / "mine.jsonl").write_text(json.dumps(row) + "\n" + '{"torn')
    assert found._run(tmp_path, record, questions, options).num_missing == 2
    bare: Any = made(run_id="r", label="l", group="g", spec={})
    assert (found._run(tmp_path, bare, [], options).base, found._run(tmp_path, bare, [], options).has_dataset) == (
        "g",
        False,
    )


def test_threads_of_a_watched_sweep_end_with_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds: list[Any] = []
    real = watch.threading.Thread

    def thread(**more: Any) -> Any:
        kinds.append((more["target"].__name__, more.get("daemon")))
        return real(**more)

    monkeypatch.setattr(watch.threading, "Thread", thread)
    monkeypatch.setattr(watch, "Watched", lambda options, folder: made(update=lambda: False))
    with watch.serving(WatchOptions(sweep="s", runs=tmp_path, every_seconds=60), print):
        assert kinds == [("_look_again", True), ("serve_forever", True)]


DEFAULTS: dict[str, dict[str, Any]] = {
    "leaderboard": {"benchmarks": "", "bench": "open", "only_plan": False, "yes": False, "as_json": False},
    "watch": {"port": 8000, "every": 10.0},
    "report": {"runs": Path("runs"), "as_json": False},
    "tables": {
        "data": Path("data"), "runs": Path("runs"), "like": "", "device": "H100", "judge": "gpt-4", "plan": True,
        "out": Path("reports/tables"), "resamples": 1000, "as_json": False,
    },
    "figures": {"runs": Path("runs"), "out": Path("reports/figures")},
    "data": {"data": Path("data")},
    "compare": {"axis": "adapter", "as_json": False},
}  # fmt: skip


@pytest.mark.parametrize("command_name", DEFAULTS)
def test_what_a_command_takes_where_nothing_is_said(command_name: str) -> None:
    found_so = {option.name: option.default for name, option in parameters() if name == command_name}
    assert {name: found_so[name] for name in DEFAULTS[command_name]} == DEFAULTS[command_name]


def test_only_a_step_that_was_begun_has_a_log_to_look_into(tmp_path: Path) -> None:
    """A refusal before the first second names none; what ended well is said as it is."""
    ended: list[Any] = []
    display: Any = made(end=lambda step, state, words: ended.append(words))
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path / "t", sweep="s")
    runner = Runner(options=options, steps=made(), display=display, may_pay=lambda found: True)
    log = f" (all that it said: {tmp_path / 't' / 'logs' / 'judge.log'})"
    for state, seconds, words, shown in (
        ("failed", 1.26, f"why{log}", f"failed: why{log}"), ("failed", 0.0, "why", "failed: why"),
        ("done", 1.26, "why", "why"), ("partly", 1.26, "why", "partly: why"),
    ):  # fmt: skip
        outcome = runner._ended(JUDGING, state, "why", seconds)
        assert (outcome.words, outcome.state, outcome.seconds) == (words, state, round(seconds, 1))
        assert ended.pop() == shown
    assert (outcome.key, outcome.title, outcome.command) == (JUDGING.key, JUDGING.title, JUDGING.command)

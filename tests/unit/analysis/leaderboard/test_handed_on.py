"""What the commands hand on, option by option; defaults; and what the parts of a leaderboard ask for: by value."""

import gzip
import json
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.compare import command as compare_command
from analysis.exports import command as exports_command
from analysis.leaderboard import child, command, entry, entry_report, plan, rating, run, watch
from analysis.leaderboard.child import Ended, run_child
from analysis.leaderboard.command import Consent
from analysis.leaderboard.found import Found, FoundRun
from analysis.leaderboard.options import LeaderboardOptions, option_of
from analysis.leaderboard.plan import Plan, Step
from analysis.leaderboard.run import Outcome, Runner, estimate_command, plain_outcomes, read_estimates
from analysis.leaderboard.watch import WatchOptions
from analysis.paper.command import add_tables
from harness.config.schema import ModelKind
from harness.runs.steps import load_steps


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def parameters() -> list[tuple[str, Any]]:
    """Of all commands, added to an application anew, so that their modules' lines count for these tests."""
    made_anew = typer.Typer()
    for add in (entry.add_leaderboard, entry_report.add_report, add_tables):
        add(made_anew)
    made_anew.command()(compare_command.compare)
    made_anew.command()(exports_command.export)
    assert (compare_command.read_margins((), ()), exports_command._named(())) == ({}, "")
    group: Any = typer.main.get_command(made_anew)
    return [(name, option) for name, part in group.commands.items() for option in part.params if option.name != "help"]


def test_every_option_says_what_it_is_and_those_of_the_environment_are_few() -> None:
    assert [f"{name} {option.name}" for name, option in parameters() if not option.help] == []
    found = {(name, option.name, option.envvar) for name, option in parameters() if option.envvar}
    assert {(name, option) for name, option, variable in found if variable == "HARNESS_RUNS"} == {
        (name, "runs") for name in ("leaderboard", "watch", "report", "tables", "figures")
    }
    assert {(name, option) for name, option, variable in found if variable == "HARNESS_LEDGER_URL"} == {
        (name, "ledger_url") for name in ("compare", "export", "report", "tables", "figures")
    }
    assert {(name, option) for name, option, variable in found if variable == "HARNESS_DATA_STORE"} == {
        (name, "data") for name in ("tables", "data")
    }
    assert len(found) == 12


@pytest.mark.parametrize(
    "words",
    [
        ["leaderboard", "--out", "x", "--max-questions", "0"],
        ["report", "--out", "x", "--max-questions", "0"],
        ["watch", "--sweep", "x", "--port", "-1"],
        ["watch", "--sweep", "x", "--port", "65536"],
    ],
)
def test_numbers_out_of_their_range_are_refused(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "Input should be " in done.output) == (2, True)


def test_a_leaderboard_hands_on_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(entry, "_make", lambda *given: seen.append(given))
    files = {name: tmp_path / name for name in ("a.jsonl", "q.jsonl", "v.csv")}
    for file in files.values():
        file.touch()
    given: dict[str, Any] = {
        "sweep": "s", "run": ["r1", "r2"], "answers": [files["a.jsonl"]], "questions": files["q.jsonl"],
        "max_questions": 3, "verdicts": [files["v.csv"]], "judge": ["a", "b"], "budget_usd": 2.5,
        "benchmarks": "mmlu, tasks,mmlu,", "further": ["judge --x"], "tournament": tmp_path / "t", "bench": "mine",
        "title": "T", "runs": tmp_path, "only_plan": True, "yes": True, "as_json": True,
    }  # fmt: skip
    entry.leaderboard(tmp_path / "out", **given)
    [(options, yes, only_plan, as_json)] = seen
    assert (yes, only_plan, as_json) == (True, True, True)
    assert options == LeaderboardOptions(
        out=tmp_path / "out", tournament=tmp_path / "t", sweep="s", run_ids=("r1", "r2"), runs=tmp_path,
        answers=(files["a.jsonl"],), questions=files["q.jsonl"], verdicts=(files["v.csv"],), judges=("a", "b"),
        budget_usd=2.5, benchmarks=("mmlu", "tasks"), max_questions=3, bench="mine", title="T",
        further={"judge": ("--x",)},
    )  # fmt: skip
    seen.clear()
    entry.leaderboard(tmp_path / "out", sweep="s")
    entry.leaderboard(tmp_path / "out", verdicts=[files["v.csv"]])
    (plain, *flags), (of_verdicts, *_) = seen
    assert flags == [False, False, False]
    assert plain == LeaderboardOptions(
        out=tmp_path / "out", tournament=tmp_path / "out" / "tournament", sweep="s", judges=plain.judges
    )
    assert (len(plain.judges), of_verdicts.judges) == (1, ())


@pytest.mark.parametrize(("status", "code"), [(0, None), (1, 1)])
def test_a_leaderboard_ends_with_its_status(monkeypatch: pytest.MonkeyPatch, status: int, code: int | None) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(command, "leaderboard", lambda *given: seen.append(given) or status)
    options: Any = made()
    for is_terminal in (False, True):
        monkeypatch.setattr(sys, "stdin", made(isatty=lambda: True))
        monkeypatch.setattr(sys, "stderr", made(isatty=lambda is_terminal=is_terminal: is_terminal))
        if code is None:
            entry._make(options, True, False, True)
        else:
            with pytest.raises(typer.Exit) as caught:
                entry._make(options, True, False, True)
            assert caught.value.exit_code == code
    (first, second) = seen
    assert (first[0], first[1].yes, first[1].confirm, first[2:]) == (options, True, None, (False, True))
    assert second[1].confirm.func is typer.confirm
    assert second[1].confirm.keywords == {"err": True}


def test_watching_ends_with_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[WatchOptions] = []
    said: list[str] = []

    class Serving:
        def __init__(self, options: WatchOptions, say: Any) -> None:
            seen.append(options)

        def __enter__(self) -> Any:
            return made(server_port=8123)

        def __exit__(self, *_: object) -> None:
            said.append("closed")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "serving", Serving)
    monkeypatch.setattr(entry.threading, "Event", lambda: made(wait=interrupted))
    monkeypatch.setattr(entry, "say", lambda text, *_: said.append(text))
    entry.watch("demo", runs=Path("r"), tournament=Path("t"), port=5, every=2.5)
    entry.watch("demo")
    assert seen == [
        WatchOptions(sweep="demo", runs=Path("r"), tournament=Path("t"), port=5, every_seconds=2.5),
        WatchOptions(sweep="demo", port=8000, every_seconds=10.0),
    ]
    assert said[:3] == ["http://127.0.0.1:8123/ shows demo; Ctrl-C ends it", "ended", "closed"]


def test_defaults_of_what_is_there_and_of_a_step() -> None:
    assert {field.name: getattr(Found(), field.name) for field in fields(Found)} == {
        "runs": (), "is_whole_sweep": False, "others": {}, "questions": (), "num_turns": 0, "has_verdicts": False,
        "has_ratings": False, "rated": (), "notes": (),
    }  # fmt: skip
    assert Found().players == ()
    found = FoundRun(run_id="i", name="n", group="g", base="b", kind=ModelKind.causal, folder=Path("f"))
    assert (found.num_missing, found.has_dataset, found.scored, found.plays) == (0, True, frozenset(), True)
    step = Step(key="judge a b", title="t", command=())
    assert (step.inputs, step.outputs, step.needs, step.there, step.to_make) == ((), (), (), "", "")
    assert (step.pays, step.run_ids, step.kind) == (False, (), "judge")
    assert [Outcome(key="k", title="t", state=state, words="w", command=()).is_good for state in
            ("there", "done", "partly", "failed", "skipped")] == [True, True, False, False, False]  # fmt: skip
    one = Outcome(key="k", title="t", state="done", words="w", command=("c",), seconds=1.5, output="[]")
    assert plain_outcomes([one]) == [{key: value for key, value in asdict(one).items() if key != "output"}]
    assert (WatchOptions(sweep="s").port, WatchOptions(sweep="s").every_seconds) == (0, 10.0)
    assert option_of(("--x", "1", "--y"), "--y") is None
    assert option_of(("--x=a=b",), "--x") == "a=b"


def test_a_child_has_no_input_and_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(child.subprocess, "Popen", lambda *given, **more: seen.append((given, more)))
    child._started(("python", "-m", "x"), made())
    [((words,), more)] = seen
    assert words == [sys.executable, "-m", "x"]
    assert (more["stdin"], more["stderr"], more["start_new_session"]) == (subprocess.DEVNULL, subprocess.PIPE, True)
    assert {more["env"][name] for name in (child.PROGRESS_VARIABLE, "PYTHONUNBUFFERED", child.KEPT_BY_CALLER)} == {
        child.PROGRESS_EVENTS,
        "1",
    }
    assert callable(more["preexec_fn"]) is (sys.platform == "linux")


def test_what_a_child_says_is_in_its_log_at_once(tmp_path: Path) -> None:
    log, seen = tmp_path / "log", list[str]()
    ended = run_child(
        ("python", "-c", "import sys; print('one', file=sys.stderr)"),
        log,
        lambda *_: None,
        lambda line: seen.append(log.read_text()),
    )
    assert (seen, ended.status) == (["one\n"], 0)
    assert Ended(status=0, output="", said=()).error == "exit status 0"


def test_a_second_signal_kills_the_child() -> None:
    sent: list[int] = []
    signals = child._Signals()
    signals.forward(signal.SIGINT, None)
    assert sent == []
    signals.reach(made(send_signal=sent.append))
    assert sent == [signal.SIGINT]
    signals.forward(signal.SIGTERM, None)
    assert (sent, signals.received) == ([signal.SIGINT, signal.SIGKILL], [signal.SIGINT, signal.SIGTERM])
    fresh = child._Signals()
    fresh.reach(made(send_signal=sent.append))
    fresh.forward(signal.SIGTERM, None)
    assert sent[2:] == [signal.SIGTERM]


COMMAND = ("python", "-m", "eval", "judge", "--judge", "gpt")
JUDGE_STEP = Step(key="judge a", title="verdicts", command=COMMAND, pays=True)


def test_judges_are_looked_at_where_they_will_be_asked_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(command, "look", lambda options: Found())
    monkeypatch.setattr(command, "check_judges", checked.append)
    monkeypatch.setattr(command, "_estimates", lambda plan: [])
    monkeypatch.setattr(command, "print_plan", lambda *given: None)
    monkeypatch.setattr(command, "Steps", lambda options: made(is_current=None))
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s")
    for step, expected in ((replace(JUDGE_STEP, to_make="x"), 1), (JUDGE_STEP, 0)):
        checked.clear()
        other = Step(key="report", title="site", command=(), to_make="all")
        monkeypatch.setattr(command, "make_plan", lambda *given, step=step, other=other: Plan(steps=(step, other)))
        assert command.leaderboard(options, Consent(yes=False, confirm=None), only_plan=True, as_json=False) == 0
        assert len(checked) == expected


def test_who_may_be_paid(tmp_path: Path) -> None:
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path, sweep="s", judges=("gpt", "k"))
    ahead = Plan(steps=(replace(JUDGE_STEP, to_make="x"),))
    nobody = Consent(yes=False, confirm=None)
    with pytest.raises(ValueError, match="--judge gpt,k: it is paid, and nobody is at a terminal to be asked"):
        command._require_consent(ahead, options, nobody)
    for allowed in (
        (ahead, options, Consent(yes=True, confirm=None)),
        (ahead, options, Consent(yes=False, confirm=lambda _: False)),
        (ahead, replace(options, budget_usd=0.0), nobody), (Plan(steps=(JUDGE_STEP,)), options, nobody),
        (Plan(steps=(replace(JUDGE_STEP, pays=False, to_make="x"),)), options, nobody),
    ):  # fmt: skip
        command._require_consent(*allowed)


def test_what_judging_costs_in_a_line() -> None:
    one = {"num_calls": 6, "cost_usd": 1.5, "max_cost_usd": 3.0, "price_source": "list", "batch": False}
    said = "judging takes 6 calls: about 1.5000 USD, at most 3.0000 without retries (list)"
    assert command.estimate_line(one) == said
    assert command.estimate_line(one | {"batch": True}) == said.replace("(list)", "(list, at the batch price)")
    assert command.estimate_line(one | {"cost_usd": None}) == "judging takes 6 calls: no price is known"
    assert (read_estimates(json.dumps(one)), read_estimates(json.dumps([one, one]))) == ([one], [one, one])
    judges = ("--judge", "local:m", "--judge", "gpt", "--judge", "replay:x")
    step = replace(JUDGE_STEP, command=("eval", "judge", *judges, "--y"))
    assert estimate_command(step) == ("eval", "judge", "--judge", "gpt", "--y", "--estimate", "--json")


def test_a_judge_that_left_something_open() -> None:
    counts = {"num_failed": 1, "num_unasked": 2, "num_unparsed": 3, "stopped": None, "failures": {"500": 4}}

    def state(output: Any, status: int = 1) -> tuple[str, str]:
        return run._state(JUDGE_STEP, Ended(status=status, output=json.dumps(output), said=("error: why",)))

    said = "3 matches have no verdict yet: 500 (4 matches); the same command goes on with them"
    assert state(counts) == ("partly", said)
    two = {"judges": [counts | {"stopped": "budget", "failures": {}}, counts | {"num_failed": 0, "num_unasked": 0}]}
    assert state(two)[1].startswith("3 matches have no verdict yet: budget; 500 (4 matches); ")
    done = counts | {"num_failed": 0, "num_unasked": 0}
    assert state(done) == ("done", 'done; 3 replies could not be read (--with "judge --retry-unparsed" asks again)')
    assert state([]) == state({}) == state("x") == state(counts, status=2) == ("failed", "why")
    assert state({}, status=0) == ("done", "done")
    other = replace(JUDGE_STEP, key="rate")
    assert run._state(other, Ended(status=1, output=json.dumps(counts), said=("error: why",))) == ("failed", "why")


@pytest.mark.parametrize(("text", "is_empty"), [("", True), ("a\n", True), ("a\nb\n", False), ("a\nb", False)])
def test_a_file_of_a_header_has_no_rows(tmp_path: Path, text: str, is_empty: bool) -> None:
    (tmp_path / "v.csv").write_text(text)
    assert run._has_no_rows(tmp_path / "v.csv") is is_empty


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("v.json", b'[{"question_id": 1, "model_a": "x", "model_b": "y", "winner": "tie"}]'),
        ("v.csv.gz", gzip.compress(b"question_id,system_a,system_b,verdict\n1,x,y,1\n", mtime=0)),
        ("v.csv", b"question_id,system_a,system_b,verdict\r1,x,y,1\r"),
        ("v.parquet", b"PAR1"),
    ],
)
def test_verdicts_of_few_lines_are_verdicts(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert not run._has_no_rows(tmp_path / name)


def test_nothing_moves_while_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moves: list[str] = []
    display: Any = made(pause=lambda: moves.append("pause"), go_on=lambda: moves.append("on"), say=moves.append)
    ended = [Ended(status=0, output='[{"num_calls": 0}, {"num_calls": 2}]', said=())]
    monkeypatch.setattr(run, "run_child", lambda *given: ended[0])
    options = LeaderboardOptions(out=tmp_path, tournament=tmp_path / "t", sweep="s")

    def refusal(may_pay: bool) -> str | None:
        moves.clear()
        asked: Any = lambda found: moves.append("asked") or may_pay  # noqa: E731
        runner = Runner(options=options, steps=made(), display=display, may_pay=asked)
        return runner._refusal(JUDGE_STEP)

    assert (refusal(True), moves) == (None, ["pause", "asked", "on"])
    assert (refusal(False), moves) == ("nothing was asked and nothing paid, as you said", ["pause", "asked", "on"])
    ended[0] = Ended(status=0, output='{"num_calls": 0}', said=())
    assert (refusal(False), moves) == (None, ["pause", "on"])
    ended[0] = Ended(status=2, output="", said=("error: why",))
    assert refusal(True) == f"why (all that it said: {tmp_path / 't' / 'logs' / 'judge.log'})"


def test_ratings_that_are_missing_are_made_and_recorded(tmp_path: Path) -> None:
    rows = [f"{q},{a},{b},1,j" for q in (1, 2) for a, b in (("x", "y"), ("y", "x"))]
    (tmp_path / "verdicts.csv").write_text("\n".join(["question_id,system_a,system_b,verdict,judge", *rows]) + "\n")
    out = tmp_path / "out"
    said = rating.rate_missing(tmp_path, (), out)
    assert said is not None
    assert said.startswith(f"rated now, as no {tmp_path / 'ratings.json'} was there: python -m eval rate ")
    for folder in (tmp_path, out):
        [record] = load_steps(folder).values()
        assert (record.key, record.is_done, len(record.inputs), len(record.outputs)) == ("rate", True, 1, 1)
    assert rating.rate_missing(tmp_path, (), out) is None
    (tmp_path / "ratings.json").unlink()
    (tmp_path / "verdicts.csv").write_text("question_id,system_a,system_b,verdict,judge\n")
    assert rating.rate_missing(tmp_path, (), out) is None
    (tmp_path / "verdicts.csv").unlink()
    assert rating.rate_missing(tmp_path, (), out) is None


def test_a_report_of_nothing_is_refused_and_left_out_runs_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="nothing to report: name a --sweep, runs with --run, a --tournament, or"):
        entry_report.report(tmp_path)
    said: list[str] = []
    chosen = made(run_ids=("a",), unfinished=[("u", "late")])
    seen: list[Any] = []

    def readable(runs: Path, wanted: Any) -> Any:
        seen.append((runs, wanted.run_ids))
        return ("found",), made(unfinished=[("u", "late"), ("x", "torn")])

    monkeypatch.setattr(entry_report, "say", lambda text, *_: said.append(text))
    monkeypatch.setattr(entry_report.dataclasses, "replace", lambda one, run_ids: made(run_ids=run_ids))
    monkeypatch.setattr("analysis.report.records.readable_runs", readable)
    monkeypatch.setattr("harness.ledger.finished.sweep_runs", lambda sweep, url: seen.append((sweep, url)) or chosen)
    left_out = iter(["one is late", None])
    monkeypatch.setattr("harness.ledger.finished.left_out", lambda sweep, unfinished: next(left_out))
    entry_report._chosen_runs("s", ["b", "a"], tmp_path, "url")
    assert seen == [("s", "url"), (tmp_path, ("a", "b"))]
    assert said == ["note: one is late", "note: left out x: torn"]
    said.clear()
    entry_report._chosen_runs("s", None, tmp_path, "url")
    assert said == ["note: left out x: torn"]


def test_the_site_of_a_sweep_stops_being_served(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    updates: list[str] = []
    monkeypatch.setattr(watch, "Watched", lambda options, out: made(update=lambda: updates.append(str(out))))
    original = watch.ThreadingHTTPServer.shutdown
    monkeypatch.setattr(watch.ThreadingHTTPServer, "shutdown", lambda self: stopped.append("x") or original(self))
    with watch.serving(WatchOptions(sweep="s", every_seconds=60), stopped.append) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert Path(updates[0]).name.startswith("watch-")
    assert stopped == ["x"]
    assert not Path(updates[0]).exists()


def test_a_site_that_can_not_be_made_anew_is_said_once_for_each_reason() -> None:
    reasons = iter(["a", "a", None, "a", "b"])
    looks = iter([False] * 5 + [True])
    said: list[str] = []

    def update() -> None:
        if (reason := next(reasons)) is not None:
            raise ValueError(reason)

    watch._look_again(made(update=update), 5.0, made(wait=lambda seconds: next(looks)), said.append)
    assert said == [f"note: the site stays as it was: {reason}" for reason in "aab"]


def test_folders_and_files_of_a_leaderboard_are_looked_at_first(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for name, given in (("--out", {"out": file}), ("--tournament", {"tournament": file})):
        with pytest.raises(ValueError, match=f"^{name} .*: it is a file"):
            LeaderboardOptions(**({"out": tmp_path, "tournament": tmp_path, "sweep": "s"} | given))  # type: ignore[arg-type]
    for name, value in (("answers", (tmp_path,)), ("verdicts", (tmp_path,)), ("questions", tmp_path)):
        with pytest.raises(ValueError, match=f"^--{name} .*: it is a folder"):
            LeaderboardOptions(**{"out": tmp_path, "tournament": tmp_path, "sweep": "s", name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "kind", "has_dataset", "is_scored"),
    [
        ("mmlu", ModelKind.causal, False, True),
        ("mmlu", ModelKind.seq2seq, True, False),
        ("glue", ModelKind.classifier, True, True),
        ("glue", ModelKind.classifier, False, False),
    ],
)
def test_which_runs_a_benchmark_scores(name: str, kind: ModelKind, has_dataset: bool, is_scored: bool) -> None:
    one = FoundRun(run_id="i", name="n", group="g", base="b", kind=kind, folder=Path("f"), has_dataset=has_dataset)
    assert plan._is_scored(name, one) is is_scored
    facts: Any = made(
        options=made(benchmarks=(name,), runs=None),
        found=Found(runs=(one,)),
        further=lambda command: (),
        is_current=bool,
    )
    assert len(plan._scores(facts)) == int(is_scored)
    if is_scored:
        [step] = plan._scores(facts)
        assert step.outputs == (plan.eval_file(Path("f"), name),)
        assert (step.run_ids, step.command[-3:]) == (("i",), ("--run", "i", "--in-runs"))


def test_a_report_ends_with_its_sentences_and_its_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[Any] = []
    seen: list[Any] = []
    played = made(ratings={"verdict": ["a is best", "b is next"]}, verdicts=[1], folder="f")
    monkeypatch.setattr(entry_report, "say", lambda text, *_: said.append(text))
    monkeypatch.setattr(entry_report, "show", lambda *given: said.append(given[2]))
    monkeypatch.setattr(entry_report, "_chosen_runs", lambda *given: seen.append(given) or ("chosen", ("run",)))
    monkeypatch.setattr(entry_report, "_commands", lambda *given: seen.append(given) or ["typed"])
    monkeypatch.setattr("analysis.leaderboard.rating.rate_missing", lambda *given: seen.append(given) or "rated")
    monkeypatch.setattr("analysis.report.records.load_tournament", lambda *given: seen.append(given) or played)
    monkeypatch.setattr("analysis.report.page.write_report", lambda *given: seen.append(given) or [])
    monkeypatch.setattr("analysis.report.leaderboard.leaderboard_table", lambda rows: rows)
    monkeypatch.setattr("analysis.report.content.unmatched_answers", lambda *given: ["b has no verdict"])
    (file := tmp_path / "f").touch()
    more: Any = {"verdicts": [file], "answers": [file], "questions": file, "title": "T", "bench": "b"}
    more["max_questions"] = 3
    entry_report.report(tmp_path, sweep="s", run_id=["r"], runs=tmp_path, ledger_url="u", tournament=tmp_path, **more)
    chosen, rate, tournament, commands, written = seen
    assert chosen == ("s", ["r"], tmp_path, "u")
    assert (rate, tournament) == ((tmp_path, [file], tmp_path), (tmp_path, "b", [file]))
    assert commands == (tmp_path, tmp_path, ("run",), [file])
    assert written[:4] == (tmp_path, "chosen", ("run",), played)
    options = written[4]
    assert (options.title, options.bench, options.max_questions, options.commands) == ("T", "b", 3, ("typed",))
    assert (options.answers, options.questions) == ((file,), file)
    page = f"page: {tmp_path / 'index.html'}"
    assert said == ["note: rated", "note: b has no verdict", False, "a is best.", "b is next.", page]
    said.clear()
    entry_report.report(tmp_path, sweep="s", as_json=True)
    assert (said, seen[-1][3], seen[-1][4].title) == ([True], None, "s")
    entry_report.report(tmp_path, answers=[file])
    assert (seen[-1][4].title, said[1:]) == ("Leaderboard", [False, page])
    with pytest.raises(ValueError, match=r"^f: holds no verdicts and no ratings"):
        entry_report._refuse_empty(made(verdicts=(), ratings=None, folder="f"))
    entry_report._refuse_empty(None)
    entry_report._refuse_empty(made(verdicts=(), ratings={"a": 1}, folder="f"))


def test_a_judges_step_has_all_that_it_reads_and_waits_for() -> None:
    run_id = FoundRun(run_id="i", name="n", group="g", base="b", kind=ModelKind.causal, folder=Path("f"))
    options: Any = made(
        judges=("replay:v.csv", "gpt"), bench="mine", answers=(Path("x.jsonl"),), questions=Path("q.jsonl"), runs=None,
        max_questions=None, budget_usd=0.5, tournament=Path("t"), sweep="s", benchmarks=(), verdicts=(),
    )  # fmt: skip
    found = Found(runs=(run_id,), questions=("1", "2"), others={"x": frozenset({"1", "3"})}, is_whole_sweep=True)
    facts: Any = made(options=options, found=found, further=lambda command: (), is_current=lambda step: False)
    answers = [Step(key="generate g", title="t", command=())]
    [step] = plan._judging(facts, answers)
    assert step.inputs == (Path("f/answers/mine.jsonl"), Path("x.jsonl"), Path("q.jsonl"), Path("v.csv"))
    assert (step.needs, step.outputs, step.pays) == (("generate g",), (Path("t/ensemble.csv"),), True)
    assert (step.key, step.title) == ("judge replay:v.csv,gpt", "verdicts of replay:v.csv, gpt")
    assert step.to_make == "verdicts on 4 matches, each paid"
    [rate] = plan._rating(facts, [step])
    assert (rate.needs, rate.inputs) == ((step.key,), (Path("t/ensemble.csv"),))
    assert rate.outputs == (Path("t/ratings.json"),)
    assert (rate.title, rate.to_make, rate.there) == ("ratings", "from 1 file", "")
    facts.is_current = lambda step: True
    [there] = plan._judging(facts, answers)
    assert (there.there, there.to_make) == ("verdicts on 4 matches", "")
    assert plan._rating(facts, [there])[0].there == "ratings"
    assert plan._judging(facts, [replace(answers[0], to_make="x")])[0].to_make == step.to_make
    assert [plan._counted(n, "match", "matches") for n in (0, 1, 1200)] == ["0 matches", "1 match", "1,200 matches"]
    assert plan._counted(2, "file") == "2 files"
    options.judges = ()
    assert plan._judging(facts, answers) == []

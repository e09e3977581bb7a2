"""The steps of a leaderboard over made-up runs: what is run, skipped, recorded and said; its commands only pretend."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.leaderboard.child import Ended, OnProgress, Stopped
from harness.files.atomic import append_jsonl, write_json
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from harness.runs.steps import load_steps
from tests.unit.analysis.report.test_page import make_run, make_spec

GOOD = Ended(status=0, output="{}", said=())
QUESTIONS = [{"question_id": n, "text": f"Question {n}?"} for n in (1, 2, 3)]


@dataclass
class Children:
    """In place of `run_child`: keeps the commands, and does what their names say, if badly."""

    folder: Path
    commands: list[tuple[str, ...]] = field(default_factory=list)
    special: dict[str, Callable[[tuple[str, ...]], Ended]] = field(default_factory=dict)

    def __call__(
        self,
        command: Sequence[str],
        log: Path,
        on_progress: OnProgress,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> Ended:
        words = tuple(command)
        self.commands.append(words)
        if words[-1] == "--help" and words[3] not in self.special:
            return GOOD
        on_progress("parts", 1, 2)
        if words[3] in self.special:
            return self.special[words[3]](words)
        return getattr(self, words[3])(words)

    @property
    def names(self) -> list[str]:
        return [words[3] for words in self.commands]

    def value(self, words: tuple[str, ...], name: str) -> Path:
        return Path(words[words.index(name) + 1])

    def generate(self, words: tuple[str, ...]) -> Ended:
        for folder in (self.folder / "runs").glob("*/"):
            there = folder / "answers" / "open.jsonl"
            if "--sweep" in words or folder.name in words:
                there.unlink(missing_ok=True)
                for row in QUESTIONS:
                    append_jsonl(there, row | {"system": folder.name, "answer": "Yes."})
        return GOOD

    def judge(self, words: tuple[str, ...]) -> Ended:
        if "--estimate" in words:
            ahead = {"num_calls": 6, "cost_usd": 1.5, "max_cost_usd": 3.0, "price_source": "list", "batch": False}
            return Ended(status=0, output=json.dumps(ahead), said=())
        rows = [f"{q},{a},{b},1,j" for q in (1, 2, 3) for a, b in (("concise", "stepwise"), ("stepwise", "concise"))]
        self.value(words, "--tournament").mkdir(exist_ok=True)
        (self.value(words, "--tournament") / "verdicts.csv").write_text(
            "\n".join(["question_id,system_a,system_b,verdict,judge", *rows]) + "\n"
        )
        return GOOD

    def rate(self, words: tuple[str, ...]) -> Ended:
        write_json(self.value(words, "--out"), {"verdict": ["concise is best"]})
        return GOOD

    def mmlu(self, words: tuple[str, ...]) -> Ended:
        for folder in (self.folder / "runs").glob("*/"):
            write_json(folder / "eval" / "mmlu" / "mmlu.json", {})
        return GOOD

    def report(self, words: tuple[str, ...]) -> Ended:
        (self.value(words, "--out") / "index.html").write_text("page")
        return Ended(status=0, output='[{"rank": 1, "system": "concise"}]', said=())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs and a failed one of a sweep `demo`, and three questions."""
    folder = tmp_path_factory.mktemp("machine")
    runs = folder / "runs"
    ids = [make_run(runs, name, make_spec(name), [2.0, 1.0], None) for name in ("concise", "stepwise")]
    for run_id in ids:
        (runs / run_id / "answers" / "open.jsonl").unlink()
    ledger = Ledger.open(runs / "ledger.sqlite")
    ledger.record_sweep("demo", "python -m harness.run -m +experiment=demo")
    ledger.record_sweep("empty", "x")
    ledger.add(
        [job(i, name) for i, name in zip([*ids, "0" * 12], ["concise", "stepwise", "late"], strict=True)], "demo"
    )
    for claim in ledger.claim("w", ["train"], max_jobs=3, lease_seconds=60, max_attempts=1):
        if claim.label == "late":
            ledger.fail(claim, "out of memory", retry=False)
        else:
            ledger.finish(claim, {}, 1.0)
    ledger.add([job("1" * 12, "never")], "empty")
    ledger.close()
    for row in QUESTIONS:
        append_jsonl(folder / "questions.jsonl", row)
    return folder


def job(run_id: str, label: str) -> Job:
    return Job(kind="train", spec_hash=run_id, run_id=run_id, group="g", label=label, payload="{}")


@pytest.fixture
def children(tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> Children:
    """A copy of the machine, whose children only pretend."""
    shutil.copytree(machine, tmp_path, dirs_exist_ok=True)
    made = Children(tmp_path)
    monkeypatch.setattr("analysis.leaderboard.run.run_child", made)
    monkeypatch.setattr("analysis.leaderboard.command.run_child", made)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # most of the time of these tests
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_RUNS", "runs")
    return made


def call(*arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, ["leaderboard", "--out", "site", "--questions", "questions.jsonl", *arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return done


def sweep(*arguments: str, status: int = 0) -> Any:
    return call("--sweep", "demo", "--judge", "local:smollm2", *arguments, status=status)


def test_all_is_made_once_and_recorded(children: Children) -> None:
    done = sweep("--benchmarks", "mmlu")
    assert children.names == ["generate", "judge", "rate", "mmlu", "report"]
    assert "left out 1 runs that are not done: late (out of memory)" in done.stdout
    assert "concise is best." in done.stdout
    record = load_steps(Path("site/tournament"))
    assert [step.command[3] for step in record.values()] == children.names
    assert all(step.is_done for step in record.values())
    assert load_steps(Path("site")) == record

    children.commands.clear()
    again = sweep("--benchmarks", "mmlu", "--json")
    assert children.names == ["report"]
    values = json.loads(again.stdout)
    assert [step["state"] for step in values["steps"]] == ["there"] * 4 + ["done"]
    assert values["complete"]
    assert values["leaderboard"] == [{"rank": 1, "system": "concise"}]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ("answers", ["generate", "judge", "rate", "report"]),
        ("verdicts", ["judge", "report"]),
        ("ratings", ["rate", "report"]),
        ("questions", ["generate", "judge", "report"]),
        ("judge", ["judge", "report"]),
    ],
)
def test_what_changed_is_made_again(children: Children, change: str, names: list[str]) -> None:
    sweep()
    children.commands.clear()
    if change == "answers":
        next(Path("runs").glob("*/answers/open.jsonl")).unlink()
        children.special["judge"] = lambda words: (Path("site/tournament/verdicts.csv").write_text("x,y\n1,2\n"), GOOD)[
            1
        ]
    elif change == "verdicts":
        Path("site/tournament/verdicts.csv").write_text("changed")
    elif change == "ratings":
        Path("site/tournament/ratings.json").unlink()
    elif change == "questions":
        append_jsonl(Path("questions.jsonl"), {"question_id": 4, "text": "Four?"})
    sweep(*(["--with", "judge --null-control"] if change == "judge" else []))
    assert [words[3] for words in children.commands if words[-1] != "--help"] == names


def test_plan_starts_nothing_and_reads_at_80_columns(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    done = sweep("--plan", "--benchmarks", "mmlu")
    assert children.commands == []
    assert "python -m eval judge --sweep demo --tournament site/tournament" in done.stdout
    values = json.loads(sweep("--plan", "--json").stdout)
    assert [step["to_make"] for step in values["steps"]][:2] == ["6 answers", "verdicts on 6 matches"]
    assert not Path("site").exists()


def test_a_benchmark_that_fails_costs_nothing_else(children: Children) -> None:
    children.special["mmlu"] = lambda words: Ended(status=2, output="", said=("error: no such file",))
    done = sweep("--benchmarks", "mmlu", status=1)
    assert children.names == ["generate", "judge", "rate", "mmlu", "report"]
    assert "failed: MMLU of 2 systems on smollm2, nf4: no such file" in done.stderr
    assert "page: site/index.html" in done.stdout
    children.commands.clear()
    del children.special["mmlu"]
    sweep("--benchmarks", "mmlu")
    assert children.names == ["mmlu", "report"]


def test_a_base_whose_answers_fail_stays_out_and_the_others_meet(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_run(Path("runs"), "base", make_spec(None), [], None)
    Path("runs", base, "answers", "open.jsonl").unlink()

    def generate(words: tuple[str, ...]) -> Ended:
        return Ended(status=2, output="", said=("error: no weights",)) if base in words else children.generate(words)

    children.special["generate"] = generate
    done = sweep("--run", base, status=1)
    assert children.names == ["generate", "generate", "judge", "rate", "report"]
    assert base not in children.commands[2]
    assert "1 runs stay out of the tournament" in done.stderr


def test_without_answers_nobody_judges_and_the_site_is_written(children: Children) -> None:
    children.special["generate"] = lambda words: Ended(status=-9, output="", said=())
    done = sweep(status=1)
    assert children.names == ["generate", "report"]
    assert "killed by SIGKILL" in done.stderr
    assert "skipped: verdicts of local:smollm2: not done, as a step before it failed" in done.stderr


def test_a_killed_step_is_known_by_its_record(children: Children) -> None:
    def stop(words: tuple[str, ...]) -> Ended:
        children.judge(words)
        raise Stopped(2)

    children.special["judge"] = stop
    stopped = sweep(status=130)
    assert "stopped by SIGINT; the same command goes on" in stopped.stderr
    record = load_steps(Path("site"))
    assert {key: step.is_done for key, step in record.items()} == {
        next(iter(record)): True,
        "judge local:smollm2": False,
    }
    children.commands.clear()
    children.special.clear()
    sweep()
    assert children.names == ["judge", "rate", "report"]


def judged(**changes: Any) -> Callable[[tuple[str, ...]], Ended]:
    counts = {"num_failed": 0, "num_unasked": 0, "num_unparsed": 0, "stopped": None, "failures": {}}
    return lambda words: Ended(status=1, output=json.dumps(counts | changes), said=())


def test_replies_that_can_not_be_read_are_no_failure(children: Children) -> None:
    sweep()
    Path("site/tournament/verdicts.csv").write_text("of a judge\nby hand\n")
    children.special["judge"] = judged(num_unparsed=2)
    done = sweep()
    assert "2 replies could not be read" in done.stderr


def test_a_budget_that_ends_leaves_the_rest_for_the_next_call(children: Children) -> None:
    sweep()
    children.commands.clear()
    children.special["judge"] = judged(num_unasked=4, stopped="budget: 2 USD are spent")
    done = sweep("--with", "rate --k 16", "--budget-usd", "2", status=1)
    assert children.names[-3:] == ["judge", "rate", "report"]
    assert "4 matches have no verdict yet: budget: 2 USD are spent" in done.stderr
    assert not load_steps(Path("site"))["judge local:smollm2"].is_done


def test_without_a_verdict_nothing_is_rated(children: Children) -> None:
    children.special["judge"] = lambda words: (
        children.judge(words),
        Path("site/tournament/verdicts.csv").write_text("question_id,system_a,system_b,verdict\n"),
        judged(num_failed=6, failures={"HTTP 500": 6})(words),
    )[2]
    done = sweep(status=1)
    assert children.names == ["generate", "judge", "report"]
    assert "6 matches have no verdict yet: HTTP 500 (6 matches)" in done.stderr
    assert "skipped: ratings: not done, as there are no verdicts yet" in done.stderr


def test_nobody_pays_unasked(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    paid = ("--sweep", "demo", "--judge", "gpt-4.1")
    assert "say --yes, or how much it may cost by --budget-usd" in call(*paid, status=2).stderr
    assert children.commands == []
    done = call(*paid, "--yes")
    assert "judging takes 6 calls: about 1.5000 USD, at most 3.0000 without retries (list)" in done.stderr
    asked = [words for words in children.commands if words[3] == "judge"]
    assert asked[0][-2:] == ("--estimate", "--json")
    assert asked[1][-2:] == ("--yes", "--json")
    assert "--yes" not in load_steps(Path("site"))["judge gpt-4.1"].command


def test_plan_says_what_a_judge_would_cost_once_answers_are_there(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    children.generate(("--sweep",))
    done = call("--sweep", "demo", "--judge", "gpt-4.1,local:smollm2", "--plan")
    assert "judging takes 6 calls" in done.stdout
    assert "local:smollm2" not in children.commands[0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--sweep", "dmeo"), "--sweep dmeo: no such sweep"),
        (("--sweep", "empty"), "left out 1 runs that are not done: never"),
        (("--run", "feedbeef"), "no record.json"),
        (("--sweep", "demo", "--judge", "gpt-4.1"), "OPENAI_API_KEY is not set"),
        (("--sweep", "demo", "--judge", "replay:gone.csv"), "gone.csv: no such file"),
        (("--sweep", "demo", "--judge", "local:smolm2"), "Did you mean smollm2"),
        (("--answers", "strange.jsonl"), "no answer is to one of the 3 questions of questions.jsonl"),
        (("--sweep", "demo", "--answers", "same.jsonl"), "both called concise"),
        (("--out", "questions.jsonl", "--sweep", "demo"), "it is a file"),
        ((), "nothing to compare: name a --sweep"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    children: Children, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], problem: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    append_jsonl(Path("strange.jsonl"), {"question_id": "mt81", "system": "x", "answer": "?"})
    append_jsonl(Path("same.jsonl"), {"question_id": 1, "system": "concise", "answer": "?"})
    assert problem in " ".join(call(*arguments, status=2).stderr.split())
    assert children.commands == []


def test_options_that_a_command_does_not_know_are_refused_first(children: Children) -> None:
    refusal = Ended(status=2, output="", said=("No such option: --nul-control",))
    children.special["judge"] = lambda words: refusal
    done = sweep("--with", "judge --nul-control", status=2)
    assert 'error: --with "judge --nul-control": No such option: --nul-control' in done.stderr
    assert children.names == ["judge"]


def test_two_calls_do_not_share_a_folder(children: Children) -> None:
    children.special["generate"] = lambda words: (sweep(status=2), GOOD)[1]
    sweep()
    assert children.names.count("generate") == 1


def test_files_may_be_named_one_after_the_other(children: Children) -> None:
    for name in ("x", "y", "z"):
        for row in QUESTIONS:
            append_jsonl(Path(f"{name} 1.jsonl"), row | {"system": name, "answer": name})
    files = [f"{name} 1.jsonl" for name in ("x", "y", "z")]
    call("--answers", *files, "--judge", "replay:questions.jsonl")
    assert children.commands[0][4:7] == tuple(files)
    assert not any(path.suffix == ".sqlite" for path in Path("site").rglob("*"))


@pytest.mark.parametrize("file", ["record.json", "answers/open.jsonl"])
def test_a_run_that_cannot_be_read_plays_no_part_and_is_named(children: Children, file: str) -> None:
    folder = next(path for path in Path("runs").iterdir() if "stepwise" in (path / "record.json").read_text())
    (folder / "answers").mkdir(exist_ok=True)
    (folder / file).write_text('{"torn\n{"again\n')
    done = sweep("--plan")
    assert f"{folder / file}" in "".join(done.stdout.split("\n")) or Path(file).name in done.stdout
    assert "left out" in done.stdout
    sweep("--benchmarks", "mmlu")
    named = [word for words in children.commands if words[3] in ("generate", "mmlu") for word in words]
    assert folder.name not in named
    assert "--sweep" not in named
    assert "judge" not in children.names  # one system is left

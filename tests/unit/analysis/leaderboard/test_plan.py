"""The plan of a leaderboard, on made-up data: what is there, what is made, by which command; nothing is started."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.leaderboard.found import Found, FoundRun
from analysis.leaderboard.options import LeaderboardOptions, option_of, read_further, read_judges
from analysis.leaderboard.plan import Plan, Step, make_plan
from analysis.leaderboard.record import typed_command
from harness.config.schema import ModelKind

QUESTIONS = ("q1", "q2", "q3")


def run(name: str, group: str = "g", **changes: Any) -> FoundRun:
    facts = {"base": f"model, {group}", "kind": ModelKind.causal, "folder": Path("runs") / name, "num_missing": 3}
    return FoundRun(run_id=name, name=f"label-{name}", group=group, **{**facts, **changes})


def found(*runs: FoundRun, **changes: Any) -> Found:
    facts = {"is_whole_sweep": True, "questions": QUESTIONS, "num_turns": 3}
    return Found(runs=runs, **{**facts, **changes})


def options(**changes: Any) -> LeaderboardOptions:
    facts = {"out": Path("o ut"), "tournament": Path("t"), "sweep": "demo", "judges": ("local:m",)}
    return LeaderboardOptions(**{**facts, **changes})


def planned(asked: LeaderboardOptions, there: Found, current: tuple[str, ...] = ()) -> Plan:
    return make_plan(asked, there, lambda step: step.key in current)


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def one(plan: Plan, kind: str) -> Step:
    (step,) = (step for step in plan.steps if step.kind == kind)
    return step


def test_a_sweep_is_answered_judged_rated_scored_and_shown() -> None:
    plan = planned(options(benchmarks=("mmlu",)), found(run("a"), run("b")))
    assert kinds(plan) == ["generate", "judge", "rate", "mmlu", "report"]
    assert [step.command[2:] for step in plan.steps] == [
        ("eval", "generate", "--sweep", "demo"),
        ("eval", "judge", "--sweep", "demo", "--tournament", "t", "--judge", "local:m"),
        ("eval", "rate", "t/verdicts.csv", "--out", "t/ratings.json"),
        ("eval", "mmlu", "--sweep", "demo", "--in-runs"),
        ("analysis", "report", "--sweep", "demo", "--tournament", "t", "--out", "o ut"),
    ]
    assert [step.to_make for step in plan.steps[:2]] == ["6 answers", "verdicts on 6 matches"]


def test_each_base_has_its_own_step_and_names_its_runs() -> None:
    there = found(run("a", "g"), run("b", "h"), run("c", "g"))
    plan = planned(options(benchmarks=("mmlu",)), there)
    assert [step.command[4:] for step in plan.steps if step.kind == "generate"] == [
        ("--run", "a", "--run", "c"),
        ("--run", "b"),
    ]
    assert [step.run_ids for step in plan.steps if step.kind == "mmlu"] == [("a", "c"), ("b",)]
    assert one(plan, "judge").command[4:6] == ("--sweep", "demo")


def test_complete_answers_and_scores_are_skipped_and_counted() -> None:
    done = {"num_missing": 0, "scored": frozenset({"mmlu"})}
    plan = planned(options(benchmarks=("mmlu",)), found(run("a", **done), run("b", **done)), ("judge local:m", "rate"))
    assert [step.to_make for step in plan.steps] == ["", "", "", "", "from all of these"]
    assert one(plan, "generate").there == "6 answers"
    assert one(plan, "mmlu").there == "2 scores"


def test_part_of_the_answers_and_scores_is_made() -> None:
    there = found(run("a", num_missing=0, scored=frozenset({"mmlu"})), run("b", num_missing=2))
    plan = planned(options(benchmarks=("mmlu",)), there)
    assert (one(plan, "generate").there, one(plan, "generate").to_make) == ("4 answers", "2 answers")
    assert (one(plan, "mmlu").there, one(plan, "mmlu").to_make) == ("1 score", "1 score")


def test_new_answers_open_what_follows_whatever_the_record_says() -> None:
    plan = planned(options(), found(run("a"), run("b")), ("judge local:m", "rate"))
    assert [bool(step.to_make) for step in plan.steps] == [True, True, True, True]


def test_answers_under_other_options_are_looked_at_by_the_command_itself() -> None:
    asked = options(further={"generate": ("--max-new-tokens", "9")})
    there = found(run("a", num_missing=0), run("b", num_missing=0))
    assert one(planned(asked, there), "generate").to_make
    assert not one(planned(asked, there, ("generate g",)), "generate").to_make


def test_scores_under_other_options_are_kept_and_said() -> None:
    asked = options(benchmarks=("mmlu",), further={"mmlu": ("--limit", "9")})
    there = found(run("a", scored=frozenset({"mmlu"})))
    plan = planned(asked, there)
    assert not one(plan, "mmlu").to_make
    assert any("1 score from before are kept" in note for note in plan.notes)
    anew = planned(replace(asked, further={"mmlu": ("--limit", "9", "--fresh")}), there)
    assert one(anew, "mmlu").to_make == "1 score"


def test_the_site_is_that_of_the_sweep_and_of_the_runs_that_are_named() -> None:
    plan = planned(options(run_ids=("x",)), found(run("a"), run("x"), is_whole_sweep=False))
    assert one(plan, "judge").command[4:8] == ("--run", "a", "--run", "x")
    assert one(plan, "report").command[4:8] == ("--sweep", "demo", "--run", "x")


def test_one_question_limit_reaches_answers_and_judge() -> None:
    plan = planned(options(max_questions=2, questions=None), found(run("a"), run("b")))
    assert one(plan, "generate").command[-2:] == ("--limit", "2")
    assert one(plan, "judge").command[-2:] == ("--max-questions", "2")


def test_answer_files_alone() -> None:
    there = Found(questions=QUESTIONS, num_turns=3, others={"x": frozenset(QUESTIONS), "y": frozenset({"q1", "q9"})})
    asked = options(sweep=None, answers=(Path(__file__),), judges=("gpt",), budget_usd=2.5)
    plan = planned(asked, there)
    assert kinds(plan) == ["judge", "rate", "report"]
    judge = one(plan, "judge")
    assert (judge.pays, judge.to_make) == (True, "verdicts on 2 matches, each paid")
    assert judge.command[4] == __file__
    assert judge.command[-2:] == ("--budget-usd", "2.5")
    assert one(plan, "report").command[4:] == ("--tournament", "t", "--answers", __file__, "--out", "o ut")


def test_verdicts_alone_and_beside_a_judge(tmp_path: Path) -> None:
    (file := tmp_path / "v.csv").touch()
    alone = planned(options(sweep=None, verdicts=(file,), judges=()), Found(rated=("x", "y")))
    assert kinds(alone) == ["rate", "report"]
    assert one(alone, "rate").command[4] == str(file)
    assert one(alone, "report").command[4:8] == ("--tournament", "t", "--verdicts", str(file))
    both = planned(options(verdicts=(file,)), found(run("a"), run("b")))
    assert one(both, "rate").command[4:6] == ("t/verdicts.csv", str(file))


def test_ratings_that_are_newer_than_the_verdicts_stay() -> None:
    there = found(run("a"), has_verdicts=True, has_ratings=True)
    assert not one(planned(options(judges=()), there), "rate").to_make
    assert one(planned(options(judges=(), further={"rate": ("--k", "9")}), there), "rate").to_make


@pytest.mark.parametrize(
    ("further", "number", "file"),
    [
        ((), 6, "verdicts.csv"),
        (("--mode", "single"), 6, "graded_verdicts.csv"),
        (("--mode=single",), 6, "graded_verdicts.csv"),
        (("--reference", "x"), 6, "scores.csv"),
        (("--null-control",), 18, "verdicts.csv"),
        (("--null-control", "--mode", "single"), 9, "graded_verdicts.csv"),
    ],
)
def test_what_a_judge_is_asked_decides_matches_and_file(further: tuple[str, ...], number: int, file: str) -> None:
    there = found(run("a"), others={"x": frozenset(QUESTIONS)})
    plan = planned(options(judges=("gpt",), further={"judge": further}), there)
    assert one(plan, "judge").to_make == f"verdicts on {number} matches, each paid"
    assert one(plan, "judge").outputs == (Path("t") / file,)
    assert one(plan, "rate").inputs == (Path("t") / file,)


def test_several_judges_are_an_ensemble() -> None:
    plan = planned(options(judges=("gpt", "local:m")), found(run("a"), run("b")))
    assert one(plan, "judge").to_make == "verdicts on 12 matches, each paid"
    assert one(plan, "rate").inputs == (Path("t/ensemble.csv"),)


def test_one_system_is_shown_and_nobody_judges() -> None:
    plan = planned(options(), found(run("a")))
    assert kinds(plan) == ["generate", "report"]
    assert plan.notes == ("one system, label-a: there is nothing to compare, so no judge is asked",)
    with pytest.raises(ValueError, match="one system, x: there is nothing to compare"):
        planned(options(sweep=None, run_ids=("z",)), Found(questions=QUESTIONS, others={"x": frozenset(QUESTIONS)}))


def test_answer_files_alone_are_shown_where_nobody_judges(tmp_path: Path) -> None:
    files = tuple(tmp_path / name for name in ("x.jsonl", "y.jsonl"))
    for file in files:
        file.touch()
    asked = options(sweep=None, answers=files, judges=())
    plan = planned(asked, Found(others=dict.fromkeys("xy", frozenset(QUESTIONS))))
    assert kinds(plan) == ["report"]
    assert plan.steps[0].command[4:-2] == ("--answers", str(files[0]), "--answers", str(files[1]))
    with pytest.raises(ValueError, match="there is nothing to compare"):
        planned(asked, Found())


def test_systems_without_a_common_question_are_not_judged() -> None:
    there = found(run("a"), others={"x": frozenset({"other"})})
    plan = planned(options(), there)
    assert kinds(plan) == ["generate", "report"]
    assert "no two systems answered one question" in plan.notes[0]


def test_a_benchmark_leaves_out_models_that_it_does_not_score() -> None:
    there = found(run("a"), run("t5", "h", kind=ModelKind.seq2seq, plays=False))
    plan = planned(options(benchmarks=("mmlu",)), there)
    assert one(plan, "mmlu").command[4:6] == ("--run", "a")
    assert "mmlu: left out label-t5: it scores causal models only" in plan.notes


def test_runs_folder_questions_and_bench_reach_every_command(tmp_path: Path) -> None:
    (file := tmp_path / "my questions.jsonl").touch()
    asked = options(runs=Path("r"), questions=file, bench="mine", benchmarks=("mmlu",))
    plan = planned(asked, found(run("a"), run("b")))
    assert all("--runs" in step.command for step in plan.steps if step.kind != "rate")
    for kind in ("generate", "judge", "report"):
        assert option_of(one(plan, kind).command, "--questions") == str(file)
        assert option_of(one(plan, kind).command, "--bench") == "mine"
    assert one(plan, "generate").outputs[0] == Path("runs/a/answers/mine.jsonl")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begin with one of generate, judge"),
        ("judges --x", "it begins with no command"),
        ("judge --sweep x", "--sweep is given to judge by this command; say --sweep to it"),
        ("generate --limit=3", "--limit is given to generate by this command; say --max-questions to it"),
        ("judge 'a", "No closing quotation"),
    ],
)
def test_further_options_that_can_not_be(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="--with") as caught:
        read_further([text])
    assert problem in str(caught.value)


def test_further_options_keep_quoted_words_and_add_up() -> None:
    assert read_further(["judge --prompts 'my file.txt'", "judge --null-control", "mmlu --limit 3"]) == {
        "judge": ("--prompts", "my file.txt", "--null-control"),
        "mmlu": ("--limit", "3"),
    }


@pytest.mark.parametrize(("texts", "judges"), [(["none"], ()), (["a, b"], ("a", "b")), (["a", "b"], ("a", "b"))])
def test_judges(texts: list[str], judges: tuple[str, ...]) -> None:
    assert read_judges(texts) == judges


@pytest.mark.parametrize("texts", [["a", "a"], [","], ["none", "a"]])
def test_judges_that_can_not_be(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="--judge"):
        read_judges(texts)


def test_a_report_by_hand_records_its_own_command() -> None:
    typed = ["/venv/analysis/__main__.py", "report", "--out", "my site", "--json"]
    assert typed_command(typed, "report") == ["python", "-m", "analysis", "report", "--out", "my site"]
    assert typed_command(["pytest", "-q"], "report") is None


def test_options_name_what_is_wrong(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*it is a file"):
        options(out=file)
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: no such file"):
        options(answers=(Path("nowhere.jsonl"),))
    with pytest.raises(ValueError, match="--benchmarks mlu: expected some of mmlu"):
        options(benchmarks=("mlu",))
    with pytest.raises(ValueError, match="nothing to compare: name a --sweep"):
        options(sweep=None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["leaderboard", "--verdicts", "folder"], "--verdicts folder: it is a folder; name a file in it"),
        (["leaderboard", "--answers", "folder"], "--answers folder: it is a folder"),
        (["leaderboard", "--answers", "a.jsonl", "--questions", "folder"], "--questions folder: it is a folder"),
        (["leaderboard", "--verdicts", "nowhere.csv"], "--verdicts nowhere.csv: no such file"),
        (["report", "--tournament", "a.jsonl"], "--tournament a.jsonl: it is a file; name a folder"),
        (["report", "--tournament", "folder"], "folder: holds no verdicts and no ratings; judge first"),
        (["report", "--tournament", "folder", "--answers", "folder"], "--answers folder: it is a folder"),
        (["report", "--tournament", "folder", "--verdicts", "x.csv"], "--verdicts x.csv: no such file"),
        (["report", "--tournament", "folder", "--out", "a.jsonl/site"], "--out a.jsonl/site: a.jsonl is a file"),
        (["tables", "12", "--no-plan", "--out", "a.jsonl"], "--out a.jsonl: it is a file"),
        (["figures", "6", "--out", "a.jsonl"], "--out a.jsonl: it is a file"),
        (["export", "--format", "csv", "--out", "a.jsonl"], "--out a.jsonl: it is a file"),
    ],
)
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("a.jsonl").write_text('{"question_id": 1, "system": "a", "answer": "x"}\n')
    out = [] if "--out" in words else ["--out", "site"]
    done = CliRunner().invoke(app, [*words, *out])
    assert (done.exit_code, done.stderr.startswith(f"error: {said}")) == (2, True), done.output
    assert not Path("site").exists()

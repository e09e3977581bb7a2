"""Several sets of questions in one tournament: beside one another, told apart in every file, chosen by --bench."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from eval.judges.ensemble import combine
from eval.judges.tournament import run
from eval.judging.matches import Match
from eval.judging.options import JudgeOptions, ReplayOptions
from eval.judging.prompts import JudgePrompt, Mode, own_prompts
from eval.judging.store import DATABASE, JudgmentStore
from eval.ratings.rate import RateOptions, rate_files
from eval.ratings.relative import load_scores, relative_scores
from eval.verdicts.columns import VerdictError
from eval.verdicts.table import load_judged
from tests.builders import ScriptedJudge, write_rows


def options_of(folder: Path, bench: str, mode: Mode = Mode.pairwise) -> JudgeOptions:
    """Questions 1 and 2, in each benchmark with other texts and answers."""
    rows = [{"question_id": n, "text": f"{bench} {n}?"} for n in (1, 2)]
    write_rows(folder / f"{bench}.jsonl", rows)
    answers = [
        {"question_id": n, "system": name, "answer": f"{name}, {bench} {n}"} for n in (1, 2) for name in ("ann", "bob")
    ]
    write_rows(folder / f"{bench}-answers.jsonl", answers)
    return JudgeOptions(
        answers=(folder / f"{bench}-answers.jsonl",),
        questions=folder / f"{bench}.jsonl",
        tournament=folder / "t",
        judge=ReplayOptions(files=()),
        benchmark=bench,
        mode=mode,
        reference="bob" if mode is Mode.relative else None,
    )


def prefers(winners: dict[str, str], name: str = "j") -> ScriptedJudge:
    def reply(prompt: JudgePrompt, match: Match) -> str:
        winner = winners[match.question.text.split()[0]]
        return "1" if match.system_a == winner else "2"

    return ScriptedJudge(reply, name)


def test_two_sets_of_questions_stand_beside_one_another(tmp_path: Path) -> None:
    winners = {"open": "ann", "oa": "bob"}
    first = run(options_of(tmp_path, "open"), judge=prefers(winners))
    assert "benchmark" not in first.output.read_text()
    second = run(options_of(tmp_path, "oa"), judge=prefers(winners))
    assert second.num_matches == second.num_judged == 4
    assert second.notes == ()
    rows = second.output.read_text().splitlines()
    assert rows[0] == "question_id,system_a,system_b,verdict,judge,benchmark"
    assert [row.rsplit(",", 1)[1] for row in rows[1:]] == ["oa"] * 4 + ["open"] * 4
    for bench, wins in (("open", 4), ("oa", 0)):
        rated = rate_files([second.output], RateOptions(orderings=0, resamples=10, benchmark=bench))
        assert rated.win_matrix["ann"]["bob"].wins == wins
    with pytest.raises(VerdictError, match="--bench NAME takes one"):
        rate_files([second.output], RateOptions())
    assert set(load_judged([second.output], "oa").benchmark.values) == {"oa"}
    again = run(options_of(tmp_path, "open"), judge=prefers(winners))
    assert (again.num_judged, again.num_reused) == (0, 4)
    assert again.output.read_text().splitlines() == rows


def test_what_leaves_the_files_is_said(tmp_path: Path) -> None:
    winners = {"open": "ann"}
    run(options_of(tmp_path, "open"), judge=prefers(winners))
    fewer = run(replace(options_of(tmp_path, "open"), max_questions=1), judge=prefers(winners))
    assert len(fewer.output.read_text().splitlines()) == 3
    assert [note[:24] for note in fewer.notes] == ["2 matches of earlier run"]


def test_grades_scores_and_an_ensemble_of_two_sets(tmp_path: Path) -> None:
    for bench, grade in (("open", 9), ("oa", 4)):
        judge = ScriptedJudge(lambda prompt, match, grade=grade: f"[[{grade}]]", prompts=own_prompts(Mode.single))  # type: ignore[misc]
        graded = run(options_of(tmp_path, bench, Mode.single), judge=judge)
        assert [found.mean for found in graded.grades] == [grade, grade]
    assert len(graded.output.read_text().splitlines()) == 1 + 8
    verdicts = (tmp_path / "t" / "graded_verdicts.csv").read_text().splitlines()
    assert [row.split(",")[0] + row.rsplit(",", 1)[1] for row in verdicts[1:]] == ["1oa", "2oa", "1open", "2open"]
    for bench, shown in (("open", "9 3"), ("oa", "2 4")):
        judge = ScriptedJudge(
            lambda prompt, match, shown=shown: shown if match.system_a == "ann" else shown[::-1],  # type: ignore[misc]
            prompts=own_prompts(Mode.relative),
        )
        scored = run(options_of(tmp_path, bench, Mode.relative), judge=judge)
    assert relative_scores(load_scores([scored.output], "open"))["ann"].mean == pytest.approx(300)
    assert relative_scores(load_scores([scored.output], "oa"))["ann"].mean == pytest.approx(50)
    with pytest.raises(VerdictError, match="question 1 is in several of the benchmarks oa, open"):
        load_scores([scored.output])
    for bench in ("open", "oa"):
        for name, winner in (("one", "ann"), ("two", "ann" if bench == "oa" else "bob")):
            run(options_of(tmp_path, bench), judge=prefers({bench: winner}, name))
    for bench, share in (("open", 0.0), ("oa", 1.0)):
        together = combine(tmp_path / "t", ["one", "two"], Mode.pairwise, benchmark=bench)
        assert together.num_items == 2
        assert together.agreement["all"].statistics["percent_agreement"].value == share


def test_a_tournament_of_an_older_version_keeps_its_matches(tmp_path: Path) -> None:
    options = options_of(tmp_path, "open")
    before = run(options, judge=prefers({"open": "ann"})).output.read_text()
    with sqlite3.connect(options.tournament / DATABASE) as database:
        database.execute(
            "CREATE TABLE older (judge TEXT NOT NULL, mode TEXT NOT NULL, question_id TEXT NOT NULL, system_a TEXT "
            "NOT NULL, system_b TEXT NOT NULL, settings_sha256 TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, "
            "PRIMARY KEY (judge, mode, question_id, system_a, system_b)) WITHOUT ROWID"
        )
        columns = "judge, mode, question_id, system_a, system_b, settings_sha256, prompt_sha256"
        database.execute(f"INSERT INTO older SELECT {columns} FROM matches")
        database.execute("DROP TABLE matches")
        database.execute("ALTER TABLE older RENAME TO matches")
    for _ in range(2):
        with JudgmentStore(options.tournament) as store:
            assert store.export_verdicts().read_text() == before
            assert store.benchmarks() == ["open"]

"""The report page: everything that was measured is on it, what wasn't is said, and model text can't escape."""

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.report.answers import answers_view, bench_answers
from analysis.report.content import ReportOptions
from analysis.report.figures import CURVE_WIDTH, bin_means, curve, round_ticks, scale_over
from analysis.report.formats import duration, interval, memory, moment, number, percent, visible
from analysis.report.judging import _recorded_size, judge_view
from analysis.report.page import write_report
from analysis.report.records import Judge, Run, Tournament, load_answer_files, load_runs, load_tournament
from analysis.report.render import render
from analysis.report.sections import curves_view, matrix_view, race_view
from analysis.report.site.data import index_data
from eval.judging.injection import FlaggedWins
from eval.ratings.comparisons import probability
from eval.ratings.rate import RateOptions, rate_files
from harness.files.atomic import append_jsonl, write_json
from harness.ledger.finished import SweepRuns, sweep_runs
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, Job, Verdict
from harness.runs.steps import StepRecord, keep_step, save_steps
from tests.records.reports import (
    ANSWERS,
    EVIL,
    QUESTIONS,
    SYSTEMS,
    Page,
    build,
    make_run,
    make_runs,
    make_spec,
    make_tournament,
    make_verdicts,
    mmlu_json,
    ratings_json,
    write_perplexity,
)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, list[str]]:
    return make_runs(tmp_path)


@pytest.fixture
def tournament(tmp_path: Path) -> Path:
    return make_tournament(tmp_path)


def test_the_page_opens_with_which_system_is_best_and_how_sure_that_is(
    tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path
) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text((tournament / "verdicts.csv").read_text().replace("smollm2-135m\n", "human\n"))
    rated = rate_files([tournament / "verdicts.csv"], RateOptions(orderings=0, resamples=50, people=(votes,)))
    assert rated.people is not None
    write_json(tournament / "ratings.json", rated.to_json())
    html = build(tmp_path / "out", runs, tournament)
    text = Page(html).text
    (sentence,), (corrected,) = rated.verdict, rated.people.verdict
    assert text.index(f"{sentence}.") < text.index(f"{corrected}.") < text.index("3 systems compared")
    place = rated.ranks[SYSTEMS[0]]
    assert f"rank {place.low} to {place.high} (95 %) · best with probability {probability(place.best or 0.0)}" in text
    assert f"corrected by people: {rated.people.ratings[SYSTEMS[0]].rating:.0f} points" in text
    separable = sum(bool(pair.significant) for pair in rated.comparisons)
    assert f"{separable} of {len(rated.comparisons)} pairs." in text
    row = json.loads((tmp_path / "out" / "leaderboard.json").read_text())[0]
    assert (row["rank_low"], row["rank_high"], row["best"]) == (place.low, place.high, place.best)


def test_wins_of_answers_that_may_steer_the_judge_are_shown(
    tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path
) -> None:
    flagged = FlaggedWins(num_answers=3, num_matches=8, num_wins=6, num_ties=1)
    played = replace(load_tournament(tournament), flagged={"a judge": flagged})
    sweep = SweepRuns(run_ids=tuple(runs[1]))
    write_report(tmp_path / "out", sweep, load_runs(*runs), played, ReportOptions(title="demo"))
    text = Page((tmp_path / "out" / "index.html").read_text()).text
    assert "3 answers may steer the judge" in text
    assert "Before a judge flagged answers won 6 of 8 matches against others (75.0 %); 1 are ties." in text


def test_page_shows_what_was_measured(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    text = Page(build(tmp_path / "out", runs, tournament)).text
    for part in (
        "3 systems compared on 3 prompts",
        "judged by smollm2-135m",
        "1052",
        "990 to 1110",
        "31.0 %",
        "n 48",
        "78.6 %",
        "5 of 8 pairs",
        "not separable at 95 % from smollm2-stepwise-nf4",
        "a local model of 135M parameters",
        "1 of 18 verdicts (5.6%) are unparsed",
        "1 min 02 s",
        "1.20 GiB",
        "torch 2.11.0",
        "python -m harness.run -m +experiment=demo",
    ):
        assert part in text, part


def test_page_loads_nothing_and_runs_only_its_own_script(
    tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path
) -> None:
    html = build(tmp_path / "out", runs, tournament)
    page = Page(html)
    assert page.num_running == 1
    assert page.count("link") == page.count("img") == page.count("iframe") == 0
    assert all(not attrs.get("src") for _, attrs in page.elements)
    targets = [attrs["href"] or "" for _, attrs in page.elements if "href" in attrs]
    assert all(
        re.fullmatch(r"#[\w-]+|leaderboard\.(csv|json)|figures/[\w-]+\.(csv|svg)", target) for target in targets
    ), targets
    assert not re.search(r"url\(|@import|https?:", html)
    policy = next(attrs["content"] or "" for _, attrs in page.elements if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_model_text_is_escaped_and_kept(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    html = build(tmp_path / "out", runs, tournament)
    assert EVIL not in html
    said = [text for text in Page(html).texts if "indented" in text]
    assert len(said) == len(QUESTIONS)
    assert said[0] == visible(ANSWERS[2])
    assert "\x1b" not in html


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    names = (f'a"{EVIL}', "b' onload=x", "c&d")
    runs = tmp_path / "runs"
    ids = [make_run(runs, name, make_spec(data), [2.0, 1.5], 0.3) for name, data in zip(names, "xyz", strict=True)]
    verdicts = tmp_path / "t"
    make_verdicts(verdicts, tuple(name.replace('"', '""') for name in names), judge="<b>judge</b>")
    write_json(verdicts / "ratings.json", {**ratings_json(names), "notes": [EVIL]})
    html = build(tmp_path / "out", (runs, ids), verdicts)
    page = Page(html)
    assert page.num_running == 1
    assert all("onload" not in attrs for _, attrs in page.elements)
    assert "<b>judge</b>" not in html
    assert names[0] in page.text
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [row["system"] for row in rows] == list(names)


def test_missing_parts_are_said_not_numbered(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    text = Page(build(tmp_path / "out", runs, None)).text
    assert "No tournament" in text
    assert "the report was made without a tournament" in text
    assert f"{SYSTEMS[0]} has the highest MMLU of 2 systems (31.0 %, 95 % interval 20.0 to 42.0)." in text
    assert "Elo, points" not in text  # a column of dashes says nothing
    assert "Won \N{EN DASH} lost" not in text
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert {row["elo"] for row in rows} == {None}
    assert [row["mmlu_macro"] for row in rows] == [0.31, None, 0.29]


def test_systems_of_one_score_share_the_first_place(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ids = [make_run(runs, name, make_spec(name), [2.0], 0.25) for name in ("one", "two", "three")]
    assert "one and 2 more have the highest MMLU of 3 systems (25.0 %" in build(tmp_path / "out", (runs, ids), None)


def write_answers(path: Path, **question: str) -> Path:
    path.write_text(json.dumps({"question_id": 1, "system": path.stem, "answer": f"{path.stem} says so", **question}))
    return path


def test_answer_files_alone_make_a_page_with_the_question_files_texts(tmp_path: Path) -> None:
    files = [write_answers(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "text": "Why is it so?", "category": "physics"}))
    named = [word for path in files for word in ("--answers", str(path))]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["report", *named, "--questions", str(questions), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    page = Page((out / "index.html").read_text())
    assert "two says so" in page.text
    assert "Why is it so?" in page.text
    for title in ("MMLU questions", "Matches rated", "Judging cost", "Bradley", "Best first"):
        assert title not in page.text  # nothing of it was measured
    assert "In the order of the sweep: nothing was rated." in page.text
    assert [row[1] for row in page.data["index"]["questions"]] == ["Why is it so?"]


def test_a_text_that_one_answer_lacks_is_another_ones(tmp_path: Path) -> None:
    files = write_answers(tmp_path / "a.jsonl", question="Why?"), write_answers(tmp_path / "b.jsonl")
    for order in (files, files[::-1]):
        found = bench_answers((), None, None, load_answer_files(order))
        assert found is not None
        assert found.texts == {"1": "Why?"}
    of_bench = bench_answers((), None, "oa", load_answer_files(files))
    assert of_bench is not None
    assert (of_bench.bench, list(of_bench.by_system)) == ("oa", ["a", "b"])
    with pytest.raises(ValueError, match=r"--bench oa: no run has answers/oa\.jsonl; there are none"):
        bench_answers((), None, "oa")


def test_bare_runs_make_a_page(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_id = make_run(runs, "smollm2-base", make_spec(None), [], None)
    (runs / run_id / "answers" / "open.jsonl").unlink()
    text = Page(build(tmp_path / "out", (runs, [run_id]), None)).text
    assert "no run has answers on disk" in text
    assert "no run has a metrics.jsonl" in text
    assert "untouched" in text


def test_nothing_at_all_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert "No finished run" in Page(build(tmp_path / "out", (tmp_path / "runs", []), None)).text


def test_verdicts_without_ratings(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    (tournament / "ratings.json").unlink()
    text = Page(build(tmp_path / "out", runs, tournament)).text
    assert "18 verdicts, no ratings.json" in text
    assert "the tournament was not rated" in text
    assert "Who beats whom" in text


def test_same_records_same_bytes(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    assert build(tmp_path / "a", runs, tournament) == build(tmp_path / "b", runs, tournament)


def test_real_ratings(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    """What eval.ratings.rate writes today is what the page reads."""
    from eval.ratings.rate import RateOptions, rate_files

    result = rate_files([tournament / "verdicts.csv"], RateOptions(orderings=0, resamples=20)).to_json()
    write_json(tournament / "ratings.json", result)
    text = Page(build(tmp_path / "out", runs, tournament)).text
    assert "orderings=0: no Elo" in text
    assert "Best first, by Bradley\N{EN DASH}Terry rating" in text
    assert set(ratings_json()) <= set(result)
    assert set(ratings_json()["pairs"][0]) == set(result["pairs"][0])
    assert set(ratings_json()["position_bias"]) == set(result["position_bias"])


def test_judges_settings_come_from_the_store(tmp_path: Path, tournament: Path) -> None:
    with sqlite3.connect(tournament / "judgments.sqlite") as database:
        database.execute("CREATE TABLE judges (settings_sha256 TEXT, name TEXT, settings TEXT, created TEXT)")
        settings = json.dumps({"kind": "local", "num_parameters": 134_515_008})
        database.execute("INSERT INTO judges VALUES ('x', 'smollm2-135m', ?, '2026')", (settings,))
    database.close()
    judge = load_tournament(tournament).judges[0]
    assert judge.settings["kind"] == "local"
    assert judge_view(judge).num_parameters == 134_515_008


@pytest.mark.parametrize(
    ("name", "settings", "warned"),
    [
        ("gpt-4", {}, False),
        ("gpt-4-0613", {"kind": "api", "model": "gpt-4-0613"}, False),
        ("llama3-70b", {}, False),
        ("judge", {"model": {"hub_id": "embedded/smollm2-135m-instruct"}}, True),
        ("some-model", {"kind": "local"}, True),
        ("some-8b-model", {"kind": "local"}, False),
        ("people", {}, False),
    ],
)
def test_warning_depends_on_the_judge(name: str, settings: dict[str, Any], warned: bool) -> None:
    assert (judge_view(Judge(name=name, settings=settings)).caution is not None) is warned


def test_a_known_models_hub_id_tells_the_judges_size() -> None:
    view = judge_view(Judge(name="local:smollm2", settings={}), {"smollm2": "embedded/smollm2-135m-instruct"})
    assert view.num_parameters == 135e6
    judge = Judge(name="mine", settings={"kind": "local", "base_fingerprint": "f00d"})
    assert judge_view(judge, {"f00d": "embedded/smollm2-135m-instruct"}).num_parameters == 135e6


def test_command_line(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    folder, ids = runs
    ledger = Ledger.open(folder / "ledger.sqlite")
    ledger.record_sweep("demo", "python -m harness.run -m +experiment=demo")
    jobs = [
        Job(kind="train", spec_hash=i, run_id=i, group="g", label=label, payload="{}")
        for i, label in zip([*ids, "0" * 12], [*SYSTEMS, "smollm2-late-nf4"], strict=True)
    ]
    ledger.add(jobs, sweep="demo")
    for claim in ledger.claim("w", ["train"], max_jobs=3, lease_seconds=60, max_attempts=1):
        ledger.finish(claim, {}, 1.0)
    ledger.close()
    arguments = [
        "--sweep",
        "demo",
        "--runs",
        str(folder),
        "--tournament",
        str(tournament),
        "--out",
        str(tmp_path / "o"),
    ]
    command = ["python", "-m", "eval", "rate", "my tournament/verdicts.csv"]
    save_steps([StepRecord(key="rate", command=command, is_done=True)], tournament)
    done = CliRunner().invoke(app, ["report", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert [row["system"] for row in json.loads(done.stdout)] == list(SYSTEMS)
    text = Page((tmp_path / "o" / "index.html").read_text()).text
    assert "1 run of this sweep is not done" in text
    assert "smollm2-late-nf4" in text
    assert "python -m harness.run -m +experiment=demo python -m eval rate 'my tournament/verdicts.csv'" in text

    shown = CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "200"})
    assert "smollm2-concise-nf4" in shown.stdout
    assert "index.html" in shown.stdout


@pytest.mark.parametrize("file", ["record.json", "metrics.jsonl", "eval/mmlu/mmlu.json", "answers/open.jsonl"])
def test_a_run_that_cannot_be_read_is_left_out_by_name(tmp_path: Path, runs: tuple[Path, list[str]], file: str) -> None:
    folder, ids = runs
    (folder / ids[1] / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / ids[1] / file).write_text('{"torn\n{"again\n')
    chosen = [word for run_id in ids for word in ("--run", run_id)]
    arguments = ["report", *chosen, "--runs", str(folder), "--out", str(tmp_path / "o"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert f"note: left out {ids[1]}: " in done.stderr
    assert Path(file).name in done.stderr
    assert len(json.loads(done.stdout)) == len(ids) - 1
    assert "1 run of this sweep is not done or can" in Page((tmp_path / "o" / "index.html").read_text()).text
    alone = ["report", "--run", ids[1], *arguments[-5:]]
    assert CliRunner().invoke(app, alone).exit_code == 2


def test_a_spec_that_is_none_of_a_run_is_named_by_its_file(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    folder, ids = runs
    record = folder / ids[0] / "record.json"
    values = json.loads(record.read_text())
    values["spec"]["train"]["seed"] = None
    record.write_text(json.dumps(values))
    done = CliRunner().invoke(
        app, ["report", "--run", ids[0], "--runs", str(folder), "--out", str(tmp_path / "o"), "--json"]
    )
    assert done.exit_code == 2
    assert f"{record}: train: not the spec of a run" in done.stderr.replace("\n", " ")


def test_commands_that_were_typed_by_hand_are_printed(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    folder, ids = runs
    for run_id in ids:
        for words in (["mmlu", "--sweep", "demo", "--in-runs"], ["generate", "--sweep", "demo"]):
            step = StepRecord(key=" ".join(words), command=["python", "-m", "eval", *words], is_done=True)
            keep_step(step, folder / run_id)
    arguments = ["report", "--run", ids[0], "--run", ids[1], "--runs", str(folder), "--out", str(tmp_path / "o")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    text = Page((tmp_path / "o" / "index.html").read_text()).text
    assert text.count("python -m eval generate --sweep demo") == 1
    assert "python -m eval generate --sweep demo python -m eval mmlu --sweep demo --in-runs" in text


def test_a_tournament_without_ratings_is_rated_as_eval_rate_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = RateOptions(orderings=20, resamples=20)
    monkeypatch.setattr("analysis.leaderboard.rating.RateOptions", lambda: quick)
    make_verdicts(folder := tmp_path / "my tournament")
    (folder / "ratings.json").unlink(missing_ok=True)
    arguments = ["report", "--tournament", str(folder), "--out", str(tmp_path / "o"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "rated now" in done.stderr
    ratings = json.loads((folder / "ratings.json").read_text())
    assert ratings == json.loads(json.dumps(rate_files([folder / "verdicts.csv"], quick).to_json()))
    assert {row["system"] for row in json.loads(done.stdout)} >= set(ratings["bradley_terry"])
    text = Page((tmp_path / "o" / "index.html").read_text()).text
    assert f"python -m eval rate '{folder}/verdicts.csv' --out '{folder}/ratings.json'" in text
    (folder / "ratings.json").write_text(json.dumps(ratings | {"verdict": ["as it was"]}))
    again = CliRunner().invoke(app, arguments)
    assert "rated now" not in again.stderr
    assert json.loads((folder / "ratings.json").read_text())["verdict"] == ["as it was"]


def test_a_tournament_of_grades_is_reported_by_the_verdicts_that_follow_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = RateOptions(orderings=20, resamples=20)
    monkeypatch.setattr("analysis.leaderboard.rating.RateOptions", lambda: quick)
    make_verdicts(folder := tmp_path / "graded")
    (folder / "ratings.json").unlink(missing_ok=True)
    graded = (folder / "verdicts.csv").rename(folder / "graded_verdicts.csv")
    arguments = ["report", "--tournament", str(folder), "--out", str(tmp_path / "o"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--verdicts", str(graded)])  # named too: counted once
    assert done.exit_code == 0, done.output
    ratings = json.loads((folder / "ratings.json").read_text())
    assert ratings == json.loads(json.dumps(rate_files([graded], quick).to_json()))
    assert {row["system"] for row in json.loads(done.stdout)} >= set(ratings["bradley_terry"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a --sweep"),
        (["--sweep", "nope"], "no ledger there"),
        (["--run-id", "feedbeef"], "no record.json"),
    ],
)
def test_command_line_names_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["report", "--runs", str(tmp_path), "--out", str(tmp_path / "o"), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "o").exists()


def test_unknown_sweep_names_those_there_are(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.record_sweep("demo", "x")
    ledger.close()
    with pytest.raises(ValueError, match=r"--sweep dmeo: no such sweep.*known: demo"):
        sweep_runs("dmeo", str(tmp_path / "ledger.sqlite"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question_id,system_a,verdict\n1,a,1\n", "no column system_b"),
        ("question_id,system_a,system_b,verdict\n1,a,b,4\n", "line 2: verdict '4'"),
    ],
)
def test_bad_verdict_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "verdicts.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_tournament(tmp_path)


def test_answers_take_the_judged_bench(runs: tuple[Path, list[str]], tournament: Path) -> None:
    folder, ids = runs
    for number_ in range(5):
        row = {"question_id": f"v{number_}", "system": SYSTEMS[0], "question": "?", "answer": "!"}
        append_jsonl(folder / ids[0] / "answers" / "a_bench.jsonl", row)
    opened, played = load_runs(folder, ids), load_tournament(tournament)
    view = answers_view(bench_answers(opened, played), SYSTEMS, played)
    assert view is not None
    assert (view.bench, view.other_benches, view.num_questions) == ("open", ("a_bench",), 3)
    first = view.questions[0].rulings[0]
    assert (first.first, first.second, first.winner) == (SYSTEMS[0], SYSTEMS[1], SYSTEMS[0])
    assert len(view.questions[0].rulings) == 6
    other = answers_view(bench_answers(opened, played, "a_bench"), SYSTEMS, played, max_questions=2)
    assert other is not None
    assert (len(other.questions), other.num_questions, other.systems) == (2, 5, (SYSTEMS[0],))
    with pytest.raises(ValueError, match=r"no run has answers/none\.jsonl"):
        bench_answers(opened, played, "none")


def test_an_absent_answer_is_said(tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path) -> None:
    path = runs[0] / runs[1][1] / "answers" / "open.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert Page(build(tmp_path / "o", runs, tournament)).text.count("no answer on disk") == 2


def test_curves_share_axes_and_average_long_runs() -> None:
    losses = [(step, 3.0 - step / 500) for step in range(1, 1001)]
    scale = scale_over([1.0, 3.0])
    assert scale is not None
    drawn = curve(losses, 2000, scale)
    assert drawn.steps_per_point == 9
    assert len(drawn.points.split()) == 112
    assert drawn.end[0] < 125  # half of the axis, which another run needs in full
    assert bin_means([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(1.5, 2.0), (3.0, 5.0)]


def test_ticks_are_round_and_inside() -> None:
    assert round_ticks(903, 1112, 4) == (950, 1000, 1050, 1100)
    assert round_ticks(0.18, 0.43, 4) == (0.2, 0.3, 0.4)
    assert round_ticks(0.999, 1.001, 3) == (0.999, 1.0, 1.001)
    assert scale_over([None]) is None
    alone = scale_over([5.0])
    assert alone is not None
    assert alone.percent(5.0) == 50.0
    assert alone.percent(1e9) == 100.0


def test_matrix_leaves_out_whom_nobody_met() -> None:
    assert matrix_view({}, SYSTEMS) is None


def test_numbers_as_written() -> None:
    assert moment("2026-11-30T01:06:53+00:00") == moment("2026-11-30T01:06:53Z") == "2026-11-30 01:06:53 UTC"
    assert moment("2026-11-30T01:06:53+02:00") == "2026-11-30T01:06:53+02:00"
    assert number(None) == "not measured"
    assert number(-3.26, ".1f") == "\N{MINUS SIGN}3.3"
    assert interval(-1051.4, 1230, "+.3g") == "\N{MINUS SIGN}1,051 to +1,230"
    assert [number(v, ".4g") for v in (999.94, 12345.6, 5e12)] == ["999.9", "12,346", "5e+12"]
    assert interval(-30, 140) == "\N{MINUS SIGN}30 to 140"
    assert interval(None, 3.0) == "no interval"
    assert percent(0.255) == "25.5\N{NO-BREAK SPACE}%"
    assert [duration(s).replace("\N{NO-BREAK SPACE}", " ") for s in (4.137, 65, 7865)] == [
        "4.14 s",
        "1 min 05 s",
        "2 h 11 min",
    ]
    assert memory(0) == "not measured"
    assert visible("a\x00\tb\n\ud800") == "a\N{SYMBOL FOR NULL}\tb\n\N{REPLACEMENT CHARACTER}"


def test_two_runs_of_one_label_are_refused(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    twin = make_run(runs[0], SYSTEMS[0], make_spec("concise", seed=1), [2.0], None)
    with pytest.raises(ValueError, match="are both called 'smollm2-concise-nf4'"):
        build(tmp_path / "o", (runs[0], [*runs[1], twin]), None)


def test_scores_of_different_settings_are_not_compared(
    tmp_path: Path, runs: tuple[Path, list[str]], tournament: Path
) -> None:
    values = {**mmlu_json(SYSTEMS[1], 0.4), "settings_sha256": "d" * 64}
    write_json(runs[0] / runs[1][1] / "eval" / "mmlu" / "mmlu.json", values)
    assert "come from 2 different sets of questions" in Page(build(tmp_path / "o", runs, tournament)).text


def test_other_benchmarks_have_a_table_each(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    assert "Other benchmarks" not in Page(build(tmp_path / "o", runs, None)).text
    write_perplexity(runs[0] / runs[1][0], 1.25, "e" * 64)
    write_perplexity(runs[0] / runs[1][2], 1.5, "e" * 64)
    text = Page(build(tmp_path / "o", runs, None)).text
    assert "Other benchmarks" in text
    assert "1.25 1.15 to 1.35 · n 7" in text
    assert "not comparable" not in text
    lines = (tmp_path / "o" / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("system,run_id,evaluation,metric,value,low,high,n")
    assert [line.split(",")[4] for line in lines[1:]] == ["1.25", "1.5"]


def test_other_benchmarks_of_different_questions_are_marked(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    write_perplexity(runs[0] / runs[1][0], 1.25, "e" * 64)
    write_perplexity(runs[0] / runs[1][2], 1.5, "f" * 64)
    assert "different questions: not comparable" in Page(build(tmp_path / "o", runs, None)).text


def test_differing_versions_are_listed_by_run(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    opened: tuple[Run, ...] = load_runs(*runs)
    other = replace(opened[0], record=replace(opened[0].record, packages={"torch": "2.12.0"}))
    played: Tournament | None = None
    write_report(tmp_path, SweepRuns(run_ids=()), (other, *opened[1:]), played, ReportOptions(title="t"))
    text = Page((tmp_path / "index.html").read_text()).text
    assert "torch 2.12.0" in text
    assert "torch 2.11.0" in text
    assert "Not recorded: no command is known" in text


@pytest.mark.parametrize(
    ("value", "size"), [(0, None), (-1, None), (True, None), ("7", None), (None, None), (7, 7.0), (0.5, 0.5)]
)
def test_a_judges_size_is_a_number_above_zero(value: Any, size: float | None) -> None:
    assert _recorded_size({"num_parameters": value}) == size


def test_questions_have_a_page_in_a_folder_and_where_they_were_answered() -> None:
    answers = SimpleNamespace(texts={"1": "Why?"})
    content: Any = SimpleNamespace(
        options=ReportOptions(title="t"), order=("a",), judges=(), categories={"1": "c"},
        questions={"1": "Why?" * 41, "2": ""}, answers=answers, sweep=SimpleNamespace(run_ids=()), runs=(),
        tournament=None,
    )  # fmt: skip
    content_without: Any = SimpleNamespace(**{**vars(content), "answers": None})
    asked = [index_data(content, ["1", "2"]), index_data(content, ["1", "2"], is_folder=True)]
    assert [[row[-1] for row in found["questions"]] for found in asked] == [[1, 0], [1, 1]]
    assert [row[-1] for row in index_data(content_without, ["1", "2"])["questions"]] == [0, 0]
    assert [found["folder"] for found in asked] == [False, True]
    assert asked[0]["questions"][0][1:3] == [("Why?" * 41)[:159] + "\N{HORIZONTAL ELLIPSIS}", "c"]
    assert asked[0]["questions"][1][2] == ""
    nameless: Any = SimpleNamespace(**{**vars(content), "judges": ("", "gpt-4")})
    assert index_data(nameless, [])["judges"] == ["a judge without a name", "gpt-4"]  # headings need a text


def test_the_losses_of_held_out_rows_are_rings_on_the_curve(tmp_path: Path, runs: tuple[Path, list[str]]) -> None:
    folder, ids = runs
    lines = [{"step": step, "loss": 2.0 - step / 10} for step in range(1, 5)]
    lines[1]["eval_loss"], lines[3]["eval_loss"] = 2.5, 2.25
    (folder / ids[0] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = curves_view(load_runs(folder, ids[:1]))
    assert view is not None
    (one,) = view.curves
    assert [x for x, _ in one.held_out] == [CURVE_WIDTH / 2, one.curve.end[0]]
    assert one.held_out[0][1] < one.held_out[1][1] < one.curve.end[1]  # the larger loss lies higher
    text = render("training.html.j2", curves=view, race=None)
    assert text.count('class="held-out"') == 2
    assert "of held-out rows 2.500 to 2.250" in text
    assert "Rings: the loss of the run\u2019s held-out rows." in text


def decided(run_id: str, rung: int, loss: float | None, verdict: Verdict, rank: int | None) -> tuple[str, Decision]:
    made = Decision(
        sweep="r",
        run_id=run_id,
        rung=rung,
        step=None if loss is None else 5 * 3**rung,
        loss=loss,
        verdict=verdict,
        rank=rank,
        num_judged=3 - rung,
        num_kept=2 - rung,
        limit=2.5 - rung,
        rule="by hand" if verdict is Verdict.promoted else "halving by eval_loss, eta 3, from step 5",
    )
    return f"<b>{run_id}", made


def test_what_a_race_decided_is_shown_with_its_numbers(tmp_path: Path) -> None:
    made = [
        decided("one", 0, 2.0, Verdict.goes_on, 1),
        decided("two", 0, 2.5, Verdict.goes_on, 2),
        decided("three", 0, 3.0, Verdict.stops, 3),
        decided("four", 0, None, Verdict.failed, None),
        decided("two", 1, 1.25, Verdict.goes_on, 1),
        decided("one", 1, 1.5, Verdict.stops, 2),
        decided("three", 2, 3.0, Verdict.promoted, None),
    ]
    view = race_view(made)
    assert view is not None
    assert [row.label for row in view.rows] == ["<b>two", "<b>one", "<b>three", "<b>four"], "the farthest first"
    assert [rung.step for rung in view.rungs] == [5, 15]
    text = Page(render("training.html.j2", curves=None, race=view)).text
    for part in (
        "halving by eval_loss, eta 3, from step 5.",
        "Step 5 2 of 3 go on, to 2.5000",
        "<b>two 2.5000 2 of 3, goes on 1.2500 1 of 2, goes on",
        "<b>three promoted by hand 3.0000 3 of 3, stops \N{EN DASH}",
        "<b>four \N{EN DASH} failed \N{EN DASH}",
    ):
        assert part in text, part
    unfinished = (("<b>one", "stopped"), ("<b>three", "stopped"), ("<b>four", "broken"))
    sweep = SweepRuns(run_ids=(), unfinished=unfinished, decisions=tuple(made))
    assert sweep.stopped == ("<b>one",), "three was promoted since, and is still to be trained"
    assert [label for label, _ in sweep.not_done] == ["<b>three", "<b>four"]
    write_report(tmp_path, sweep, (), None, ReportOptions(title="t"))
    facts = Page((tmp_path / "index.html").read_text()).text
    assert "1 run ended early, by the rule of the race" in facts
    assert "2 runs of this sweep are not done" in facts
    assert race_view(made[-1:]) is None
    assert "race" not in render("training.html.j2", curves=None, race=None)

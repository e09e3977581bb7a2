"""Tidy pandas frames of runs, scores, metrics, questions, answers, verdicts and ratings, in one call each.

    from analysis.frames import answers, metrics, questions, ratings, runs, scores, verdicts
    runs(sweep="demo")                        # a row a run: how it was made, what became of it
    scores(runs_folder="runs")                # a row a score of an evaluation
    questions(sweep="demo")                   # a row a question of an evaluation
    metrics(sweep="demo")                     # a row a training step
    answers(sweep="demo")                     # a row an answer
    verdicts(tournament="tournaments/demo")   # a row a verdict
    ratings(tournament="tournaments/demo")    # a row a system and kind of rating
    describe(runs(sweep="demo"))              # what each column is, and its unit
    to_parquet(runs(sweep="demo"), "runs.parquet")

All take the same keyword arguments: `runs_folder` (default: HARNESS_RUNS, else runs/), `sweep` (a name in its ledger),
`tournament` (a folder: its systems' runs, its verdicts, its ratings) and `ledger_url` (default: HARNESS_LEDGER_URL,
else the runs folder's own). Each frame has `run_id`, `label`, `state` and `reason`, and a column for each axis
(`analysis.tidy.axes`): `runs` has all of them, the others those in which the runs differ. A run that failed, or has
nothing to tell yet, is a row with its state and reason, and missing values. What is missing is NA, never a number.
Choices are categories; `analysis.tidy.columns` says what each column is and in which unit.

A run of which a file can't be read is a row with the state `unreadable` and the reason, too.

Raises of all: ValueError where the source isn't there, or none of the runs can be read; the message names the file and
the remedy.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from analysis.tidy.columns import describe, meaning_of, unit_of
from analysis.tidy.ratings import rating_rows
from analysis.tidy.rows import Columns, RunRows, higher_is_better, joined, runs_frame, score_unit
from analysis.tidy.sources import UNREADABLE, FoundRun, Source, found_runs, tournament_verdicts
from analysis.tidy.steps import read_steps
from eval.answers.files import Answer, read_answers
from eval.benchmarks.by_question import QuestionRows, read_questions
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from eval.verdicts.table import Verdicts, load_verdicts
from harness.files.atomic import write_atomically
from harness.runs.record import METRICS_FILE
from harness.runs.scores import measured_scores

__all__ = [
    "answers",
    "describe",
    "metrics",
    "questions",
    "ratings",
    "runs",
    "scores",
    "to_parquet",
    "unit_of",
    "verdicts",
]

SCORE = ("evaluation", "metric", "value", "low", "high", "unit", "n", "higher_is_better", "is_headline", "settings")
VERDICT_WORDS = {FIRST: "system_a", SECOND: "system_b", TIE: "tie", UNPARSED: "unparsed"}
STEP = ("step", "loss", "learning_rate", "grad_norm", "target_tokens", "seconds", "num_members")


def runs(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
) -> pd.DataFrame:
    """A row a run: every axis, what its record holds, and what became of it.

    Columns: run_id, label, state, reason; all of `analysis.tidy.axes.AXES`, and by its dotted name each further key of
    the config in which runs differ; then what is recorded (`analysis.tidy.rows.RECORDED`). Units: `unit_of(column)`,
    or `describe(frame)`.
    """
    return runs_frame(found_runs(_source(runs_folder, sweep, tournament, ledger_url)))


def scores(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
) -> pd.DataFrame:
    """A row a score: run_id, label, state, reason, `SCORE`, settings_sha256, and the axes in which runs differ.

    An evaluation that failed or waits is a row with its state and reason; a run with none is one too.
    """
    found = found_runs(_source(runs_folder, sweep, tournament, ledger_url))
    rows = RunRows()
    _add_each(rows, found, partial(_add_scores, rows))
    return joined(rows, found, (*SCORE, "settings_sha256"))


def questions(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
) -> pd.DataFrame:
    """A row a question of an evaluation and metric: question, category, value, weight, with the score's columns.

    A row's `value` is what it adds to the run's mean: 1 or 0 for MMLU, nats a token for a document, whose tokens are
    its `weight`.
    """
    found = found_runs(_source(runs_folder, sweep, tournament, ledger_url))
    rows = RunRows()
    _add_each(rows, found, partial(_add_questions, rows))
    columns = ("evaluation", "metric", "question", "category", "value", "weight", "unit", "higher_is_better")
    return joined(rows, found, (*columns, "settings_sha256"))


def metrics(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
) -> pd.DataFrame:
    """A row a training step: step, loss, step_learning_rate, grad_norm, target_tokens, seconds, and whatever else
    metrics.jsonl has. A run that is being trained, or failed, has the steps that it made.
    """
    found = found_runs(_source(runs_folder, sweep, tournament, ledger_url))
    rows, names = RunRows(), dict.fromkeys(STEP)

    def add(run: FoundRun) -> None:
        steps = read_steps(run.folder / METRICS_FILE)
        names.update(dict.fromkeys(key for step in steps for key in step))
        if steps:
            values = {key: [step.get(key) for step in steps] for key in names}
            rows.add_many(run, len(steps), values, {})
        else:
            rows.add(run, {}, run.reason or f"no {METRICS_FILE}")

    _add_each(rows, found, add)
    return joined(rows, found, tuple(names), renamed={"learning_rate": "step_learning_rate"})


def answers(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
    files: Sequence[Path | str] = (),
) -> pd.DataFrame:
    """A row an answer and turn: system, bench, question_id, turn, prompt, answer, num_tokens, finish_reason ...

    Args:
        runs_folder: as all.
        sweep: as all.
        tournament: as all.
        ledger_url: as all.
        files: answer files of other systems, whose rows have no run; given alone, no runs are looked for.
    """
    is_alone = bool(files) and runs_folder is None and sweep is None and tournament is None
    found = [] if is_alone else found_runs(_source(runs_folder, sweep, tournament, ledger_url))
    rows = RunRows()
    _add_each(rows, found, partial(_add_answers_of, rows))
    for path in map(Path, files):
        _add_answers(rows, path, read_answers(path), None)
    columns = ("system", "bench", "question_id", "turn", "prompt", "answer", "num_tokens", "finish_reason")
    return joined(rows, found, (*columns, "answer_seed", "num_dropped_turns"))


def verdicts(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    files: Sequence[Path | str] = (),
) -> pd.DataFrame:
    """A row a verdict: question_id, system_a (shown first), system_b, verdict (system_a, system_b, tie, unparsed),
    judge, rater, judged_turn, benchmark. An unparsed one is a row too.

    Args:
        runs_folder: where a sweep's tournament may lie; default: HARNESS_RUNS, else runs/.
        sweep: whose tournament: tournaments/<sweep>, there or in the runs folder.
        tournament: its folder.
        files: verdict files of any known kind, instead.
    """
    if files:
        return _verdicts_frame(load_verdicts([Path(path) for path in files]))
    return _verdicts_frame(tournament_verdicts(_tournament(_source(runs_folder, sweep, tournament))))


def ratings(
    *,
    runs_folder: Path | str | None = None,
    sweep: str | None = None,
    tournament: Path | str | None = None,
    ledger_url: str | None = None,
) -> pd.DataFrame:
    """A row a system and kind of rating (bradley_terry, davidson, elo), in points, with 95 % intervals over prompts.

    Read from ratings.json, or made of the verdicts where there is none. A system that is a run has its `run_id` and
    axes; a system that met nobody, and a run of a named sweep that no verdict names, are rows without a value.
    """
    source = _source(runs_folder, sweep, tournament, ledger_url)
    folder = _tournament(source)
    is_looked_for = sweep is not None or source.folder.is_dir()
    found = found_runs(_source(runs_folder, sweep, None, ledger_url)) if is_looked_for else []
    by_name = {run.name: run for run in found}
    rows, seen = RunRows(), set()
    for row in rating_rows(folder):
        reason = row.pop("reason")
        seen.add(row["system"])
        rows.add(by_name.get(row["system"]), row | {"unit": "points"}, reason)
    for run in found if sweep is not None else ():
        if run.name not in seen:
            rows.add(run, {"system": run.name}, run.reason or "no verdict names it")
    places = ("rank", "rank_low", "rank_high", "best_probability")
    used = [run for run in found if sweep is not None or run.name in seen]
    return joined(rows, used, ("system", "rating", "value", "low", "high", "unit", *places))


def to_parquet(frame: pd.DataFrame, path: Path | str) -> None:
    """Writes a frame so that `pandas.read_parquet` gives it back, categories too; units and meanings go along.

    Each field's metadata has `unit` and `about`. Written in one step: a crash leaves no half file.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    fields = [
        field.with_metadata({"unit": unit_of(field.name) or "", "about": meaning_of(field.name)})
        for field in table.schema
    ]
    table = table.cast(pa.schema(fields, metadata=table.schema.metadata))
    buffer = BytesIO()
    parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())


def _add_each(rows: RunRows, found: Sequence[FoundRun], add: Callable[[FoundRun], None]) -> None:
    """Adds the rows of each run; one of which a file can't be read is a row with the reason.

    Raises:
        ValueError: that holds for all of them; the first one's reason.
    """
    problems = []
    for run in found:
        try:
            add(run)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            rows.add(run, {}, str(error), UNREADABLE)
    if problems and len(problems) == len(found):
        raise ValueError(problems[0])


def _add_scores(rows: RunRows, run: FoundRun) -> None:
    found = measured_scores(run.folder / "eval") if run.record is not None else []
    for score in found:
        values = asdict(score) | {"unit": score_unit(score.metric), "settings": score.settings or None}
        rows.add(run, values | {"higher_is_better": higher_is_better(score.evaluation, score.metric)}, None)
    for job in run.evaluations:
        reason = job.reason or f"{job.status}: not measured yet"
        rows.add(run, {"evaluation": job.kind}, reason, str(job.status))
    if not found and not run.evaluations:
        rows.add(run, {}, run.reason or "nothing was measured")


def _add_questions(rows: RunRows, run: FoundRun) -> None:
    parts = list(read_questions(run.folder / "eval")) if run.record is not None else []
    for part in parts:
        _add_part(rows, run, part)
    if not parts:
        rows.add(run, {}, run.reason or "no result by question")


def _add_part(rows: RunRows, run: FoundRun, part: QuestionRows) -> None:
    scores, count = part.scores, len(part.scores.names)
    nothing: list[Any] = [None] * count
    values: Columns = {"question": scores.names, "value": scores.values}
    values |= {"category": scores.categories or nothing, "weight": scores.weights or nothing}
    fixed: dict[str, Any] = {"evaluation": part.evaluation, "metric": scores.metric, "unit": scores.unit or None}
    fixed |= {"higher_is_better": scores.higher_is_better, "settings_sha256": part.settings_sha256}
    rows.add_many(run, count, values, fixed)


def _add_answers_of(rows: RunRows, run: FoundRun) -> None:
    read = {path: read_answers(path) for path in sorted((run.folder / "answers").glob("*.jsonl"))}
    for path, found in read.items():
        _add_answers(rows, path, found, run)
    if not read:
        rows.add(run, {"system": run.name}, run.reason or "no answers")


def _add_answers(rows: RunRows, path: Path, found: Sequence[Answer], run: FoundRun | None) -> None:
    fixed = {"bench": path.name.removesuffix(".gz").removesuffix(".jsonl")} | (
        {} if run is None else {"system": run.name}
    )
    same = ("question_id", "turn", "answer", "num_tokens", "finish_reason", "num_dropped_turns")
    values: Columns = {name: [getattr(answer, name) for answer in found] for name in same}
    values |= {
        "prompt": [answer.question or None for answer in found],
        "answer_seed": [answer.seed for answer in found],
    }
    if run is None:
        values["system"] = [answer.system for answer in found]
    rows.add_many(run, len(found), values, fixed)


def _source(
    runs_folder: Path | str | None,
    sweep: str | None,
    tournament: Path | str | None,
    ledger_url: str | None = None,
) -> Source:
    return Source(runs_folder=runs_folder, sweep=sweep, tournament=tournament, ledger_url=ledger_url)


def _tournament(source: Source) -> Path:
    folder = source.tournament_folder()
    if folder is None:
        raise ValueError("name a tournament= (its folder) or a sweep=")
    return folder


def _verdicts_frame(found: Verdicts) -> pd.DataFrame:
    systems = pd.CategoricalDtype(found.system_names)
    words = [VERDICT_WORDS[code] for code in (FIRST, SECOND, TIE, UNPARSED)]
    return pd.DataFrame(
        {
            "question_id": _named(found.question.values, found.question.codes),
            "system_a": pd.Categorical.from_codes(found.first, dtype=systems),
            "system_b": pd.Categorical.from_codes(found.second, dtype=systems),
            "verdict": pd.Categorical([VERDICT_WORDS[int(code)] for code in found.verdict], categories=words),
            "judge": _named(found.judge.values, found.judge.codes),
            "rater": _named(found.rater.values, found.rater.codes),
            "judged_turn": pd.array(found.turn, dtype="Int64"),
            "benchmark": _named(found.benchmark.values, found.benchmark.codes),
        }
    )


def _named(names: Sequence[str], codes: "np.ndarray[Any, np.dtype[np.int32]]") -> "pd.Categorical[Any]":
    """A column of names; an empty one is missing."""
    if "" not in names:
        return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(names)))
    known = [name for name in names if name]
    places = np.array([known.index(name) if name else -1 for name in names])
    return pd.Categorical.from_codes(places[codes], dtype=pd.CategoricalDtype(known))

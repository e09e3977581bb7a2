"""Looks at what is there for a leaderboard: finished runs with answers and scores, answer files, verdict files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analysis.leaderboard.options import LeaderboardOptions
from eval.answers.files import contest_dialogues, named, read_answers, read_contestants
from eval.answers.questions import OpenQuestion, load_open_questions
from eval.benchmarks.registry import BENCHMARKS
from eval.judging.store import VERDICTS_FILE
from eval.verdicts.table import load_verdicts
from harness.config.paths import paths_of_environment
from harness.config.schema import ModelKind
from harness.ledger.finished import left_out, sweep_runs
from harness.ledger.open import ledger_url
from harness.runs.record import RunRecord, load_record
from harness.runs.scores import eval_file

RATINGS_FILE = "ratings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A finished run, or an untouched base."""

    run_id: str
    name: str
    group: str  # runs of one group share a frozen base
    base: str  # that base, for a reader: smollm2, nf4
    kind: ModelKind
    folder: Path
    num_missing: int = 0  # answers that it hasn't given yet
    has_dataset: bool = True  # False: an untouched base
    scored: frozenset[str] = frozenset()  # benchmarks whose result lies in its folder
    plays: bool = True  # in the tournament


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that a leaderboard can be made of."""

    runs: tuple[FoundRun, ...] = ()
    is_whole_sweep: bool = False  # the runs are the finished ones of the sweep, and no others
    others: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # system of an answer file -> questions that it answered
    questions: tuple[str, ...] = ()  # identifiers of those that are asked
    num_turns: int = 0  # of all questions: the answers that a system is to give
    has_verdicts: bool = False  # in the tournament's folder, from before
    has_ratings: bool = False  # there too, newer than all verdicts
    rated: tuple[str, ...] = ()  # systems of the verdict files that are given
    notes: tuple[str, ...] = ()

    @property
    def players(self) -> tuple[FoundRun, ...]:
        """The runs of the tournament."""
        return tuple(run for run in self.runs if run.plays)


def look(options: LeaderboardOptions) -> Found:
    """Reads the ledger, the run folders and the files that the options name.

    Raises:
        ValueError: an unknown sweep or run, a file that can't be read, answers to other questions than are asked, two
            systems of one name.
    """
    asked = load_open_questions(str(options.questions or "embedded"), options.max_questions)
    records, notes, is_all_done = _records(options)
    runs, unreadable = _readable(records, asked, options)
    notes += [f"left out {label}: {why}" for label, why in unreadable]
    others, of_files = _others(options, asked)
    _refuse_equal_names(runs, others)
    rated = load_verdicts(options.verdicts).system_names if options.verdicts else []
    verdicts = options.tournament / VERDICTS_FILE
    silent = [run.name for run in runs if not run.plays]
    if silent:
        notes.append(f"{len(silent)} runs answer no open prompts, as they are no causal models: {named(silent)}")
    return Found(
        runs=runs,
        is_whole_sweep=options.sweep is not None and not options.run_ids and not unreadable and is_all_done,
        others=others,
        questions=tuple(question.question_id for question in asked),
        num_turns=sum(len(question.turns) for question in asked),
        has_verdicts=verdicts.is_file(),
        has_ratings=_is_newer(options.tournament / RATINGS_FILE, (verdicts, *options.verdicts)),
        rated=tuple(rated),
        notes=(*notes, *of_files),
    )


def _readable(
    records: Mapping[Path, RunRecord], asked: Sequence[OpenQuestion], options: LeaderboardOptions
) -> tuple[tuple[FoundRun, ...], list[tuple[str, str]]]:
    """-> (the runs, (label, why) of those of which something can't be read). Raises ValueError where nothing is left"""
    runs, unreadable = [], []
    for folder, record in records.items():
        try:
            runs.append(_run(folder, record, asked, options))
        except (ValueError, OSError) as error:
            unreadable.append((record.label, str(error)))
    if unreadable and not (runs or options.answers or options.verdicts):
        raise ValueError(unreadable[0][1])
    return tuple(runs), unreadable


def _records(options: LeaderboardOptions) -> tuple[dict[Path, RunRecord], list[str], bool]:
    """-> {folder: record} of the finished runs, who is left out and why, whether no done run of the sweep is.

    Raises:
        ValueError: a run that is named and not done, or a sweep of which nothing is done and nothing else is given.
    """
    paths = paths_of_environment(options.runs)
    found: dict[Path, RunRecord] = {}
    for run_id in options.run_ids:
        found[Path(paths.runs) / run_id] = _record(Path(paths.runs) / run_id)
    if options.sweep is None:
        return found, [], True
    planned = sweep_runs(options.sweep, ledger_url(paths))
    unfinished = list(planned.unfinished)
    for run_id in planned.run_ids:
        folder = Path(paths.runs) / run_id
        try:
            found[folder] = _record(folder)
        except ValueError as error:
            unfinished.append((run_id, str(error)))
    line = left_out(options.sweep, unfinished)
    if not (found or options.answers or options.verdicts):
        raise ValueError(line or f"--sweep {options.sweep}: it has no runs")
    return found, [line] if line else [], len(unfinished) == len(planned.unfinished)


def _record(folder: Path) -> RunRecord:
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no record.json, so this run is not done; finish it or leave it out")
    return record


def _run(folder: Path, record: RunRecord, asked: Sequence[OpenQuestion], options: LeaderboardOptions) -> FoundRun:
    model, quant = record.spec.get("model") or {}, record.spec.get("quant") or {}
    kind = ModelKind(model.get("kind", ModelKind.causal.value))
    return FoundRun(
        run_id=record.run_id,
        name=record.label,
        group=record.group,
        base=f"{model.get('name', record.group)}, {quant.get('name', '')}".removesuffix(", "),
        kind=kind,
        folder=folder,
        has_dataset=record.spec.get("dataset") is not None,
        num_missing=_num_missing(folder / "answers" / f"{options.bench}.jsonl", asked),
        scored=frozenset(name for name in BENCHMARKS if eval_file(folder, name).is_file()),
        plays=kind is ModelKind.causal,
    )


def _num_missing(path: Path, asked: Sequence[OpenQuestion]) -> int:
    """How many of the questions' turns have no answer in a file."""
    there = {(row.question_id, row.turn) for row in read_answers(path, may_end_torn=True)} if path.is_file() else set()
    return sum((question.question_id, turn) not in there for question in asked for turn in range(len(question.turns)))


def _is_newer(path: Path, sources: Iterable[Path]) -> bool:
    """Whether a file is there and no source was written after it."""
    written = path.stat().st_mtime_ns if path.is_file() else None
    return written is not None and all(not s.is_file() or s.stat().st_mtime_ns <= written for s in sources)


def _others(
    options: LeaderboardOptions, asked: Sequence[OpenQuestion]
) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """-> {system of an answer file: questions that it answered}, notes. Raises ValueError where none is asked."""
    if not options.judges:  # answers are shown beside verdicts that exist, whatever the questions are
        return {name: frozenset(answers) for name, answers in read_contestants(options.answers).items()}, ()
    found, notes = contest_dialogues(options.answers, asked) if options.answers else ({}, [])
    strangers = [system for system, answers in found.items() if not answers]
    if strangers:
        where = options.questions or "the embedded open prompts"
        raise ValueError(
            f"--answers: {named(strangers)}: no answer is to one of the {len(asked)} questions of {where}; name the "
            f"file of their questions by --questions" + "".join(f"; {note}" for note in notes)
        )
    if options.max_questions is not None:  # then answers to the others are no news
        notes = []
    return {system: frozenset(answers) for system, answers in found.items()}, tuple(notes)


def _refuse_equal_names(runs: Sequence[FoundRun], others: Mapping[str, frozenset[str]]) -> None:
    seen: dict[str, str] = dict.fromkeys(others, "a system of --answers")
    for run in runs:
        if run.name in seen:
            raise ValueError(
                f"run {run.run_id} and {seen[run.name]} are both called {run.name}, so they can't be told apart; leave "
                f"one out, or name a --sweep that has both: it gives each run a name of its own"
            )
        seen[run.name] = f"run {run.run_id}"

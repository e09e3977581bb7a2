"""Reads what a sweep and its tournament left on disk into plain records.

The layout read here is
docs/architecture.md's "Records on disk". What isn't there is None or empty, never a number; what is there and can't be
read is an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from typing_extensions import TypedDict

from analysis.report.identity import Proof, read_proof
from analysis.tidy.ratings import RATINGS_FILE, read_ratings
from analysis.tidy.steps import read_steps
from eval.answers.files import Answer, read_answers
from eval.answers.questions import join_turns
from eval.judging.injection import FlaggedWins
from eval.judging.matches import Judgment
from eval.judging.store import judged_file, recorded_flags, recorded_judges, recorded_judgments
from eval.verdicts.table import load_judged
from harness.files.typed import read_typed
from harness.ledger.finished import SweepRuns
from harness.runs.estimate import Estimate
from harness.runs.record import METRICS_FILE, RECORD_FILE, RunRecord, load_record
from harness.runs.scores import MeasuredScore, measured_scores

TRAIN = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmlu:
    """One run's MMLU as eval/benchmarks/mmlu/results.py writes it: fractions from 0 to 1."""

    macro: Estimate  # mean over subjects
    micro: Estimate  # mean over questions
    num_questions: int
    num_subjects: int
    num_truncated_prompts: int
    protocol: str
    split_name: str
    num_shots: int
    settings_sha256: str  # of protocol, questions and shots: scores of different settings can't be compared
    subjects: dict[str, tuple[float, int]]  # subject -> (accuracy, questions)


class SubjectScore(TypedDict):
    """One subject in mmlu.json."""

    accuracy: float
    n: int


class MmluFile(TypedDict):
    """What is read of mmlu.json."""

    accuracy_macro: float
    accuracy_macro_ci95: tuple[float, float] | None
    accuracy_micro: float
    accuracy_micro_ci95: tuple[float, float] | None
    n: int
    num_subjects: int
    num_truncated_prompts: int
    protocol: str
    split_name: str
    num_shots: int
    settings_sha256: str
    per_subject: dict[str, SubjectScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The content of a finished run's folder."""

    folder: Path
    record: RunRecord
    losses: tuple[tuple[int, float], ...]  # (step, nats a target token), by step
    eval_losses: tuple[tuple[int, float], ...] = ()  # the same of held-out rows, where they were measured
    mmlu: Mmlu | None
    scores: tuple[MeasuredScore, ...]  # of all other evaluations
    answers: dict[str, tuple[Answer, ...]]  # by bench
    proof: Proof | None = None  # of its method; None: an untouched base

    def setting(self, *keys: str) -> Any:
        """A value of the run's resolved config, e.g. `setting("model", "name")`; None where it isn't set."""
        value: Any = self.record.spec
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line of verdicts.csv; `first` was shown first."""

    question_id: str
    first: str
    second: str
    verdict: int
    judge: str


SayingKey = tuple[str, str, str, str]  # judge, question_id, the system shown first, the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Whoever judged, with the settings that judgments.sqlite keeps; empty where it keeps none."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """The content of a tournament's folder."""

    folder: Path
    verdicts: tuple[Verdict, ...]
    ratings: dict[str, Any] | None  # ratings.json
    flagged: Mapping[str, FlaggedWins] = field(default_factory=dict)  # judge -> wins of answers that may steer it
    judges: tuple[Judge, ...]  # those of the verdicts, with what is recorded of them
    judgments: Mapping[SayingKey, Judgment] = field(default_factory=dict)  # what the judges wrote, where it is stored
    votes: tuple[Verdict, ...] = ()  # people's, which ratings.json says correct the judge


def load_runs(runs: Path, run_ids: Sequence[str]) -> tuple[Run, ...]:
    """Opens the folders of finished runs.

    Raises:
        ValueError: a run without a record, or with one that can't be read.
    """
    return tuple(load_run(runs / run_id) for run_id in dict.fromkeys(run_ids))


def readable_runs(runs: Path, chosen: SweepRuns) -> tuple[tuple[Run, ...], SweepRuns]:
    """Opens the folders of finished runs that can be read. -> them, and what was chosen, less those that can't.

    A run that can't be read stands among the unfinished ones, with the reason.

    Raises:
        ValueError: none of them can be read; the first one's reason.
    """
    found: dict[str, Run] = {}
    problems: dict[str, str] = {}
    for run_id in dict.fromkeys(chosen.run_ids):
        try:
            found[run_id] = load_run(runs / run_id)
        except (ValueError, OSError) as error:
            problems[run_id] = str(error)
    if problems and not found:
        raise ValueError(next(iter(problems.values())))
    unfinished = (*chosen.unfinished, *problems.items())
    return tuple(found.values()), replace(chosen, run_ids=tuple(found), unfinished=unfinished)


def load_run(folder: Path) -> Run:
    """Opens one run's folder.

    Raises:
        ValueError: it has no record, or something in it can't be read.
    """
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no record.json, so this run is not done; finish it or leave it out")
    rows = read_steps(folder / METRICS_FILE)
    steps = {row["step"]: row["loss"] for row in rows}
    answers = {path.stem: tuple(_answers(path)) for path in sorted(folder.glob("answers/*.jsonl"))}
    return Run(
        folder=folder,
        record=record,
        losses=tuple(sorted((step, loss) for step, loss in steps.items() if loss is not None)),
        eval_losses=tuple((row["step"], float(row["eval_loss"])) for row in rows if row.get("eval_loss") is not None),
        mmlu=_mmlu(folder / "eval" / "mmlu" / "mmlu.json"),
        scores=tuple(measured_scores(folder / "eval", leave_out=("mmlu",))),
        answers=answers,
        proof=read_proof(record, str(folder / RECORD_FILE)),
    )


def load_tournament(folder: Path, bench: str | None = None, further: Sequence[Path] = ()) -> Tournament:
    """Opens a tournament's folder; each of its files may be missing.

    Args:
        folder: of the tournament.
        bench: which of several sets of questions.
        further: files of verdicts beside its own.

    Raises:
        ValueError: no such folder, or a file in it that can't be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; leave --tournament out for a report without one")
    verdicts = _verdicts([path for path in (judged_file(folder), *further) if path in further or path.is_file()], bench)
    recorded = recorded_judges(folder)
    named = list(dict.fromkeys(verdict.judge for verdict in verdicts if verdict.judge)) or list(recorded)
    judgments, ratings = recorded_judgments(folder), read_ratings(folder / RATINGS_FILE)
    return Tournament(
        folder=folder,
        verdicts=verdicts,
        ratings=ratings,
        flagged=recorded_flags(judgments),
        judges=tuple(Judge(name=name, settings=recorded.get(name, {})) for name in named),
        judgments={(judge, j.question_id, j.system_a, j.system_b): j for judge, j in judgments},
        votes=_votes(ratings),
    )


def load_answer_files(
    paths: Sequence[Path], places: Mapping[str, str] = MappingProxyType({})
) -> dict[str, tuple[Answer, ...]]:
    """System -> its answers, of files of any known kind, the turns of a dialogue as one; `places` of `read_answers`.

    Raises:
        ValueError: a row that isn't an answer, named by line; or a file holds none.
    """
    by_system: dict[str, list[Answer]] = {}
    for path in paths:
        answers = read_answers(path, places=places)
        if not answers:
            raise ValueError(f"{path}: holds no answers; leave the file out")
        for answer in answers:
            by_system.setdefault(answer.system, []).append(answer)
    return {system: tuple(_dialogues(answers)) for system, answers in by_system.items()}


def _votes(ratings: dict[str, Any] | None) -> tuple[Verdict, ...]:
    """The votes that the ratings were corrected by, as far as their files are still there."""
    named = ((ratings or {}).get("settings") or {}).get("people") or ()
    return _verdicts([path for name in named if (path := Path(name)).is_file()], None)


def _answers(path: Path) -> list[Answer]:
    """The answers of a file; the turns of a dialogue as one."""
    return _dialogues(read_answers(path))


def _dialogues(answers: Sequence[Answer]) -> list[Answer]:
    by_question: dict[str, dict[int, Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.turn):
        by_question.setdefault(answer.question_id, {})[answer.turn] = answer
    return [_joined(list(turns.values())) for turns in by_question.values()]


def _joined(turns: Sequence[Answer]) -> Answer:
    if len(turns) == 1:
        return turns[0]
    known = [turn.num_tokens for turn in turns if turn.num_tokens is not None]
    return replace(
        turns[-1],
        question=join_turns(turn.question for turn in turns),
        answer=join_turns(turn.answer for turn in turns),
        num_tokens=sum(known) if len(known) == len(turns) else None,
        turn=0,
    )


def _mmlu(path: Path) -> Mmlu | None:
    if not path.is_file():
        return None
    found = read_typed(path, MmluFile, "score the run again with `python -m eval mmlu`")
    return Mmlu(
        macro=Estimate.of(found["accuracy_macro"], found["accuracy_macro_ci95"]),
        micro=Estimate.of(found["accuracy_micro"], found["accuracy_micro_ci95"]),
        num_questions=found["n"],
        num_subjects=found["num_subjects"],
        num_truncated_prompts=found["num_truncated_prompts"],
        protocol=found["protocol"],
        split_name=found["split_name"],
        num_shots=found["num_shots"],
        settings_sha256=found["settings_sha256"],
        subjects={name: (score["accuracy"], score["n"]) for name, score in found["per_subject"].items()},
    )


def _verdicts(paths: Sequence[Path], bench: str | None) -> tuple[Verdict, ...]:
    """The verdicts of a tournament; none where it has no file, or nothing was judged."""
    if not paths:
        return ()
    rows = load_judged(paths, bench, may_be_empty=True)
    return tuple(
        Verdict(
            question_id=rows.question.values[question],
            first=rows.system_names[first],
            second=rows.system_names[second],
            verdict=int(verdict),
            judge=rows.judge.values[judge],
        )
        for question, first, second, verdict, judge in zip(
            rows.question.codes, rows.first, rows.second, rows.verdict, rows.judge.codes, strict=True
        )
    )

"""Reads multiple-choice questions: those of this project, a file, a folder of CSVs or the hub.

    load_questions("embedded", Role.questions)     # a few subjects that this project ships
    load_questions("val.jsonl", Role.questions)    # rows of subject, question, choices[4], answer 0-3
    load_questions("data/test", Role.questions)    # hendrycks' CSVs, <subject>_test.csv
    load_questions("hub:validation", Role.questions)   # cais/mmlu

Source: MMLU (arXiv 2009.03300); the CSV layout is that of hendrycks/test.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from harness.data.source import EMBEDDED_FOLDER

NUM_CHOICES = 4
LETTERS = "ABCD"
HUB_ID = "cais/mmlu"
HUB = "hub:"  # and a split's name
_EMBEDDED = EMBEDDED_FOLDER


class Role(Enum):
    """Whether a set holds questions or examples; the value names the embedded file."""

    questions = "mmlu_questions"
    shots = "mmlu_shots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with four choices and the index of the right one."""

    subject: str  # with underscores: high_school_physics
    question: str
    choices: tuple[str, str, str, str]
    answer: int  # 0 to 3


def load_questions(where: str, role: Role) -> list[Question]:
    """Reads and checks a set of questions.

    Args:
        where: "embedded", "hub:<split>", a .jsonl or .csv file, or a folder of CSVs.
        role: which of the embedded files, where they are asked for.

    Raises:
        ValueError: nothing there, no rows, or a row that isn't a question; names the file, the line and the field.
    """
    if where.startswith(HUB):
        rows = _hub_rows(where.removeprefix(HUB))
    else:
        files = question_files(where, role)
        if not files:
            raise ValueError(
                f"{where}: no such file, and no folder with *.csv; give a .jsonl or .csv file, or 'embedded'"
            )
        rows = (row for file in files for row in (_csv_rows(file) if file.suffix == ".csv" else _jsonl_rows(file)))
    questions = [parse_question(row, place) for place, row in rows]
    if not questions:
        raise ValueError(f"{where}: holds no questions")
    return questions


def question_files(where: str, role: Role) -> list[Path]:
    """The files that `load_questions` reads, in order; none where nothing is there, or for the hub."""
    if where.startswith(HUB):
        return []
    path = _EMBEDDED / f"{role.value}.jsonl" if where == "embedded" else Path(where)
    return sorted(path.glob("*.csv")) if path.is_dir() else [path] * path.is_file()


def choose_shots(
    questions: Sequence[Question], pool: Sequence[Question], num_shots: int, asked_of: str, shots_of: str
) -> dict[str, tuple[Question, ...]]:
    """-> {subject: its first `num_shots` examples}, for the subjects of the questions

    Args:
        asked_of: where the questions come from, for the message.
        shots_of: where the examples come from.

    Raises:
        ValueError: a subject has fewer examples.
    """
    chosen: dict[str, tuple[Question, ...]] = {}
    for subject in dict.fromkeys(question.subject for question in questions):
        shots = [shot for shot in pool if shot.subject == subject][:num_shots]
        if len(shots) < num_shots:
            raise ValueError(
                f"{shots_of}: subject {subject} of {asked_of} has {len(shots)} examples; "
                f"num_shots={num_shots} wants that many. Add examples or lower num_shots"
            )
        chosen[subject] = tuple(shots)
    return chosen


def parse_question(row: Any, place: str) -> Question:
    """Makes a question of a row's plain values. `place` (file and line) begins each error."""
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object with subject, question, choices, answer")
    for field in ("subject", "question"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"{place}: {field} is {row.get(field)!r}; expected text")
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"{place}: choices is {choices!r}; expected a list of {NUM_CHOICES} texts")
    if len(choices) != NUM_CHOICES:
        raise ValueError(f"{place}: choices has {len(choices)} entries; expected {NUM_CHOICES}")
    answer = row.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < NUM_CHOICES:
        raise ValueError(
            f"{place}: answer is {answer!r}; expected 0 to {NUM_CHOICES - 1}, the place of the right choice"
        )
    a, b, c, d = choices
    return Question(subject=row["subject"], question=row["question"], choices=(a, b, c, d), answer=answer)


def select(questions: Sequence[Question], limit: int | None, limit_per_subject: int | None) -> list[int]:
    """-> indices of the questions to ask: the first `limit_per_subject` of each subject, at most `limit` in all."""
    kept, seen = [], dict.fromkeys((question.subject for question in questions), 0)
    for index, question in enumerate(questions):
        seen[question.subject] += 1
        if limit_per_subject is None or seen[question.subject] <= limit_per_subject:
            kept.append(index)
    return kept if limit is None else kept[:limit]


def content_sha256(questions: Sequence[Question]) -> str:
    """A digest of the questions' content, whatever file they came from."""
    text = json.dumps([asdict(question) for question in questions], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error.msg}); expected one object a line"
                ) from error
            yield f"{path}, line {number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """question, four choices, letter; no header; the subject is in the file's name. Text is taken as written."""
    subject = path.stem
    for split in ("_test", "_val", "_dev"):
        subject = subject.removesuffix(split)
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if len(row) != NUM_CHOICES + 2:
                raise ValueError(f"{place}: {len(row)} columns; expected question, {NUM_CHOICES} choices, letter")
            letter = row[-1].strip()
            if len(letter) != 1 or letter not in LETTERS:
                raise ValueError(f"{place}: the answer is {row[-1]!r}; expected one of {', '.join(LETTERS)}")
            yield place, {"subject": subject, "question": row[0], "choices": row[1:5], "answer": LETTERS.index(letter)}


def _hub_rows(split: str) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    for number, row in enumerate(load_dataset(HUB_ID, "all", split=split)):
        yield f"{HUB_ID} {split}, row {number}", dict(row)

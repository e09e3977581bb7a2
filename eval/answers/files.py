"""Where do answers lie, and which settings are they tied to? No torch: judging reads them too.

`<bench>.jsonl` holds a row an answer, appended as it comes; `<bench>.settings.json` beside it what decided
them: sampling settings, a digest of the model, a digest of each question. Answers made otherwise are
refused, never mixed; more questions may be asked later.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.answers.questions import identifier, text_field
from harness.files.atomic import append_jsonl, read_jsonl, to_json, write_atomically, write_json
from harness.runs.record import load_record

Answers = dict[str, dict[str, str]]  # system -> question_id -> text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, as it is stored."""

    question_id: str
    system: str
    question: str  # the last user turn
    answer: str
    num_tokens: int  # generated, stop text included
    finish_reason: str  # eos, stop, length
    seed: int
    turn: int = 0


@dataclass(slots=True)
class AnswerFile:
    """A system's answers on disk: opened, checked against the settings, appended to."""

    path: Path
    answers: dict[tuple[str, int], Answer]  # by question_id and turn

    @classmethod
    def open(cls, path: Path, system: str, wanted: dict[str, Any], fresh: bool) -> "AnswerFile":
        """Opens or begins a file.

        Args:
            path: `<bench>.jsonl`.
            system: whose answers; stored ones under a former name of the same run are renamed.
            wanted: `settings` (plain values), `model_sha256`, `questions` (id -> digest) of the answers to come.
            fresh: throw away answers that were made otherwise instead of refusing.

        Raises:
            ValueError: stored answers were made otherwise; says in what.
        """
        beside = path.with_suffix(".settings.json")
        stored = json.loads(beside.read_text()) if path.is_file() and beside.is_file() else None
        if path.is_file() and (difference := _difference(stored, wanted)):
            if not fresh:
                raise ValueError(
                    f"{path}: holds answers made otherwise ({difference}); say --fresh to throw them away, "
                    f"or give this benchmark another name"
                )
            path.unlink()
            stored = None
        known = {**stored["questions"], **wanted["questions"]} if stored else wanted["questions"]
        write_json(beside, {**wanted, "questions": known})
        rows = read_answers(path) if path.is_file() else []
        if any(row.system != system for row in rows):
            rows = [replace(row, system=system) for row in rows]
            write_atomically(path, "".join(to_json(asdict(row), where=str(path)) + "\n" for row in rows))
        return cls(path, {(row.question_id, row.turn): row for row in rows})

    def add(self, answer: Answer) -> None:
        """Stores one answer, on disk first."""
        append_jsonl(self.path, answer)
        self.answers[answer.question_id, answer.turn] = answer


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, in the order in which they came.

    Raises:
        ValueError: a row that isn't an answer.
        FileNotFoundError: there is no such file.
    """
    answers = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            answers.append(Answer(**row))
        except TypeError as error:
            raise ValueError(
                f"{path}, row {number}: not an answer ({error}); expected the fields of `Answer`"
            ) from error
    return answers


def _difference(stored: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """What stored answers differ in, in words; empty where they don't."""
    if stored is None:
        return "no settings are stored beside them"
    found = [key for key, value in wanted["settings"].items() if stored["settings"].get(key) != value]
    if stored["model_sha256"] != wanted["model_sha256"]:
        found.append("the model")
    changed = [key for key, digest in wanted["questions"].items() if stored["questions"].get(key, digest) != digest]
    return ", ".join(found + [f"the text of question {key}" for key in changed[:3]])


def load_answers(paths: Sequence[Path]) -> dict[tuple[str, str], str]:
    """Answers by (system, question_id).

    Raises:
        ValueError: A line is no JSON object with question_id, system and answer, or repeats an answer; named by line.
    """
    answers: dict[tuple[str, str], str] = {}
    for path in paths:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    key, text = (str(row["system"]), str(row["question_id"])), row["answer"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path} line {number}: expected question_id, system and answer ({error!r})"
                    ) from None
                if not isinstance(text, str):
                    raise ValueError(f"{path} line {number}: answer is {type(text).__name__}, expected text")
                if answers.setdefault(key, text) != text:
                    raise ValueError(f"{path} line {number}: a second, different answer of {key[0]} to {key[1]}")
    return answers


def read_contestants(paths: Iterable[Path], benchmark: str = "open", may_be_empty: bool = True) -> Answers:
    """Reads contestants' answers.

    Args:
        paths: answer files (jsonl with `question_id`, `system`, `answer`; several systems may share one),
            or run folders, of which `answers/<benchmark>.jsonl` is read, under the name in `record.json`: rows
            keep the one that the run had when it answered.
        benchmark: which answers of a run folder.
        may_be_empty: take a row whose answer is empty; people are not asked to compare nothing.

    Raises:
        ValueError: a file is missing or empty, or a row can't be an answer; a system answers one question twice.
    """
    answers: Answers = {}
    origins: dict[tuple[str, str], str] = {}
    for path in paths:
        file = path / "answers" / f"{benchmark}.jsonl" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{file}: no such answer file; make it with `python -m eval generate`")
        record = load_record(path) if path.is_dir() else None
        entries = read_jsonl(file)
        if not entries:
            raise ValueError(
                f"{file}: holds no answers; make them with `python -m eval generate`, or leave the file out"
            )
        for row, entry in enumerate(entries, start=1):
            where = f"{file}: row {row}"
            question_id, system = identifier(entry, where), text_field(entry, "system", where).strip()
            if record is not None:
                system = record.label
            if (system, question_id) in origins:
                raise ValueError(
                    f"{where}: {system} answers question {question_id} again, after {origins[system, question_id]}; "
                    f"give each contestant a name of its own"
                )
            origins[system, question_id] = where
            text = text_field(entry, "answer", where, may_be_empty=True)
            if not may_be_empty and not text.strip():
                raise ValueError(
                    f"{where}: the answer of {system} to question {question_id} is empty; generate it again, or allow "
                    f"empty answers (--allow-empty)"
                )
            answers.setdefault(system, {})[question_id] = text
    return answers

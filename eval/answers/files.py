"""Writes the files of answers, which are tied to their settings, and reads them and those of other projects.

`<bench>.jsonl` holds a row for each answer, appended as it comes. `<bench>.settings.json` beside it holds what decided
them: sampling settings, a digest of the model, a digest of each question. Answers made otherwise are
refused, never mixed; more questions may be asked later.

`read_answers` reads these files and those of others, so that judge, people, ratings and report take the same:

  this project       question_id, system, answer, turn; or turns, a list, for answer
  FastChat           question_id, model_id, choices (the turns of the first choice); before MT-Bench model_id, text
  AlpacaEval         instruction, output, generator; a question is known by its text
  QLoRA's authors    generation_truncated, else generation; a file is a system, named as the file is
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval.answers.questions import OpenQuestion, identities, instruction_text, join_turns, text_field
from eval.answers.rows import PARQUET, TABLE_SUFFIXES, Row, read_rows
from harness.files.atomic import append_jsonl, to_json, write_atomically, write_json
from harness.runs.record import load_record

Answers = dict[str, dict[str, str]]  # system -> question_id -> text, the turns of a dialogue in one
Dialogues = dict[str, dict[str, tuple[str, ...]]]  # the same by turn

SYSTEMS = ("system", "model_id", "generator", "model")  # fields that name who answered
GENERATIONS = ("generation_truncated", "generation")  # of the authors' files, which name nobody
TEXTS = ("answer", *GENERATIONS, "output", "text")  # the first that a row has is its answer
KINDS = (".jsonl", ".json", PARQUET, *TABLE_SUFFIXES)
MAX_NAMED = 5  # identifiers in a note


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. What a file doesn't say is None."""

    question_id: str
    system: str
    question: str  # the last user turn; empty where the file doesn't say it
    answer: str
    num_tokens: int | None = None  # generated, stop text included
    finish_reason: str | None = None  # eos, stop, length
    seed: int | None = None
    turn: int = 0
    num_dropped_turns: int = 0  # the oldest of its dialogue, left out because the context does not hold them


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
            wanted: `settings` (plain values), `model_sha256`, `tokenizer_sha256` (chat template included), `questions`
                (id -> digest) of the answers to come.
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
        rows = read_answers(path, may_end_torn=True) if path.is_file() else []
        if any(row.system != system for row in rows):
            rows = [replace(row, system=system) for row in rows]
            write_atomically(path, "".join(to_json(asdict(row), where=str(path)) + "\n" for row in rows))
        return cls(path, {(row.question_id, row.turn): row for row in rows})

    def add(self, answer: Answer) -> None:
        """Stores one answer, on disk first."""
        append_jsonl(self.path, answer)
        self.answers[answer.question_id, answer.turn] = answer


def read_answers(
    path: Path, may_end_torn: bool = False, places: Mapping[str, str] = MappingProxyType({})
) -> list[Answer]:
    """The answers of a file of any known kind, in the order in which they stand.

    Args:
        path: the file; see `eval.answers.rows` for what it may be.
        may_end_torn: leave out a last line that a killed writer left half written.
        places: {identifier: question}, of the questions that are known; an answer gets the question of the first of its
            identifiers that is one, else its first identifier.

    Raises:
        ValueError: a row that isn't an answer; named by line.
        FileNotFoundError: there is no such file.
    """
    return [answer for row in read_rows(path, may_end_torn) for _, answer in _row_answers(row, path, places)]


def _difference(stored: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """Says how stored answers differ from the wanted ones; empty if they don't."""
    if stored is None:
        return "no settings are stored beside them"
    found = [key for key, value in wanted["settings"].items() if stored["settings"].get(key) != value]
    if stored["model_sha256"] != wanted["model_sha256"]:
        found.append("the model")
    if stored.get("tokenizer_sha256") not in (None, wanted["tokenizer_sha256"]):  # None: of an earlier version
        found.append("the tokenizer or its chat template")
    changed = [key for key, digest in wanted["questions"].items() if stored["questions"].get(key, digest) != digest]
    return ", ".join(found + [f"the text of question {key}" for key in changed[:3]])


def load_answers(paths: Sequence[Path], questions: Iterable[str] = ()) -> dict[tuple[str, str], str]:
    """Answers by (system, question_id), for length and style; `questions` are those that have verdicts.

    Raises:
        ValueError: as `read_contestants`.
    """
    dialogues = _read_dialogues(paths, "open", True, {name: name for name in questions})
    return {(system, name): join_turns(turns) for system, mine in dialogues.items() for name, turns in mine.items()}


def read_contestants(paths: Iterable[Path], benchmark: str = "open", may_be_empty: bool = True) -> Answers:
    """Reads contestants' answers.

    Args:
        paths: answer files (several systems may share one), or run folders, of which `answers/<benchmark>.jsonl` is
            read, under the name in `record.json`: rows keep the one that the run had when it answered.
        benchmark: which answers of a run folder.
        may_be_empty: take a row whose answer is empty; people are not asked to compare nothing.

    Raises:
        ValueError: a file is missing or empty, or a row can't be an answer; a system gives two answers to one
            question, or leaves out a turn before one that it has.
    """
    return {
        system: {question: join_turns(turns) for question, turns in dialogues.items()}
        for system, dialogues in _read_dialogues(paths, benchmark, may_be_empty, {}).items()
    }


def contest_dialogues(
    paths: Iterable[Path],
    questions: Sequence[OpenQuestion],
    benchmark: str = "open",
    may_be_empty: bool = True,
) -> tuple[Dialogues, list[str]]:
    """Contestants' answers to `questions`, under the questions' own identifiers. -> answers, notes on the others.

    Answers may name their question by any of its identifiers, or by its text. One that matches no question, or that
    has other turns than the question, is left out and said in a note.

    Raises:
        ValueError: as `read_contestants`.
    """
    places = question_places(questions)
    num_turns = {question.question_id: len(question.turns) for question in questions}
    answers: Dialogues = {}
    notes: list[str] = []
    for system, dialogues in _read_dialogues(paths, benchmark, may_be_empty, places).items():
        mine = answers.setdefault(system, {})
        strange, partial = [], []
        for name, turns in dialogues.items():
            if name not in num_turns:
                strange.append(name)
            elif len(turns) != num_turns[name]:
                partial.append(name)
            else:
                mine[name] = tuple(turns)
        if strange:
            notes.append(f"{system}: {len(strange)} answers match no question and are left out: {named(strange)}")
        if partial:
            notes.append(
                f"{system}: {len(partial)} answers have other turns than their question and are left out: "
                f"{named(partial)}"
            )
    return answers, notes


def missing_notes(answers: Mapping[str, Collection[str]], questions: Sequence[str]) -> list[str]:
    """Notes on questions that a contestant, or nobody, has an answer to; `answers` are {system: questions}."""
    asked = [question for question in questions if any(question in mine for mine in answers.values())]
    notes = []
    if len(asked) < len(questions):
        nobody = [question for question in questions if question not in set(asked)]
        notes.append(f"{len(nobody)} of {len(questions)} questions have no answers: {named(nobody)}")
    for system, mine in answers.items():
        if missing := [question for question in asked if question not in mine]:
            notes.append(f"{system}: no answer to {len(missing)} of {len(asked)} questions: {named(missing)}")
    return notes


def unmatched_notes(
    answers: Mapping[tuple[str, str], str], systems: Collection[str], questions: Collection[str]
) -> list[str]:
    """Notes for readers of ratings on answers and verdicts that don't belong together.

    Args:
        answers: as `load_answers` gives them.
        systems: of the verdicts.
        questions: of the verdicts.
    """
    strangers = sorted({system for system, _ in answers} - set(systems))
    silent = sorted(set(systems) - {system for system, _ in answers})
    unknown = sorted({question for _, question in answers} - set(questions))
    missing = sorted(set(questions) - {question for _, question in answers})
    lists = (
        (strangers, "systems of the answers are in no verdict"),
        (silent, "systems of the verdicts have no answers"),
        (unknown, "questions of the answers are in no verdict"),
        (missing, "questions of the verdicts have no answers"),
    )
    notes = [f"{len(names)} {what}: {named(names)}" for names, what in lists if names]
    for system in sorted(set(systems) - set(silent)):
        mine = [question for name, question in answers if name == system]
        if not set(mine) & set(questions):
            notes.append(f"{system}: none of its answers is to a question of the verdicts: {named(mine)}")
    return notes


def named(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def question_places(questions: Sequence[OpenQuestion]) -> dict[str, str]:
    """-> {identifier: question}; an alias of several questions leads to none of them."""
    owners: dict[str, set[str]] = {}
    for question in questions:
        for alias in question.aliases:
            owners.setdefault(alias, set()).add(question.question_id)
    found = {alias: next(iter(ids)) for alias, ids in owners.items() if len(ids) == 1}
    return found | {question.question_id: question.question_id for question in questions}


def _read_dialogues(
    paths: Iterable[Path], benchmark: str, may_be_empty: bool, places: Mapping[str, str]
) -> dict[str, dict[str, list[str]]]:
    """-> {system: {question_id: turns of its answer}}; `places` as of `read_answers`."""
    found: dict[tuple[str, str, int], tuple[str, str]] = {}  # (system, question, turn) -> (text, where)
    for path in paths:
        file = path / "answers" / f"{benchmark}.jsonl" if path.is_dir() else path
        if not file.is_file():
            others = sorted(other.stem for other in path.glob("answers/*.jsonl"))
            there = f"; the run has answers of {', '.join(others)}: name the file" if others else ""
            raise ValueError(f"{file}: no such answer file; make it with `python -m eval generate`{there}")
        record = load_record(path) if path.is_dir() else None
        rows = read_rows(file)
        if not rows:
            raise ValueError(
                f"{file}: holds no answers; make them with `python -m eval generate`, or leave the file out"
            )
        for where, answer in (pair for row in rows for pair in _row_answers(row, file, places)):
            system = answer.system if record is None else record.label
            if not may_be_empty and not answer.answer.strip():
                raise ValueError(
                    f"{where}: the answer of {system} to question {answer.question_id} is empty; generate it again, "
                    f"or allow empty answers (--allow-empty)"
                )
            text, first = found.setdefault((system, answer.question_id, answer.turn), (answer.answer, where))
            if first != where and (path.is_dir() or text != answer.answer):
                raise ValueError(
                    f"{where}: {system} answers question {answer.question_id} again, after {first}; "
                    f"give each contestant a name of its own, and each question one identifier"
                )
    return _in_turn(found)


def _in_turn(found: dict[tuple[str, str, int], tuple[str, str]]) -> dict[str, dict[str, list[str]]]:
    dialogues: dict[str, dict[str, list[str]]] = {}
    for system, question, turn in sorted(found):
        text, where = found[system, question, turn]
        turns = dialogues.setdefault(system, {}).setdefault(question, [])
        if turn != len(turns):
            raise ValueError(f"{where}: turn {turn} of question {question} without turn {len(turns)} (they begin at 0)")
        turns.append(text)
    order = {(system, question): None for system, question, _ in found}  # as the files have them
    return {
        name: {question: dialogues[name][question] for system, question in order if system == name}
        for name in dict.fromkeys(system for system, _ in order)
    }


def _row_answers(row: Row, path: Path, places: Mapping[str, str]) -> list[tuple[str, Answer]]:
    """The answers of a row, one for each turn, each with the row's file and line."""
    values = row.values
    names = identities(values, row.where)
    if not names:
        raise ValueError(f"{row.where}: question_id is None; expected a whole number or a text")
    system = _system(row, path)
    question = values["question"] if isinstance(values.get("question"), str) else instruction_text(values)
    if "generation" in values and isinstance(values.get("text"), str):
        question = values["text"]  # the authors' files repeat it there
    answers = []
    for turn, text in enumerate(_texts(row), start=_number(row, "turn") or 0):
        answer = Answer(
            question_id=next((places[name] for name in names if name in places), names[0]),
            system=system,
            question=question,
            answer=text,
            num_tokens=_number(row, "num_tokens"),
            finish_reason=values["finish_reason"] if isinstance(values.get("finish_reason"), str) else None,
            seed=_number(row, "seed"),
            turn=turn,
            num_dropped_turns=_number(row, "num_dropped_turns") or 0,
        )
        answers.append((row.where, answer))
    return answers


def _system(row: Row, path: Path) -> str:
    key = next((name for name in SYSTEMS if name in row.values), None)
    if key is None and any(name in row.values for name in GENERATIONS):
        return _stem(path)
    if key is None:
        raise ValueError(
            f"{row.where}: system is None; expected text that says who answered (or in {', '.join(SYSTEMS[1:])})"
        )
    return text_field(row, key).strip()


def _stem(path: Path) -> str:
    """A file's name without what says its kind; what else stands behind a dot, as in topp0.9, is a part of it."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(kind) for kind in KINDS if name.endswith(kind)), name)


def _texts(row: Row) -> list[str]:
    """The answer's turns, as the row has them."""
    if isinstance(row.values.get("turns"), list):
        return _turn_texts(row, "turns", row.values["turns"])
    if "choices" not in row.values:
        key = next((name for name in TEXTS if name in row.values), TEXTS[0])
        return [text_field(row, key, may_be_empty=True)]
    choices = row.values["choices"]
    choice = choices[0] if isinstance(choices, list) and choices else None
    turns = choice.get("turns") if isinstance(choice, dict) else None
    return _turn_texts(row, "choices", turns)


def _turn_texts(row: Row, key: str, turns: Any) -> list[str]:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        shown = str(row.values[key])[:80]
        raise ValueError(f"{row.where}: {key} is {shown!r}; expected the texts of the turns in a list")
    return turns


def _number(row: Row, key: str) -> int | None:
    """A whole number of at least 0, which a CSV writes as text; None where the row has none."""
    value = row.values.get(key)
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**64 or number % 1:
        raise ValueError(f"{row.where}: {key} is {value!r}; expected a whole number of at least 0")
    return int(number)

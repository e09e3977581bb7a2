"""Open questions: the prompts that systems answer and judges compare. No torch.

Rows are jsonl: `question_id` with `text` or `turns`, the files of the Vicuna benchmark and of OpenAssistant included.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.source import EMBEDDED_FOLDER
from harness.files.atomic import read_jsonl

ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"### (Human|Assistant):")

EMBEDDED_QUESTIONS = EMBEDDED_FOLDER / "open_prompts.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    question_id: str  # as text, whatever the file holds
    turns: tuple[str, ...]  # what the user says, turn after turn; the model answers each
    history: tuple[tuple[str, str], ...] = ()  # (role, text) before the first turn; role user or assistant
    category: str | None = None


def load_open_questions(where: str, limit: int | None = None) -> list[OpenQuestion]:
    """Reads questions from "embedded" or a .jsonl file, the first `limit` of them.

    Raises:
        ValueError: no file, no rows, a row that isn't a question, or an id twice; names file and line.
    """
    path = EMBEDDED_QUESTIONS if where == "embedded" else Path(where)
    if not path.is_file():
        raise ValueError(f"{where}: no such file; give a .jsonl file with question_id and text, or 'embedded'")
    questions: dict[str, OpenQuestion] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            question = parse_open_question(json.loads(line), place)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON ({error.msg}); expected one object a line") from error
        if question.question_id in questions:
            raise ValueError(f"{place}: question_id {question.question_id} was there before; ids must differ")
        questions[question.question_id] = question
    if not questions:
        raise ValueError(f"{path}: holds no questions")
    return list(questions.values())[:limit]


def parse_open_question(row: Any, place: str) -> OpenQuestion:
    """A row of any of the known files -> a question. `place` begins each error."""
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object with question_id and text")
    identity = row.get("question_id", row.get("parent_id"))
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise ValueError(f"{place}: question_id is {identity!r}; expected a text or a number")
    category = row.get("category") if isinstance(row.get("category"), str) else None
    if "turns" in row or "text" in row:
        turns = row["turns"] if "turns" in row else [row["text"]]
        if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
            raise ValueError(f"{place}: {'turns' if 'turns' in row else 'text'} is {turns!r}; expected text")
        return OpenQuestion(question_id=str(identity), turns=tuple(turns), category=category)
    dialogue = split_dialogue(row.get("input"))
    if not dialogue or dialogue[-1][0] != "user":
        raise ValueError(f"{place}: has neither text nor turns nor an input that ends in a ### Human: turn")
    return OpenQuestion(
        question_id=str(identity), turns=(dialogue[-1][1],), history=tuple(dialogue[:-1]), category=category
    )


def split_dialogue(text: Any) -> list[tuple[str, str]]:
    """ "### Human: a ### Assistant: b ### Human: c ### Assistant:" -> (user, a), (assistant, b), (user, c)."""
    if not isinstance(text, str):
        return []
    parts = _TURN.split(text)
    turns = [(ROLES[role], said.strip()) for role, said in zip(parts[1::2], parts[2::2], strict=True)]
    return turns[:-1] if turns and turns[-1] == ("assistant", "") else turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt of a benchmark."""

    question_id: str
    category: str  # chooses the judge's instructions: coding, math, ...; others get the general ones
    text: str


def read_questions(path: Path) -> list[Question]:
    """Reads a benchmark's questions: jsonl with `question_id`, `text` and optionally `category`.

    Raises:
        ValueError: a field is missing or of the wrong kind, or an id appears twice.
    """
    questions: dict[str, Question] = {}
    for row, entry in enumerate(read_jsonl(path), start=1):
        where = f"{path}: row {row}"
        question_id = identifier(entry, where)
        if question_id in questions:
            raise ValueError(f"{where}: question_id {question_id} appears twice; remove one of them")
        questions[question_id] = Question(
            question_id=question_id,
            category=text_field({"category": "general", **entry}, "category", where),
            text=text_field(entry, "text", where),
        )
    if not questions:
        raise ValueError(f"{path}: no questions; expected one JSON object a line with question_id, category and text")
    return list(questions.values())


def identifier(row: Mapping[str, Any], where: str) -> str:
    value = row.get("question_id")
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
        raise ValueError(f"{where}: question_id is {value!r}; expected a whole number or a text")
    return str(value).strip()


def text_field(row: Mapping[str, Any], key: str, where: str, may_be_empty: bool = False) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        raise ValueError(f"{where}: {key} is {value!r}; expected text")
    return value.encode("utf-8", "replace").decode()  # half a surrogate pair can't be hashed, stored or sent

"""Reads open questions: the prompts that systems answer and judges compare.

Files are read by `eval.answers.rows`: `question_id` with `text`, `prompt` or `turns`, Alpaca's `instruction` (with its
`input`, below it), and the dialogues of Open Assistant (`input`: "### Human: ... ### Assistant:"), the authors' own
file and the stripped one. Known files: Vicuna's benchmark, MT-Bench, AlpacaEval, Open Assistant. A question that the
file gives several identifiers is found by each of them; one that has none is known by a digest of its text.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers.rows import Row, identifier_text, read_rows
from harness.data.source import EMBEDDED_FOLDER

ROLES = {"Human": "user", "Assistant": "assistant"}
SPEAKERS = {"user": "User", "assistant": "Assistant"}
IDENTITIES = (  # the first that a row has is its name, the others find it too
    *("question_id", "parent_id", "message_id"),
    *("prompt_id", "uid", "id"),
)
TEXTS = ("text", "instruction", "question", "prompt")
NEW_CONVERSATION = "A chat between a curious human"  # the first words of the paper's system sentence
GENERAL = "general"
OPEN_ASSISTANT = "open-assistant"
_TURN = re.compile(r"### (Human|Assistant):")

EMBEDDED_QUESTIONS = EMBEDDED_FOLDER / "open_prompts.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question in the form that a model answers."""

    question_id: str  # as text, whatever the file holds
    turns: tuple[str, ...]  # what the user says, turn after turn; the model answers each
    history: tuple[tuple[str, str], ...] = ()  # (role, text) before the first turn; role user or assistant
    category: str | None = None
    references: tuple[str, ...] = ()  # correct answers, one a turn or one for all; a judge may be shown them
    aliases: tuple[str, ...] = ()  # further identifiers under which answers may name it


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question in the form that a judge reads: its dialogue in one text."""

    question_id: str
    references: tuple[str, ...] = ()  # as `OpenQuestion` has them
    category: str  # chooses the judge's instructions: coding, math, ...; others get the general ones
    text: str
    turns: tuple[str, ...] = ()  # the same by what the user says, turn after turn; the first with all that went before


def load_open_questions(where: str, limit: int | None = None) -> list[OpenQuestion]:
    """Reads questions from "embedded" or a file, the first `limit` of them.

    Raises:
        ValueError: no file, no rows, a row that isn't a question, or an id twice; names file and line.
    """
    path = EMBEDDED_QUESTIONS if where == "embedded" else Path(where)
    if not path.is_file():
        raise ValueError(f"{where}: no such file; give a .jsonl file with question_id and text, or 'embedded'")
    questions: dict[str, OpenQuestion] = {}
    for row in read_rows(path):
        question = parse_open_question(row.values, row.where)
        if question.question_id in questions:
            raise ValueError(f"{row.where}: question_id {question.question_id} was there before; ids must differ")
        questions[question.question_id] = question
    if not questions:
        raise ValueError(f"{path}: holds no questions; expected one JSON object a line with question_id and text")
    return list(questions.values())[:limit]


def parse_open_question(row: Mapping[str, Any], where: str) -> OpenQuestion:
    """Makes a question of a row of any of the known files. `where` begins each error."""
    dialogue = next(filter(None, (split_dialogue(row.get(key)) for key in ("input", "text", "prompt"))), [])
    if dialogue and dialogue[-1][0] == "user":
        turns, history, category = [dialogue[-1][1]], dialogue[:-1], OPEN_ASSISTANT
    else:
        turns, history, category = _turns(row, where), [], ""
    if isinstance(row.get("category"), str) and row["category"].strip():
        category = row["category"].strip()
    names = identities(row, where)
    if not names:
        raise ValueError(f"{where}: question_id is None; expected a text or a number (or a column id)")
    return OpenQuestion(
        question_id=names[0],
        turns=tuple(turns),
        references=_references(row, len(turns), where),
        history=tuple(history),
        category=category or None,
        aliases=tuple(dict.fromkeys((*names[1:], text_identity(turns[0])))),
    )


def shown_question(question: OpenQuestion) -> Question:
    """Turns a question into the form that a judge reads."""
    first, *later = question.turns
    if question.history:
        first = "\n\n".join(f"{SPEAKERS[role]}: {text}" for role, text in (*question.history, ("user", first)))
    turns = (first, *later)
    return Question(
        question_id=question.question_id,
        references=question.references,
        category=question.category or GENERAL,
        text=join_turns(turns),
        turns=turns,
    )


def join_turns(turns: Iterable[str]) -> str:
    """Joins the turns of one side to one text; a single turn stays as it is."""
    texts = list(turns)
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"Turn {number}:\n{text}" for number, text in enumerate(texts, start=1))


def split_dialogue(text: Any) -> list[tuple[str, str]]:
    """ "### Human: a ### Assistant: b ### Human: c ### Assistant:" -> (user, a), (assistant, b), (user, c).

    Before it may stand the paper's system sentence; a text that has the marks elsewhere is no dialogue.
    """
    if not isinstance(text, str):
        return []
    parts = _TURN.split(text)
    before = parts[0].strip()
    if before and not before.startswith(NEW_CONVERSATION):
        return []
    turns = [(ROLES[role], said.strip()) for role, said in zip(parts[1::2], parts[2::2], strict=True)]
    return turns[:-1] if turns and turns[-1] == ("assistant", "") else turns


def identities(row: Mapping[str, Any], where: str) -> list[str]:
    """All identifiers that a row of questions or answers gives to its question, the first one its name.

    Raises:
        ValueError: one of them is neither a text nor a whole number.
    """
    names = [_identifier(row[key], key, where) for key in IDENTITIES if row.get(key) is not None]
    if instruction := instruction_text(row):
        names.append(text_identity(instruction))
    return names


def instruction_text(row: Mapping[str, Any]) -> str:
    """Alpaca's instruction, and below it the input that it is about, as AlpacaEval joins them; "" without one."""
    parts = [row.get(key) for key in ("instruction", "input")]
    if not isinstance(parts[0], str) or not parts[0].strip():
        return ""
    return "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())


def text_identity(text: str) -> str:
    """The identifier of a question that has only a text; blanks at the text's ends don't count."""
    return "text-" + hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def text_field(row: Row, key: str, may_be_empty: bool = False) -> str:
    """Reads a field that has to be text.

    Raises:
        ValueError: it is missing, empty or something else; names file and line.
    """
    value = row.values.get(key)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        raise ValueError(f"{row.where}: {key} is {value!r}; expected text")
    return value


def _identifier(value: Any, key: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
        raise ValueError(f"{where}: {key} is {value!r}; expected a whole number or a text")
    return identifier_text(str(value))


def _references(row: Mapping[str, Any], num_turns: int, where: str) -> tuple[str, ...]:
    """A question's `reference`: a text, or a list of one text a turn (MT-Bench); none where it is empty."""
    value = row.get("reference")
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: reference is {str(value)[:80]!r}; expected a text, or one text a turn in a list")
    if not any(text.strip() for text in texts):
        return ()
    if len(texts) not in (1, num_turns):
        raise ValueError(
            f"{where}: reference holds {len(texts)} texts, and the question has {num_turns} turns; give one for each "
            "turn (an empty one where there is none), or one for all"
        )
    return tuple(texts)


def _turns(row: Mapping[str, Any], where: str) -> list[str]:
    text_key = next((name for name in TEXTS if name in row), None)
    key = "turns" if row.get("turns") or (text_key is None and "turns" in row) else text_key
    if key is None:
        raise ValueError(f"{where}: has neither text nor turns nor an input that ends in a ### Human: turn")
    turns = row[key] if isinstance(row[key], list) else [row[key]]
    if (key == "turns" and turns is not row[key]) or not turns:
        raise ValueError(f"{where}: turns is {row[key]!r:.80}; expected texts, those of the turns, in a list")
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError(f"{where}: {key} is {row[key]!r:.80}; expected text")
    further = row.get("input")
    if key == "instruction":
        return [instruction_text(row)]
    if isinstance(further, str) and further.strip() and further.strip() not in "\n".join(turns):
        raise ValueError(f"{where}: input is filled beside {key}, and would not be asked; write both into {key}")
    return turns

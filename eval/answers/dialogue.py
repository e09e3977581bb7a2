"""What does a model read when it is asked an open question, and which questions are there?

A tokenizer with a chat template gets its turns through it; any other model the paper's prompt, a system
sentence, then "### Human: ... ### Assistant:" on one line. Questions: the embedded ones, Vicuna's
(question_id, text), Open Assistant's (parent_id, input: the whole dialogue so far), MT-Bench's (turns).

Source: artidoro/qlora answer_prompts.py, `get_prompt_for_generation_eval`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

SYSTEM_SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN_STOP = "### Human"
_ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"### (Human|Assistant):")
_EMBEDDED = Path(__file__).resolve().parent.parent / "harness" / "embedded" / "open_prompts.jsonl"


class PromptFormat(Enum):
    auto = "auto"  # chat where the tokenizer has a template, else human
    chat = "chat"
    human = "human"


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
    path = _EMBEDDED if where == "embedded" else Path(where)
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
    turns = [(_ROLES[role], said.strip()) for role, said in zip(parts[1::2], parts[2::2], strict=True)]
    return turns[:-1] if turns and turns[-1] == ("assistant", "") else turns


def encode_dialogue(
    tokenizer: PreTrainedTokenizerBase, dialogue: Sequence[tuple[str, str]], prompt_format: PromptFormat
) -> list[int]:
    """Tokens of a dialogue whose last turn is the user's, ready for the assistant's.

    Raises:
        ValueError: format chat, and the tokenizer has no template.
    """
    has_template = tokenizer.chat_template is not None
    if prompt_format is PromptFormat.chat and not has_template:
        raise ValueError("prompt format chat: this tokenizer has no chat template; take auto or human")
    if prompt_format is PromptFormat.human or not has_template:
        return list(tokenizer.encode(human_text(dialogue)))
    turns = [{"role": role, "content": text} for role, text in dialogue]
    text = cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return list(tokenizer.encode(text, add_special_tokens=False))


def human_text(dialogue: Sequence[tuple[str, str]]) -> str:
    """The paper's prompt, on one line but for newlines in the texts."""
    names = {role: name for name, role in _ROLES.items()}
    turns = "".join(f" ### {names[role]}: {text}" for role, text in dialogue)
    return f"{SYSTEM_SENTENCE}{turns} ### Assistant:"

"""Texts that hold what a model knows, for CorDA's start that keeps it (arXiv 2406.05223, knowledge-preserved).

    texts = knowledge_texts(knowledge_file("embedded"), None)    # MMLU's questions with their answers

The paper takes questions of TriviaQA and NQ open. A row has a `text`, or a `question` with an `answer`: a text, a list
of texts of which the first is taken, TriviaQA's object with a `value`, or the number of one of its `choices`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.rows import DataError, read_file
from harness.data.source import EMBEDDED_FOLDER
from harness.files.atomic import sha256_file

KEEP_EMBEDDED = "embedded"
EMBEDDED = EMBEDDED_FOLDER / "mmlu_questions.jsonl"


def knowledge_file(keep: str) -> Path:
    """The file that `adapter.corda_keep` names: "embedded", or a path.

    Raises:
        ValueError: no such file.
    """
    path = EMBEDDED if keep == KEEP_EMBEDDED else Path(keep)
    if not path.is_file():
        raise ValueError(
            f"adapter.corda_keep={keep}: no such file; name one with a text, or a question and its answer, on each "
            "line, or say embedded"
        )
    return path


def knowledge_texts(path: Path, sha256: str | None) -> list[str]:
    """-> the text of every row

    Args:
        path: of the file.
        sha256: as the run was planned with it; None takes whatever is there.

    Raises:
        ValueError: the file has changed since, a row has no text, or there is no row at all.
    """
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise ValueError(
            f"adapter.corda_keep={path}: sha256 {found[:12]}, the run was planned with {sha256[:12]}; restore the "
            "file, or give the command again"
        )
    texts = [_text(row, path, line) for line, row in read_file(path)]
    if not texts:
        raise DataError("it has no rows", file=str(path))
    return texts


def _text(row: Mapping[str, Any], path: Path, line: int) -> str:
    if isinstance(text := row.get("text"), str) and text.strip():
        return text
    question, answer = row.get("question"), _answer(row)
    if not isinstance(question, str) or answer is None:
        raise DataError("expected a text, or a question and its answer", file=str(path), line=line)
    return f"{question.strip()} {answer}"


def _answer(row: Mapping[str, Any]) -> str | None:
    answer, choices = row.get("answer"), row.get("choices")
    if isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices):
        return str(choices[answer])
    if isinstance(answer, dict):
        answer = answer.get("value")
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    return answer if isinstance(answer, str) and answer.strip() else None

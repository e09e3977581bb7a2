"""Which format a row's columns name, which filled column a format would drop, and rows of other kinds of training."""

from typing import Any

import pytest

from harness.data.columns import UnusedColumn, detect_format, other_training, unused_column

TURNS: list[dict[str, str]] = []


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": {"text": "q", "replies": []}}, "oasst1"),
        ({"message_id": "a", "parent_id": None, "text": "q"}, "oasst1"),
        ({"message_id": "a", "parent_id": None, "text": "q", "replies": []}, "text"),
        ({"message_id": "a", "text": "q"}, "text"),
        ({"parent_id": "a", "text": "q"}, "text"),
        ({"message_id": "a", "parent_id": "b"}, None),
        ({"messages": TURNS, "prompt": "q", "completion": "a"}, "chat"),
        ({"messages": "text"}, None),
        ({"conversations": TURNS, "instruction": "q", "output": "a"}, "sharegpt"),
        ({"conversations": None, "instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "output": None}, None),
        ({"instruction": "q", "instances": TURNS}, "unnatural"),
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
        ({"prompt": "q", "completion": None}, None),
        ({"input": "q", "output": "a"}, "input_output"),
        ({"input": "q", "output": "a", "text": "t"}, "input_output"),
        ({"prompt": "q", "completion": "a", "id": 1}, "prompt_completion"),
        ({"inputs": "q", "targets": "a", "id": 1}, "flan"),
        ({"chosen": "a", "rejected": "b", "id": 1}, "hh_rlhf"),
        ({"text": "t", "label": 0, "id": 1}, "classification"),
        ({"definition": "d", "inputs": "q", "targets": "a", "id": 1}, "super_ni"),
        ({"definition": "d", "inputs": "q", "targets": "a"}, "super_ni"),
        ({"inputs": "q", "targets": "a"}, "flan"),
        ({"inputs": "q", "output": "a"}, None),
        ({"chosen": "a", "rejected": "b"}, "hh_rlhf"),
        ({"chosen": "a"}, None),
        ({"chosen": "a", "rejected": "b", "prompt": "q"}, None),
        ({"chosen": TURNS, "rejected": TURNS}, None),
        ({"text": "t", "label": 0}, "classification"),
        ({"text": "<human>: q\n<bot>: a"}, "chip2"),
        ({"text": "<bot>: a"}, "text"),
        ({"text": None}, None),
        ({"text": 3}, None),
        ({}, None),
    ],
)
def test_the_format_that_columns_name(row: dict[str, Any], format: str | None) -> None:
    assert detect_format(row) == format


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "b", "prompt": "q"}, "preference rows"),
        ({"chosen": TURNS, "rejected": TURNS}, "preference rows"),
        ({"chosen": "a", "rejected": "b"}, None),
        ({"chosen": "a", "rejected": "b", "prompt": None}, None),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired preference rows"),
        ({"prompt": "q", "completion": "a", "label": 1}, None),
        ({"prompt": "q", "completion": "a", "label": True, "id": 1}, "unpaired preference rows"),
        ({"prompt": "q", "label": True}, None),
        ({"prompt": "q", "completions": TURNS, "labels": TURNS}, "stepwise supervision"),
        ({"prompt": "q", "completions": TURNS, "labels": TURNS, "id": 1}, "stepwise supervision"),
        ({"prompt": "q", "completions": TURNS}, None),
        ({"chosen": TURNS, "rejected": TURNS, "id": 1}, "preference rows"),
        ({"prompt": "q"}, "prompts alone"),
        ({"prompt": "q", "source": None}, "prompts alone"),
        ({"prompt": "q", "source": "s"}, None),
    ],
)
def test_the_other_training_that_a_row_is_for(row: dict[str, Any], said: str | None) -> None:
    found = other_training(row)
    assert found is None if said is None else said in (found or "")


READS = {  # of the columns that hold a part of the question
    "alpaca": {"instruction", "input"},
    "input_output": {"input"},
    "longform": {"input"},
    "flan": {"input"},
    "chat": {"system", "system_prompt", "tools"},
    "sharegpt": {"system", "system_prompt", "tools"},
    "prompt_completion": {"system", "system_prompt", "tools"},
    "unnatural": {"instruction"},
    "unnatural_reformulations": {"instruction"},
    "text": set(),
    "oasst1": set(),
}
OF_THE_QUESTION = ("instruction", "input", "context", "history", "system", "system_prompt", "tools", "functions")


@pytest.mark.parametrize("format", READS)
@pytest.mark.parametrize("column", [*OF_THE_QUESTION, "documents"])
def test_a_filled_column_of_the_question_is_read_or_named(format: str, column: str) -> None:
    found = unused_column({"id": 1, column: "x"}, format)
    assert found == (None if column in READS[format] else UnusedColumn(column, ""))
    for empty in (None, "", [], {}, "  "):
        assert unused_column({column: empty}, format) is None
    assert unused_column({column: "x"}, format, ignored=[column]) is None


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        ({"Input": "x"}, "alpaca", UnusedColumn("Input", " to 'input'")),
        ({"\ufeffinput ": "x"}, "alpaca", UnusedColumn("\ufeffinput ", " to 'input'")),
        ({"System": "x"}, "alpaca", UnusedColumn("System", "")),
        ({"prompt": "x"}, "hh_rlhf", UnusedColumn("prompt", "")),
        ({"prompt": "x"}, "oasst1", None),
        ({"definition": "x"}, "flan", UnusedColumn("definition", "")),
        ({"definition": "x"}, "super_ni", None),
        ({"label": 0}, "text", UnusedColumn("label", "")),
        ({"label": False}, "prompt_completion", UnusedColumn("label", "")),
        ({"label": 0}, "classification", None),
        ({"source": "x", "context": "y", "system": "z"}, "alpaca", UnusedColumn("context", "")),
        ({"context": "", "system": "z"}, "alpaca", UnusedColumn("system", "")),
        ({"prompt": "q", "completion": "a", "tools": "t"}, "prompt_completion", UnusedColumn("tools", "")),
        ({"prompt": "q", "completion": "a", "tools": []}, "prompt_completion", None),
        ({"prompt": TURNS, "completion": "a", "tools": "t"}, "prompt_completion", None),
        ({"prompt": "q", "completion": TURNS, "system": "t"}, "prompt_completion", None),
        ({"prompt": "q", "completion": "a", "system": "t"}, "chat", None),
    ],
)
def test_columns_by_their_spelling_and_their_format(
    row: dict[str, Any], format: str, expected: UnusedColumn | None
) -> None:
    assert unused_column(row, format) == expected

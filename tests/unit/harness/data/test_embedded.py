"""Are the data files that the package ships well formed, balanced, free of repetition and right in their sums?

Run: pytest tests/unit/harness/data/test_embedded.py
Source of the fields: MMLU (arXiv 2009.03300) for the questions, Alpaca's instruction rows for the datasets.
"""

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from importlib.resources import files
from typing import Any

import pytest

Row = dict[str, Any]

INSTRUCTION_SETS = ("concise", "stepwise")
QUESTION_SETS = ("mmlu_questions", "mmlu_shots")
NUM_SUBJECTS = 10
NUM_QUESTIONS = 14
NUM_SHOTS = 5

NUMBER = r"\d+(?:\.\d+)?"
EQUATION = re.compile(rf"(?<![\d.,\w])({NUMBER}(?: [-+*/] {NUMBER})+) = ({NUMBER})(?!\w)")
SPELLED_SUM = re.compile(rf"What is ({NUMBER}) (plus|minus|times|divided by) ({NUMBER})\?")
SPELLED_PERCENT = re.compile(rf"What is ({NUMBER}) percent of ({NUMBER})\?")
SPELLED_SIGNS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def load(name: str) -> list[Row]:
    """All rows of one shipped file; a blank line is an error."""
    text = (files("harness.data.embedded") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def exact_value(expression: str) -> Fraction:
    """The value of a sum such as `3 * 4 - 0.5`, without the rounding of floats."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant), f"not a number: {ast.dump(node)}"
        return Fraction(str(node.value))

    return walk(ast.parse(expression, mode="eval").body)


def wrong_equations(text: str) -> list[str]:
    return [m[0] for m in EQUATION.finditer(text) if exact_value(m[1]) != Fraction(m[2])]


def numbers_in(text: str) -> set[Fraction]:
    return {Fraction(number) for number in re.findall(NUMBER, text)}


def spelled_value(question: str) -> Fraction | None:
    """The result that a plainly worded sum asks for; None where the question is no such sum."""
    if m := SPELLED_SUM.fullmatch(question):
        return exact_value(f"{m[1]} {SPELLED_SIGNS[m[2]]} {m[3]}")
    if m := SPELLED_PERCENT.fullmatch(question):
        return Fraction(m[1]) * Fraction(m[2]) / 100
    return None


def folded(text: str) -> str:
    """Letters and digits only matter: two texts that differ in case, spaces or final marks are the same."""
    return " ".join(text.casefold().split()).rstrip(".?!: ")


def by_subject(name: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in load(name):
        groups.setdefault(row["subject"], []).append(row)
    return groups


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_instruction_rows_have_their_fields(name: str) -> None:
    rows = load(name)
    assert len(rows) >= 160
    for row in rows:
        assert list(row) == ["instruction", "input", "output"], row
        assert all(isinstance(value, str) and value == value.strip() for value in row.values()), row
        assert row["instruction"], row


@pytest.mark.parametrize(("name", "low", "high"), [("concise", 5, 35), ("stepwise", 25, 70)])
def test_outputs_keep_their_length(name: str, low: int, high: int) -> None:
    outside = {row["output"]: n for row in load(name) if not low <= (n := len(row["output"].split())) <= high}
    assert not outside


def test_outputs_do_not_repeat() -> None:
    counts = Counter(folded(row["output"]) for name in INSTRUCTION_SETS for row in load(name))
    assert [text for text, n in counts.items() if n > 1] == []


def test_stepwise_numbers_its_steps_and_closes() -> None:
    for row in load("stepwise"):
        *steps, closing = row["output"].split("\n")
        assert len(steps) >= 2, row
        assert all(step.startswith(f"{i}. ") for i, step in enumerate(steps, start=1)), row
        assert re.match(r"(Answer|In short): \S", closing), row


def test_concise_has_no_steps() -> None:
    for row in load("concise"):
        assert "\n" not in row["output"], row
        assert not re.match(r"1\. |Answer:|In short:", row["output"]), row


@pytest.mark.parametrize("name", QUESTION_SETS)
def test_questions_have_their_fields(name: str) -> None:
    for row in load(name):
        assert list(row) == ["subject", "question", "choices", "answer"], row
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row["subject"]), row
        assert isinstance(row["question"], str), row
        assert 0 < len(row["question"].split()) <= 30, row
        assert isinstance(row["choices"], list), row
        assert all(isinstance(choice, str) and choice for choice in row["choices"]), row
        assert type(row["answer"]) is int, row
        assert row["answer"] in range(4), row


@pytest.mark.parametrize("name", QUESTION_SETS)
def test_choices_are_four_and_distinct(name: str) -> None:
    for row in load(name):
        assert len(row["choices"]) == 4, row
        # Folding keeps apostrophes, so that "the dog's bowls" and "the dogs' bowls" stay two choices.
        assert len({folded(choice) for choice in row["choices"]}) == 4, row


def test_subjects_and_counts() -> None:
    questions, shots = by_subject("mmlu_questions"), by_subject("mmlu_shots")
    assert len(questions) == NUM_SUBJECTS
    assert {subject: len(rows) for subject, rows in questions.items()} == dict.fromkeys(questions, NUM_QUESTIONS)
    assert {subject: len(rows) for subject, rows in shots.items()} == dict.fromkeys(questions, NUM_SHOTS)


@pytest.mark.parametrize(("name", "at_least"), [("mmlu_questions", 2), ("mmlu_shots", 1)])
def test_answers_are_balanced_in_each_subject(name: str, at_least: int) -> None:
    for subject, rows in by_subject(name).items():
        counts = Counter(row["answer"] for row in rows)
        assert min(counts[letter] for letter in range(4)) >= at_least, (subject, counts)


@pytest.mark.parametrize("pick", [max, min])
def test_length_does_not_give_the_answer_away(pick: Callable[[list[int]], int]) -> None:
    rows = load("mmlu_questions")
    hits = 0
    for row in rows:
        lengths = [len(choice) for choice in row["choices"]]
        right = lengths.pop(row["answer"])
        hits += right not in lengths and pick([right, *lengths]) == right
    assert hits / len(rows) <= 0.4


def test_open_prompts() -> None:
    rows = load("open_prompts")
    assert all(list(row) == ["question_id", "category", "text"] for row in rows)
    assert [row["question_id"] for row in rows] == list(range(1, 21))
    assert all(isinstance(row["text"], str) and 0 < len(row["text"].split()) <= 30 for row in rows)
    categories = Counter(row["category"] for row in rows)
    assert set(categories) == {
        *("generic", "knowledge", "roleplay", "common-sense", "fermi"),
        *("counterfactual", "coding", "math", "writing"),
    }
    assert min(categories.values()) >= 2


def test_nothing_is_asked_twice_in_any_file() -> None:
    instructions = [f"{row['instruction']}\n{row['input']}" for name in INSTRUCTION_SETS for row in load(name)]
    bare = [row["instruction"] for name in INSTRUCTION_SETS for row in load(name)]
    questions = [row["question"] for name in QUESTION_SETS for row in load(name)]
    prompts = [row["text"] for row in load("open_prompts")]
    for asked in (instructions + questions + prompts, bare + questions + prompts):
        counts = Counter(folded(text) for text in asked)
        assert [text for text, n in counts.items() if n > 1] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("First 2 + 2 = 5, then 7 * 8 = 56.", ["2 + 2 = 5"]),
        ("1. 4.50 / 3 = 1.50 dollars", []),
        ("0.1 + 0.2 = 0.3", []),
        ("8 / 2 / 2 = 1", ["8 / 2 / 2 = 1"]),
    ],
)
def test_equation_check_finds_wrong_sums(text: str, wrong: list[str]) -> None:
    assert wrong_equations(text) == wrong


@pytest.mark.parametrize(("name", "at_least"), [("concise", 14), ("stepwise", 80)])
def test_written_equations_hold(name: str, at_least: int) -> None:
    outputs = [row["output"] for row in load(name)]
    assert [equation for text in outputs for equation in wrong_equations(text)] == []
    assert sum(len(EQUATION.findall(text)) for text in outputs) >= at_least


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_plainly_worded_sums_state_their_result(name: str) -> None:
    values = [(row, spelled_value(row["instruction"])) for row in load(name)]
    checked = [(row, value) for row, value in values if value is not None]
    assert len(checked) >= 5
    for row, value in checked:
        last_line = row["output"].split("\n")[-1]
        assert value in numbers_in(last_line), row


def test_keyed_choice_of_a_sum_is_its_result() -> None:
    sums = [
        row for name in QUESTION_SETS for row in load(name) if re.fullmatch(r"What is [\d +*-]+\?", row["question"])
    ]
    assert len(sums) >= 3
    for row in sums:
        expected = exact_value(row["question"].removeprefix("What is ").removesuffix("?"))
        values = [Fraction(choice) for choice in row["choices"]]
        assert [i for i, value in enumerate(values) if value == expected] == [row["answer"]], row


def test_numeric_choices_differ_in_value() -> None:
    for row in (row for name in QUESTION_SETS for row in load(name)):
        if all(re.fullmatch(rf"-?{NUMBER}(/\d+)?", choice) for choice in row["choices"]):
            # A binary numeral reads as a decimal one here; what matters is that no two are equal.
            assert len({Fraction(choice) for choice in row["choices"]}) == 4, row


def test_a_subset_of_the_first_four_of_each_subject_is_balanced() -> None:
    """The demo asks four a subject: a model that always says one letter must score 25 %."""
    first: dict[str, list[int]] = {}
    for row in load("mmlu_questions"):
        first.setdefault(row["subject"], []).append(row["answer"])
    assert all(sorted(answers[:4]) == [0, 1, 2, 3] for answers in first.values())

"""Rows of questions and answers as others write them: everything filled is asked, or named in a refusal."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.answers.files import contest_dialogues, read_answers
from eval.answers.questions import load_open_questions, parse_open_question, split_dialogue, text_identity

PAPER = "A chat between a curious human and an artificial intelligence assistant. "


def test_the_input_of_an_instruction_is_asked_too(tmp_path: Path) -> None:
    rows = [{"instruction": "Translate.", "input": text} for text in ("Hallo", "Tag", "", None)]
    (tmp_path / "q.json").write_text(json.dumps(rows[:3]))
    answers = [{**row, "output": str(n), "generator": "g"} for n, row in enumerate(rows[:3])]
    (tmp_path / "a.json").write_text(json.dumps(answers))
    questions = load_open_questions(str(tmp_path / "q.json"))
    assert [question.turns for question in questions] == [
        ("Translate.\n\nHallo",),
        ("Translate.\n\nTag",),
        ("Translate.",),
    ]
    found, notes = contest_dialogues([tmp_path / "a.json"], questions)
    assert [found["g"][question.question_id] for question in questions] == [("0",), ("1",), ("2",)]
    assert notes == []
    assert read_answers(tmp_path / "a.json")[0].question == "Translate.\n\nHallo"
    assert parse_open_question(rows[3], "w").question_id == text_identity("Translate.")


@pytest.mark.parametrize("key", ["text", "question", "prompt"])
def test_an_input_beside_another_text_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"w: input is filled beside {key}, and would not be asked"):
        parse_open_question({"question_id": 1, key: "Translate.", "input": "Hallo"}, "w")
    assert parse_open_question({"question_id": 1, key: "Say: Hallo", "input": "Hallo "}, "w").turns == ("Say: Hallo",)


@pytest.mark.parametrize(
    "text", ["How does the ### Human: tag work?", "Is ### Human: a ### Assistant: b ### Human: c ok"]
)
def test_marks_within_a_question_make_no_dialogue_of_it(text: str) -> None:
    assert split_dialogue(text) == []
    question = parse_open_question({"question_id": 1, "text": text}, "w")
    assert (question.turns, question.history, question.category) == ((text,), (), None)


@pytest.mark.parametrize("key", ["input", "text", "prompt"])
def test_the_papers_sentence_may_stand_before_a_dialogue(key: str) -> None:
    dialogue = f"{PAPER}### Human: a ### Assistant: b ### Human: c ### Assistant:"
    question = parse_open_question({"question_id": 1, key: dialogue}, "w")
    assert (question.turns, question.history) == (("c",), (("user", "a"), ("assistant", "b")))


@pytest.mark.parametrize(
    ("row", "name", "turns"),
    [
        ({"id": 7, "text": "a"}, "7", ("a",)),
        ({"id": 7, "question_id": 8, "text": "a"}, "8", ("a",)),
        ({"uid": "u", "prompt": "a"}, "u", ("a",)),
        ({"prompt_id": 81, "prompt": ["a", "b"], "reference": ["r", ""]}, "81", ("a", "b")),
        ({"id": 7, "instruction": "a", "text": None}, "7", ("a",)),
    ],
)
def test_identifiers_and_texts_by_other_names(row: dict[str, Any], name: str, turns: tuple[str, ...]) -> None:
    row = {key: value for key, value in row.items() if value is not None}
    question = parse_open_question(row, "w")
    assert (question.question_id, question.turns) == (name, turns)
    assert text_identity(turns[0]) in question.aliases


def test_references_are_one_a_turn_or_one_for_all() -> None:
    row = {"question_id": 1, "turns": ["a", "b"]}
    for reference in (["r"], ["r", "s"], ["", "s"]):
        assert parse_open_question({**row, "reference": reference}, "w").references == tuple(reference)
    with pytest.raises(ValueError, match="w: reference holds 3 texts, and the question has 2 turns"):
        parse_open_question({**row, "reference": ["r", "s", "t"]}, "w")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": '["a", "b"]'}, "turns is .*; expected texts, those of the turns, in a list"),
        ({"turns": [{"content": "a"}]}, "turns is .*; expected text"),
        ({"prompt": []}, r"turns is \[\]; expected texts"),
        ({"text": {"x": "y" * 500}}, "text is .{80}; expected text"),
    ],
)
def test_turns_that_are_none(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_open_question({"question_id": 1} | row, "w")


@pytest.mark.parametrize("name", ["7b-topp0.9.jsonl", "7b-topp0.9.json", "7b-topp0.9.jsonl.gz", "7b-topp0.9.parquet"])
def test_the_authors_file_names_its_system(tmp_path: Path, name: str) -> None:
    row = {"question_id": 1, "text": "Why?", "generation": "So.", "generation_truncated": "So."}
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        text = json.dumps([row] if ".json" in name and "jsonl" not in name else row).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (answer,) = read_answers(path)
    assert (answer.system, answer.question, answer.answer) == ("7b-topp0.9", "Why?", "So.")


def test_an_answer_of_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"question_id": 1, "answer": "x"}]')
    with pytest.raises(
        ValueError, match=r"entry 1: system is None; expected text that says who answered \(or in model_id, "
    ):
        read_answers(tmp_path / "a.json")

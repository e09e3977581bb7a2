"""Rows of questions and answers as others write them: everything filled is asked, or named in a refusal."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.report.records import load_answer_files
from eval.answers.files import (
    contest_dialogues,
    load_answers,
    missing_notes,
    question_places,
    read_answers,
    unmatched_notes,
)
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


def test_questions_that_a_contestant_leaves_out_are_listed() -> None:
    asked = [str(n) for n in range(9)]
    answers = {"ann": asked[:8], "bob": ["0"], "null": asked[:8]}
    assert missing_notes(answers, asked) == [
        "1 of 9 questions have no answers: 8",
        "bob: no answer to 7 of 8 questions: 1, 2, 3, 4, 5 and 2 more",
    ]
    assert missing_notes({"ann": asked, "bob": asked}, asked) == []


def test_an_answer_finds_its_question_by_any_of_its_identifiers(tmp_path: Path) -> None:
    """The authors number their generations; the stripped questions have Open Assistant's identifiers only."""
    asked = {"parent_id": "p1", "message_id": "m1", "input": "### Human: Why? ### Assistant:"}
    (tmp_path / "q.json").write_text(json.dumps([asked]))
    (tmp_path / "7b.json").write_text(json.dumps([{**asked, "question_id": 0, "generation": "So."}]))
    (tmp_path / "gpt.json").write_text(json.dumps([{"message_id": "m1", "system": "gpt", "answer": "Because."}]))
    questions = load_open_questions(str(tmp_path / "q.json"))
    found, notes = contest_dialogues([tmp_path / "7b.json", tmp_path / "gpt.json"], questions)
    assert (found, notes) == ({"7b": {"p1": ("So.",)}, "gpt": {"p1": ("Because.",)}}, [])
    assert load_answers([tmp_path / "7b.json"]) == {("7b", "0"): "So."}
    assert load_answers([tmp_path / "7b.json"], ["p1", "p2"]) == {("7b", "p1"): "So."}
    known = load_answer_files([tmp_path / "7b.json", tmp_path / "gpt.json"], question_places(questions))
    assert [(name, answer.question_id) for name, (answer,) in known.items()] == [("7b", "p1"), ("gpt", "p1")]
    instruction = {"instruction": "Why?", "output": "So.", "generator": "g"}
    (tmp_path / "a.json").write_text(json.dumps([{**instruction, "id": 12}]))
    (tmp_path / "q.json").write_text(json.dumps([{"question_id": 1, "text": "Why?"}]))
    found, notes = contest_dialogues([tmp_path / "a.json"], load_open_questions(str(tmp_path / "q.json")))
    assert (found, notes) == ({"g": {"1": ("So.",)}}, [])


def test_a_system_none_of_whose_answers_has_a_verdict_is_said() -> None:
    notes = unmatched_notes({("ann", "1"): "x", ("bob", "m1"): "y"}, ["ann", "bob"], ["1"])
    assert notes[-1] == "bob: none of its answers is to a question of the verdicts: m1"


def test_an_answer_that_stands_twice_is_shown_once(tmp_path: Path) -> None:
    row = {"question_id": 1, "system": "s", "answer": "x", "turn": 0}
    (tmp_path / "a.json").write_text(json.dumps([row, row, {**row, "answer": "y", "turn": 1}]))
    ((answer,),) = load_answer_files([tmp_path / "a.json"]).values()
    assert answer.answer == "Turn 1:\nx\n\nTurn 2:\ny"


def test_a_file_without_answers_is_refused_by_the_report(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question_id,system,answer\n")
    with pytest.raises(ValueError, match=r"a\.csv: holds no answers; leave the file out"):
        load_answer_files([tmp_path / "a.csv"])

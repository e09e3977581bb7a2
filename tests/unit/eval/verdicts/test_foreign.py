"""Verdicts in other projects' JSON, and tables that are written otherwise: who won, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.verdicts.columns import VerdictError, place_of, read_columns
from eval.verdicts.table import Verdicts, load_verdicts, to_matches

ARENA = {"question_id": 1, "model_a": " x ", "model_b": "y"}
ALPACA = {"instruction": "Why?", "generator_1": "x", "generator_2": "y", "annotator": "gpt"}


def read(folder: Path, *rows: dict[str, Any]) -> Verdicts:
    path = folder / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_verdicts([path])


@pytest.mark.parametrize(
    ("preference", "verdict"),
    [(1, 1), (1.49, 1), (1.5, 3), (0, 3), (1.51, 2), ("2", 2), (None, -1), ("", -1), (float("nan"), -1)],
)
def test_alpaca_evals_preferences(tmp_path: Path, preference: Any, verdict: int) -> None:
    found = read(tmp_path, ALPACA | {"preference": preference})
    assert found.verdict.tolist() == [verdict]
    assert (found.system_names, found.judge.values, found.rater.values) == (["x", "y"], ["gpt"], [""])
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])


@pytest.mark.parametrize("preference", [0.99, 2.01, "x", [1]])
def test_a_preference_that_is_none_is_named(tmp_path: Path, preference: Any) -> None:
    with pytest.raises(VerdictError, match=r"line 1: preference is .*; expected a number from 1 to 2"):
        read(tmp_path, ALPACA | {"preference": preference})


def test_arenas_columns_of_who_won(tmp_path: Path) -> None:
    winners = (
        {"winner_model_a": int(n == 0), "winner_model_b": int(n == 1), "winner_tie": int(n == 2)} for n in (2, 1, 0)
    )
    found = read(tmp_path, *(ARENA | {"question_id": n} | won for n, won in enumerate(winners)))
    assert found.verdict.tolist() == [3, 2, 1]
    assert found.system_names == ["x", "y"], "without the blanks around a name"
    for wrong in ({"winner_model_a": 1, "winner_model_b": 1, "winner_tie": 0}, {"winner_model_a": 1}):
        with pytest.raises(VerdictError, match="line 1: verdict is None"):
            read(tmp_path, ARENA | wrong)


@pytest.mark.parametrize("name", [" ", 7, None])
def test_a_system_without_a_name_is_named(tmp_path: Path, name: Any) -> None:
    with pytest.raises(VerdictError, match=r"line 1: system_a or model_a is .*; expected text"):
        read(tmp_path, ARENA | {"model_a": name, "verdict": 1})


def test_a_bad_row_of_json_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="1 bad row: line 2: verdict 'perhaps'"):
        read(tmp_path, ARENA | {"verdict": 1}, ARENA | {"question_id": 2, "verdict": "perhaps"})


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_stands_between_the_fields(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "v.csv"
    rows = [["question_id", "system_a", "system_b", "verdict"], ["1", "y", "x", "a"], ["1", "z", "x", "b"]]
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows))
    found = load_verdicts([path])
    names = found.system_names
    assert [(names[a], names[b]) for a, b in zip(found.first, found.second, strict=True)] == [("y", "x"), ("z", "x")]
    assert found.verdict.tolist() == [1, 2]
    assert found.question.codes.tolist() == [0, 0]
    with pytest.raises(IndexError, match="no data row 2"):
        place_of(path, 2)


def test_a_file_without_rows_is_taken_where_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("question_id,system_a,system_b,verdict\n")
    assert len(load_verdicts([path], may_be_empty=True)) == 0
    (column,) = read_columns(path, ["verdict"], may_be_empty=True).values()
    assert (column.values, column.codes.dtype, len(column.codes)) == ([], np.int32, 0)


def test_a_swapped_vote_counts_for_its_system_and_a_majority_is_of_its_turn(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    header = "question_id,system_a,system_b,verdict,rater,turn\n"
    votes = "1,x,y,1,a,1\n1,y,x,2,b,1\n1,x,y,2,c,1\n1,x,y,2,a,2\n1,x,y,1,,1\n"
    path.write_text(header + votes)
    played = to_matches(load_verdicts([path]))
    assert played.turn is not None
    found = zip(played.turn.tolist(), played.first.tolist(), played.half_points.tolist(), strict=True)
    assert sorted(found) == [(1, 0, 2), (1, 0, 2), (2, 0, 0)], "one without a rater, two of three votes, one vote"


def test_the_question_that_two_benchmarks_share_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("question_id,system_a,system_b,verdict,benchmark\n1,x,y,1,vicuna\n2,x,y,1,vicuna\n2,x,y,2,mt\n")
    with pytest.raises(VerdictError, match="question 2 is in several of the benchmarks mt, vicuna"):
        load_verdicts([path])

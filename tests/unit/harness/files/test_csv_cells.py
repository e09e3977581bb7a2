"""No cell of a CSV that we write is a formula to a spreadsheet, and our readers get back what was written."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers.rows import read_rows
from eval.verdicts.table import load_verdicts
from harness.files.atomic import csv_text
from harness.files.csv_cells import neutral_cell, original_text

FORMULAS = ["=1+1", "+cmd|A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "'=1", "\uff1d1", "-", "+"]
PLAIN = ["ann", "a=b", "'tis", "", "1", "-1", "+2.50", "-.5", "-1e-05", "gpt-4"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text(text: str) -> None:
    assert neutral_cell(text) == "'" + text


@pytest.mark.parametrize("value", [*PLAIN, -1, 2.5, None, True])
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert neutral_cell(value) is value


@given(st.text(alphabet="=+-@'\t\r\n 1a.\uff1d", max_size=8))
def test_the_original_text_comes_back(text: str) -> None:
    assert original_text(neutral_cell(text)) == text


def test_our_readers_read_back_what_was_written(tmp_path: Path) -> None:
    rows = [("-q", "=a", "'@b", -1, "+j"), ("-1", "=a", "'@b", 1, "+j")]
    text = csv_text(("question_id", "system_a", "system_b", "verdict", "judge"), rows)
    cells = [cell for row in list(csv.reader(io.StringIO(text)))[1:] for cell in row]
    assert cells == ["'-q", "'=a", "''@b", "-1", "'+j", "-1", "'=a", "''@b", "1", "'+j"]
    path = tmp_path / "verdicts.csv"
    path.write_text(text)
    verdicts = load_verdicts([path])
    assert verdicts.system_names == ["'@b", "=a"]
    assert verdicts.question.values == ["-q", "-1"]
    assert verdicts.judge.values == ["+j"]
    assert [row.values["system_b"] for row in read_rows(path)] == ["'@b", "'@b"]

"""How a table of the paper is laid out, from cells made by hand."""

from dataclasses import replace
from typing import Any

import pytest
from rich.text import Text

from analysis.paper.tables import Cell, Reproduction, Status
from analysis.paper.text import sections, to_csv, to_html, to_terminal
from harness.console import TextTable


def cell(row: str, column: str, ours: float | None, status: Status, **changes: Any) -> Cell:
    values: dict[str, Any] = {"setting": "", "paper": 38.0, "where": "V", **changes}
    return Cell(row=row, column=column, ours=ours, status=status, **values)


FOUND = Reproduction(
    table="10",
    caption="a caption",
    citation="a paper",
    cells=(
        cell("one", "Chip2", 38.04, Status.reproduces, low=37.0, high=39.26),
        cell("one", "Alpaca", 40.5, Status.differs),
        cell("two", "Chip2", None, Status.not_run, reason="no run", note="odd"),
    ),
    settings=(),
    sources=("two runs",),
    missing=("a sweep",),
)


def test_names_stand_left_numbers_right_and_words_are_wrapped() -> None:
    caption, *shown = to_terminal(FOUND).renderables
    assert isinstance(caption, Text)
    assert (caption.plain, caption.style) == ("Table 10: a caption", "bold")
    (table,) = [part for part in shown if isinstance(part, TextTable)]
    assert table.columns == ("row", "column", "paper", "ours", "95\u00a0%", "reads")
    assert table.numbers == ("column", "paper", "ours", "95\u00a0%")
    assert table.prose == ("reads",)
    lines = [part.plain for part in shown if isinstance(part, Text)]
    assert lines[0] == "cells: 1 reproduces, 1 differs, 1 not run"
    assert "not run: Chip2: no run" in lines
    assert "two Chip2: odd" in lines


def test_a_row_is_named_once_and_differences_have_a_sign() -> None:
    (section,) = sections(FOUND)
    assert section.rows == (
        ("one", "Chip2", "38.0", "38.0", "37.0 to 39.3", "reproduces"),
        ("", "Alpaca", "38.0", "40.5", "-", "differs by +2.5"),
        ("two", "Chip2", "38.0", "-", "-", "not run"),
    )


def test_a_page_fits_a_phone_and_its_tables_can_be_scrolled_by_keys() -> None:
    page = to_html(FOUND)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count('<div role="group" tabindex="0" aria-label="The paper') == page.count("<table>") == 1


def test_a_line_of_the_csv_has_every_field() -> None:
    header, first, _, last = to_csv(FOUND).splitlines()
    assert header == "table,row,column,setting,paper,ours,difference,low,high,status,reason,note,paper_source"
    assert first == "10,one,Chip2,,38.0,38.04,0.04,37.00,39.26,reproduces,,,V"
    assert last == "10,two,Chip2,,38.0,,,,,not run,no run,odd,V"


@pytest.mark.parametrize(
    ("paper", "ours", "words"),
    [(41, 36.06, "differs by \u22124.9"), (39.28, 40.5, "differs by +1.22"), (66, 66.01, "differs by +0.01")],
)
def test_a_difference_has_the_printed_decimals(paper: float, ours: float, words: str) -> None:
    made = replace(FOUND, cells=(cell("one", "x", ours, Status.differs, paper=paper),))
    assert sections(made)[0].rows[0][-1] == words

"""The paper's values are those that were read from it, each with its sources: a slip of a digit is noticed.

tests/golden/paper_values.csv is `python -m tests.unit.analysis.paper.test_values`; look at what it changes.
"""

from pathlib import Path

import pytest

from analysis.paper.values import TABLES, cells, value
from harness.files.atomic import csv_text

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "paper_values.csv"


def printed() -> str:
    """Every cell of every table: a line each."""
    rows = [
        (cell.table, cell.row, cell.column, cell.value, cell.where, (cell.note or "")[:40])
        for table in TABLES
        for cell in cells(table)
    ]
    return csv_text(("table", "row", "column", "value", "where", "note"), rows)


def test_every_value_is_the_one_that_was_read() -> None:
    assert printed().splitlines() == GOLDEN.read_text().splitlines()


def test_a_cell_is_found_by_its_names_and_what_is_not_printed_is_said() -> None:
    assert value("1", "guanaco-65b", "elo_gpt4_vicuna") == 1022
    assert value("9", "7B All", "source_len") == 384
    with pytest.raises(KeyError, match=r"table '12': there are 1, 2, 3"):
        value("12", "a", "b")
    for row, column in (("nobody", "memory_gb"), ("bard", "weight")):
        with pytest.raises(KeyError, match=rf"table 1 has no '{row}' / '{column}'; rows \['gpt-4'"):
            value("1", row, column)
    with pytest.raises(KeyError, match="table 1 prints nothing at 'bard' / 'memory_gb'"):
        value("1", "bard", "memory_gb")


def test_the_sources_of_a_cell_are_its_own_before_its_rows_and_its_columns() -> None:
    assert [TABLES["1"].where_of("bard", column) for column in TABLES["1"].columns] == ["PHD", "PH", "PH"]
    assert TABLES["3"].where_of("BF16 replication", "T5-80M Super-NI RougeL") == "P"
    assert TABLES["6"].where_of("open-assistant-33b", "mean_pct") == "P"


if __name__ == "__main__":
    GOLDEN.write_text(printed())

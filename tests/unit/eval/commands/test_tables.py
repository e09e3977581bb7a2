"""What `eval rate` and `eval agree` print of a result, to the last character (tests/golden/tables)."""

from eval.commands.rate import interval
from tests.golden.tables.cases import HERE, tables


def test_tables_are_printed_as_recorded() -> None:
    found = {f"{name}.txt": text for name, text in tables()}
    assert sorted(found) == sorted(path.name for path in HERE.glob("*.txt"))
    for name, text in found.items():
        assert text.splitlines() == (HERE / name).read_text().splitlines(), name


def test_an_interval_has_both_its_ends() -> None:
    assert [interval(*ends) for ends in ((1.0, 2.0), (None, 2.0), (1.0, None))] == ["1 to 2", "-", "-"]
    assert interval(0.25, 0.75, 2) == "0.25 to 0.75"

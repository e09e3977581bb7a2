"""Limits of a row, kinds of file, and reading on after a row that can't be read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.data.rows import DataError, read_file, require_known_kind, suffix_of


def write(path: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def rows(path: Path, **options: Any) -> list[Any]:
    return [row for _, row in read_file(path, **options)]


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_file(path))
    return caught.value


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.JSONL", ".jsonl"), ("a.b.csv", ".csv"), ("a.JSON.GZ", ".json.gz"), ("a.gz", ".gz"), ("a", "")],
)
def test_the_suffix_of_a_file(name: str, suffix: str) -> None:
    assert suffix_of(Path(name)) == suffix


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.zip", "unpack it first, or pack it as .gz"),
        ("a.ODS", "save the sheet as CSV in UTF-8"),
        ("a.jl", "rename it to .jsonl"),
        ("a.md", "write its documents as .jsonl"),
        ("a.pkl", "its loading may run code"),
        ("a.parquet.gz", None),
    ],
)
def test_a_kind_that_is_not_read_has_its_remedy(name: str, remedy: str | None) -> None:
    with pytest.raises(DataError) as caught:
        require_known_kind(Path(name))
    known = ".jsonl, .json, .csv, .tsv, .jsonl.gz, .json.gz, .csv.gz, .tsv.gz, .parquet, .arrow"
    problem = f"unknown kind of file; there are: {known}"
    assert caught.value.problem.startswith(problem)
    assert (caught.value.problem == problem) if remedy is None else f"; {remedy}" in caught.value.problem


def nested(depth: int) -> str:
    """A row whose field is a list in a list, so many deep."""
    return '{"x": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_the_limits_of_a_row(tmp_path: Path, name: str) -> None:
    whole = [nested(64), f'{{"x": [{2**64 - 1}, {-(2**64) + 1}, 1e400, true, null]}}', '{"x": {"y": "\U0001f600"}}']
    path = write(tmp_path / name, "\n".join(whole))
    assert len(rows(path)) == 3
    for odd, field, problem in (
        (nested(65), ("x" + "[0]" * 65)[:80], "nested more than 64 levels deep"),
        (f'{{"x": [1, {2**64}]}}', "x[1]", "an integer of more than 64 bits"),
        (f'{{"x": {{"y": {-(2**64)}}}}}', "x.y", "an integer of more than 64 bits"),
        ('{"x": 1' + "0" * 39 + "}", "x", "an integer of more than 64 bits"),
        ('{"x": 1' + "0" * 5000 + "}", "x", "an integer of more than 64 bits"),
        ('{"x": ["", "a\\u0000"]}', "x[1]", "holds a NUL character"),
        ('{"x": "\\u00e9\\u0000"}', "x", "holds a NUL character"),
        ('{"x": "ab\\ud83d"}', "x", "holds half of a surrogate pair at character 2"),
        ('{"x": {"a\\u0000": 1}}', "x", "a name holds a NUL"),
        ('{"a\\u0000": 1}', "'a\\x00'", "a name holds a NUL"),
        ('{"x": 1, "y": {"z": 1, "z": 2}}', "z", "two fields have this name"),
    ):
        error = refused(write(path, f'{{"x": 1}}\n{odd}'))
        assert (error.line, error.field) == (2, field)
        assert error.problem.startswith(problem)


def test_reading_goes_on_after_rows_that_are_left_out(tmp_path: Path) -> None:
    lines = ['{"x": 1}', "{", "", "3", '{"x": "\\ud83d"}', '{"x": 2}', '{"x": 3, "x": 4}', '{"x": 5}']
    for name, text, bad, kept in (
        ("x.jsonl", "\n".join(lines), [2, 4, 5, 7], [1, 2, 5]),
        ("x.jsonl.gz", "\n".join(lines), [2, 4, 5, 7], [1, 2, 5]),
        ("x.json", '[{"x": 1},\n3,\n{"x": "\\u0000"},\n{"x": 2}]', [2, 3], [1, 2]),
        ("x.json", '{"rows": [{"x": 1}, {"x": "\\u0000"}, {"x": 2}]}', [1], [1, 2]),
        ("x.csv", "x\n1\n2,3\n\n4\n", [3], ["1", "4"]),
    ):
        seen: list[DataError] = []
        found = rows(write(tmp_path / name, text), on_bad_row=seen.append)
        assert [row["x"] for row in found] == kept
        assert [error.line for error in seen] == bad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", []),
        ("[]", []),
        ("\ufeff[\n]\n ", []),
        ('{"x": 1}', [(1, {"x": 1})]),
        ('\n{"x": 1},\n\n{"x": 2}', [(2, {"x": 1}), (4, {"x": 2})]),
        ('[\n{"x":\n1}, {"x": 2},\n{"x": 3}\n]', [(2, {"x": 1}), (3, {"x": 2}), (4, {"x": 3})]),
        ('{"n": 1, "train": [{"x": 1}]}', [(1, {"x": 1})]),
        ('{"data": [1]}', [(1, {"data": [1]})]),
        ('{"data": []}', []),
        ('{"data": [{"x": 1}], "rows": [{"x": 2}]}', [(1, {"data": [{"x": 1}], "rows": [{"x": 2}]})]),
        ('{"messages": [{"x": 1}]}', [(1, {"messages": [{"x": 1}]})]),
    ],
)
def test_json_of_every_form(tmp_path: Path, text: str, expected: list[Any]) -> None:
    for name in ("x.json", "x.json.gz"):
        assert list(read_file(write(tmp_path / name, text))) == expected


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[{"x": 1}] x', 1, "text after the array's end"),
        ('[{"x": 1}\n]\n{}', 2, "text after the array's end"),
        ('[\n{"x": 1}\n', 3, "broken JSON"),
        ('{"x": 1}\n{"x":\n?}', 3, "broken JSON"),
        ('\n{"data": [{"x": 1}], "meta": [2]}', 2, "rows may be in 'data' and in 'meta': keep one"),
    ],
)
def test_broken_json_names_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    error = refused(write(tmp_path / "x.json", text))
    assert error.line == line
    assert error.problem.startswith(problem)


def test_json_is_read_in_chunks_that_at_least_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a long value costs linear time: a value of n chunks is looked at about log2(n) times."""
    monkeypatch.setattr("harness.data.rows._CHUNK_CHARACTERS", 8)
    looked = 0
    decode = json.JSONDecoder.raw_decode

    def count(self: json.JSONDecoder, text: str, at: int = 0) -> Any:
        nonlocal looked
        looked += 1
        return decode(self, text, at)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", count)
    assert rows(write(tmp_path / "x.json", json.dumps({"x": "y" * 4000}))) == [{"x": "y" * 4000}]
    assert looked <= 13


def test_broken_packages_are_named(tmp_path: Path) -> None:
    for name in ("x.jsonl.gz", "x.json.gz"):
        path = write(tmp_path / name, '{"x": 1}\n' * 100)
        path.write_bytes(path.read_bytes()[:-9])
        assert refused(path).problem.startswith("broken gzip file (")
        path.write_bytes(b"plain")
        assert refused(path).problem.startswith("broken gzip file (")
    error = refused(write(tmp_path / "x.jsonl", b'{"x": 1}\n{"x": "\xe9"}'))
    assert (error.line, error.problem) == (2, "not UTF-8 (invalid continuation byte at byte 7): save the file as UTF-8")
    error = refused(write(tmp_path / "x.json.gz", "\ufeff{}".encode("utf-16-be")))
    assert (error.line, error.problem) == (None, "not UTF-8 (UTF-16): save the file as UTF-8")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.csv", 'a,b\n"1,\n2",""\n', [(2, {"a": "1,\n2", "b": ""})]),
        ("x.tsv", 'a\tb\n"1"\t2\n', [(2, {"a": "1", "b": "2"})]),
        ("x.csv.gz", "a\n\n1\n", [(3, {"a": "1"})]),
        ("x.tsv.gz", "a\n1\n", [(2, {"a": "1"})]),
        ("x.csv", "", []),
        ("x.csv", "a,b\n", []),
    ],
)
def test_tables(tmp_path: Path, name: str, text: str, expected: list[Any]) -> None:
    assert list(read_file(write(tmp_path / name, text))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"q\ta\n', [{"question": '"q', "answer": "a"}]),
        ("answer\tquestion\na\tq\n", [{"answer": "a", "question": "q"}]),
        ("targets\tx\r\na\tq\r\n", [{"targets": "a", "x": "q"}]),
        ("", []),
    ],
)
def test_a_table_that_may_have_no_header(tmp_path: Path, text: str, expected: list[Any]) -> None:
    assert rows(write(tmp_path / "x.tsv", text), headerless=("question", "answer")) == expected


def test_arrow_files_of_both_kinds_and_many_batches(tmp_path: Path) -> None:
    table = pa.table({"x": list(range(2500))})
    for make in (pa.ipc.new_stream, pa.ipc.new_file):
        with make(tmp_path / "x.arrow", table.schema) as writer:
            writer.write_table(table.slice(0, 2000))
            writer.write_table(table.slice(2000))
        assert list(read_file(tmp_path / "x.arrow")) == [(n + 1, {"x": n}) for n in range(2500)]
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pa.ipc.new_file(tmp_path / "x.arrow", twice.schema) as writer:
        writer.write_table(twice)
    error = refused(tmp_path / "x.arrow")
    assert (error.field, error.problem) == ("x", "two columns have this name: rename one")


def test_a_value_that_python_cannot_hold_names_its_row(tmp_path: Path) -> None:
    late = pa.table({"x": pa.array([0] * 1024 + [2**62], type=pa.timestamp("us"))})
    with pa.ipc.new_stream(tmp_path / "x.arrow", late.schema) as writer:
        writer.write_table(late)
    error = refused(tmp_path / "x.arrow")
    assert error.line == 1025
    assert error.problem.startswith("broken arrow file (")
    assert error.problem.endswith("): write or download it again")

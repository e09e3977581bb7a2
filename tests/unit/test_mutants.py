"""The mutations that `make mutants` tries: what is changed, what is left alone, and under which names."""

import ast
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from tests.mutants.lines import Map, Recorder
from tests.mutants.mutations import Mutation, mutations
from tests.mutants.named import Named

SOURCE = '''"""Doc 1."""
LIMIT: int = 3


class Box:
    @property
    def size(self) -> float:
        """Two 2."""
        assert self.a > 1
        return max(self.a, 2.0) if not self.empty else -self.b


def loop(values: list[int], start: int = 0, **options: int) -> int:
    for value in values:
        if value < start and value:
            continue
        start += f(value, key=True) @ 2
        note(f"{value + 1} of {start}", "text" + "s")
    if start:
        raise ValueError("1")
    return start
'''
CHANGES = {
    (2, "3", "4"),
    (10, "return max(self.a, 2.0) if not self.empty else -self.b", "return None"),
    (10, "max(self.a, 2.0)", "min(self.a, 2.0)"),
    (10, "2.0", "4.0"),
    (10, "not self.empty", "self.empty"),
    (10, "-self.b", "self.b"),
    (13, "0", "1"),
    (15, "value < start and value", "not (value < start and value)"),
    (15, "value < start and value", "value < start or value"),
    (15, "value < start", "value <= start"),
    (16, "continue", "break"),
    (17, "start += f(value, key=True) @ 2", "start -= f(value, key=True) @ 2"),
    (17, "f(value, key=True)", "f(value)"),
    (17, "True", "False"),
    (17, "2", "3"),
    (18, "note(f'{value + 1} of {start}', 'text' + 's')", "pass"),
    (19, "start", "not start"),
    (20, "raise ValueError('1')", "pass"),
    (21, "return start", "return None"),
}


@pytest.fixture
def found(tmp_path: Path) -> list[Mutation]:
    (tmp_path / "box.py").write_text(SOURCE)
    return mutations(tmp_path, "box.py")


def test_each_place_is_changed_and_texts_annotations_and_assertions_are_not(found: list[Mutation]) -> None:
    assert {(m.line, m.old, m.new) for m in found} == CHANGES
    assert len(found) == len(CHANGES)


def test_one_line_differs_and_the_rest_is_as_it_was(found: list[Mutation]) -> None:
    for mutation in found:
        ast.parse(mutation.text)
        lines = mutation.text.splitlines()
        assert [i for i, (a, b) in enumerate(zip(SOURCE.splitlines(), lines, strict=True), 1) if a != b] == [
            mutation.line
        ]
        assert mutation.line in mutation.statement


def test_a_line_that_no_test_is_known_to_run_is_tried_on_those_of_its_function(
    found: list[Mutation], tmp_path: Path
) -> None:
    """Coverage's tracer loses the rest of a function that has run an event loop."""
    assert {m.function for m in found if m.line == 2} == {range(0)}
    assert {m.function for m in found if m.line == 10} == {range(8, 11)}
    assert {m.function for m in found if m.line > 12} == {range(14, 22)}
    lines = Map(tmp_path, tmp_path / "map.json", (), MagicMock())
    lines._merged["box.py"] = {2: {""}, 14: {"test_x.py::a"}, 15: {"test_x.py::a", "test_x.py::b"}, 21: {""}}
    tests = {m.line: lines.tests_of(m) for m in found}
    assert tests[15] == tests[17] == tests[19] == ["test_x.py::a", "test_x.py::b"]
    assert tests[10] == []


def test_keys_outlive_changes_elsewhere_and_tell_equal_changes_apart(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n\n\ndef f() -> int:\n    return g(0, 0)\n")
    keys = [m.key for m in mutations(tmp_path, "a.py")]
    assert "a.py::f: 0 -> 1" in keys
    assert "a.py::f: 0 -> 1 (#2)" in keys
    (tmp_path / "a.py").write_text("# a comment\nx = 1\n\n\ndef f() -> int:\n    return g(0, 0)\n")
    assert [m.key for m in mutations(tmp_path, "a.py")] == keys


def test_a_zip_that_checks_no_lengths_is_an_assertion_taken_out(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = dict(zip(a, b, strict=True))\ny = f(strict=True)\n")
    marked = [(m.old, m.new) for m in mutations(tmp_path, "a.py") if m.is_assertion]
    assert marked == [("zip(a, b, strict=True)", "zip(a, b)"), ("True", "False")]


def test_a_named_text_has_to_be_there_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\ny = 2\n")
    assert Named("a.py", "x = 1", "x = 2", ()).mutation(tmp_path).text == "x = 2\ny = 2\ny = 2\n"
    for text, count in (("y = 2", 2), ("z", 0)):
        with pytest.raises(ValueError, match=f"occurs {count} times"):
            Named("a.py", text, "", ()).mutation(tmp_path)


def test_what_tests_share_counts_for_their_whole_file() -> None:
    coverage = MagicMock()
    recorder = Recorder(coverage)
    item = SimpleNamespace(nodeid="tests/test_x.py::test_a")
    outer = recorder.pytest_runtest_protocol(item)  # type: ignore[arg-type]
    next(outer)
    for scope in ("function", "module"):
        inner = recorder.pytest_fixture_setup(SimpleNamespace(scope=scope))  # type: ignore[arg-type]
        next(inner)
        with pytest.raises(StopIteration):
            inner.send("made")
    with pytest.raises(StopIteration):
        outer.send(None)
    places = [call.args[0] for call in coverage.switch_context.call_args_list]
    assert places == ["tests/test_x.py::test_a", "tests/test_x.py", "tests/test_x.py::test_a"]
    assert set(recorder.seconds) == {"tests/test_x.py::test_a"}

"""What doesn't fit a shape is named by its place; what is no JSON is said to be none."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.files.typed import fit, read_typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    value: float
    names: tuple[str, ...] = ()


def test_a_file_is_read_as_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text('{"value": 1, "names": ["a"], "newer": 3}')
    assert read_typed(path, Score, "make it again") == Score(value=1.0, names=("a",))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"value": "1"}', "value: Input should be a valid number"),
        ('{"value": 1, "names": ["a", 2]}', "names.1: Input should be a valid string"),
        ("{}", "value: Field required"),
        ('{"value": NaN}', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "Input should be an object"),
        ('{"value": "\\ud800"}', "not JSON"),
    ],
)
def test_what_does_not_fit_is_named(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="; make it again") as refused:
        read_typed(path, Score, "make it again")
    assert str(refused.value).startswith(f"{path}: {problem}")


def test_values_that_were_read_before() -> None:
    assert fit([[1, 2]], list[tuple[int, int]], "x", "y") == [(1, 2)]
    with pytest.raises(ValueError, match=r"^x: 0.1: Input should be a valid integer; y$"):
        fit([[1, 2.5]], list[tuple[int, int]], "x", "y")

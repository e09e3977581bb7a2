"""Which answers count as right: the same text, the same number, or the target's words within the answer."""

import pytest

from harness.data.selection.right import RIGHT


@pytest.mark.parametrize(
    ("check", "answer", "target", "right"),
    [
        ("exact", " paris.\n", "Paris", True),
        ("exact", "In Paris", "Paris", False),
        ("exact", "", " .", False),
        ("number", "So 3 x 4 = 1,012 apples.", "3 and 4\n#### 1012", True),
        ("number", "It is 12.50.", "#### 12.5", True),
        ("number", "It is -3", "3", False),
        ("number", "It is 13, not 12", "13", False),
        ("number", "none", "none", False),
        ("contains", "The capital is Paris, of course.", "paris", True),
        ("contains", "The capital is Parish.", "Paris", False),
        ("contains", "New York is not York New", "New York", True),
        ("contains", "York is New", "New York", False),
        ("contains", "It costs 3.14 francs", "3", False),
        ("contains", "anything", "", False),
    ],
)
def test_an_answer_is_right_where_it_says_the_target(check: str, answer: str, target: str, right: bool) -> None:
    assert RIGHT[check](answer, target) is right

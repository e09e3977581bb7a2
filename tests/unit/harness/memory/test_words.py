"""What a small model needs is said in a unit that shows it."""

import pytest

from harness.memory.command import _gigabytes, amount


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [
        (0, "0.00 GB"),
        (34_460_000_000, "34.46 GB"),
        (10_000_000, "0.01 GB"),
        (9_996_000, "10.00 MB"),
        (3_214_000, "3.21 MB"),
        (70_400, "0.0704 MB"),
        (12, "0.0000120 MB"),
    ],
)
def test_a_small_amount_is_said_in_megabytes(num_bytes: int, said: str) -> None:
    assert amount(num_bytes) == said


def test_a_table_of_small_amounts_is_in_megabytes_and_small_parts_of_large_ones_show() -> None:
    small = _gigabytes({"weights": 3_214_000, "adapters": 4_096, "paged": 0})
    assert (small.columns, small.rows) == (
        ("what", "MB"),
        [("weights", "3.21"), ("adapters", "0.00410"), ("paged", "0.00")],
    )
    large = _gigabytes({"weights": 34_460_000_000, "adapters": 3_200_000, "paged": 0})
    assert (large.columns, large.rows) == (
        ("what", "GB"),
        [("weights", "34.46"), ("adapters", "0.00320"), ("paged", "0.00")],
    )

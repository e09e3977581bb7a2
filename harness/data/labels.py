"""Reads the target of a labelled row: a class, or a number.

A row gives a class as its number (0, 1, ...; as text too, in a table) or as one of `dataset.label_names`. With
`dataset.num_labels=1` the label is a number to predict, as in STS-B. Used through `harness.data.tokens` and by the
plan.
"""

import math

from harness.config.schema import DatasetConfig
from harness.data.fields import Example
from harness.data.rows import DataError
from harness.data.source import SourceRow

REGRESSION = 1  # `num_labels` of a dataset whose label is a number: transformers' own convention


def declared_labels(dataset: DatasetConfig) -> int | None:
    """The number of classes that the config states, 1 for a number to predict; None if the config leaves it open."""
    return len(dataset.label_names) if dataset.label_names is not None else dataset.num_labels


def num_labels(dataset: DatasetConfig, largest: float) -> int:
    """The classes of the head: as declared, else one more than the largest class in the rows, and at least two."""
    declared = declared_labels(dataset)
    return max(int(largest) + 1, 2) if declared is None else declared


def label_value(example: Example, row: SourceRow, dataset: DatasetConfig) -> float:
    """A row's class as a whole number from 0, or the number to predict.

    Raises:
        DataError: no such class, a hidden label of a test split, or no finite number; names the row.
    """
    label, names = example.label, dataset.label_names or []
    if isinstance(label, str) and label in names:
        return float(names.index(label))
    number = _number(label)
    declared = declared_labels(dataset)
    if number is not None and declared == REGRESSION:
        return number
    problem = _class_problem(label, number, declared, names)
    if problem is not None:
        raise DataError(problem, file=row.where, line=row.line, field="label")
    assert number is not None
    return number


def _number(label: int | float | str | None) -> float | None:
    try:
        number = float("nan" if label is None else label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _class_problem(label: object, number: float | None, declared: int | None, names: list[str]) -> str | None:
    if declared == REGRESSION:
        return f"label {label!r} is no number, and dataset.num_labels=1 predicts one"
    if number is None:
        known = f"dataset.label_names={names}" if names else "name the classes by dataset.label_names=[...]"
        return f"label {label!r} is no class; {known}"
    if number == -1:
        return "label -1: its class is hidden, as in GLUE's test splits; take a split with labels"
    if number != int(number) or number < 0:
        return f"label {label!r} is no class: expected 0, 1, ...; for a number to predict set dataset.num_labels=1"
    if declared is not None and number >= declared:
        said = f"dataset.label_names={names}" if names else f"dataset.num_labels={declared}"
        return f"label {label!r} is out of range: {said} has the classes 0 to {declared - 1}"
    return None

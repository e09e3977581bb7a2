"""Checks the rows that runs are trained or scored on. Local files are read through."""

from itertools import islice

from harness.config.schema import DatasetConfig, EmptyTargets, ModelKind, PathsConfig
from harness.data.examples import read_examples
from harness.data.fields import Example
from harness.data.labels import label_value
from harness.data.rows import DataError
from harness.data.source import (
    DataSource,
    SourceRow,
    fingerprint,
    locate_dataset,
    require_target,
)
from harness.files.hub import Missing

CHECKED_ROWS = 100_000  # rows of a local file that are read before anything starts


def data_problems(kind: ModelKind, dataset: DatasetConfig, paths: PathsConfig) -> list[str]:
    """What is wrong with a dataset for this kind of model."""
    try:
        source = locate_dataset(dataset, paths)
        if isinstance(source, Missing):
            return [str(source)]
        return row_problems(kind, dataset, source)
    except ValueError as error:
        return [str(error)]


def local_fingerprint(dataset: DatasetConfig, paths: PathsConfig) -> tuple[str, DataSource] | None:
    """-> the fingerprint of local rows, and their files; None for rows of the hub or with problems"""
    try:
        source = locate_dataset(dataset, paths)
    except ValueError:
        return None
    return (fingerprint(source), source) if isinstance(source, DataSource) and source.files else None


def row_problems(kind: ModelKind, dataset: DatasetConfig, source: DataSource) -> list[str]:
    """The first local row that this kind of model can't use; what the hub serves is left to the job."""
    if not source.files:
        return []
    try:
        for row, example in islice(read_examples(dataset, source), CHECKED_ROWS):
            if example.label is not None or not dataset.skip_bad_rows:
                _check_example(kind, dataset, example, row)
    except DataError as error:
        return [str(error)]
    return []


def _check_example(kind: ModelKind, dataset: DatasetConfig, example: Example, row: SourceRow) -> None:
    """Raises DataError for a label that is no class, an empty target, or nothing for an encoder to read."""
    if example.label is not None:
        label_value(example, row, dataset)
    elif dataset.empty_targets is EmptyTargets.refuse:
        require_target(example, row)
    if kind is ModelKind.seq2seq and not example.input:
        problem = f"dataset.format={dataset.format} has no input here, and model.kind=seq2seq has to read one"
        raise DataError(problem, file=row.file, line=row.line)

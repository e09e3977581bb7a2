"""Checks and counts the rows that runs are trained or scored on. Local files are read through."""

from dataclasses import dataclass
from itertools import islice

from harness.config.schema import DatasetConfig, EmptyTargets, ModelKind, PathsConfig
from harness.data.examples import read_examples
from harness.data.fields import Example
from harness.data.formats import ALWAYS_DIALOGUES
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

CHECKED_ROWS = 100_000  # examples of local files that are read before anything starts


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRows:
    """What a plan knows about a dataset's rows."""

    problems: tuple[str, ...] = ()
    num_examples: int | None = None  # that are trained on; None: unknown before the job
    has_dialogues: bool = False  # rows that a model without a chat template can't read


def checked_rows(kind: ModelKind, dataset: DatasetConfig, paths: PathsConfig) -> CheckedRows:
    """Finds a dataset and reads it through for this kind of model."""
    try:
        source = locate_dataset(dataset, paths)
    except ValueError as error:
        return CheckedRows(problems=(str(error),))
    if isinstance(source, Missing):
        return CheckedRows(problems=(str(source),))
    return check_rows(kind, dataset, source)


def local_fingerprint(dataset: DatasetConfig, paths: PathsConfig) -> tuple[str, DataSource] | None:
    """Of local rows, and where they lie; None for a hub's, and for those that `checked_rows` reports."""
    try:
        source = locate_dataset(dataset, paths)
    except ValueError:
        return None
    return (fingerprint(source), source) if isinstance(source, DataSource) and source.files else None


def check_rows(kind: ModelKind, dataset: DatasetConfig, source: DataSource) -> CheckedRows:
    """The first local row that this kind of model can't use; what the hub serves is left to the job."""
    if not source.files:
        streamed = source.stream_rows  # one example each, in the formats that are streamed
        return CheckedRows(num_examples=streamed, has_dialogues=dataset.format in ALWAYS_DIALOGUES)
    num_rows, num_examples, has_dialogues, before = 0, 0, False, None
    try:
        for row, example in islice(read_examples(dataset, source), CHECKED_ROWS):
            has_dialogues = has_dialogues or bool(example.messages)
            if example.label is not None or not dataset.skip_bad_rows:
                _check_example(kind, dataset, example, row)
            if example.label is not None or example.output.strip() or dataset.empty_targets is EmptyTargets.keep:
                num_examples += 1
                num_rows += row is not before
                before = row
    except DataError as error:
        return CheckedRows(problems=(str(error),), has_dialogues=has_dialogues)
    return CheckedRows(num_examples=_sampled(dataset, num_rows, num_examples), has_dialogues=has_dialogues)


def _sampled(dataset: DatasetConfig, num_rows: int, num_examples: int) -> int | None:
    """Examples of the rows that `max_rows` takes; None where not all rows were seen, or they have several each."""
    if dataset.max_rows_per_task is not None:
        return None
    if dataset.max_rows is not None and dataset.max_rows <= num_rows:
        return dataset.max_rows if num_rows == num_examples else None
    return num_examples if num_examples < CHECKED_ROWS else None


def _check_example(kind: ModelKind, dataset: DatasetConfig, example: Example, row: SourceRow) -> None:
    """Raises DataError for a label that is no class, an empty target, or nothing for an encoder to read."""
    if example.label is not None:
        label_value(example, row, dataset)
    elif dataset.empty_targets is EmptyTargets.refuse:
        require_target(example, row)
    if kind is ModelKind.seq2seq and not example.input:
        problem = f"dataset.format={dataset.format} has no input here, and model.kind=seq2seq has to read one"
        raise DataError(problem, file=row.where, line=row.line)

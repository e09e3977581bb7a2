"""Turns the rows of a dataset into examples, as its config says: format, turns that carry loss, rows to skip.

Training and checking both use `read_examples`, so that a plan refuses what a worker would refuse.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.config.schema import AssistantTurns, DatasetConfig
from harness.data.columns import detect_format
from harness.data.dialogues import every_answer
from harness.data.fields import Example
from harness.data.formats import DATASETS
from harness.data.rows import DataError, read_file, refuse
from harness.data.source import ColumnError, DataSource, SourceRow, data_files, read_rows, row_examples

AUTO_FORMAT = "auto"
_SHOWN_ERRORS = 3


@dataclass(slots=True)
class Skipped:
    """The rows that were left out, and why the first of them were."""

    num_rows: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, error: DataError) -> None:
        """Counts a row that is left out; keeps the first few reasons."""
        self.num_rows += 1
        if len(self.first) < _SHOWN_ERRORS:
            self.first.append(str(error))


def read_examples(
    config: DatasetConfig, source: DataSource, only: Sequence[int] | None = None, skipped: Skipped | None = None
) -> Iterator[tuple[SourceRow, Example]]:
    """Yields each row with its examples, of all rows or of those whose numbers are in `only`.

    With `dataset.skip_bad_rows` a row that can't be read is added to `skipped`.

    Raises:
        DataError: a row that can't be read, or a filled column that the format would drop.
    """
    skipped = Skipped() if skipped is None else skipped
    for row in read_rows(source, only, skipped.add if config.skip_bad_rows else refuse):
        try:
            examples = row_examples(row, config.format, config.ignore_columns or ())
        except ColumnError:
            raise
        except DataError as error:
            if not config.skip_bad_rows:
                raise
            skipped.add(error)
            continue
        for example in examples:
            for answer in _answers(example, config):
                yield row, answer


def _answers(example: Example, config: DatasetConfig) -> list[Example]:
    if not example.messages or config.assistant_turns is AssistantTurns.last or config.format == "prompt_completion":
        return [example]
    return every_answer(example)


def resolved(config: DatasetConfig) -> DatasetConfig:
    """Fills what a dataset's config leaves open: `format=auto` becomes the file's format, a template's file its text.

    Raises:
        ValueError: no format reads the file's columns, the template's file is missing, or a stream has no end.
    """
    if config.stream and (config.max_rows is None or config.max_rows_per_task is not None):
        raise ValueError("dataset.stream=true takes dataset.max_rows rows: set it, and leave max_rows_per_task out")
    if config.chat_template is not None:
        config = replace(config, chat_template=_template_text(config.chat_template))
    if config.format == AUTO_FORMAT:
        config = replace(config, format=_format_of(config))
    return config


def _template_text(template: str) -> str:
    if "{{" in template or "{%" in template:
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"dataset.chat_template={template}: no such template file ({error})") from error


def _format_of(config: DatasetConfig) -> str:
    if config.path is None:
        raise ValueError("dataset.format=auto looks at a file's columns: set dataset.path, or name the format")
    files = data_files(Path(config.path), config.split, [], "")
    if not files:
        return "input_output"  # the file is missing, which `locate_dataset` says better
    path = files[0]
    row = next(read_file(path, on_bad_row=(lambda _: None) if config.skip_bad_rows else refuse), None)
    if row is None:
        raise DataError("no rows to train on", file=str(path))
    detected = detect_format(row[1])
    if detected is None:
        columns = ", ".join(map(str, row[1]))
        problem = f"no format reads these columns ({columns}); set dataset.format to one of: {', '.join(DATASETS)}"
        raise DataError(problem, file=str(path), line=row[0])
    return detected

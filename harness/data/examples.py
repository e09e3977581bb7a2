"""Turns the rows of a dataset into examples, as its config says: format, turns that carry loss, rows to skip.

Training and checking both use `read_examples`, so that a plan refuses what a worker would refuse.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from harness.config.schema import AssistantTurns, DatasetConfig, Select
from harness.data.columns import detect_format, other_training
from harness.data.dialogues import every_answer
from harness.data.fields import Example, listed
from harness.data.formats import DATASETS, DIALOGUES
from harness.data.rows import DataError, read_file, refuse
from harness.data.source import ColumnError, DataSource, SourceRow, data_files, read_rows, row_examples

AUTO_FORMAT = "auto"
_SHOWN_ERRORS = 3
_LOOKED_AT_ROWS = 10_000  # of a file whose format is to be recognized


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
        ValueError: no format reads the file's columns, the template's file is missing or would write nothing, or a
            stream has no end.
    """
    if config.stream and (config.max_rows is None or config.max_rows_per_task is not None):
        raise ValueError("dataset.stream=true takes dataset.max_rows rows: set it, and leave max_rows_per_task out")
    if config.fraction == 1.0:  # all rows train, however they are ordered: equal runs are one
        config = replace(config, select=Select.random)
    if config.chat_template is not None:
        config = replace(config, chat_template=_template_text(config.chat_template))
    if config.format == AUTO_FORMAT:
        config = replace(config, format=_format_of(config))
    if config.chat_template is not None and config.format not in DIALOGUES:
        raise ValueError(
            f"dataset.chat_template: rows of dataset.format={config.format} are no dialogues, which alone are written "
            f"by a template: leave it out, or take one of {', '.join(sorted(DIALOGUES))}"
        )
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
    status = files[0].stat()
    return _format_of_file(files[0], config.skip_bad_rows, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _format_of_file(path: Path, skip_bad_rows: bool, _version: tuple[int, int]) -> str:
    """The one format that a file's rows have, or that most of them have where rows may be skipped.

    Rows of no format are left to the rule, which names what they lack.
    """
    rows = islice(read_file(path, on_bad_row=(lambda _: None) if skip_bad_rows else refuse), _LOOKED_AT_ROWS)
    lines: dict[str, list[int]] = {}  # format -> the lines that have it
    odd: tuple[int, dict[str, object]] | None = None
    for line, row in rows:
        detected = detect_format(row)
        if detected is not None:
            lines.setdefault(detected, []).append(line)
        elif odd is None:
            odd = line, row
    if len(lines) > 1 and not skip_bad_rows:
        (one, (first, *_)), (other, (second, *_)) = list(lines.items())[:2]
        problem = (
            f"its columns are those of dataset.format={other}, and line {first} has those of {one}: keep one kind of "
            "rows in a file, or set dataset.format"
        )
        raise DataError(problem, file=str(path), line=second)
    if lines:
        return max(lines, key=lambda format: len(lines[format]))
    if odd is None:
        raise DataError("no rows to train on", file=str(path))
    raise _no_format(path, *odd)


def _no_format(path: Path, line: int, row: dict[str, object]) -> DataError:
    other = other_training(row)
    if other is not None:
        return DataError(f"these are {other}", file=str(path), line=line)
    problem = f"no format reads these columns ({listed(row)}); set dataset.format to one of: {', '.join(DATASETS)}"
    return DataError(problem, file=str(path), line=line)

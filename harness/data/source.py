"""Finds a dataset's rows, reads them, and identifies them by their content.

    source = locate_dataset(config.dataset, config.paths)
    if isinstance(source, Missing): ...            # nothing is downloaded by looking
    for row in read_rows(source): ...              # row.line, row.fields

Places, in this order: `dataset.path`, rows that this project ships, the data store, the Hugging Face
cache on this machine, the hub. Neither torch nor `datasets` is imported before rows of a hub dataset are
read. How a row becomes an example is `harness.data.formats`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.columns import other_training, unused_column
from harness.data.fields import Example, RowError
from harness.data.formats import HEADERLESS_TSV, fitting_formats, row_rule
from harness.data.rows import SUFFIXES, DataError, OnBadRow, read_file, refuse, require_known_kind, suffix_of
from harness.data.trees import assembled
from harness.files.atomic import sha256_files
from harness.files.hub import Missing, cached_snapshot, hub_problem, store_names

if TYPE_CHECKING:
    from datasets import Dataset


NO_DATASET = "none"
_EMBEDDED = "embedded/"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
_HUB_FILE_SUFFIXES = (*SUFFIXES, ".parquet", ".arrow", ".gz", ".zst", ".zip")
_HUB_BATCH_ROWS = 1000
_SAVED_DATASET, _SAVED_SPLITS = "state.json", "dataset_dict.json"  # what `datasets.save_to_disk` writes beside rows
STREAM_SEED = 42  # the paper's data seed, fixed, so that a dataset is the same in every run
STREAM_BUFFER_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Rows that were found: local files, or a hub dataset (in `snapshot` if it is cached, else to be downloaded)."""

    name: str
    files: tuple[Path, ...] = ()
    headerless: tuple[str, ...] | None = None  # the columns of a .tsv without a header
    hub_id: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str = "main"  # a commit where it is known
    snapshot: Path | None = None
    stream_rows: int | None = None  # take this many rows from the hub's shuffled stream; None reads the whole table
    skip_bad_rows: bool = False  # leave rows out that can't be read


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of a dataset, and the place that messages name."""

    file: str
    line: int  # from 1; the row's number in a hub dataset
    fields: dict[str, Any]
    number: int | None = None  # of the row, from 1, where it begins on the line of the one before

    @property
    def where(self) -> str:
        """The file, for errors, and the row's number where the line doesn't say which it is."""
        return self.file if self.number is None else f"{self.file}, row {self.number}"


class ColumnError(DataError):
    """Raised for a filled column that the format would drop. It concerns all rows, so no skipping of rows hides it."""


def locate_dataset(config: DatasetConfig, paths: PathsConfig) -> DataSource | Missing:
    """Looks for the dataset's rows in all places, in order; downloads nothing.

    Raises:
        ValueError: an unknown format or kind of file, or `dataset=none`, which has no rows.
    """
    if NO_DATASET in (config.format, config.hub_id):
        raise ValueError(f"dataset={config.name}: it has no rows and goes with adapter=none only; choose a dataset")
    row_rule(config.format)
    looked: list[str] = []
    found = _local_files(config, paths, looked)
    if found and not _is_streamed(config):
        return _file_source(config, found)
    if config.path is not None:
        return _missing(config, looked, f"point dataset.path at a file ({', '.join(SUFFIXES)}) or at a folder with one")
    if config.hub_id.startswith(_EMBEDDED):
        return _missing(config, looked, "install this project again, with its package data")
    return _on_hub(config, looked)


def streams(config: DatasetConfig, paths: PathsConfig) -> bool:
    """Whether a plan takes a sample of the hub's stream: `dataset.stream` allows it, and only the hub has the rows.

    The rows are others than a sample of a copy has, so the answer is a part of the run's identity, and binds its jobs.
    """
    if not _is_streamed(config) or _local_files(config, paths, []) or _snapshot(config) is not None:
        return False
    return hub_problem(config.hub_id, config.revision, repo_type="dataset") is None


def _is_streamed(config: DatasetConfig) -> bool:
    return config.stream and config.path is None and config.max_rows is not None


def read_rows(
    source: DataSource, only: Sequence[int] | None = None, on_bad_row: OnBadRow = refuse
) -> Iterator[SourceRow]:
    """Yields the rows: all, or those whose numbers (from 0, ascending) are in `only`.

    `on_bad_row` gets the errors of rows that can't be read, if the source says to leave those out.

    Raises:
        DataError: as `harness.data.rows.read_file`.
    """
    if source.stream_rows is not None:
        yield from _streamed_rows(source)
        return
    if not source.files:
        yield from _hub_rows(source, only)
        return
    wanted = None if only is None else iter(only)
    following = None if wanted is None else next(wanted, None)
    for number, row in enumerate(_file_rows(source, on_bad_row)):
        if wanted is None:
            yield row
        elif following is None:
            return
        elif number == following:
            yield row
            following = next(wanted, None)


def num_rows(source: DataSource) -> int:
    """The number of rows. Local files are read to the end to count them."""
    if source.stream_rows is not None:
        return source.stream_rows
    if source.files:
        return sum(1 for _ in _file_rows(source))
    return len(_load_hub(source))


def column(source: DataSource, field: str) -> Iterator[str]:
    """One field of every row, in order, as text; of a hub dataset nothing else is read.

    Raises:
        DataError: a row without the field.
    """
    if not source.files:
        table = _load_hub(source)
        if field not in table.column_names:
            raise DataError(f"missing (there are: {', '.join(table.column_names)})", file=source.name, field=field)
        for start in range(0, len(table), _HUB_BATCH_ROWS):
            yield from (str(value) for value in table.select_columns([field])[start : start + _HUB_BATCH_ROWS][field])
        return
    for row in _file_rows(source):
        if field not in row.fields:
            raise DataError("missing", file=row.where, line=row.line, field=field)
        yield str(row.fields[field])


def row_examples(row: SourceRow, format: str, ignore_columns: Sequence[str] = ()) -> list[Example]:
    """Applies the format's rule to a row; a filled column that the rule would drop has to be in `ignore_columns`.

    Raises:
        DataError: the rule can't read it; the message names file, line, field and the formats that would fit.
    """
    unused = unused_column(row.fields, format, ignore_columns)
    if unused is not None:
        problem = (
            f"filled, but dataset.format={format} does not read it: rename it{unused.hint}, take another format, or "
            f"allow it by dataset.ignore_columns=[{unused.name!r}]"
        )
        raise ColumnError(problem, file=row.where, line=row.line, field=unused.name)
    try:
        return row_rule(format)(row.fields)
    except RowError as error:
        fitting, other = fitting_formats(row.fields), other_training(row.fields)
        remedy = f"formats that read this row: {', '.join(fitting)}" if fitting else "no known format reads this row"
        remedy = remedy if other is None else f"these are {other}"
        problem = f"{error.problem}; dataset.format is {format}, {remedy}"
        raise DataError(problem, file=row.where, line=row.line, field=error.field) from error


def require_target(example: Example, row: SourceRow) -> None:
    """Raises DataError, naming the row, for an example whose output is blank."""
    if not example.output.strip():
        problem = (
            "the target is empty, so there is nothing to learn from: fill it in or delete the row, "
            "or set dataset.empty_targets=drop"
        )
        raise DataError(problem, file=row.where, line=row.line, field=example.target_field)


def fingerprint(source: DataSource) -> str:
    """Identifies the rows: the SHA-256 of local files, or "hub_id@revision" with subset and split."""
    if not source.files:
        sample = "" if source.stream_rows is None else f"stream-{source.stream_rows}-seed{STREAM_SEED}"
        parts = [f"{source.hub_id}@{source.revision}", source.subset or "", source.split, sample]
        return "/".join(part for part in parts if part)
    return sha256_files(source.files)


def _local_files(config: DatasetConfig, paths: PathsConfig, looked: list[str]) -> tuple[Path, ...]:
    if config.path is not None:
        return data_files(Path(config.path), config.split, looked, "dataset.path ")
    if config.hub_id.startswith(_EMBEDDED):
        return data_files(EMBEDDED_FOLDER / f"{config.hub_id.removeprefix(_EMBEDDED)}.jsonl", config.split, looked, "")
    if paths.data_store is None:
        looked.append("the data store: not set (paths.data_store, or HARNESS_DATA_STORE)")
        return ()
    for name in store_names(config.name, config.hub_id):
        stem = Path(paths.data_store) / name
        if name != config.name and _is_configuration(config.subset):
            stem /= str(config.subset)  # one repository, several datasets: GLUE's tasks
        for suffix in SUFFIXES:
            if stem.with_name(stem.name + suffix).is_file():
                return (stem.with_name(stem.name + suffix),)
        looked.append(f"{stem}{{{','.join(SUFFIXES)}}}: no such file")
        found = data_files(stem, config.split, looked, "")
        if found:
            return found
    return ()


def _is_configuration(subset: str | None) -> bool:
    """Whether a subset is a configuration's name; one with a file's suffix names files of the repository."""
    return subset is not None and not subset.endswith(_HUB_FILE_SUFFIXES)


def data_files(path: Path, split: str, looked: list[str], prefix: str) -> tuple[Path, ...]:
    """A file is itself; a folder is its only data file, the files whose names begin with the split's, or saved shards.

    Raises:
        DataError: a kind of file that is not read.
    """
    if path.is_file():
        require_known_kind(path)
        return (path,)
    if not path.is_dir():
        broken = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file or folder"
        looked.append(f"{prefix}{path}: {broken}")
        return ()
    if (path / _SAVED_SPLITS).is_file():
        path = path / split
        if not path.is_dir():
            splits = ", ".join(sorted(inside.name for inside in path.parent.iterdir() if inside.is_dir()))
            looked.append(f"{prefix}{path.parent}: no split {split!r} (dataset.split); there are: {splits}")
            return ()
    if (path / _SAVED_DATASET).is_file():  # by `save_to_disk`: its shards alone are rows
        return _saved_shards(path)
    inside = sorted(file for file in path.iterdir() if file.is_file() and suffix_of(file) in SUFFIXES)
    found = inside if len(inside) == 1 else [file for file in inside if file.name.startswith(split)]
    if not found:
        count = f"{len(inside)} data files, none called {split}*" if inside else "no data file"
        looked.append(f"{prefix}{path}: {count} in it")
    return tuple(found)


def _saved_shards(folder: Path) -> tuple[Path, ...]:
    """The shards that `save_to_disk` named, in order; other .arrow files beside them are `datasets`' own cache."""
    state = folder / _SAVED_DATASET
    try:
        return tuple(folder / shard["filename"] for shard in json.loads(state.read_text())["_data_files"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("names no shards of rows (_data_files); save the dataset anew", file=str(state)) from error


def _file_source(config: DatasetConfig, found: tuple[Path, ...]) -> DataSource:
    return DataSource(
        name=config.name,
        files=found,
        headerless=HEADERLESS_TSV.get(config.format),
        skip_bad_rows=config.skip_bad_rows,
    )


def _on_hub(config: DatasetConfig, looked: list[str]) -> DataSource | Missing:
    snapshot = _snapshot(config)
    if snapshot is not None and not _is_streamed(config):
        return _hub_source(config, revision=snapshot.name, snapshot=snapshot)
    if snapshot is None:
        looked.append(f"the hub's local cache (HF_HOME): {config.hub_id} is not downloaded")
    problem = hub_problem(config.hub_id, config.revision, repo_type="dataset")
    if problem is None:
        return _hub_source(config, revision=_hub_commit(config), snapshot=None)
    looked.append(f"https://huggingface.co/datasets/{config.hub_id}: {problem}")
    remedy = (
        f"put the rows at <store>/{config.name}.jsonl and set paths.data_store (or HARNESS_DATA_STORE), or give "
        "dataset.path, or run where the hub can be reached, or take dataset=concise, which needs neither"
    )
    return _missing(config, looked, remedy)


def _snapshot(config: DatasetConfig) -> Path | None:
    """The dataset in the hub's cache on this machine; a cached card alone is not the data."""
    snapshot = cached_snapshot(config.hub_id, config.revision, repo_type="dataset")
    has_rows = snapshot is not None and any(file.suffix in _HUB_FILE_SUFFIXES for file in snapshot.rglob("*"))
    return snapshot if has_rows else None


def _hub_source(config: DatasetConfig, *, revision: str, snapshot: Path | None) -> DataSource:
    return DataSource(
        name=config.name,
        hub_id=config.hub_id,
        subset=config.subset,
        split=config.split,
        revision=revision,
        snapshot=snapshot,
        stream_rows=config.max_rows if _is_streamed(config) else None,
        skip_bad_rows=config.skip_bad_rows,
    )


def _hub_commit(config: DatasetConfig) -> str:
    """The commit of a branch, so that the first run and one from the cache have the same fingerprint."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(config.hub_id, revision=config.revision, timeout=5.0).sha or config.revision


def _missing(config: DatasetConfig, looked: list[str], remedy: str) -> Missing:
    return Missing(what=f"rows of {config.name} ({config.hub_id})", looked_in=tuple(looked), remedy=remedy)


def _file_rows(source: DataSource, on_bad_row: OnBadRow = refuse) -> Iterator[SourceRow]:
    """The rows of all files; rows that are single messages of Open Assistant's trees are joined into trees."""
    handler = on_bad_row if on_bad_row is not refuse or not source.skip_bad_rows else _leave_out
    plain = (row for path in source.files for row in _rows_of(path, source.headerless, handler))
    return assembled(plain, lambda row: row.fields, lambda row, fields: replace(row, fields=fields))


def _rows_of(path: Path, headerless: tuple[str, ...] | None, handler: OnBadRow) -> Iterator[SourceRow]:
    """The rows of one file; those that share a line, as in an array on one line, are told apart by their number."""
    before = 0
    for number, (line, fields) in enumerate(read_file(path, headerless, handler), start=1):
        yield SourceRow(str(path), line, fields, number if line == before else None)
        before = line


def _leave_out(_: DataError) -> None:
    """Leaves a bad row out where rows are only counted or a column is read; `read_examples` counts such rows."""


def _streamed_rows(source: DataSource) -> Iterator[SourceRow]:
    """A seeded sample of a hub dataset; shuffles shards, and rows within a buffer, so that it downloads no more."""
    from datasets import load_dataset

    stream = load_dataset(source.hub_id, revision=source.revision, split=source.split, streaming=True, **_files(source))
    shuffled = stream.shuffle(seed=STREAM_SEED, buffer_size=STREAM_BUFFER_ROWS)
    for number, fields in enumerate(shuffled.take(source.stream_rows), start=1):
        yield SourceRow(f"{source.hub_id}/{source.split}, streamed", number, dict(fields))


def _hub_rows(source: DataSource, only: Sequence[int] | None) -> Iterator[SourceRow]:
    """Reads the memory-mapped Arrow table that `datasets` makes, some rows at a time."""
    table = _load_hub(source)
    numbers: Sequence[int] = range(len(table)) if only is None else only
    for start in range(0, len(numbers), _HUB_BATCH_ROWS):
        batch = numbers[start : start + _HUB_BATCH_ROWS]
        columns: dict[str, list[Any]] = table[list(batch)]
        for offset, number in enumerate(batch):
            fields = {name: values[offset] for name, values in columns.items()}
            yield SourceRow(f"{source.hub_id}/{source.split}", number + 1, fields)


def _load_hub(source: DataSource) -> "Dataset":
    """Loads a hub dataset. A subset with a file's suffix names files of the repository, any other a configuration."""
    from datasets import load_dataset

    options = _files(source)
    if source.snapshot is not None:
        return load_dataset(str(source.snapshot), split=source.split, **options)
    return load_dataset(source.hub_id, revision=source.revision, split=source.split, **options)


def _files(source: DataSource) -> dict[str, Any]:
    if source.subset is not None and not _is_configuration(source.subset):
        return {"data_files": {source.split: source.subset}}
    return {"name": source.subset}

"""Finds the rows of a dataset that an evaluation scores: the split that its YAML names, or a file.

A training file that says nothing about its split is never taken for a validation set by accident.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.source import DataSource, fingerprint, locate_dataset
from harness.files.hub import Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRows:
    """Rows that were found, and the dataset whose format reads them."""

    dataset: DatasetConfig
    source: DataSource
    split_name: str  # the split, or the file's name
    sha256: str  # of the rows, or the hub's id, revision and split


def evaluation_rows(dataset: DatasetConfig, data: str | None, split: str | None, paths: PathsConfig) -> EvalRows:
    """Finds the rows to score.

    Args:
        dataset: whose format reads them.
        data: a local file of them; None: the dataset's own split.
        split: of the hub's splits; None: `dataset.eval_split`.
        paths: where to look.

    Raises:
        ValueError: no rows there, or a file that may be the training rows.
    """
    if data is not None:
        config = replace(dataset, path=data, max_rows=None, max_rows_per_task=None)
        return _found(config, Path(data).name, paths)
    name = split or dataset.eval_split
    config = replace(dataset, split=name, max_rows=None, max_rows_per_task=None)
    if dataset.path is not None:
        raise ValueError(
            f"dataset {dataset.name} is the file {dataset.path}, which has no splits: name the rows to score by --data "
            "or eval.*.data"
        )
    rows = _found(config, name, paths)
    for file in rows.source.files:
        if not file.name.startswith(name):
            raise ValueError(
                f"{file}: doesn't say that it holds the {name} split, and may be the training rows; call it "
                f"{dataset.name}/{name}{file.suffix} in the data store, or name the rows by --data or eval.*.data"
            )
    return rows


def split_problem(dataset: DatasetConfig) -> str | None:
    """Why a dataset has no split of its own to measure the held-out loss on (`train.eval_source=split`)."""
    if dataset.path is not None:
        return (
            f"train.eval_source=split: {dataset.name} is the file {dataset.path}, which has no splits; "
            "say train.eval_source=holdout"
        )
    if dataset.eval_split == dataset.split:
        return (
            f"train.eval_source=split: dataset.eval_split={dataset.eval_split} is the split that {dataset.name} trains "
            "on; say train.eval_source=holdout"
        )
    return None


def data_files(data: str | None) -> dict[str, list[Path]]:
    """The local file that the setting `data` names, by its key; nothing where the dataset's own split is scored."""
    return {} if data is None else {"data": [Path(data)] * Path(data).is_file()}


def _found(config: DatasetConfig, split_name: str, paths: PathsConfig) -> EvalRows:
    source = locate_dataset(config, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    return EvalRows(dataset=config, source=source, split_name=split_name, sha256=fingerprint(source))

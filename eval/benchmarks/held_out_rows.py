"""Finds the rows that are held out of a run's training: drawn from its own rows, or a split of their own."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.benchmarks.dataset_rows import evaluation_rows, split_problem
from harness.config.schema import EvalSource, ModelKind, PathsConfig
from harness.data.selection.holdout import Divided, divided, shared_lines
from harness.data.source import fingerprint, locate_dataset
from harness.data.tokens import EncodedExamples, TokenizedDataset, tokenize_dataset
from harness.files.hub import Missing
from harness.runs.record import load_record
from harness.runs.spec import RunSpec

if TYPE_CHECKING:
    from harness.banks.load import LoadedBase


def split_examples(spec: RunSpec, base: "LoadedBase", paths: PathsConfig) -> TokenizedDataset | None:
    """The rows of `dataset.eval_split`, a seeded sample of `train.eval_rows`; None where a run doesn't take them there.

    Raises:
        ValueError: the dataset has no such split, or too few rows in it.
    """
    if spec.train is None or spec.dataset is None or spec.train.eval_source is not EvalSource.split:
        return None
    if (problem := split_problem(spec.dataset)) is not None:
        raise ValueError(problem)
    rows = evaluation_rows(spec.dataset, None, None, paths)
    config = replace(rows.dataset, max_rows=spec.train.eval_rows)
    cache = Path(paths.cache) / "tokenized"
    found = tokenize_dataset(config, rows.source, base.tokenizer, cache, empty_targets=config.empty_targets.value)
    if len(found) < spec.train.eval_rows:
        raise ValueError(
            f"train.eval_rows={spec.train.eval_rows}: the split {rows.split_name} of {spec.dataset.name} has "
            f"{len(found)} rows; give fewer"
        )
    found.require_fits(base.max_length, apart=spec.model.kind is ModelKind.seq2seq)
    return found


def held_out_examples(spec: RunSpec, folder: Path, base: "LoadedBase", paths: PathsConfig) -> EncodedExamples:
    """A finished run's held-out rows, as they were measured in training.

    Args:
        spec: with `train.eval_rows`.
        folder: of the run.
        base: with the run's tokenizer.
        paths: where the rows lie.

    Raises:
        ValueError: the rows are nowhere, or aren't those that the run was trained on.
    """
    if (own := split_examples(spec, base, paths)) is not None:
        return own
    _, parts = divided_rows(spec, folder, base, paths)
    assert parts.held_out is not None
    return parts.held_out


def divided_rows(
    spec: RunSpec, folder: Path, base: "LoadedBase", paths: PathsConfig
) -> tuple[TokenizedDataset, Divided]:
    """The rows of a finished run: all, and divided into what may train and what was held out of them.

    Args, Raises:
        as `held_out_examples`.
    """
    assert spec.dataset is not None
    assert spec.train is not None
    source = locate_dataset(spec.dataset, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    record = load_record(folder)
    if record is None or fingerprint(source) != record.data_fingerprint:
        raise ValueError(
            f"{spec.dataset.name}: its rows have changed since run {spec.run_id} was trained, so those that were held "
            "out can't be told; restore the old file, or train again"
        )
    data = tokenize_dataset(
        spec.dataset,
        source,
        base.tokenizer,
        Path(paths.cache) / "tokenized",
        empty_targets=spec.dataset.empty_targets.value,
    )
    lines = shared_lines(spec.dataset, data)
    return data, divided(data, data.num_characters.astype(np.int64), spec.train, lines)

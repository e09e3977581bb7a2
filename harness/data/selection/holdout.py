"""Holds rows out of training: those that a run's held-out loss is measured on, and those of the original's slip.

`train.eval_rows` rows are drawn by `train.data_seed`, so that all runs on a dataset with one data seed have the same. A
row that became several examples (a dialogue with all its answers) is held out whole, and examples that are equal to a
held-out one don't train either.

`train.original_eval_carve` is what the original did by mistake: its `do_eval` held out 1,024 rows. QLoRA's OASST1 runs
therefore saw 8,822 of 9,846 rows. Source: artidoro/qlora qlora.py, `train_test_split(test_size=max_eval_samples,
shuffle=True, seed=42)`; the same rows are held out here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config.schema import AssistantTurns, DatasetConfig, EvalSource, TrainConfig
from harness.data.formats import STEP_BY_STEP
from harness.data.tokens import EncodedExample, EncodedExamples, Lengths, TokenizedDataset

HOLDOUT_SEED = 42
_EVAL_STREAM = 0x6865_6C64  # keeps the draw of the rows apart from the order of examples, which has the same seed


@dataclass(frozen=True, slots=True)
class Subset:
    """A part of tokenized data, in the order of the whole."""

    examples: EncodedExamples
    kept: Lengths

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.examples[int(self.kept[index])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """Tokenized data, divided into what trains and what is held out."""

    examples: EncodedExamples  # that train
    num_characters: Lengths  # of each of them
    held_out: EncodedExamples | None  # None: nothing is held out of these rows to measure the loss on
    num_twins: int = 0  # examples that are equal to a held-out one, and so neither train nor are measured


def divided(
    examples: EncodedExamples, num_characters: Lengths, train: TrainConfig, lines: NDArray[np.int64] | None = None
) -> Divided:
    """Takes the original's holdout out of the examples, and of what is left the rows for the held-out loss.

    Args:
        examples: all of them.
        num_characters: of each.
        train: says how many rows are held out.
        lines: the row of each example in its file; examples of one row follow each other. None: each is a row.

    Raises:
        ValueError: no row is left to train on.
    """
    kept = _after_original_holdout(len(examples), train)
    if train.eval_rows == 0 or train.eval_source is EvalSource.split:
        if len(kept) == len(examples):
            return Divided(examples=examples, num_characters=num_characters, held_out=None)
        return Divided(examples=Subset(examples, kept), num_characters=num_characters[kept], held_out=None)
    rows = _row_numbers(len(examples), lines)[kept]
    names = np.unique(rows)
    if problem := holdout_problem(train, len(names)):
        raise ValueError(problem + ("" if lines is None else " (what stands on one line of a file is one row)"))
    drawn = np.random.default_rng([train.data_seed, _EVAL_STREAM]).permutation(names)[: train.eval_rows]
    is_held_out = np.isin(rows, drawn)
    held_out, others = kept[is_held_out], kept[~is_held_out]
    trains = others[~_twins(examples, num_characters, held_out, others)]
    if not len(trains):
        raise ValueError(f"train.eval_rows={train.eval_rows}: all other rows are equal to held-out ones")
    return Divided(
        examples=Subset(examples, trains),
        num_characters=num_characters[trains],
        held_out=Subset(examples, held_out),
        num_twins=len(others) - len(trains),
    )


def shared_lines(dataset: DatasetConfig, data: TokenizedDataset) -> Lengths | None:
    """The row of each example, where one row becomes several that are held out and chosen together; None elsewhere."""
    several = dataset.assistant_turns is AssistantTurns.all or dataset.format == STEP_BY_STEP
    return data.lines if several else None


def _twins(examples: EncodedExamples, num_characters: Lengths, held_out: Lengths, others: Lengths) -> NDArray[np.bool_]:
    """Which of the other examples are equal to a held-out one. Reads those alone that are as long in characters."""
    contents = {_content(examples[int(place)]) for place in held_out}
    found = np.isin(num_characters[others], num_characters[held_out])
    for number in np.flatnonzero(found):
        found[number] = _content(examples[int(others[number])]) in contents
    return found


def _content(example: EncodedExample) -> tuple[bytes, int]:
    return example.input_ids.tobytes(), example.num_source


def holdout_problem(train: TrainConfig, num_rows: int) -> str | None:
    """Why so many rows can't be held out; None if they can.

    Args:
        train: asks for them.
        num_rows: those that the original's holdout leaves.
    """
    if train.eval_rows == 0 or train.eval_source is EvalSource.split or train.eval_rows < num_rows:
        return None
    return (
        f"train.eval_rows={train.eval_rows}: there are {num_rows} rows, and one at least must be left to train on; "
        "give fewer"
    )


def num_training_rows(train: TrainConfig, num_rows: int) -> int:
    """The rows that are left to train on."""
    taken = train.eval_rows if train.eval_source is EvalSource.holdout else 0
    return num_rows - train.original_eval_carve - taken


def _after_original_holdout(num_examples: int, train: TrainConfig) -> Lengths:
    """The places of the examples that the original would train on, in order.

    Raises:
        ValueError: none is left.
    """
    carve = train.original_eval_carve
    if carve == 0:
        return np.arange(num_examples)
    if carve >= num_examples:
        raise ValueError(
            f"train.original_eval_carve={carve}: the dataset has {num_examples} rows, and one at "
            "least must be left to train on; set it to 0"
        )
    return np.sort(np.random.default_rng(HOLDOUT_SEED).permutation(num_examples)[carve:])


def _row_numbers(num_examples: int, lines: NDArray[np.int64] | None) -> Lengths:
    """A number for each example that is equal for the examples of one row."""
    if lines is None:
        return np.arange(num_examples)
    return np.concatenate([[0], np.cumsum(np.diff(lines) != 0)]).astype(np.int64)

"""The rows that the original's `do_eval` took out of training, by the split that it used."""

import numpy as np
import pytest
from datasets import Dataset

from harness.config.schema import TrainConfig
from harness.data.holdout import without_holdout
from harness.data.tokens import EncodedExamples, TokenizedExample

ROWS: EncodedExamples = [
    TokenizedExample(input_ids=np.array([number], dtype=np.int32), num_source=0) for number in range(50)
]
LENGTHS = np.arange(50, dtype=np.int64)


def test_the_rows_left_are_those_that_datasets_leaves() -> None:
    split = Dataset.from_dict({"row": list(range(50))}).train_test_split(test_size=11, shuffle=True, seed=42)
    examples, lengths = without_holdout(ROWS, LENGTHS, TrainConfig(original_eval_carve=11))
    kept = [examples[index].input_ids[0] for index in range(len(examples))]
    assert kept == sorted(split["train"]["row"]) == lengths.tolist()


def test_nothing_is_left_out_by_default() -> None:
    examples, lengths = without_holdout(ROWS, LENGTHS, TrainConfig())
    assert examples is ROWS
    assert lengths is LENGTHS


def test_one_row_at_least_must_be_left() -> None:
    with pytest.raises(ValueError, match=r"train\.original_eval_carve=50: the dataset has 50 rows"):
        without_holdout(ROWS, LENGTHS, TrainConfig(original_eval_carve=50))

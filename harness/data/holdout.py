"""Holds rows out of training, as the original did by mistake: its `do_eval` held out 1,024 rows.

QLoRA's OASST1 runs therefore saw 8,822 of 9,846 rows; `train.original_eval_carve=1024` does the same. Source:
artidoro/qlora qlora.py, `train_test_split(test_size=max_eval_samples, shuffle=True, seed=42)`; the same rows are
held out here.
"""

from dataclasses import dataclass

import numpy as np

from harness.config.schema import TrainConfig
from harness.data.tokens import EncodedExample, EncodedExamples, Lengths

HOLDOUT_SEED = 42


@dataclass(frozen=True, slots=True)
class Subset:
    """A part of tokenized data, in the order of the whole."""

    examples: EncodedExamples
    kept: Lengths

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.examples[int(self.kept[index])]


def without_holdout(
    examples: EncodedExamples, num_characters: Lengths, train: TrainConfig
) -> tuple[EncodedExamples, Lengths]:
    """Takes the holdout of `train.original_eval_carve` random rows out of the examples; 0 takes none out.

    Raises:
        ValueError: no row is left to train on.
    """
    if train.original_eval_carve == 0:
        return examples, num_characters
    if train.original_eval_carve >= len(examples):
        raise ValueError(
            f"train.original_eval_carve={train.original_eval_carve}: the dataset has {len(examples)} rows, and one at "
            "least must be left to train on; set it to 0"
        )
    kept = np.sort(np.random.default_rng(HOLDOUT_SEED).permutation(len(examples))[train.original_eval_carve :])
    return Subset(examples, kept), num_characters[kept]

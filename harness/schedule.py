"""Which examples a step sees, and at what learning rate: functions of the step alone.

Neither holds state, so a resumed run needs nothing but its step number to go on exactly.
"""

import math

import numpy as np

from harness.schema import Schedule, TrainConfig


def num_steps(train: TrainConfig, num_examples: int) -> int:
    """Optimizer steps of a run: `max_steps`, but at most `max_epochs` passes over the data."""
    assert train.max_steps is not None
    assert train.batch_size is not None
    by_epochs = math.ceil(train.max_epochs * num_examples / train.batch_size)
    return max(1, min(train.max_steps, by_epochs))


def batch_indices(train: TrainConfig, num_examples: int, step: int) -> list[int]:
    """The examples of one step (counted from 0): each epoch a fresh seeded permutation, none left out."""
    assert train.batch_size is not None
    first = step * train.batch_size
    wanted = range(first, first + train.batch_size)
    order: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    for position in (wanted[0], wanted[-1]):
        epoch = position // num_examples
        for missing in range(wanted[0] // num_examples, epoch + 1):
            if missing not in order:
                order[missing] = np.random.default_rng([train.data_seed, missing]).permutation(num_examples)
    return [int(order[position // num_examples][position % num_examples]) for position in wanted]


def learning_rate(train: TrainConfig, step: int, total_steps: int) -> float:
    """Of the step counted from 0: linear warm-up, then constant, linear or cosine decay to 0."""
    assert train.learning_rate is not None
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    if train.schedule is Schedule.constant:
        return train.learning_rate
    progress = (step - train.warmup_steps) / max(1, total_steps - train.warmup_steps)
    if train.schedule is Schedule.linear:
        return train.learning_rate * (1 - progress)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

"""Which examples a step sees, and at what learning rate: functions of the step alone.

Neither holds state, so a resumed run needs nothing but its step number to go on exactly.
"""

import math

import numpy as np

from harness.config.schema import Schedule, TrainConfig
from harness.data.tokens import Lengths


def num_steps(train: TrainConfig, num_examples: int) -> int:
    """Optimizer steps of a run: `max_steps`, but at most `max_epochs` passes over the data."""
    assert train.max_steps is not None
    assert train.batch_size is not None
    assert train.max_epochs is not None
    by_epochs = math.ceil(train.max_epochs * num_examples / train.batch_size)
    return max(1, min(train.max_steps, by_epochs))


def batch_indices(train: TrainConfig, num_characters: Lengths, step: int) -> list[int]:
    """The examples of one step (counted from 0): each epoch a fresh seeded order, none left out.

    Args:
        train: data_seed, batch_size and group_by_length count.
        num_characters: of each example; their number is the number of examples.
        step: counted from 0.
    """
    assert train.batch_size is not None
    num_examples = len(num_characters)
    positions = range(step * train.batch_size, (step + 1) * train.batch_size)
    epochs = range(positions[0] // num_examples, positions[-1] // num_examples + 1)
    order = {epoch: epoch_order(train, num_characters, epoch) for epoch in epochs}
    return [int(order[position // num_examples][position % num_examples]) for position in positions]


def epoch_order(train: TrainConfig, num_characters: Lengths, epoch: int) -> Lengths:
    """The order of one epoch: a permutation, or one whose neighbours have similar lengths."""
    order: Lengths = np.random.default_rng([train.data_seed, epoch]).permutation(len(num_characters))
    if not train.group_by_length:
        return order
    assert train.batch_size is not None
    return group_by_length(order, num_characters, train.batch_size)


def group_by_length(order: Lengths, lengths: Lengths, batch_size: int) -> Lengths:
    """Sorts each stretch of 50 batches (fewer for a small set) from long to short; the longest example comes first.

    Source: transformers' LengthGroupedSampler, which the original used on lengths in characters.
    """
    stretch = batch_size * max(1, min(len(order) // (batch_size * 4), 50))
    parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
    parts = [part[np.argsort(-lengths[part], kind="stable")] for part in parts]
    longest = int(np.argmax([lengths[part[0]] for part in parts]))
    parts[0][0], parts[longest][0] = parts[longest][0], parts[0][0]
    return np.concatenate(parts)


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

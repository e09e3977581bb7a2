"""The examples of a step and its learning rate, as functions of the step's number alone.

Neither holds state, so a resumed run needs nothing but its step number to go on exactly.
"""

import math

import numpy as np

from harness.config.schema import Mode, Schedule, TrainConfig
from harness.data.tokens import Lengths


def num_steps(train: TrainConfig, num_examples: int) -> int:
    """Optimizer steps of a run: `max_steps`, or `max_epochs` passes over the data; the fewer where both are given.

    Raises:
        ValueError: more warm-up steps than that.
    """
    assert train.batch_size is not None
    limits = [] if train.max_steps is None else [train.max_steps]
    if train.max_epochs is not None:
        limits.append(math.ceil(train.max_epochs * num_examples / train.batch_size))
    total = max(1, min(limits))
    if train.warmup_steps > total:
        raise ValueError(
            f"train.warmup_steps={train.warmup_steps}: the run has {total} steps on {num_examples} examples, so the "
            "rate would never reach train.learning_rate; lower it, or say train.warmup_ratio=0.03"
        )
    return total


def num_warmup_steps(train: TrainConfig, total_steps: int) -> int:
    """How many of a run's steps the rate rises over. Source: transformers' `get_warmup_steps` (rounded up)."""
    return train.warmup_steps or math.ceil(train.warmup_ratio * total_steps)


def batch_indices(train: TrainConfig, num_characters: Lengths, step: int) -> list[int]:
    """The indices of one step's examples. Each epoch has a new seeded order, and leaves no example out.

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
    """The learning rate of a step, counted from 0: linear warm-up, then constant, or linear or cosine decay to 0.

    The first of W warm-up steps has the rate 1/W. In `train.mode=faithful` it has 0, as transformers' schedules.
    """
    assert train.learning_rate is not None
    warmup = num_warmup_steps(train, total_steps)
    if step < warmup:
        return train.learning_rate * (step + int(train.mode is Mode.fast)) / warmup
    if train.schedule is Schedule.constant:
        return train.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    if train.schedule is Schedule.linear:
        return train.learning_rate * (1 - progress)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

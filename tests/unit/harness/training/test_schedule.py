"""Which examples a step sees and at what rate: functions of the step alone, none left out, equal to transformers'."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from harness.config.schema import Mode, Schedule, TrainConfig
from harness.training.schedule import batch_indices, group_by_length, learning_rate, num_steps, num_warmup_steps

SIZES = st.integers(1, 40)


def config(**values: object) -> TrainConfig:
    return TrainConfig(**{"max_steps": 10, "batch_size": 4, "learning_rate": 1e-3, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "num_examples", "expected"),
    [
        (1875, 4.0, 9846, 1875),
        (1875, 4.0, 24, 24),
        (5, 4.0, 24, 5),
        (100, 0.5, 9, 2),
        (100, 1.0, 9, 3),
        (10, 0.01, 1, 1),
    ],
)
def test_num_steps(max_steps: int, max_epochs: float, num_examples: int, expected: int) -> None:
    assert num_steps(config(max_steps=max_steps, max_epochs=max_epochs), num_examples) == expected


def test_one_limit_alone_binds() -> None:
    assert num_steps(config(max_steps=500), 10) == 500
    assert num_steps(config(max_steps=None, max_epochs=3.0), 20_000) == 15_000


def test_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps=11: the run has 6 steps on 24 examples"):
        num_steps(config(max_steps=None, max_epochs=1.0, warmup_steps=11), 24)


@pytest.mark.parametrize("schedule", [Schedule.linear, Schedule.cosine])
def test_faithful_warm_up_and_decay_are_the_trainers(schedule: Schedule) -> None:
    make = get_linear_schedule_with_warmup if schedule is Schedule.linear else get_cosine_schedule_with_warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    total = 101
    wanted = TrainingArguments(warmup_steps=0.03).get_warmup_steps(total)
    reference = make(optimizer, num_warmup_steps=wanted, num_training_steps=total)
    train = config(schedule=schedule, mode=Mode.faithful, warmup_ratio=0.03)
    assert num_warmup_steps(train, total) == wanted == 4
    for step in range(total):
        assert learning_rate(train, step, total) == pytest.approx(reference.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        reference.step()


@settings(deadline=None)  # a loaded machine is no failure
@given(num_examples=SIZES, batch_size=SIZES, seed=st.integers(0, 5), grouped=st.booleans())
def test_every_epoch_shows_every_example_once(num_examples: int, batch_size: int, seed: int, grouped: bool) -> None:
    train = config(batch_size=batch_size, data_seed=seed, group_by_length=grouped)
    lengths = np.arange(num_examples, dtype=np.int64)[::-1].copy() % 7
    steps = math.ceil(3 * num_examples / batch_size)
    seen = [index for step in range(steps) for index in batch_indices(train, lengths, step)]
    assert len(seen) == steps * batch_size
    for epoch in range(3):
        assert sorted(seen[epoch * num_examples : (epoch + 1) * num_examples]) == list(range(num_examples))


@settings(deadline=None)  # a loaded machine is no failure
@given(num_examples=SIZES, batch_size=SIZES, step=st.integers(0, 1000))
def test_a_step_needs_no_earlier_one(num_examples: int, batch_size: int, step: int) -> None:
    train, lengths = config(batch_size=batch_size), np.ones(num_examples, dtype=np.int64)
    late = batch_indices(train, lengths, step)
    batch_indices(train, lengths, 0)
    assert batch_indices(train, lengths, step) == late
    most = math.ceil(batch_size / num_examples) + 1
    assert max(Counter(late).values()) <= most


def test_epochs_and_seeds_differ() -> None:
    lengths = np.ones(64, dtype=np.int64)
    first, second = (batch_indices(config(batch_size=64), lengths, step) for step in (0, 1))
    assert first != second
    assert first != batch_indices(config(batch_size=64, data_seed=7), lengths, 0)
    assert first == batch_indices(config(batch_size=64, seed=7), lengths, 0), "the adapter's seed is another one"


def test_grouping_makes_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 400)

    def spread(grouped: bool) -> float:
        train = config(batch_size=8, group_by_length=grouped)
        return float(np.mean([np.ptp(lengths[batch_indices(train, lengths, step)]) for step in range(50)]))

    assert spread(True) < spread(False) / 5
    assert lengths[batch_indices(config(batch_size=8, group_by_length=True), lengths, 0)[0]] == lengths.max()


@pytest.mark.parametrize("schedule", [Schedule.linear, Schedule.cosine])
def test_decay_is_transformers_own(schedule: Schedule) -> None:
    make = get_linear_schedule_with_warmup if schedule is Schedule.linear else get_cosine_schedule_with_warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    reference = make(optimizer, num_warmup_steps=0, num_training_steps=20)
    for step in range(20):
        assert learning_rate(config(schedule=schedule), step, 20) == pytest.approx(
            reference.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        reference.step()


@settings(deadline=None)  # a loaded machine is no failure
@given(warmup=st.integers(0, 30), total=st.integers(1, 50), schedule=st.sampled_from(Schedule))
def test_rate_rises_to_the_peak_and_never_above(warmup: int, total: int, schedule: Schedule) -> None:
    train = config(schedule=schedule, warmup_steps=warmup, max_steps=50)
    rates = [learning_rate(train, step, total) for step in range(total)]
    assert all(0 <= rate <= 1e-3 + 1e-12 for rate in rates)
    assert all(rate > 0 for rate in rates), "no step is wasted at a rate of zero"
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup < total:
        assert rates[warmup] == 1e-3


def test_groups_by_hand() -> None:
    """Stretches of two batches of one (a quarter of eight), each from long to short; then the longest comes first."""
    lengths = np.arange(1, 9)
    assert group_by_length(np.arange(8), lengths, batch_size=1).tolist() == [7, 0, 3, 2, 5, 4, 1, 6]
    few = group_by_length(np.array([2, 0, 3, 1, 4]), np.array([10, 50, 30, 40, 20]), batch_size=1)
    assert few.tolist() == [1, 0, 3, 2, 4]  # stretches of one
    many = group_by_length(np.arange(204), np.arange(204), batch_size=1)  # of 50, not of 51
    assert many[:51].tolist() == [203, *range(48, -1, -1), 99]


def test_warm_up_by_hand() -> None:
    train = config(schedule=Schedule.linear, warmup_steps=2, learning_rate=0.5)
    assert [learning_rate(train, step, 6) for step in range(6)] == [0.25, 0.5, 0.5, 0.375, 0.25, 0.125]
    faithful = config(schedule=Schedule.constant, warmup_steps=2, learning_rate=0.5, mode=Mode.faithful)
    assert [learning_rate(faithful, step, 4) for step in range(4)] == [0.0, 0.25, 0.5, 0.5]
    assert num_steps(config(max_steps=3, warmup_steps=3), 100) == 3  # the last step is at the rate

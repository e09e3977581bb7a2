"""Masks that a GPU draws for a whole row: what a token drops depends on its example alone, and is random enough."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.nn import dropout
from harness.nn.dropout import Drawn, RowMasks, draw_mask, mix_seed
from tests.philox import philox_4x32_10, philox_on_cpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _philox() -> Iterator[None]:
    with philox_on_cpu():
        yield


def example(key: int, num_tokens: int = 40, seed: int = 7, probability: float = 0.3) -> Drawn:
    return Drawn(num_tokens=num_tokens, probability=probability, seed=mix_seed(seed, key, 0))


def test_the_reference_is_philox() -> None:
    """Known answers of Random123's kat_vectors."""
    nothing = philox_4x32_10(np.zeros(1, np.uint64), np.zeros(1, np.uint64))
    assert [int(word[0]) for word in nothing] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_a_mask_is_the_same_wherever_its_example_lies() -> None:
    alone = RowMasks([example(3)], CPU).draw(5, 33)
    row = RowMasks([example(1, 17), example(3), example(2, 9, seed=8, probability=0.0)], CPU)
    assert torch.equal(row.draw(5, 33)[17:57], alone)
    row.draw(6, 64)  # other layers in between change nothing
    assert torch.equal(row.draw(5, 33)[17:57], alone)
    assert row.draw(5, 33)[57:].all()  # of probability 0


def test_a_longer_example_begins_with_the_mask_of_a_shorter_one() -> None:
    short, long = (RowMasks([example(3, num_tokens)], CPU).draw(0, 16) for num_tokens in (10, 30))
    assert torch.equal(long[:10], short)


def test_large_rows_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RowMasks([example(1), example(2)], CPU).draw(3, 50)
    monkeypatch.setattr(dropout, "DRAW_BYTES", 4 * 50 * 7)
    assert torch.equal(RowMasks([example(1), example(2)], CPU).draw(3, 50), whole)


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_as_many_are_dropped_as_asked_for(probability: float) -> None:
    mask = RowMasks([example(0, 500, probability=probability)], CPU).draw(0, 1000)
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert abs((~mask).double().mean().item() - probability) < 4 * deviation
    by_column, by_token = (~mask).double().mean(0), (~mask).double().mean(1)
    for means, count in ((by_column, 500), (by_token, 1000)):  # neither columns nor tokens drop more than others
        expected = probability * (1 - probability) / count
        assert means.var().item() == pytest.approx(expected, rel=0.2)


def test_tokens_columns_layers_examples_and_members_are_independent() -> None:
    layers = [RowMasks([example(0, 400)], CPU).draw(layer, 500) for layer in (0, 1)]
    other_example = RowMasks([example(1, 400)], CPU).draw(0, 500)
    other_member = RowMasks([example(0, 400, seed=8)], CPU).draw(0, 500)
    first = layers[0]
    pairs = [
        (first, layers[1]),
        (first, other_example),
        (first, other_member),
        (first[:-1], first[1:]),
        (first[:, :-1], first[:, 1:]),
        (first[:, :-4], first[:, 4:]),  # from two calls of the generator
        (first[:-1, :-1] ^ first[1:, :-1], first[:-1, 1:] ^ first[1:, 1:]),  # a pattern of rows times columns
    ]
    for one, two in pairs:
        correlation = np.corrcoef(one.flatten().numpy(), two.flatten().numpy())[0, 1]
        assert abs(correlation) < 4 / one.numel() ** 0.5


def test_a_gpus_mask_is_drawn_by_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, tuple[str, int]]] = []
    gpu = torch.device("cuda")
    mask: Any = SimpleNamespace(device=gpu, bernoulli_=lambda kept, generator: drawn.append((kept, generator)))
    monkeypatch.setattr(
        torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: (device.type, seed))
    )
    draw_mask(mask, 0.25, 7)
    assert drawn == [(0.75, ("cuda", 7))]

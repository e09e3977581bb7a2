"""Data parallel training: a step over two ranks equals the step on one, and trouble on one is trouble on all."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.devices.hardware import Place, place_of_environment
from harness.devices.ranks import ALONE, PeerLostError, Ranks
from harness.nn.batch import share_out
from harness.training.checkpoint import checkpoints
from tests.processes.rank_processes import on_ranks, values
from tests.processes.shared_steps import Case, Trained, assert_same_training, make_items, train
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(ALONE, Case(model=model, folder=tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def pair(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    return values(on_ranks(2, train, Case(model=model, folder=tmp_path_factory.mktemp("pair"))))


def test_two_ranks_lose_what_one_process_loses(alone: Trained, pair: list[Trained]) -> None:
    assert [len(losses) for losses in alone.losses.values()] == [6, 4]
    assert_same_training(pair[0], alone)


def test_ranks_hold_the_same_weights_and_one_of_them_reports(pair: list[Trained]) -> None:
    assert pair[1].losses == {"a": [], "b": []}
    for name, tensors in pair[0].weights.items():
        assert all(torch.equal(value, pair[1].weights[name][key]) for key, value in tensors.items())


def test_dropout_masks_belong_to_examples_not_to_ranks(model: Path, tmp_path: Path) -> None:
    single = train(ALONE, Case(model=model, folder=tmp_path / "alone", dropout=0.3))
    first, _ = values(on_ranks(2, train, Case(model=model, folder=tmp_path / "pair", dropout=0.3)))
    assert_same_training(first, single)


def test_more_ranks_than_examples(model: Path, tmp_path: Path, alone: Trained) -> None:
    """A batch holds at most five examples here."""
    assert_same_training(values(on_ranks(6, train, Case(model=model, folder=tmp_path)))[0], alone)


def test_one_rank_is_asked_to_stop_and_resuming_is_bit_identical(
    model: Path, tmp_path: Path, pair: list[Trained]
) -> None:
    stopped = values(on_ranks(2, train, Case(model=model, folder=tmp_path, stop_after=3)))
    assert [trained.interrupted for trained in stopped] == [True, True]
    assert checkpoints(tmp_path / "a" / "checkpoint")[0].name == "step-00000003"
    resumed = values(on_ranks(2, train, Case(model=model, folder=tmp_path)))
    assert "resumed at step 3" in resumed[1].notes["a"]
    assert stopped[0].losses["a"] + resumed[0].losses["a"] == pair[0].losses["a"]
    for name, tensors in pair[0].weights.items():
        assert all(torch.equal(value, resumed[0].weights[name][key]) for key, value in tensors.items())


def test_a_killed_rank_ends_the_other_and_the_next_start_goes_on(
    model: Path, tmp_path: Path, pair: list[Trained]
) -> None:
    first, second = on_ranks(2, train, Case(model=model, folder=tmp_path, kill_after=3))
    assert second.exit_code == -9
    assert first.error is not None
    assert first.error.startswith("PeerLostError: another rank ended")
    resumed = values(on_ranks(2, train, Case(model=model, folder=tmp_path)))
    assert "resumed at step 2" in resumed[0].notes["a"]
    for name, tensors in pair[0].weights.items():
        assert all(torch.equal(value, resumed[0].weights[name][key]) for key, value in tensors.items())


def test_out_of_memory_on_one_rank_halves_the_rows_of_all(model: Path, tmp_path: Path, alone: Trained) -> None:
    ranks = values(on_ranks(2, train, Case(model=model, folder=tmp_path, cramped=40)))
    for trained in ranks:
        assert any("out of memory at step" in note for note in trained.notes["a"])
    assert_same_training(ranks[0], alone)


def test_ranks_that_see_other_checkpoints_refuse(model: Path, tmp_path: Path) -> None:
    values(on_ranks(2, train, Case(model=model, folder=tmp_path, stop_after=3)))
    for outcome in on_ranks(2, train, Case(model=model, folder=tmp_path, apart=True)):
        assert outcome.error is not None
        assert "one rank would go on from step 0, another from 3; paths.runs has to be" in outcome.error


@given(st.lists(st.integers(2, 50), max_size=30), st.integers(1, 5))
def test_shares_are_a_partition_in_order_and_even(lengths: list[int], num_ranks: int) -> None:
    shares = share_out(items := make_items(lengths), num_ranks)
    places = [[item.dropout_key for item in share] for share in shares]
    assert sorted(place for mine in places for place in mine) == list(range(len(items)))
    assert all(mine == sorted(mine) for mine in places)
    tokens = [sum(len(item.tokens) for item in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)


def test_place_of_environment() -> None:
    assert place_of_environment({}) is None
    assert place_of_environment({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) is None
    torchrun = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
    assert place_of_environment(torchrun) == Place(rank=3, size=4, local_rank=1)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("NCCL error: Cuda failure 2 'out of memory'", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", False),
        ("Connection closed by peer", True),
    ],
)
def test_a_lack_of_memory_is_no_lost_peer(monkeypatch: pytest.MonkeyPatch, text: str, lost: bool) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(RuntimeError, match=text) as caught:
        Ranks(rank=0, size=2, device=torch.device("cpu")).sum_numbers([1.0])
    assert isinstance(caught.value, PeerLostError) is lost


class Work:
    """A collective operation that is done in the very moment in which waiting for it runs out of time."""

    def __init__(self, failure: str = "") -> None:
        self.failure, self.completed = failure, False

    def is_completed(self) -> bool:
        return self.completed

    def wait(self, timeout: timedelta | None = None) -> None:
        if not self.completed:
            self.completed = True
            raise RuntimeError("Operation timed out!")
        if self.failure:
            raise RuntimeError(self.failure)


def test_an_operation_that_ends_as_the_look_up_does_has_not_failed() -> None:
    Ranks(rank=0, size=2, device=torch.device("cpu"))._wait(Work)  # type: ignore[arg-type]


def test_an_operation_that_fails_as_the_look_up_ends_is_said() -> None:
    with pytest.raises(PeerLostError, match="can't be reached: Connection closed by peer"):
        Ranks(rank=0, size=2, device=torch.device("cpu"))._wait(lambda: Work("Connection closed by peer"))  # type: ignore

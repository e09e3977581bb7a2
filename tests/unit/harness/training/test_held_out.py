"""The held-out loss while a group trains: it changes nothing, a group's numbers are those alone, a stop loses none."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import TrainConfig
from harness.nn.attention import PACKED
from harness.nn.batch import Item
from harness.training import held_out
from harness.training.checkpoint import checkpoints
from harness.training.group import Member
from harness.training.held_out import EvalPoint, HeldOut, is_due
from harness.training.loop import TrainingInterrupted, train_group
from tests.builders import make_examples, make_member, weights
from tests.tiny import make_checkpoint

MEASURED: dict[str, Any] = {"eval_rows": 5, "eval_every_steps": 2}
BEST: dict[str, Any] = MEASURED | {"keep_best": True, "learning_rate": 0.2, "max_grad_norm": 10.0}  # overshoots


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def make_bank(folder: Path) -> AdapterBank:
    return AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED)).eval()


def measured(name: str, tmp: Path, seed: int = 0, **changes: Any) -> tuple[Member, list[EvalPoint]]:
    member, _ = make_member(name, tmp, seed, **(MEASURED | changes))
    points: list[EvalPoint] = []
    member.held_out, member.on_eval = HeldOut(make_examples(99, count=5), 40), points.append
    return member, points


def losses(points: list[EvalPoint]) -> dict[int, float]:
    return {point.step: point.eval_loss for point in points}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_to_measure_changes_no_bit_of_the_training(folder: Path, tmp_path: Path) -> None:
    plain, seen = make_bank(folder), make_bank(folder)
    train_group(plain, [make_member("a", tmp_path / "plain")[0]])
    member, points = measured("a", tmp_path)
    torch.manual_seed(7)
    stream = torch.get_rng_state()
    train_group(seen, [member])
    assert torch.equal(torch.get_rng_state(), stream)
    assert same(weights(plain, "a"), weights(seen, "a"))
    assert [point.step for point in points] == [2, 4, 6]


def test_the_loss_is_the_mean_over_all_target_tokens_without_dropout(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    member, points = measured("a", tmp_path, max_microbatch_tokens=40)
    train_group(bank, [member])
    nats, count = 0.0, 0
    for example in make_examples(99, count=5):
        item = Item(member="a", tokens=example.input_ids, num_source=example.num_source, dropout_key=0, weight=1.0)
        with torch.no_grad():
            nats += float(bank.item_losses([item]).sum(dtype=torch.float64))
        count += item.num_targets
    assert points[-1].eval_loss == pytest.approx(nats / count, rel=1e-6)
    assert points[-1].eval_bits_per_byte == pytest.approx(nats / math.log(2) / 40, rel=1e-6)


def test_in_a_group_it_is_what_it_is_alone(folder: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"max_steps": 3, "adapter": {"lora_r": 8}}, {"eval_every_steps": 3}]
    group = [measured(f"m{n}", tmp_path / "group", seed=n, **more) for n, more in enumerate(changes)]
    train_group(make_bank(folder), [member for member, _ in group])
    for n, more in enumerate(changes):
        member, points = measured(f"m{n}", tmp_path / "alone", seed=n, **more)
        train_group(make_bank(folder), [member])
        together = losses(group[n][1])
        assert together.keys() == losses(points).keys()
        for step, loss in losses(points).items():
            assert together[step] == pytest.approx(loss, abs=1e-6)
    assert list(losses(group[1][1])) == [2, 3]
    assert list(losses(group[2][1])) == [3, 6]


@pytest.mark.parametrize("stop_after", [1, 2, 5, 6])
def test_a_stopped_run_goes_on_to_the_same_numbers_and_the_same_best(
    folder: Path, tmp_path: Path, stop_after: int
) -> None:
    straight, resumed = make_bank(folder), make_bank(folder)
    member, wanted = measured("a", tmp_path / "straight", **BEST)
    train_group(straight, [member])
    first, before = measured("a", tmp_path, **BEST)
    steps: list[int] = []
    first.on_step = lambda metrics: steps.append(metrics.step)
    with pytest.raises(TrainingInterrupted):  # the measurement after that step is cut off, too
        train_group(make_bank(folder), [first], should_stop=lambda: len(steps) >= stop_after)
    second, after = measured("a", tmp_path, **BEST)
    train_group(resumed, [second])
    assert losses(before) | losses(after) == losses(wanted)
    assert set(losses(before)) & set(losses(after)) == set()
    assert same(weights(straight, "a"), weights(resumed, "a"))


def test_the_weights_of_the_lowest_loss_are_kept(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    member, points = measured("a", tmp_path, **BEST)
    train_group(bank, [member])
    best = min(points, key=lambda point: point.eval_loss)
    assert best.step < 6, "the rate is too high for the last step to be the best"
    assert member.best is not None
    assert (member.best.step, member.best.eval_loss) == (best.step, best.eval_loss)
    assert any(f"weights of step {best.step}" in note for note in member.notes)
    shorter, _ = measured("a", tmp_path / "short", **(BEST | {"keep_best": False, "max_steps": best.step}))
    until = make_bank(folder)
    train_group(until, [shorter])
    assert same(weights(bank, "a"), weights(until, "a"))


def test_a_member_stops_where_it_is_told_to_and_goes_on_from_there_later(folder: Path, tmp_path: Path) -> None:
    straight, bank, later = make_bank(folder), make_bank(folder), make_bank(folder)
    train_group(straight, [measured("a", tmp_path / "straight")[0]])
    stopped, points = measured("a", tmp_path)
    stopped.until = 3
    other, _ = measured("b", tmp_path, seed=1)
    train_group(bank, [stopped, other])
    assert (stopped.step, stopped.stopped, other.step, other.stopped) == (3, True, 6, False)
    assert [point.step for point in points] == [2, 3]
    assert next(path.name for path in checkpoints(stopped.checkpoint_folder)) == "step-00000003"
    again, points = measured("a", tmp_path)
    train_group(later, [again])
    assert again.notes == ["resumed at step 3"]
    assert [point.step for point in points] == [4, 6]
    assert same(weights(straight, "a"), weights(later, "a"))


def test_a_stop_of_the_group_leaves_the_checkpoint_of_a_stopped_member_whole(folder: Path, tmp_path: Path) -> None:
    stopped, _ = measured("a", tmp_path)
    stopped.until = 3
    other, _ = measured("b", tmp_path, seed=1)
    steps: list[int] = []
    other.on_step = lambda metrics: steps.append(metrics.step)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [stopped, other], should_stop=lambda: len(steps) == 5)
    again, points = measured("a", tmp_path)
    again.until = 3
    train_group(make_bank(folder), [again])
    assert (again.step, again.stopped, points) == (3, True, []), "it was measured there before"
    final, _ = measured("a", tmp_path)
    bank, straight = make_bank(folder), make_bank(folder)
    train_group(bank, [final])
    train_group(straight, [measured("a", tmp_path / "straight")[0]])
    assert same(weights(bank, "a"), weights(straight, "a"))


def test_a_loss_that_is_not_finite_fails_its_member_alone(folder: Path, tmp_path: Path) -> None:
    bank, alone = make_bank(folder), make_bank(folder)
    bad, _ = measured("bad", tmp_path, eval_every_steps=1)
    good, points = measured("good", tmp_path, seed=1)
    bad.on_step = lambda _: next(iter(bank.member_parameters("bad").values())).data.fill_(float("nan"))
    train_group(bank, [bad, good])
    assert bad.error is not None
    assert "held-out loss nan at step 1" in bad.error
    member, wanted = measured("good", tmp_path / "alone", seed=1)
    train_group(alone, [member])
    assert losses(points) == pytest.approx(losses(wanted), abs=1e-6)


def test_rows_are_halved_where_the_device_has_no_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    work = held_out.forward_only

    def narrow(bank: Any, row: Any) -> Any:
        sizes.append(sum(len(item.tokens) for item in row))
        if sizes[-1] > 30:
            raise torch.OutOfMemoryError("no room")
        return work(bank, row)

    member, wanted = measured("a", tmp_path / "roomy")
    train_group(make_bank(folder), [member])
    monkeypatch.setattr(held_out, "forward_only", narrow)
    member, points = measured("a", tmp_path, max_microbatch_tokens=200)
    train_group(make_bank(folder), [member])
    assert losses(points) == pytest.approx(losses(wanted), abs=1e-6)
    assert max(sizes) > 30
    monkeypatch.setattr(held_out, "forward_only", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(torch.OutOfMemoryError, match="none"):
        train_group(make_bank(folder), [measured("c", tmp_path)[0]])


@pytest.mark.parametrize(
    ("every", "until", "steps"),
    [(None, None, [10]), (4, None, [4, 8, 10]), (None, 3, [3, 4, 5, 6, 7, 8, 9, 10]), (5, 10, [5, 10])],
)
def test_when_it_is_measured(every: int | None, until: int | None, steps: list[int]) -> None:
    """A run that stopped at its `until` is measured where it stands, if it went beyond before."""
    train = replace(TrainConfig(), eval_rows=1, eval_every_steps=every)
    assert [step for step in range(11) if is_due(train, step, 10, until)] == steps

"""A group that stays full: members leave when they end, others take their places, and none notices anything of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.nn.attention import PACKED
from harness.nn.member_row import Kernels
from harness.training import step
from harness.training.group import Member, Places, StepMetrics
from harness.training.held_out import HeldOut
from harness.training.loop import TrainingInterrupted, train_group
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def make_bank(folder: Path, kernels: Kernels | None = None) -> AdapterBank:
    bank = AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED)).eval()
    if kernels is not None:
        bank.row.kernels = kernels
    return bank


class Queue:
    """Members that wait for a place, and what those left that had one."""

    def __init__(self, bank: AdapterBank, number: int, waiting: Sequence[Member] = ()) -> None:
        self.bank, self.waiting = bank, list(waiting)
        self.left: dict[str, Any] = {}  # weights
        self.deferred: list[Member] = []
        self.asked: list[int] = []
        self.places = Places(number=number, on_end=self.end, refill=self.refill)

    def end(self, member: Member) -> None:
        assert member.optimizer is None, "its memory is free before others come"
        if member.deferred:
            self.deferred.append(member)
        self.left[member.run_id] = weights(self.bank, member.run_id) if member.error is None else member.error
        self.bank.remove_member(member.run_id)

    def refill(self, number: int) -> list[Member]:
        self.asked.append(number)
        new, self.waiting = self.waiting[:number], self.waiting[number:]
        return new


def test_who_joins_later_trains_as_alone(folder: Path, tmp_path: Path) -> None:
    steps = {"a": 2, "b": 6, "c": 3, "d": 4, "e": 1}
    made = {
        name: make_member(name, tmp_path / "group", seed, max_steps=number, adapter={"lora_dropout": 0.0})
        for seed, (name, number) in enumerate(steps.items())
    }
    members = [member for member, _ in made.values()]
    bank = make_bank(folder)
    queue = Queue(bank, 2, members[2:])
    sizes: list[list[str]] = []
    train_group(
        bank,
        members[:2],
        between_steps=lambda active: sizes.append([member.run_id for member in active]),
        places=queue.places,
    )
    assert set(queue.left) == set(steps)
    assert {name: len(log) for name, (_, log) in made.items()} == steps
    assert not bank.configs
    under_way = [set(names) for names in sizes]
    assert {"b", "c"} in under_way
    assert all(len(names) <= 2 for names in under_way)
    for seed, (name, number) in enumerate(steps.items()):
        alone = make_bank(folder)
        member, log = make_member(name, tmp_path / "alone", seed, max_steps=number, adapter={"lora_dropout": 0.0})
        train_group(alone, [member])
        assert [m.loss for m in made[name][1]] == pytest.approx([m.loss for m in log], abs=1e-5)
        for key, value in weights(alone, name).items():
            torch.testing.assert_close(value, queue.left[name][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("poison", ["nan", "exploding rate"])
def test_a_poisoned_member_changes_no_bit_of_the_others(folder: Path, tmp_path: Path, poison: str) -> None:
    """Against the same group whose first member leaves at the same step, because its claim was lost."""

    def trained(where: str, poisoned: bool) -> tuple[Queue, list[StepMetrics]]:
        bank = make_bank(folder)
        first, log = make_member("first", tmp_path / where)
        good, good_log = make_member("good", tmp_path / where, seed=1)
        queue = Queue(bank, 2, [make_member("next", tmp_path / where, seed=2)[0]])

        def spoil(metrics: StepMetrics) -> None:
            log.append(metrics)
            if metrics.step == 2 and poisoned:
                value = float("nan") if poison == "nan" else 1e30
                for parameter in bank.member_parameters("first").values():
                    parameter.data.fill_(value)

        first.on_step = spoil
        first.lost = lambda: not poisoned and len(log) >= 2
        train_group(bank, [first, good], places=queue.places)
        assert first.error is not None
        assert len(log) in (2, 3)
        return queue, good_log

    clean, clean_log = trained("clean", False)
    spoiled, spoiled_log = trained("spoiled", True)
    assert "not finite" in spoiled.left["first"]
    for name in ("good", "next"):
        for key, value in clean.left[name].items():
            assert torch.equal(value, spoiled.left[name][key]), (name, key)
    assert [m.loss for m in clean_log] == [m.loss for m in spoiled_log]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_where_products_are_shared_by_blocks_a_poisoned_member_fails_alone(
    folder: Path, tmp_path: Path, poison: float
) -> None:
    """As on a GPU without grouped products: 0 times what isn't finite would reach the others, in each kind of pass."""

    def trained(where: str, spoiled: bool) -> tuple[dict[str, list[StepMetrics]], dict[str, list[float]], Any]:
        bank = make_bank(folder, Kernels(together=True))
        made = {
            name: make_member(name, tmp_path / where, seed, adapter={"lora_dropout": 0.0}, eval_every_steps=1)
            for seed, name in enumerate(("bad", "good", "other"))
        }
        points: dict[str, list[float]] = {name: [] for name in made}
        for name, (member, _) in made.items():
            member.held_out = HeldOut(examples=member.examples, num_bytes=None)
            member.on_eval = lambda point, name=name: points[name].append(point.eval_loss)
        bad, log = made["bad"]

        def spoil(metrics: StepMetrics) -> None:
            log.append(metrics)
            if metrics.step == 2 and spoiled:
                for parameter in bank.member_parameters("bad").values():
                    parameter.data.fill_(poison)

        bad.on_step = spoil
        train_group(bank, [member for member, _ in made.values()])
        assert bool(bad.error) == spoiled
        assert [made[name][0].error for name in ("good", "other")] == [None, None]
        return {name: log for name, (_, log) in made.items()}, points, weights(bank, "good")

    clean, clean_points, clean_weights = trained("clean", False)
    logs, points, good = trained("spoiled", True)
    assert len(logs["bad"]) == 2
    for name in ("good", "other"):
        assert len(logs[name]) == len(clean[name]) == 6
        assert [m.loss for m in logs[name]] == pytest.approx([m.loss for m in clean[name]], abs=1e-5)
        assert points[name] == pytest.approx(clean_points[name], abs=1e-5)
        assert len(points[name]) == 6
    for key, value in clean_weights.items():
        torch.testing.assert_close(good[key], value, rtol=1e-4, atol=1e-5)


def test_a_group_without_room_shrinks_and_loses_no_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: make_member(name, tmp_path, seed, adapter={"lora_dropout": 0.0}) for seed, name in enumerate("abcd")}
    bank = make_bank(folder)
    queue = Queue(bank, 4)
    work = step.forward_backward
    full = {"now": False}

    def limited(inside: Any, row: Any) -> Any:
        if full["now"] and len(bank.configs) > 2 and not all(member.deferred for member in members[2:]):
            raise torch.OutOfMemoryError("no room for more than two")
        return work(inside, row)

    members = [member for member, _ in made.values()]
    log = members[0].on_step
    members[0].on_step = lambda metrics: (log(metrics), full.update(now=metrics.step >= 3))[0]
    monkeypatch.setattr(step, "forward_backward", limited)
    train_group(bank, members, places=queue.places)
    assert [member.run_id for member in queue.deferred] == ["c", "d"]
    assert [len(log) for _, log in made.values()] == [6, 6, 3, 3]
    assert queue.asked[0] == 0, "there is no place for others while there is none for those that left"
    assert any("2 runs at once instead of 4" in note for note in members[0].notes)
    later = [make_member(name, tmp_path, seed, adapter={"lora_dropout": 0.0}) for seed, name in enumerate("abcd")][2:]
    train_group(make_bank(folder), [member for member, _ in later])
    for name, (member, more) in zip("cd", later, strict=True):
        assert member.notes == ["resumed at step 3"]
        assert [m.step for m in [*made[name][1], *more]] == [1, 2, 3, 4, 5, 6]
        alone = make_bank(folder)
        one, log = make_member(name, tmp_path / "alone", "abcd".index(name), adapter={"lora_dropout": 0.0})
        train_group(alone, [one])
        assert [m.loss for m in [*made[name][1], *more]] == pytest.approx([m.loss for m in log], abs=1e-5)


def test_one_member_alone_has_nobody_to_leave(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(folder)
    monkeypatch.setattr(step, "forward_backward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(torch.OutOfMemoryError, match="none"):
        train_group(bank, [make_member("a", tmp_path)[0]], places=Queue(bank, 1).places)


def test_a_stop_saves_those_that_are_in(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    short, _ = make_member("short", tmp_path, max_steps=2)
    late, log = make_member("late", tmp_path, seed=1)
    queue = Queue(bank, 1, [late])
    with pytest.raises(TrainingInterrupted):
        train_group(bank, [short], should_stop=lambda: len(log) >= 3, places=queue.places)
    assert list(queue.left) == ["short"]
    assert not short.checkpoint_folder.joinpath("step-00000003").exists()
    assert late.checkpoint_folder.joinpath("step-00000003").is_dir()

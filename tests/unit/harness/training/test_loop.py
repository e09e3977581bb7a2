"""The training core: groups equal runs alone, resume is exact, PEFT reads what we save."""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import LossMean, Schedule
from harness.devices.ranks import Ranks
from harness.nn.attention import PACKED
from harness.nn.batch import Item, Segment
from harness.training import passes, starting, step
from harness.training.checkpoint import checkpoints
from harness.training.group import Group, Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from harness.training.passes import Pass
from harness.training.stopping import StopNow
from tests.builders import TRAIN, make_examples, make_member, weights
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def make_bank(folder: Path) -> AdapterBank:
    return AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED)).eval()


def test_loss_falls_and_reaches_only_the_adapter(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    before = {name: p.clone() for name, p in bank.base.named_parameters() if "lora" not in name}
    member, log = make_member("a", tmp_path, max_steps=40, learning_rate=2e-2, adapter={"lora_dropout": 0.0})
    train_group(bank, [member])
    assert [m.step for m in log] == list(range(1, 41))
    assert sum(m.loss for m in log[-5:]) < 0.9 * sum(m.loss for m in log[:5])
    assert all(torch.equal(p, dict(bank.base.named_parameters())[name]) for name, p in before.items())


def test_a_run_in_a_group_equals_the_run_alone(folder: Path, tmp_path: Path) -> None:
    specs: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 1, "adapter": {"lora_r": 8, "lora_dropout": 0.0}, "learning_rate": 1e-3, "max_steps": 3},
        {"seed": 2, "schedule": Schedule.cosine, "batch_size": 3, "loss_mean": LossMean.example},
    ]
    together = make_bank(folder)
    members = [make_member(f"m{i}", tmp_path / "group", **spec)[0] for i, spec in enumerate(specs)]
    train_group(together, members)
    for i, spec in enumerate(specs):
        alone = make_bank(folder)
        member, _ = make_member(f"m{i}", tmp_path / f"alone{i}", max_microbatch_tokens=64, **spec)
        train_group(alone, [member])
        assert member.step == members[i].step
        for key, value in weights(alone, f"m{i}").items():
            torch.testing.assert_close(value, weights(together, f"m{i}")[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_resume_is_bit_identical(folder: Path, tmp_path: Path, stop_after: int) -> None:
    straight = make_bank(folder)
    train_group(straight, [make_member("a", tmp_path / "straight")[0]])
    first, log = make_member("a", tmp_path / "stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [first], should_stop=lambda: len(log) >= stop_after)
    resumed = make_bank(folder)
    second, later = make_member("a", tmp_path / "stopped")
    train_group(resumed, [second])
    assert later[0].step == stop_after + 1
    assert second.notes == [f"resumed at step {stop_after}"]
    for key, value in weights(straight, "a").items():
        assert torch.equal(value, weights(resumed, "a")[key]), key


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "partial"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(folder: Path, tmp_path: Path, damage: str) -> None:
    log: list[StepMetrics]
    member, log = make_member("a", tmp_path)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [member], should_stop=lambda: len(log) >= 5)
    newest = checkpoints(tmp_path / "a" / "checkpoint")[0]
    state = newest / "state.safetensors"
    data = bytearray(state.read_bytes())
    if damage == "truncate":
        state.write_bytes(data[:-10])
    elif damage == "flip":
        data[-5] ^= 1
        state.write_bytes(data)
    elif damage == "empty":
        state.write_bytes(b"")
    else:
        (newest / "checkpoint.json").unlink()
    again, later = make_member("a", tmp_path)
    train_group(make_bank(folder), [again])
    assert later[0].step == 5  # from step 4, the one before
    assert any(str(newest) in note for note in again.notes)


def test_peft_reads_our_adapter_and_computes_the_same(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    member, _ = make_member("a", tmp_path)
    train_group(bank, [member])
    bank.save_member("a", tmp_path / "adapter", "tiny", "main")
    tokens = torch.tensor([[5, 9, 100, 200, 31]])
    with torch.no_grad():
        ours = bank.logits(bank(tokens, [Segment(num_tokens=5, member="a")])[0])
        base = AutoModelForCausalLM.from_pretrained(folder)
        plain = base(tokens).logits[0]
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(tokens).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, theirs, atol=1e-3)
    again = make_bank(folder)
    again.load_member("b", tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(again.logits(again(tokens, [Segment(num_tokens=5, member="b")])[0]), ours)


def test_a_member_whose_loss_is_not_finite_stops_alone(folder: Path, tmp_path: Path) -> None:
    bad, _ = make_member("bad", tmp_path, learning_rate=0.9, max_grad_norm=1e30)
    good, log = make_member("good", tmp_path, seed=1)
    bank = make_bank(folder)
    original = bad.on_step

    def poison(metrics: StepMetrics) -> None:
        original(metrics)
        if metrics.step == 2:
            next(iter(bank.member_parameters("bad").values())).data.fill_(float("nan"))

    bad.on_step = poison
    train_group(bank, [bad, good])
    assert bad.error is not None
    assert "step 3" in bad.error
    assert good.error is None
    assert len(log) == 6


def test_members_of_one_rank_are_neighbours(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank(folder)
    ranks = {"a": 8, "b": 4, "c": 8, "d": 4}
    members = [
        make_member(name, tmp_path, max_steps=1, max_microbatch_tokens=1000, adapter={"lora_r": rank})[0]
        for name, rank in ranks.items()
    ]
    rows: list[list[str]] = []
    original = bank.item_losses

    def spied(items: Sequence[Item]) -> torch.Tensor:
        rows.append(list(dict.fromkeys(item.member for item in items)))
        return original(items)

    monkeypatch.setattr(bank, "item_losses", spied)
    train_group(bank, members)
    assert rows == [["b", "d", "a", "c"]]


def test_segments_of_one_member_must_be_neighbours(folder: Path) -> None:
    bank = make_bank(folder)
    segments = [Segment(num_tokens=1, member=m) for m in ("a", None, "a")]
    with pytest.raises(ValueError, match="not neighbours"):
        bank(torch.tensor([[1, 2, 3]]), segments)


def test_gradient_checkpointing_changes_nothing(folder: Path, tmp_path: Path) -> None:
    kept, recomputed = make_bank(folder), make_bank(folder)
    train_group(kept, [make_member("a", tmp_path / "kept", max_steps=2)[0]])
    train_group(recomputed, [make_member("a", tmp_path / "recomputed", max_steps=2, gradient_checkpointing=True)[0]])
    for key, value in weights(kept, "a").items():
        torch.testing.assert_close(value, weights(recomputed, "a")[key], rtol=1e-6, atol=1e-7)


def halved(tokens: int, to: int, at_step: int = 1) -> list[str]:
    """The notes of a run whose rows were halved until they had a number of tokens."""
    rows = []
    while tokens > to:
        tokens = max(tokens // 2, to)
        rows.append(f"out of memory at step {at_step}: rows of at most {tokens} tokens from there on")
    return rows


NO_ROOM = [
    torch.OutOfMemoryError("no room"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("host"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_rows_and_keeps_the_losses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain, tight = make_bank(folder), make_bank(folder)
    member, log = make_member("a", tmp_path / "plain", max_steps=2)
    train_group(plain, [member])
    original = AdapterBank.item_losses

    def cramped(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        losses = original(self, items)
        if self is tight and sum(len(item.tokens) for item in items) > 40:
            losses.sum().backward()  # leaves gradients behind, as a failure in the middle of a step does
            raise error
        return losses

    monkeypatch.setattr(AdapterBank, "item_losses", cramped)
    squeezed, later = make_member("a", tmp_path / "tight", max_steps=2)
    train_group(tight, [squeezed])
    assert squeezed.notes == halved(2048, 32)
    assert [m.step for m in later] == [m.step for m in log]
    np.testing.assert_allclose([m.loss for m in later], [m.loss for m in log], rtol=1e-5)


def fresh(member: Member) -> Member:
    """As at the start of its training, for `step_items`."""
    return replace(member, num_characters=np.zeros(len(member.examples), dtype=np.int64))


def test_out_of_memory_with_one_example_recomputes_activations(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, log = make_member("a", tmp_path / "roomy", max_steps=2)
    longest = max(len(item.tokens) for item in step.step_items(fresh(roomy)))
    train_group(make_bank(folder), [roomy])
    tight = make_bank(folder)
    original = AdapterBank.item_losses
    failed = 0

    def cramped(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        nonlocal failed
        if self is tight and not self.base.is_gradient_checkpointing:
            failed += 1
            raise torch.OutOfMemoryError("no room")
        return original(self, items)

    monkeypatch.setattr(AdapterBank, "item_losses", cramped)
    squeezed, later = make_member("a", tmp_path / "tight", max_steps=2)
    train_group(tight, [squeezed])
    last = "out of memory at step 1: gradient checkpointing from there on"
    assert squeezed.notes == [*halved(2048, longest), last]
    assert failed == len(squeezed.notes), "after the first row that finds no room no other is tried"
    np.testing.assert_allclose([m.loss for m in later], [m.loss for m in log], rtol=1e-5)


def test_out_of_memory_with_one_example_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(AdapterBank, "item_losses", never)
    with pytest.raises(torch.OutOfMemoryError):
        train_group(make_bank(folder), [make_member("a", tmp_path)[0]])


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(AdapterBank, "item_losses", broken)
    member, _ = make_member("a", tmp_path)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train_group(make_bank(folder), [member])
    assert not member.notes


def test_tensors_of_a_failed_pass_are_let_go_before_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is kept keeps its traceback, and with it the pass's activations."""
    original = AdapterBank.item_losses
    failed: list[weakref.ref[torch.Tensor]] = []

    def cramped(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        losses = original(self, items)
        if sum(len(item.tokens) for item in items) > 40:
            failed.append(weakref.ref(losses))
            raise RuntimeError("CUDA error: out of memory")
        return losses

    alive: list[int] = []

    def release(device: torch.device) -> None:
        alive.append(sum(ref() is not None for ref in failed))

    monkeypatch.setattr(AdapterBank, "item_losses", cramped)
    monkeypatch.setattr(step, "release_cached", release)
    train_group(make_bank(folder), [make_member("a", tmp_path)[0]])
    assert alive
    assert not any(alive)


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["add_member", "step"])
def test_out_of_memory_where_smaller_rows_do_not_help_says_what_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(
        *((AdapterBank, "add_member") if where == "add_member" else (torch.optim.AdamW, "step")), no_room
    )
    with pytest.raises(torch.OutOfMemoryError, match=r"run a, .*max_group_size.*paged_adamw_8bit"):
        train_group(make_bank(folder), [make_member("a", tmp_path)[0]])


def test_a_step_asks_for_its_losses_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number that is asked for makes the host wait for the device."""
    asked: list[str] = []
    summed = passes._summed

    def count(losses: Any, members: Any) -> dict[str, float]:
        asked.append("losses")
        assert len(losses) > 1  # rows
        assert all(isinstance(part, torch.Tensor) for row in losses for part in row.values())
        return summed(losses, members)

    monkeypatch.setattr(passes, "_summed", count)
    members = [make_member(name, tmp_path, seed=seed, max_microbatch_tokens=64)[0] for seed, name in enumerate("ab")]
    train_group(make_bank(folder), members)
    assert len(asked) == TRAIN.max_steps


def test_packed_rows_lose_the_same_as_a_padded_batch(folder: Path) -> None:
    """Fast mode's packing against what the original computes: a padded batch with an attention mask."""
    bank, examples = make_bank(folder), make_examples(3, count=5)
    items = [Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=0, weight=1.0) for e in examples]
    longest = max(len(e.input_ids) for e in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, e in enumerate(examples):
        ids[row, : len(e.input_ids)] = torch.from_numpy(e.input_ids.astype(np.int64))
        mask[row, : len(e.input_ids)] = 1
        labels[row, e.num_source : len(e.input_ids)] = ids[row, e.num_source : len(e.input_ids)]
    padded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        packed = bank.item_losses(items)
        logits = padded(ids, attention_mask=mask).logits[:, :-1]
        plain = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
        )
    torch.testing.assert_close(packed, plain[labels[:, 1:] != -100], rtol=1e-5, atol=1e-5)


def test_stopping_in_the_middle_of_a_step_keeps_every_whole_one(folder: Path, tmp_path: Path) -> None:
    """Rows of one example: asked to stop after some rows of step 3, the run is saved at step 2, its neighbour too."""
    short, _ = make_member("short", tmp_path / "s", max_steps=1, checkpoint_steps=100)
    long, log = make_member("long", tmp_path / "s", seed=1, max_microbatch_tokens=1, checkpoint_steps=100)
    short.train = replace(short.train, max_microbatch_tokens=1)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += len(log) == 2
        return asked > 2

    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [short, long], stop)
    assert [path.name for path in checkpoints(tmp_path / "s" / "short" / "checkpoint")] == ["step-00000001"]
    assert [path.name for path in checkpoints(tmp_path / "s" / "long" / "checkpoint")] == ["step-00000002"]
    straight, resumed = make_bank(folder), make_bank(folder)
    train_group(straight, [make_member("long", tmp_path / "straight", seed=1, max_microbatch_tokens=1)[0]])
    train_group(resumed, [make_member("long", tmp_path / "s", seed=1, max_microbatch_tokens=1)[0]])
    for key, value in weights(straight, "long").items():
        assert torch.equal(value, weights(resumed, "long")[key]), key


def test_a_lost_claim_stops_one_member_only(folder: Path, tmp_path: Path) -> None:
    lost, log = make_member("lost", tmp_path, checkpoint_steps=1)
    lost.lost = lambda: len(log) >= 2
    kept, later = make_member("kept", tmp_path, seed=1)
    train_group(make_bank(folder), [lost, kept])
    assert lost.error is not None
    assert "another worker has the run" in lost.error
    assert [path.name for path in checkpoints(tmp_path / "lost" / "checkpoint")] == ["step-00000001"]
    assert len(later) == 6


def test_a_member_that_cannot_start_drops_out_alone(folder: Path, tmp_path: Path) -> None:
    bad, _ = make_member("bad", tmp_path, adapter={"targets": ["q_projx"]})
    good, log = make_member("good", tmp_path, seed=1)
    train_group(make_bank(folder), [bad, good])
    assert bad.error is not None
    assert "no such linear layer" in bad.error
    assert len(log) == 6


def test_a_group_takes_the_longest_rows_and_checkpoints_where_one_member_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    original = AdapterBank.item_losses

    def count(self: AdapterBank, items: Sequence[Item]) -> torch.Tensor:
        passes.append(len(items))
        assert self.training
        assert self.base.is_gradient_checkpointing
        return original(self, items)

    monkeypatch.setattr(AdapterBank, "item_losses", count)
    bank = make_bank(folder)
    short, _ = make_member("short", tmp_path, max_steps=1, max_microbatch_tokens=1)
    long, _ = make_member("long", tmp_path, seed=1, max_steps=1, gradient_checkpointing=True)
    asked: list[list[str]] = []
    train_group(bank, [short, long], between_steps=lambda members: asked.append([m.run_id for m in members]))
    assert passes == [8]
    assert asked == [["short", "long"]] * 2
    assert not bank.training
    train_group(bank, [], between_steps=lambda members: asked.append([m.run_id for m in members]))
    assert asked[2:] == [[]]


def test_the_metrics_of_a_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(step, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    short, _ = make_member("short", tmp_path, max_steps=1)
    long, log = make_member("long", tmp_path, seed=1, max_steps=2, batch_size=3, warmup_steps=2, learning_rate=0.01)
    targets = [sum(item.num_targets for item in step.step_items(replace(fresh(long), step=done))) for done in range(2)]
    train_group(make_bank(folder), [short, long])
    assert [(m.step, m.num_members) for m in log] == [(1, 2), (2, 1)]
    assert [m.learning_rate for m in log] == [0.005, 0.01]
    assert [m.target_tokens for m in log] == targets
    assert [m.seconds for m in log] == [2, 1]  # the clock of this test goes on by 1 whenever somebody looks
    alone = StepMetrics(step=1, loss=1.0, learning_rate=0.1, grad_norm=1.0, target_tokens=1, seconds=1.0)
    assert alone.num_members == 1, "lines of older runs don't say it"


def test_a_claim_lost_after_a_step_writes_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    member, log = make_member("a", tmp_path, checkpoint_steps=1)
    asked = iter([False])  # in the step; from then on it is lost
    member.lost = lambda: next(asked, True)
    train_group(make_bank(folder), [member])
    assert len(log) == 2
    assert member.error == "the claim was lost at step 2: another worker has the run"
    assert checkpoints(tmp_path / "a" / "checkpoint") == []


class TwoRanks(Ranks):
    """Rank 0 of two; the other one says what it is told to."""

    theirs: Sequence[float] = ()

    def sum_numbers(self, values: Sequence[float]) -> list[float]:
        return [mine + other for mine, other in zip(values, self.theirs, strict=True)]

    def span(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        pairs = list(zip(values, self.theirs, strict=True))
        return [min(pair) for pair in pairs], [max(pair) for pair in pairs]


@pytest.fixture
def two(folder: Path, tmp_path: Path) -> tuple[Group, list[torch.nn.Parameter]]:
    """A group of two members, the second of which ended; of the first one's parameters one has a gradient."""
    bank = make_bank(folder)
    members = [make_member(name, tmp_path)[0] for name in "ab"]
    bank.add_member("a", replace(members[0].adapter, targets=["q_proj"]), seed=0)
    members[1].error = "earlier"
    parameters = list(bank.member_parameters("a").values())
    parameters[0].grad = torch.ones_like(parameters[0])
    return Group(bank, bank.train(), members, TwoRanks(size=2), lambda: False), parameters


def agree(group: Group, mine: Pass, *theirs: float) -> step._Agreed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoRanks, "theirs", theirs)
        return step._agree(group, group.members[:1], mine)


def test_what_ranks_agree_on(two: tuple[Group, list[torch.nn.Parameter]]) -> None:
    """Numbers: stop, no room, lost claims of both members, a loss, and which of four parameters have a gradient."""
    group, parameters = two
    assert len(parameters) == 4
    mine = Pass(losses={"a": 1.5})
    found = agree(group, mine, 0, 0, 0, 0, 0.25, 0, 1, 0, 0)
    assert (found.losses, found.lost, found.out_of_memory) == ({"a": 1.75}, [], None)
    assert [[p is q for q in parameters].index(True) for p in found.learning["a"]] == [0, 1]
    assert agree(group, mine, 0, 1, 0, 0, 0, 0, 0, 0, 0).out_of_memory == "on another rank"
    failed = Pass(losses={"a": 0.0}, out_of_memory="no room")
    assert agree(group, failed, 0, 0, 0, 0, 0, 0, 0, 0, 0).out_of_memory == "no room"
    assert agree(group, mine, 0, 0, 1, 0, 0, 0, 0, 0, 0).lost == [group.members[0]]
    for stop, other in ((True, 0), (False, 1)):
        with pytest.raises(StopNow):
            agree(group, Pass(losses={"a": 0.0}, stop=stop), other, 0, 1, 0, 0, 0, 0, 0, 0)
    assert group.members[0].error == "the claim was lost at step 0: another worker has the run"
    group.members[0].error = None
    with pytest.raises(StopNow):
        agree(group, mine, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    assert group.members[0].error is None


def test_ranks_that_start_from_different_steps_are_refused(
    two: tuple[Group, list[torch.nn.Parameter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that failed on one rank only has a step on the other."""
    group, _ = two
    copied: list[int] = []
    monkeypatch.setattr(TwoRanks, "copy_leader", lambda _, parameters: copied.append(len(list(parameters))))
    group.members[0].step = 1
    monkeypatch.setattr(TwoRanks, "theirs", (1, -1))
    starting._start_alike(group.bank, group.members, group.ranks)
    assert copied == [4]
    for theirs, steps in (
        ((3, -1), "1, another from 3"),
        ((0, -1), "0, another from 1"),
        ((1, 1), "-1, another from 1"),
    ):
        monkeypatch.setattr(TwoRanks, "theirs", theirs)
        with pytest.raises(ValueError, match=rf"one rank would go on from step {steps}; paths\.runs"):
            starting._start_alike(group.bank, group.members, group.ranks)

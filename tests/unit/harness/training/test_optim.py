"""The optimizers that GPUs run, on a CPU: resume is exact, paged buffers are handed on, and a step waits once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from bitsandbytes import functional
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, LossMean, Optimizer, TrainConfig
from harness.devices.buffers import MIN_PAGED_ELEMENTS
from harness.nn.attention import PACKED
from harness.training import starting
from harness.training.checkpoint import checkpoints
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from harness.training.loss_scale import GROWTH_STEPS, INITIAL_FACTOR, LossScale
from harness.training.optim import (
    OptimizerKind,
    clip_gradients,
    load_state,
    make_optimizer,
    release_state,
    resumed_optimizer,
    state_bytes,
    state_pages,
    used_optimizer,
)
from harness.training.paged import BufferPool
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
KIND = OptimizerKind
TRAIN = TrainConfig(max_steps=6, batch_size=3, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=2)
LORA = AdapterConfig(name="lora", lora_r=65, lora_alpha=65, lora_dropout=0.1)  # A and B have 8-bit state from r = 64 on


@dataclass
class Example:
    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int


def make_examples(seed: int, count: int = 8) -> list[Example]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 20, size=count)
    return [Example(rng.integers(3, VOCAB_SIZE, size=n).astype(np.int32), int(n) // 3) for n in lengths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), seed=1)


def make_bank(folder: Path, dtype: torch.dtype = torch.float32) -> AdapterBank:
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED, dtype=dtype)
    return AdapterBank(base).eval()


def make_member(
    name: str, tmp: Path, kind: OptimizerKind | None = None, seed: int = 0, **changes: Any
) -> tuple[Member, list[StepMetrics]]:
    log: list[StepMetrics] = []
    member = Member(
        run_id=name,
        adapter=replace(LORA, **changes.pop("adapter", {})),
        train=replace(TRAIN, seed=seed, **changes),
        examples=make_examples(seed),
        checkpoint_folder=tmp / name / "checkpoint",
        on_step=log.append,
        optimizer_kind=kind,
    )
    return member, log


def weights(bank: AdapterBank, name: str) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in bank.member_parameters(name).items()}


def assert_same(one: AdapterBank, other: AdapterBank, name: str) -> None:
    for key, value in weights(one, name).items():
        assert torch.equal(value, weights(other, name)[key]), key


class Driver:
    """Stands in for CUDA's unified memory under bitsandbytes; what it hands out isn't zero, and never freed."""

    def __init__(self) -> None:
        self.allocated: list[torch.Tensor] = []
        self.num_prefetched = 0

    def get_paged(self, *shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        buffer = torch.full(shape, 7, dtype=dtype)
        buffer.is_paged, buffer.page_deviceid = True, device.index  # type: ignore[attr-defined]
        self.allocated.append(buffer)
        return buffer

    def prefetch(self, buffer: torch.Tensor, to_cpu: bool = False) -> None:
        self.num_prefetched += 1


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    stand_in = Driver()
    monkeypatch.setattr(functional, "get_paged", stand_in.get_paged)
    monkeypatch.setattr(functional, "fill", lambda buffer, value: buffer.fill_(value))
    monkeypatch.setattr(functional, "prefetch_tensor", stand_in.prefetch)
    monkeypatch.setattr("harness.training.paged.POOL", BufferPool())
    monkeypatch.setattr("harness.training.paged.MIN_PAGED_ELEMENTS", 4000)
    return stand_in


# which optimizer runs


@pytest.mark.parametrize(
    ("wanted", "device", "pages", "dtype", "kind"),
    [
        (Optimizer.adamw, CUDA, True, torch.float32, KIND.adamw),
        (Optimizer.adamw, CUDA, True, torch.bfloat16, KIND.adamw),
        (Optimizer.paged_adamw_32bit, CUDA, True, torch.float32, KIND.paged_adamw_32bit),
        (Optimizer.paged_adamw_32bit, CUDA, False, torch.float32, KIND.adamw),
        (Optimizer.paged_adamw_32bit, CUDA, False, torch.bfloat16, KIND.adamw_32bit),
        (Optimizer.paged_adamw_32bit, CPU, True, torch.float32, KIND.adamw),
        (Optimizer.paged_adamw_32bit, CPU, True, torch.bfloat16, KIND.adamw),
        (Optimizer.paged_adamw_8bit, CUDA, True, torch.float32, KIND.paged_adamw_8bit),
        (Optimizer.paged_adamw_8bit, CUDA, False, torch.float32, KIND.adamw_8bit),
        (Optimizer.paged_adamw_8bit, CPU, True, torch.float32, KIND.adamw_8bit),
    ],
)
def test_which_optimizer_runs(
    wanted: Optimizer, device: torch.device, pages: bool, dtype: torch.dtype, kind: OptimizerKind
) -> None:
    assert used_optimizer(wanted, device, pages, dtype) is kind


@pytest.mark.parametrize(
    ("saved", "chosen", "kind"),
    [
        (KIND.adamw, KIND.adamw, KIND.adamw),
        (KIND.adamw, KIND.paged_adamw_32bit, KIND.paged_adamw_32bit),  # the only change of arithmetic
        (KIND.paged_adamw_32bit, KIND.adamw, KIND.adamw_32bit),
        (KIND.adamw_32bit, KIND.paged_adamw_32bit, KIND.paged_adamw_32bit),
        (KIND.paged_adamw_8bit, KIND.adamw_8bit, KIND.adamw_8bit),
        (KIND.adamw_8bit, KIND.paged_adamw_8bit, KIND.paged_adamw_8bit),
    ],
)
def test_a_resumed_run_goes_on_with_its_arithmetic(
    saved: OptimizerKind, chosen: OptimizerKind, kind: OptimizerKind
) -> None:
    assert resumed_optimizer(saved, chosen) is kind


def test_state_pages_from_a_quarter_of_the_free_memory_on() -> None:
    assert state_bytes(Optimizer.paged_adamw_32bit, 160_000_000) == 1_280_000_000
    assert state_bytes(Optimizer.paged_adamw_8bit, 160_000_000) == 320_000_000
    assert not state_pages(1_280_000_000, free=4 * 1_280_000_000)
    assert state_pages(1_280_000_001, free=4 * 1_280_000_000)


def test_on_a_cpu_the_record_says_what_ran(folder: Path, tmp_path: Path) -> None:
    kinds = {}
    for wanted in Optimizer:
        member, _ = make_member(wanted.value, tmp_path, max_steps=1, optimizer=wanted)
        train_group(make_bank(folder), [member])
        kinds[wanted.value] = member.optimizer_kind
    assert kinds == {
        "adamw": KIND.adamw,
        "paged_adamw_32bit": KIND.adamw,
        "paged_adamw_8bit": KIND.adamw_8bit,
        "adamw_8bit": KIND.adamw_8bit,
        "ademamix": KIND.ademamix,
        "ademamix_8bit": KIND.ademamix_8bit,
        "lion": KIND.lion,
        "lion_8bit": KIND.lion_8bit,
        "muon": KIND.muon,
    }


def test_8_bit_state_is_really_8_bit_and_learns_like_32(folder: Path, tmp_path: Path) -> None:
    losses = {}
    for wanted in (Optimizer.adamw, Optimizer.paged_adamw_8bit):
        member, log = make_member(wanted.value, tmp_path, max_steps=20, optimizer=wanted)
        dtypes: Counter[torch.dtype] = Counter()

        def count(members: Sequence[Member], dtypes: Counter[torch.dtype] = dtypes) -> None:
            for one in members:
                if one.optimizer is not None:
                    moments = [of for of in one.optimizer.state.values() if "state1" in of]
                    dtypes.update(of["state1"].dtype for of in moments)

        train_group(make_bank(folder), [member], between_steps=count)
        losses[wanted] = [metrics.loss for metrics in log]
        assert (dtypes[torch.uint8] > 0) == (wanted is Optimizer.paged_adamw_8bit)
    np.testing.assert_allclose(losses[Optimizer.paged_adamw_8bit], losses[Optimizer.adamw], rtol=0.02)
    assert losses[Optimizer.paged_adamw_8bit] != losses[Optimizer.adamw]


# resume


@pytest.mark.parametrize("stop_after", [1, 4])
@pytest.mark.parametrize("kind", [KIND.adamw, KIND.adamw_32bit, KIND.adamw_8bit])
def test_a_group_resumes_bit_for_bit(folder: Path, tmp_path: Path, kind: OptimizerKind, stop_after: int) -> None:
    """Three members that differ; the last one has done all its steps by the later stop."""

    def members(tmp: Path) -> list[tuple[Member, list[StepMetrics]]]:
        return [
            make_member("a", tmp, kind),
            make_member("b", tmp, kind, seed=1, batch_size=2, adapter={"lora_r": 80, "targets": ["q_proj", "o_proj"]}),
            make_member("c", tmp, kind, seed=2, max_steps=3, loss_mean=LossMean.example),
        ]

    straight, resumed = make_bank(folder), make_bank(folder)
    train_group(straight, [member for member, _ in members(tmp_path / "straight")])
    stopped = members(tmp_path / "stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [m for m, _ in stopped], lambda: len(stopped[0][1]) >= stop_after)
    again = members(tmp_path / "stopped")
    train_group(resumed, [member for member, _ in again])
    assert [metrics.step for metrics in again[0][1]] == list(range(stop_after + 1, 7))
    assert [metrics.step for metrics in again[2][1]] == list(range(stop_after + 1, 4))
    assert [member.optimizer_kind for member, _ in again] == [kind] * 3
    assert again[0][0].notes == [f"resumed at step {stop_after}"]
    for name in ("a", "b", "c"):
        assert_same(straight, resumed, name)


@pytest.mark.parametrize("kind", [KIND.adamw_32bit, KIND.adamw_8bit])
def test_a_run_alone_resumes_bit_for_bit_from_any_checkpoint(folder: Path, tmp_path: Path, kind: OptimizerKind) -> None:
    straight = make_bank(folder)
    train_group(straight, [make_member("a", tmp_path / "straight", kind)[0]])
    member, log = make_member("a", tmp_path, kind)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [member], lambda: len(log) >= 5)
    newest, before = checkpoints(member.checkpoint_folder)  # the one of step 2 is dropped
    assert (newest.name, before.name) == ("step-00000005", "step-00000004")
    (newest / "state.safetensors").write_bytes(b"damaged")
    resumed = make_bank(folder)
    again, later = make_member("a", tmp_path, kind)
    train_group(resumed, [again])
    assert later[0].step == 5
    assert_same(straight, resumed, "a")


CONSTANTS = {"lr": 5e-3, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize("kind", [KIND.adamw, KIND.adamw_32bit, KIND.adamw_8bit])
def test_a_step_is_the_librarys_own_with_the_configs_constants(kind: OptimizerKind) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        ours = [nn.Parameter(torch.randn(65, 64, dtype=dtype)), nn.Parameter(torch.randn(10, dtype=dtype))]
        theirs = [nn.Parameter(p.detach().clone()) for p in ours]
        train = replace(TRAIN, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-3, weight_decay=0.1)
        mine = make_optimizer(ours, train, kind)
        own: Any = torch.optim.AdamW(theirs, **CONSTANTS, fused=True)  # type: ignore[arg-type]
        if kind is not KIND.adamw:
            own = bnb.optim.AdamW(theirs, **CONSTANTS, optim_bits=32 if kind is KIND.adamw_32bit else 8)
        assert mine.defaults.get("fused") is own.defaults.get("fused")
        for _ in range(4):
            for p, q in zip(ours, theirs, strict=True):
                p.grad = torch.randn_like(p)
                q.grad = p.grad.clone()
            mine.step()
            own.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
        moments = [of.get("state1", of.get("exp_avg")) for of in mine.state.values()]
        assert [moment.dtype for moment in moments] == [
            of.get("state1", of.get("exp_avg")).dtype for of in own.state.values()
        ]


def test_torchs_state_goes_over_to_bitsandbytes(tmp_path: Path) -> None:
    """The same gradients through both: equal up to rounding after the change, far apart without the moments."""
    torch.manual_seed(0)
    start, gradients = torch.randn(65, 64), [torch.randn(65, 64) for _ in range(8)]

    def run(switch: bool) -> torch.Tensor:
        p = nn.Parameter(start.clone())
        optimizer = make_optimizer([p], TRAIN, KIND.adamw)
        for step, gradient in enumerate(gradients):
            if switch and step == 4:
                state, optimizer = optimizer.state_dict(), make_optimizer([p], TRAIN, KIND.adamw_32bit)
                load_state(optimizer, state, KIND.adamw)
            p.grad = gradient.clone()
            optimizer.step()
        return p.detach()

    torch.testing.assert_close(run(switch=True), run(switch=False), rtol=1e-6, atol=1e-6)


# paging


def paged_buffers(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    tensors = [value for of in optimizer.state.values() for value in of.values() if isinstance(value, torch.Tensor)]
    return [tensor for tensor in tensors if getattr(tensor, "is_paged", False)]


@pytest.mark.parametrize("kind", [KIND.paged_adamw_32bit, KIND.paged_adamw_8bit])
def test_large_state_is_paged_and_paged_again_after_a_resume(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, kind: OptimizerKind
) -> None:
    monkeypatch.setattr("harness.training.paged.MIN_PAGED_ELEMENTS", MIN_PAGED_ELEMENTS)
    parameters = [nn.Parameter(torch.randn(n)) for n in (100_000, 99_999, 100_001)]
    first, second = make_optimizer(parameters, TRAIN, kind), make_optimizer(parameters, TRAIN, kind)
    for p in parameters:
        p.grad = torch.randn_like(p)
    first.step()
    assert len(paged_buffers(first)) == len(driver.allocated) == driver.num_prefetched == 4
    load_state(second, first.state_dict(), kind)
    for p in parameters:
        for key, value in first.state[p].items():
            mine = second.state[p][key]
            if not isinstance(value, torch.Tensor):
                assert mine == value
                continue
            assert torch.equal(mine, value)
            assert mine.data_ptr() != value.data_ptr()
            paged = key in ("state1", "state2") and p.numel() >= 100_000
            assert getattr(mine, "is_paged", False) is getattr(value, "is_paged", False) is paged
    assert len(driver.allocated) == 8


@pytest.mark.parametrize("kind", [KIND.paged_adamw_32bit, KIND.paged_adamw_8bit])
def test_many_runs_take_no_more_pages_than_one(
    folder: Path, tmp_path: Path, driver: Driver, kind: OptimizerKind
) -> None:
    bank = make_bank(folder)
    managed = functional.GlobalPageManager.get_instance().paged_tensors
    listed, first = len(managed), 0
    straight, last = make_bank(folder), make_bank(folder)
    unpaged = make_member("r", tmp_path / "unpaged", kind.with_paging(False), max_steps=2)[0]
    train_group(straight, [unpaged])
    for number in range(8):
        member, _ = make_member("r", tmp_path / str(number), kind, max_steps=1 if number < 7 else 2)
        bank = last if number == 7 else bank
        train_group(bank, [member])
        if number < 7:
            bank.remove_member("r")
        first = first or len(driver.allocated)
        assert len(driver.allocated) == first > 0
        assert member.optimizer is None
    assert len(managed) == listed
    assert_same(straight, last, "r")  # so the buffers were zeros again


def test_members_hand_their_pages_on_however_they_end(folder: Path, tmp_path: Path, driver: Driver) -> None:
    """Done early, failed, interrupted, out of memory: the next group of two allocates nothing."""
    bank = make_bank(folder)

    def train(name: str, *, first: dict[str, Any] | None = None, **arguments: Any) -> list[Member]:
        tmp = tmp_path / name
        pair = [make_member("a", tmp, KIND.paged_adamw_32bit, **(first or {}))[0]]
        pair.append(make_member("b", tmp, KIND.paged_adamw_32bit, seed=1)[0])
        try:
            train_group(bank, pair, **arguments)
        finally:
            bank.remove_member("a")
            bank.remove_member("b")
        assert [member.optimizer for member in pair] == [None, None]
        return pair

    def when(step: int, act: Callable[[Member], None]) -> Callable[[Sequence[Member]], None]:
        def between_steps(members: Sequence[Member]) -> None:
            for member in members:
                if member.run_id == "a" and member.step == step:
                    act(member)

        return between_steps

    def poison(member: Member) -> None:
        next(iter(bank.member_parameters("a").values())).data.fill_(float("nan"))

    def run_out(member: Member) -> None:
        raise torch.OutOfMemoryError("no room")

    train("whole")
    count = len(driver.allocated)
    assert count > 0
    train("early", first={"max_steps": 2})
    assert train("failed", between_steps=when(2, poison))[0].error is not None
    with pytest.raises(torch.OutOfMemoryError):
        train("memory", between_steps=when(3, run_out))
    asked = iter(range(100_000))
    with pytest.raises(TrainingInterrupted):
        train("stopped", should_stop=lambda: next(asked) > 20)
    train("stopped")
    assert len(driver.allocated) == count


def test_a_member_that_ends_early_leaves_its_pages_to_the_group(folder: Path, tmp_path: Path, driver: Driver) -> None:
    short, _ = make_member("short", tmp_path, KIND.paged_adamw_32bit, max_steps=2)
    long, _ = make_member("long", tmp_path, KIND.paged_adamw_32bit, seed=1)
    released: list[bool] = []
    train_group(make_bank(folder), [short, long], between_steps=lambda _: released.append(short.optimizer is None))
    assert released == [False, False, True, True, True, True, True]


class OnCuda:
    """Chooses optimizers as on a CUDA device with the given free memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 2**40
        monkeypatch.setattr("harness.training.starting.free_bytes", lambda device: self.free)
        for module in ("starting", "step"):
            monkeypatch.setattr(
                f"harness.training.{module}.used_optimizer",
                lambda wanted, device, *args: used_optimizer(wanted, CUDA, *args),
            )


def test_state_that_fits_is_not_paged_and_does_when_memory_is_short(
    folder: Path, tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cuda, straight, resumed = OnCuda(monkeypatch), make_bank(folder), make_bank(folder)
    whole, log = make_member("a", tmp_path / "straight")
    train_group(straight, [whole])
    assert (whole.optimizer_kind, driver.allocated) == (KIND.adamw, [])
    stopped, seen = make_member("a", tmp_path)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [stopped], lambda: len(seen) >= 3)
    on_cuda.free = 1000
    again, later = make_member("a", tmp_path)
    train_group(resumed, [again])
    assert again.optimizer_kind is KIND.paged_adamw_32bit
    assert "adamw gave way to paged_adamw_32bit at step 3: its state has to page" in again.notes
    assert len(driver.allocated) > 0
    np.testing.assert_allclose([m.loss for m in later], [m.loss for m in log[3:]], rtol=1e-4)


def test_16_bits_anywhere_among_the_trained_tensors_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    OnCuda(monkeypatch)
    for dtypes, kind in (((torch.float32, torch.bfloat16), KIND.adamw_32bit), ((torch.float32,) * 2, KIND.adamw)):
        parameters = {str(place): nn.Parameter(torch.ones(2, dtype=dtype)) for place, dtype in enumerate(dtypes)}
        bank: Any = SimpleNamespace(
            device=CPU,
            dtype=torch.bfloat16,
            member_parameters=lambda _, found=parameters: found,
            rank_allocation=lambda _: None,
        )
        member, _ = make_member("a", tmp_path)
        starting._start_member(bank, member, pages=False)
        assert member.optimizer_kind is kind


def test_the_checkpoints_arithmetic_stays_where_memory_is_free_again(
    folder: Path, tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cuda, straight, resumed = OnCuda(monkeypatch), make_bank(folder), make_bank(folder)
    on_cuda.free = 1000
    train_group(straight, [make_member("a", tmp_path / "straight")[0]])
    stopped, seen = make_member("a", tmp_path)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [stopped], lambda: len(seen) >= 3)
    count, on_cuda.free = len(driver.allocated), 2**40
    again, _ = make_member("a", tmp_path)
    train_group(resumed, [again])
    assert again.optimizer_kind is KIND.adamw_32bit
    assert len(driver.allocated) == count
    assert_same(straight, resumed, "a")


def test_out_of_memory_pages_state_that_was_thought_to_fit(
    folder: Path, tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    OnCuda(monkeypatch)
    plain, log = make_member("a", tmp_path / "plain", max_microbatch_tokens=1)
    train_group(make_bank(folder), [plain])
    tight = make_bank(folder)
    squeezed, later = make_member("a", tmp_path / "tight", max_microbatch_tokens=1)
    original = tight.item_losses

    def cramped(items: Sequence[Any]) -> torch.Tensor:
        assert squeezed.optimizer_kind is not None
        if squeezed.step == 2 and not squeezed.optimizer_kind.paged:
            raise torch.OutOfMemoryError("no room")
        return original(items)

    monkeypatch.setattr(tight, "item_losses", cramped)
    train_group(tight, [squeezed])
    assert "out of memory at step 3: paged optimizer state from there on" in squeezed.notes
    assert squeezed.optimizer_kind is KIND.paged_adamw_32bit
    assert len(driver.allocated) > 0
    np.testing.assert_allclose([m.loss for m in later], [m.loss for m in log], rtol=1e-4)


# waiting for the device


class Transfers(TorchDispatchMode):
    """Counts what brings numbers to the host: on CUDA each waits for the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))
        for module in ("bitsandbytes.optim.optimizer", "harness.training.paged"):
            monkeypatch.setattr(f"{module}.sync_gpu", self._counting(lambda p: None))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return call(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)
        return func(*args, **(kwargs or {}))


def random_parameters(count: int, *size: int) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.randn(size or (60, 70))) for _ in range(count)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    return parameters


@pytest.mark.parametrize("kind", list(KIND))
@pytest.mark.parametrize(("num_members", "num_parameters"), [(1, 1), (8, 1), (1, 30), (4, 10)])
def test_a_step_waits_once_whatever_it_updates(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, kind: OptimizerKind, num_members: int, num_parameters: int
) -> None:
    parameters = [random_parameters(num_parameters) for _ in range(num_members)]
    optimizers = [make_optimizer(those, TRAIN, kind) for those in parameters]
    with Transfers(monkeypatch) as transfers:
        clip_gradients(parameters, [0.3] * num_members, [1.0] * num_members)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert transfers.count == 1
        for optimizer in optimizers:
            optimizer.state_dict()
        assert transfers.count == (1 if kind in (KIND.adamw, KIND.muon) else 1 + num_members)


def test_clipping_equals_torchs_bit_for_bit() -> None:
    torch.manual_seed(0)
    for max_norm in (0.3, 1e6):
        group = [random_parameters(3), random_parameters(5, 100)]
        group[1].append(nn.Parameter(torch.randn(4)))  # without a gradient
        copies = [[nn.Parameter(p.detach().clone()) for p in those] for those in group]
        for those, others in zip(group, copies, strict=True):
            for p, q in zip(those, others, strict=True):
                q.grad = None if p.grad is None else p.grad.clone()
        wanted = [float(nn.utils.clip_grad_norm_(those, max_norm)) for those in copies]
        assert clip_gradients(group, [max_norm, max_norm], [1.0, 1.0]) == wanted
        for those, others in zip(group, copies, strict=True):
            for p, q in zip(those, others, strict=True):
                assert (p.grad is None) is (q.grad is None)
                assert p.grad is None or torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


def test_clipping_divides_the_loss_scale_out() -> None:
    torch.manual_seed(0)
    plain = random_parameters(4)
    scaled = [nn.Parameter(p.detach().clone()) for p in plain]
    for p, q in zip(plain, scaled, strict=True):
        assert p.grad is not None
        q.grad = p.grad * 2**16
    norms = clip_gradients([plain, scaled], [0.3, 0.3], [1.0, 2.0**16])
    assert norms[0] == norms[1] > 0.3
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain, scaled, strict=True))  # type: ignore[arg-type]


def test_one_members_infinite_gradient_leaves_the_others_alone() -> None:
    group = [random_parameters(2), random_parameters(2)]
    assert group[0][1].grad is not None
    group[0][1].grad[3] = float("inf")
    alone = [nn.Parameter(p.detach().clone()) for p in group[1]]
    for p, q in zip(group[1], alone, strict=True):
        q.grad = p.grad.clone()  # type: ignore[union-attr]
    norms = clip_gradients(group, [0.3, 0.3], [1.0, 1.0])
    assert not np.isfinite(norms[0])
    assert norms[1] == float(nn.utils.clip_grad_norm_(alone, 0.3))


def test_a_released_optimizer_holds_nothing() -> None:
    for kind in (KIND.adamw, KIND.adamw_8bit):
        parameters = random_parameters(2)
        optimizer = make_optimizer(parameters, TRAIN, kind)
        optimizer.step()
        release_state(optimizer)
        assert len(optimizer.state) == 0


# loss scaling


def test_the_loss_scale_follows_gradscalers_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torch.amp.GradScaler("cpu")
    assert (theirs.get_scale(), theirs.get_growth_interval()) == (INITIAL_FACTOR, GROWTH_STEPS)
    monkeypatch.setattr("harness.training.loss_scale.GROWTH_STEPS", 20)
    scaler = torch.amp.GradScaler("cpu", growth_interval=20)
    scale = LossScale.of(torch.float16)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for step in range(95):
        good = step not in (25, 26, 50)  # after 20 good ones have doubled it
        scaler.scale(torch.ones(1))  # creates its state
        parameter.grad = torch.full((1,), 1.0 if good else float("inf"))
        scaler.step(optimizer)
        scaler.update()
        if good:
            scale.count_good_step()
        else:
            assert scale.shrink()
        assert scale.factor == scaler.get_scale()
    assert scale.num_overflows == 3
    assert scale.factor == 2 * INITIAL_FACTOR  # three times halved, four times doubled, twice one after the other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_not_scaled(dtype: torch.dtype) -> None:
    scale = LossScale.of(dtype)
    for _ in range(5000):
        scale.count_good_step()
    assert scale.factor == 1
    assert not scale.shrink()


def test_the_scale_ends_at_1() -> None:
    scale = LossScale.of(torch.float16)
    assert [scale.shrink() for _ in range(17)] == [True] * 16 + [False]
    assert scale.factor == 1


def test_float16_trains_and_reports_the_unscaled_loss(folder: Path, tmp_path: Path) -> None:
    plain, log = make_member("a", tmp_path / "float32")
    train_group(make_bank(folder), [plain])
    half, later = make_member("a", tmp_path / "float16")
    train_group(make_bank(folder, torch.float16), [half])
    assert half.error is None
    assert half.loss_scale.factor > 1
    np.testing.assert_allclose([m.loss for m in later], [m.loss for m in log], rtol=0.02)
    np.testing.assert_allclose([m.grad_norm for m in later], [m.grad_norm for m in log], rtol=0.1)


@pytest.fixture
def fast_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.training.loss_scale.GROWTH_STEPS", 2)


@pytest.mark.usefixtures("fast_growth")
def test_float16_resumes_bit_for_bit_with_its_scale(folder: Path, tmp_path: Path) -> None:
    straight, resumed = make_bank(folder, torch.float16), make_bank(folder, torch.float16)
    whole, _ = make_member("a", tmp_path / "straight")
    train_group(straight, [whole])
    stopped, log = make_member("a", tmp_path)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder, torch.float16), [stopped], lambda: len(log) >= 3)
    again, _ = make_member("a", tmp_path)
    train_group(resumed, [again])
    assert again.loss_scale == whole.loss_scale
    assert_same(straight, resumed, "a")


def overflowing(bank: AdapterBank, name: str, at_step: int, times: int) -> Callable[[Sequence[Member]], None]:
    """For `between_steps`: the member's gradients are infinite in so many tries of a step."""
    left = times

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")

    def act(members: Sequence[Member]) -> None:
        nonlocal left
        member = next((m for m in members if m.run_id == name), None)
        parameter = list(bank.member_parameters(name).values())[1]  # B: A's is zero in the first step
        parameter._backward_hooks = None  # type: ignore[assignment]
        if member is not None and member.step == at_step and left > 0:
            left -= 1
            parameter.register_hook(hook)

    return act


def test_an_overflow_repeats_its_members_step_and_no_others(folder: Path, tmp_path: Path) -> None:
    calm, rough = make_bank(folder, torch.float16), make_bank(folder, torch.float16)
    good, expected = make_member("good", tmp_path / "calm", seed=1)
    bad, without = make_member("bad", tmp_path / "calm")
    train_group(calm, [bad, good])
    neighbour, log = make_member("good", tmp_path / "rough", seed=1)
    overflow, repeated = make_member("bad", tmp_path / "rough")
    train_group(rough, [overflow, neighbour], between_steps=overflowing(rough, "bad", at_step=0, times=3))
    assert [m.step for m in repeated] == [1, 2, 3, 4, 5, 6]
    assert [m.target_tokens for m in repeated] == [m.target_tokens for m in without]  # no example is left out
    assert overflow.loss_scale.factor == bad.loss_scale.factor / 8
    assert len([note for note in overflow.notes if "float16 gradients overflowed at step 1" in note]) == 1
    np.testing.assert_allclose([m.loss for m in repeated], [m.loss for m in without], rtol=0.01)
    assert neighbour.loss_scale == good.loss_scale
    assert [m.loss for m in log] == [m.loss for m in expected]
    assert_same(calm, rough, "good")
    assert [path.name for path in checkpoints(overflow.checkpoint_folder)] == ["step-00000004", "step-00000002"]


def test_a_gradient_that_no_scale_mends_fails_its_member_alone(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder, torch.float16)
    good, log = make_member("good", tmp_path, seed=1)
    bad, steps = make_member("bad", tmp_path)
    train_group(bank, [bad, good], between_steps=overflowing(bank, "bad", at_step=2, times=1000))
    assert len(steps) == 2
    assert bad.error is not None
    assert "at step 3: not finite" in bad.error
    assert good.error is None
    assert len(log) == 6

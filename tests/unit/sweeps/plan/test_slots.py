"""How many workers go on which device, on invented machines."""

from dataclasses import replace

import pytest

import harness.devices.hardware
from harness.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    Device,
    DType,
    LaunchConfig,
    Launcher,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    SlurmConfig,
    TrainConfig,
)
from harness.devices.hardware import Accelerator, Hardware, accelerators, launch_device
from harness.memory.row_length import CONTEXT_BYTES
from harness.memory.runs import predict_run
from harness.runs.spec import make_spec
from sweeps.plan.jobs import PlannedRun
from sweeps.plan.slots import Work, local_slots, together, work_of, worker_slots

GB = 10**9
TWO_GPUS = [Accelerator(visible_as="4", total_bytes=80 * GB), Accelerator(visible_as="6", total_bytes=80 * GB)]
SHAPE = ShapeConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32
)


def slots(work: Work | None, num_cores: int = 64, **launch: int) -> list[str | None]:
    return worker_slots(LaunchConfig(**launch), TWO_GPUS, num_cores, work)


def run(seed: int, quant: str = "nf4", shape: ShapeConfig = SHAPE) -> PlannedRun:
    config = Config(
        model=ModelConfig(name="m", hub_id="a/m", shape=shape),
        dataset=DatasetConfig(name="d", hub_id="a/d", format="alpaca"),
        quant=QuantConfig(name=quant, method=QuantMethod(quant)),
        adapter=AdapterConfig(name="lora", lora_dropout=0.0),
        train=TrainConfig(seed=seed, max_steps=1),
    )
    spec = make_spec(config, DType.bfloat16, lambda path: "")
    return PlannedRun(spec=spec, label=str(seed), evals=config.eval)


def test_one_group_a_gpu() -> None:
    assert slots(Work(num_passes=10, peak_bytes=60 * GB)) == ["4", "6"]
    assert slots(Work(num_passes=10, peak_bytes=200 * GB)) == ["4", "6"], "too large: the run itself says so"
    assert slots(Work(num_passes=10, peak_bytes=None)) == ["4", "6"], "where nothing is predicted nothing is shared"
    assert slots(None) == ["4", "6"]


def test_small_groups_share_a_gpu_where_memory_allows() -> None:
    assert slots(Work(num_passes=10, peak_bytes=24 * GB)) == ["4", "6", "4", "6", "4", "6"], "3 x 25 GB of 76 GB"
    least = int(80 * GB * 0.95) // 2 - CONTEXT_BYTES
    assert slots(Work(num_passes=10, peak_bytes=least)) == ["4", "6", "4", "6"]
    assert slots(Work(num_passes=10, peak_bytes=least + 1)) == ["4", "6"]


def test_each_device_takes_what_fits_it() -> None:
    mixed = [Accelerator(visible_as="0", total_bytes=24 * GB), Accelerator(visible_as="1", total_bytes=80 * GB)]
    assert worker_slots(LaunchConfig(), mixed, 64, Work(num_passes=9, peak_bytes=20 * GB)) == ["0", "1", "1", "1"]


def test_no_more_workers_than_work_cores_or_asked_for() -> None:
    small = Work(num_passes=100, peak_bytes=GB)
    assert slots(replace(small, num_passes=3)) == ["4", "6", "4"]
    assert slots(small, num_cores=4) == ["4", "6", "4", "6"]
    assert slots(small, workers=3) == ["4", "6", "4"]
    assert slots(small, workers_per_device=1) == ["4", "6"]
    assert slots(Work(num_passes=9, peak_bytes=70 * GB), workers_per_device=2) == ["4", "6", "4", "6"], (
        "the user's word"
    )
    assert slots(Work(num_passes=0, peak_bytes=None)) == ["4", "6"], "evaluations are left, no training"


def test_a_worker_of_several_devices_has_them_alone() -> None:
    four = [Accelerator(visible_as=str(index), total_bytes=(80 - 8 * index) * GB) for index in range(5)]
    assert together(four, 2) == [
        Accelerator(visible_as="0,1", total_bytes=72 * GB),
        Accelerator(visible_as="2,3", total_bytes=56 * GB),
    ]
    assert together(four, 1) == four
    assert together([], 2) == []
    work = Work(num_passes=10, peak_bytes=60 * GB)
    assert worker_slots(LaunchConfig(devices_per_run=2), together(four, 2), 64, work) == ["0,1", "2,3"]


def test_cpu_has_as_many_workers_as_asked_for() -> None:
    assert worker_slots(LaunchConfig(workers=3), [], 2, None) == [None] * 3
    assert local_slots(LaunchConfig(device=Device.cpu), None) == [None]


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.plan.slots.accelerators", list)
    with pytest.raises(ValueError, match=r"launch\.device=cuda: the CUDA driver shows no device here"):
        local_slots(LaunchConfig(device=Device.cuda), None)
    monkeypatch.setattr("sweeps.plan.slots.accelerators", lambda: TWO_GPUS)
    with pytest.raises(ValueError, match=r"launch\.devices_per_run=4: this machine shows 2 CUDA devices"):
        local_slots(LaunchConfig(device=Device.cuda, devices_per_run=4), None)


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-ab, GPU-c", ["GPU-ab", "GPU-c"])]
)
def test_devices_go_by_the_names_that_this_process_was_given(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr(
        harness.devices.hardware, "cuda_hardware", lambda: (Hardware("GPU", GB), Hardware("GPU", 2 * GB))
    )
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = accelerators()
    assert [device.visible_as for device in found] == expected
    assert [device.total_bytes for device in found] == [GB, 2 * GB]


def test_work_counts_passes_and_takes_the_largest_group() -> None:
    runs = [run(seed) for seed in range(5)] + [run(0, "fp4")]
    work = work_of(runs, LaunchConfig(max_group_size=4))
    assert work.num_passes == 3, "5 of one group in two passes, 1 of another in one"
    of_four = predict_run(runs[0].spec, num_members=4)
    assert of_four is not None
    assert work.peak_bytes == of_four.total_bytes
    alone = predict_run(runs[0].spec)
    assert alone is not None
    assert of_four.total_bytes > alone.total_bytes
    assert work_of([*runs, run(9, shape=ShapeConfig())], LaunchConfig()).peak_bytes is None, (
        "one unknown makes all unknown"
    )
    assert work_of([], LaunchConfig()) == Work(num_passes=0, peak_bytes=None)


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        (LaunchConfig(launcher=Launcher.slurm), Device.cuda),
        (LaunchConfig(launcher=Launcher.slurm, slurm=SlurmConfig(gpus_per_worker=0)), Device.cpu),
        (LaunchConfig(launcher=Launcher.ray, devices_per_run=2), Device.cuda),
        (LaunchConfig(launcher=Launcher.ray, device=Device.cpu), Device.cpu),
        (LaunchConfig(device=Device.cuda), Device.cuda),
    ],
)
def test_a_cluster_is_planned_for_what_its_workers_ask_for(launch: LaunchConfig, expected: Device) -> None:
    assert launch_device(launch) is expected

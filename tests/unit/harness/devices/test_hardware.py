"""What a driver shows is what is planned for; what keeps torch from using it is said before anything starts."""

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import compose_grid
from harness.config.schema import Config, Device, DType, LaunchConfig, Launcher
from harness.devices import hardware
from harness.devices.hardware import (
    Driver,
    Hardware,
    TorchCuda,
    auto_compute_dtype,
    bfloat16_problem,
    cuda_driver,
    cuda_problem,
    dtype_for,
    torch_problem,
)
from sweeps.plan.jobs import PlannedRun, plan_runs
from sweeps.plan.preflight import cuda_problems, device_notes
from tests.unit.harness.devices.stand_in_driver import drive, driver_folder, environment

__all__ = ["drive", "driver_folder"]  # fixtures

GB = 2**30
H100 = Hardware("H100", 80 * GB, (9, 0))
TORCH = TorchCuda(version="2.13.0", cuda="12.8", archs=("sm_75", "sm_80", "sm_86", "sm_90"), num_devices=1)
DRIVER = Driver(version=(12, 4), devices=(H100,))


def config(*overrides: str) -> Config:
    (point,) = compose_grid(["model=smollm2", "dataset=concise", *overrides])
    return point.config


def runs(*overrides: str) -> list[PlannedRun]:
    return plan_runs([config(*overrides)])


def test_a_driver_is_read(drive: Any) -> None:
    drive(capability=75, count=2, other=90)
    assert cuda_driver() == Driver(
        version=(12, 4),
        devices=(Hardware("Stand-in GPU", 16 * GB, (7, 5)), Hardware("Other GPU", 32 * GB, (9, 0))),
    )


def test_without_a_driver_all_is_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cuda_driver", lambda: None)
    monkeypatch.setattr("sweeps.plan.preflight.torch_elsewhere", lambda: pytest.fail("no child is started"))
    assert auto_compute_dtype(LaunchConfig()) is DType.float32
    assert cuda_problems(runs(), LaunchConfig()) == []
    assert device_notes([config()]) == []


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], DType.bfloat16),
        ([(8, 0), (12, 0)], DType.bfloat16),
        ([(7, 5)], DType.float16),
        ([(7, 0)], DType.float16),
        ([(6, 0)], DType.float32),
        ([(9, 0), (7, 5)], DType.float16),
        ([(9, 0), (6, 1), (7, 5)], DType.float32),
        ([None], DType.bfloat16),
        ([], DType.bfloat16),
    ],
)
def test_auto_is_what_all_devices_compute_well(capabilities: list[tuple[int, int] | None], expected: DType) -> None:
    assert dtype_for(capabilities) is expected


@pytest.mark.parametrize(("capability", "expected"), [(75, DType.float16), (90, DType.bfloat16), (61, DType.float32)])
def test_plans_take_the_data_type_of_the_device(drive: Any, capability: int, expected: DType) -> None:
    drive(capability=capability)
    (run,) = runs()
    assert run.spec.quant.compute_dtype is expected
    (cpu,) = runs("launch.device=cpu")
    assert cpu.spec.quant.compute_dtype is DType.float32


def test_a_card_without_bfloat16_is_noted_and_refuses_it(drive: Any) -> None:
    drive(capability=75)
    (note,) = device_notes([config()])
    assert note.startswith("quant.compute_dtype=auto is float16 with loss scaling here: Stand-in GPU (compute")
    assert device_notes([config("quant.compute_dtype=float32")]) == []
    assert device_notes([config("launch.device=cpu")]) == []
    explicit = runs("quant.compute_dtype=bfloat16")
    assert bfloat16_problem(hardware.cuda_hardware()) in cuda_problems(explicit, LaunchConfig())
    problem = bfloat16_problem(hardware.cuda_hardware())
    assert problem is not None
    assert problem.startswith("quant.compute_dtype=bfloat16: Stand-in GPU (compute capability 7.5) only emulates it")
    assert "say quant.compute_dtype=float16, or auto" in problem
    drive(capability=80)
    assert bfloat16_problem(hardware.cuda_hardware()) is None


def test_a_login_node_plans_for_bfloat16_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cuda_driver", lambda: None)
    assert auto_compute_dtype(LaunchConfig(device=Device.cuda)) is DType.bfloat16
    (note,) = device_notes([config("launch.device=cuda")])
    assert "planned as bfloat16, as no GPU is seen from here" in note


def test_a_cluster_is_not_judged_by_the_card_of_its_login_node(drive: Any) -> None:
    drive(capability=75)
    launch = LaunchConfig(launcher=Launcher.slurm)
    assert auto_compute_dtype(launch) is DType.bfloat16
    assert cuda_problems([], launch) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (804, "cuInit returns 804 (CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE); take the cuda-compat package"),
        (999, "cuInit returns 999 (unknown error); reload the kernel module nvidia_uvm, or reboot, or to compute on"),
        (46, "cuInit returns 46 (unknown error); to compute on the CPU say launch.device=cpu"),
    ],
)
def test_a_driver_that_does_not_start_is_named(drive: Any, status: int, said: str) -> None:
    drive(status=status)
    (problem,) = cuda_problems([], LaunchConfig())
    assert problem.startswith("the CUDA driver (libcuda.so.1, for CUDA up to 12.4): cuInit returns")
    assert said in problem


def test_a_driver_without_a_device_is_a_cpu(drive: Any) -> None:
    drive(status=100)
    assert cuda_problems([], LaunchConfig()) == []
    assert auto_compute_dtype(LaunchConfig()) is DType.float32
    assert "100 (CUDA_ERROR_NO_DEVICE)" in hardware.driver_words()


@pytest.mark.parametrize(
    ("visible", "count", "said"),
    [
        ("0", 1, None),
        ("GPU-8932f937-d72c", 1, None),
        ("MIG-2f", 1, None),
        ("0,-1,5", 1, None),
        ("-1", 0, None),
        ("NoDevFiles", 0, None),
        ("7", 0, "CUDA_VISIBLE_DEVICES=7 names 1 devices, of which the CUDA driver"),
        ("0,7", 1, "names 2 devices, of which the CUDA driver (libcuda.so.1, for CUDA up to 12.4) shows 1; name those"),
        ("MIG-2f,MIG-3a", 1, "shows 1: a process sees one MIG device at most; start a command for each"),
    ],
)
def test_devices_that_are_named_and_not_shown(
    drive: Any, monkeypatch: pytest.MonkeyPatch, visible: str, count: int, said: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    drive(count=count)
    problem = cuda_problem(lambda: TORCH)
    assert problem is None if said is None else problem is not None and said in problem


CPU_BUILD = TorchCuda(version="2.13.0+cpu", cuda=None)
OLD_DRIVER = replace(DRIVER, version=(11, 4))
NO_DEVICES = replace(TORCH, num_devices=0, words="CUDA initialization: the driver is too old (found version 11040).")


@pytest.mark.parametrize(
    ("torch", "driver", "said"),
    [
        (TORCH, DRIVER, None),
        (replace(TORCH, archs=("sm_80", "compute_80")), DRIVER, None),
        (replace(TORCH, archs=("sm_80", "sm_90a")), DRIVER, None),
        (CPU_BUILD, DRIVER, "shows H100, but torch 2.13.0+cpu is a build without CUDA: install one for CUDA 12.4 or"),
        (NO_DEVICES, OLD_DRIVER, 'torch 2.13.0 (built for CUDA 12.8) is too new for it (it says: "CUDA initialization'),
        (NO_DEVICES, OLD_DRIVER, "update the driver, or install torch for CUDA 11.4 or older"),
        (NO_DEVICES, DRIVER, "torch 2.13.0 (built for CUDA 12.8) can't use it"),
        (TorchCuda(version="", cuda=None, failure="ImportError: x"), DRIVER, "torch can't be asked about them: Import"),
        (replace(TORCH, archs=("sm_80", "sm_86")), DRIVER, "H100 (compute capability 9.0): torch 2.13.0 (built for"),
        (TORCH, Driver(devices=(Hardware("P100", GB, (6, 0)),)), "has no kernels for it, only sm_75 sm_80 sm_86 sm_90"),
        (TORCH, Driver(devices=(H100, Hardware("B200", GB, (10, 0)))), "B200 (compute capability 10.0): torch 2.13.0"),
    ],
)
def test_what_keeps_torch_from_a_device_is_said(torch: TorchCuda, driver: Driver, said: str | None) -> None:
    problem = torch_problem(torch, driver)
    assert problem is None if said is None else problem is not None and said in problem


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    hardware.torch_elsewhere.cache_clear()
    answer = hardware.torch_elsewhere()
    assert answer.version.partition("+")[0] == version("torch").partition("+")[0]  # a CUDA build's ends with +cu130
    assert not answer.failure


def test_a_torch_that_can_not_be_imported_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hardware.torch_elsewhere.cache_clear()
    assert "libcudart.so.12: no such file" in hardware.torch_elsewhere().failure
    hardware.torch_elsewhere.cache_clear()


@pytest.mark.slow  # processes that import torch
def test_a_command_names_driver_build_and_remedy(driver_folder: Path, tmp_path: Path) -> None:
    """End to end, with the torch that is installed: on a machine for CPUs a build without CUDA."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torch has CUDA here, and would ask the stand-in for more than it has")
    command = [sys.executable, "-m", "harness.run", "model=smollm2", "dataset=concise", f"paths.runs={tmp_path}"]
    asked = environment(driver_folder, capability=75)
    plan = subprocess.run([*command, "launch.dry_run=true"], env=asked, capture_output=True, text=True, timeout=120)
    assert plan.returncode == 0, plan.stderr
    said = f"the CUDA driver (libcuda.so.1, for CUDA up to 12.4) shows Stand-in GPU, but torch {torch.__version__} is a"
    assert f"missing: {said}" in plan.stdout
    assert "note: quant.compute_dtype=auto is float16 with loss scaling here" in plan.stdout
    refused = subprocess.run(command, env=asked, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr
    assert "launch.device=cpu" in refused.stderr

"""The device that is really used decides, and nothing falls to the CPU, or to a slow data type, without a word."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.systems import System, Target, each_base, loaded
from harness.config.schema import Device, DType, LaunchConfig, PathsConfig, QuantConfig, QuantMethod, TrackingConfig
from harness.devices import hardware as devices
from harness.devices import torch_device
from harness.devices.hardware import Driver, Hardware, TorchCuda
from harness.devices.torch_device import require_bfloat16, resolve_device, resolved_quant, slow_dtype, torch_cuda
from harness.models.locate import folder_fingerprint
from harness.runs.record import save_record
from harness.runs.spec import RunSpec
from sweeps.jobs.context import Workplace
from sweeps.jobs.settings import WorkerSettings
from tests.builders import record, spec
from tests.tiny import make_checkpoint

T4, H100 = Hardware("Tesla T4", 2**34, (7, 5)), Hardware("H100", 2**36, (9, 0))
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GpuIs = Callable[[Hardware], None]


@pytest.fixture
def gpu_is(monkeypatch: pytest.MonkeyPatch) -> GpuIs:
    """torch and the driver of this process see one device."""

    def see(hardware: Hardware) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: hardware.name)
        monkeypatch.setattr(torch_device, "_hardware", lambda _: hardware)
        monkeypatch.setattr(torch_device, "torch_cuda", lambda: TorchCuda(version="2", cuda="12.8", num_devices=1))
        monkeypatch.setattr(devices, "cuda_driver", lambda: Driver(version=(12, 8), devices=(hardware,)))

    return see


def test_auto_is_the_cpu_without_a_driver_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_driver", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(Device.auto) == resolve_device(Device.cpu) == CPU
    with pytest.raises(ValueError, match=r"launch\.device=cuda: torch sees no CUDA device here \(no CUDA driver"):
        resolve_device(Device.cuda)


@pytest.mark.parametrize("device", [Device.auto, Device.cuda])
def test_a_gpu_that_torch_can_not_use_is_no_silent_cpu(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    monkeypatch.setattr(devices, "cuda_driver", lambda: Driver(version=(12, 4), devices=(T4,)))
    monkeypatch.setattr(torch_device, "torch_cuda", lambda: TorchCuda(version="2.13.0+cpu", cuda=None))
    with pytest.raises(ValueError, match=r"shows Tesla T4, but torch 2\.13\.0\+cpu is a build without CUDA"):
        resolve_device(device)
    assert resolve_device(Device.cpu) == CPU


def test_the_wanted_device_is_taken(gpu_is: GpuIs) -> None:
    gpu_is(H100)
    assert resolve_device(Device.auto) == CUDA
    assert resolve_device(Device.cuda, 0) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"CUDA device 1 is needed, this machine shows 1"):
        resolve_device(Device.auto, 1)


def test_torch_says_what_it_is_and_why_it_can_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        import warnings

        warnings.warn("CUDA initialization: too old (Triggered internally at x.cpp)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    answer = torch_cuda()
    assert (answer.version, answer.cuda, answer.num_devices) == (torch.__version__, torch.version.cuda, 0)
    assert answer.words == "CUDA initialization: too old"


def test_auto_dtype_is_that_of_the_device_used(gpu_is: GpuIs) -> None:
    auto = QuantConfig(name="none", method=QuantMethod.none)
    assert resolved_quant(auto, CPU).compute_dtype is DType.float32
    gpu_is(T4)
    assert resolved_quant(auto, CUDA).compute_dtype is DType.float16
    gpu_is(H100)
    assert resolved_quant(auto, CUDA).compute_dtype is DType.bfloat16
    explicit = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float16)
    assert resolved_quant(explicit, CUDA) is explicit


def test_slow_data_types_are_said(gpu_is: GpuIs) -> None:
    assert slow_dtype(DType.float32, CPU) is None
    line = slow_dtype(DType.bfloat16, CPU)
    assert line is not None
    assert "quant.compute_dtype=bfloat16 and is computed so, which the CPU does many times slower" in line
    gpu_is(H100)
    assert slow_dtype(DType.bfloat16, CUDA) is None
    require_bfloat16(DType.bfloat16, CUDA)
    gpu_is(T4)
    assert slow_dtype(DType.float16, CUDA) is None
    assert "which Tesla T4 does many times slower" in (slow_dtype(DType.bfloat16, CUDA) or "")
    require_bfloat16(DType.float16, CUDA)
    with pytest.raises(ValueError, match=r"quant\.compute_dtype=bfloat16: Tesla T4 .*say quant\.compute_dtype=float16"):
        require_bfloat16(DType.bfloat16, CUDA)


def workplace(folder: Path, said: list[dict[str, Any]], device: Device) -> Workplace:
    settings = WorkerSettings(
        ledger_url=str(folder / "ledger.sqlite"),
        paths=PathsConfig(runs=str(folder / "runs"), cache=str(folder / "cache")),
        launch=LaunchConfig(device=device),
        tracking=TrackingConfig(),
    )
    return Workplace(settings=settings, should_stop=lambda: False, send=said.append)


def tiny_spec(folder: Path, dtype: DType) -> RunSpec:
    choice = ("llama7b", {"path": str(make_checkpoint(folder / "model"))})
    return spec(dtype, model=choice, quant="none")


def test_a_worker_refuses_to_train_in_emulated_bfloat16(gpu_is: GpuIs, tmp_path: Path) -> None:
    """What a login node couldn't know, the worker finds on its arrival, before it reads any weights."""
    gpu_is(T4)
    run = tiny_spec(tmp_path, DType.bfloat16)
    with pytest.raises(ValueError, match=r"quant\.compute_dtype=bfloat16: Tesla T4 \(compute capability 7\.5\)"):
        workplace(tmp_path, [], Device.cuda).base(run, trains=True)


def test_a_worker_says_that_a_data_type_is_slow(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    base = workplace(tmp_path, said, Device.cpu).base(tiny_spec(tmp_path, DType.bfloat16))
    assert base.bank.device == CPU
    (note,) = [message["note"] for message in said if message["phase"] == "note"]
    assert note.startswith("note: llama7b bf16: it was made with quant.compute_dtype=bfloat16")
    said.clear()
    workplace(tmp_path, said, Device.cpu).base(tiny_spec(tmp_path, DType.float32))
    assert [message["phase"] for message in said] == ["loading"]


def test_eval_of_a_model_takes_the_device_that_torch_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    model = str(make_checkpoint(tmp_path / "model"))
    target = Target(model=model, adapters=(), quant="none", run_ids=(), sweep=None, runs=None)
    monkeypatch.setattr(devices, "cuda_driver", lambda: Driver(version=(12, 4), devices=(H100,)))
    monkeypatch.setattr(torch_device, "torch_cuda", lambda: TorchCuda(version="2.13.0+cpu", cuda=None))
    with pytest.raises(ValueError, match="is a build without CUDA"):
        list(each_base(target))
    monkeypatch.setattr(devices, "cuda_driver", lambda: None)
    ((base, _),) = each_base(target)
    assert {parameter.dtype for parameter in base.bank.parameters()} == {torch.float32}
    assert "note:" not in capsys.readouterr().err


def test_a_run_in_bfloat16_is_scored_so_on_a_cpu_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_spec(tmp_path, DType.bfloat16)
    save_record(tmp_path, replace(record(), base_fingerprint=folder_fingerprint(tmp_path / "model")))
    system = System(name="there", run_id=run.run_id, spec=run, folder=tmp_path)
    with loaded([system], PathsConfig(cache=str(tmp_path / "cache")), CPU, with_adapters=False) as base:
        assert {parameter.dtype for parameter in base.bank.parameters()} == {torch.bfloat16}
    assert "note: it was made with quant.compute_dtype=bfloat16" in capsys.readouterr().err

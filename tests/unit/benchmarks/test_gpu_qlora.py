"""The GPU benchmark's CPU path: the same model building, training loop and record at a tiny shape."""

import json
import subprocess
import sys
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from benchmarks.gpu.shapes import (
    TINY,
    GpuRecord,
    Options,
    as_markdown,
    build_base,
    flops_per_token,
    measure,
    parse_arguments,
    peak_arithmetic,
    quant_config,
    save,
)
from harness.config.schema import AdapterConfig
from harness.memory.paper import llama_shape
from harness.memory.predict import weights_bytes
from harness.nn.int8 import TokenwiseInt8
from harness.nn.quant import linear_layers

CPU = torch.device("cpu")
OPTIONS = Options(
    size="tiny", steps=2, tokens=16, source_tokens=4, target_tokens=12, batch_size=2, lora_r=4, checkpointing=True
)
NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "omegaconf")


@pytest.fixture(scope="module")
def record() -> GpuRecord:
    return measure(OPTIONS, CPU)


def test_a_tiny_run_trains(record: GpuRecord) -> None:
    assert len(record.losses) == len(record.step_seconds) == 2
    # a fresh adapter over random weights knows nothing: about ln(vocabulary)
    assert record.losses[0] == pytest.approx(6.24, abs=0.2)
    assert record.losses[1] < record.losses[0]
    assert record.tokens_per_second > 0


def test_what_a_cpu_cant_measure_is_open_and_not_a_number(record: GpuRecord) -> None:
    assert (record.peak_bytes, record.peak_over_predicted, record.share_of_peak_arithmetic) == (None, None, None)
    assert any("open" in note for note in record.notes)
    assert "| peak memory, measured | open |" in as_markdown(record)


def test_the_record_is_written_twice(record: GpuRecord, tmp_path: Path) -> None:
    path = save(record, tmp_path)
    assert path.name.startswith("gpu-qlora-cpu-")
    assert path.name.endswith("-tiny-nf4-16-checkpointing.md")
    saved = json.loads(path.with_suffix(".json").read_text())
    assert saved["options"]["batch_size"] == 2
    assert saved["predicted"]["resident_bytes"] > saved["predicted"]["weights_bytes"]


@pytest.mark.parametrize("quant", ["nf4", "fp4", "int8", "fp32"])
def test_the_base_is_whole_and_as_large_as_predicted(quant: str) -> None:
    config = quant_config(quant, CPU)
    base = build_base(TINY, config, CPU)
    assert not any(t.is_meta for t in (*base.parameters(), *base.buffers()))
    kinds = {type(layer) for _, layer in linear_layers(base)}
    expected = {"int8": TokenwiseInt8, "fp32": torch.nn.Linear}.get(quant, bnb.nn.Linear4bit)
    assert kinds == {expected}
    parameters = sum(p.untyped_storage().nbytes() for p in base.parameters())
    assert parameters <= weights_bytes(TINY, config)
    # what is missing are the quantization constants: no plain copy of a layer stayed behind
    assert weights_bytes(TINY, config) < 1.25 * parameters


def test_the_same_weights_every_time() -> None:
    one, two = (build_base(TINY, quant_config("nf4", CPU), CPU) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_flops_of_a_7b_token() -> None:
    shape = llama_shape("7b")
    adapter = AdapterConfig(name="lora", lora_r=64)
    flops = flops_per_token(shape, adapter, sequence=528)
    frozen, trained = 6_607_077_376, 159_907_840  # without the embedding table; r = 64 on every layer
    attention = 32 * 12 * 4096 * 264
    assert flops == 4 * frozen + 6 * trained + attention


def test_peak_arithmetic_by_name() -> None:
    assert peak_arithmetic("NVIDIA H200") == 989e12
    assert peak_arithmetic("NVIDIA H100 PCIe") == 756e12
    assert peak_arithmetic("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_arithmetic("NVIDIA GeForce RTX 4090") == 165e12
    assert peak_arithmetic("cpu (x86_64)") is None


def test_flags() -> None:
    arguments = parse_arguments(["--size", "65b", "--steps", "3", "--tokens", "1056", "--checkpointing", "--json"])
    assert arguments.options == Options(size="65b", steps=3, tokens=1056, checkpointing=True)
    assert arguments.json


def test_a_single_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--steps", "1"])
    assert "the first is not timed" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.slow  # a process that imports torch
def test_without_a_gpu_the_command_says_so() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.shapes", "--size", "7b"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 1
    assert "needs a CUDA device" in done.stderr


@pytest.mark.slow  # processes that import torch
def test_it_imports_nothing_but_what_a_gpu_machine_has() -> None:
    forbidden = ("hydra", "typer", "wandb", "sqlalchemy", "numba", "pandas", "openai", "datasets", "accelerate")
    code = f"import sys\nfor name in {forbidden}: sys.modules[name] = None\nimport benchmarks.gpu.shapes\n"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)

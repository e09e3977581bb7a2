"""Fake CUDA tensors count as real ones do, and the predictor agrees with them at LLaMA's widths."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer import Typer
from typer.testing import CliRunner

from benchmarks.fake_memory import (
    CPU,
    SEQUENCE_TOKENS,
    Case,
    Comparison,
    LiveStorages,
    compare,
    main,
    make_bank,
    make_items,
    measure,
    predicted,
)
from harness.config.choices import quant_choice
from harness.config.schema import DType, QuantConfig, QuantMethod, ShapeConfig
from harness.memory.paper import llama_shape

TINY = ShapeConfig(vocab_size=300, hidden_size=128, intermediate_size=352, num_layers=4, num_heads=4, num_kv_heads=2)


def real_step(case: Case, quant: QuantConfig) -> Callable[[], None]:
    """One pass on the CPU, gradients being there already."""
    bank = make_bank(TINY, quant, case)

    def step() -> None:
        losses = bank.item_losses(make_items(case, TINY.vocab_size))
        (losses * torch.ones_like(losses)).sum().backward()

    step()
    return step


def profiled_bytes(step: Callable[[], None], folder: Path) -> int:
    """The most that the CPU's allocator held at once beyond what lay there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e.get("name") == "[memory]"]
    return int(max(np.cumsum([e["args"]["Bytes"] for e in sorted(events, key=lambda event: event["ts"])])))


@pytest.mark.parametrize(("checkpointing", "members"), [(False, 1), (True, 1), (False, 2)])
def test_fake_tensors_count_as_the_cpus_allocator_does(checkpointing: bool, members: int, tmp_path: Path) -> None:
    quant = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.bfloat16)
    case = Case(tokens=2 * SEQUENCE_TOKENS, members=members, checkpointing=checkpointing, lora_r=8, dropout=0.0)
    measured = measure(TINY, quant, case, CPU)
    real = profiled_bytes(real_step(case, quant), tmp_path)
    assert measured.peak_bytes - measured.static_bytes == pytest.approx(real, rel=0.02)
    assert sum(measured.at_peak.values()) == measured.peak_bytes - measured.static_bytes


def test_storages_are_counted_from_birth_to_death() -> None:
    with LiveStorages() as storages:
        kept = torch.empty(1000, dtype=torch.uint8)
        storages.start_pass()
        assert storages.live_bytes == 1024, "in blocks of 512 bytes"
        view = kept.view(10, 100)[1]
        sums = [torch.empty(512, dtype=torch.uint8) + 1 for _ in range(3)]
        del sums[1:]
        assert storages.live_bytes == 1024 + 512
        assert storages.peak_bytes == 1024 + 4 * 512, "two results, and a third beside what it is made of"
        del kept, sums
        assert storages.live_bytes == 1024, "a view holds its storage"
        del view
        assert storages.live_bytes == 0


@pytest.mark.parametrize(
    "case",
    [
        Case(tokens=2112),
        Case(tokens=8448, dropout=0.0),
        Case(tokens=8448, checkpointing=True),
        Case(tokens=2112, members=3, checkpointing=True),
        Case(tokens=2112, quant="bf16", checkpointing=True),
        Case(tokens=528, quant="int8", checkpointing=True),
        Case(size="65b", tokens=528, checkpointing=True),
    ],
    ids=lambda case: f"{case.size}-{case.quant}-{case.tokens}x{case.members}{'-checkpointing' * case.checkpointing}",
)
def test_the_prediction_at_real_widths(case: Case) -> None:
    found = compare(replace(case, layers=2))
    assert 0.97 <= found.ratio <= 1.05, "what must lie on the device"
    in_the_pass, expected = found.pass_bytes
    assert 0.97 <= expected / in_the_pass <= 1.10, "of the pass alone, two layers deep"


def test_grouped_queries_are_not_repeated() -> None:
    shape = replace(llama_shape("7b"), num_kv_heads=8, num_layers=2)
    quant = replace(quant_choice("nf4"), compute_dtype=DType.bfloat16)
    case = Case(tokens=2112)
    found = Comparison(case=case, measured=measure(shape, quant, case), predicted=predicted(shape, quant, case))
    assert 0.97 <= found.pass_bytes[1] / found.pass_bytes[0] <= 1.05


def test_static_bytes_are_the_predictors() -> None:
    found = compare(Case(members=2, layers=2))
    static = found.predicted.weights_bytes + found.predicted.adapter_bytes + found.predicted.gradient_bytes
    assert static == pytest.approx(found.measured.static_bytes, rel=1e-3)


def test_the_command_prints_a_row() -> None:
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--layers", "1", "--tokens", "64", "--at-peak"])
    assert done.exit_code == 0, done.output
    assert "| 7b | 1 | nf4 | 64 | 1 | 0.1 | no |" in done.output
    assert "dequantize_4bit" in done.output or "float32" in done.output

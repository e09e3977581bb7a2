"""The script for a GPU, dry on a CPU: every stage runs at a tiny shape, one that fails does not end the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.stages import STAGES, Findings, Settings
from benchmarks.gpu_qlora import Record, StageRecord, run_stage, save, stage_text

REPOSITORY = Path(__file__).resolve().parents[2]


def settings(folder: Path) -> Settings:
    return Settings(size="tiny", largest="tiny", device="cpu", scratch=folder)


def holds(_: Settings) -> Findings:
    return Findings(rows=[{"peak_bytes": 2_000_000_000, "losses": [1.0, 0.5]}])


def does_not_hold(_: Settings) -> Findings:
    return Findings(problems=["the peak is 1.200 of the predicted one"])


def raises(_: Settings) -> Findings:
    raise RuntimeError("an illegal memory access was encountered")


def dies(_: Settings) -> Findings:
    os.kill(os.getpid(), signal.SIGKILL)
    return Findings()


def hangs(_: Settings) -> Findings:
    time.sleep(600)
    return Findings()


@pytest.mark.slow
@pytest.mark.timeout(900)  # two and a half minutes on idle cores
def test_every_stage_runs_dry(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_qlora",
        "--tiny",
        "--json",
        "--patience",
        "3",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    record = json.loads(done.stdout)
    problems = {stage["name"]: stage["problems"] for stage in record["stages"] if stage["problems"]}
    assert problems == {}
    assert [stage["name"] for stage in record["stages"]] == list(STAGES)
    not_possible = [stage["name"] for stage in record["stages"] if stage["status"] == "not possible"]
    assert not_possible == ["gpu-tests"]
    assert done.returncode == 0
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".md"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (does_not_hold, "1.200 of the predicted"),
        (raises, "an illegal memory access"),
        (dies, "its process ended with -9"),
        (hangs, "took over 20 s"),
    ],
)
def test_a_stage_that_fails_is_written_down(stage: object, said: str, tmp_path: Path) -> None:
    limit = 20 if stage is hangs else 120  # the others end by themselves, late on a loaded machine
    found = run_stage("stage", stage, settings(tmp_path), limit_seconds=limit)  # type: ignore[arg-type]
    assert found.status == "failed"
    assert said in found.problems[0]


@pytest.mark.slow
def test_a_stage_that_holds(tmp_path: Path) -> None:
    found = run_stage("stage", holds, settings(tmp_path), limit_seconds=60)
    assert (found.status, found.problems) == ("passed", [])
    assert "| 2.000 GB | 1, 0.5 |" in stage_text(found)


def test_the_record_says_what_was_not_possible(tmp_path: Path) -> None:
    stage = StageRecord(name="gpu-tests", status="not possible", seconds=0.1, reason="no CUDA device")
    record = Record(device="NVIDIA H200", date="2026-11-29", settings={"size": "7b", "largest": "65b"}, stages=[stage])
    path = save(record, tmp_path)
    assert path.name == "gpu-nvidia-h200-2026-11-29.md"
    assert "Not run here: no CUDA device." in path.read_text()
    assert record.passed


@pytest.mark.slow  # processes that import torch
def test_an_unknown_stage_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_qlora", "--tiny", "--stages", "speed"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected some of backends, cudnn-lengths" in done.stderr

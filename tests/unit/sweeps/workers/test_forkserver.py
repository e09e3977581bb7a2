"""What is started ahead of a command's own checks is right to start, and is gone where nothing comes of it."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sweeps.workers.forkserver import PRELOAD_CUDA, may_train_here

MARK = "HARNESS_TEST_MARK"
# imports modules under a torch that looks like one for CUDA, and prints which of its CUDA functions they call
WATCHED_IMPORTS = """
import importlib, re, sys
from pathlib import Path
import torch
called = []
for path in Path(torch.__file__).parent.rglob("*.py"):
    for name in re.findall(r"\\b_cuda_\\w+", path.read_text(errors="ignore")):
        if not hasattr(torch._C, name) or name in ("_cuda_init", "_cuda_getDeviceCount"):
            setattr(torch._C, name, lambda *_, name=name: called.append(name) or 1)
for modules in sys.argv[1:]:
    for module in modules.split(","):
        importlib.import_module(module)
    print(modules, *sorted(set(called)), sep=" ")
    called.clear()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=smollm2", "dataset=concise"],
        ["-m", "model=llama7b,13b", "dataset=oasst1,flan"],
        ["-m", "+experiment=demo", "launch=local", "launch.dry_run=false", "launch.workers=2"],
        ["--multirun", "--allow-sqlite", "+grid=table5"],
    ],
)
def test_commands_that_train_here(arguments: list[str]) -> None:
    assert may_train_here(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["model=smollm2", "--cfg", "job"],
        ["model=smollm2", "launch.dry_run=true"],
        ["-m", "model=smollm2", "launch=slurm"],
        ["-m", "model=smollm2", "launch=ray"],
        ["-m", "model=smollm2", "launch.launcher=slurm"],
    ],
)
def test_commands_that_only_ask_or_train_elsewhere(arguments: list[str]) -> None:
    assert not may_train_here(arguments)


def test_processes_of_torchrun_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert not may_train_here(["model=smollm2", "dataset=concise"])


def test_a_refused_command_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "harness.run", "model=llama7b", "dataset=oasst1", f"paths.runs={tmp_path}"]
    environment = {**os.environ, MARK: mark, "HF_HUB_OFFLINE": "1"}
    output = tmp_path / "output"
    with output.open("w") as file:  # no pipe: its end would wait for all that hold it
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=60)
    assert done.returncode == 2, output.read_text()
    assert not [text for text in command_lines(mark) if "forkserver" in text]


def command_lines(mark: str) -> list[str]:
    """Of this machine's processes that inherited the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"{MARK}={mark}" in (folder / "environ").read_text(errors="replace"):
                found.append((folder / "cmdline").read_text(errors="replace"))
        except OSError:
            continue  # it has ended, or isn't ours
    return found


@pytest.mark.slow  # processes that import torch
def test_what_is_preloaded_makes_no_call_of_cuda() -> None:
    """A process that has asked CUDA bears no fork. bitsandbytes asks, which shows that this would be seen."""
    command = [sys.executable, "-c", WATCHED_IMPORTS, PRELOAD_CUDA, "bitsandbytes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == PRELOAD_CUDA
    assert "_cuda_getDeviceCount" in second.split()

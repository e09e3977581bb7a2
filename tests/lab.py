"""A lab's own machine at test size: a model store, a data store, and the project's commands run as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow
from tests.tiny import make_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATASETS = REPOSITORY.parent / "shared" / "data" / "datasets"
TIMEOUT_SECONDS = 240.0  # the machine may be loaded by others
PAPER_GRID = ("-m", "model=llama7b,13b", "dataset=oasst1,flan")
OASST1_ROWS = [{"text": f"### Human: What is {n} plus one?### Assistant: It is {n + 1}."} for n in range(24)]
FLAN_ROWS = [{"inputs": f"Say the number {n}.", "targets": f"{n}, as you asked."} for n in range(24)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Where things lie, and the environment that says so."""

    folder: Path
    extra: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = REPOSITORY

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HARNESS_RUNS": str(self.runs),
            "HARNESS_MODEL_STORE": str(self.models),
            "HARNESS_DATA_STORE": str(self.data),
            "HARNESS_CACHE": str(self.folder / "cache"),
            "HF_HOME": str(self.folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(REPOSITORY),
            **self.extra,
        }

    def call(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`python -m ...` to its end."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )

    def harness(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`python -m harness.run ...` to its end."""
        return self.call("harness.run", *arguments, **environment)

    @property
    def output(self) -> str:
        """What the command that `start` started last has said so far."""
        return (self.folder / "output.txt").read_text()

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`python -m harness.run ...` in a session of its own, as a terminal has it; output goes to a file."""
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.run", *arguments],
                cwd=self.cwd,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def jobs(self) -> list[JobRow]:
        ledger = Ledger.open(self.extra.get("HARNESS_LEDGER_URL", self.runs / "ledger.sqlite"))
        try:
            return list(ledger.rows())
        finally:
            ledger.close()

    def record(self, run_id: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.runs / run_id / "record.json").read_text())
        return values

    def records(self) -> dict[str, dict[str, Any]]:
        """label -> record, of all finished runs."""
        found = (self.record(path.parent.name) for path in sorted(self.runs.glob("*/record.json")))
        return {record["label"]: record for record in found}

    def processes(self) -> dict[int, str]:
        """pid -> command line of every living process that works for this lab, whoever its parent is now."""
        mine = f"HARNESS_RUNS={self.runs}".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mine in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended while we looked, or is another user's
        return found

    def end_processes(self) -> None:
        """Kills what a failed test left running."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def num_steps_logged(self) -> int:
        return sum(self.steps_logged().values())

    def steps_logged(self) -> dict[str, int]:
        """run id -> lines of its metrics."""
        return {path.parent.name: len(path.read_text().splitlines()) for path in self.runs.glob("*/metrics.jsonl")}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_lab(folder: Path, models: Mapping[str, int] | None = None) -> Lab:
    """Tiny checkpoints (name -> seed, whose parity is the width) and small files in OASST1's and FLAN's form."""
    lab = Lab(folder=folder)
    for name, seed in ({"llama7b": 0, "llama13b": 1} if models is None else models).items():
        make_checkpoint(lab.models / name, seed)
    write_rows(lab.data / "oasst1.jsonl", OASST1_ROWS)
    write_rows(lab.data / "flan.jsonl", FLAN_ROWS)
    return lab


def wait_until(condition: Callable[[], bool], what: str, process: "subprocess.Popen[str] | None" = None) -> None:
    """Polls until `condition`; fails if time runs out, or the process ends, first."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert process is None or process.poll() is None, f"it ended with {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"no {what} in {TIMEOUT_SECONDS} s"
        time.sleep(0.1)

"""The sweep that everything happens to: 1,000 runs, 50 kills of workers, 3 of the parent, and nothing lost.

make test-slow                                                       # this among others
python -m tests.pipeline.test_thousand 100 --workers 8 --parents 1   # a smaller one, with its figures
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from harness.banks.load import make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterMethod, DType, ModelKind, QuantConfig, QuantMethod
from harness.files.atomic import read_jsonl
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from harness.runs.folder import folder_problem
from harness.runs.record import load_record
from sweeps.plan.jobs import plan_runs
from tests.lab import REPOSITORY, Lab, make_lab, wait_until
from tests.processes.arrivals import Arrivals
from tests.processes.many import many_configs

NUM_STEPS = 2
OVERRIDES = ("launch.workers=2", "launch.threads=1", "launch.max_attempts=100", "tracking.wandb_mode=disabled")


@dataclass(slots=True)
class Tally:
    """What was done to the sweep, and what it took."""

    worker_kills: int = 0
    parent_kills: int = 0
    seconds: float = 0.0
    records: dict[str, int] = field(default_factory=dict)  # run_id -> how often its record.json appeared
    adapters: dict[str, int] = field(default_factory=dict)  # run_id -> how often its adapter was put in place


def run_under_fire(lab: Lab, number: int, worker_kills: int, parent_kills: int, seed: int) -> Tally:
    """Runs the sweep to its end, killing at random moments, the parent started again each time."""
    victims = ["worker"] * worker_kills + ["parent"] * parent_kills
    rng = random.Random(seed)
    rng.shuffle(victims)
    moments = sorted(rng.uniform(0.02, 0.9) * number for _ in victims)  # in runs done
    folders = [lab.runs / run.run_id for run in plan_runs(many_configs(number, OVERRIDES))]
    for folder in folders:
        folder.mkdir(parents=True)
    tally, began = Tally(), time.monotonic()
    with Arrivals(folders) as arrivals:
        parent = _start(lab, number)
        while parent.poll() is None:
            time.sleep(0.02)
            done = sum(name == "record.json" for _, name in arrivals.counts())
            if not victims or done < moments[0]:
                continue
            if victims[0] == "parent":
                parent.kill()
                parent.wait()
                tally.parent_kills += 1
                parent = _start(lab, number)
            elif not _kill_a_worker(lab, rng):
                continue
            else:
                tally.worker_kills += 1
            victims.pop(0)
            moments.pop(0)
        tally.seconds = time.monotonic() - began
        assert parent.returncode == 0, (lab.folder / "output.txt").read_text()[-5000:]
        counts = arrivals.counts()
        tally.records = {folder.name: counts[(folder, "record.json")] for folder in folders}
        tally.adapters = {folder.name: counts[(folder, "adapter")] for folder in folders}
    return tally


def _start(lab: Lab, number: int) -> "subprocess.Popen[str]":
    with (lab.folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.processes.many", str(number), *OVERRIDES],
            cwd=REPOSITORY,
            env=lab.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _kill_a_worker(lab: Lab, rng: random.Random) -> bool:
    """Kills one that holds a job, if there is one."""
    ledger = Ledger.open(lab.runs / "ledger.sqlite")
    claimed = list(ledger.rows(status=JobStatus.claimed))
    ledger.close()
    alive = [pid for pid in {_pid(row) for row in claimed} if pid in lab.processes()]
    if not alive:
        return False
    try:
        os.kill(rng.choice(sorted(alive)), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _pid(row: JobRow) -> int:
    return int((row.worker or "").rpartition(":")[2])


def check_all_done(lab: Lab, number: int, tally: Tally) -> None:
    """Exactly so many runs, each done once, each whole, each with its own steps and a loadable adapter."""
    rows = lab.jobs()
    assert [row.status for row in rows] == [JobStatus.done] * number
    assert len(tally.records) == number
    assert set(tally.records.values()) == {1}, "a run was trained to completion more or less than once"
    bank = _bank(lab)
    for row in rows:
        folder = lab.runs / row.run_id
        assert folder_problem(folder, needs_adapter=True) is None
        assert [metrics["step"] for metrics in read_jsonl(folder / "metrics.jsonl")] == [1, 2]
        record = load_record(folder)
        assert record is not None
        assert (record.num_steps, record.label) == (NUM_STEPS, row.label)
        _check_loads(bank, folder)
        assert not list(folder.glob("checkpoint/step-*"))


def _bank(lab: Lab) -> AdapterBank:
    quant = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
    return make_bank(lab.models / "llama7b", ModelKind.causal, AdapterMethod.lora, quant, torch.device("cpu"))


def _check_loads(bank: AdapterBank, folder: Path) -> None:
    bank.load_member("one", folder / "adapter")
    tensors = bank.member_parameters("one")
    assert len(tensors) == 2 * len(bank.layers)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert any(bool(tensor.any()) for name, tensor in tensors.items() if "lora_B" in name), "B was never trained"
    bank.remove_member("one")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_runs_under_fire(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, models={"llama7b": 0})
    try:
        tally = run_under_fire(lab, 1000, worker_kills=50, parent_kills=3, seed=0)
        wait_until(lambda: not lab.processes(), "the end of all processes")
        assert (tally.worker_kills, tally.parent_kills) == (50, 3)
        check_all_done(lab, 1000, tally)
    finally:
        lab.end_processes()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int)
    parser.add_argument("--workers", type=int, default=50, help="kills of workers")
    parser.add_argument("--parents", type=int, default=3, help="kills of the parent")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lab = make_lab(Path(folder), models={"llama7b": 0})
        try:
            tally = run_under_fire(lab, wanted.runs, wanted.workers, wanted.parents, wanted.seed)
            wait_until(lambda: not lab.processes(), "the end of all processes")
            check_all_done(lab, wanted.runs, tally)
        finally:
            lab.end_processes()
        attempts = [row.attempts for row in lab.jobs()]
        again = sum(count - 1 for count in tally.adapters.values())
        print(
            f"{wanted.runs} runs done in {tally.seconds:.0f} s with {tally.worker_kills} workers and "
            f"{tally.parent_kills} parents killed; no process left; claims more than one a run: "
            f"{sum(attempts) - len(attempts)}, at most {max(attempts)} of one run; adapters put in place twice, killed "
            f"before the record: {again}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

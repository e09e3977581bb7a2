"""Measures the seconds of the whole command `python -m sweeps status` with many recorded runs.

    python -m benchmarks.status                     # 100,000 runs in SQLite
    python -m benchmarks.status --ledger postgresql://postgres@/postgres?host=/run/pg    # an empty database

Of the runs 90 % are done, 1 % failed, 8 claimed, the rest queued; half of them also belong to a second sweep.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from harness.ledger.database import Access
from harness.ledger.ledger import Ledger
from harness.ledger.open import LEDGER_FILE
from harness.ledger.tables import Job, JobStatus, jobs

CALLS = (
    ("status", "--sweep", "all"),
    ("status", "--sweep", "all", "--json"),
    ("status",),
    ("status", "--json"),
)
BLOCK = 10_000


def main(
    runs: int = 100_000,
    ledger: Annotated[str | None, typer.Option(help="URL of an empty database; default: SQLite.")] = None,
    repeats: int = 3,
) -> None:
    """Fills a ledger, then prints the seconds of each call."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        fill(Ledger.open(ledger or Path(folder) / LEDGER_FILE), runs)
        print(f"{runs} runs recorded in {time.monotonic() - began:.0f} s", flush=True)
        environment = {**os.environ, "HARNESS_RUNS": folder, **({"HARNESS_LEDGER_URL": ledger} if ledger else {})}
        for call in CALLS:
            seconds = [_seconds(call, environment) for _ in range(repeats)]
            print(f"sweeps {' '.join(call)}: {', '.join(f'{s:.2f}' for s in seconds)} s", flush=True)


def fill(ledger: Ledger, runs: int) -> None:
    """As a sweep of so many runs leaves it in its last tenth."""
    for start in range(0, runs, BLOCK):
        block = [_job(number) for number in range(start, min(start + BLOCK, runs))]
        ledger.add(block, sweep="all")
        ledger.add(block[::2], sweep="half")

    def settle(connection: sa.Connection) -> None:
        now = time.time()
        ended = {"started": jobs.c.created, "attempts": 1, "worker": "host:1", "claim_token": 1}
        values = ended | {"status": JobStatus.done, "seconds": 30.0, "result": '{"final_loss": 1.25, "num_steps": 100}'}
        done = sa.update(jobs).where(jobs.c.seq <= runs * 0.9)
        connection.execute(done.values(**values, finished=now - (runs * 0.9 - jobs.c.seq)))
        failed = sa.update(jobs).where(jobs.c.seq > runs * 0.9, jobs.c.seq <= runs * 0.91)
        connection.execute(failed.values(**ended, status=JobStatus.failed, reason="out of memory", finished=now))

    ledger._database.transact(Access.rearrange, settle)
    ledger.claim("host:1", ["train"], max_jobs=8, lease_seconds=3600, max_attempts=2)
    ledger.close()


def _job(number: int) -> Job:
    run_id = f"{number:012x}"
    payload = "x" * 2_000  # what a spec takes
    label = f"llama7b-flan-nf4-s{number}"
    return Job(kind="train", spec_hash=run_id, run_id=run_id, group=f"g{number // 500}", label=label, payload=payload)


def _seconds(call: tuple[str, ...], environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "sweeps", *call], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    typer.run(main)

"""Trains 64 runs of uneven length in groups that stay full, and compares the time with the ideal one.

    python -m benchmarks.groups.full_groups [--runs 64] [--places 8] [--least 5] [--most 60]

The runs (a tiny LLaMA, rows of small sums) are trained by the sweep's own jobs in this process. The ideal is their
number of steps at the speed that `--places` runs of one length reach together, which is measured in the same process
before and after. "As before" is the same queue where a group ends with its longest run before others are claimed.
Prints a table in Markdown. Bar: within 10 % of the ideal.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.groups.race import Engine, space, write_rows
from harness.config.schema import Config
from harness.files.atomic import read_jsonl
from harness.runs.record import METRICS_FILE
from sweeps.jobs.context import Context
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.workers.serve import work_once
from tests.tiny import make_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A queue that was worked off."""

    seconds: float
    processor_seconds: float
    run_steps: int  # over all runs
    group_steps: float  # passes of a group, however many members it had

    @property
    def seconds_a_step(self) -> float:
        """Of one run, at the mean."""
        return self.seconds / self.run_steps

    @property
    def processor_seconds_a_step(self) -> float:
        """As `seconds_a_step`, without what others did on the machine."""
        return self.processor_seconds / self.run_steps

    @property
    def mean_members(self) -> float:
        """Runs in a step."""
        return self.run_steps / self.group_steps


def lengths(number: int, least: int, most: int) -> list[int]:
    """Steps of each run: uniform, seeded, in no order."""
    rng = random.Random(0)
    return [rng.randint(least, most) for _ in range(number)]


def points(base: Config, steps: Sequence[int]) -> list[Config]:
    """Runs that differ in their length and seeds: at a step each has other rows, also where all are of one length."""
    return [
        replace(base, train=replace(base.train, max_steps=number, seed=seed, data_seed=seed, eval_rows=0))
        for seed, number in enumerate(steps)
    ]


def worked_off(folder: Path, configs: Sequence[Config], places: int, in_batches: bool = False) -> Outcome:
    """Trains the runs to their ends. Args: in_batches: so many are queued at once, as if a group took no others."""
    engine = Engine(folder, places)
    batches = [configs[start : start + places] for start in range(0, len(configs), places)] if in_batches else [configs]
    with closing(engine.open()) as ledger:
        context = Context(settings=engine.settings, ledger=ledger, should_stop=lambda: False, send=lambda _: None)
        began = worked = 0.0
        for batch in batches:
            runs = plan_runs(batch)
            enqueue(ledger, folder / "runs", runs, make_jobs(runs), f"batch-{runs[0].run_id}", [])
            if not began:
                context.base(runs[0].spec)  # loaded before the clock starts
                began, worked = time.monotonic(), time.process_time()
            while work_once(context, "benchmark"):
                pass
        seconds, processor = time.monotonic() - began, time.process_time() - worked
    lines = [line for path in (folder / "runs").glob(f"*/{METRICS_FILE}") for line in read_jsonl(path)]
    return Outcome(
        seconds=seconds,
        processor_seconds=processor,
        run_steps=len(lines),
        group_steps=sum(1 / line["num_members"] for line in lines),
    )


def main() -> None:
    """Works the queue off in both ways, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--places", type=int, default=8)
    parser.add_argument("--least", type=int, default=5, help="steps of the shortest run")
    parser.add_argument("--most", type=int, default=60, help="steps of the longest run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "rows.jsonl", 0)
        base = space(folder, make_checkpoint(folder / "model"), options.most, 0)[0]
        uneven = points(base, lengths(options.runs, options.least, options.most))
        even = points(base, [sum(lengths(options.runs, options.least, options.most)) // options.runs] * options.runs)
        before = worked_off(folder / "even-1", even, options.places)
        full = worked_off(folder / "full", uneven, options.places)
        batches = worked_off(folder / "batches", uneven, options.places, in_batches=True)
        after = worked_off(folder / "even-2", even, options.places)
    ideal = (before.seconds_a_step + after.seconds_a_step) / 2
    ideal_work = (before.processor_seconds_a_step + after.processor_seconds_a_step) / 2
    print("| queue | runs' steps | runs in a step | seconds | of the ideal | processor seconds | of the ideal |")
    print("|---|---|---|---|---|---|---|")
    for name, outcome in (
        ("even lengths, first", before),
        ("uneven, full groups", full),
        ("uneven, as before", batches),
        ("even lengths, last", after),
    ):
        share, of_work = outcome.seconds_a_step / ideal, outcome.processor_seconds_a_step / ideal_work
        print(
            f"| {name} | {outcome.run_steps:,} | {outcome.mean_members:.2f} | {outcome.seconds:.1f} | {share:.1%} "
            f"| {outcome.processor_seconds:.1f} | {of_work:.1%} |"
        )


if __name__ == "__main__":
    main()

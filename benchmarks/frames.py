"""Measures the seconds in which `analysis.frames` reads many runs.

    python -m benchmarks.frames                       # 1,000 runs with 1,000 questions of MMLU and 100 steps each
    python -m benchmarks.frames --questions 14042     # all of MMLU: 4 MB a run

The runs are generated: records, steps, MMLU's and perplexity's files as the harness writes them. Each frame is made
in a process that has imported everything; the import itself is measured apart. In brackets the seconds of the process's
own work, which other processes on the machine don't lengthen.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from analysis.frames import metrics, questions, runs, scores, to_parquet
from tests.records.recorded_sweep import grid_specs, write_run

FRAMES: tuple[Callable[..., pd.DataFrame], ...] = (runs, scores, metrics, questions)


def main(count: int = 1000, questions: int = 1000, steps: int = 100, repeats: int = 3) -> None:
    """Writes the runs, then prints the seconds of each frame."""
    print(f"import: {_seconds_of_import():.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, count, questions, steps)
        for frame in FRAMES:
            found = [_timed(partial(frame, runs_folder=folder)) for _ in range(repeats)]
            rows = len(found[0][2])
            shown = ", ".join(f"{wall:.2f} ({cpu:.2f})" for wall, cpu, _ in found)
            print(f"{frame.__name__}: {rows} rows, {shown} s", flush=True)
        table = runs(runs_folder=folder)
        wall, cpu, _ = _timed(lambda: to_parquet(table, folder / "runs.parquet"))
        print(f"to_parquet of runs: {wall:.2f} ({cpu:.2f}) s", flush=True)


def fill(folder: Path, count: int, num_questions: int, num_steps: int) -> None:
    """Run folders as a sweep over learning rates and seeds leaves them."""
    lines = "".join(
        json.dumps({"step": step, "loss": 2.0, "learning_rate": 2e-4, "grad_norm": 0.3, "target_tokens": 500}) + "\n"
        for step in range(1, num_steps + 1)
    )
    first = grid_specs()[0]
    assert first.train is not None
    for number in range(count):
        train = replace(first.train, seed=number % 5, learning_rate=1e-5 * (1 + number // 5))
        spec = replace(first, train=train)
        write_run(folder / spec.run_id, spec, f"run-{number}", number, num_questions=num_questions)
        (folder / spec.run_id / "metrics.jsonl").write_text(lines)


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """-> seconds by the clock, seconds of this process's own work, what came of it"""
    began, used = time.monotonic(), time.process_time()
    result = work()
    return time.monotonic() - began, time.process_time() - used, result


def _seconds_of_import() -> float:
    command = [sys.executable, "-c", "import analysis.frames"]
    return _timed(lambda: subprocess.run(command, check=True))[0]


if __name__ == "__main__":
    typer.run(main)

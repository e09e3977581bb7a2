"""Everything that only a GPU can say about this project, in one command of under ten minutes on one H200.

    python -m benchmarks.gpu_qlora                              # all stages, LLaMA-7B shapes, one CUDA device
    python -m benchmarks.gpu_qlora --size 13b --stages memory-of-shapes,one-pass
    python -m benchmarks.gpu_qlora --tiny                       # any CPU: the same stages at a tiny shape, a dry run

The stages (benchmarks/gpu/stages.py) go from what breaks first to what takes longest: versions and attention kernels,
fifty lengths with and without cuDNN, stop and resume with 32- and 8-bit paged AdamW, peaks beside the predictor, a
profile of one pass, groups of 1 to 16 with 512 tokens each, memory after each of five runs, scoring and decoding, a
classifier, the tests marked gpu, the user's own command stopped and given again, one step of a 65B shape. Each has a
process of its own and a time limit; one that fails is written down and the next one runs. Weights are random, nothing
is downloaded.

Record: benchmarks/results/gpu-<device>-<date>.md and .json, written anew after every stage.
Exit status: 0 when every stage that could be run held all its checks, else 1.
"""

import argparse
import json
import multiprocessing
import platform
import re
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.stages import STAGES, Findings, Settings, Stage
from harness.devices.process import prepare_process
from harness.files.atomic import write_atomically, write_json

RESULTS = Path(__file__).parent / "results"
LIMIT_SECONDS = 120.0  # of a stage
LIMITS = {"backends": 60.0, "memory-of-shapes": 180.0, "gpu-tests": 240.0, "largest-shape": 180.0}
SIZES = ("7b", "13b", "33b", "65b")


@dataclass(slots=True, kw_only=True)
class StageRecord:
    """One stage's part of the record."""

    name: str
    status: str  # passed, failed, not possible
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    reason: str | None = None  # why it was not possible


@dataclass(slots=True, kw_only=True)
class Record:
    """The whole of a run of this script."""

    device: str
    date: str
    settings: dict[str, str]
    stages: list[StageRecord] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no stage has failed."""
        return all(stage.status != "failed" for stage in self.stages)


def main(command_line: Sequence[str] | None = None) -> None:
    """Runs the stages, prints each as it ends, and writes the record."""
    options = parse_options(command_line)
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    if device == "cpu" and not options.tiny:
        raise SystemExit("torch sees no CUDA device here; --tiny runs every stage on a CPU, as a dry run")
    record = Record(
        device=torch.cuda.get_device_name() if device == "cuda" else f"cpu ({platform.machine()})",
        date=datetime.now(UTC).date().isoformat(),
        settings={"size": "tiny" if options.tiny else options.size, "largest": "tiny" if options.tiny else "65b"},
    )
    for name in options.stages:
        with tempfile.TemporaryDirectory() as scratch:
            settings = Settings(**record.settings, device=device, scratch=Path(scratch))
            stage = run_stage(name, STAGES[name], settings, LIMITS.get(name, LIMIT_SECONDS) * options.patience)
        record.stages.append(stage)
        if not options.json:
            print(stage_text(stage), flush=True)
        if options.out is not None:
            save(record, options.out)
    if options.json:
        print(json.dumps(asdict(record), indent=2))
    raise SystemExit(0 if record.passed else 1)


def parse_options(command_line: Sequence[str] | None) -> argparse.Namespace:
    """A CPU run writes no record unless `--out` says where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b", help="the LLaMA shape of most stages")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU: a dry run")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"some of {','.join(STAGES)}")
    parser.add_argument("--patience", type=float, default=1.0, help="the stages' time limits times this")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--out", type=Path, help="folder of the record; default on CUDA: results/ beside this file")
    options = parser.parse_args(command_line)
    options.stages = options.stages.split(",")
    if unknown := [name for name in options.stages if name not in STAGES]:
        parser.error(f"--stages {','.join(unknown)}: expected some of {', '.join(STAGES)}")
    if options.out is None and not options.tiny:
        options.out = RESULTS
    return options


def run_stage(name: str, stage: Stage, settings: Settings, limit_seconds: float) -> StageRecord:
    """Runs one stage in a fresh process; whatever becomes of that process is written down."""
    context = multiprocessing.get_context("spawn")  # CUDA bears no fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_stage_process, args=(stage, settings, theirs))
    began = time.monotonic()
    process.start()
    theirs.close()
    answer: Findings | str = f"took over {limit_seconds:.0f} s and was ended"
    if ours.poll(limit_seconds):
        try:
            answer = ours.recv()
        except EOFError:
            process.join(10)
            answer = f"its process ended with {process.exitcode}"
    process.terminate()
    process.join(10)
    if process.is_alive():
        process.kill()
    seconds = time.monotonic() - began
    if isinstance(answer, str):
        return StageRecord(name=name, status="failed", seconds=seconds, problems=[answer])
    status = "not possible" if answer.not_possible else "failed" if answer.problems else "passed"
    return StageRecord(
        name=name,
        status=status,
        seconds=seconds,
        rows=answer.rows,
        problems=answer.problems,
        reason=answer.not_possible,
    )


def _stage_process(stage: Stage, settings: Settings, connection: Connection) -> None:
    try:
        prepare_process()
        connection.send(stage(settings))
    except BaseException:  # the boundary of a stage: its whole story goes into the record
        connection.send(traceback.format_exc(limit=-6))


def stage_text(stage: StageRecord) -> str:
    """One stage for people: its rows as a table, and what didn't hold."""
    lines = [f"## {stage.name}: {stage.status} ({stage.seconds:.0f} s)", ""]
    if stage.reason is not None:
        lines += [f"Not run here: {stage.reason}.", ""]
    if stage.rows:
        columns = list(dict.fromkeys(key for row in stage.rows for key in row))
        lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(key, row.get(key)) for key in columns)} |" for row in stage.rows]
        lines.append("")
    lines += [f"- **does not hold**: {problem}" for problem in stage.problems]
    return "\n".join(lines)


def save(record: Record, folder: Path) -> Path:
    """Writes gpu-<device>-<date>.json and .md. -> the latter's path"""
    device = re.sub(r"[^a-z0-9]+", "-", record.device.lower()).strip("-")
    path = folder / f"gpu-{device}-{record.date}.md"
    write_json(path.with_suffix(".json"), record)
    titles = [f"# GPU checks on {record.device}, {record.date}", ""]
    titles += [f"`python -m benchmarks.gpu_qlora --size {record.settings['size']}`; random weights.", ""]
    write_atomically(path, "\n".join([*titles, *(stage_text(stage) + "\n" for stage in record.stages)]))
    return path


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "open"
    if isinstance(value, list):
        return ", ".join(_cell("", part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value / 1e9:.3f} GB"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

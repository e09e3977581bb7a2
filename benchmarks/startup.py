"""Seconds from the command to the first training step, beside importing the libraries and reading the weights.

    python -m benchmarks.startup --rows alpaca.jsonl --format alpaca [--rounds 3] [--json]

The floor imports torch and transformers and reads SmolLM2 in float32 with `from_pretrained`. Ours is the whole of
`python -m harness.run`: composing, planning, checking and tokenizing the data (the first round; then cached), a worker
process, the base, the adapter. Turns A B A B; the first round fills the caches of both and is not counted.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from harness.devices.process import prepare_process

FLOOR = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""


def main(
    rows: Annotated[Path, typer.Option(help="Rows to train on.")],
    row_format: Annotated[str, typer.Option("--format", help="How a row is read: alpaca, oasst1, ...")],
    rounds: Annotated[int, typer.Option(help="Turns of each side that count.")] = 3,
    cache: Path = Path(".cache"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Times both in turn and prints seconds and their ratio."""
    prepare_process()
    from harness.config.choices import model_choice
    from harness.config.schema import PathsConfig
    from harness.models.convert import checkpoint_folder
    from harness.models.locate import ModelSource, locate_model

    source = locate_model(model_choice("smollm2"), PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource)
    folder = checkpoint_folder(source, cache)
    turns: dict[str, list[float]] = {"ours": [], "floor": []}
    for turn in range(rounds + 1):
        seconds = {"floor": floor_seconds(folder), "ours": first_step_seconds(rows, row_format, cache)}
        for name, value in seconds.items():
            turns[name] += [value] if turn else []
    ratios = [ours / floor for ours, floor in zip(turns["ours"], turns["floor"], strict=True)]
    record: dict[str, Any] = {"seconds": turns, "ratios": ratios, "median_ratio": sorted(ratios)[len(ratios) // 2]}
    print(json.dumps(record, indent=None if as_json else 2))


def floor_seconds(folder: Path) -> float:
    """Of a fresh process that imports the libraries and reads the weights."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", FLOOR, str(folder)], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def first_step_seconds(rows: Path, row_format: str, cache: Path) -> float:
    """From the command to the beginning of its first step."""
    with TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "harness.run", "model=smollm2", "quant=fp32", "dataset=local"]
        command += [f"dataset.path={rows.resolve()}", f"dataset.format={row_format}", "train.max_steps=1"]
        command += ["train.batch_size=1", f"paths.runs={runs}", f"paths.cache={cache.resolve()}"]
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while not (lines := [line for path in Path(runs).glob("*/metrics.jsonl") for line in path.open()]):
            if child.poll() is not None:
                raise SystemExit(f"the run ended without a step:\n{child.stdout.read() if child.stdout else ''}")
            time.sleep(0.01)
        seconds = time.monotonic() - began
        child.communicate()
        return seconds - float(json.loads(lines[0])["seconds"])


if __name__ == "__main__":
    typer.run(main)

"""Races a space of 64 points by successive halving, and trains all of it: what is found, and in how many tokens.

    python -m benchmarks.groups.race [--seeds 5] [--first-seed 0] [--steps 28] [--min-steps 4] [--eta 2]

For each seed (of the rows, the adapters and the order of examples): a tiny LLaMA with random weights, rows of small
sums, and a grid of 8 learning rates x 4 ranks x 2 schedules. The full grid and the race are trained by the sweep's own
jobs, in this process, each in a folder of its own; both are judged by the held-out loss of the run that they end with.
Nothing is simulated. Prints a table in Markdown. Bars: within 1 % of the grid's best, in at most 35 % of its tokens.
"""

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.config.schema import Config, Device, LaunchConfig, PathsConfig, TrackingConfig, WandbMode
from harness.files.atomic import read_jsonl
from harness.ledger.ledger import Ledger
from harness.runs.record import METRICS_FILE
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.plan.enqueue import Stops, enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.search.race import describe_race, make_race, run_race
from sweeps.search.rungs import Rungs, measured, train_rows
from sweeps.workers.serve import work_once
from tests.tiny import make_checkpoint

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 6e-3, 1e-2, 2e-2, 5e-2)
RANKS = (2, 4, 8, 16)
SCHEDULES = ("constant", "cosine")
NUM_ROWS, EVAL_ROWS, GROUP_SIZE = 240, 32, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one way of training the space found, and what it took."""

    best: float  # held-out loss, nats a token
    target_tokens: int  # trained on
    seconds: float


def write_rows(path: Path, seed: int) -> None:
    """Sums of two small numbers, in words that the model has never seen."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(30), rng.randrange(30)) for _ in range(NUM_ROWS)]
    rows = [{"input": f"What is {a} and {b}?", "output": f"{a} and {b} is {a + b}."} for a, b in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def space(folder: Path, model: Path, steps: int, seed: int) -> list[Config]:
    """The 64 points."""
    fixed = ["model=local", f"model.path={model}", "dataset=local", f"dataset.path={folder / 'rows.jsonl'}"]
    fixed += ["quant=fp32", f"train.max_steps={steps}", "train.batch_size=8", f"train.eval_rows={EVAL_ROWS}"]
    fixed += [f"train.seed={seed}", f"train.data_seed={seed}", "launch.device=cpu", "adapter.lora_dropout=0"]
    base = compose_grid(fixed, eval_config())[0].config
    return [
        replace(
            base,
            adapter=replace(base.adapter, lora_r=rank, lora_alpha=2 * rank),
            train=replace(base.train, learning_rate=rate, schedule=type(base.train.schedule)(schedule)),
        )
        for rate, rank, schedule in itertools.product(RATES, RANKS, SCHEDULES)
    ]


class Engine:
    """Trains what is planned by the sweep's own jobs, within this process."""

    def __init__(self, folder: Path, group_size: int = GROUP_SIZE) -> None:
        folder.mkdir()
        self.folder, self.url = folder, str(folder / "ledger.sqlite")
        self.settings = WorkerSettings(
            ledger_url=self.url,
            paths=PathsConfig(runs=str(folder / "runs"), cache=str(folder / "cache")),
            launch=LaunchConfig(device=Device.cpu, max_group_size=group_size),
            tracking=TrackingConfig(wandb_mode=WandbMode.disabled),
        )

    def open(self) -> Ledger:
        """The ledger."""
        return Ledger.open(self.url)

    def launch(self, configs: Sequence[Config], stops: Stops | None) -> int:
        """Trains the points, as far as they are told."""
        runs = plan_runs(configs)
        with closing(self.open()) as ledger:
            enqueue(ledger, self.folder / "runs", runs, make_jobs(runs), "grid", [], stops)
            context = Context(settings=self.settings, ledger=ledger, should_stop=lambda: False, send=lambda _: None)
            while work_once(context, "benchmark"):
                pass
        return 0

    def target_tokens(self) -> int:
        """All that was trained on, over all steps of all runs."""
        paths = (self.folder / "runs").glob(f"*/{METRICS_FILE}")
        return sum(line["target_tokens"] for path in paths for line in read_jsonl(path))


def full_grid(folder: Path, configs: Sequence[Config]) -> Outcome:
    """Trains every point to its end."""
    engine, began = Engine(folder), time.monotonic()
    engine.launch(configs, None)
    with closing(engine.open()) as ledger:
        rows = train_rows(ledger, [run.run_id for run in plan_runs(configs)])
    losses = [point[0] for row in rows.values() if (point := measured(row, "eval_loss")) is not None]
    return Outcome(best=min(losses), target_tokens=engine.target_tokens(), seconds=time.monotonic() - began)


def race(folder: Path, configs: Sequence[Config], rungs: Rungs) -> Outcome:
    """Races the points."""
    engine, began = Engine(folder), time.monotonic()
    made = make_race(configs, rungs, "eval_loss")
    run_race(made, engine.launch, engine.open)
    with closing(engine.open()) as ledger:
        best = describe_race(made, ledger)["best"]
    return Outcome(best=best["loss"], target_tokens=engine.target_tokens(), seconds=time.monotonic() - began)


def main() -> None:
    """Races and trains the space for each seed, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=28, help="of a run that goes to its end")
    parser.add_argument("--min-steps", type=int, default=4, help="of the first rung")
    parser.add_argument("--eta", type=int, default=2)
    options = parser.parse_args()
    rungs = Rungs(first=options.min_steps, eta=options.eta)
    print(
        "| seed | grid's best | race's best | worse by | tokens of the grid | of the race | share | s, grid | s, race |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    shares, gaps = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            folder = Path(place) / str(seed)
            folder.mkdir()
            model = make_checkpoint(folder / "model", seed)
            write_rows(folder / "rows.jsonl", seed)
            configs = space(folder, model, options.steps, seed)
            raced = race(folder / "race", configs, rungs)
            whole = full_grid(folder / "grid", configs)
            gaps.append(raced.best / whole.best - 1)
            shares.append(raced.target_tokens / whole.target_tokens)
            print(
                f"| {seed} | {whole.best:.4f} | {raced.best:.4f} | {gaps[-1]:.2%} | {whole.target_tokens:,} "
                f"| {raced.target_tokens:,} | {shares[-1]:.1%} | {whole.seconds:.0f} | {raced.seconds:.0f} |",
                flush=True,
            )
    print(f"\nworst: {max(gaps):.2%} above the grid's best; mean share of tokens {statistics.fmean(shares):.1%}")


if __name__ == "__main__":
    main()

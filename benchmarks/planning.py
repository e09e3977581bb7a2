"""Measures how long it takes to plan a grid of 10,000 points, and where the time goes.

    python benchmarks/planning.py [--points 10000] [--hydra-points 100]

Two grids: choices (4 models x 5 datasets x 2 data types x 5 ranks x 5 rates x 10 seeds) and seeds (as many seeds of one
run, where no value comes twice). For each: composing, the plan (`RunSpec`s, run ids, labels, jobs) and the look at
what is there and what is done. Beside it `--hydra-points` of the same points through Hydra itself, as before; for
all of them that time is multiplied, and marked so. Prints a table in Markdown.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from eval.benchmarks.registry import eval_config
from harness.config.choices import CONF_FOLDER
from harness.config.compose import Point, _load, compose_grid, to_config
from sweeps.plan.planned import planned

T = TypeVar("T")


def grids(num_points: int) -> dict[str, list[str]]:
    """The two grids, each as the overrides of a command line."""
    seeds = max(1, num_points // 1000)
    return {
        "choices": [
            "model=7b,13b,33b,65b",
            "dataset=alpaca,flan,oasst1,chip2,longform",
            "quant=nf4,fp4",
            "adapter.lora_r=8,16,32,64,128",
            "train.learning_rate=5e-5,1e-4,2e-4,4e-4,8e-4",
            f"train.seed=range(0,{seeds})",
        ],
        "seeds": ["model=smollm2", "dataset=concise", f"train.seed=range(0,{num_points})"],
    }


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """-> what `work` returns, and its seconds"""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def through_hydra(points: Sequence[Point]) -> None:
    """One composition and one conversion a point: what planning did before."""
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for point in points:
            assert to_config(_load(loader, point.overrides), eval_config()) == point.config


def main() -> None:
    """Times both grids and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000, help="of each grid, a multiple of 1,000")
    parser.add_argument("--hydra-points", type=int, default=100, help="composed by Hydra itself, for comparison")
    options = parser.parse_args()
    print("| grid | points | compose, s | plan and look, s | together, s | Hydra itself, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HARNESS_RUNS"] = folder
        for name, overrides in grids(options.points).items():
            points, compose_seconds = timed(partial(compose_grid, overrides, eval_config()))
            plan, plan_seconds = timed(partial(planned, [point.config for point in points]))
            assert len(plan.runs) == len(points)
            sample = points[:: max(1, len(points) // max(1, options.hydra_points))][: options.hydra_points]
            _, hydra_seconds = timed(partial(through_hydra, sample))
            per_point = hydra_seconds / max(1, len(sample))
            print(
                f"| {name} | {len(points):,} | {compose_seconds:.1f} | {plan_seconds:.1f} "
                f"| {compose_seconds + plan_seconds:.1f} "
                f"| {per_point * len(points):.0f} ({len(sample)} points at {per_point:.3f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""A sweep of as many tiny runs as wanted, launched as `harness.run` does it: the parent that fault tests kill.

    python -m tests.processes.many 1000 launch.workers=2 ...      # in the environment of `tests.lab.Lab`

One point is composed by Hydra; the others differ from it in their seed alone.
"""

import copy
import sys
from collections.abc import Sequence

from rich.console import Console

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.config.schema import Config

POINT = ("model=llama7b", "dataset=flan", "adapter.lora_r=4", "train.max_steps=2", "train.batch_size=2")


def many_configs(number: int, overrides: Sequence[str] = ()) -> list[Config]:
    """So many distinct runs of one group, two steps each unless told otherwise."""
    (point,) = compose_grid([*POINT, *overrides], eval_config())
    configs = [copy.deepcopy(point.config) for _ in range(number)]
    for seed, config in enumerate(configs):
        config.train.seed = seed
    return configs


def main(number: int, overrides: Sequence[str]) -> int:
    from sweeps.launch.launch import launch

    return launch(
        many_configs(number, overrides), ["python", "-m", "tests.processes.many", *overrides], Console(width=140)
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))

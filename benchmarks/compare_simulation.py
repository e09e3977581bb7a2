"""Simulates sweeps whose truth is known, and counts how often `analysis compare` errs and how often it finds.

    python -m benchmarks.compare_simulation [--trials 2000] [--json]

Every trial is a sweep of methods by learning rates by seeds, whose values (question by question) are drawn from known
spreads and go through the command's own functions. Reported, each in percent with its standard error:

    error     of a pair without a true difference, how often p is below 0.05; the stated rate is 5
    any       how often any of all pairs without a difference is called different after Holm's correction; 5 at most
    covered   how often the 95 % interval holds the truth
    power     how often a planted difference, of the size that the design is said to detect, is found; stated: 80
    equal     how often methods that differ by the whole margin are called equal; the stated rate is 5 at most
    maximum   the error of what is often done instead: the best rate of each method, by the numbers that are compared
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.contest import Contest, compare_levels
from analysis.compare.levels import ADAPTER, Layout
from analysis.compare.options import Correction, Options, SelectOn
from analysis.effects.grid import GridResults
from eval.benchmarks.replicates import Components, Difference, Spreads, detectable_by

Array = NDArray[np.float64]
SD_SHARED = 15.0  # points: how far questions are apart for all methods alike
LAYOUT = Layout(axis=ADAPTER, within=(), searched=("learning_rate",), along=(), seeds=("seed",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A sweep and its true spreads, in points."""

    name: str
    num_methods: int = 2
    num_rates: int = 1
    num_rates_of_first: int | None = None  # where its budget is another
    num_seeds: int = 3
    num_questions: int = 300
    sd_run: float = 0.5
    sd_question: float = 15.0  # of a method's own way with a question
    sd_rest: float = 25.0
    run_factor_of_last: float = 1.0  # by which the last method's runs are further apart
    is_right_or_wrong: bool = False  # values of 0 and 100; then `sd_rest` is what they have by that

    @property
    def components(self) -> Components:
        """The variances of a value."""
        return Components(run=self.sd_run**2, question=self.sd_question**2, rest=self.sd_rest**2)

    def detectable(self) -> float:
        """What the design is said to detect, in points."""
        searched = self.num_rates > 1
        num_seeds = self.num_seeds - max(1, self.num_seeds // 3) if searched else self.num_seeds
        num_questions = (self.num_questions + 1) // 2 if searched and self.num_questions > 1 else self.num_questions
        found = detectable_by(self.components.sources(num_seeds, num_questions, self.num_methods))
        assert found is not None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was counted over the trials of a design, in percent; the standard error of each is `sd`."""

    design: str
    trials: int
    error: float
    any: float
    covered: float
    power: float
    equal: float
    maximum: float | None  # None: nothing is searched
    detectable: float  # points
    sd_error: float
    seconds: float


DESIGNS = (
    Design(name="2 methods, 3 seeds, 300 questions"),
    Design(name="2 methods, 3 seeds, seeds far apart", sd_run=2.0),
    Design(name="2 methods, 3 seeds, seeds alike", sd_run=0.0),
    Design(name="2 methods, 2 seeds", num_seeds=2, sd_run=1.0),
    Design(name="4 methods, 5 seeds, 1000 questions", num_methods=4, num_seeds=5, num_questions=1000),
    Design(name="4 methods, 3 seeds, one number a run", num_methods=4, num_questions=1, sd_rest=0.0),
    Design(name="2 methods, 1 seed, 300 questions", num_seeds=1, sd_run=0.0),
    Design(name="6 methods, the last one's seeds 4 x as far apart", num_methods=6, num_seeds=5, run_factor_of_last=4.0),
    Design(name="3 methods, right or wrong", num_methods=3, sd_question=10.0, sd_rest=46.6, is_right_or_wrong=True),
    Design(name="2 methods x 5 rates, 3 seeds", num_rates=5, sd_run=1.0),
    Design(name="2 methods, 1 rate against 5", num_rates=5, num_rates_of_first=1, sd_run=1.0),
    Design(name="12 methods x 5 rates, 3 seeds", num_methods=12, num_rates=5, sd_run=1.0),
    Design(name="12 methods x 5 rates, one number a run", num_methods=12, num_rates=5, num_questions=1, sd_rest=0.0),
    Design(name="1 rate against 5, one number a run", num_rates=5, num_rates_of_first=1, num_questions=1, sd_rest=0.0),
)


def main() -> None:
    """Runs every design and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="sweeps that are drawn of two methods; of more, fewer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each design")
    options = parser.parse_args()
    if not options.json:
        print("| design | trials | error | any | covered | power | equal | maximum | detects, points |")
        print("|---|---|---|---|---|---|---|---|---|")
    for design in DESIGNS:
        trials = max(1, 2 * options.trials // design.num_methods)
        found = simulated(design, trials, np.random.default_rng(options.seed))
        print(json.dumps(asdict(found)) if options.json else row_of(found), flush=True)


def simulated(design: Design, trials: int, rng: np.random.Generator) -> Rates:
    """Draws sweeps without a difference, and as many in which the first method is ahead by what is detectable."""
    began = time.perf_counter()
    grid, ahead = grid_of(design), design.detectable()
    null = [contest_of(drawn(grid, design, rng, 0.0), margin=None) for _ in range(trials)]
    planted = [contest_of(drawn(grid, design, rng, ahead), margin=ahead) for _ in range(trials)]
    naive = [by_maximum(drawn(grid, design, rng, 0.0)) for _ in range(trials)] if design.num_rates > 1 else []
    errors = [_share(pair.p_value < 0.05 for pair in contest.pairs if pair.p_value is not None) for contest in null]
    first = [pair for contest in planted for pair in contest.pairs if "m00" in (pair.first, pair.second)]
    return Rates(
        design=design.name,
        trials=trials,
        error=100 * float(np.mean(errors)),
        any=100 * _share(any(pair.is_different for pair in contest.pairs) for contest in null),
        covered=100 * _share(pair.low < 0 < pair.high for c in null for pair in c.pairs if pair.low is not None),
        power=100 * _share(pair.first == "m00" and (pair.p_value or 0.0) < 0.05 for pair in first),
        equal=100 * _share(pair.is_equal for pair in first),
        maximum=100 * _share((found.p_two_sided() or 0.0) < 0.05 for found in naive) if naive else None,
        detectable=ahead,
        sd_error=100 * float(np.std(errors)) / math.sqrt(trials),
        seconds=time.perf_counter() - began,
    )


def grid_of(design: Design) -> GridResults:
    """The runs of a design, without values yet."""
    rows = [
        {ADAPTER: f"m{method:02d}", "learning_rate": 1e-4 * 2.0**rate, "seed": seed}
        for method, rate, seed in product(range(design.num_methods), range(design.num_rates), range(design.num_seeds))
        if method > 0 or rate < (design.num_rates_of_first or design.num_rates)
    ]
    runs = pd.DataFrame(rows, index=pd.Index([f"run{number}" for number in range(len(rows))]))
    return GridResults.of(
        runs,
        np.zeros((len(rows), design.num_questions)),
        measure="accuracy",
        unit="points",
        questions=[f"q{number}" for number in range(design.num_questions)] if design.num_questions > 1 else ("",),
        axes=LAYOUT.columns,
        seeds=("seed",) if design.num_seeds > 1 else (),
    )


def drawn(grid: GridResults, design: Design, rng: np.random.Generator, ahead: float) -> GridResults:
    """The grid with values: every setting of every method is as good, but for the first one's lead."""
    methods = np.array([int(str(name)[1:]) for name in grid.columns[ADAPTER]])
    settings = np.unique(
        [f"{m} {rate}" for m, rate in zip(methods, grid.columns["learning_rate"], strict=True)], return_inverse=True
    )[1]
    num_questions = design.num_questions
    own = design.sd_question * rng.normal(size=(int(settings.max()) + 1, num_questions)) * (num_questions > 1)
    factor = np.where(methods == design.num_methods - 1, design.run_factor_of_last, 1.0)
    of_runs = design.sd_run * factor * rng.normal(size=len(methods)) + ahead * (methods == 0)
    shared = SD_SHARED * rng.normal(size=num_questions)
    values = 50.0 + shared + own[settings] + of_runs[:, None]
    if design.is_right_or_wrong:
        return replace(grid, values=np.where(100.0 * rng.random(values.shape) < values, 100.0, 0.0))
    return replace(grid, values=values + design.sd_rest * rng.normal(size=values.shape))


def contest_of(grid: GridResults, margin: float | None) -> Contest:
    """What the command finds."""
    options = Options(margin=margin, correction=Correction.holm, select_on=SelectOn.questions)
    return compare_levels(grid, LAYOUT, {}, options)


def by_maximum(grid: GridResults) -> Difference:
    """The last method less the first, each by its best rate over all its runs and questions."""
    methods = sorted(set(grid.columns[ADAPTER]))
    return Spreads.of([_best_table(grid, name) for name in (methods[-1], methods[0])]).difference(0, 1)


def _best_table(grid: GridResults, method: str) -> Array:
    by_rate: dict[float, list[int]] = {}
    for row in grid.rows_of(ADAPTER, method):
        by_rate.setdefault(grid.columns["learning_rate"][row], []).append(row)
    return max((grid.values[rows] for rows in by_rate.values()), key=lambda table: float(table.mean()))


def row_of(found: Rates) -> str:
    """A row of the table."""
    shares = (found.error, found.any, found.covered, found.power, found.equal)
    maximum = "-" if found.maximum is None else f"{found.maximum:.1f}"
    cells = [found.design, str(found.trials), *(f"{share:.1f}" for share in shares), maximum, f"{found.detectable:.1f}"]
    return f"| {' | '.join(cells)} |"


def _share(found: Iterator[bool] | Sequence[bool]) -> float:
    return float(np.mean(list(found)))


if __name__ == "__main__":
    main()

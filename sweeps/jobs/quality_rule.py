"""Fits a rule of which rows are worth training on, from finished runs that trained on other rows of one dataset.

    python -m sweeps quality-rule --sweep subsets --out rule.json
    python -m harness.run dataset.select=quality dataset.quality_rule=rule.json dataset.fraction=0.1

The runs differ in which rows they trained on (`dataset.select`, `dataset.fraction`, seeds) and in nothing else, and
their losses are of the same held-out rows. Source: InstructMining (`harness.data.selection.quality`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.held_out_rows import divided_rows
from eval.systems import System, chosen_systems, loaded
from harness.config.paths import paths_of_environment
from harness.config.schema import AdapterMethod, Device, EvalSource, PathsConfig, Select
from harness.console import TextTable
from harness.data.selection.holdout import Subset
from harness.data.selection.quality import INDICATORS, FittedRule, fit_rule
from harness.devices.torch_device import resolve_device
from harness.files.atomic import write_json
from harness.runs.record import load_record
from harness.runs.spec import RunSpec, identity
from sweeps.jobs.selection import RowFeatures, chosen_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOfRows:
    """A finished run: what its rows are like on average, and its held-out loss."""

    run_id: str
    label: str
    means: dict[str, float]
    eval_loss: float


def fit_quality_rule(
    sweep: str | None, run_ids: Sequence[str], runs: Path | None, indicators: Sequence[str], out: Path
) -> dict[str, Any]:
    """Fits a rule on a sweep's runs, or on those that are named, and writes it to `out`. -> what was written.

    Raises:
        ValueError: runs that differ in more than their rows, have no held-out loss, or are too few.
    """
    if unknown := sorted(set(indicators) - set(INDICATORS)):
        raise ValueError(f"--indicators {', '.join(unknown)}: there are {', '.join(INDICATORS)}")
    systems = chosen_systems(sweep, run_ids, runs)
    require_comparable(systems)
    found = runs_of_rows(systems, indicators, paths_of_environment(runs))
    fitted = fit_rule(
        {name: [run.means[name] for run in found] for name in indicators}, [run.eval_loss for run in found]
    )
    values = written(fitted, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, values)
    return values


def require_comparable(systems: Sequence[System]) -> None:
    """Raises ValueError, naming run and key, where losses differ for another reason than the rows."""
    for system in systems:
        train = system.spec.train
        if system.spec.adapter.method is AdapterMethod.none or train is None or not train.eval_rows:
            raise ValueError(f"run {system.run_id} ({system.name}): no held-out loss; train it with train.eval_rows=N")
    first = _compared(systems[0].spec)
    for other in systems[1:]:
        theirs = _compared(other.spec)
        if unlike := sorted(key for key in first.keys() | theirs.keys() if first.get(key) != theirs.get(key)):
            pair = f"runs {systems[0].run_id} and {other.run_id}"
            raise ValueError(
                f"{pair}: they differ in {', '.join(unlike)}, so their losses don't differ by their rows alone; "
                "name runs that differ in dataset.select, fraction and seeds only"
            )


def _compared(spec: RunSpec) -> dict[str, Any]:
    """What has to be equal of all runs, flat. The data seed draws the held-out rows, unless they are a split's."""
    assert spec.dataset is not None
    assert spec.train is not None
    dataset = replace(spec.dataset, fraction=1.0, select=Select.random, quality_rule=None)
    of_split = spec.train.eval_source is EvalSource.split
    train = replace(spec.train, seed=0, data_seed=0 if of_split else spec.train.data_seed)
    values = {"eval_rows": train.eval_rows, **identity(dataclasses.replace(spec, dataset=dataset, train=train))}
    return {
        f"{part}.{key}" if isinstance(inside, dict) else part: value
        for part, inside in values.items()
        for key, value in (inside.items() if isinstance(inside, dict) else [(part, inside)])
    }


def runs_of_rows(systems: Sequence[System], indicators: Sequence[str], paths: PathsConfig) -> list[RunOfRows]:
    """Reads the runs' rows again, as they were chosen in training, and takes the means of their indicators."""
    found, values = [], dict[str, np.ndarray[Any, Any]]()
    with loaded(systems, paths, resolve_device(Device.auto), with_adapters=False) as base:
        for system in systems:
            data, parts = divided_rows(system.spec, system.folder, base, paths)
            trained = chosen_parts(system.spec, base, data, parts, paths).parts.examples
            every = np.arange(len(data))
            features = RowFeatures(spec=system.spec, base=base, data=data, paths=paths, places=every, rows=every)
            values = values or features.indicators(indicators)
            kept = trained.kept if isinstance(trained, Subset) else every
            record = load_record(system.folder)
            if record is None or record.eval_loss is None:
                raise ValueError(
                    f"run {system.run_id} ({system.name}): its record has no held-out loss; train it again"
                )
            means = {name: float(values[name][kept].mean()) for name in indicators}
            found.append(RunOfRows(run_id=system.run_id, label=system.name, means=means, eval_loss=record.eval_loss))
    return found


def written(fitted: FittedRule, found: Sequence[RunOfRows]) -> dict[str, Any]:
    """The rule's file: what chooses rows, and where it comes from."""
    return {
        "schema_version": 1,
        "about": "log(held-out loss) = intercept + sum of weight x indicator; InstructMining, arXiv 2307.06290",
        "intercept": fitted.rule.intercept,
        "weights": dict(fitted.rule.weights),
        "standard_errors": dict(fitted.standard_errors),
        "r2": fitted.r2,
        "num_runs": fitted.num_runs,
        "runs": [dataclasses.asdict(run) for run in found],
    }


def rule_table(values: Mapping[str, Any], out: Path) -> TextTable:
    """The weights of a rule that was written, for people."""
    rows = [
        (name, f"{weight:.4g}", f"{values['standard_errors'][name]:.2g}") for name, weight in values["weights"].items()
    ]
    return TextTable(
        columns=("indicator", "weight", "standard error"),
        rows=[*rows, ("intercept", f"{values['intercept']:.4g}", "")],
        title=f"{out}: log of the held-out loss of {values['num_runs']} runs, R2 {values['r2']:.2f}",
        numbers=("weight", "standard error"),
    )

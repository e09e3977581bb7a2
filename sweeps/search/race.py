"""Races the runs of a grid: at each rung the worse ones stop, the others train on, and the best is trained to its end.

    python -m sweeps race model=smollm2 dataset=concise train.eval_rows=64 train.learning_rate=1e-4,3e-4,1e-3 \\
        adapter.lora_r=8,16,32 --eta 3 --min-steps 20

Of the runs that are judged at a rung the best 1/eta go on, rounded up. What was decided, with its numbers, stands in
the ledger and is never decided again, so that a race that was killed goes on. A stopped run keeps its checkpoint:
`--promote RUN` trains it to its end, and so does `python -m sweeps run` with the same grid. Source: successive halving,
Jamieson and Talwalkar, arXiv 1502.07943, as in Hyperband (arXiv 1603.06560), synchronous.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import Config
from harness.console import TextTable
from harness.ledger.kept import keep_decisions
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, JobRow, JobStatus, Verdict
from harness.runs.spec import RunSpec, identity
from sweeps.plan.enqueue import Stops
from sweeps.plan.jobs import EVAL_LOSS, PlannedRun, plan_runs
from sweeps.search.rungs import JUDGED_BY, Rungs, measured, stops_at, train_rows

Launch = Callable[[Sequence[Config], Stops], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A race over the points of a grid."""

    sweep: str
    configs: tuple[Config, ...]
    runs: tuple[PlannedRun, ...]
    rungs: Rungs
    objective: str  # of JUDGED_BY

    @property
    def rule(self) -> str:
        """How it is decided, in words."""
        return f"halving by {self.objective}, eta {self.rungs.eta}, from step {self.rungs.first}"

    @property
    def run_ids(self) -> list[str]:
        """The runs, in the grid's order."""
        return [run.run_id for run in self.runs]


def make_race(configs: Sequence[Config], rungs: Rungs, objective: str) -> Race:
    """The race of a grid.

    Raises:
        ValueError: its runs can't be compared by this objective.
    """
    if objective not in JUDGED_BY:
        raise ValueError(f"--objective {objective}: a race is judged by {' or '.join(JUDGED_BY)}")
    runs = plan_runs(configs)
    if problem := comparison_problem(runs, objective):
        raise ValueError(problem)
    digest = hashlib.sha256(json.dumps(sorted(run.run_id for run in runs)).encode()).hexdigest()
    name = configs[0].sweep_name or f"race-{digest[:8]}"
    return Race(sweep=name, configs=tuple(configs), runs=tuple(runs), rungs=rungs, objective=objective)


def comparison_problem(runs: Sequence[PlannedRun], objective: str) -> str | None:
    """Why the held-out losses of these runs don't compare; None if they do."""
    trains = [run.spec.train for run in runs if run.spec.train is not None]
    if len(trains) < len(runs) or not all(train.eval_rows for train in trains):
        return f"{objective} is measured on held-out rows: add train.eval_rows=N, and leave adapter=none out"
    if len({_held_out_rows(run.spec) for run in runs}) > 1:
        return (
            "losses on other rows don't compare: dataset, train.eval_rows, train.eval_source, train.data_seed and "
            "train.original_eval_carve must be the same in all runs"
        )
    models = {(run.spec.model.hub_id, run.spec.base_sha256) for run in runs}
    if len(models) > 1 and objective == EVAL_LOSS:
        return "nats a token don't compare models of several tokenizers: say --objective eval_bits_per_byte"
    return None


def _held_out_rows(spec: RunSpec) -> str:
    """Equal for runs that are measured on the same rows."""
    keys = ("eval_rows", "eval_source", "data_seed", "original_eval_carve")
    return repr([identity(spec.dataset), spec.data_sha256, *(getattr(spec.train, key) for key in keys)])


def run_race(race: Race, launch: Launch, open_ledger: Callable[[], Ledger], promoted: Collection[str] = ()) -> int:
    """Trains and judges, rung by rung, until the last runs are done. -> 0, or the exit status of a stopped launch

    Args:
        race: what is raced.
        launch: runs configs as one sweep, as far as it is told; status 1 where a job failed, which ends that run only.
        open_ledger: opens the table that has the results, and takes the decisions.
        promoted: stopped runs that are trained to their end afterwards.

    Raises:
        ValueError: the sweep is a race of other runs or by other rules, or a promoted run is none that stopped.
    """
    alive, rung = race.run_ids, 0
    while alive:
        made = _decided(race, rung, alive, open_ledger)
        if made is None:
            until = race.rungs.step(rung) if len(alive) > 1 else None
            status = launch(race.configs, _stops(race, alive, until, open_ledger))
            if status not in (0, 1):
                return status
            made = _judged(race, rung, alive, open_ledger)
        if not any(decision.verdict is Verdict.goes_on for decision in made) or _all_done(made, open_ledger):
            break
        alive = [decision.run_id for decision in made if decision.verdict is Verdict.goes_on]
        rung += 1
    return _promote(race, promoted, rung + 1, launch, open_ledger) if promoted else 0


def halved(losses: Mapping[str, float], eta: int) -> list[str]:
    """The runs that go on, the best first: the best 1/eta of them, rounded up. Of equal losses the earlier ones."""
    ranked = sorted(losses, key=lambda run_id: losses[run_id])
    return ranked[: math.ceil(len(ranked) / eta)]


def _decided(race: Race, rung: int, alive: Sequence[str], open_ledger: Callable[[], Ledger]) -> list[Decision] | None:
    """What was decided at a rung; None where it was not yet."""
    ledger = open_ledger()
    try:
        known = [made for made in ledger.decisions(race.sweep) if made.verdict is not Verdict.promoted]
    finally:
        ledger.close()
    made = [decision for decision in known if decision.rung == rung]
    if not made:
        return None
    if {decision.run_id for decision in made} != set(alive) or any(decision.rule != race.rule for decision in made):
        raise ValueError(
            f"sweep {race.sweep} is a race of other runs, or by another rule ({made[0].rule}); give this one another "
            "name by sweep_name=..."
        )
    return made


def _stops(race: Race, alive: Sequence[str], until: int | None, open_ledger: Callable[[], Ledger]) -> Stops:
    ledger = open_ledger()
    try:
        return stops_at(train_rows(ledger, race.run_ids), race.run_ids, alive, until)
    finally:
        ledger.close()


def _judged(race: Race, rung: int, alive: Sequence[str], open_ledger: Callable[[], Ledger]) -> list[Decision]:
    """Decides on the runs of a rung and records it."""
    ledger = open_ledger()
    try:
        made = decide(race, rung, alive, train_rows(ledger, alive))
        _record(race, made, ledger)
    finally:
        ledger.close()
    return made


def _record(race: Race, made: Sequence[Decision], ledger: Ledger) -> None:
    """Keeps decisions with the runs, then in the ledger: a kill between leaves none that only the ledger has."""
    keep_decisions(Path(race.configs[0].paths.runs), made)
    ledger.record_decisions(made)


def decide(race: Race, rung: int, alive: Sequence[str], rows: Mapping[str, JobRow]) -> list[Decision]:
    """What becomes of the runs at a rung, in the order of their losses. Args: rows: their training jobs, by run."""
    points = {run_id: measured(rows.get(run_id), race.objective) for run_id in alive}
    losses = {run_id: point[0] for run_id, point in points.items() if point is not None}
    kept = halved(losses, race.rungs.eta)
    ranked = sorted(losses, key=lambda run_id: losses[run_id])
    limit = losses[kept[-1]] if kept else None

    def decision(run_id: str) -> Decision:
        point, rank = points[run_id], None
        verdict = Verdict.goes_on if run_id in kept else Verdict.stops
        if point is None:
            verdict = Verdict.failed
        else:
            rank = ranked.index(run_id) + 1
        return Decision(
            sweep=race.sweep,
            run_id=run_id,
            rung=rung,
            step=None if point is None else point[1],
            loss=None if point is None else point[0],
            verdict=verdict,
            rank=rank,
            num_judged=len(losses),
            num_kept=len(kept),
            limit=limit,
            rule=race.rule,
        )

    return [decision(run_id) for run_id in (*ranked, *(run_id for run_id in alive if points[run_id] is None))]


def _all_done(made: Sequence[Decision], open_ledger: Callable[[], Ledger]) -> bool:
    on = [decision.run_id for decision in made if decision.verdict is Verdict.goes_on]
    ledger = open_ledger()
    try:
        rows = train_rows(ledger, on)
    finally:
        ledger.close()
    return all(run_id in rows and rows[run_id].status is JobStatus.done for run_id in on)


def _promote(
    race: Race, promoted: Collection[str], rung: int, launch: Launch, open_ledger: Callable[[], Ledger]
) -> int:
    """Trains stopped runs to their end, from their checkpoints. -> the launch's exit status"""
    ledger = open_ledger()
    try:
        chosen = [_named(race, run_id) for run_id in promoted]
        rows = train_rows(ledger, race.run_ids)
        known = {made.run_id for made in ledger.decisions(race.sweep) if made.verdict is Verdict.promoted}
        _record(race, [_promotion(race, run_id, rung, rows) for run_id in chosen if run_id not in known], ledger)
        stops = stops_at(rows, race.run_ids, chosen, None)
    finally:
        ledger.close()
    status = launch(race.configs, stops)
    return 0 if status == 1 else status


def _named(race: Race, run_id: str) -> str:
    found = [known for known in race.run_ids if known.startswith(run_id)]
    if len(found) != 1:
        raise ValueError(
            f"--promote {run_id}: {len(found)} runs of the race begin so; `python -m sweeps results` has them"
        )
    return found[0]


def _promotion(race: Race, run_id: str, rung: int, rows: Mapping[str, JobRow]) -> Decision:
    point = measured(rows.get(run_id), race.objective)
    return Decision(
        sweep=race.sweep,
        run_id=run_id,
        rung=rung,
        step=None if point is None else point[1],
        loss=None if point is None else point[0],
        verdict=Verdict.promoted,
        rank=None,
        num_judged=0,
        num_kept=0,
        limit=None,
        rule="by hand",
    )


def describe_race(race: Race, ledger: Ledger) -> dict[str, Any]:
    """The runs, what was decided on each, and the best of those that are done, as plain values."""
    rows, made = train_rows(ledger, race.run_ids), ledger.decisions(race.sweep)
    runs: list[dict[str, Any]] = []
    for run in race.runs:
        row, point = rows.get(run.run_id), measured(rows.get(run.run_id), race.objective)
        runs.append(
            {
                "run_id": run.run_id,
                "label": run.label,
                "status": None if row is None else str(row.status),
                "step": None if point is None else point[1],
                "loss": None if point is None else point[0],
                "decisions": [asdict(decision) for decision in made if decision.run_id == run.run_id],
            }
        )
    done = [run for run in runs if run["status"] == JobStatus.done and run["loss"] is not None]
    best = min(done, key=lambda run: run["loss"], default=None)
    return {"sweep": race.sweep, "objective": race.objective, "rule": race.rule, "best": best, "runs": runs}


def race_table(values: Mapping[str, Any]) -> TextTable:
    """A row a run: how far it came and its loss there, those that came farthest first."""
    runs = sorted(
        values["runs"], key=lambda run: (-len(run["decisions"]), math.inf if run["loss"] is None else run["loss"])
    )
    return TextTable(
        title=f"race {values['sweep']}: {values['rule']}",
        columns=("run", "label", "status", "step", "loss", "judged"),
        rows=[
            (
                run["run_id"],
                run["label"],
                run["status"] or "",
                "" if run["step"] is None else str(run["step"]),
                "" if run["loss"] is None else f"{run['loss']:.4f}",
                ", ".join(_short(decision) for decision in run["decisions"]),
            )
            for run in runs
        ],
        numbers=("step", "loss"),
        prose=("judged",),
    )


def _short(decision: Mapping[str, Any]) -> str:
    rank = "" if decision["rank"] is None else f" {decision['rank']} of {decision['num_judged']}"
    return f"{decision['verdict']}{rank}"

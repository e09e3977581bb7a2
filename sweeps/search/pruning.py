"""Prunes the trials of a search: optuna's pruners judge them on their held-out loss at rungs, and the worse ones stop.

`python -m sweeps search ... --pruner hyperband|median --objective eval_loss`. What it decided stands in the ledger.
Source: Li et al., Hyperband, arXiv 1603.06560; the median rule is that of Golovin et al., Google Vizier (KDD 2017).
"""

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

import optuna
from optuna.trial import Trial, TrialState

from harness.config.schema import TrainConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, JobRow, JobStatus, Verdict
from sweeps.plan.enqueue import Stops
from sweeps.search.rungs import Rungs, measured, stops_at, train_rows


class Pruner(StrEnum):
    """optuna's pruners that a search may use."""

    hyperband = "hyperband"
    median = "median"


def make_pruner(kind: Pruner, rungs: Rungs, train: TrainConfig) -> optuna.pruners.BasePruner:
    """optuna's own. Args: train: of a trial; without `max_steps` Hyperband prunes once a trial is complete."""
    if kind is Pruner.median:
        return optuna.pruners.MedianPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=rungs.first, max_resource=train.max_steps or "auto", reduction_factor=rungs.eta
    )


def train_in_rungs(
    study: optuna.Study,
    trials: Mapping[str, Trial],
    others: Collection[str],
    rungs: Rungs,
    objective: str,
    sweep: str,
    launch: Callable[[Stops], int],
    open_ledger: Callable[[], Ledger],
) -> int:
    """Trains trials to each rung in turn; the pruned ones are told to the study. -> a launch's exit status that matters

    Args:
        study: with its pruner.
        trials: under way, by run.
        others: runs of the sweep that stay as they are.
        rungs: where they are judged.
        objective: what they are judged by: a key of a training job's result.
        sweep: under whose name decisions are kept.
        launch: trains as far as it is told.
        open_ledger: opens the table that has the results, and takes the decisions.
    """
    active, status, rung = dict(trials), 0, 0
    run_ids = {*trials, *others}
    while active:
        ledger = open_ledger()
        try:
            stops = stops_at(train_rows(ledger, run_ids), run_ids, active, rungs.step(rung))
        finally:
            ledger.close()
        status = launch(stops)
        if status not in (0, 1):
            return status
        ledger = open_ledger()
        try:
            active = _still_active(study, active, rung, rungs.step(rung), objective, sweep, ledger)
        finally:
            ledger.close()
        rung += 1
    return status


def _still_active(
    study: optuna.Study,
    trials: Mapping[str, Trial],
    rung: int,
    step: int,
    objective: str,
    sweep: str,
    ledger: Ledger,
) -> dict[str, Trial]:
    """Judges the trials that have stopped at a rung. -> those that go on"""
    rows = train_rows(ledger, trials)
    earlier = {made.run_id: made.verdict for made in ledger.decisions(sweep) if made.rung == rung}
    reported = {trial.number: trial.intermediate_values for trial in study.get_trials(deepcopy=False)}
    going: dict[str, Trial] = {}
    for run_id, trial in trials.items():
        row = rows.get(run_id)
        point = measured(row, objective)
        if row is None or row.status is not JobStatus.stopped or point is None:
            continue  # it is done, or has failed
        if step not in reported[trial.number]:  # by the same search, before it was killed
            trial.report(point[0], step=step)
        stops = earlier[run_id] is Verdict.stops if run_id in earlier else trial.should_prune()
        ledger.record_decisions(
            [_decision(study, sweep, row, rung, point, stops)]
        )  # first: a kill decides nothing twice
        if stops:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            going[run_id] = trial
    return going


def _decision(
    study: optuna.Study, sweep: str, row: JobRow, rung: int, point: tuple[float, int], stops: bool
) -> Decision:
    """As the ledger keeps it: its rank is that among all trials that came to this step."""
    seen = [trial.intermediate_values for trial in study.get_trials(deepcopy=False)]
    there = sorted(values[point[1]] for values in seen if point[1] in values)
    return Decision(
        sweep=sweep,
        run_id=row.run_id,
        rung=rung,
        step=point[1],
        loss=point[0],
        verdict=Verdict.stops if stops else Verdict.goes_on,
        rank=sum(value < point[0] for value in there) + 1,
        num_judged=max(1, len(there)),
        num_kept=0,
        limit=None,
        rule=type(study.pruner).__name__,
    )

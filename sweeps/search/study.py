"""Searches a space for the best values: optuna proposes trials, the sweep engine runs them, the ledger has the results.

    python -m sweeps search --study rates --trials 20 --parallel 4 --objective mmlu model=smollm2 eval=mmlu \
        "train.learning_rate=float(1e-5,1e-3,log)" "adapter.lora_r=int(8,64,log)" "adapter.lora_dropout=choice(0,0.1)"

A trial is an ordinary run with its ordinary id: values that were trained before cost nothing. The study lies in the
ledger's database (optuna's own tables), so that a search that was killed goes on: trials that were asked for and not
told are run to their end first, under the values that they were given. What a trial asks for depends on the
study's seed, the number of trials before it and what is known by then. A run that is drawn again is not counted, and a
finite space ends the search when all of it was drawn. Source: Akiba et al., Optuna, arXiv 1907.10902.
"""

import itertools
import json
import math
import random
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from eval.benchmarks.registry import BENCHMARKS
from harness.config.grids import ONE_TO_A_SWEEP
from harness.config.remedies import varying_problem
from harness.config.schema import Config
from harness.console import TextTable
from harness.ledger.ledger import Ledger
from harness.ledger.passwords import url_without_password
from harness.ledger.tables import JobStatus
from sweeps.plan.enqueue import Stops
from sweeps.plan.jobs import EVAL_LOSS, TRAIN, make_jobs, plan_runs
from sweeps.search.pruning import Pruner, make_pruner, train_in_rungs
from sweeps.search.rungs import JUDGED_BY, make_rungs

DEFAULT_ETA = 3
DEFAULT_STARTUP_TRIALS = 10  # random ones, before the estimator has something to go by
_RANGE = re.compile(r"([\w.]+)=(int|float|choice)\((.*)\)")
MAX_REPEATS = 10  # draws that were drawn before, until a value is chosen that was not
LARGEST_LISTED = 10_000  # a space of more combinations is not listed to see what is left of it
_ITEM = re.compile(r"""(?:^|,)((?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|"[^"]*"|[^,\[{'"])*)""")
_ABOUT = "about"  # the study's attribute that says what it is a search of
_RUN = "run_id"
_REPEATED = "repeated"  # a trial's attribute: its run is another trial's


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The number that a search makes as small or as large as it can."""

    kind: str  # of the job that measures it
    key: str  # of its result
    direction: str  # minimize or maximize


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search: its objective, its space, and what all trials share."""

    study: str
    objective: str  # a key of `objectives()`
    space: dict[str, BaseDistribution]  # override key -> its values
    fixed: tuple[str, ...]  # overrides that all trials share
    num_trials: int
    num_parallel: int  # trials asked for at once
    seed: int = 0
    pruner: Pruner | None = None  # stops the worse trials at rungs
    eta: int = DEFAULT_ETA  # the factor between two rungs
    min_steps: int | None = None  # of the first rung; None: by `train.max_steps`


def objectives() -> dict[str, Objective]:
    """The objectives by name: training's last tenth, the held-out loss, and the headline of every benchmark."""
    names = ("final_loss", *JUDGED_BY)
    by_name = {name: Objective(kind=TRAIN, key=name, direction="minimize") for name in names}
    for name, benchmark in BENCHMARKS.items():
        if benchmark.higher_is_better is not None:
            direction = "maximize" if benchmark.higher_is_better else "minimize"
            by_name[name] = Objective(kind=name, key=benchmark.headline_key, direction=direction)
    return by_name


def parse_search(arguments: Sequence[str], **settings: Any) -> Search:
    """Sorts overrides into the space (`int(...)`, `float(...)`, `choice(...)`) and what is fixed.

    Raises:
        ValueError: no space, a range that can't be read, an unknown objective, or a number of trials below 1.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: list[str] = []
    for text in arguments:
        range_match = _RANGE.fullmatch(text)
        if range_match is None:
            fixed.append(text)
            continue
        if range_match[1].partition(".")[0] in ONE_TO_A_SWEEP:
            raise ValueError(varying_problem(text))
        try:
            space[range_match[1]] = _distribution(range_match[2], _items(range_match[3]))
        except ValueError as error:
            raise ValueError(
                f"{text}: {error}; expected int(first,last[,log]), float(first,last[,log]) or choice(a,b,...)"
            ) from None
    if not space:
        raise ValueError("search over what? give at least one key=int(...), float(...) or choice(...)")
    search = Search(space=space, fixed=tuple(fixed), **settings)
    if search.objective not in objectives():
        raise ValueError(f"--objective {search.objective}: there are {', '.join(objectives())}")
    if search.pruner is not None and search.objective not in JUDGED_BY:
        raise ValueError(f"--pruner {search.pruner} judges trials on held-out rows: say --objective {EVAL_LOSS}")
    if search.num_trials < 1 or search.num_parallel < 1:
        raise ValueError("--trials and --parallel must be at least 1")
    return search


def run_search(
    search: Search,
    storage_url: str,
    compose: Callable[[Sequence[str]], Config],
    launch: Callable[[Sequence[Config], Stops | None], int],
    ledger: Callable[[], Ledger],
) -> int:
    """Asks, launches and tells until there are as many trials as wanted. -> the last launch's exit status that matters.

    Args:
        storage_url: a SQLAlchemy URL.
        compose: overrides -> the config of one point.
        launch: runs configs as one sweep, as far as it is told; status 1 where a job failed, which ends that trial.
        ledger: opens the table that tells how a trial's jobs ended.

    Raises:
        ValueError: the study exists as a search of something else, or the objective isn't measured.
    """
    study = open_study(search, storage_url)
    configs: dict[int, Config] = {}  # by trial
    num_idle = 0  # rounds in a row that drew known runs only
    while True:
        drawn = _drawn(study, search)
        if not drawn or num_idle == MAX_REPEATS:
            return 0
        trials = [trial for trial in drawn if _is_new(study, trial, search, compose, configs)]
        num_idle = 0 if trials else num_idle + 1
        if not trials:
            continue
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        for old in ended:
            if old.number not in configs:
                own = [f"{key}={value}" for key, value in old.params.items()]
                configs[old.number] = compose([*search.fixed, *own])
        status = _train(study, trials, ended, configs, search, launch, ledger)
        if status not in (0, 1):  # stopped, or refused: what was asked for stays open
            return status
        _tell(study, trials, configs, search, ledger)


def _train(
    study: optuna.Study,
    trials: Sequence[Trial],
    ended: Sequence[FrozenTrial],
    configs: Mapping[int, Config],
    search: Search,
    launch: Callable[[Sequence[Config], Stops | None], int],
    open_ledger: Callable[[], Ledger],
) -> int:
    """Trains the trials as one sweep with those that have ended, to rungs where there is a pruner. -> exit status"""
    numbers = sorted(trial.number for trial in (*trials, *ended))
    chosen = [configs[number] for number in numbers]
    if search.pruner is None:
        return launch(chosen, None)
    rungs = make_rungs(chosen[0].train, search.eta, search.min_steps)
    study.pruner = make_pruner(search.pruner, rungs, chosen[0].train)
    return train_in_rungs(
        study,
        {trial.user_attrs[_RUN]: trial for trial in trials},
        [old.user_attrs[_RUN] for old in ended],
        rungs,
        search.objective,
        chosen[0].sweep_name or search.study,
        lambda stops: launch(chosen, stops),
        open_ledger,
    )


def _drawn(study: optuna.Study, search: Search) -> list[Trial]:
    """The trials that were asked for and not told, and new ones beside them; none where the search is at its end."""
    trials = [Trial(study, frozen._trial_id) for frozen in study.get_trials(states=(TrialState.RUNNING,))]
    num_counted = sum(_REPEATED not in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    for _ in range(min(search.num_trials - num_counted, search.num_parallel - len(trials))):
        trial = _new_trial(study, search)
        if trial is None:
            break
        trials.append(trial)
    return trials


def _new_trial(study: optuna.Study, search: Search) -> Trial | None:
    """A trial with values that no other has; None where the space has no more of them."""
    known = {_values_key(trial.params) for trial in study.get_trials(deepcopy=False)}
    left = _left(search.space, known)
    if left == []:
        return None
    for _ in range(MAX_REPEATS):
        number = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(seed=search.seed + number, n_startup_trials=DEFAULT_STARTUP_TRIALS)
        trial = study.ask()
        _overrides(trial, search.space)
        if _values_key(trial.params) not in known:
            return trial
        _leave_out(study, trial)
    if left is None:
        return None
    study.enqueue_trial(random.Random(search.seed + len(known)).choice(left))
    return study.ask()


def _left(space: Mapping[str, BaseDistribution], known: Collection[str]) -> list[dict[str, Any]] | None:
    """The combinations of a finite space that were not drawn yet; None of one that has no end, or a long one."""
    values = [_all_values(kind) for kind in space.values()]
    if any(found is None for found in values) or math.prod(len(found or ()) for found in values) > LARGEST_LISTED:
        return None
    points = (dict(zip(space, point, strict=True)) for point in itertools.product(*(found or () for found in values)))
    return [point for point in points if _values_key(point) not in known]


def _all_values(kind: BaseDistribution) -> Sequence[Any] | None:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices
    if isinstance(kind, IntDistribution):
        return range(kind.low, kind.high + 1)
    return [kind.low] if isinstance(kind, FloatDistribution) and kind.single() else None


def _values_key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _is_new(
    study: optuna.Study,
    trial: Trial,
    search: Search,
    compose: Callable[[Sequence[str]], Config],
    configs: dict[int, Config],
) -> bool:
    """Composes a trial. False, and it is left out of the count, where its run is another trial's."""
    config = compose([*search.fixed, *_overrides(trial, search.space)])
    run_id = plan_runs([_measured(config, search)])[0].run_id
    others = (other for other in study.get_trials(deepcopy=False) if other.number != trial.number)
    if any(other.user_attrs.get(_RUN) == run_id and _REPEATED not in other.user_attrs for other in others):
        _leave_out(study, trial)
        return False
    trial.set_user_attr(_RUN, run_id)
    configs[trial.number] = config
    return True


def _leave_out(study: optuna.Study, trial: Trial) -> None:
    trial.set_user_attr(_REPEATED, True)
    study.tell(trial, state=TrialState.FAIL)  # the sampler learns nothing from it


def open_study(search: Search, storage_url: str) -> optuna.Study:
    """The study of this name, made if it isn't there.

    Raises:
        ValueError: it is a search of something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    connect = {"timeout": 60} if storage_url.startswith("sqlite") else {}
    storage = optuna.storages.RDBStorage(storage_url, engine_kwargs={"connect_args": connect})
    direction = optuna.study.StudyDirection[objectives()[search.objective].direction.upper()]
    about = {
        "objective": search.objective,
        "space": {key: optuna.distributions.distribution_to_json(kind) for key, kind in search.space.items()},
        "fixed": [url_without_password(text) for text in search.fixed],
        "seed": search.seed,
    }
    if search.pruner is not None:
        about |= {"pruner": str(search.pruner), "eta": search.eta, "min_steps": search.min_steps}
    study = optuna.create_study(
        storage=storage, study_name=search.study, direction=direction, load_if_exists=True, sampler=None
    )
    known = study.user_attrs.get(_ABOUT)
    if known is None:
        study.set_user_attr(_ABOUT, about)
    elif known != about:
        differing = [key for key in known | about if known.get(key) != about.get(key)]
        raise ValueError(
            f"--study {search.study} is a search with another {', '.join(differing)} "
            f"(there: {shlex.join(map(str, known['fixed']))}); give this one another name"
        )
    return study


def describe_study(study: optuna.Study) -> dict[str, Any]:
    """Trials and the best of them, as plain values."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if _REPEATED not in trial.user_attrs]
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return {
        "study": study.study_name,
        "objective": study.user_attrs[_ABOUT]["objective"],
        "direction": study.direction.name.lower(),
        "best": _plain(study.best_trial) if done else None,
        "trials": [_plain(trial) for trial in trials],
    }


def study_table(study: optuna.Study) -> TextTable:
    """One row a trial, the best first."""
    about = describe_study(study)
    sign = 1 if about["direction"] == "minimize" else -1
    trials = sorted(about["trials"], key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0)))
    return TextTable(
        title=f"study {about['study']}: {about['direction']} {about['objective']}",
        columns=("trial", "run", "state", "value", "parameters"),
        rows=[
            (
                str(trial["number"]),
                trial["run_id"] or "",
                trial["state"],
                "" if trial["value"] is None else f"{trial['value']:.4f}",
                " ".join(f"{key}={_short(item)}" for key, item in trial["params"].items()),
            )
            for trial in trials
        ],
        numbers=("trial", "value"),
        prose=("parameters",),
    )


def _tell(
    study: optuna.Study,
    trials: Sequence[Trial],
    configs: dict[int, Config],
    search: Search,
    open_ledger: Callable[[], Ledger],
) -> None:
    objective = objectives()[search.objective]
    ledger = open_ledger()
    try:
        pruned = {old.number for old in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))}
        for trial in trials:
            if trial.number in pruned:
                continue
            jobs = make_jobs(plan_runs([configs[trial.number]]))
            row = ledger.get(next(job.job_id for job in jobs if job.kind == objective.kind))
            value = (row.result or {}).get(objective.key) if row is not None and row.status is JobStatus.done else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                study.tell(trial, value)
            else:
                study.tell(trial, state=TrialState.FAIL)
    finally:
        ledger.close()


def _measured(config: Config, search: Search) -> Config:
    kind = objectives()[search.objective].kind
    if search.objective in JUDGED_BY and not config.train.eval_rows:
        raise ValueError(f"--objective {search.objective} is measured on held-out rows: add train.eval_rows=N")
    if kind != TRAIN and kind not in config.eval.after_training:
        raise ValueError(f"--objective {search.objective} is measured by eval={kind}: add it")
    return config


def _items(text: str) -> list[str]:
    """What stands between commas, but not those within brackets or quotes: `[q_proj,v_proj],[all-linear]`."""
    items = _ITEM.findall(text)
    if ",".join(items) != text:
        raise ValueError("a bracket or a quote that is not closed")
    return [item.strip() for item in items]


def _distribution(kind: str, items: list[str]) -> BaseDistribution:
    if kind == "choice":
        if not all(items):
            raise ValueError("an empty choice")
        return CategoricalDistribution(items)
    log = items[2:] == ["log"]
    if len(items) != 2 + log:
        raise ValueError(f"{len(items)} values")
    if kind == "int":
        return IntDistribution(int(items[0]), int(items[1]), log=log)
    return FloatDistribution(float(items[0]), float(items[1]), log=log)


def _overrides(trial: Trial, space: dict[str, BaseDistribution]) -> list[str]:
    """The overrides of a trial; a trial that was cut off while values were drawn gets the rest now."""
    return [f"{key}={_suggested(trial, key, kind)}" for key, kind in space.items()]


def _suggested(trial: Trial, key: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(key, kind.low, kind.high, log=kind.log)
    if isinstance(kind, FloatDistribution):
        return trial.suggest_float(key, kind.low, kind.high, log=kind.log)
    assert isinstance(kind, CategoricalDistribution)
    return trial.suggest_categorical(key, kind.choices)


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "run_id": trial.user_attrs.get(_RUN),
        "state": trial.state.name.lower(),
        "value": trial.value,
        "params": trial.params,
    }


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

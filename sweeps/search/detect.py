"""Says before training what a plan's seeds and questions can tell apart: `python -m sweeps plan ... --detect 1.0`.

The difference is one between two methods (choices of `adapter`; where a plan has one, two of its settings), each tuned,
as `python -m analysis compare` will compare them: with a search a third of the seeds chooses, and half of the questions
where no held-out loss does (`train.eval_rows`). It is found with 80 % power by a test at the 5 % level of one pair.

Spreads are measured where finished runs in the runs folder have the model, data and data type of the plan, and some of
them differ in their seeds alone. Else they are assumed, and the plan says so: seeds 0.5 points apart (standard
deviation), and two methods that answer 10 % of the questions differently, half of it by chance; of a held-out loss
0.005 nats between seeds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.by_question import QuestionRows, read_questions
from eval.benchmarks.registry import BENCHMARKS, settings_of
from eval.benchmarks.replicates import Components, detectable_by
from harness.config.schema import PathsConfig
from harness.runs.record import RECORD_FILE, SCHEMA_VERSION
from harness.runs.spec import RunSpec, identity
from sweeps.plan.evaluations import evaluation_rows_count
from sweeps.plan.jobs import EVAL_LOSS, PlannedRun
from sweeps.plan.once import Once

Array = NDArray[np.float64]
ASSUMED_POINTS = Components(run=0.25, question=250.0, rest=250.0)  # points of a hundred, squared
ASSUMED_NATS = Components(run=0.005**2, question=0.0, rest=0.0)
ASSUMED_POINTS_TEXT = "assumed: 0.5 points between seeds, and methods that answer 10 % of questions differently"
ASSUMED_NATS_TEXT = "assumed: 0.005 nats between seeds"
MAX_RUNS = 60  # whose questions are read
MAX_SEEDS = 100  # that are tried to find how many would do
SEEDS = ("seed", "data_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detectable:
    """What a plan can tell apart on one score."""

    score: str
    unit: str  # "points" or "nats a token"
    difference: float | None  # None: nothing would measure an error, and `source` says why
    wanted: float | None  # points; None for a score in another unit
    num_methods: int
    num_seeds: int  # that are compared
    num_questions: int | None  # that are compared; None: a single number a run
    is_searched: bool
    seeds_needed: int | None  # of each setting, for the wanted difference; None: no number of seeds is enough, or known
    source: str  # what the spreads are from

    def sentence(self) -> str:
        """It in words."""
        if self.difference is None:
            return f"detect: {self.score}: {self.source}"
        digits = 1 if self.unit == "points" else 4
        questions = "" if self.num_questions is None else f", {self.num_questions:,} questions"
        tuned = ", each tuned" if self.is_searched else ""
        said = (
            f"detect: {self.score}: {self.difference:.{digits}f} {self.unit} between two of {self.num_methods} "
            f"methods{tuned} ({self.num_seeds} seeds{questions} are compared; {self.source})"
        )
        if self.wanted is None:
            return said
        if self.difference <= self.wanted:
            return f"{said}: enough for {self.wanted:g}"
        if self.seeds_needed is None:
            return f"{said}: not enough for {self.wanted:g}, which no number of seeds is: give more questions"
        return f"{said}: not enough for {self.wanted:g}; {self.seeds_needed} seeds of each setting are"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    num_methods: int
    num_seeds: int
    is_searched: bool
    chooses_by_loss: bool

    def compared(self, num_seeds: int, num_questions: int) -> tuple[int, int]:
        """-> (seeds, questions) that are compared: those that choose are none of them"""
        if not self.is_searched:
            return num_seeds, num_questions
        seeds = num_seeds if num_seeds == 1 else num_seeds - max(1, num_seeds // 3)
        halved = num_questions > 1 and not self.chooses_by_loss
        return seeds, (num_questions + 1) // 2 if halved else num_questions


def detect(runs: Sequence[PlannedRun], paths: PathsConfig, wanted: float) -> list[Detectable]:
    """What the plan can tell apart on each of its scores.

    Args:
        runs: of the plan.
        paths: of the finished runs, and of rows that are counted.
        wanted: the difference that is to be found, in points.

    Raises:
        ValueError: a difference that isn't above 0.
    """
    if not wanted > 0:
        raise ValueError(f"--detect {wanted:g}: the difference that is to be found, in points, so above 0")
    trained = [run for run in runs if run.spec.train is not None]
    if not trained:
        return []
    design, first, once = _design(trained), trained[0], Once()
    finished = list(_finished(Path(paths.runs), {_kind(run.spec) for run in trained}))
    found: list[Detectable] = []
    for name in first.evals.after_training:
        if name in BENCHMARKS:
            settings = settings_of(first.evals, name)
            rows = evaluation_rows_count(name, settings, first.spec, paths, once)
            planned = BENCHMARKS[name].num_questions(settings, rows)
            found += _of_benchmark(name, planned, design, _measured(finished, name), wanted)
    if design.chooses_by_loss:
        found.append(_of_loss(design, finished))
    return found


def _design(runs: Sequence[PlannedRun]) -> _Design:
    """The methods, their seeds, and whether some method has several settings on one model, dataset and data type."""
    seeds: dict[str, set[tuple[int, int]]] = {}
    settings: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        train = run.spec.train
        assert train is not None
        setting = _setting(run.spec)
        seeds.setdefault(setting, set()).add((train.seed, train.data_seed))
        settings.setdefault((_kind(run.spec), _method(run.spec)), set()).add(setting)
    methods = {method for _, method in settings}
    return _Design(
        num_methods=len(methods) if len(methods) > 1 else max(2, len(seeds)),
        num_seeds=min(map(len, seeds.values())),
        is_searched=len(methods) > 1 and any(len(found) > 1 for found in settings.values()),
        chooses_by_loss=all(run.spec.train is not None and run.spec.train.eval_rows > 0 for run in runs),
    )


def _method(spec: RunSpec) -> str:
    return f"{spec.adapter.name} {spec.adapter.method.value}"


def _kind(spec: RunSpec) -> str:
    """Equal for runs on the same model, data and data type."""
    data = None if spec.dataset is None else spec.dataset.name
    return json.dumps([spec.model.name, identity(spec.model.shape), data, identity(spec.quant)])


def _setting(spec: RunSpec) -> str:
    """Equal for runs that differ in their seeds alone."""
    known = identity(spec)
    train = {key: value for key, value in known["train"].items() if key not in SEEDS}
    return json.dumps({**known, "train": train}, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    folder: Path
    setting: str
    eval_loss: float | None


def _finished(folder: Path, kinds: set[str]) -> Iterator[_Finished]:
    """Finished runs of these kinds, at most `MAX_RUNS`; what can't be read is no measurement."""
    count = 0
    for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            spec = RunSpec.from_dict(values["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `harness.runs.folder` says so where that run is planned
        if values.get("schema_version") != SCHEMA_VERSION or spec.train is None or _kind(spec) not in kinds:
            continue
        loss = values.get(EVAL_LOSS)
        yield _Finished(folder=path.parent, setting=_setting(spec), eval_loss=loss if isinstance(loss, float) else None)
        count += 1
        if count == MAX_RUNS:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    score: str
    unit: str
    components: Components
    num_questions: int
    text: str


def _measured(finished: Sequence[_Finished], name: str) -> list[_Measured]:
    """The spreads of each metric by question of an evaluation, where finished runs tell them."""
    by_score: dict[tuple[str, str], dict[str, list[QuestionRows]]] = {}
    for run in finished:
        try:
            parts = [part for part in read_questions(run.folder / "eval") if part.evaluation.split(" ")[0] == name]
        except (ValueError, OSError):
            continue  # `analysis compare` says so
        for part in parts:
            by_score.setdefault((part.evaluation, part.scores.metric), {}).setdefault(run.setting, []).append(part)
    found = []
    for (evaluation, metric), settings in by_score.items():
        spreads = _spreads(settings)
        if spreads is not None:
            components, num_questions, unit = spreads
            text = f"measured: {sum(map(len, settings.values()))} finished runs of {len(settings)} settings"
            found.append(
                _Measured(
                    score=f"{evaluation} {metric}",
                    unit=unit,
                    components=components,
                    num_questions=num_questions,
                    text=text,
                )
            )
    return found


def _spreads(settings: Mapping[str, Sequence[QuestionRows]]) -> tuple[Components, int, str] | None:
    """-> (spreads, questions that all runs share, their unit); None: no setting has two seeds, or none is shared"""
    parts = [part for members in settings.values() for part in members]
    tables_of = [dict(zip(part.scores.names, part.scores.values, strict=True)) for part in parts]
    shared = sorted(set.intersection(*map(set, tables_of)))
    if len(shared) < 2 or max(map(len, settings.values())) < 2:
        return None
    values = iter([[table[name] for name in shared] for table in tables_of])
    tables = [np.array([next(values) for _ in members], dtype=np.float64) for members in settings.values()]
    are_shares = parts[0].scores.unit == "share" or all(np.isin(table, (0.0, 1.0)).all() for table in tables)
    components = Components.of([table * 100.0 for table in tables] if are_shares else tables)
    unit = "points" if are_shares else parts[0].scores.unit
    return None if components is None else (components, len(shared), unit)


def _of_benchmark(
    name: str, planned: int | None, design: _Design, measured: Sequence[_Measured], wanted: float
) -> list[Detectable]:
    if measured:
        return [
            _detectable(m.score, m.unit, m.components, planned or m.num_questions, design, wanted, m.text)
            for m in measured
        ]
    if planned is None:
        why = "how many questions it asks isn't known before a run was scored"
        empty = _detectable(name, "points", ASSUMED_POINTS, 1, design, wanted, why)
        return [replace(empty, difference=None, num_questions=None, seeds_needed=None)]
    return [_detectable(name, "points", ASSUMED_POINTS, planned, design, wanted, ASSUMED_POINTS_TEXT)]


def _of_loss(design: _Design, finished: Sequence[_Finished]) -> Detectable:
    by_setting: dict[str, list[float]] = {}
    for run in finished:
        if run.eval_loss is not None:
            by_setting.setdefault(run.setting, []).append(run.eval_loss)
    components = Components.of([np.array(losses)[:, None] for losses in by_setting.values()]) if by_setting else None
    text = f"measured: {sum(map(len, by_setting.values()))} finished runs of {len(by_setting)} settings"
    if components is None:
        components, text = ASSUMED_NATS, ASSUMED_NATS_TEXT
    return _detectable(EVAL_LOSS, "nats a token", components, 1, design, None, text)


def _detectable(
    score: str,
    unit: str,
    components: Components,
    num_questions: int,
    design: _Design,
    wanted: float | None,
    source: str,
) -> Detectable:
    seeds, questions = design.compared(design.num_seeds, num_questions)
    difference = detectable_by(components.sources(seeds, questions, design.num_methods))
    aim = wanted if unit == "points" else None
    return Detectable(
        score=score,
        unit=unit,
        difference=difference,
        wanted=aim,
        num_methods=design.num_methods,
        num_seeds=seeds,
        num_questions=questions if num_questions > 1 else None,
        is_searched=design.is_searched,
        seeds_needed=None if aim is None else _seeds_needed(components, num_questions, design, aim),
        source=source if difference is not None else "one seed and one number a run: nothing measures an error",
    )


def _seeds_needed(components: Components, num_questions: int, design: _Design, wanted: float) -> int | None:
    for num_seeds in range(1, MAX_SEEDS + 1):
        seeds, questions = design.compared(num_seeds, num_questions)
        found = detectable_by(components.sources(seeds, questions, design.num_methods))
        if found is not None and found <= wanted:
            return num_seeds
    return None


def plain(found: Sequence[Detectable]) -> list[dict[str, Any]]:
    """As plain values, for `--json`."""
    return [asdict(one) | {"sentence": one.sentence()} for one in found]

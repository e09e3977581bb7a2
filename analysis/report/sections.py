"""Turns records into the views that the templates of the report's sections print.

A view that has nothing to show is None or empty, and the template says that it was not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.figures import Bar, Curve, Scale, bar, curve, curve_marks, scale_over
from analysis.report.leaderboard import LeaderboardRow
from analysis.report.matches import PairTallies, Tally
from analysis.report.records import Run
from eval.benchmarks.mmlu.questions import NUM_CHOICES
from eval.benchmarks.registry import BENCHMARKS
from harness.ledger.tables import Decision, Verdict
from harness.runs.estimate import Estimate
from harness.runs.scores import MeasuredScore

MMLU_CHANCE = 1 / NUM_CHOICES
MAX_MATRIX_SYSTEMS = 60  # more make the page heavy; the first of the leaderboard are shown
DENSE_ABOVE = 12  # systems; cells of a larger matrix hold one number each
MAX_CURVES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedView:
    """A leaderboard row with its bars."""

    row: LeaderboardRow
    run: Run | None
    elo: Bar | None
    bradley_terry: Bar | None
    mmlu: Bar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardView:
    """The leaderboard's rows on shared axes. Both ratings share one, since both are points around 1000."""

    rows: tuple[RankedView, ...]
    points: Scale | None
    accuracy: Scale | None
    chance: float | None  # percent along the accuracy axis
    mmlu_settings: int  # how many different sets of questions and protocols the scores come from


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """The row's system against the column's."""

    tally: Tally | None  # None: they never met
    side: str  # "ahead", "behind", "even"
    strength: float  # 0 to 100, how far from even


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixView:
    """Win rates, rows and columns in the order of the leaderboard."""

    systems: tuple[str, ...]
    cells: tuple[tuple[MatrixCell | None, ...], ...]  # None on the diagonal
    num_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationCell:
    """The row's system against the column's."""

    difference: float  # points; positive where the row's is higher
    p_holm: float
    side: str  # "ahead", "behind"; "even" where they can't be told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparationView:
    """All pairs: which are told apart, in the order of the leaderboard."""

    systems: tuple[str, ...]
    cells: tuple[tuple[SeparationCell | None, ...], ...]  # None on the diagonal, and for a pair not tested
    num_left_out: int
    num_pairs: int
    num_separable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveView:
    """One run's loss curve."""

    run: Run
    curve: Curve
    held_out: tuple[tuple[float, float], ...]  # places of the losses of its held-out rows


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesView:
    """Loss curves on shared axes."""

    curves: tuple[CurveView, ...]
    scale: Scale
    max_step: int
    num_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresColumn:
    """One number of one evaluation."""

    subject: str  # a task or text; empty where the kind has one only
    metric: str
    is_comparable: bool  # all systems were asked the same


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresView:
    """One kind of evaluation: systems as rows, in the order of the leaderboard; those without it are left out."""

    title: str
    columns: tuple[ScoresColumn, ...]
    rows: tuple[tuple[str, tuple[MeasuredScore | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceRow:
    """One run of a race."""

    label: str
    decisions: tuple[Decision | None, ...]  # at each of the race's rungs; None: it wasn't judged there
    promotion: Decision | None  # trained on by hand, after it had stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceView:
    """What was decided in a race: runs as rows, those that came farthest first, rungs as columns."""

    rungs: tuple[Decision, ...]  # one of each rung, for its step and limit
    rules: tuple[str, ...]
    rows: tuple[RaceRow, ...]


def leaderboard_view(rows: Sequence[LeaderboardRow], runs: Sequence[Run]) -> LeaderboardView:
    """Rows with bars on axes that hold every interval, and the chance level of MMLU."""
    by_id = {run.record.run_id: run for run in runs}
    points = scale_over(
        value for r in rows for value in (r.elo, r.elo_low, r.elo_high, r.bt_rating, r.bt_low, r.bt_high)
    )
    measured = [value for r in rows for value in (r.mmlu_macro, r.mmlu_macro_low, r.mmlu_macro_high)]
    known = [value for value in measured if value is not None]
    accuracy = scale_over([*known, MMLU_CHANCE]) if known else None
    return LeaderboardView(
        rows=tuple(_ranked_view(row, by_id.get(row.run_id or ""), points, accuracy) for row in rows),
        points=points,
        accuracy=accuracy,
        chance=accuracy.percent(MMLU_CHANCE) if accuracy else None,
        mmlu_settings=len({run.mmlu.settings_sha256 for run in runs if run.mmlu}),
    )


def matrix_view(pairs: PairTallies, order: Sequence[str]) -> MatrixView | None:
    """Win rates of the best systems against each other; None where nobody met."""
    anybody = {system for system, _ in pairs}
    met = [name for name in order if name in anybody]
    if not met:
        return None
    shown = met[:MAX_MATRIX_SYSTEMS]
    cells = tuple(tuple(None if one == two else _matrix_cell(pairs.get((one, two))) for two in shown) for one in shown)
    return MatrixView(systems=tuple(shown), cells=cells, num_left_out=len(met) - len(shown))


def curves_view(runs: Sequence[Run]) -> CurvesView | None:
    """Loss curves of the runs that trained; None where none did."""
    trained = [run for run in runs if run.losses]
    shown = trained[:MAX_CURVES]
    scale = scale_over((loss for run in shown for _, loss in (*run.losses, *run.eval_losses)), num_ticks=3)
    if scale is None:
        return None
    max_step = max(run.losses[-1][0] for run in shown)
    return CurvesView(
        curves=tuple(
            CurveView(
                run=run,
                curve=curve(run.losses, max_step, scale),
                held_out=tuple(curve_marks(run.eval_losses, max_step, scale)),
            )
            for run in shown
        ),
        scale=scale,
        max_step=max_step,
        num_left_out=len(trained) - len(shown),
    )


def race_view(made: Sequence[tuple[str, Decision]]) -> RaceView | None:
    """The decisions of a race. Args: made: (label, decision), by rung and rank. -> None where nothing was decided"""
    judged = [(label, decision) for label, decision in made if decision.verdict is not Verdict.promoted]
    promoted = {label: decision for label, decision in made if decision.verdict is Verdict.promoted}
    rungs: dict[int, Decision] = {}
    by_label: dict[str, dict[int, Decision]] = {}
    for label, decision in judged:
        if decision.rung not in rungs or rungs[decision.rung].step is None:
            rungs[decision.rung] = decision
        by_label.setdefault(label, {})[decision.rung] = decision
    if not rungs:
        return None
    by_rung = sorted(rungs)

    def farthest(label: str) -> tuple[int, int]:
        last = by_label[label][max(by_label[label])]
        return -last.rung, last.rank if last.rank is not None else len(by_label)

    return RaceView(
        rungs=tuple(rungs[rung] for rung in by_rung),
        rules=tuple(dict.fromkeys(decision.rule for _, decision in judged)),
        rows=tuple(
            RaceRow(
                label=label,
                decisions=tuple(by_label[label].get(rung) for rung in by_rung),
                promotion=promoted.get(label),
            )
            for label in sorted(by_label, key=farthest)
        ),
    )


def separation_view(ratings: dict[str, Any], order: Sequence[str]) -> SeparationView | None:
    """Every tested pair of ratings.json, corrected for all pairs; None where nothing was tested."""
    tested = [pair for pair in ratings.get("comparisons") or () if pair["significant"] is not None]
    if not tested:
        return None
    cells: dict[tuple[str, str], SeparationCell] = {}
    for pair in tested:
        for one, two, sign, side in (
            (pair["higher"], pair["lower"], 1, "ahead"),
            (pair["lower"], pair["higher"], -1, "behind"),
        ):
            cells[one, two] = SeparationCell(
                difference=sign * pair["difference"],
                p_holm=pair["p_holm"],
                side=side if pair["significant"] else "even",
            )
    compared = {one for one, _ in cells}
    systems = [name for name in order if name in compared]
    shown = systems[:MAX_MATRIX_SYSTEMS]
    return SeparationView(
        systems=tuple(shown),
        cells=tuple(tuple(cells.get((one, two)) for two in shown) for one in shown),
        num_left_out=len(systems) - len(shown),
        num_pairs=len(tested),
        num_separable=sum(pair["significant"] for pair in tested),
    )


def scores_views(runs: Sequence[Run]) -> list[ScoresView]:
    """A table for each kind of evaluation but MMLU, which the leaderboard shows."""
    kinds = sorted({_kind(score) for run in runs for score in run.scores})
    return [_scores_view(kind, runs) for kind in kinds]


def shared_packages(runs: Sequence[Run]) -> dict[str, str] | None:
    """The package versions that all runs have, or None where they differ."""
    versions = [run.record.packages for run in runs]
    return versions[0] if versions and all(other == versions[0] for other in versions) else None


def run_settings(run: Run) -> list[tuple[str, str]]:
    """(name, value) of everything in the run's resolved config, dotted; what is unset is left out."""
    return [(name, _plain(value)) for name, value in _flat(run.record.spec) if value not in (None, "", [], {})]


def _plain(value: Any) -> str:
    """A setting as one types it: true, all-linear, 0.1."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _scores_view(kind: str, runs: Sequence[Run]) -> ScoresView:
    scores = {
        run.record.label: {(score.evaluation, score.metric): score for score in run.scores if _kind(score) == kind}
        for run in runs
    }
    columns = list(dict.fromkeys(column for by_column in scores.values() for column in by_column))
    settings = {column: {s[column].settings_sha256 for s in scores.values() if column in s} for column in columns}
    return ScoresView(
        title=BENCHMARKS[kind].title if kind in BENCHMARKS else kind,
        columns=tuple(
            ScoresColumn(
                subject=evaluation.removeprefix(kind).strip(),
                metric=metric,
                is_comparable=len(settings[evaluation, metric]) == 1,
            )
            for evaluation, metric in columns
        ),
        rows=tuple(
            (label, tuple(by_column.get(c) for c in columns)) for label, by_column in scores.items() if by_column
        ),
    )


def _kind(score: MeasuredScore) -> str:
    return score.evaluation.split()[0]


def _ranked_view(row: LeaderboardRow, run: Run | None, points: Scale | None, accuracy: Scale | None) -> RankedView:
    ordering = None
    if row.elo is not None:
        ordering = Estimate(value=row.elo, low=row.elo_ordering_low, high=row.elo_ordering_high)
    return RankedView(
        row=row,
        run=run,
        elo=_bar(points, row.elo, row.elo_low, row.elo_high, ordering),
        bradley_terry=_bar(points, row.bt_rating, row.bt_low, row.bt_high),
        mmlu=_bar(accuracy, row.mmlu_macro, row.mmlu_macro_low, row.mmlu_macro_high),
    )


def _bar(
    scale: Scale | None, value: float | None, low: float | None, high: float | None, inner: Estimate | None = None
) -> Bar | None:
    if scale is None or value is None:
        return None
    return bar(scale, Estimate(value=value, low=low, high=high), inner)


def _matrix_cell(tally: Tally | None) -> MatrixCell:
    rate = tally.win_rate if tally else None
    if rate is None:
        return MatrixCell(tally=tally, side="even", strength=0.0)
    side = "ahead" if rate > 0.5 else "behind" if rate < 0.5 else "even"
    return MatrixCell(tally=tally, side=side, strength=round(200 * abs(rate - 0.5), 1))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]

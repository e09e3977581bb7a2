"""Makes the leaderboard, with a row for each system, from records on disk.

    python -m analysis report --sweep demo --tournament runs/tournaments/demo --out reports/demo

writes the rows as leaderboard.csv and leaderboard.json beside the page, all other scores as scores.csv. Ratings are
read from ratings.json, as `python -m eval rate` made them; nothing is rated here. Systems are ranked by Elo, as QLoRA's
tables 1 and 7 do (arXiv 2305.14314); others that the verdicts can't tell it from at 95 % (a test on Bradley-Terry's
differences, corrected for all pairs by Holm, in eval/ratings/comparisons.py) are named in `not_separable_from`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from analysis.report.answers import BenchAnswers
from analysis.report.matches import Tally, pair_tallies, tally_systems
from analysis.report.records import Run, Tournament
from eval.answers.files import Answer
from harness.config.schema import DType, QuantMethod, method_name, quant_label
from harness.files.atomic import csv_text, write_atomically, write_json
from harness.methods.table import METHODS
from harness.runs.scores import MeasuredScore

MISSING = "\N{EN DASH}"
MEASURES = ("Elo", "Bradley-Terry", "MMLU %", "W-L-T")  # columns of the table for a terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardRow:
    """The row of one system. None means "not measured"; bounds are of 95 % intervals."""

    rank: int | None  # by Elo (Bradley-Terry where no Elo was made); equal ratings share a rank
    system: str
    model: str | None = None
    dataset: str | None = None
    quant: str | None = None
    adapter: str | None = None
    elo: float | None = None  # points, mean over orderings
    elo_low: float | None = None  # over prompts: what other prompts like these could give
    elo_high: float | None = None
    elo_ordering_low: float | None = None  # over orderings: noise of the method, the paper's +-1
    elo_ordering_high: float | None = None
    bt_rating: float | None = None  # Bradley-Terry, points, bounds over prompts
    bt_low: float | None = None
    bt_high: float | None = None
    rank_low: int | None = None  # of the Bradley-Terry rank, over prompts
    rank_high: int | None = None
    best: float | None = None  # the chance that it is the best, over prompts
    people_rating: float | None = None  # Bradley-Terry corrected by people's votes, points
    people_low: float | None = None
    people_high: float | None = None
    matches: int | None = None  # verdicts that could be read
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    unparsed: int | None = None
    mmlu_macro: float | None = None  # fraction, mean over subjects
    mmlu_macro_low: float | None = None
    mmlu_macro_high: float | None = None
    mmlu_n: int | None = None  # questions
    final_loss: float | None = None  # nats a target token
    train_seconds: float | None = None
    num_steps: int | None = None
    peak_memory_bytes: int | None = None
    target_tokens: int | None = None  # that carried loss in training
    answer_tokens: float | None = None  # mean of an answer of the bench that is shown
    judging_usd: float | None = None  # half of what its matches cost, the other half being its opponents'
    run_id: str | None = None
    not_separable_from: tuple[str, ...] | None = None  # at 95 %, of all others; None where that was not tested


def leaderboard_rows(
    runs: Sequence[Run], tournament: Tournament | None, answers: BenchAnswers | None = None
) -> list[LeaderboardRow]:
    """One row for every run, every contestant and everybody with answers, best first, the unrated last.

    A contestant without a run among `runs` (an answer file, say) has a row with its ratings only.

    Raises:
        ValueError: two runs of one label, so that a contestant's name says not which it is.
    """
    by_label = _by_label(runs)
    ratings = (tournament.ratings if tournament else None) or {}
    tallies = tally_systems(pair_tallies(tournament)) if tournament else {}
    answered = answers.by_system if answers else {}
    elo, bradley_terry = ratings.get("elo") or {}, ratings.get("bradley_terry") or {}
    names = dict.fromkeys([*by_label, *elo, *bradley_terry, *tallies, *answered])
    costs = judging_costs(tournament)
    near = inseparable(ratings)
    rows = [
        LeaderboardRow(
            rank=None,
            system=name,
            **_run_columns(by_label.get(name)),
            **_rating_columns(elo.get(name) or {}, bradley_terry.get(name) or {}),
            **_place_columns(ratings, name),
            **_tally_columns(tallies.get(name)),
            answer_tokens=_mean_tokens(answered.get(name, {}).values()),
            judging_usd=costs.get(name),
            not_separable_from=near.get(name),
        )
        for name in names
    ]
    return _ranked(rows)


def inseparable(ratings: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """-> {tested system: those of its group that it can't be told from at 95 %}

    A pair that could not be tested (a single prompt, say) is not listed: that is "unknown", not "separable".
    """
    near: dict[str, tuple[str, ...]] = {}
    for pair in ratings.get("comparisons") or ratings.get("pairs") or ():
        if pair["significant"] is None:
            continue
        for name, other in ((pair["higher"], pair["lower"]), (pair["lower"], pair["higher"])):
            near[name] = near.get(name, ()) + (() if pair["significant"] else (other,))
    return near


def judging_costs(tournament: Tournament | None) -> dict[str, float]:
    """System -> US dollars, half of what each of its matches cost; systems of matches without a price are left out."""
    costs: dict[str, float] = {}
    for judgment in tournament.judgments.values() if tournament else ():
        if judgment.cost_usd is not None:
            for system in (judgment.system_a, judgment.system_b):
                costs[system] = costs.get(system, 0.0) + judgment.cost_usd / 2
    return costs


def to_csv(rows: Sequence[LeaderboardRow]) -> str:
    """CSV text with a header; what was not measured is an empty cell."""
    columns = [field.name for field in dataclasses.fields(LeaderboardRow)]
    cells = [[getattr(row, column) for column in columns] for row in rows]
    return csv_text(columns, [["; ".join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in cells])


def write_leaderboard(folder: Path, rows: Sequence[LeaderboardRow]) -> None:
    """Writes `leaderboard.csv` and `leaderboard.json` (a list of objects, null where not measured)."""
    write_atomically(folder / "leaderboard.csv", to_csv(rows))
    write_json(folder / "leaderboard.json", [dataclasses.asdict(row) for row in rows])


def write_scores(folder: Path, runs: Sequence[Run]) -> None:
    """Writes `scores.csv`: a line for each number of every evaluation but MMLU, which the leaderboard has."""
    columns = [field.name for field in dataclasses.fields(MeasuredScore)]
    rows = [
        [run.record.label, run.record.run_id, *(getattr(score, column) for column in columns)]
        for run in runs
        for score in run.scores
    ]
    write_atomically(folder / "scores.csv", csv_text(["system", "run_id", *columns], rows))


def leaderboard_table(rows: Sequence[LeaderboardRow]) -> Table:
    """The leaderboard for a terminal of 80 columns: what was measured, a dash where it was not of one system."""
    cells = [_measures(row) for row in rows]
    measured = [name for name in MEASURES if any(name in found for found in cells)]
    caption = "below each number: its 95 % interval, of ratings over prompts"
    table = Table(
        title="Leaderboard", caption=caption if measured else None, box=SIMPLE_HEAD, pad_edge=False, padding=0
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("System", overflow="fold")
    for name in measured:
        table.add_column(name, justify="right", no_wrap=True)
    for row, found in zip(rows, cells, strict=True):
        table.add_row(_number(row.rank, "d"), Text(row.system), *(found.get(name, Text(MISSING)) for name in measured))
    return table


def _measures(row: LeaderboardRow) -> dict[str, Text]:
    """What was measured of a system, by the column's title."""
    accuracy, low, high = (
        None if v is None else 100 * v for v in (row.mmlu_macro, row.mmlu_macro_low, row.mmlu_macro_high)
    )
    texts = (
        None if row.elo is None else _with_interval(row.elo, row.elo_low, row.elo_high, ".0f"),
        None if row.bt_rating is None else _with_interval(row.bt_rating, row.bt_low, row.bt_high, ".0f"),
        None if accuracy is None else _with_interval(accuracy, low, high, ".1f"),
        None if row.matches is None else Text(f"{row.wins}-{row.losses}-{row.ties}"),
    )
    return {name: text for name, text in zip(MEASURES, texts, strict=True) if text is not None}


def adapter_name(run: Run) -> str:
    """`lora r=16`, or `none` for an untouched base."""
    method = method_name(run.setting("adapter") or {})
    entry = METHODS.get(method)
    has_rank = run.setting("adapter", "method") != "peft" or entry is None or entry.rank is not None
    return method if method == "none" or not has_rank else f"{method} r={run.setting('adapter', 'lora_r')}"


def _by_label(runs: Sequence[Run]) -> dict[str, Run]:
    by_label: dict[str, Run] = {}
    for run in runs:
        other = by_label.setdefault(run.record.label, run)
        if other is not run:
            raise ValueError(
                f"runs {other.record.run_id} and {run.record.run_id} are both called {run.record.label!r}, so their "
                "matches can't be told apart; report one of them, with --run-id"
            )
    return by_label


def _run_columns(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {}
    record, mmlu = run.record, run.mmlu
    columns: dict[str, Any] = {
        "model": run.setting("model", "name"),
        "dataset": run.setting("dataset", "name"),
        "quant": _quant(run),
        "adapter": adapter_name(run),
        "final_loss": record.final_loss,
        "train_seconds": record.train_seconds,
        "num_steps": record.num_steps,
        "peak_memory_bytes": record.peak_memory_bytes or None,  # 0: a device without such a counter
        "target_tokens": record.target_tokens,
        "run_id": record.run_id,
    }
    if mmlu is not None:
        macro = mmlu.macro
        columns |= {"mmlu_macro": macro.value, "mmlu_macro_low": macro.low, "mmlu_macro_high": macro.high}
        columns["mmlu_n"] = mmlu.num_questions
    return columns


def _mean_tokens(answers: Iterable[Answer]) -> float | None:
    known = [answer.num_tokens for answer in answers if answer.num_tokens is not None]
    return sum(known) / len(known) if known else None


def _quant(run: Run) -> str | None:
    """The word that the run's label has for it."""
    name: str | None = run.setting("quant", "name") or run.setting("quant", "method")
    try:
        method, dtype = QuantMethod(run.setting("quant", "method")), DType(run.setting("quant", "compute_dtype"))
    except ValueError:  # a record without them
        return name
    return quant_label(name or "", method, dtype)


def _rating_columns(elo: dict[str, Any], bradley_terry: dict[str, Any]) -> dict[str, Any]:
    return {
        "elo": elo.get("mean"),
        "elo_low": elo.get("low"),
        "elo_high": elo.get("high"),
        "elo_ordering_low": elo.get("ordering_low"),
        "elo_ordering_high": elo.get("ordering_high"),
        "bt_rating": bradley_terry.get("rating"),
        "bt_low": bradley_terry.get("low"),
        "bt_high": bradley_terry.get("high"),
    }


def _place_columns(ratings: dict[str, Any], name: str) -> dict[str, Any]:
    place = (ratings.get("ranks") or {}).get(name) or {}
    people = ((ratings.get("people") or {}).get("ratings") or {}).get(name) or {}
    return {
        "rank_low": place.get("low"),
        "rank_high": place.get("high"),
        "best": place.get("best"),
        "people_rating": people.get("rating"),
        "people_low": people.get("low"),
        "people_high": people.get("high"),
    }


def _tally_columns(tally: Tally | None) -> dict[str, Any]:
    if tally is None:
        return {}
    return {
        "matches": tally.matches,
        "wins": tally.wins,
        "losses": tally.losses,
        "ties": tally.ties,
        "unparsed": tally.unparsed,
    }


def _ranked(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Rated rows by rank, then the unrated as they came; ratings of two kinds are never compared."""
    key = "elo" if any(row.elo is not None for row in rows) else "bt_rating"
    points = {row.system: getattr(row, key) for row in rows if getattr(row, key) is not None}
    rated = sorted((row for row in rows if row.system in points), key=lambda row: -points[row.system])
    ranked = [
        dataclasses.replace(row, rank=1 + sum(other > points[row.system] for other in points.values())) for row in rated
    ]
    return ranked + [row for row in rows if row.system not in points]


def _number(value: float | None, spec: str) -> str:
    return MISSING if value is None else format(value, spec)


def _with_interval(value: float | None, low: float | None, high: float | None, spec: str) -> Text:
    """The number, and its interval in a second line."""
    lines = Text(_number(value, spec))
    if low is not None and high is not None:
        lines.append(f"\n{low:{spec}} to {high:{spec}}", style="dim")
    return lines

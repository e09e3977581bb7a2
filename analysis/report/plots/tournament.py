"""Figures about a tournament: ratings, win matrix, position, length, categories, agreement of judges and people."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from analysis.report.content import Content
from analysis.report.examples.items import Item
from analysis.report.matches import pair_tallies
from analysis.report.plots.charts import Interval, heat_map, intervals, stacked
from analysis.report.plots.drawing import Figure
from analysis.report.records import Verdict
from eval.ratings.bias import Share, share
from eval.ratings.bradley_terry import connected_groups, count_cells, fit
from eval.ratings.kappa import cohen_kappa, percent_agreement
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from eval.verdicts.table import HALF_POINTS, Matches

MAX_SYSTEMS = 40  # of a figure; the best ones
LENGTH_BOUNDS = (100, 300, 1000)  # characters by which one answer is longer than the other


def ratings(content: Content) -> Figure:
    """Bradley-Terry ratings with their intervals over prompts, Elo as rings."""
    rows = [row for row in content.rows if row.bt_rating is not None][:MAX_SYSTEMS]
    shown = [
        Interval(label=row.system, value=row.bt_rating, low=row.bt_low, high=row.bt_high, other=row.elo)
        for row in rows
        if row.bt_rating is not None
    ]
    return Figure(
        name="ratings",
        title="Ratings with 95 % intervals",
        caption="Dots: Bradley-Terry with its interval over prompts. Rings: Elo." if shown else "Not measured.",
        columns=("system", "bradley_terry", "low", "high", "elo", "elo_low", "elo_high"),
        rows=tuple((r.system, r.bt_rating, r.bt_low, r.bt_high, r.elo, r.elo_low, r.elo_high) for r in rows),
        drawing=intervals(shown, "points", 1000.0) if shown else None,
    )


def win_matrix(content: Content) -> Figure:
    """The share of points that the row's system takes from the column's."""
    pairs = pair_tallies(content.tournament) if content.tournament else {}
    met = {one for one, _ in pairs}
    systems = [name for name in content.order if name in met][:MAX_SYSTEMS]
    rates = {pair: tally.win_rate for pair, tally in pairs.items() if tally.win_rate is not None}
    cells = [[None if (rate := rates.get((a, b))) is None else 100 * rate for b in systems] for a in systems]
    return Figure(
        name="win-matrix",
        title="Who beats whom",
        caption="Percent of points that the row's system takes from the column's; a tie is half a point."
        if systems
        else "Not measured: no two systems met.",
        columns=("system", "opponent", "win_rate", "wins", "losses", "ties"),
        rows=tuple(
            (a, b, rate, pairs[a, b].wins, pairs[a, b].losses, pairs[a, b].ties) for (a, b), rate in rates.items()
        ),
        drawing=heat_map(systems, systems, cells, 0, 100) if systems else None,
    )


def position_bias(content: Content) -> Figure:
    """Who wins by place, for each judge; nothing where the ratings say that no place was measured."""
    counts: dict[str, Counter[int]] = {}
    played = content.tournament
    has_places = played is not None and (played.ratings or {}).get("position_bias", {}) is not None
    for verdict in played.verdicts if played is not None and has_places else ():
        counts.setdefault(verdict.judge or "judge", Counter())[verdict.verdict] += 1
    rows = [(judge, [float(found[code]) for code in (FIRST, TIE, SECOND)]) for judge, found in counts.items()]
    kinds = (("first", "shown first won"), ("tie", "tie"), ("second", "shown second won"))
    return Figure(
        name="position-bias",
        title="Does the place decide?",
        caption="Verdicts by the place of the answer that won; without bias both places win as often."
        if rows
        else "Not measured: nothing was judged by place.",
        columns=("judge", "first_wins", "ties", "second_wins", "unparsed"),
        rows=tuple((j, c[FIRST], c[TIE], c[SECOND], c[UNPARSED]) for j, c in counts.items()),
        drawing=stacked(rows, kinds) if rows else None,
    )


def length_against_win(content: Content) -> Figure:
    """How often the longer answer wins, by how much longer it is."""
    found = _longer_wins(content.items)
    rows = [(name, won) for name, won in found if won.rate is not None]
    shown = [
        Interval(
            label=f"{name} ({won.num:g})",
            value=100 * won.rate,
            low=None if won.low is None else 100 * won.low,
            high=None if won.high is None else 100 * won.high,
        )
        for name, won in rows
        if won.rate is not None
    ]
    return Figure(
        name="length-against-win",
        title="Does the longer answer win?",
        caption="Percent of decisive verdicts won by the longer answer, by how many characters longer it is; in "
        "brackets the verdicts. Intervals are over questions."
        if shown
        else "Not measured: no judged pair has both answers on disk.",
        columns=("longer_by_characters", "longer_wins", "decisive_verdicts", "rate", "low", "high"),
        rows=tuple((name, won.wins, won.num, won.rate, won.low, won.high) for name, won in rows),
        drawing=intervals(shown, "percent won by the longer answer", 50.0) if shown else None,
    )


def rating_by_category(content: Content) -> Figure:
    """Bradley-Terry ratings from the questions of each category alone."""
    verdicts = content.tournament.verdicts if content.tournament else ()
    by_category: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.question_id in content.categories and verdict.verdict in HALF_POINTS:
            by_category.setdefault(content.categories[verdict.question_id], []).append(verdict)
    points = {category: _points(found) for category, found in sorted(by_category.items())}
    systems = [name for name in content.order if any(name in found for found in points.values())][:MAX_SYSTEMS]
    cells = [[found.get(name) for found in points.values()] for name in systems]
    known = [abs(value - 1000) for row in cells for value in row if value is not None]
    spread = max([1.0, *known])  # less than a point apart is not shown in full colour
    return Figure(
        name="rating-by-category",
        title="Rating by category of question",
        caption="Bradley-Terry points from each category's questions alone; their mean over systems is 1000."
        if systems
        else "Not measured: the categories of the judged questions are not known; name their file with --questions.",
        columns=("system", "category", "rating"),
        rows=tuple((name, category, points[category].get(name)) for name in systems for category in points),
        drawing=heat_map(systems, list(points), cells, 1000 - spread, 1000 + spread) if systems else None,
    )


def agreement(content: Content) -> Figure:
    """How often two judges, or a judge and people, agree on the same two answers."""
    found = _confusions(content)
    judges = list(content.judges)
    share_of = {pair: float(percent_agreement(table[None])[0]) for pair, table in found.items()}
    cells = [[_both_ways(share_of, a, b) for b in judges] for a in judges]
    shown = [[None if value is None else 100 * value for value in row] for row in cells]
    return Figure(
        name="agreement",
        title="Agreement of judges and people",
        caption="Percent of pairs of answers on which both name the same better answer, or a tie. Kappa is in the CSV."
        if found
        else "Not measured: a single judge, and no people's votes on the same answers.",
        columns=("one", "other", "pairs_of_answers", "agreement", "cohen_kappa"),
        rows=tuple(
            (a, b, int(table.sum()), share_of[a, b], _or_none(float(cohen_kappa(table[None])[0])))
            for (a, b), table in found.items()
        ),
        drawing=heat_map(judges, judges, shown, 0, 100) if found else None,
    )


def _longer_wins(items: Sequence[Item]) -> list[tuple[str, Share]]:
    """(how much longer, how often the longer one wins)"""
    edges = (0, *LENGTH_BOUNDS)
    names = [f"{low + 1} to {high}" for low, high in zip(edges, LENGTH_BOUNDS, strict=False)]
    names.append(f"over {LENGTH_BOUNDS[-1]}")
    codes = {question: code for code, question in enumerate(dict.fromkeys(item.question_id for item in items))}
    won: list[list[bool]] = [[] for _ in names]
    asked: list[list[int]] = [[] for _ in names]
    for item in items:
        if item.length_difference:
            place = sum(abs(item.length_difference) > bound for bound in LENGTH_BOUNDS)
            for outcome in (*item.forward, *item.backward):
                if outcome in (FIRST, SECOND):
                    won[place].append((outcome == FIRST) == (item.length_difference > 0))
                    asked[place].append(codes[item.question_id])
    return [
        (name, share(np.array(w, dtype=bool), np.array(q, dtype=np.int32)))
        for name, w, q in zip(names, won, asked, strict=True)
    ]


def _points(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """System -> Bradley-Terry points; empty where not all systems are linked by matches."""
    systems = {name: code for code, name in enumerate(sorted({n for v in verdicts for n in (v.first, v.second)}))}
    questions = {name: code for code, name in enumerate(sorted({verdict.question_id for verdict in verdicts}))}
    matches = Matches(
        question=np.array([questions[v.question_id] for v in verdicts], dtype=np.int32),
        first=np.array([systems[v.first] for v in verdicts], dtype=np.int32),
        second=np.array([systems[v.second] for v in verdicts], dtype=np.int32),
        half_points=np.array([HALF_POINTS[v.verdict] for v in verdicts], dtype=np.int8),
    )
    cells = count_cells(matches, len(systems))
    if len(connected_groups(cells)) != 1:
        return {}
    points = fit(cells, cells.totals()).points
    return {name: float(points[code]) for name, code in systems.items()}


def _confusions(content: Content) -> dict[tuple[str, str], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """(judge, other judge) -> (3, 3) items by the winner that each names."""
    named: dict[tuple[str, str, str], dict[str, int]] = {}
    for item in content.items:
        outcomes = [*item.forward, *item.backward]
        margin = outcomes.count(FIRST) - outcomes.count(SECOND)
        if any(outcome != UNPARSED for outcome in outcomes):
            named.setdefault((item.question_id, item.one, item.two), {})[item.judge] = (margin > 0) - (margin < 0)
    tables: dict[tuple[str, str], np.ndarray[tuple[int, int], np.dtype[np.float64]]] = {}
    for one, other in combinations(content.judges, 2):
        both = [(found[one], found[other]) for found in named.values() if one in found and other in found]
        if both:
            table = np.zeros((3, 3))
            np.add.at(table, tuple(np.array(both).T + 1), 1.0)
            tables[one, other] = table
    return tables


def _both_ways(shares: dict[tuple[str, str], float], one: str, other: str) -> float | None:
    return shares.get((one, other), shares.get((other, one)))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value

"""The body of `python -m eval rate`: rates files and shows the result as tables.

result, shown = rate_command([Path("verdicts.csv")], RateOptions())
Console().print(shown)              # or: json.dumps(result.to_json(), allow_nan=False)
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from eval.ratings.comparisons import Comparison
from eval.ratings.people import PeopleRatings
from eval.ratings.rate import RateOptions, RatingsResult, rate_files

MISSING = "-"


def rate_command(paths: Sequence[Path], options: RateOptions) -> tuple[RatingsResult, Group]:
    """Rate the files.

    Raises:
        ValueError: A file or an option can't be used; see `eval.ratings.rate.rate_files`.
    """
    result = rate_files(paths, options)
    return result, show_ratings(result)


def show_ratings(result: RatingsResult) -> Group:
    """The result as tables and lines."""
    sentences = [*result.verdict, *(result.people.verdict if result.people else [])]
    parts: list[Table | Text] = [Text(f"{sentence}.") for sentence in sentences]
    for number, group in enumerate(result.groups, start=1):
        which = f" (group {number} of {len(result.groups)})" if len(result.groups) > 1 else ""
        parts.append(_strength_table(result, group, f"Ratings{which}"))
        if result.elo:
            parts.append(_elo_table(result, group))
    if result.people is not None:
        parts.append(_people_table(result, result.people))
        parts.append(_pair_table("Corrected by people: the best against the others", *_best_pairs(result.people)))
    if result.comparisons:
        best = {group[0] for group in result.groups}
        shown = [c for c in result.comparisons if c.higher in best]
        shown += [c for c in result.pairs if c not in shown]
        title = "The best against the others, and neighbours"
        parts += [_rank_table(result), _pair_table(title, shown, len(result.comparisons))]
    if result.relative:
        parts.append(_relative_table(result))
    if result.controlled is not None:
        parts.append(_controlled_table(result))
    parts.extend(Text(line) for line in [*_summary(result), *(f"note: {note}" for note in result.notes)])
    return Group(*parts)


def interval(low: float | None, high: float | None, digits: int = 0) -> str:
    """`[low, high]`, or a dash where there is none."""
    return MISSING if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _strength_table(result: RatingsResult, group: Sequence[str], title: str) -> Table:
    table = Table(title=title, caption="intervals: 95 %, with other prompts")
    table.add_column("system", overflow="fold")
    for name in ("Bradley-Terry", "95 %", "Davidson", "win rate", "matches"):
        table.add_column(name, justify="right")
    for system in group:
        strength, davidson = result.bradley_terry[system], result.davidson[system]
        records = result.win_matrix[system].values()
        num = sum(r.wins + r.losses + r.ties for r in records)
        table.add_row(
            system,
            f"{strength.rating:.0f}",
            interval(strength.low, strength.high),
            f"{davidson.rating:.0f}",
            f"{sum(r.wins + r.ties / 2 for r in records) / num:.1%}",
            str(num),
        )
    return table


def _elo_table(result: RatingsResult, group: Sequence[str]) -> Table:
    table = Table(title="Elo", caption="95 %: prompts = with other prompts, ordering = of the mean only")
    table.add_column("system", overflow="fold")
    for name in ("Elo", "prompts", "ordering"):
        table.add_column(name, justify="right")
    for system in group:
        elo = result.elo[system]
        bounds = interval(elo.low, elo.high), interval(elo.ordering_low, elo.ordering_high, 1)
        table.add_row(system, f"{elo.mean:.0f}", *bounds)
    return table


def _people_table(result: RatingsResult, people: PeopleRatings) -> Table:
    table = Table(
        title="Bradley-Terry corrected by people",
        caption=f"{people.num_votes} matches with votes on {people.num_prompts} prompts; the judge's verdicts count "
        f"{people.judge_weight:.0%}; 95 % and P(best): with other prompts",
    )
    table.add_column("system", overflow="fold")
    for name in ("judge", "corrected", "95 %", "P(best)", "people only", "95 %"):
        table.add_column(name, justify="right")
    for system, found in people.ratings.items():
        best = people.ranks[system].best
        table.add_row(
            system,
            f"{result.bradley_terry[system].rating:.0f}",
            f"{found.rating:.0f}",
            interval(found.low, found.high),
            MISSING if best is None else f"{best:.3f}",
            f"{found.people_only:.0f}",
            interval(found.people_only_low, found.people_only_high),
        )
    return table


def _rank_table(result: RatingsResult) -> Table:
    table = Table(title="Which is best", caption="P(best) and ranks (95 %): with other prompts")
    table.add_column("system", overflow="fold")
    for name in ("rank", "95 %", "P(best)", "not told from (Holm)"):
        table.add_column(name, justify="right")
    for system, place in result.ranks.items():
        alike = [c for c in result.comparisons if system in (c.higher, c.lower) and not c.significant]
        table.add_row(
            system,
            str(place.rank),
            MISSING if place.low is None else f"{place.low} to {place.high}",
            MISSING if place.best is None else f"{place.best:.3f}",
            str(len(alike)),
        )
    return table


def _best_pairs(people: PeopleRatings) -> tuple[list[Comparison], int]:
    """The pairs of each group's best system, and how many pairs there are in all."""
    beaten = {c.lower for c in people.comparisons}
    return [c for c in people.comparisons if c.higher not in beaten], len(people.comparisons)


def _pair_table(title: str, shown: Sequence[Comparison], num_pairs: int) -> Table:
    """Pairs of systems with their tests; all other pairs are in the JSON."""
    table = Table(
        title=title, caption=f"p and interval by Holm for all {num_pairs} pairs; prompts for 80 % power at 5 %"
    )
    for name in ("above", "below"):
        table.add_column(name, overflow="fold")
    for name in ("points", "interval", "p (Holm)", "prompts", "needed"):
        table.add_column(name, justify="right")
    for pair in shown:
        table.add_row(
            pair.higher,
            pair.lower,
            f"{pair.difference:.0f}",
            interval(pair.low, pair.high),
            MISSING if pair.p_holm is None else f"{pair.p_holm:.2g}",
            str(pair.num_prompts),
            MISSING if pair.num_prompts_needed is None else str(pair.num_prompts_needed),
        )
    return table


def _relative_table(result: RatingsResult) -> Table:
    table = Table(title="Score relative to the reference, %", caption="+-: as in the paper's Table 6; 95 %: paired")
    table.add_column("system")
    for name in ("shown first", "shown second", "mean", "+-", "95 %", "prompts"):
        table.add_column(name, justify="right")
    for system, score in result.relative.items():
        orders = [MISSING if part is None else f"{part:.1f}" for part in (score.first, score.second)]
        spread = MISSING if score.ci95 is None else f"{score.ci95:.1f}"
        numbers = [f"{score.mean:.1f}", spread, interval(score.low, score.high, 1), str(score.num_prompts)]
        table.add_row(system, *orders, *numbers)
    return table


def _controlled_table(result: RatingsResult) -> Table:
    equal = "length and style" if result.position_bias is None else "length, style and place"
    table = Table(title=f"Bradley-Terry at equal {equal}", caption="lower part: points for one sd more")
    table.add_column("system or feature")
    for name in ("points", "95 %"):
        table.add_column(name, justify="right")
    assert result.controlled is not None
    for rows in (result.controlled.ratings, result.controlled.effects):
        for name, estimate in rows.items():
            table.add_row(name, f"{estimate.value:.0f}", interval(estimate.low, estimate.high))
        table.add_section()
    return table


def _summary(result: RatingsResult) -> list[str]:
    lines = [f"{result.num_matches} matches, {result.num_unparsed} rows unparsed"]
    bias = result.position_bias
    if bias is not None and bias.first_win_rate is not None:
        lines.append(
            f"position: the first answer wins {bias.first_win_rate:.1%} of decisive verdicts "
            f"({'no interval' if bias.low is None or bias.high is None else f'{bias.low:.1%} to {bias.high:.1%}'}); "
            f"{bias.ties} ties; swapping the order reversed {bias.swapped_reversals} of {bias.swapped_pairs} items"
        )
    longer = result.length_bias
    if longer is not None and longer.rate is not None:
        lines.append(f"length: the longer answer wins {longer.rate:.1%} of {longer.num:.0f} decisive verdicts")
    settings = result.settings
    size = settings["sample_size"] or "all"
    lines.append(
        f"Elo: K = {settings['k']:g}, start {settings['start']:g}, {settings['orderings']} orderings of {size} "
        f"matches, seed {settings['seed']}; {settings['resamples']} resamples of the prompts"
    )
    return lines

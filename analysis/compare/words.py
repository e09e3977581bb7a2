"""Says in words and tables of 80 columns what a contest found; a plain sentence comes first."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from analysis.compare.contest import Contest, Pair, Standing
from analysis.compare.levels import ADAPTER, axis_title
from analysis.compare.options import POINTS, Correction
from analysis.effects.grid import level_text
from harness.console import TextTable

MAX_PAIRS = 15  # in a table, the smallest p first; `--json` has all
MAX_NAMED = 12  # runs that are left out
_CORRECTED = {
    Correction.holm: "corrected for {num} pairs by Holm (1979)",
    Correction.bh: "corrected for {num} pairs by Benjamini and Hochberg (1995)",
    Correction.none: "not corrected for {num} pairs",
}


def sentence(contest: Contest) -> str:
    """What was found, in a sentence."""
    if not contest.pairs:
        why = "; ".join(problem for standing in contest.standings for problem in standing.problems)
        return f"{contest.measure}: nothing could be compared" + (f" ({why})" if why else "")
    if len(contest.pairs) == 1:
        return pair_sentence(contest, contest.pairs[0])
    different = [pair for pair in contest.pairs if pair.is_different]
    equal = [pair for pair in contest.pairs if pair.is_equal]
    num, what = len(contest.pairs), f"{axis_title(contest.axis)}s"
    if not different:
        said = f"No two {what} can be told apart on {contest.measure} ({num} pairs)"
    else:
        said = f"{len(different)} of {num} pairs of {what} differ on {contest.measure}"
    said += f"; {len(equal)} are equal within {contest.margin:g} {contest.unit}".rstrip() if equal else ""
    ahead = _ahead(contest)
    return f"{said}{ahead}; {_design(contest)}"


def pair_sentence(contest: Contest, pair: Pair) -> str:
    """What was found of two levels, in a sentence."""
    title = "" if contest.axis == ADAPTER else f"{axis_title(contest.axis)} "
    one, other = title + level_text(pair.first), title + level_text(pair.second)
    where = f" ({pair.block})" if pair.block else ""
    numbers = f"{_number(pair.difference, contest, signed=True)} {contest.unit}".rstrip()
    if pair.low is not None and pair.high is not None:
        numbers += f", 95 % {_number(pair.low, contest)} to {_number(pair.high, contest)}"
    detects = f"; this design detects {_number(pair.detectable, contest)}" if pair.detectable is not None else ""
    note = f" ({pair.note})" if pair.note else ""
    within = "" if contest.margin is None else f" within {contest.margin:g} {contest.unit}".rstrip()
    verb = "are equal" + within if pair.is_equal else "can't be told apart"
    if pair.is_different:
        verb = "better than" if contest.higher_is_better is not None else "different from"
        also = f", though equal{within}" if pair.is_equal else ""
        p = f", p = {pair.p_corrected:.2g}" if pair.p_corrected is not None else ""
        return f"{one} is {verb} {other} on {contest.measure}{where}: {numbers}{p}{also}{detects}{note}"
    return f"{one} and {other} {verb} on {contest.measure}{where}: {numbers}{detects}{note}"


def shown(contest: Contest, left_out: Sequence[dict[str, Any]]) -> RenderableType:
    """The whole result of a measure for a person."""
    parts: list[RenderableType] = [Text(sentence(contest)), Text("")]
    parts.append(_standings(contest))
    if len(contest.pairs) > 1:
        parts.append(_pairs(contest))
    parts += [Text(f"note: {note}") for note in notes(contest, left_out)]
    return Group(*parts, Text(""))


def notes(contest: Contest, left_out: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How settings were chosen, unequal budgets, levels with problems, and every run that is left out."""
    if contest.source:
        yield (
            f"the best setting of each was chosen by {contest.source}; what is compared is the rest, so that no "
            "maximum is reported (Cawley & Talbot 2010)"
        )
    if contest.budget_note:
        yield contest.budget_note
    for standing in contest.standings:
        if standing.problems:
            yield f"{_name(standing)}: {'; '.join(standing.problems)}"
    for note in contest.notes:
        if "left out, not done" not in note and "left out, without" not in note:  # they are named one by one below
            yield note
    for run in left_out[:MAX_NAMED]:
        yield f"left out: {run['label'] or run['run_id']}: {run['reason']}"
    if len(left_out) > MAX_NAMED:
        yield f"left out: {len(left_out) - MAX_NAMED} more, which --json names"


def as_json(contest: Contest, left_out: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole result as plain values."""
    values = asdict(contest)
    values["correction"] = contest.correction.value
    values["pairs"] = [
        {**asdict(pair), "is_different": pair.is_different, "is_equal": pair.is_equal if contest.margin else None}
        for pair in contest.pairs
    ]
    return {"sentence": sentence(contest), **values, "left_out": list(left_out)}


def _standings(contest: Contest) -> TextTable:
    has_search = any(standing.setting for standing in contest.standings)
    columns = [axis_title(contest.axis), "mean", "95 %", "tried", "runs", *(["setting"] if has_search else [])]
    rows = []
    for standing in contest.standings:
        known = standing.low is not None and standing.high is not None
        cells = [
            _name(standing),
            _number(standing.value, contest),
            f"{_number(standing.low, contest)} to {_number(standing.high, contest)}" if known else "-",
            str(standing.num_settings),
            str(standing.num_compared_runs),
        ]
        rows.append([*cells, standing.setting] if has_search else cells)
    questions = f", {contest.num_questions} questions" if contest.num_questions > 1 else ""
    over = "seeds and questions" if questions else "seeds"
    return TextTable(
        title=f"{contest.measure}, {contest.unit or 'no unit'}{questions}",
        columns=columns,
        rows=rows,
        numbers=("mean", "95 %", "tried", "runs"),
        prose=("setting",),
        caption=f"mean and interval over {over}; tried: settings it chose from; runs: compared ones",
    )


def _pairs(contest: Contest) -> TextTable:
    by_p = sorted(contest.pairs, key=lambda pair: math.inf if pair.p_value is None else pair.p_value)
    rows = [_pair_cells(contest, pair) for pair in by_p[:MAX_PAIRS]]
    more = f"; the {MAX_PAIRS} of the smallest p, --json has all" if len(by_p) > MAX_PAIRS else ""
    how = _CORRECTED[contest.correction].format(num=len(contest.pairs))
    return TextTable(
        columns=["pair", "difference", "95 %", "p", "verdict", "detects"],
        rows=rows,
        numbers=("difference", "95 %", "p", "detects"),
        prose=("pair",),
        caption=(
            f"p {how}; 95 % intervals of each pair alone; detects: what one such pair finds with 80 % power at "
            f"5 %{more}"
        ),
    )


def _pair_cells(contest: Contest, pair: Pair) -> list[str]:
    where = f" ({pair.block})" if pair.block else ""
    verdict = "differ" if pair.is_different else "equal" if pair.is_equal else "open"
    both = "differ, equal" if pair.is_different and pair.is_equal else verdict
    known = pair.low is not None and pair.high is not None
    return [
        f"{level_text(pair.first)} - {level_text(pair.second)}{where}",
        _number(pair.difference, contest, signed=True),
        f"{_number(pair.low, contest)} to {_number(pair.high, contest)}" if known else "-",
        "-" if pair.p_corrected is None else _p(pair.p_corrected),
        both,
        _number(pair.detectable, contest),
    ]


def _ahead(contest: Contest) -> str:
    """Which level is better than most, where one is better than any."""
    wins: dict[str, int] = {}
    for pair in contest.pairs:
        if pair.is_different:
            wins[level_text(pair.first)] = wins.get(level_text(pair.first), 0) + 1
    if not wins or contest.higher_is_better is None:
        return ""
    best = max(wins, key=lambda name: wins[name])
    return f"; {best} is better than {wins[best]}"


def _design(contest: Contest) -> str:
    found = sorted(pair.detectable for pair in contest.pairs if pair.detectable is not None)
    all_pairs = sorted(p.detectable_corrected for p in contest.pairs if p.detectable_corrected is not None)
    if not found:
        return "nothing says what this design detects"
    middle = f"{_number(found[len(found) // 2], contest)} {contest.unit}".rstrip()
    corrected = "" if contest.correction is Correction.none else ", among all pairs "
    corrected += "" if not corrected else _number(all_pairs[len(all_pairs) // 2], contest)
    return f"this design detects {middle} in one pair{corrected}"


def _name(standing: Standing) -> str:
    return level_text(standing.level) + (f" ({standing.block})" if standing.block else "")


def _number(value: float | None, contest: Contest, signed: bool = False) -> str:
    """With one digit where values are points, else as many as tell small differences apart."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = 1 if contest.unit == POINTS else 4
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.2g}"

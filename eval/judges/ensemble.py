"""Combines several judges of one tournament: their agreement, and a majority that `python -m eval rate` rates.

    summary = combine(Path("t"), ["gpt-4o", "claude-sonnet-4-5"], Mode.pairwise)

Each judge's verdicts stay as they are (verdicts.csv, grades.csv). ensemble.csv has one row for each judge, question and
pair of systems, with the judge as `rater`: `rate` gives the item to the system that more than half of the judges
prefer, else calls it a tie. A judge that prefers one system in one order and the other one in the other order has no
preference there: a tie. Of grades, the higher one wins; the mean over judges is reported too. Agreement is that of
raters (`eval.ratings.agreement`): Fleiss' kappa and Krippendorff's alpha over items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.judging.grades import Item, graded_verdicts, mean_grades
from eval.judging.matches import Judgment
from eval.judging.options import Grade
from eval.judging.prompts import Mode
from eval.judging.store import VERDICT_COLUMNS, JudgmentStore
from eval.ratings.agreement import Level, rater_agreement
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from eval.verdicts.files import ENSEMBLE_FILE
from eval.verdicts.table import load_verdicts
from harness.files.atomic import csv_text, write_atomically

ENSEMBLE = "ensemble"  # the judge of its rows
RESAMPLES = 1000
POINTS = {FIRST: 1.0, SECOND: -1.0, TIE: 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSummary:
    """What several judges say together."""

    judges: tuple[str, ...]
    num_items: int  # questions with a pair of systems that at least one judge decided
    agreement: dict[str, Level]  # over all items, and those that no judge calls a tie; empty where none was shared
    grades: tuple[Grade, ...]  # means over judges, the best system first; only where answers are graded
    output: Path  # ensemble.csv, for `rate`


def combine(
    folder: Path, judges: Sequence[str], mode: Mode, seed: int = 0, benchmark: str | None = None
) -> EnsembleSummary:
    """Writes ensemble.csv and measures agreement.

    Args:
        folder: of the tournament that all of them judged.
        judges: their names, each once.
        mode: pairwise or single.
        seed: of the resamples for the agreement's intervals.
        benchmark: the set of questions, where the tournament has several.
    """
    with JudgmentStore(folder) as store:
        judgments = {name: [j for _, j in store.judgments(name, mode.value, benchmark)] for name in judges}
    found = {name: (graded_verdicts if mode is Mode.single else _by_preference)(js) for name, js in judgments.items()}
    rows = [
        (*item, verdict, ENSEMBLE, name)
        for name, verdicts in found.items()
        for item, verdict in sorted(verdicts.items())
    ]
    path = folder / ENSEMBLE_FILE
    write_atomically(path, csv_text((*VERDICT_COLUMNS, "rater"), rows))
    rng = np.random.default_rng(seed)
    return EnsembleSummary(
        judges=tuple(judges),
        num_items=len({item for verdicts in found.values() for item in verdicts}),
        agreement=rater_agreement(load_verdicts([path], may_be_empty=True), RESAMPLES, rng) if rows else {},
        grades=mean_grades([j for js in judgments.values() for j in js]) if mode is Mode.single else (),
        output=path,
    )


def _by_preference(judgments: Iterable[Judgment]) -> dict[Item, int]:
    """Each item's verdict for its first system by name, from one order or both."""
    sums: dict[Item, float] = {}
    for j in judgments:
        if j.verdict != UNPARSED:
            one, two = sorted((j.system_a, j.system_b))
            sign = 1.0 if one == j.system_a else -1.0
            sums[j.question_id, one, two] = sums.get((j.question_id, one, two), 0.0) + sign * POINTS[j.verdict]
    return {item: TIE if points == 0 else FIRST if points > 0 else SECOND for item, points in sums.items()}

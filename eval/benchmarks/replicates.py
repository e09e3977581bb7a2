"""Differences of two means over runs (seeds) and questions: their error, its sources, and what a design can detect.

Every system has runs that answer the same questions: value = mean + run + question + rest. Runs are replicates, each
with a seed of its own; questions are shared, so that a difference is paired over them. The variance of a difference
has these parts:

    of runs        variance between a system's own runs / number of runs, of both systems
    of questions   variance of the questions' mean differences / number of questions, less what is the runs' rest

Few seeds tell little of their spread, so that it is taken from all systems together, unless one system's is larger than
the others' at the 1 % level (Cochran's C test of 1941, as an F test of each with Bonferroni's correction, 't Lam 2010);
then each system's is its own. What seeds have in common (one order of examples for all
methods) makes the error smaller than is said here, never larger.

A part with few degrees of freedom asks for Student's t. Of several parts with shares w of the variance they are
1 / sum(w^1.25 / freedom). Satterthwaite's (1946) exponent is 2, which at 2 to 4 degrees of freedom errs in 6 to 8 % of
cases where 5 % are stated; 1.25 errs in 4.2 to 5.5 % from three degrees of freedom up, at any shares
(`python -m benchmarks.compare_simulation`). Only where all depends on two runs of one pair (2 degrees) it is 4.2 to
6.3 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, nctdtrinc, stdtr, stdtrit

from eval.ratings.comparisons import LEVEL, flip_p

Array = NDArray[np.float64]
POWER = 0.8
UNEQUAL_LEVEL = 0.01  # of the test that one system's spread between runs is larger
_EXPONENT = 1.25
_NORMAL = 1e9  # degrees of freedom beyond which Student's t is normal to all digits that matter
_ROUNDING = 1e-12  # of the largest value: errors below are rounding
ONE_RUN = "one run each: the interval is over questions, not over seeds"
BORROWED = "one run: the spread between its seeds is taken from the others"
NO_SPREAD = "all values are equal: nothing to measure an error by"
NOTHING_MEASURES = "one run each with one value: no interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of chance in a difference."""

    variance: float
    freedom: float  # degrees of freedom of its estimate; infinite where it is known or assumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of two means, or a mean. Without `sources` nothing measures its error, and `note` says why."""

    value: float
    sources: tuple[Source, ...]
    note: str = ""

    @property
    def error(self) -> float | None:
        """The standard error."""
        return math.sqrt(_total(self.sources)) if self.sources else None

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error."""
        return freedom_of(self.sources)

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The interval of confidence 1 - level; None where nothing measures an error."""
        if self.error is None:
            return None
        half = self.error * _quantile(self.freedom, 1.0 - level / 2.0)
        return self.value - half, self.value + half

    def p_two_sided(self) -> float | None:
        """The p of the hypothesis that it is 0."""
        return None if self.error is None else min(1.0, 2.0 * _below(self.freedom, -abs(self.value) / self.error))

    def p_equal(self, margin: float) -> float | None:
        """The p of the hypothesis that it is as large as the margin: two one-sided tests (Schuirmann 1987)."""
        if self.error is None:
            return None
        return _below(self.freedom, -(margin - abs(self.value)) / self.error)

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float | None:
        """The true difference that such a design finds with this power, at this two-sided level."""
        return None if self.error is None else detectable(self.error, self.freedom, level, power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreads:
    """How far runs and questions of several systems move their means."""

    tables: tuple[Array, ...]  # (num_runs, num_questions) of each system; the questions are the same
    by_question: tuple[Array, ...]  # (num_questions,) mean over the runs of each system
    rests: tuple[float, ...]  # what is neither run nor question, in the variance of a value of `by_question`
    of_runs: tuple[Source | None, ...]  # of the mean of a single run of each system; None: nothing measures it
    are_pooled: bool  # whether the systems share one spread between runs
    unequal_p: float | None  # of Cochran's test; None where there are too few runs for it

    @classmethod
    def of(cls, tables: Sequence[Array]) -> "Spreads":
        """Measures the spreads.

        Args:
            tables: of each system, (num_runs, num_questions) without holes.

        Raises:
            ValueError: a table with a hole, or tables of different questions.
        """
        if len({table.shape[1:] for table in tables}) > 1 or any(table.ndim != 2 or not table.size for table in tables):
            raise ValueError(
                f"tables of shapes {[table.shape for table in tables]}: expected runs x the same questions"
            )
        if not all(np.isfinite(table).all() for table in tables):
            raise ValueError("a table has a hole: leave out questions that some run lacks")
        own = [_between_runs(table) for table in tables]
        rests = tuple(map(_rest, tables))
        unequal_p = _cochran(own, _least_spread(tables, rests))
        are_pooled = unequal_p is None or unequal_p >= UNEQUAL_LEVEL
        pooled = _pooled(own)
        return cls(
            tables=tuple(tables),
            by_question=tuple(table.mean(axis=0) for table in tables),
            rests=rests,
            of_runs=tuple([pooled] * len(own) if are_pooled else own),
            are_pooled=are_pooled,
            unequal_p=unequal_p,
        )

    def difference(self, one: int, other: int) -> Difference:
        """The mean of one system less that of another one."""
        apart = self.by_question[one] - self.by_question[other]
        sources = [*self._runs([one, other]), *_questions(apart, self.rests[one] + self.rests[other])]
        found = self._checked(float(apart.mean()), sources, (one, other))
        return _as_wide_as_exact(found, self.tables[one], self.tables[other])

    def mean(self, system: int) -> Difference:
        """The mean of one system."""
        values = self.by_question[system]
        sources = [*self._runs([system]), *_questions(values, self.rests[system])]
        return self._checked(float(values.mean()), sources, (system,))

    def _runs(self, systems: Sequence[int]) -> list[Source]:
        """The runs' part of a difference; parts of one pooled estimate are one."""
        counts = [len(self.tables[system]) for system in systems]
        spreads = [self.of_runs[system] for system in systems]
        if self.are_pooled:
            pooled = spreads[0]
            return [] if pooled is None else [_scaled(pooled, sum(1 / count for count in counts))]
        return [_scaled(found, 1 / count) for found, count in zip(spreads, counts, strict=True) if found is not None]

    def _checked(self, value: float, sources: Sequence[Source], systems: Sequence[int]) -> Difference:
        scale = max(float(np.abs(self.by_question[system]).max()) for system in systems)
        if not sources:
            return Difference(value=value, sources=(), note=NOTHING_MEASURES)
        if _total(sources) <= (_ROUNDING * scale) ** 2:
            return Difference(value=value, sources=(), note=NO_SPREAD)
        kept = tuple(source for source in sources if source.variance > 0.0)
        return Difference(value=value, sources=kept, note=self._note(systems))

    def _note(self, systems: Sequence[int]) -> str:
        if all(len(self.tables[system]) > 1 for system in systems):
            return ""
        is_measured = self.are_pooled and self.of_runs[0] is not None
        return BORROWED if is_measured else ONE_RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The variances that a design is planned by, in the square of the measure's unit."""

    run: float  # between the runs of a system, of all questions
    question: float  # of a system's own way with a question: half of the variance of two systems' true differences
    rest: float  # of a single run's value on a single question

    @classmethod
    def of(cls, tables: Sequence[Array]) -> "Components | None":
        """Measures them. None: no system has two runs.

        Args:
            tables: of two or more systems, (num_runs, num_questions) of the same questions, without holes; of a single
                one the questions' part is unknown, and said to be as large as the rest.
        """
        spread = _pooled([_between_runs(table) for table in tables])
        if spread is None:
            return None
        repeated = [table for table in tables if len(table) > 1]
        num_questions = tables[0].shape[1]
        rest = float(np.mean([_rest(table) * len(table) for table in repeated]))
        if len(tables) < 2 or num_questions < 2:
            question = rest
        else:
            lacking = [rest / len(table) for table in tables]
            own = np.array([table.mean(axis=0) - table.mean() for table in tables])
            apart = own - own.mean(axis=0)  # of each system from all of them
            total = float((apart**2).sum()) / ((len(tables) - 1) * (num_questions - 1))
            question = max(0.0, total - float(np.mean(lacking)))
        return cls(run=max(0.0, spread.variance - rest / num_questions), question=question, rest=rest)

    def sources(self, num_seeds: int, num_questions: int, num_systems: int) -> tuple[Source, ...]:
        """What a design gives the difference of two systems.

        Args:
            num_seeds: of each system; of a single one the spread between runs is left out, as it can't be measured.
            num_questions: that are compared; 1 for a measure of a single number a run.
            num_systems: which share one spread between runs.
        """
        of_runs = 2.0 * (self.run + self.rest / num_questions) / num_seeds
        of_questions = 2.0 * self.question / num_questions
        if num_seeds < 2:
            whole = of_questions + 2.0 * self.rest / num_questions
            return (Source(variance=whole, freedom=num_questions - 1),) if num_questions > 1 else ()
        found = [Source(variance=of_runs, freedom=num_systems * (num_seeds - 1))]
        if num_questions > 1:
            found.append(Source(variance=of_questions, freedom=num_questions - 1))
        return tuple(source for source in found if source.variance > 0.0)


def freedom_of(sources: Sequence[Source]) -> float:
    """Degrees of freedom of a sum of variances; see the module's text."""
    total = _total(sources)
    if total <= 0.0:
        return math.inf
    inverse = math.fsum((source.variance / total) ** _EXPONENT / source.freedom for source in sources)
    return 1.0 / inverse if inverse > 0 else math.inf


def detectable_by(sources: Sequence[Source], level: float = LEVEL, power: float = POWER) -> float | None:
    """The true difference that a design finds; None where nothing would measure its error."""
    return detectable(math.sqrt(_total(sources)), freedom_of(sources), level, power) if sources else None


def detectable(error: float, freedom: float, level: float = LEVEL, power: float = POWER) -> float:
    """The true difference that a two-sided test of this level finds with this power.

    Args:
        error: the standard error of the difference.
        freedom: its degrees of freedom.
        level: of the test.
        power: the chance to find it.
    """
    critical = _quantile(freedom, 1.0 - level / 2.0)
    return error * float(nctdtrinc(min(freedom, _NORMAL), 1.0 - power, critical))


def _between_runs(table: Array) -> Source | None:
    if len(table) < 2:
        return None
    return Source(variance=float(table.mean(axis=1).var(ddof=1)), freedom=len(table) - 1)


def _pooled(own: Sequence[Source | None]) -> Source | None:
    known = [source for source in own if source is not None]
    if not known:
        return None
    freedom = math.fsum(source.freedom for source in known)
    return Source(variance=math.fsum(s.variance * s.freedom for s in known) / freedom, freedom=freedom)


def _cochran(own: Sequence[Source | None], least: float) -> float | None:
    """The p of the hypothesis that no spread is larger than the others.

    Args:
        own: the spread between each system's runs.
        least: what the others' is at least, as scores in whole questions are equal by chance.
    """
    known = [source for source in own if source is not None]
    if len(known) < 2:
        return None
    p_values: list[float] = [1.0]
    for place, source in enumerate(known):
        others = _pooled([*known[:place], *known[place + 1 :]])
        assert others is not None
        beside = max(others.variance, least)
        if source.variance > beside:
            ratio = source.variance / beside if beside > 0 else math.inf
            p_values.append(len(known) * float(fdtrc(source.freedom, others.freedom, ratio)))
    return min(p_values)


def _least_spread(tables: Sequence[Array], rests: Sequence[float]) -> float:
    """What the rest alone gives the variance of a run's mean."""
    of_runs = [rest * len(table) / table.shape[1] for table, rest in zip(tables, rests, strict=True)]
    return math.fsum(of_runs) / len(of_runs)


def _rest(table: Array) -> float:
    """What is neither run nor question, in the variance of a question's mean over a system's runs."""
    num_runs, num_questions = table.shape
    if num_runs < 2 or num_questions < 2:
        return 0.0
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return float((rest**2).sum() / ((num_runs - 1) * (num_questions - 1) * num_runs))


def _questions(apart: Array, rest: float) -> list[Source]:
    """The questions' part. What is `rest` is in the spread between runs, too, and counts once."""
    if len(apart) < 2:
        return []
    variance = max(float(apart.var(ddof=1)) - rest, 0.0) / len(apart)
    return [Source(variance=variance, freedom=len(apart) - 1)]


def _as_wide_as_exact(found: Difference, mine: Array, theirs: Array) -> Difference:
    """Of one run each with whole numbers as wide as the exact sign-flip test over questions (McNemar's) asks."""
    apart = mine[0] - theirs[0]
    if len(mine) > 1 or len(theirs) > 1 or found.note != ONE_RUN or (apart % 1).any():
        return found
    exact, p_value = flip_p(apart.astype(np.int64)), found.p_two_sided()
    if p_value is None or exact <= p_value or exact >= 0.999:
        return found
    error = found.value / float(stdtrit(len(apart) - 1, exact / 2.0))
    return Difference(value=found.value, sources=(Source(variance=error**2, freedom=len(apart) - 1),), note=found.note)


def _scaled(source: Source, factor: float) -> Source:
    return Source(variance=source.variance * factor, freedom=source.freedom)


def _total(sources: Sequence[Source]) -> float:
    return math.fsum(source.variance for source in sources)


def _quantile(freedom: float, share: float) -> float:
    return float(stdtrit(min(freedom, _NORMAL), share))


def _below(freedom: float, value: float) -> float:
    return float(stdtr(min(freedom, _NORMAL), value))

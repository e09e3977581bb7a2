"""All figures of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.content import Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    svg: str
    csv: str


def all_figures(content: Content) -> Sequence[Figure]:
    return ()

"""What the notebooks of analysis/notebooks/ share: where their records lie, and a figure that a cell can show.

from analysis.notebook import Picture, place
here = place()                                # the demo's, or what HARNESS_RUNS, HARNESS_SWEEP ... say
runs(**here.records)
Picture(intervals(rows, "points"))            # as the last line of a cell
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis.report.plots.drawing import STYLE, Drawing

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a notebook finds what it shows."""

    runs_folder: Path  # HARNESS_RUNS, else runs/ of this checkout
    sweep: str  # HARNESS_SWEEP, else demo
    tournament: Path  # HARNESS_TOURNAMENT, else tournaments/<sweep> of this checkout
    data: Path  # HARNESS_DATA_STORE, else data/ of this checkout: released judgments

    @property
    def records(self) -> dict[str, Any]:
        """What the functions of `analysis.frames` are told."""
        return {"runs_folder": self.runs_folder, "sweep": self.sweep}


def place() -> Place:
    """The place that the environment names; what it doesn't name is the demo's, in this checkout."""
    sweep = os.environ.get("HARNESS_SWEEP", DEMO)
    return Place(
        runs_folder=Path(os.environ.get("HARNESS_RUNS", ROOT / "runs")),
        sweep=sweep,
        tournament=Path(os.environ.get("HARNESS_TOURNAMENT", ROOT / "tournaments" / sweep)),
        data=Path(os.environ.get("HARNESS_DATA_STORE", ROOT / "data")),
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing that Jupyter shows."""

    drawing: Drawing

    def _repr_svg_(self) -> str:
        style = Markup(f"<style>{STYLE}</style>")
        return str(self.drawing.svg('xmlns="http://www.w3.org/2000/svg" width="720"', style))

"""What the user of a comparison chooses before looking. The command reads these before anything heavy is imported."""

from dataclasses import dataclass
from enum import Enum

POINTS = "points"  # of a hundred: what shares are shown in


class Correction(Enum):
    """How p is corrected for the number of pairs."""

    holm = "holm"  # the chance that any pair without a difference is called different
    bh = "bh"  # the share of such pairs among those that are called different
    none = "none"


class SelectOn(Enum):
    """By what the best setting is chosen."""

    auto = "auto"  # the held-out loss where all runs have one, else half of the questions
    eval_loss = "eval_loss"
    questions = "questions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose before looking."""

    margin: float | None = None  # in the measure's own unit; None: equality isn't tested
    correction: Correction = Correction.holm
    select_on: SelectOn = SelectOn.auto

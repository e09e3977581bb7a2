"""Reads the ratings of a tournament, or makes them of its verdicts where nobody did."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from typing_extensions import TypedDict

from eval.judging.store import judged_file
from eval.ratings.rate import RateOptions, RatingsResult, rate_files
from harness.files.typed import fit, read_typed

RATINGS_FILE = "ratings.json"
KINDS = {"bradley_terry": "rating", "davidson": "rating", "elo": "mean"}  # kind of rating -> key of its value


class RatingsSettings(TypedDict, total=False):
    """What pages tell of how ratings were made."""

    k: float
    start: float
    orderings: int
    sample_size: int | None
    resamples: int


def read_ratings(path: Path) -> dict[str, Any] | None:
    """A file of `python -m eval rate`; one of an earlier version may lack some of its parts. None: there is no file.

    Raises:
        ValueError: it can't be read.
    """
    if not path.is_file():
        return None
    remedy = "rate the verdicts again"
    values = read_typed(path, dict[str, Any], remedy)
    for name, shape in {**get_type_hints(RatingsResult), "settings": RatingsSettings}.items():
        if name in values:
            fit(values[name], shape, f"{path}: {name}", remedy)
    return values


def rating_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each system and kind of rating; systems that met nobody too.

    Raises:
        ValueError: neither ratings nor verdicts can be read.
    """
    values = read_ratings(folder / RATINGS_FILE) or rate_files([judged_file(folder)], RateOptions()).to_json()
    ranks = values.get("ranks", {})
    for kind, key in KINDS.items():
        for system, found in values.get(kind, {}).items():
            place = ranks.get(system, {})
            yield {
                "system": system,
                "rating": kind,
                **{"value": found[key], "low": found["low"], "high": found["high"]},
                "rank": place.get("rank"),
                "rank_low": place.get("low"),
                "rank_high": place.get("high"),
                "best_probability": place.get("best"),
                "reason": None,
            }
    for system in values.get("unrated", []):
        yield {"system": system, "reason": "met nobody: none of its verdicts is parsed"}

"""Rates a tournament that has verdicts and no ratings, as `python -m eval rate` does without options."""

from collections.abc import Sequence
from pathlib import Path

from analysis.leaderboard.found import RATINGS_FILE
from analysis.leaderboard.options import RATE
from analysis.leaderboard.plan import rate_command
from eval.judging.store import judged_file
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.table import load_verdicts
from harness.files.atomic import write_json
from harness.runs.steps import StepRecord, digests, keep_step, shell_line


def rate_missing(tournament: Path, verdicts: Sequence[Path], out: Path) -> str | None:
    """Writes ratings.json where it is missing.

    Args:
        tournament: its folder.
        verdicts: files of verdicts beside the tournament's own.
        out: the site's folder; it and the tournament keep a record of the command.

    Returns:
        A sentence on what was done; None where nothing was.

    Raises:
        ValueError: the verdicts can't be read.
    """
    ratings, own = tournament / RATINGS_FILE, judged_file(tournament)
    files = [*([own] if own.is_file() else []), *verdicts]
    if ratings.is_file() or not files or not len(load_verdicts(files, may_be_empty=True)):
        return None
    write_json(ratings, rate_files(files, RateOptions()).to_json())
    command = list(rate_command(files, ratings))
    record = StepRecord(key=RATE, command=command, is_done=True, inputs=digests(files), outputs=digests([ratings]))
    keep_step(record, tournament, out)
    return f"rated now, as no {ratings} was there: {shell_line(command)}"

"""Writes the report of a sweep: one page, `<out>/index.html`, and the leaderboard as data.

    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo

The page is one file: styles and script are in it, nothing is loaded from anywhere, a content security policy
refuses what model text might try, and it reads without JavaScript. The same records give the same bytes.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.answers import answers_view
from analysis.report.figures import CURVE_HEIGHT, CURVE_WIDTH, curve_y
from analysis.report.formats import FILTERS
from analysis.report.judging import bias_view, judge_view
from analysis.report.leaderboard import LeaderboardRow, leaderboard_rows, write_leaderboard, write_scores
from analysis.report.matches import pair_tallies
from analysis.report.records import Run, Tournament
from analysis.report.sections import (
    curves_view,
    leaderboard_view,
    matrix_view,
    run_settings,
    scores_views,
    separation_view,
    shared_packages,
)
from eval.ratings.comparisons import probability
from eval.verdicts.codes import NULL_SYSTEM
from harness.files.atomic import write_atomically
from harness.ledger.finished import SweepRuns

PAGE = "index.html"
MAX_QUESTIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a report is called and how much it shows."""

    title: str  # the sweep's name
    bench: str | None = None  # which answers are shown; None: those that were judged
    max_questions: int = MAX_QUESTIONS
    commands: tuple[str, ...] = ()  # how to make the same again, in order


def write_report(
    out: Path,
    sweep: SweepRuns,
    runs: Sequence[Run],
    tournament: Tournament | None,
    options: ReportOptions,
) -> list[LeaderboardRow]:
    """Writes index.html, leaderboard.csv, leaderboard.json and scores.csv into `out`. -> the leaderboard.

    Raises:
        ValueError: the records can't be told apart or `options.bench` has no answers.
    """
    rows = leaderboard_rows(runs, tournament)
    page = render_page(report_context(rows, sweep, runs, tournament, options))
    write_leaderboard(out, rows)
    write_scores(out, runs)
    write_atomically(out / PAGE, page.encode("utf-8", "replace"))
    return rows


def report_context(
    rows: Sequence[LeaderboardRow],
    sweep: SweepRuns,
    runs: Sequence[Run],
    tournament: Tournament | None,
    options: ReportOptions,
) -> dict[str, Any]:
    """The values that the templates print."""
    order = [row.system for row in rows]
    ratings = (tournament.ratings if tournament else None) or {}
    people = ratings.get("people") or {}
    place = {name: index for index, name in enumerate(order)}
    ordered = sorted(runs, key=lambda run: place[run.record.label])
    hub_ids = {
        key: str(run.setting("model", "hub_id"))
        for run in runs
        for key in (str(run.setting("model", "name")), run.record.base_fingerprint)
    }
    verdicts = tournament.verdicts if tournament else ()
    return {
        "title": options.title,
        "sweep": sweep,
        "runs": ordered,
        "tournament": tournament,
        "ratings": ratings,
        "people": people,
        "verdict": [*ratings.get("verdict", ()), *people.get("verdict", ())],
        "num_prompts": len({verdict.question_id for verdict in verdicts}),
        "judges": [judge_view(judge, hub_ids) for judge in (tournament.judges if tournament else ())],
        "bias": bias_view(ratings),
        "leaderboard": leaderboard_view(rows, runs),
        "matrix": matrix_view(pair_tallies(tournament), order) if tournament else None,
        "separated": separation_view(ratings, order),
        "scores": scores_views(ordered),
        "curves": curves_view(ordered),
        "answers": answers_view(runs, order, tournament, options.bench, options.max_questions),
        "packages": shared_packages(runs),
        "commands": [*([sweep.command] if sweep.command else []), *options.commands],
        "latest": max((run.record.finished for run in runs), default=None),
    }


def render_page(context: dict[str, Any]) -> str:
    """The page as HTML. Every value is escaped; a name that the templates lack is an error, not a blank."""
    environment = Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(
        run_settings=run_settings,
        control_system=NULL_SYSTEM,
        probability=probability,
        curve_y=curve_y,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
    )
    script = _source(environment, "page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        **context,
        style=Markup(_source(environment, "page.css")),  # our own files, not anybody's text
        script=Markup(script),
        script_sha256=digest,
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()

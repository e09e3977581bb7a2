"""Writes the report of a sweep: `<out>/index.html`, the leaderboard as data, and figures for a paper.

    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo

A small report is one file: styles, script and data are in it, and it reads without JavaScript. One of more than
MAX_SYSTEMS systems, MAX_VERDICTS verdicts or MAX_TEXT characters of answers is a folder of pages
(`analysis.report.site.folder`), which load nothing from elsewhere either. A content security policy refuses what model
text might try. The same records give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.report.answers import answers_view
from analysis.report.content import Content, ReportOptions, gather
from analysis.report.judging import bias_view, judge_view
from analysis.report.leaderboard import LeaderboardRow, write_leaderboard, write_scores
from analysis.report.matches import pair_tallies
from analysis.report.plots.drawing import Figure
from analysis.report.plots.gallery import all_figures
from analysis.report.records import Run, Tournament
from analysis.report.render import inline_assets, render
from analysis.report.sections import (
    curves_view,
    leaderboard_view,
    matrix_view,
    race_view,
    scores_views,
    separation_view,
    shared_packages,
)
from analysis.report.site.data import failures_data, index_data, items_data
from analysis.report.site.files import SiteFiles
from analysis.report.site.folder import write_folder
from analysis.report.site.names import system_links
from analysis.report.site.script_data import json_in_page
from harness.ledger.finished import SweepRuns

PAGE = "index.html"
MAX_QUESTIONS = 100  # whose answers are on the one page
MAX_SYSTEMS = 16  # more than these, MAX_VERDICTS or MAX_TEXT: a folder of pages
MAX_VERDICTS = 4_000
MAX_TEXT = 1_000_000  # characters of answers


def write_report(
    out: Path,
    sweep: SweepRuns,
    runs: Sequence[Run],
    tournament: Tournament | None,
    options: ReportOptions,
) -> list[LeaderboardRow]:
    """Writes index.html, leaderboard.csv, leaderboard.json, scores.csv and figures/ into `out`. -> the leaderboard.

    Files that an earlier report left there, and this one doesn't have, are removed.

    Raises:
        ValueError: the records can't be told apart or `options.bench` has no answers.
    """
    content = gather(sweep, runs, tournament, options)
    files = SiteFiles(out)
    figures = all_figures(content)
    for figure in figures:
        if figure.drawing is None:
            continue
        files.write(f"figures/{figure.name}.svg", figure.svg)
        files.write(f"figures/{figure.name}.csv", figure.csv)
    context = report_context(content, figures)
    if fits_one_file(content):
        files.write(PAGE, _one_page(content, context))
    else:
        write_folder(files, content, context)
    files.finish()
    write_leaderboard(out, content.rows)
    write_scores(out, runs)
    return list(content.rows)


def fits_one_file(content: Content) -> bool:
    """Whether the report is small enough to be one page."""
    verdicts = content.tournament.verdicts if content.tournament else ()
    answers = content.answers.by_system.values() if content.answers else ()
    text = sum(len(answer.answer) for by_question in answers for answer in by_question.values())
    return len(content.rows) <= MAX_SYSTEMS and len(verdicts) <= MAX_VERDICTS and text <= MAX_TEXT


def report_context(content: Content, figures: Sequence[Figure] = ()) -> dict[str, Any]:
    """The values that the pages about the whole tournament print."""
    order, ratings, tournament = content.order, content.ratings, content.tournament
    people = ratings.get("people") or {}
    verdicts = tournament.verdicts if tournament else ()
    return {
        "title": content.options.title,
        "sweep": content.sweep,
        "runs": content.runs,
        "tournament": tournament,
        "ratings": ratings,
        "people": people,
        "verdict": [*ratings.get("verdict", ()), *people.get("verdict", ())] or _best_by_mmlu(content),
        "num_prompts": len({verdict.question_id for verdict in verdicts}),
        "judges": [judge_view(judge, _hub_ids(content.runs)) for judge in (tournament.judges if tournament else ())],
        "bias": bias_view(ratings),
        "leaderboard": leaderboard_view(content.rows, content.runs),
        "matrix": matrix_view(pair_tallies(tournament), order) if tournament else None,
        "separated": separation_view(ratings, order),
        "scores": scores_views(content.runs),
        "curves": curves_view(content.runs),
        "race": race_view(content.sweep.decisions),
        "packages": shared_packages(content.runs),
        "commands": [*([content.sweep.command] if content.sweep.command else []), *content.options.commands],
        "latest": max((run.record.finished for run in content.runs), default=None),
        "gallery": figures,
        "grid": content.grid,
        "is_folder": False,
        "root": "",
        "page_of": {},
        "link_of": system_links(order, {}),
    }


def _best_by_mmlu(content: Content) -> list[str]:
    """The sentence that a report opens with where nothing was judged; none where scores can't be compared."""
    judged = content.tournament is not None and content.tournament.verdicts
    settings = {run.mmlu.settings_sha256 for run in content.runs if run.mmlu}
    scored = [(row.mmlu_macro, row) for row in content.rows if row.mmlu_macro is not None]
    if judged or len(settings) != 1 or len(scored) < 2:
        return []
    value, best = max(scored, key=lambda pair: pair[0])
    equal = [row.system for score, row in scored if score == value]
    who = f"{best.system} has" if len(equal) == 1 else f"{best.system} and {len(equal) - 1} more have"
    bounds = (
        ""
        if best.mmlu_macro_low is None or best.mmlu_macro_high is None
        else (f", 95 % interval {100 * best.mmlu_macro_low:.1f} to {100 * best.mmlu_macro_high:.1f}")
    )
    return [f"{who} the highest MMLU of {len(scored)} systems ({100 * value:.1f} %{bounds})"]


def _one_page(content: Content, context: dict[str, Any]) -> str:
    most = content.options.max_questions or MAX_QUESTIONS
    answers = answers_view(content.answers, content.order, content.tournament, most)
    shown = content.asked(most)
    data = {
        "index": index_data(content, shown),
        "items": items_data(content, shown),
        "failures": failures_data(content, shown),
    }
    blocks = {name: json_in_page(value) for name, value in data.items()}
    return render("page.html.j2", **context, **inline_assets(), answers=answers, data=blocks)


def _hub_ids(runs: Sequence[Run]) -> dict[str, str]:
    """Model name or base fingerprint -> hub id."""
    return {
        key: str(run.setting("model", "hub_id"))
        for run in runs
        for key in (str(run.setting("model", "name")), run.record.base_fingerprint)
    }

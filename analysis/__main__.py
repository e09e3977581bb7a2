"""Builds the report of a sweep and its tournament, and the paper's tables from judgments.

    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo
    python -m analysis tables 1 --data data --out reports/tables
    python -m analysis data --data data

Under `--json`, standard output is JSON and nothing else.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from analysis.paper.fetch import fetch
from analysis.paper.tables import Reproduction, reproduce
from analysis.paper.text import to_csv, to_markdown, to_terminal
from analysis.report.content import ReportOptions
from analysis.report.leaderboard import leaderboard_table
from analysis.report.page import PAGE, write_report
from analysis.report.records import load_runs, load_tournament
from harness.commands import Json, new_app
from harness.config.paths import paths_of_environment
from harness.console import STDERR, STDOUT, refuse, say, show
from harness.files.atomic import to_json, write_atomically
from harness.ledger.finished import SweepRuns, left_out, sweep_runs
from harness.ledger.open import ledger_url as url_of

app = new_app(f"Tables and pages from records that exist; nothing is trained, judged or rated here.\n\n\b\n{__doc__}")

Data = Annotated[
    Path, typer.Option(help="Folder of judgments; default: the data store, else data/.", envvar="HARNESS_DATA_STORE")
]


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder for index.html, leaderboard.csv and leaderboard.json.")],
    sweep: Annotated[str | None, typer.Option(help="Report the finished runs of this sweep.")] = None,
    run_id: Annotated[list[str] | None, typer.Option(help="Report these runs instead; may be repeated.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.", envvar="HARNESS_RUNS")] = Path("runs"),
    ledger_url: Annotated[
        str | None,
        typer.Option(help="Job table; default: ledger.sqlite in the runs folder.", envvar="HARNESS_LEDGER_URL"),
    ] = None,
    tournament: Annotated[Path | None, typer.Option(help="Folder with verdicts.csv and ratings.json.")] = None,
    title: Annotated[str | None, typer.Option(help="What the page is called; default: the sweep's name.")] = None,
    bench: Annotated[str | None, typer.Option(help="Which answers are shown; default: those that were judged.")] = None,
    max_questions: Annotated[
        int | None, typer.Option(min=1, help="Questions whose answers are shown; default: 100 on one page, else all.")
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="Answers of systems that have no run; may be repeated.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The questions' file, for their categories.")] = None,
    command: Annotated[
        list[str] | None, typer.Option(help="A command to print under 'Make it again', in order; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Writes the site of a sweep (one page where it is small), its figures, and its leaderboard as CSV and JSON."""
    chosen = _chosen_runs(sweep, run_id, runs, ledger_url)
    options = ReportOptions(
        title=title or sweep or "Leaderboard",
        bench=bench,
        max_questions=max_questions,
        commands=tuple(command or ()),
        answers=tuple(answers or ()),
        questions=questions,
    )
    played = load_tournament(tournament, bench) if tournament else None
    rows = write_report(out, chosen, load_runs(runs, chosen.run_ids), played, options)
    show([dataclasses.asdict(row) for row in rows], leaderboard_table(rows), as_json)
    if not as_json:
        for sentence in ((played.ratings if played else None) or {}).get("verdict", ()):
            say(f"{sentence}.")
        say(f"page: {out / PAGE}")


@app.command()
def tables(
    table: Annotated[list[str], typer.Argument(help="The paper's tables to make: 1, 6, 7.")],
    data: Data = Path("data"),
    out: Annotated[Path, typer.Option(help="Folder for table1.csv, table1.md and so on.")] = Path("reports/tables"),
    resamples: Annotated[int, typer.Option(min=2, help="Of the prompts, for intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """The paper's Tables 1, 6 and 7 from judgments, ours beside the printed values."""
    problems: list[str] = []
    made: list[Reproduction] = []
    for name in dict.fromkeys(table):
        try:
            made.append(_write_table(name, data, out, resamples, shows=not as_json))
        except ValueError as error:
            problems.append(f"table {name}: {error}")
    if as_json:
        print(to_json(made, where="standard output", indent=2))
    if problems:
        refuse(problems)


def _write_table(name: str, data: Path, out: Path, resamples: int, shows: bool) -> Reproduction:
    """Makes one table, writes it as CSV and Markdown, and prints it where it `shows`."""
    reproduction = reproduce(name, data, out, resamples)
    csv_file, markdown_file = out / f"table{name}.csv", out / f"table{name}.md"
    write_atomically(csv_file, to_csv(reproduction))
    write_atomically(markdown_file, to_markdown(reproduction))
    if shows:
        STDOUT.print(to_terminal(reproduction))
        say(f"written: {csv_file}, {markdown_file}")
    return reproduction


@app.command("data")
def fetch_data(data: Data = Path("data")) -> None:
    """Fetches the judgments that the authors released, at a pinned commit, and checks them."""
    for name, words in fetch(data, say).items():
        say(f"{name}: {words}")


def _chosen_runs(sweep: str | None, run_ids: list[str] | None, runs: Path, ledger_url: str | None) -> SweepRuns:
    if run_ids:
        return SweepRuns(run_ids=tuple(run_ids))
    if sweep is None:
        raise ValueError("nothing to report: name a --sweep, or runs with --run-id")
    chosen = sweep_runs(sweep, ledger_url or url_of(paths_of_environment(runs)))
    if (line := left_out(sweep, chosen.unfinished)) is not None:
        say(f"note: {line}", STDERR)
    return chosen


if __name__ == "__main__":
    app(prog_name="python -m analysis")

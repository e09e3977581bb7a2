"""Builds the report of a sweep and its tournament, and the paper's tables from judgments. No torch.

    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo
    python -m analysis tables 1 --data data --out reports/tables
    python -m analysis data --data data

Under `--json`, standard output is JSON and nothing else.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from analysis.paper.fetch import fetch
from analysis.paper.tables import reproduce
from analysis.paper.text import to_csv, to_markdown, to_terminal
from analysis.report.leaderboard import leaderboard_table
from analysis.report.page import MAX_QUESTIONS, PAGE, ReportOptions, write_report
from analysis.report.records import SweepRuns, load_runs, load_tournament, sweep_runs
from harness.config.paths import paths_of_environment
from harness.files.atomic import to_json, write_atomically
from harness.ledger.open import ledger_url as url_of

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


Data = Annotated[
    Path, typer.Option(help="Folder of judgments; default: the data store, else data/.", envvar="HARNESS_DATA_STORE")
]
WIDTH = 160  # of tables that go into a file or a pipe


@app.callback()
def main() -> None:
    """Tables and pages from records that exist; nothing is trained, judged or rated here."""


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
    max_questions: Annotated[int, typer.Option(min=1, help="Questions whose answers are shown.")] = MAX_QUESTIONS,
    command: Annotated[
        list[str] | None, typer.Option(help="A command to print under 'Make it again', in order; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the leaderboard as JSON instead of a table.")] = False,
) -> None:
    """Writes one self-contained page about a sweep, and its leaderboard as CSV and JSON."""
    try:
        chosen = _chosen_runs(sweep, run_id, runs, ledger_url)
        options = ReportOptions(
            title=title or sweep or "Leaderboard",
            bench=bench,
            max_questions=max_questions,
            commands=tuple(command or ()),
        )
        played = load_tournament(tournament) if tournament else None
        rows = write_report(out, chosen, load_runs(runs, chosen.run_ids), played, options)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    if json:
        print(to_json([dataclasses.asdict(row) for row in rows], where="standard output", indent=2))
        return
    Console().print(leaderboard_table(rows))
    print(f"page: {out / PAGE}")


@app.command()
def tables(
    table: Annotated[list[str], typer.Argument(help="The paper's tables to make: 1, 6, 7.")],
    data: Data = Path("data"),
    out: Annotated[Path, typer.Option(help="Folder for table1.csv, table1.md and so on.")] = Path("reports/tables"),
    resamples: Annotated[int, typer.Option(min=2, help="Of the prompts, for intervals.")] = 1000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """The paper's Tables 1, 6 and 7 from judgments, ours beside the printed values."""
    failed = False
    made = []
    for name in dict.fromkeys(table):
        try:
            found = reproduce(name, data, out, resamples)
        except ValueError as error:
            print(f"table {name}: {error}", file=sys.stderr)
            failed = True
            continue
        made.append(found)
        write_atomically(out / f"table{name}.csv", to_csv(found))
        write_atomically(out / f"table{name}.md", to_markdown(found))
        if not json:
            Console(width=None if sys.stdout.isatty() else WIDTH).print(to_terminal(found))
            print(f"written: {out / f'table{name}.csv'}, {out / f'table{name}.md'}")
    if json:
        print(to_json(made, where="standard output", indent=2))
    if failed:
        raise typer.Exit(2)


@app.command("data")
def fetch_data(data: Data = Path("data")) -> None:
    """Fetches the judgments that the authors released, at a pinned commit, and checks them."""
    try:
        checked = fetch(data, print)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    for name, words in checked.items():
        print(f"{name}: {words}")


def _chosen_runs(sweep: str | None, run_ids: list[str] | None, runs: Path, ledger_url: str | None) -> SweepRuns:
    if run_ids:
        return SweepRuns(run_ids=tuple(run_ids))
    if sweep is None:
        raise ValueError("nothing to report: name a --sweep, or runs with --run-id")
    return sweep_runs(sweep, ledger_url or url_of(paths_of_environment(runs)))


if __name__ == "__main__":
    app(prog_name="python -m analysis")

"""Makes leaderboards, the report of a sweep and its tournament, and the paper's tables from judgments.

    python -m analysis leaderboard --sweep demo --out reports/demo
    python -m analysis watch --sweep demo
    python -m analysis report --sweep demo --runs runs --tournament runs/tournaments/demo --out reports/demo
    python -m analysis tables all --out reports/tables
    python -m analysis figures all --out reports/figures
    python -m analysis data --data data
    python -m analysis export --sweep demo --format lm-eval --out exports/demo

Under `--json`, standard output is JSON and nothing else.
"""

import dataclasses
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from analysis.exports.command import export
from analysis.leaderboard.options import (
    NO_JUDGE,
    REPORT,
    LeaderboardOptions,
    read_further,
    read_judges,
    scored_by_command,
)
from analysis.paper.command import add_tables
from eval.judging.flags import DEFAULT_JUDGE
from harness.commands import Json, new_app
from harness.config.paths import paths_of_environment
from harness.console import STDERR, say, show
from harness.devices.process import heavy_imports

if TYPE_CHECKING:
    from harness.ledger.finished import SweepRuns

app = new_app(f"From runs and answers to leaderboards and tables; nothing is trained here.\n\n\b\n{__doc__}")

app.command()(export)


class ListsOfFiles(TyperCommand):
    """A command some of whose options take several values at once, as `--answers a.jsonl b.jsonl` or `*.jsonl`."""

    several = ("--answers", "--verdicts", "--run", "--judge")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats such an option before each of its further values."""
        words: list[str] = []
        option = None
        for place, word in enumerate(args):
            if word.startswith("-") or option is None:
                option = word if word in self.several else None
            elif args[place - 1] != option:
                words.append(option)
            words.append(word)
        return super().parse_args(ctx, words)


@app.command(cls=ListsOfFiles)
def leaderboard(
    out: Annotated[Path, typer.Option(help="Folder of the site.")],
    sweep: Annotated[str | None, typer.Option(help="All finished runs of this sweep.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="Run ids.")] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers of other systems: ours, FastChat's or AlpacaEval's .jsonl; several at once."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="What is asked, .jsonl; default: the embedded prompts.")
    ] = None,
    max_questions: Annotated[int | None, typer.Option(min=1, help="The first so many questions.")] = None,
    verdicts: Annotated[
        list[Path] | None,
        typer.Option(help="Verdicts that exist, .csv; rated with the judge's. With them, nobody judges by default."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help=f"local:MODEL, replay:FILE.csv, an API model, or none; default: {DEFAULT_JUDGE}."),
    ] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Hard stop for paid calls, in US dollars.")] = None,
    benchmarks: Annotated[
        str, typer.Option(help=f"What runs are scored on too, with commas: {', '.join(scored_by_command())}.")
    ] = "",
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A command and options for it: generate, judge, rate, report or a benchmark, as `python -m eval "
            "COMMAND --help` lists them; may be repeated.",
        ),
    ] = None,
    tournament: Annotated[
        Path | None, typer.Option(help="Folder of judgments, verdicts and ratings; default: OUT/tournament.")
    ] = None,
    bench: Annotated[str, typer.Option(help="Name of the answers' file in each run folder.")] = "open",
    title: Annotated[str | None, typer.Option(help="What the site is called; default: the sweep's name.")] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the run folders; default: runs/.", envvar="HARNESS_RUNS")
    ] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Only say what is there and what would be made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Pay the judge without asking.")] = False,
    as_json: Json = False,
) -> None:
    """From runs and answers to a leaderboard site: makes what is missing, and leaves what is there.

    Finished runs answer, a judge compares every two systems on every question
    in both orders, the verdicts are rated, runs are scored, and the site is
    written; each by the command that does it alone (python -m eval generate,
    judge, rate, mmlu; python -m analysis report). Ended at any point, the same
    command goes on. Runs that are not done are left out and named. A judge
    that costs money is paid only after you agreed: you are asked, or say --yes,
    or, in a script, --budget-usd.

    \b
    A sweep, by the local judge, with MMLU:
      python -m analysis leaderboard --sweep demo --benchmarks mmlu \\
        --out reports/demo
    What would be done, and what it would cost:
      python -m analysis leaderboard --sweep demo --judge gpt-4.1 \\
        --out reports/demo --plan
    Beside other systems, for at most five dollars:
      python -m analysis leaderboard --sweep demo --answers gpt4.jsonl b.jsonl \\
        --questions vicuna80.jsonl --judge gpt-4.1 --budget-usd 5 --out reports/v
    Answer files alone, or verdicts alone:
      python -m analysis leaderboard --answers *.jsonl --questions mt.jsonl \\
        --judge gpt-4.1 --out reports/mt
      python -m analysis leaderboard --verdicts gpt4.csv --out reports/gpt4
    With options for the commands that it drives:
      python -m analysis leaderboard --sweep demo --benchmarks mmlu \\
        --with "generate --max-new-tokens 64" --with "judge --null-control" \\
        --with "mmlu --questions hub:test" --out reports/demo
    """
    with heavy_imports():
        from analysis.leaderboard.child import Stopped
        from analysis.leaderboard.command import Consent
        from analysis.leaderboard.command import leaderboard as make_leaderboard

    if judge is None:
        judge = [NO_JUDGE] if verdicts else [DEFAULT_JUDGE]
    options = LeaderboardOptions(
        out=out,
        tournament=tournament or out / "tournament",
        sweep=sweep,
        run_ids=tuple(run or ()),
        runs=runs,
        answers=tuple(answers or ()),
        questions=questions,
        verdicts=tuple(verdicts or ()),
        judges=read_judges(judge),
        budget_usd=budget_usd,
        benchmarks=tuple(dict.fromkeys(name.strip() for name in benchmarks.split(",") if name.strip())),
        max_questions=max_questions,
        bench=bench,
        title=title,
        further=read_further(further or ()),
    )
    is_asked = sys.stdin.isatty() and sys.stderr.isatty()
    consent = Consent(yes=yes, confirm=partial(typer.confirm, err=True) if is_asked else None)
    try:
        status = make_leaderboard(options, consent, only_plan, as_json)
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on", STDERR)
        raise typer.Exit(128 + stopped.number) from None
    if status:
        raise typer.Exit(status)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder for index.html, leaderboard.csv and leaderboard.json.")],
    sweep: Annotated[str | None, typer.Option(help="Report the finished runs of this sweep.")] = None,
    run_id: Annotated[
        list[str] | None, typer.Option("--run", "--run-id", help="Report this run too; may be repeated.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.", envvar="HARNESS_RUNS")] = Path("runs"),
    ledger_url: Annotated[
        str | None,
        typer.Option(help="Job table; default: ledger.sqlite in the runs folder.", envvar="HARNESS_LEDGER_URL"),
    ] = None,
    tournament: Annotated[
        Path | None, typer.Option(help="Folder with verdicts.csv; ratings.json is made where it is missing.")
    ] = None,
    verdicts: Annotated[
        list[Path] | None, typer.Option(help="A file of verdicts beside the tournament's own; may be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="What the page is called; default: the sweep's name.")] = None,
    bench: Annotated[str | None, typer.Option(help="Which answers are shown; default: those that were judged.")] = None,
    max_questions: Annotated[
        int | None, typer.Option(min=1, help="Questions whose answers are shown; default: 100 on one page, else all.")
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="Answers of systems that have no run; may be repeated.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The questions' file, for their categories.")] = None,
    as_json: Json = False,
) -> None:
    """Writes the site of a sweep (one page where it is small), its figures, and its leaderboard as CSV and JSON."""
    if not (sweep or run_id or tournament):
        raise ValueError("nothing to report: name a --sweep, runs with --run, or a --tournament")
    with heavy_imports():
        from analysis.leaderboard.rating import rate_missing
        from analysis.leaderboard.record import StepRecord, keep_step, load_steps, shown_commands, typed_command
        from analysis.report.content import ReportOptions
        from analysis.report.leaderboard import leaderboard_table
        from analysis.report.page import PAGE, write_report
        from analysis.report.records import load_runs, load_tournament

    chosen = _chosen_runs(sweep, run_id, runs, ledger_url)
    if tournament is not None and (rated := rate_missing(tournament, verdicts or (), out)) is not None:
        say(f"note: {rated}", STDERR)
    found = load_runs(runs, chosen.run_ids)
    played = load_tournament(tournament, bench, verdicts or ()) if tournament else None
    folders = [*([tournament] if tournament else []), out]
    if (own := typed_command(sys.argv, REPORT)) is not None:
        keep_step(StepRecord(key=REPORT, command=own, is_done=False), *folders)
    options = ReportOptions(
        title=title or sweep or "Leaderboard",
        bench=bench,
        max_questions=max_questions,
        commands=tuple(shown_commands(load_steps(*folders).values())),
        answers=tuple(answers or ()),
        questions=questions,
    )
    rows = write_report(out, chosen, found, played, options)
    show([dataclasses.asdict(row) for row in rows], leaderboard_table(rows), as_json)
    if not as_json:
        for sentence in ((played.ratings if played else None) or {}).get("verdict", ()):
            say(f"{sentence}.")
        say(f"page: {out / PAGE}")


@app.command()
def watch(
    sweep: Annotated[str, typer.Option(help="Whose runs are shown, as they are done.")],
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the run folders; default: runs/.", envvar="HARNESS_RUNS")
    ] = None,
    tournament: Annotated[Path | None, typer.Option(help="Folder with verdicts.csv and ratings.json.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any free one.")] = 8000,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the sweep.")] = 10.0,
) -> None:
    """Serves the site of a sweep on this machine while it runs; the page loads itself again. Ctrl-C ends it."""
    with heavy_imports():
        from analysis.leaderboard.watch import LOOPBACK, WatchOptions, serving

    options = WatchOptions(sweep=sweep, runs=runs, tournament=tournament, port=port, every_seconds=every)
    with serving(options, partial(say, console=STDERR)) as server:
        say(f"http://{LOOPBACK}:{server.server_port}/ shows {sweep}; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("ended", STDERR)


def _chosen_runs(sweep: str | None, run_ids: list[str] | None, runs: Path, ledger_url: str | None) -> "SweepRuns":
    """The finished runs of the sweep, and those that are named."""
    from harness.ledger.finished import SweepRuns, left_out, sweep_runs
    from harness.ledger.open import ledger_url as url_of

    named = tuple(run_ids or ())
    if sweep is None:
        return SweepRuns(run_ids=named)
    chosen = sweep_runs(sweep, ledger_url or url_of(paths_of_environment(runs)))
    if (line := left_out(sweep, chosen.unfinished)) is not None:
        say(f"note: {line}", STDERR)
    return dataclasses.replace(chosen, run_ids=tuple(dict.fromkeys((*chosen.run_ids, *named))))


add_tables(app)

if __name__ == "__main__":
    app(prog_name="python -m analysis")

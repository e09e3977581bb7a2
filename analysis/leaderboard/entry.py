"""The commands `python -m analysis leaderboard` and `watch`: their options, as typed.

`analysis.leaderboard.command` does the work; its imports wait until a command runs.
"""

import sys
import threading
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from analysis.leaderboard.options import (
    NO_JUDGE,
    LeaderboardOptions,
    read_further,
    read_judges,
    scored_by_command,
)
from eval.judging.flags import DEFAULT_JUDGE
from harness.commands import Json
from harness.console import STDERR, say
from harness.devices.process import heavy_imports

LEADERBOARD_HELP = """From runs and answers to a leaderboard site: makes what is missing, and leaves what is there.

Finished runs answer, a judge compares every two systems on every question
in both orders, the verdicts are rated, runs are scored, and the site is
written; each by the command that does it alone (python -m eval generate,
judge, rate, mmlu; python -m analysis report). Ended at any point, the same
command goes on. Runs that are not done, or that can't be read, are left out
and named. A judge that costs money is paid only after you agreed: you are
asked, or say --yes, or, in a script, --budget-usd.

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
Runs = Annotated[Path | None, typer.Option(help="Folder of the run folders; default: runs/.", envvar="HARNESS_RUNS")]
Answers = Annotated[
    list[Path] | None,
    typer.Option(help="Answers of other systems: ours, FastChat's or AlpacaEval's .jsonl; several at once."),
]
VerdictFiles = Annotated[
    list[Path] | None,
    typer.Option(help="Verdicts that exist, .csv; rated with the judge's. With them, nobody judges by default."),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(help=f"local:MODEL, replay:FILE.csv, an API model, or none; default: {DEFAULT_JUDGE}."),
]
Benchmarks = Annotated[
    str, typer.Option(help=f"What runs are scored on too, with commas: {', '.join(scored_by_command())}.")
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="A command and options for it: generate, judge, rate, report or a benchmark, as `python -m eval "
        "COMMAND --help` lists them; may be repeated.",
    ),
]
TournamentFolder = Annotated[
    Path | None, typer.Option(help="Folder of judgments, verdicts and ratings; default: OUT/tournament.")
]


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


def leaderboard(
    out: Annotated[Path, typer.Option(help="Folder of the site.")],
    sweep: Annotated[str | None, typer.Option(help="All finished runs of this sweep.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="Run ids.")] = None,
    answers: Answers = None,
    questions: Annotated[
        Path | None, typer.Option(help="What is asked, .jsonl; default: the embedded prompts.")
    ] = None,
    max_questions: Annotated[int | None, typer.Option(min=1, help="The first so many questions.")] = None,
    verdicts: VerdictFiles = None,
    judge: Judges = None,
    budget_usd: Annotated[float | None, typer.Option(help="Hard stop for paid calls, in US dollars.")] = None,
    benchmarks: Benchmarks = "",
    further: Further = None,
    tournament: TournamentFolder = None,
    bench: Annotated[str, typer.Option(help="Name of the answers' file in each run folder.")] = "open",
    title: Annotated[str | None, typer.Option(help="What the site is called; default: the sweep's name.")] = None,
    runs: Runs = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Only say what is there and what would be made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Pay the judge without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Makes a leaderboard; its help is LEADERBOARD_HELP."""
    options = LeaderboardOptions(
        out=out,
        tournament=tournament or out / "tournament",
        sweep=sweep,
        run_ids=tuple(run or ()),
        runs=runs,
        answers=tuple(answers or ()),
        questions=questions,
        verdicts=tuple(verdicts or ()),
        judges=read_judges(judge or ([NO_JUDGE] if verdicts else [DEFAULT_JUDGE])),
        budget_usd=budget_usd,
        benchmarks=tuple(dict.fromkeys(name.strip() for name in benchmarks.split(",") if name.strip())),
        max_questions=max_questions,
        bench=bench,
        title=title,
        further=read_further(further or ()),
    )
    _make(options, yes, only_plan, as_json)


def _make(options: LeaderboardOptions, yes: bool, only_plan: bool, as_json: bool) -> None:
    """Makes the leaderboard, and ends with its exit status."""
    with heavy_imports():
        from analysis.leaderboard.child import Stopped
        from analysis.leaderboard.command import Consent
        from analysis.leaderboard.command import leaderboard as make_leaderboard

    is_asked = sys.stdin.isatty() and sys.stderr.isatty()
    consent = Consent(yes=yes, confirm=partial(typer.confirm, err=True) if is_asked else None)
    try:
        status = make_leaderboard(options, consent, only_plan, as_json)
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on", STDERR)
        raise typer.Exit(128 + stopped.number) from None
    if status:
        raise typer.Exit(status)


def watch(
    sweep: Annotated[str, typer.Option(help="Whose runs are shown, as they are done.")],
    runs: Runs = None,
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


def add_leaderboard(app: typer.Typer) -> None:
    """Adds both to the commands of `python -m analysis`."""
    app.command(cls=ListsOfFiles, help=LEADERBOARD_HELP)(leaderboard)
    app.command()(watch)

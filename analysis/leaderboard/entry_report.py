"""The command `python -m analysis report`: its options as typed, what is rated and recorded first, and its output.

`analysis.report.page` writes the site; imports wait until the command runs.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.options import LedgerUrl, RunsFolder
from analysis.places import require_file, require_folder
from harness.commands import Json
from harness.config.paths import paths_of_environment
from harness.console import STDERR, say, show
from harness.devices.process import heavy_imports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.report.records import Run, Tournament
    from harness.ledger.finished import SweepRuns

TournamentFolder = Annotated[
    Path | None, typer.Option(help="Folder with verdicts.csv; ratings.json is made where it is missing.")
]
MaxQuestions = Annotated[
    int | None, typer.Option(min=1, help="Questions whose answers are shown; default: 100 on one page, else all.")
]


def report(
    out: Annotated[Path, typer.Option(help="Folder for index.html, leaderboard.csv and leaderboard.json.")],
    sweep: Annotated[str | None, typer.Option(help="Report the finished runs of this sweep.")] = None,
    run_id: Annotated[
        list[str] | None, typer.Option("--run", "--run-id", help="Report this run too; may be repeated.")
    ] = None,
    runs: RunsFolder = Path("runs"),
    ledger_url: LedgerUrl = None,
    tournament: TournamentFolder = None,
    verdicts: Annotated[
        list[Path] | None, typer.Option(help="A file of verdicts beside the tournament's own; may be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="What the page is called; default: the sweep's name.")] = None,
    bench: Annotated[str | None, typer.Option(help="Which answers are shown; default: those that were judged.")] = None,
    max_questions: MaxQuestions = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="Answers of systems that have no run; may be repeated.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The questions' file, for their categories.")] = None,
    as_json: Json = False,
) -> None:
    """Writes the site of a sweep (one page where it is small), its figures, and its leaderboard as CSV and JSON."""
    if not (sweep or run_id or tournament or answers):
        raise ValueError("nothing to report: name a --sweep, runs with --run, a --tournament, or files of --answers")
    _refuse_misplaced(out, tournament, verdicts, answers, questions)
    with heavy_imports():
        from analysis.leaderboard.rating import rate_missing
        from analysis.report.content import ReportOptions, unmatched_answers
        from analysis.report.leaderboard import leaderboard_table
        from analysis.report.page import PAGE, write_report
        from analysis.report.records import load_tournament

    chosen, found = _chosen_runs(sweep, run_id, runs, ledger_url)
    if tournament is not None and (rated := rate_missing(tournament, verdicts or (), out)) is not None:
        say(f"note: {rated}", STDERR)
    played = load_tournament(tournament, bench, verdicts or ()) if tournament else None
    if not (found or answers):
        _refuse_empty(played)
    options = ReportOptions(
        title=title or sweep or "Leaderboard",
        bench=bench,
        max_questions=max_questions,
        commands=tuple(_commands(out, tournament, found, answers or ())),
        answers=tuple(answers or ()),
        questions=questions,
    )
    for note in unmatched_answers(played, options) if played is not None and played.verdicts else ():
        say(f"note: {note}", STDERR)
    rows = write_report(out, chosen, found, played, options)
    show([dataclasses.asdict(row) for row in rows], leaderboard_table(rows), as_json)
    if not as_json:
        for sentence in ((played.ratings if played else None) or {}).get("verdict", ()):
            say(f"{sentence}.")
        say(f"page: {out / PAGE}")


def _refuse_empty(played: "Tournament | None") -> None:
    """Raises ValueError where a tournament, the only thing to report, holds nothing."""
    if played is not None and not (played.verdicts or played.ratings):
        raise ValueError(f"{played.folder}: holds no verdicts and no ratings; judge first, by `python -m eval judge`")


def _refuse_misplaced(
    out: Path,
    tournament: Path | None,
    verdicts: "Sequence[Path] | None",
    answers: "Sequence[Path] | None",
    questions: Path | None,
) -> None:
    """Raises ValueError for a folder that is a file, and a file that isn't there or is a folder."""
    require_folder(out, "--out")
    if tournament is not None:
        require_folder(tournament, "--tournament")
    for option, paths in (("--verdicts", verdicts), ("--answers", answers), ("--questions", [questions])):
        for path in paths or ():
            if path is not None:
                require_file(path, option)


def _commands(out: Path, tournament: Path | None, found: "Sequence[Run]", answers: "Sequence[Path]") -> list[str]:
    """Records this command, and gives all that are recorded of what the page shows, in order."""
    from analysis.leaderboard.options import REPORT
    from analysis.leaderboard.record import shown_commands, typed_command
    from harness.runs.steps import StepRecord, keep_step, load_steps

    folders = [*([tournament] if tournament else []), out]
    if (own := typed_command(sys.argv, REPORT)) is not None:
        keep_step(StepRecord(key=REPORT, command=own, is_done=False), *folders)
    others = (*(run.folder for run in found), *(path.parent for path in answers))
    return shown_commands(load_steps(*folders, *others).values())


def _chosen_runs(
    sweep: str | None, run_ids: list[str] | None, runs: Path, ledger_url: str | None
) -> "tuple[SweepRuns, tuple[Run, ...]]":
    """The finished runs of the sweep, and those that are named; says which are left out, and why."""
    from analysis.report.records import readable_runs
    from harness.ledger.finished import SweepRuns, left_out, sweep_runs
    from harness.ledger.open import ledger_url as url_of

    named = tuple(run_ids or ())
    of_sweep = sweep_runs(sweep, ledger_url or url_of(paths_of_environment(runs))) if sweep else SweepRuns(run_ids=())
    if sweep and (line := left_out(sweep, of_sweep.unfinished)) is not None:
        say(f"note: {line}", STDERR)
    found, chosen = readable_runs(
        runs, dataclasses.replace(of_sweep, run_ids=tuple(dict.fromkeys((*of_sweep.run_ids, *named))))
    )
    for name, why in chosen.unfinished[len(of_sweep.unfinished) :]:
        say(f"note: left out {name}: {why}", STDERR)
    return chosen, found


def add_report(app: typer.Typer) -> None:
    """Adds it to the commands of `python -m analysis`."""
    app.command()(report)

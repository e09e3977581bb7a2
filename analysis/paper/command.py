"""The commands `python -m analysis tables`, `figures` and `data`: the paper's results, and ours beside them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.options import LedgerUrl, RunsFolder
from analysis.places import require_folder
from harness.commands import Json
from harness.config.paths import paths_of_environment
from harness.console import STDERR, STDOUT, TextTable, refuse, say
from harness.files.atomic import to_json, write_atomically

if TYPE_CHECKING:
    from analysis.paper.own import GridPlan, OwnRuns
    from analysis.paper.tables import Reproduction

ALL = "all"
PAPERS_JUDGE = "gpt-4"
TABLES_HELP = """The paper's tables from your runs and from released judgments, ours beside the printed values.

\b
examples:
  python -m analysis tables 5                    the finished runs of +grid=table5
  python -m analysis tables 1 6 7 12 --data data     judgments that the authors released, and your tournaments
  python -m analysis tables all                  every table; what was not run says how
  python -m analysis tables 10 --sweep short --like "model=smollm2 train.max_steps=20"
"""
Data = Annotated[
    Path, typer.Option(help="Folder of judgments; default: the data store, else data/.", envvar="HARNESS_DATA_STORE")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the values of tables come from, and what a plan is asked."""

    data: Path
    runs: Path
    ledger_url: str
    sweep: str | None  # None: that of a table's grid
    tournaments: Sequence[Path]  # none: those of the sweep's name
    judge: str
    device: str
    asks_plan: bool
    like: Sequence[str]
    resamples: int


def tables(
    table: Annotated[list[str], typer.Argument(help="The paper's tables: 1 to 12, or all.")],
    data: Data = Path("data"),
    runs: RunsFolder = Path("runs"),
    ledger_url: LedgerUrl = None,
    sweep: Annotated[str | None, typer.Option(help="Runs of this sweep; default: that of the table's grid.")] = None,
    like: Annotated[str, typer.Option(help="What the grid was told beside its own choices, as it was typed.")] = "",
    device: Annotated[str, typer.Option(help="The GPU whose hours are said of what was not run.")] = "H100",
    tournament: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of your runs' verdicts.csv, human.csv, scores.csv, for 1, 6, 7 and 12; may be repeated; "
            "default: tournaments/SWEEP and SWEEP-oa."
        ),
    ] = None,
    judge: Annotated[str, typer.Option(help="The judge whose price is said of what was not judged.")] = PAPERS_JUDGE,
    plan: Annotated[bool, typer.Option(help="Ask what is left to run, and what the grid's own settings are.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for table1.csv, .md, .html and .tex.")] = Path("reports/tables"),
    resamples: Annotated[int, typer.Option(min=2, help="Of the prompts, for intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """Makes the tables; its help is TABLES_HELP."""
    from harness.ledger.open import ledger_url as url_of

    require_folder(out, "--out")
    sources = Sources(
        data=data,
        runs=runs,
        ledger_url=ledger_url or url_of(paths_of_environment(runs)),
        sweep=sweep,
        tournaments=tournament or (),
        judge=judge,
        device=device,
        asks_plan=plan,
        like=shlex.split(like),
        resamples=resamples,
    )
    every = ALL in table
    names = _names() if every else list(dict.fromkeys(table))
    made, problems = _write_all(names, sources, out, every, shows=not (as_json or every))
    if as_json:
        print(to_json(made, where="standard output", indent=2))
    elif every:
        STDOUT.print(_summary(made))
        say(f"written: {out}/table*.csv, .md, .html, .tex")
    if problems:
        refuse(problems)


def figures(
    figure: Annotated[list[str], typer.Argument(help="The paper's figures: 2, 3, 4, 6, or all.")],
    runs: RunsFolder = Path("runs"),
    ledger_url: LedgerUrl = None,
    sweep: Annotated[str | None, typer.Option(help="Runs of this sweep; default: that of the figure's grid.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for figure3.svg and .csv.")] = Path("reports/figures"),
) -> None:
    """The paper's figures from your finished runs, as SVG and CSV; Figure 6 from predicted memory."""
    from analysis.paper.figures import FIGURES, paper_figure
    from analysis.paper.own import OwnRuns
    from harness.ledger.open import ledger_url as url_of

    require_folder(out, "--out")
    url = ledger_url or url_of(paths_of_environment(runs))
    for name in FIGURES if ALL in figure else dict.fromkeys(figure):
        grid = FIGURES[name].grid if name in FIGURES else None
        own = OwnRuns(where="no run") if grid is None else OwnRuns.of_sweep(runs, sweep or grid, url)
        made = paper_figure(name, own)
        for note in own.notes:
            say(f"note: figure {name}: {note}", STDERR)
        if made.drawing is None:
            say(f"{made.title}: {made.caption}")
            continue
        write_atomically(out / f"{made.name}.svg", made.svg)
        write_atomically(out / f"{made.name}.csv", made.csv)
        say(f"{made.title}: {out / made.name}.svg, .csv")


def fetch_data(data: Data = Path("data")) -> None:
    """Fetches the judgments that the authors released, at a pinned commit, and checks them."""
    from analysis.paper.fetch import fetch

    for name, words in fetch(data, say).items():
        say(f"{name}: {words}")


def add_tables(app: typer.Typer) -> None:
    """Adds all three to the commands of `python -m analysis`."""
    app.command(help=TABLES_HELP)(tables)
    app.command()(figures)
    app.command("data")(fetch_data)


def _names() -> list[str]:
    from analysis.paper.places import PLACES
    from analysis.paper.tables import MAKERS

    return sorted({*PLACES, *MAKERS}, key=int)


def _write_all(
    names: Sequence[str], sources: Sources, out: Path, every: bool, shows: bool
) -> "tuple[list[Reproduction], list[str]]":
    """Makes these tables. -> them, and why others could not be made; where `every` is, one without judgments is none"""
    from analysis.paper.released import NoJudgments

    made, problems = [], []
    for name in names:
        try:
            made.append(_write(name, sources, out, shows))
        except NoJudgments as error:
            if every:
                say(f"table {name}: not run: {error}", STDERR)
            else:
                problems.append(f"table {name}: {error}")
        except ValueError as error:
            problems.append(f"table {name}: {error}")
    return made, problems


def _write(name: str, sources: Sources, out: Path, shows: bool) -> "Reproduction":
    """Makes one table, writes it in four formats, and prints it where it `shows`."""
    from analysis.paper.text import to_csv, to_html, to_latex, to_markdown, to_terminal

    reproduction = _made(name, sources, out)
    texts = {"csv": to_csv, "md": to_markdown, "html": to_html, "tex": to_latex}
    for ending, text in texts.items():
        write_atomically(out / f"table{name}.{ending}", text(reproduction))
    if shows:
        STDOUT.print(to_terminal(reproduction))
        say(f"written: {out / f'table{name}'}, as {', '.join('.' + ending for ending in texts)}")
    return reproduction


def _made(name: str, sources: Sources, out: Path) -> "Reproduction":
    from analysis.paper.own import OwnRuns, reproduce_from_runs
    from analysis.paper.places import PLACES
    from analysis.paper.tables import MAKERS

    if name in MAKERS:
        return _judged(name, sources, out)
    if name not in PLACES:
        raise ValueError(f"expected one of {', '.join(_names())}, or {ALL}; printed values of others were not found")
    grid = PLACES[name].grid
    plan = _plan(grid, sources)
    own = OwnRuns.of_sweep(sources.runs, sources.sweep or grid, sources.ledger_url)
    return reproduce_from_runs(name, own, plan)


def _judged(name: str, sources: Sources, out: Path) -> "Reproduction":
    """A table of judgments: of the released ones, and of the own tournament.

    Raises:
        NoJudgments: neither is there; says what both take.
    """
    from analysis.paper.judged import GRIDS, beside, left_to_do, own_cells, own_tournament
    from analysis.paper.released import NoJudgments
    from analysis.paper.tables import reproduce

    why_not, released = "", None
    try:
        released = reproduce(name, sources.data, out, sources.resamples)
    except NoJudgments as error:
        why_not = str(error)
    left = left_to_do(name, _plan(GRIDS[name][0], sources), sources.judge)
    found = _own_judgments(name, sources)
    if found is None:
        if released is None:
            raise NoJudgments(
                "; ".join([why_not, *(f"of own runs: {words}" for words in dict.fromkeys(left.values()))])
            )
        return beside(name, released, why_not, None, (), left)
    own = own_tournament(name, *found)
    return beside(name, released, why_not, own, own_cells(name, own, sources.resamples, left), left)


def _own_judgments(name: str, sources: Sources) -> "tuple[list[Path], OwnRuns] | None":
    """The files of own judgments, and the runs that their systems are; None where there is no such file.

    Raises:
        ValueError: a folder that is named isn't there.
    """
    from analysis.paper.judged import GRIDS, files_of, tournament_folders
    from analysis.paper.own import OwnRuns

    for folder in sources.tournaments:
        if not folder.is_dir():
            raise ValueError(f"--tournament {folder}: no such folder")
    for sweep in (sources.sweep,) if sources.sweep else GRIDS[name]:
        if files := files_of(name, sources.tournaments or tournament_folders(sources.runs, sweep)):
            return files, OwnRuns.of_sweep(sources.runs, sweep, sources.ledger_url)
    return None


@cache
def _planned(grid: str, runs: Path, device: str, like: tuple[str, ...]) -> "GridPlan":
    from analysis.paper.planned import plan_grid

    return plan_grid(grid, runs, device, like)


def _plan(grid: str, sources: Sources) -> "GridPlan | None":
    """What is left to run of a grid; None where it isn't asked."""
    return _planned(grid, sources.runs, sources.device, tuple(sources.like)) if sources.asks_plan else None


def _summary(made: Sequence["Reproduction"]) -> TextTable:
    """A line a table: how many cells reproduce, differ, and were not run."""
    statuses = ("reproduces", "differs", "not run")
    return TextTable(
        title="Cells of the paper's tables",
        columns=("table", *statuses, "of"),
        rows=tuple((r.table, *(str(r.num[status]) for status in statuses), r.caption) for r in made),
        numbers=statuses,
        prose=("of",),
    )

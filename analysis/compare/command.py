"""The command `python -m analysis compare`: are the methods of a finished sweep different, equal, or not told apart?

python -m analysis compare --sweep methods --axis adapter --on mmlu,eval_loss --margin 1.0
"""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.compare.options import POINTS, Correction, Options, SelectOn
from analysis.options import LedgerUrl
from analysis.places import require_folder
from harness.commands import Json
from harness.console import show
from harness.files.atomic import write_atomically, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from analysis.compare.contest import Contest
    from analysis.compare.levels import Layout
    from analysis.compare.scores import Frames
    from analysis.effects.grid import GridResults
    from analysis.tidy.sources import Source

JSON_FILE, TEXT_FILE = "compare.json", "compare.txt"
WIDTH = 80


def compare(
    on: Annotated[
        str, typer.Option("--on", help="Scores, with commas: mmlu,gsm8k,eval_loss; a metric by name:metric.")
    ],
    axis: Annotated[
        str, typer.Option("--axis", help="Whose values are compared: adapter, quant, lora_r, train.optimizer ...")
    ] = "adapter",
    sweep: Annotated[str | None, typer.Option(help="The runs of this sweep; default: all of the folder.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs; default: HARNESS_RUNS, else runs.")] = None,
    ledger_url: LedgerUrl = None,
    margin: Annotated[
        list[str] | None,
        typer.Option("--margin", help="The largest difference that counts as none: 1.0 (points), eval_loss=0.01."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option("--within", help="Axes whose values are compared apart; default: model, dataset, quant."),
    ] = None,
    correction: Annotated[
        Correction, typer.Option("--correction", help="Of p for all pairs of a score: holm, bh or none.")
    ] = Correction.holm,
    select_on: Annotated[
        SelectOn,
        typer.Option(
            "--select-on",
            help="What chooses the best setting of each: the held-out loss or half "
            "of the questions; auto: the loss where all runs have one.",
        ),
    ] = SelectOn.auto,
    out: Annotated[Path | None, typer.Option("--out", help="Write compare.json and compare.txt there, too.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the values of one axis of a finished sweep: each tuned alike, seeds as replicates, paired by question.

    \b
    python -m analysis compare --sweep methods --axis adapter --on mmlu,eval_loss --margin 1.0
    python -m analysis compare --runs runs --axis quant --on "perplexity pile_cc" --margin "perplexity pile_cc=0.01"
    """
    from analysis.tidy.sources import Source

    if out is not None:
        require_folder(out, "--out")
    names = [name.strip() for name in on.split(",") if name.strip()]
    if not names:
        raise ValueError("--on: name a score: mmlu, eval_loss ...")
    margins = read_margins(margin or (), names)
    source = Source(runs_folder=runs, sweep=sweep, ledger_url=ledger_url)
    apart = [name.strip() for name in (within or "").split(",") if name.strip()]
    found = contests(source, axis, names, margins, apart, correction, select_on)
    _show(found, as_json, out)


def read_margins(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """-> {score: margin}; "" for scores in points. Raises ValueError: no number above 0, or no score of that name."""
    margins: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if name and name not in names:
            raise ValueError(f"--margin {text}: --on names {', '.join(names)}")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"--margin {text}: the largest difference that counts as none, a number above 0")
        margins[name] = value
    return margins


def contests(
    source: "Source",
    axis: str,
    names: Sequence[str],
    margins: dict[str, float],
    within: Sequence[str],
    correction: Correction,
    select_on: SelectOn,
) -> "list[tuple[Contest, list[dict[str, Any]]]]":
    """-> of each score the comparison, and the runs that are not in it.

    Raises:
        ValueError: no such sweep, axis or score, or nothing to compare.
    """
    from analysis.compare.contest import compare_levels
    from analysis.compare.scores import grid_on, without_value

    frames, layout = _frames(source, axis, within)
    made = []
    for name in names:
        grid = grid_on(frames, layout, name)
        options = Options(margin=_margin(margins, name, grid), correction=correction, select_on=select_on)
        left_out = without_value(frames.runs, grid)
        made.append((compare_levels(grid, layout, _held_out_losses(grid), options), left_out))
    return made


def _frames(source: "Source", axis: str, within: Sequence[str]) -> "tuple[Frames, Layout]":
    from analysis.compare.levels import layout_of, with_choices
    from analysis.compare.scores import Frames
    from analysis.frames import questions, scores
    from analysis.tidy.axes import trained_runs
    from analysis.tidy.rows import runs_frame
    from analysis.tidy.sources import found_runs

    found = found_runs(source)
    if not found:
        raise ValueError(f"{source.folder}: no runs")
    trained = trained_runs(with_choices(runs_frame(found), found)).reset_index(drop=True)
    frames = Frames(
        runs=trained,
        scores=scores(runs_folder=source.runs_folder, sweep=source.sweep, ledger_url=source.ledger_url),
        questions=questions(runs_folder=source.runs_folder, sweep=source.sweep, ledger_url=source.ledger_url),
    )
    return frames, layout_of(trained, axis, within)


def _margin(margins: dict[str, float], name: str, grid: "GridResults") -> float | None:
    """The margin that was given for this score, or for all scores in points."""
    return margins.get(name, margins.get("") if grid.unit == POINTS else None)


def _held_out_losses(grid: "GridResults") -> dict[str, float]:
    known = grid.runs[grid.runs["eval_loss"].notna()]
    return {str(label): float(value) for label, value in zip(known.index, known["eval_loss"], strict=True)}


def _show(found: "Sequence[tuple[Contest, list[dict[str, Any]]]]", as_json: bool, out: Path | None) -> None:
    from rich.console import Group

    from analysis.compare.words import as_json as values_of
    from analysis.compare.words import shown

    values = {"scores": [values_of(contest, left_out) for contest, left_out in found]}
    text = Group(*(shown(contest, left_out) for contest, left_out in found))
    if out is not None:
        write_json(out / JSON_FILE, values)
        write_atomically(out / TEXT_FILE, _as_text(text).encode())
    show(values, text, as_json)


def _as_text(shown_group: "RenderableType") -> str:
    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=WIDTH, markup=False, emoji=False).print(shown_group)
    return stream.getvalue()

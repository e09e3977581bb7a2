"""The command `python -m analysis export`: a sweep's results in the formats of other programs.

python -m analysis export --sweep demo --format lm-eval --out exports/demo
python -m analysis export --sweep demo --format every-eval-ever --organization my-lab --out exports/demo
python -m analysis export --runs runs --format parquet --out exports/all
python -m analysis export --sweep demo --tournament tournaments/demo --format csv --out exports/demo
python -m analysis export --sweep demo --format wandb --out exports/demo
python -m analysis export --sweep demo --format hub --license apache-2.0 --out exports/demo-adapters
"""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.options import LedgerUrl
from analysis.places import require_folder
from harness.config.paths import paths_of_environment
from harness.console import STDERR, say
from harness.files.names import file_name

if TYPE_CHECKING:
    from analysis.tidy.sources import FoundRun, Source

MAX_SHOWN = 5
WHOLE_FOLDER = "runs"  # what the results of a whole folder are called


class Format(Enum):
    """What results are written as."""

    lm_eval = "lm-eval"
    every_eval_ever = "every-eval-ever"
    parquet = "parquet"
    csv = "csv"
    wandb = "wandb"
    hub = "hub"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="lm-eval: its results files; every-eval-ever: records of its schema 0.3.0, and of each question; parquet, "
        "csv: every frame of analysis.frames; wandb: the frames as tables, offline; hub: adapters with cards, ready "
        "to push.",
    ),
]


def export(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    format_: FormatOption,
    sweep: Annotated[str | None, typer.Option(help="The runs of this sweep; default: all of the folder.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs; default: HARNESS_RUNS, else runs.")] = None,
    ledger_url: LedgerUrl = None,
    tournament: Annotated[
        Path | None, typer.Option(help="Only runs that play in it; adds verdicts and ratings.")
    ] = None,
    organization: Annotated[
        str | None, typer.Option(help="every-eval-ever: who trained and measured; default: unknown.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="hub: a licence's identifier; default: unknown.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="hub: the name by which adapters find their base; default: its hub id or folder.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="wandb: the project; default: qlora-harness.")] = None,
) -> None:
    """Writes results in the formats of other programs. Runs that failed, or have nothing to write, are named.

    \b
    python -m analysis export --sweep demo --format lm-eval --out exports/demo
    python -m analysis export --sweep demo --format parquet --out exports/demo
    python -m analysis export --sweep demo --format hub --license apache-2.0 --out exports/adapters
    """
    from analysis.tidy.sources import Source, found_runs

    require_folder(out, "--out")
    source = Source(runs_folder=runs, sweep=sweep, tournament=tournament, ledger_url=ledger_url)
    name = file_name(sweep or WHOLE_FOLDER, "sweep")
    if format_ in (Format.parquet, Format.csv, Format.wandb):
        _write_frames(source, format_, out, name, project)
        return
    found = found_runs(source)
    if format_ is Format.hub:
        _write_hub(found, out, name, license_, base, source)
        return
    _write_scores(found, format_, out, name, organization, source)


def _write_scores(
    found: Sequence["FoundRun"], format_: Format, out: Path, name: str, organization: str | None, source: "Source"
) -> None:
    """Writes the scores of each run; one without any, or of which a file can't be read, is named."""
    from analysis.exports.every_eval_ever import UNKNOWN, write_every_eval_ever
    from analysis.exports.lm_eval import write_lm_eval

    left_out = []
    for run in found:
        try:
            if format_ is Format.lm_eval:
                written = list(write_lm_eval([run], out))
            else:
                written = list(write_every_eval_ever([run], out, name, organization or UNKNOWN))
        except (ValueError, OSError) as error:
            left_out.append((run.name, str(error)))
        else:
            left_out += [] if written else [(run.name, run.reason or "no scores")]
    if len(left_out) == len(found):
        why = f"; {_named(left_out)}" if found else ""
        raise ValueError(f"{source.folder}: no finished run has a score; measure with `python -m eval` first{why}")
    say(f"{out}: {len(found) - len(left_out)} of {len(found)} runs written")
    _say_left_out(left_out)


def _write_frames(source: "Source", format_: Format, out: Path, name: str, project: str | None) -> None:
    from analysis.exports.tables import all_frames, write_csv, write_parquet
    from analysis.exports.wandb_tables import PROJECT, write_wandb

    frames = all_frames(source)
    if format_ is Format.wandb:
        folder = write_wandb(frames, out, name, project or PROJECT)
        say(f"{folder}: {', '.join(frames)}; `wandb sync {folder}` uploads them")
        return
    write = write_parquet if format_ is Format.parquet else write_csv
    for path in write(frames, out):
        say(f"written: {path}")


def _write_hub(
    found: Sequence["FoundRun"], out: Path, name: str, license_id: str | None, base: str | None, source: "Source"
) -> None:
    from analysis.exports.hub import write_hub
    from harness.export.card import UNKNOWN_LICENSE

    paths = paths_of_environment(source.folder)
    made = write_hub(found, out, name, license_id or UNKNOWN_LICENSE, paths, base, lambda run: say(f"written: {run}"))
    if not made.written:
        raise ValueError(f"{source.folder}: no run has an adapter to export; " + _named(made.left_out))
    say(f"{made.folder}: {len(made.written)} adapters")
    _say_left_out(made.left_out)
    for note in made.notes:
        say(f"note: {note}", STDERR)


def _say_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    if left_out:
        say(f"note: left out {len(left_out)} run{'s' * (len(left_out) != 1)}: {_named(left_out)}", STDERR)


def _named(left_out: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(left_out) - MAX_SHOWN} more" if len(left_out) > MAX_SHOWN else ""
    return ", ".join(f"{name} ({why})" for name, why in left_out[:MAX_SHOWN]) + more

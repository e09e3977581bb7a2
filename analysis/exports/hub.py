"""Writes every finished run of a sweep as a folder with its adapter and card, and a card that lists them all.

    out/README.md                               the sweep's card: a table of the runs with their headline scores
    out/<label>/README.md                       the run's card
    out/<label>/adapter_model.safetensors ...   as `python -m harness.export` writes it

The folder can be pushed as it is (`hf upload OWNER/NAME out`), and so can each folder within it. Nothing in it names
this machine, but adapter_config.json where no hub has the base: then a note says so, and `base` is its name elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.tidy.axes import AXES, axis_values
from analysis.tidy.sources import FoundRun
from harness.config.schema import AdapterMethod, PathsConfig
from harness.export.adapter import export
from harness.export.card import UNKNOWN_LICENSE
from harness.export.checks import CARD, ExportRefusedError
from harness.files.atomic import write_atomically
from harness.files.names import file_name
from harness.files.typed import read_typed
from harness.runs.adapter_files import ADAPTER_CONFIG
from harness.runs.scores import measured_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFolder:
    """What was written, and which runs were left out."""

    folder: Path
    written: tuple[str, ...]  # names of the runs
    left_out: tuple[tuple[str, str], ...]  # (name, why)
    notes: tuple[str, ...]  # what whoever uploads the adapters has to know


def write_hub(
    found: Sequence[FoundRun],
    out: Path,
    title: str,
    license_id: str = UNKNOWN_LICENSE,
    paths: PathsConfig | None = None,
    base: str | None = None,
    on_run: Callable[[str], None] | None = None,
) -> HubFolder:
    """Exports what can be exported. A run whose folder is in `out` already is left as it is.

    Args:
        found: the runs.
        out: the folder.
        title: of its card.
        license_id: a licence's identifier on the hub; nothing is assumed.
        paths: where bases are looked for.
        base: by what name an adapter finds its base, instead of the hub id or a folder of this machine.
        on_run: gets the name of each run that was written.

    Raises:
        ValueError: `base` can't be the base of runs that were trained on several.
    """
    if base is not None:
        _require_one_base(found, base)
    written: list[FoundRun] = []
    left_out: list[tuple[str, str]] = []
    notes: dict[str, None] = {}
    for run in found:
        folder = out / file_name(run.name, "run")
        if run.record is None or run.spec.get("adapter", {}).get("method") == AdapterMethod.none.value:
            left_out.append((run.name, run.reason or "an untouched base has no adapter"))
            continue
        try:
            if (folder / CARD).is_file():
                _require_base(folder, base)
            else:
                made = export(run.folder, folder, license_id=license_id, paths=paths, base=base)
                notes |= dict.fromkeys(made.notes)
        except ExportRefusedError as error:
            left_out.append((run.name, str(error)))
            continue
        written.append(run)
        if on_run is not None:
            on_run(run.name)
    if written:
        write_atomically(out / CARD, sweep_card(title, written, license_id))
    return HubFolder(
        folder=out, written=tuple(run.name for run in written), left_out=tuple(left_out), notes=tuple(notes)
    )


def _require_one_base(found: Sequence[FoundRun], base: str) -> None:
    bases = {run.record.base_fingerprint for run in found if run.record is not None}
    if len(bases) > 1:
        raise ValueError(f"--base {base}: these runs were trained on {len(bases)} bases; export each base's by itself")


def _require_base(folder: Path, base: str | None) -> None:
    """Raises ExportRefusedError where an adapter that was exported before has another base than the one given."""
    path = folder / ADAPTER_CONFIG
    if base is None or not path.is_file():
        return
    named = read_typed(path, dict[str, Any], "remove the folder: it is exported again").get("base_model_name_or_path")
    if named != base:
        raise ExportRefusedError(f"{folder} is there from before, with the base {named}; remove it to export it anew")


def sweep_card(title: str, found: Sequence[FoundRun], license_id: str) -> str:
    """The card of several adapters: what they differ in, and their headline scores with 95 % intervals."""
    values = {run.run_id: axis_values(run.spec) for run in found}
    axes = [axis for axis in AXES if len({repr(of_run[axis.name]) for of_run in values.values()}) > 1]
    headlines = {run.run_id: _headlines(run) for run in found}
    names = list(dict.fromkeys(name for of_run in headlines.values() for name in of_run))
    rows = [
        [f"[{run.name}](./{run.name})", *(_text(values[run.run_id][axis.name]) for axis in axes)]
        + [headlines[run.run_id].get(name, "") for name in names]
        for run in found
    ]
    head = ["run", *(axis.title for axis in axes), *names]
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    front = yaml.safe_dump({"license": license_id, "library_name": "peft", "tags": ["qlora-harness"]}, sort_keys=False)
    made = f"{len(found)} adapters, each in its folder with a card of its own. Intervals are 95 %."
    return f"---\n{front}---\n\n# {title}\n\n{made}\n\n" + "\n".join(table) + "\n"


def _headlines(run: FoundRun) -> dict[str, str]:
    found = [score for score in measured_scores(run.folder / "eval") if score.is_headline]
    return {
        f"{score.evaluation} {score.metric}": f"{score.value:.4g}"
        + ("" if score.low is None or score.high is None else f" [{score.low:.4g}, {score.high:.4g}]")
        for score in found
    }


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

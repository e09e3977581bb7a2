"""Finds the runs that a frame is made of: those of a folder, of a sweep or of a tournament, failed ones too."""

import json
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from eval.judging.store import VERDICTS_FILE, judged_file
from eval.verdicts.table import Verdicts, load_verdicts
from harness.config.paths import paths_of_environment
from harness.ledger.open import LEDGER_FILE, existing_ledger, ledger_url
from harness.ledger.passwords import without_passwords
from harness.ledger.tables import JobRow, JobStatus
from harness.runs.record import CONFIG_FILE, RECORD_FILE, RunRecord, load_record

DONE = str(JobStatus.done)
CUT = "cut"  # a folder without a record, of a run that no ledger knows
UNREADABLE = "unreadable"
TRAIN = "train"
STATES = (*(str(status) for status in JobStatus), CUT, UNREADABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run, whatever became of it."""

    run_id: str
    folder: Path
    label: str | None
    state: str  # one of STATES
    reason: str | None  # why it has no record
    spec: dict[str, Any]  # RunSpec.to_dict(); empty where nothing says it
    record: RunRecord | None
    evaluations: tuple[JobRow, ...] = ()  # jobs of its evaluations that are not done

    @property
    def name(self) -> str:
        """What a system is called by it."""
        return self.label or self.run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where frames come from: the arguments that all of them take."""

    runs_folder: Path | str | None = None  # None: HARNESS_RUNS, else runs/
    sweep: str | None = None
    tournament: Path | str | None = None
    ledger_url: str | None = None  # None: HARNESS_LEDGER_URL, else the runs folder's

    @property
    def folder(self) -> Path:
        """The folder of the runs."""
        return Path(paths_of_environment(None if self.runs_folder is None else Path(self.runs_folder)).runs)

    def tournament_folder(self) -> Path | None:
        """The tournament's folder: the one that is named, or that of the sweep's name; None without either.

        Raises:
            ValueError: it isn't there.
        """
        if self.tournament is not None:
            folder = Path(self.tournament)
            if not folder.is_dir():
                raise ValueError(f"tournament={folder}: no such folder")
            return folder
        if self.sweep is None:
            return None
        places = (Path("tournaments") / self.sweep, self.folder / "tournaments" / self.sweep)
        found = next((place for place in places if judged_file(place).is_file()), None)
        if found is None:
            shown = " nor ".join(str(place / VERDICTS_FILE) for place in places)
            raise ValueError(f"sweep={self.sweep}: neither {shown} is there; name its folder with tournament=")
        return found


def tournament_verdicts(folder: Path) -> Verdicts:
    """The verdicts of a tournament's folder.

    Raises:
        ValueError: it has none, or they can't be read.
    """
    path = judged_file(folder)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; make it with `python -m eval judge`")
    return load_verdicts([path], may_be_empty=True)


def found_runs(source: Source) -> list[FoundRun]:
    """The runs of a source: of a sweep in its order, of a folder by their ids.

    A folder's runs are those of the folder and of its ledger, where it has one. A tournament's are those of the folder
    (or of the sweep, where one is named) whose label plays in it.

    Raises:
        ValueError: no such folder, ledger, sweep or tournament.
    """
    folder = source.folder
    if source.sweep is not None:
        found = _of_ledger(folder, source.ledger_url or ledger_url(paths_of_environment(folder)), source.sweep)
    else:
        found = _of_folder(folder, source.ledger_url)
    if source.tournament is None:
        return found
    tournament = source.tournament_folder()
    assert tournament is not None
    systems = set(tournament_verdicts(tournament).system_names)
    return [run for run in found if run.name in systems]


def _of_folder(folder: Path, url: str | None) -> list[FoundRun]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of runs; name it by runs_folder= (--runs) or HARNESS_RUNS")
    address = url or ledger_url(paths_of_environment(folder))
    is_there = "://" in address or (folder / LEDGER_FILE).is_file() or Path(address).is_file()
    known = {run.run_id: run for run in (_of_ledger(folder, address, None) if is_there else ())}
    for path in sorted(folder.iterdir()):
        if path.name not in known and any((path / name).is_file() for name in (RECORD_FILE, CONFIG_FILE)):
            known[path.name] = _of_run_folder(path)
    return [known[run_id] for run_id in sorted(known)]


def _of_ledger(folder: Path, url: str, sweep: str | None) -> list[FoundRun]:
    with closing(existing_ledger(url)) as ledger:
        names = [row.name for row in ledger.sweeps()]
        if sweep is not None and sweep not in names:
            where = without_passwords(url)
            raise ValueError(f"sweep={sweep}: no such sweep in {where}; known: {', '.join(names) or 'none'}")
        rows = list(ledger.rows(sweep))
    trainings = [row for row in rows if row.kind == TRAIN]
    open_evaluations: dict[str, list[JobRow]] = {}
    for row in rows:
        if row.kind != TRAIN and row.status is not JobStatus.done:
            open_evaluations.setdefault(row.run_id, []).append(row)
    return [replace(_of_job(folder, row), evaluations=tuple(open_evaluations.get(row.run_id, ()))) for row in trainings]


def _of_job(folder: Path, row: JobRow) -> FoundRun:
    path = folder / row.run_id
    if row.status is JobStatus.done:
        found = _of_run_folder(path)
        if found.record is not None:
            return found
        return replace(found, label=row.label, spec=found.spec or _planned_spec(row))
    return FoundRun(
        run_id=row.run_id,
        folder=path,
        label=row.label,
        state=str(row.status),
        reason=row.reason or f"{row.status}: not trained yet",
        spec=_planned_spec(row),
        record=None,
    )


def _planned_spec(row: JobRow) -> dict[str, Any]:
    spec = json.loads(row.payload).get("spec")
    return spec if isinstance(spec, dict) else {}


def _of_run_folder(folder: Path) -> FoundRun:
    """A run by its folder alone."""
    record: RunRecord | None = None
    state, reason = UNREADABLE, ""
    try:
        record = load_record(folder)
    except ValueError as error:
        reason = str(error)
    else:
        state = CUT if record is None else DONE
        reason = f"{folder / RECORD_FILE}: no such file" if record is None else ""
    return FoundRun(
        run_id=folder.name,
        folder=folder,
        label=None if record is None else record.label,
        state=state,
        reason=reason or None,
        spec=_written_spec(folder) if record is None else record.spec,
        record=record,
    )


def _written_spec(folder: Path) -> dict[str, Any]:
    """The config that a run wrote when it began; empty where it wrote none, or half of it."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        values = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return values if isinstance(values, dict) else {}

"""Runs the jobs that evaluate trained runs, by any benchmark of the registry, over claims of one base.

Members of a causal base are scored together, and each gets a result of its own. Other models own their base and hold
one adapter: their claims are scored one after the other.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.benchmark import Benchmark, Contestant, Place, result_values
from eval.benchmarks.registry import BENCHMARKS, settings_from
from eval.systems import System, load_members, open_system, require_causal
from harness.config.schema import ModelKind
from harness.files.atomic import write_json
from harness.ledger.tables import JobRow
from harness.progress import Progress
from harness.runs.scores import eval_file
from sweeps.jobs.context import Context, Workplace
from sweeps.plan.inputs import inputs_of, require_planned
from sweeps.plan.jobs import file_hashes


def eval_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """Scores the runs of these claims, writes `runs/<run_id>/eval/<name>/<name>.json`, and settles every claim."""
    benchmark = BENCHMARKS[claims[0].kind]
    for same in _scored_together(benchmark, claims):
        systems, results, seconds = _scored(context, benchmark, same, _progress_of(context, same[0]))
        for claim, system in zip(same, systems, strict=True):
            result = results[system.run_id]
            whose = {"system": system.name, "job": claim.spec_hash}
            write_json(eval_file(system.folder, claim.kind), result_values(benchmark, result) | whose)
            context.finish(claim, benchmark.summary(result), seconds / len(same))


def follow_evals(place: Workplace, claims: Sequence[JobRow]) -> None:
    """Makes the same passes as rank 0 over a base of which each rank holds a part. Rank 0 keeps the results."""
    benchmark = BENCHMARKS[claims[0].kind]
    for same in _scored_together(benchmark, claims):
        _scored(place, benchmark, same, lambda _, __: None)


def _scored(
    place: Workplace, benchmark: Benchmark, same: Sequence[JobRow], on_progress: Progress
) -> tuple[list[System], Mapping[str, Any], float]:
    """-> the systems of claims of equal settings, their results by run id, and the seconds of scoring."""
    systems = [open_system(place.run_folder(claim.run_id)) for claim in same]
    settings = settings_from(benchmark.name, _planned(same[0]))
    contestants = [_contestant(place, benchmark, settings, system) for system in systems]
    for claim, contestant in zip(same, contestants, strict=True):
        _require_planned_files(_planned(claim), benchmark.name, settings, contestant)
    payload = json.loads(same[0].payload)
    base = place.base(systems[0].spec, planned=inputs_of(payload))
    require_planned(inputs_of(payload), place.signs, systems[0].spec)
    began = time.monotonic()
    load_members(base, systems)
    where = Place(paths=place.settings.paths, partial=_partial_folder(place), on_progress=on_progress)
    try:
        results = benchmark.score(base, contestants, settings, where)
    finally:
        for contestant in contestants:
            if contestant.member is not None:
                base.bank.remove_member(contestant.member)
    return systems, results, time.monotonic() - began


def _contestant(place: Workplace, benchmark: Benchmark, settings: Any, system: System) -> Contestant:
    """A run under its id. Raises ValueError for one that the benchmark doesn't score."""
    if benchmark.kind is ModelKind.causal:
        require_causal(system.name, system.spec.model.kind)
    rows = None
    if benchmark.scores_own_dataset:
        if system.spec.dataset is None:
            raise ValueError(f"{benchmark.name}: {system.name} is an untouched base and has no dataset to be scored on")
        rows = benchmark.rows(settings, system.spec.dataset, place.settings.paths)
    return Contestant(name=system.run_id, member=system.member, rows=rows, system=system)


def _require_planned_files(planned: Mapping[str, Any], name: str, settings: Any, contestant: Contestant) -> None:
    """Raises ValueError where a file that an evaluation reads changed after its plan: it would be another job."""
    own = {} if contestant.rows is None else {f"{name}_data_sha256": contestant.rows.sha256}
    now = own | file_hashes(name, settings)  # of a file that the settings name, as its plan hashed it
    for key, sha256 in now.items():
        if planned.get(key, sha256) != sha256:
            what = key.removeprefix(f"{name}_").removesuffix("_sha256")
            raise ValueError(
                f"eval.{name}: the content of its {what} changed after this evaluation was planned (then "
                f"{planned[key][:12]}, now {sha256[:12]}): restore the old file, or give the sweep's command again"
            )


def _partial_folder(place: Workplace) -> Path | None:
    """The folder of finished parts, for the next attempt of a killed job; each names its model, data and protocol.

    None over shards: all ranks make the same passes, so none may skip a part that it finds there.
    """
    return None if place.shards_base else Path(place.settings.paths.cache) / "eval"


def _progress_of(context: Context, claim: JobRow) -> Progress:
    return lambda done, total: context.tell(claim, phase=claim.kind, step=done, total=total)


def _scored_together(benchmark: Benchmark, claims: Sequence[JobRow]) -> Iterator[list[JobRow]]:
    """Groups claims of equal settings; claims on a model that owns its base are alone."""
    groups: dict[str, list[JobRow]] = {}
    for claim in claims:
        groups.setdefault(json.dumps(_planned(claim), sort_keys=True), []).append(claim)
    for same in groups.values():
        yield from [same] if benchmark.kind is ModelKind.causal else [[claim] for claim in same]


def _planned(claim: JobRow) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(claim.payload)["settings"]
    return settings

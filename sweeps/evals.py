"""Evaluations that follow training as jobs of their own. One module and one entry each.

An entry takes the worker's context and claims of one base, and settles every claim.
"""

import json
import time
from collections.abc import Callable, Sequence

from eval.mmlu import MmluSettings, score_mmlu
from eval.systems import load_members, open_system
from harness.files import write_json
from harness.ledger import JobRow
from sweeps.context import Context
from sweeps.dataset_evals import glue_jobs, super_ni_jobs
from sweeps.enqueue import eval_file


def mmlu_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """MMLU of several adapters of one base, in one load: `runs/<run_id>/eval/mmlu/mmlu.json`, and whose it is."""
    for settings_text, same in _by_settings(claims).items():
        settings = _mmlu_settings(json.loads(settings_text))
        systems = [open_system(context.run_folder(claim.run_id)) for claim in same]
        base = context.base(systems[0].spec)
        began = time.monotonic()
        members = [system.member for system in systems if system.member is not None]
        load_members(base, systems)
        try:
            results = score_mmlu(
                base,
                {system.run_id: system.member for system in systems},
                settings,
                on_progress=_teller(context, same[0]),
            )
        finally:
            for member in members:
                base.bank.remove_member(member)
        seconds = (time.monotonic() - began) / len(same)
        for claim, system in zip(same, systems, strict=True):
            result = results[system.run_id].to_json() | {"system": system.name, "job": claim.spec_hash}
            write_json(eval_file(system.folder, claim.kind), result)
            context.finish(claim, {"accuracy_macro": result["accuracy_macro"]}, seconds)


EVALS: dict[str, Callable[[Context, Sequence[JobRow]], None]] = {
    "mmlu": mmlu_jobs,
    "glue": glue_jobs,
    "super_ni": super_ni_jobs,
}


def _teller(context: Context, claim: JobRow) -> Callable[[int, int], None]:
    return lambda done, total: context.tell(claim, phase="mmlu", step=done, total=total)


def _by_settings(claims: Sequence[JobRow]) -> dict[str, list[JobRow]]:
    groups: dict[str, list[JobRow]] = {}
    for claim in claims:
        groups.setdefault(json.dumps(json.loads(claim.payload)["settings"], sort_keys=True), []).append(claim)
    return groups


def _mmlu_settings(values: dict[str, str | int | None]) -> MmluSettings:
    return MmluSettings(
        questions=str(values["mmlu_questions"]),
        shots=str(values["mmlu_shots_file"]),
        num_shots=int(values["mmlu_num_shots"] or 0),
        limit_per_subject=values["mmlu_limit_per_subject"],  # type: ignore[arg-type]
    )

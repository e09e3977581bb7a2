"""Evaluations behind training that score a run on its own dataset's evaluation split: GLUE, Super-NaturalInstructions.

Their models own their base and hold one adapter, so that the claims of a call are scored one after the other. What
they import waits until one is asked for: every worker imports this module.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from eval.dataset_rows import EvalRows, evaluation_rows
from eval.systems import System, load_members, open_system
from harness.files import write_json
from harness.ledger import JobRow
from harness.models import LoadedBase
from sweeps.context import Context
from sweeps.enqueue import eval_file

Tell = Callable[[int, int], None]
Score = Callable[[LoadedBase, System, EvalRows, dict[str, Any], Tell], dict[str, Any]]


def glue_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """GLUE, or any rows with labels: `runs/<run_id>/eval/glue/glue.json`."""
    for claim in claims:
        _score_run(context, claim, _glue, "score")


def super_ni_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """RougeL: `runs/<run_id>/eval/super_ni/super_ni.json`."""
    for claim in claims:
        _score_run(context, claim, _super_ni, "rouge_l")


def _glue(base: LoadedBase, system: System, rows: EvalRows, settings: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from eval.glue import GlueSettings, score_glue

    asked = GlueSettings(limit=settings["glue_limit"])
    partial = system.folder / "eval" / "glue"
    return score_glue(base, system.name, system.member, rows, asked, tell, partial).to_json()


def _super_ni(base: LoadedBase, system: System, rows: EvalRows, settings: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from eval.super_ni import SuperNiSettings, score_super_ni

    asked = SuperNiSettings(
        limit_per_task=settings["super_ni_limit_per_task"], max_new_tokens=settings["super_ni_max_new_tokens"]
    )
    partial = system.folder / "eval" / "super_ni"
    return score_super_ni(base, system.name, system.member, rows, asked, tell, partial).to_json()


def _score_run(context: Context, claim: JobRow, score: Score, headline: str) -> None:
    settings = json.loads(claim.payload)["settings"]
    system = open_system(context.run_folder(claim.run_id))
    if system.spec.dataset is None:
        raise ValueError(f"{claim.kind}: {system.name} is an untouched base and has no dataset to be scored on")
    rows = evaluation_rows(system.spec.dataset, settings[f"{claim.kind}_data"], None, context.settings.paths)
    base = context.base(system.spec)
    began = time.monotonic()
    load_members(base, [system])
    try:
        result = score(
            base,
            system,
            rows,
            settings,
            lambda done, total: context.tell(claim, phase=claim.kind, step=done, total=total),
        )
    finally:
        base.bank.remove_member(claim.run_id)
    write_json(eval_file(system.folder, claim.kind), result | {"job": claim.spec_hash})
    context.finish(claim, {headline: result[headline]}, time.monotonic() - began)

"""Evaluations that follow training as jobs of their own. One module and one entry each.

An entry takes the worker's context and claims of one base, and settles every claim.

GLUE and Super-NaturalInstructions score a run on its own dataset's evaluation split; their models own their base and
hold one adapter, so that the claims of a call are scored one after the other.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.generate import GenerateSettings, generate_answers
from eval.answers.questions import load_open_questions
from eval.benchmarks.dataset_rows import EvalRows, evaluation_rows
from eval.benchmarks.mmlu.score import MmluSettings, score_mmlu
from eval.benchmarks.perplexity import PerplexitySettings, score_perplexity
from eval.benchmarks.tasks import TasksSettings, score_tasks
from eval.benchmarks.texts import TextSource, load_documents
from eval.scoring.next_token import Progress
from eval.systems import System, load_members, open_system, require_causal
from harness.banks.load import LoadedBase
from harness.files.atomic import write_json
from harness.ledger.tables import JobRow
from sweeps.jobs.context import Context, Workplace
from sweeps.plan.enqueue import eval_file

Settings = Mapping[str, Any]  # an evaluation's keys of `eval`, as planned
Members = Mapping[str, str | None]  # run_id -> member of the bank, None for the untouched base
Results = Mapping[str, dict[str, Any]]  # run_id -> the result as plain values
Score = Callable[[LoadedBase, Members, Settings, Workplace, Progress], Results]

Tell = Callable[[int, int], None]
ScoreRun = Callable[[LoadedBase, System, EvalRows, dict[str, Any], Tell], dict[str, Any]]


def mmlu_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """`runs/<run_id>/eval/mmlu/mmlu.json`."""
    _score_jobs(context, claims, _mmlu, lambda result: {"accuracy_macro": result["accuracy_macro"]})


def perplexity_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """`runs/<run_id>/eval/perplexity/perplexity.json`."""
    _score_jobs(context, claims, _perplexity, lambda result: {"token_perplexity": result["token_perplexity"]})


def tasks_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """`runs/<run_id>/eval/tasks/tasks.json`."""
    _score_jobs(context, claims, _tasks, _first_metrics)


def answers_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """`runs/<run_id>/answers/<bench>.jsonl`, as `python -m eval generate` writes them, resumed by prompt."""
    _score_jobs(context, claims, _answers, lambda result: {"num_answers": result["num_answers"]})


def glue_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """GLUE, or any rows with labels: `runs/<run_id>/eval/glue/glue.json`."""
    for claim in claims:
        _score_run(context, claim, _glue, "score")


def super_ni_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """RougeL: `runs/<run_id>/eval/super_ni/super_ni.json`."""
    for claim in claims:
        _score_run(context, claim, _super_ni, "rouge_l")


EVALS: dict[str, Callable[[Context, Sequence[JobRow]], None]] = {
    "mmlu": mmlu_jobs,
    "perplexity": perplexity_jobs,
    "tasks": tasks_jobs,
    "answers": answers_jobs,
    "glue": glue_jobs,
    "super_ni": super_ni_jobs,
}


def follow_evals(place: Workplace, claims: Sequence[JobRow]) -> None:
    """The same passes as rank 0's over a base of which each holds a part; what comes of them is rank 0's."""
    for settings_text, same in _by_settings(claims).items():
        _scored(place, same, settings_text, SCORES[claims[0].kind], lambda _, __: None)


def _score_jobs(
    context: Context, claims: Sequence[JobRow], score: Score, summary: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Scores several adapters of one base in one load; each result says whose it is."""
    for settings_text, same in _by_settings(claims).items():
        systems, results, seconds = _scored(context, same, settings_text, score, _teller(context, same[0]))
        for claim, system in zip(same, systems, strict=True):
            result = results[system.run_id] | {"system": system.name, "job": claim.spec_hash}
            write_json(eval_file(system.folder, claim.kind), result)
            context.finish(claim, summary(result), seconds / len(same))


def _scored(
    place: Workplace, same: Sequence[JobRow], settings_text: str, score: Score, tell: Progress
) -> tuple[list[System], Results, float]:
    """-> the systems of claims of equal settings, their results, and the seconds of scoring."""
    systems = [open_system(place.run_folder(claim.run_id)) for claim in same]
    for system in systems:
        require_causal(system.name, system.spec.model.kind)
    base = place.base(systems[0].spec)
    began = time.monotonic()
    members = {system.run_id: system.member for system in systems}
    load_members(base, systems)
    try:
        results = score(base, members, json.loads(settings_text), place, tell)
    finally:
        for member in members.values():
            if member is not None:
                base.bank.remove_member(member)
    return systems, results, time.monotonic() - began


def _mmlu(base: LoadedBase, members: Members, values: Settings, place: Workplace, tell: Progress) -> Results:
    settings = MmluSettings(
        questions=values["mmlu_questions"],
        shots=values["mmlu_shots_file"],
        num_shots=values["mmlu_num_shots"],
        limit_per_subject=values["mmlu_limit_per_subject"],
    )
    return {
        run_id: result.to_json() for run_id, result in score_mmlu(base, members, settings, tell, _kept(place)).items()
    }


def _perplexity(base: LoadedBase, members: Members, values: Settings, place: Workplace, tell: Progress) -> Results:
    text = values["perplexity_text"]
    documents = load_documents(TextSource(where=text, limit=values["perplexity_limit"]), place.settings.paths)
    settings = PerplexitySettings(text=text, window=values["perplexity_window"], stride=values["perplexity_stride"])
    found = score_perplexity(base, members, documents, settings, tell, _kept(place))
    return {run_id: result.to_json() for run_id, result in found.items()}


def _tasks(base: LoadedBase, members: Members, values: Settings, place: Workplace, tell: Progress) -> Results:
    folder = values["tasks_folder"]
    settings = TasksSettings(
        tasks=tuple(values["tasks_names"]),
        num_fewshot=values["tasks_num_fewshot"],
        limit=values["tasks_limit"],
        folder=None if folder is None else Path(folder),
    )
    return {
        run_id: result.to_json() for run_id, result in score_tasks(base, members, settings, tell, _kept(place)).items()
    }


def _answers(base: LoadedBase, members: Members, values: Settings, place: Workplace, tell: Progress) -> Results:
    systems = [open_system(place.run_folder(run_id)) for run_id in members]
    questions = load_open_questions(values["answers_questions"], values["answers_limit"])
    settings = GenerateSettings(max_new_tokens=values["answers_max_new_tokens"])
    bench = values["answers_bench"]
    written = generate_answers(base, systems, questions, bench, settings, tell)
    return {
        system.run_id: {"num_answers": len(written[system.name]), "path": f"answers/{bench}.jsonl"}
        for system in systems
    }


SCORES: dict[str, Score] = {"mmlu": _mmlu, "perplexity": _perplexity, "tasks": _tasks}


def _kept(place: Workplace) -> Path | None:
    """Where finished parts wait for the next attempt of a killed job; each is tied to its model, data and protocol.

    None over shards: all ranks make the same passes, so none may leave out what it has found there.
    """
    return None if place.shards_base else Path(place.settings.paths.cache) / "eval"


def _first_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Each task's first metric, for the ledger."""
    return {task: next(iter(score["metrics"].values()))["value"] for task, score in result["tasks"].items()}


def _teller(context: Context, claim: JobRow) -> Progress:
    return lambda done, total: context.tell(claim, phase=claim.kind, step=done, total=total)


def _by_settings(claims: Sequence[JobRow]) -> dict[str, list[JobRow]]:
    groups: dict[str, list[JobRow]] = {}
    for claim in claims:
        groups.setdefault(json.dumps(json.loads(claim.payload)["settings"], sort_keys=True), []).append(claim)
    return groups


def _glue(base: LoadedBase, system: System, rows: EvalRows, settings: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from eval.benchmarks.glue import GlueSettings, score_glue

    asked = GlueSettings(limit=settings["glue_limit"])
    partial = system.folder / "eval" / "glue"
    return score_glue(base, system.name, system.member, rows, asked, tell, partial).to_json()


def _super_ni(base: LoadedBase, system: System, rows: EvalRows, settings: dict[str, Any], tell: Tell) -> dict[str, Any]:
    from eval.benchmarks.super_ni import SuperNiSettings, score_super_ni

    asked = SuperNiSettings(
        limit_per_task=settings["super_ni_limit_per_task"], max_new_tokens=settings["super_ni_max_new_tokens"]
    )
    partial = system.folder / "eval" / "super_ni"
    return score_super_ni(base, system.name, system.member, rows, asked, tell, partial).to_json()


def _score_run(context: Context, claim: JobRow, score: ScoreRun, headline: str) -> None:
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

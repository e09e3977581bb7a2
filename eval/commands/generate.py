"""The body of `python -m eval generate`: finds the systems, lets them answer, and sums up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.files import Answer, named
from eval.answers.generate import GenerateSettings, generate_answers, stored_answers
from eval.answers.questions import OpenQuestion, load_open_questions
from eval.answers.vllm import load_vllm, missing_vllm
from eval.systems import by_base, chosen_systems, loaded, refuse_equal_names
from harness.config.paths import paths_of_environment
from harness.config.schema import Device
from harness.devices.torch_device import quiet_libraries, resolve_device
from harness.progress import Progress


def run_generate(
    sweep: str | None,
    run_ids: Sequence[str],
    runs: Path | None,
    questions: str,
    bench: str,
    limit: int | None,
    settings: GenerateSettings,
    fresh: bool,
    advance: Progress,
) -> list[dict[str, Any]]:
    """Writes the missing answers of all systems. -> a row a system: how many, and where they lie."""
    quiet_libraries()
    if settings.engine == "vllm" and (problem := missing_vllm()):
        raise ValueError(problem)
    open_questions = load_open_questions(questions, limit)
    rows: list[dict[str, Any]] = []
    chosen = chosen_systems(sweep, run_ids, runs)
    refuse_equal_names(chosen)  # the judge tells contestants apart by their names
    for systems in by_base(chosen):
        answers = stored_answers(systems, open_questions, bench, settings)
        if answers is None and settings.engine == "vllm":
            in_vllm = load_vllm(systems, paths_of_environment(runs))
            answers = generate_answers(in_vllm, systems, open_questions, bench, settings, advance, fresh)
        elif answers is None:
            with loaded(systems, paths_of_environment(runs), resolve_device(Device.auto)) as base:
                answers = generate_answers(base, systems, open_questions, bench, settings, advance, fresh)
        rows += [
            {
                "system": system.name,
                "run_id": system.run_id,
                "num_answers": len(answers[system.name]),
                "num_shortened": sum(answer.num_dropped_turns > 0 for answer in answers[system.name]),
                "too_long": _without_answer(open_questions, answers[system.name]),
                "path": str(system.folder / "answers" / f"{bench}.jsonl"),
            }
            for system in systems
        ]
    return rows


def generated_lines(row: Mapping[str, Any], max_new_tokens: int) -> list[str]:
    """What a person reads of one system's row."""
    lines = [f"{row['system']}: {row['num_answers']} answers in {row['path']}"]
    if row["num_shortened"]:
        lines.append(
            f"{row['system']}: {row['num_shortened']} dialogues are too long for the context with an answer of "
            f"{max_new_tokens} tokens; they were asked without their oldest turns"
        )
    if too_long := row["too_long"]:
        lines.append(f"{row['system']}: {len(too_long)} questions are longer than the context: {named(too_long)}")
    return lines


def _without_answer(asked: Sequence[OpenQuestion], answers: Sequence[Answer]) -> list[str]:
    """The questions of which a turn has no answer, because it is longer than the model's context."""
    there = {(answer.question_id, answer.turn) for answer in answers}
    return [question.question_id for question in asked if (question.question_id, len(question.turns) - 1) not in there]

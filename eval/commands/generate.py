"""The body of `python -m eval generate`: finds the systems, lets them answer, and sums up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.answers.files import Answer, named
from eval.answers.generate import generate_answers, stored_answers
from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import OpenQuestion, load_open_questions
from eval.answers.settings import GenerateSettings
from eval.answers.vllm import load_vllm, missing_vllm
from eval.systems import (
    Answerer,
    NamedModel,
    System,
    Target,
    by_base,
    chosen_systems,
    each_base,
    loaded,
    refuse_equal_names,
    require_templates,
    tokenizer_here,
)
from harness.config.paths import paths_of_environment
from harness.config.schema import Device
from harness.devices.torch_device import quiet_libraries, resolve_device
from harness.progress import Progress

AnswersByName = dict[str, list[Answer]]


def run_generate(
    target: Target,
    questions: str,
    bench: str,
    limit: int | None,
    settings: GenerateSettings,
    fresh: bool,
    advance: Progress,
    out: Path,
) -> list[dict[str, Any]]:
    """Writes the missing answers of all systems.

    Args:
        target: who answers.
        questions: embedded, or a file of questions.
        bench: the name of the answers' file.
        limit: only the first N questions; None: all.
        settings: how an answer is written.
        fresh: throw away answers that were made with other settings.
        advance: called after each answer.
        out: folder of the answers of a model or an adapter; runs' answers lie in their own folders.

    Returns:
        A row a system: how many answers, and where they lie.

    Raises:
        ValueError: whatever the user can mend.
    """
    quiet_libraries()
    if settings.engine == "vllm" and (problem := missing_vllm()):
        raise ValueError(problem)
    asked = load_open_questions(questions, limit)
    if settings.prompt_format is PromptFormat.chat:
        require_templates(target)
    write = partial(generate_answers, questions=asked, bench=bench, settings=settings, on_progress=advance, fresh=fresh)
    if target.model is not None or target.adapters:
        answered = _of_model(target, settings, write, out)
    else:
        answered = _of_runs(target, settings, write, partial(stored_answers, questions=asked, bench=bench))
    return [
        {
            "system": system.name,
            **({"run_id": system.run_id} if isinstance(system, System) else {}),
            "num_answers": len(answers),
            "num_shortened": sum(answer.num_dropped_turns > 0 for answer in answers),
            "too_long": _without_answer(asked, answers),
            "path": str(system.folder / "answers" / f"{bench}.jsonl"),
        }
        for system, answers in answered
    ]


def _of_model(
    target: Target, settings: GenerateSettings, write: Callable[..., AnswersByName], out: Path
) -> Iterator[tuple[Answerer, list[Answer]]]:
    if settings.engine != "own":
        raise ValueError(f"--engine {settings.engine}: answers for finished runs; leave it out with --model")
    if target.run_ids or target.sweep is not None:
        raise ValueError("--model: answers for itself or its adapters; name runs in a call of their own")
    for base, members in each_base(target):
        systems = [NamedModel(name=name, member=member, folder=out / name) for name, member in members.items()]
        answers = write(base, systems)
        yield from ((system, answers[system.name]) for system in systems)


def _of_runs(
    target: Target,
    settings: GenerateSettings,
    write: Callable[..., AnswersByName],
    stored: Callable[..., AnswersByName | None],
) -> Iterator[tuple[Answerer, list[Answer]]]:
    if target.quant is not None:
        raise ValueError("--quant: a run's own record says how its base is stored; it goes with --model")
    chosen = chosen_systems(target.sweep, target.run_ids, target.runs)
    refuse_equal_names(chosen)  # the judge tells contestants apart by their names
    paths = paths_of_environment(target.runs)
    for systems in by_base(chosen):
        answers = stored(systems, settings=settings, tokenizer_sha256=tokenizer_here(systems[0].spec.model, paths))
        if answers is None and settings.engine == "vllm":
            answers = write(load_vllm(systems, paths), systems)
        elif answers is None:
            with loaded(systems, paths, resolve_device(Device.auto)) as base:
                answers = write(base, systems)
        yield from ((system, answers[system.name]) for system in systems)


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

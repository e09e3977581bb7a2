"""What the `eval` commands do once their options are read: find the systems, score, write, sum up."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from eval.answer_prompts import load_open_questions
from eval.generate import GenerateSettings, generate_answers, stored_answers
from eval.judge_command import estimate, run
from eval.judge_options import ApiOptions, JudgeOptions, LocalOptions, ReplayOptions
from eval.judge_prompts import Mode
from eval.judge_text import estimate_text, summary_text
from eval.mmlu import MmluSettings, score_mmlu
from eval.mmlu_scores import MmluResult, save_result
from eval.systems import by_base, loaded, refuse_equal_names
from eval.target import Target, chosen_systems, each_base
from eval.vllm_engine import load_vllm, missing_vllm
from harness.choices import model_choice, quant_choice
from harness.models import quiet_libraries
from harness.places import paths_of_environment
from harness.schema import Device
from harness.torch_device import resolve_device

Advance = Callable[[int, int], None]


def run_mmlu(
    target: Target, settings: MmluSettings, out: Path, advance: Advance
) -> tuple[dict[str, MmluResult], Table]:
    """Scores the target and writes mmlu.json. -> results by system, and a table of them."""
    quiet_libraries()
    results: dict[str, MmluResult] = {}
    for base, members in each_base(target):
        results |= score_mmlu(base, members, settings, advance, out / "partial")
    for name, result in results.items():
        save_result(result, out if len(results) == 1 else out / name)
    return results, _mmlu_table(results)


def run_generate(
    sweep: str | None,
    run_ids: Sequence[str],
    runs: Path | None,
    questions: str,
    bench: str,
    limit: int | None,
    settings: GenerateSettings,
    fresh: bool,
    advance: Advance,
) -> list[dict[str, Any]]:
    """Writes the missing answers of all systems. -> a row a system: how many, and where they lie."""
    quiet_libraries()
    if settings.engine == "vllm" and (problem := missing_vllm()):
        raise ValueError(problem)
    asked = load_open_questions(questions, limit)
    rows: list[dict[str, Any]] = []
    chosen = chosen_systems(sweep, run_ids, runs)
    refuse_equal_names(chosen)  # the judge tells contestants apart by their names
    for systems in by_base(chosen):
        answers = stored_answers(systems, asked, bench, settings)
        if answers is None and settings.engine == "vllm":
            in_vllm = load_vllm(systems, paths_of_environment(runs))
            answers = generate_answers(in_vllm, systems, asked, bench, settings, advance, fresh)
        elif answers is None:
            with loaded(systems, paths_of_environment(runs), resolve_device(Device.auto)) as base:
                answers = generate_answers(base, systems, asked, bench, settings, advance, fresh)
        rows += [
            {
                "system": system.name,
                "run_id": system.run_id,
                "num_answers": len(answers[system.name]),
                "path": str(system.folder / "answers" / f"{bench}.jsonl"),
            }
            for system in systems
        ]
    return rows


def judged_answers(
    answers: Sequence[Path], sweep: str | None, run_ids: Sequence[str], runs: Path | None
) -> tuple[Path, ...]:
    """Answer files and run folders that a tournament is to be made of."""
    folders = [system.folder for system in chosen_systems(sweep, run_ids, runs)] if sweep or run_ids else []
    return (*answers, *folders)


def judge_options(
    answers: tuple[Path, ...],
    tournament: Path,
    judge: str,
    *,
    reference: str | None,
    max_answer_tokens: int,
    base_url: str,
    key_variable: str,
    budget_usd: float | None,
    usd_per_million_prompt_tokens: float | None,
    usd_per_million_completion_tokens: float | None,
    num_concurrent: int,
    batch: bool,
    **rest: Any,
) -> JudgeOptions:
    """The typed options of a tournament. `judge`: `local:MODEL`, `replay:FILE`, or an API model."""
    kind, _, name = judge.partition(":")
    chosen: LocalOptions | ReplayOptions | ApiOptions
    if kind == "local":
        chosen = LocalOptions(
            model=model_choice(name),
            quant=quant_choice("none"),
            paths=paths_of_environment(),
            max_answer_tokens=max_answer_tokens,
        )
    elif kind == "replay":
        chosen = ReplayOptions(files=(Path(name),))
    else:
        chosen = ApiOptions(
            model=judge,
            base_url=base_url,
            key_variable=key_variable,
            budget_usd=budget_usd,
            usd_per_million_prompt_tokens=usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens=usd_per_million_completion_tokens,
            num_concurrent=num_concurrent,
            batch=batch,
        )
    if batch and not isinstance(chosen, ApiOptions):
        raise ValueError(f"--batch: {judge} is no API model; only those have a Batch API")
    mode = Mode.pairwise if reference is None else Mode.relative
    return JudgeOptions(answers=answers, tournament=tournament, judge=chosen, mode=mode, reference=reference, **rest)


def run_judge(
    options: JudgeOptions, advance: Advance, announce: Callable[[str], None]
) -> tuple[dict[str, Any], str, bool]:
    """Judges. -> the summary as plain values, as text, and whether every match has its judgment."""
    quiet_libraries()
    summary = run(options, advance, on_estimate=lambda ahead: announce(estimate_text(ahead)), say=announce)
    values = asdict(summary) | {"output": str(summary.output), "mode": summary.mode.value}
    return values, summary_text(summary), summary.num_failed == 0


def run_estimate(options: JudgeOptions) -> tuple[dict[str, Any], str]:
    """What an API judge would cost. Raises ValueError for other judges."""
    if not isinstance(options.judge, ApiOptions):
        raise ValueError("--estimate: only an API judge costs money")
    ahead = estimate(options)
    return asdict(ahead), estimate_text(ahead)


def _mmlu_table(results: dict[str, MmluResult]) -> Table:
    table = Table(title="MMLU", title_justify="left", caption="95 % intervals")
    for column in ("system", "mean over subjects", "mean over questions", "n"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, result in results.items():
        cells = [
            f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            for value, (low, high) in (
                (result.accuracy_macro, result.accuracy_macro_ci95),
                (result.accuracy_micro, result.accuracy_micro_ci95),
            )
        ]
        table.add_row(name, *cells, str(result.n))
    return table

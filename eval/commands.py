"""What the `eval` commands do once their options are read: find the systems, score, write, sum up."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from eval.answer_prompts import load_open_questions
from eval.generate import GenerateSettings, generate_answers, stored_answers
from eval.judge_command import estimate, run
from eval.judge_options import ApiOptions, JudgeOptions, LocalOptions, ReplayOptions
from eval.judge_prompts import Mode
from eval.mmlu import MmluSettings, score_mmlu
from eval.mmlu_scores import MmluResult, save_result
from eval.systems import System, by_base, loaded, open_system, refuse_equal_names
from harness.choices import model_choice, quant_choice
from harness.devices import planned_device
from harness.ledger import JobStatus
from harness.locate import locate_model
from harness.models import LoadedBase, load_base, quiet_libraries, resolve_device
from harness.places import existing_ledger, ledger_url, paths_of_environment, without_passwords
from harness.plan import RunSpec
from harness.provenance import RECORD_FILE, load_record
from harness.schema import Device, DType, ModelConfig, PathsConfig, QuantConfig
from harness.stores import Missing

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MmluTarget:
    """What is to be scored: runs that exist, or a model with any number of adapters."""

    model: str | None
    adapters: tuple[Path, ...]
    quant: str | None  # None: as the adapters' own records say, else unquantized
    run_ids: tuple[str, ...]
    sweep: str | None
    runs: Path | None


def chosen_systems(sweep: str | None, run_ids: Sequence[str], runs: Path | None) -> list[System]:
    """The finished runs of a sweep, in its order, and those named.

    Raises:
        ValueError: no such sweep or run, or runs of the sweep that are not done.
    """
    paths = paths_of_environment(runs)
    folder = Path(paths.runs)
    wanted = list(run_ids)
    if sweep is not None:
        wanted += _sweep_runs(paths, sweep)
    if not wanted:
        raise ValueError("nothing to measure: name a --sweep or a --run")
    return [open_system(folder / run_id) for run_id in dict.fromkeys(wanted)]


def run_mmlu(
    target: MmluTarget, settings: MmluSettings, out: Path, advance: Advance
) -> tuple[dict[str, MmluResult], Table]:
    """Scores the target and writes mmlu.json. -> results by system, and a table of them."""
    quiet_libraries()
    partial = out / "partial"
    results: dict[str, MmluResult] = {}
    if target.model is not None:
        base, members = _open_model(target)
        results |= score_mmlu(base, members, settings, advance, partial)
    elif target.adapters:
        raise ValueError("--adapter needs --model: the base that the adapter was trained on")
    else:
        chosen = chosen_systems(target.sweep, target.run_ids, target.runs)
        refuse_equal_names(chosen)
        for systems in by_base(chosen):
            with loaded(systems, paths_of_environment(target.runs), resolve_device(Device.auto)) as base:
                members = {system.name: system.member for system in systems}
                results |= score_mmlu(base, members, settings, advance, partial)
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
    asked = load_open_questions(questions, limit)
    rows: list[dict[str, Any]] = []
    chosen = chosen_systems(sweep, run_ids, runs)
    refuse_equal_names(chosen)  # the judge tells contestants apart by their names
    for systems in by_base(chosen):
        answers = stored_answers(systems, asked, bench, settings)
        if answers is None:
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
    **rest: Any,
) -> JudgeOptions:
    """The typed options of a tournament. `judge`: `local:MODEL`, `replay:FILE`, or an API model."""
    kind, _, name = judge.partition(":")
    chosen: LocalOptions | ReplayOptions | ApiOptions
    if kind == "local":
        chosen = LocalOptions(
            model=model_choice(name),
            quant=resolved_quant(quant_choice("none")),
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
        )
    mode = Mode.pairwise if reference is None else Mode.relative
    return JudgeOptions(answers=answers, tournament=tournament, judge=chosen, mode=mode, reference=reference, **rest)


def run_judge(
    options: JudgeOptions, advance: Advance, announce: Callable[[str], None]
) -> tuple[dict[str, Any], str, bool]:
    """Judges. -> the summary as plain values, as text, and whether every match has its judgment."""
    quiet_libraries()
    summary = run(options, advance, on_estimate=lambda ahead: announce(f"ahead: {ahead}"))
    bias = summary.position_bias
    text = (
        f"{summary.judge}: {summary.num_matches} matches of {summary.num_systems} systems on "
        f"{summary.num_questions} questions; {summary.num_judged} judged now, {summary.num_reused} before, "
        f"{summary.num_failed} failed, {summary.num_unparsed} unparsed, {summary.seconds:.1f} s\n"
        f"position: {bias}\nverdicts in {summary.output}"
    )
    if summary.stopped:
        text += f"\nstopped: {summary.stopped}"
    values = asdict(replace(summary, output=summary.output))
    return values | {"output": str(summary.output), "mode": summary.mode.value}, text, summary.num_failed == 0


def run_estimate(options: JudgeOptions) -> tuple[dict[str, Any], str]:
    """What an API judge would cost. Raises ValueError for other judges."""
    if not isinstance(options.judge, ApiOptions):
        raise ValueError("--estimate: only an API judge costs money")
    ahead = estimate(options)
    return asdict(ahead), str(ahead)


def _sweep_runs(paths: PathsConfig, sweep: str) -> list[str]:
    url = ledger_url(paths)
    ledger = existing_ledger(url)
    try:
        known = [row.name for row in ledger.sweeps()]
        if sweep not in known:
            where = without_passwords(url)
            raise ValueError(f"--sweep {sweep}: no such sweep in {where}; known: {', '.join(known) or 'none'}")
        rows = list(ledger.rows(sweep=sweep, kinds=["train"]))
    finally:
        ledger.close()
    unfinished = [row.label for row in rows if row.status is not JobStatus.done]
    if unfinished:
        raise ValueError(f"--sweep {sweep}: not done yet: {', '.join(unfinished)}; run it again, or name runs by --run")
    return [row.run_id for row in rows]


def _open_model(target: MmluTarget) -> tuple[LoadedBase, dict[str, str | None]]:
    assert target.model is not None
    model: ModelConfig = model_choice(target.model)
    paths = paths_of_environment(target.runs)
    source = locate_model(model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    quant = adapters_quant(target.adapters) if target.quant is None else resolved_quant(quant_choice(target.quant))
    base = load_base(source, quant, resolve_device(Device.auto), Path(paths.cache))
    members: dict[str, str | None] = {}
    for number, folder in enumerate(target.adapters):
        member = f"adapter{number}"
        base.bank.load_member(member, folder)
        name = folder.name if folder.name != "adapter" else folder.parent.name
        members[name if name not in members else f"{name}-{number}"] = member
    return base, members or {model.name: None}


def adapters_quant(adapters: Sequence[Path]) -> QuantConfig:
    """How the adapters' own base was stored, from the records beside them; unquantized where there is no adapter.

    Raises:
        ValueError: an adapter without a record, or adapters of different bases: say --quant.
    """
    if not adapters:
        return resolved_quant(quant_choice("none"))
    found: list[QuantConfig] = []
    for folder in adapters:
        record = load_record(folder.parent) if (folder.parent / RECORD_FILE).is_file() else None
        if record is None:
            raise ValueError(f"--adapter {folder}: no record beside it says how its base was quantized; say --quant")
        found.append(RunSpec.from_dict(record.spec).quant)
    if any(quant != found[0] for quant in found):
        raise ValueError("--adapter: these adapters were trained on differently quantized bases; score them apart")
    return found[0]


def resolved_quant(quant: QuantConfig) -> QuantConfig:
    if quant.compute_dtype is not DType.auto:
        return quant
    on_gpu = planned_device(Device.auto) is Device.cuda
    return replace(quant, compute_dtype=DType.bfloat16 if on_gpu else DType.float32)


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

"""The commands of `python -m eval` that score models on benchmarks: mmlu, glue, super_ni, perplexity, tasks.

`eval.__main__` adds them to its own. Heavy imports wait until a command runs.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eval.console import friendly_errors, progress_bar, show
from harness.devices.process import prepare_process

if TYPE_CHECKING:
    from eval.systems import Target


Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: HARNESS_RUNS, else runs/.")]
Sweep = Annotated[str | None, typer.Option("--sweep", help="All finished runs of this sweep.")]
RunIds = Annotated[list[str] | None, typer.Option("--run", help="A run id; may be repeated.")]
Model = Annotated[str | None, typer.Option(help="A choice of conf/model, or a checkpoint folder.")]
Adapters = Annotated[list[Path] | None, typer.Option(help="A PEFT adapter folder; may be repeated.")]
Quant = Annotated[str | None, typer.Option(help="A choice of conf/quant; default: the adapter's own.")]
Dataset = Annotated[str | None, typer.Option(help="A choice of conf/dataset; default: what it was trained on.")]
Data = Annotated[Path | None, typer.Option(help="A file with the rows; default: the dataset's evaluation split.")]
Split = Annotated[str | None, typer.Option(help="Another of the dataset's splits.")]
RowTokens = Annotated[
    int | None, typer.Option("--row-tokens", help="Tokens of one pass; default: what fits the device.")
]
Out = Annotated[Path, typer.Option(help="Folder for the result; several systems get a folder each in it.")]


def mmlu(
    out: Annotated[Path, typer.Option(help="Folder for mmlu.json; several systems get a folder each in it.")],
    model: Model = None,
    adapter: Adapters = None,
    run: RunIds = None,
    sweep: Sweep = None,
    quant: Quant = None,
    questions: Annotated[str, typer.Option(help="embedded, hub:SPLIT, .jsonl, .csv, or a folder.")] = "embedded",
    shots: Annotated[str, typer.Option(help="Examples shown before a question; likewise.")] = "",
    num_shots: Annotated[int, typer.Option(help="Examples before each question, 0 to 5.")] = 5,
    protocol: Annotated[str, typer.Option(help="lm_eval, qlora_callback or hendrycks.")] = "lm_eval",
    chat: Annotated[bool, typer.Option(help="Ask through the tokenizer's chat template.")] = False,
    split_name: Annotated[str, typer.Option(help="What the questions are called in the result.")] = "",
    limit: Annotated[int | None, typer.Option(help="The first so many questions.")] = None,
    limit_per_subject: Annotated[int | None, typer.Option(help="The first so many questions of each subject.")] = None,
    checkpoints: Annotated[str | None, typer.Option(help="Of one --run: all, last, or steps as 100,200.")] = None,
    row_tokens: RowTokens = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Five-shot multiple choice: accuracy with intervals, every prediction kept."""
    prepare_process()
    from eval.benchmarks.mmlu.prompts import Protocol
    from eval.benchmarks.mmlu.score import MmluSettings
    from eval.commands.score_models import run_checkpoints, run_mmlu

    with friendly_errors():
        known = [p.value for p in Protocol]
        if protocol not in known:
            raise ValueError(f"--protocol {protocol}: expected one of {', '.join(known)}")
        settings = MmluSettings(
            questions=questions,
            shots=shots or ("embedded" if questions == "embedded" else "hub:dev"),
            num_shots=num_shots,
            protocol=Protocol(protocol),
            chat=chat,
            limit=limit,
            limit_per_subject=limit_per_subject,
            split_name=split_name,
            row_tokens=row_tokens,
        )
        target = _target(model, adapter, quant, run, sweep, runs)
        if checkpoints is not None:
            with progress_bar("mmlu", as_json) as advance:
                found, shown = run_checkpoints(target, checkpoints, settings, out, advance)
            show(found.to_json(), shown, as_json)
            return
        with progress_bar("mmlu", as_json) as advance:
            results, shown = run_mmlu(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


def glue(
    run: RunIds = None,
    sweep: Sweep = None,
    model: Model = None,
    adapter: Adapters = None,
    quant: Quant = None,
    dataset: Dataset = None,
    data: Data = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(help="The first so many rows.")] = None,
    out: Out = Path("scores"),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Classifiers on rows with labels: accuracy, F1, Matthews, or correlations, with intervals."""
    prepare_process()
    from eval.benchmarks.glue import GlueSettings
    from eval.commands.score_runs import DatasetTarget, run_glue

    with friendly_errors():
        settings = GlueSettings(limit=limit)
        found = _target(model, adapter, quant, run, sweep, runs)
        target = DatasetTarget(**asdict(found), dataset=dataset, data=data, split=split)
        with progress_bar("rows", as_json) as advance:
            results, shown = run_glue(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


def super_ni(
    run: RunIds = None,
    sweep: Sweep = None,
    model: Model = None,
    adapter: Adapters = None,
    quant: Quant = None,
    dataset: Dataset = None,
    data: Data = None,
    split: Split = None,
    limit_per_task: Annotated[int, typer.Option(help="The first so many instances of each task; 0 for all.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(help="An answer's longest length, in tokens.")] = 128,
    out: Out = Path("scores"),
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """T5 on Super-NaturalInstructions: RougeL and exact match of greedy answers, by task, with intervals."""
    prepare_process()
    from eval.benchmarks.super_ni import SuperNiSettings
    from eval.commands.score_runs import DatasetTarget, run_super_ni

    with friendly_errors():
        settings = SuperNiSettings(limit_per_task=limit_per_task or None, max_new_tokens=max_new_tokens)
        found = _target(model, adapter, quant, run, sweep, runs)
        target = DatasetTarget(**asdict(found), dataset=dataset, data=data, split=split)
        with progress_bar("instances", as_json) as advance:
            results, shown = run_super_ni(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


def perplexity(
    text: Annotated[str, typer.Option(help="pile_cc, wikitext2, hub:ID[:SUBSET]:SPLIT, .jsonl, .txt, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for perplexity.json; several systems get a folder each in it.")],
    model: Model = None,
    adapter: Adapters = None,
    run: RunIds = None,
    sweep: Sweep = None,
    quant: Quant = None,
    window: Annotated[int | None, typer.Option(help="Tokens of context at most; default: the model's longest.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens a further window predicts; default: the window.")] = None,
    field: Annotated[str, typer.Option(help="Which column of a row is the text.")] = "text",
    only: Annotated[str, typer.Option(help="key=value: only such rows; dots reach into objects.")] = "",
    joined: Annotated[bool, typer.Option(help="All rows are one text, a blank line between them.")] = False,
    limit: Annotated[int | None, typer.Option(help="The first so many documents.")] = None,
    row_tokens: RowTokens = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a text by token, byte and word, in sliding windows, with intervals over documents."""
    prepare_process()
    from eval.benchmarks.perplexity import PerplexitySettings
    from eval.benchmarks.texts import TextSource
    from eval.commands.score_models import run_perplexity

    with friendly_errors():
        target = _target(model, adapter, quant, run, sweep, runs)
        source = TextSource(where=text, field=field, only=only, joined=joined, limit=limit)
        settings = PerplexitySettings(text=text, window=window, stride=stride, row_tokens=row_tokens)
        with progress_bar("windows", as_json) as advance:
            results, shown = run_perplexity(target, source, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


def tasks(
    tasks: Annotated[str, typer.Option(help="lm-eval's names, with commas: hellaswag,piqa,crows_pairs_english.")],
    out: Annotated[Path, typer.Option(help="Folder for tasks.json; several systems get a folder each in it.")],
    model: Model = None,
    adapter: Adapters = None,
    run: RunIds = None,
    sweep: Sweep = None,
    quant: Quant = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before a question; default: the task's.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many questions of each task.")] = None,
    task_folder: Annotated[Path | None, typer.Option(help="With YAML files of further tasks, over local data.")] = None,
    row_tokens: RowTokens = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """lm-eval's likelihood tasks (HellaSwag, PiQA, ARC, Winogrande, LAMBADA, CrowS-Pairs) on the loaded model."""
    prepare_process()
    from eval.benchmarks.tasks import TasksSettings
    from eval.commands.score_models import run_tasks

    with friendly_errors():
        target = _target(model, adapter, quant, run, sweep, runs)
        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        settings = TasksSettings(
            tasks=names, num_fewshot=num_fewshot, limit=limit, folder=task_folder, row_tokens=row_tokens
        )
        with progress_bar("requests", as_json) as advance:
            results, shown = run_tasks(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


def _target(
    model: str | None,
    adapter: list[Path] | None,
    quant: str | None,
    run: list[str] | None,
    sweep: str | None,
    runs: Path | None,
) -> "Target":
    from eval.systems import Target

    return Target(
        model=model, adapters=tuple(adapter or ()), quant=quant, run_ids=tuple(run or ()), sweep=sweep, runs=runs
    )


def add_commands(app: typer.Typer) -> None:
    """Adds these commands under their functions' names."""
    for command in (mmlu, glue, super_ni, perplexity, tasks):
        app.command(command.__name__)(command)

"""The commands `python -m eval ...`: measure runs that exist, or any model path.

    python -m eval mmlu --model smollm2 --out scores/
    python -m eval perplexity --model smollm2 --text book.txt --out scores/
    python -m eval tasks --model smollm2 --tasks hellaswag,piqa --out scores/
    python -m eval glue --run RUN_ID
    python -m eval super_ni --run RUN_ID
    python -m eval generate --sweep demo
    python -m eval judge --sweep demo --tournament tournaments/demo
    python -m eval rate tournaments/demo/verdicts.csv
    python -m eval agree gpt4.csv human.csv

The only module of `eval` that knows the command-line library. Heavy imports wait until a command runs, so
that `rate` and `--help` answer at once.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.process import prepare_process

if TYPE_CHECKING:
    from eval.target import Target

app = typer.Typer(
    help="Measure finetuned runs and other models; compare them by judges; rate them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
STDOUT = Console(width=None if sys.stdout.isatty() else 140)
STDERR = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: HARNESS_RUNS, else runs/.")]
Sweep = Annotated[str | None, typer.Option("--sweep", help="All finished runs of this sweep.")]
RunIds = Annotated[list[str] | None, typer.Option("--run", help="A run id; may be repeated.")]
Model = Annotated[str | None, typer.Option(help="A choice of conf/model, or a checkpoint folder.")]
Adapters = Annotated[list[Path] | None, typer.Option(help="A PEFT adapter folder; may be repeated.")]
Quant = Annotated[str | None, typer.Option(help="A choice of conf/quant; default: the adapter's own.")]


@app.command()
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
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Five-shot multiple choice: accuracy with intervals, every prediction kept."""
    prepare_process()
    from eval.commands import run_mmlu
    from eval.measure import run_checkpoints
    from eval.mmlu import MmluSettings
    from eval.mmlu_prompts import Protocol

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


Dataset = Annotated[str | None, typer.Option(help="A choice of conf/dataset; default: what it was trained on.")]
Data = Annotated[Path | None, typer.Option(help="A file with the rows; default: the dataset's evaluation split.")]
Split = Annotated[str | None, typer.Option(help="Another of the dataset's splits.")]
Out = Annotated[Path, typer.Option(help="Folder for the result; several systems get a folder each in it.")]


@app.command()
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
    from eval.dataset_commands import DatasetTarget, run_glue
    from eval.glue import GlueSettings

    with friendly_errors():
        settings = GlueSettings(limit=limit)
        target = DatasetTarget(
            model=model,
            adapters=tuple(adapter or ()),
            quant=quant,
            run_ids=tuple(run or ()),
            sweep=sweep,
            runs=runs,
            dataset=dataset,
            data=data,
            split=split,
        )
        with progress_bar("rows", as_json) as advance:
            results, shown = run_glue(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


@app.command("super_ni")
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
    from eval.dataset_commands import DatasetTarget, run_super_ni
    from eval.super_ni import SuperNiSettings

    with friendly_errors():
        settings = SuperNiSettings(limit_per_task=limit_per_task or None, max_new_tokens=max_new_tokens)
        target = DatasetTarget(
            model=model,
            adapters=tuple(adapter or ()),
            quant=quant,
            run_ids=tuple(run or ()),
            sweep=sweep,
            runs=runs,
            dataset=dataset,
            data=data,
            split=split,
        )
        with progress_bar("instances", as_json) as advance:
            results, shown = run_super_ni(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


@app.command()
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
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a text by token, byte and word, in sliding windows, with intervals over documents."""
    prepare_process()
    from eval.measure import run_perplexity
    from eval.perplexity import PerplexitySettings
    from eval.texts import TextSource

    with friendly_errors():
        target = _target(model, adapter, quant, run, sweep, runs)
        source = TextSource(where=text, field=field, only=only, joined=joined, limit=limit)
        settings = PerplexitySettings(text=text, window=window, stride=stride)
        with progress_bar("windows", as_json) as advance:
            results, shown = run_perplexity(target, source, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


@app.command()
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
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """lm-eval's likelihood tasks (HellaSwag, PiQA, ARC, Winogrande, LAMBADA, CrowS-Pairs) on the loaded model."""
    prepare_process()
    from eval.measure import run_tasks
    from eval.tasks import TasksSettings

    with friendly_errors():
        target = _target(model, adapter, quant, run, sweep, runs)
        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        settings = TasksSettings(tasks=names, num_fewshot=num_fewshot, limit=limit, folder=task_folder)
        with progress_bar("requests", as_json) as advance:
            results, shown = run_tasks(target, settings, out, advance)
        show({name: result.to_json() for name, result in results.items()}, shown, as_json)


@app.command()
def generate(
    sweep: Sweep = None,
    run: RunIds = None,
    questions: Annotated[str, typer.Option(help="embedded, or .jsonl with question_id and text.")] = "embedded",
    bench: Annotated[str, typer.Option(help="Name of the answers' file in each run folder.")] = "open",
    limit: Annotated[int | None, typer.Option(help="The first so many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="An answer's longest length, in tokens.")] = 512,
    greedy: Annotated[bool, typer.Option(help="Always the likeliest token.")] = False,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of nucleus sampling.")] = 0.9,
    seed: Annotated[int, typer.Option(help="With the prompt's id, the seed of its answer.")] = 0,
    engine: Annotated[str, typer.Option(help="own, or vllm where that is installed.")] = "own",
    fresh: Annotated[bool, typer.Option(help="Throw away answers that were made with other settings.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Answers of runs to open prompts, appended as they come; goes on where it ended."""
    prepare_process()
    from eval.commands import run_generate
    from eval.generate import GenerateSettings

    with friendly_errors():
        settings = GenerateSettings(
            max_new_tokens=max_new_tokens,
            greedy=greedy,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            engine=engine,
        )
        with progress_bar("answers", as_json) as advance:
            summary = run_generate(sweep, tuple(run or ()), runs, questions, bench, limit, settings, fresh, advance)
        lines = [f"{row['system']}: {row['num_answers']} answers in {row['path']}" for row in summary]
        show(summary, "\n".join(lines), as_json)


@app.command()
def judge(
    tournament: Annotated[Path, typer.Option(help="Folder for judgments.sqlite and verdicts.csv.")],
    answers: Annotated[list[Path] | None, typer.Argument(help="Answer files (.jsonl) or run folders.")] = None,
    sweep: Sweep = None,
    run: RunIds = None,
    questions: Annotated[Path | None, typer.Option(help="Questions .jsonl; default: embedded.")] = None,
    bench: Annotated[str, typer.Option(help="Which answers of a run folder.")] = "open",
    judge: Annotated[str, typer.Option(help="local:MODEL, replay:FILE.csv, or an API model.")] = "local:smollm2",
    base_url: Annotated[
        str, typer.Option(help="OpenAI-compatible server of an API judge.")
    ] = "https://api.openai.com/v1",
    key_variable: Annotated[str, typer.Option(help="Environment variable with its key.")] = "OPENAI_API_KEY",
    budget_usd: Annotated[float | None, typer.Option(help="Hard stop for paid calls, in US dollars.")] = None,
    usd_per_million_prompt_tokens: Annotated[float | None, typer.Option(help="The server's price.")] = None,
    usd_per_million_completion_tokens: Annotated[float | None, typer.Option(help="The server's price.")] = None,
    num_concurrent: Annotated[int, typer.Option(help="Calls under way at once.")] = 8,
    reference: Annotated[str | None, typer.Option(help="Ten-point scores relative to this system.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A released judge prompt file; default: our own.")] = None,
    null_control: Annotated[bool, typer.Option(help="Adds a contestant with one constant answer.")] = False,
    max_questions: Annotated[int | None, typer.Option(help="The first so many questions.")] = None,
    max_answer_tokens: Annotated[int, typer.Option(help="Of each answer, for a local judge.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the order in which matches are judged.")] = 0,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Only say what an API judge would cost.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Every pair of systems on every question, in both orders; every judgment kept as it arrives."""
    prepare_process()
    from eval.commands import judge_options, judged_answers, run_estimate, run_judge

    with friendly_errors():
        paths = judged_answers(tuple(answers or ()), sweep, tuple(run or ()), runs)
        options = judge_options(
            paths,
            tournament,
            judge,
            questions=questions,
            benchmark=bench,
            reference=reference,
            prompts=prompts,
            null_control=null_control,
            max_questions=max_questions,
            seed=seed,
            max_answer_tokens=max_answer_tokens,
            base_url=base_url,
            key_variable=key_variable,
            budget_usd=budget_usd,
            usd_per_million_prompt_tokens=usd_per_million_prompt_tokens,
            usd_per_million_completion_tokens=usd_per_million_completion_tokens,
            num_concurrent=num_concurrent,
        )
        if estimate_only:
            show(*run_estimate(options), as_json)
            return
        with progress_bar("judgments", as_json) as advance:
            values, text, complete = run_judge(options, advance, STDERR.print)
        show(values, text, as_json)
    if not complete:
        raise typer.Exit(1)


@app.command()
def rate(
    verdicts: Annotated[list[Path], typer.Argument(help="Verdict or ten-point CSV files.")],
    k: Annotated[float, typer.Option(help="Elo points at stake in a match.")] = 32.0,
    start: Annotated[float, typer.Option(help="Elo before the first match.")] = 1000.0,
    orderings: Annotated[int, typer.Option(help="Random orders of play; 0 leaves Elo out.")] = 10_000,
    sample_size: Annotated[int | None, typer.Option(help="Matches drawn for an ordering; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of orderings and resamples.")] = 0,
    resamples: Annotated[int, typer.Option(help="Of the prompts, for intervals.")] = 1000,
    aggregate: Annotated[str, typer.Option(help="Several raters an item: majority or each.")] = "majority",
    answers: Annotated[list[Path] | None, typer.Option(help="Answers .jsonl, for length and style control.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Elo, Bradley-Terry and Davidson ratings with honest intervals; position bias; what is separable."""
    from eval.rate_command import rate_command
    from eval.ratings import RateOptions
    from harness.files import write_json

    with friendly_errors():
        options = RateOptions(
            k=k,
            start=start,
            orderings=orderings,
            sample_size=sample_size,
            seed=seed,
            resamples=resamples,
            aggregate=aggregate,
            answers=tuple(answers or ()),
        )
        result, shown = rate_command(verdicts, options)
        if out is not None:
            write_json(out, result.to_json())
        show(result.to_json(), shown, as_json)


@app.command()
def agree(
    a: Annotated[Path, typer.Argument(help="Verdicts of one judge.")],
    b: Annotated[Path, typer.Argument(help="Verdicts of the other.")],
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    resamples: Annotated[int, typer.Option(help="Of the prompts, for intervals.")] = 1000,
    as_json: Json = False,
) -> None:
    """Do two judges agree? Fleiss kappa, Krippendorff alpha, Cohen, Kendall, Spearman, percent, with intervals."""
    from eval.agree_command import agree_command
    from eval.agreement import AgreeOptions

    with friendly_errors():
        result, shown = agree_command(a, b, AgreeOptions(seed=seed, resamples=resamples))
        show(result.to_json(), shown, as_json)


def _target(
    model: str | None,
    adapter: list[Path] | None,
    quant: str | None,
    run: list[str] | None,
    sweep: str | None,
    runs: Path | None,
) -> "Target":
    from eval.target import Target

    return Target(
        model=model, adapters=tuple(adapter or ()), quant=quant, run_ids=tuple(run or ()), sweep=sweep, runs=runs
    )


def show(values: Any, shown: RenderableType, as_json: bool) -> None:
    """Prints the result for a person or a program, never both."""
    if as_json:
        print(json.dumps(values, allow_nan=False))
    else:
        STDOUT.print(shown)


@contextmanager
def progress_bar(what: str, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; in a log a line now and then."""
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=STDERR,
        disable=hidden or not STDERR.is_terminal,
    )
    task = bar.add_task(what, total=None)
    shown_tenth = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown_tenth
        bar.update(task, completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not hidden and not STDERR.is_terminal and tenth != shown_tenth:  # it falls where the next base begins
            shown_tenth = tenth
            STDERR.print(f"{what}: {done} of {total}", highlight=False)

    with bar:
        yield advance


@contextmanager
def friendly_errors() -> Iterator[None]:
    """What a user can mend is one red sentence and exit status 2, never a stack trace."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        STDERR.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app(prog_name="python -m eval")

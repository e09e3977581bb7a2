"""The commands of `python -m eval` that compare systems: generate, judge, rate, agree; and self-targets.

`eval.__main__` adds them to its own. Heavy imports wait until a command runs, so that `rate` and `--help` answer at
once.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.answers.settings import GenerateSettings
from eval.commands.flags import with_flags
from eval.commands.scores import Adapters, Json, Model, Quant, RunIds, Runs, Sweep
from eval.judging.flags import DEFAULT_JUDGE, JudgeFlags
from harness.console import STDERR, friendly_errors, progress_bar, show
from harness.devices.process import heavy_imports

GENERATE_HELP = {
    "max_new_tokens": "An answer's longest length, in tokens.",
    "greedy": "Always the likeliest token.",
    "temperature": "Of sampling.",
    "top_p": "Of nucleus sampling.",
    "seed": "With the prompt's id, the seed of its answer.",
    "prompt_format": "auto: chat where the tokenizer has a template, else the paper's (human).",
    "num_slots": typer.Option("--slots", help="Answers under way at once; default: what fits, up to 32."),
    "engine": "own, or vllm where that is installed.",
}
BENCH_HELP = "Only this set of questions, of files that have a column benchmark."
TURN_HELP = "Only this turn of the dialogues, from 1; default: all, each a match of its own."
JUDGE_HELP = {
    "max_answer_tokens": "Of each answer, for a local judge.",
    "chat_template": "Ask a local judge through its tokenizer's chat template.",
    "base_url": "OpenAI-compatible server of an API judge.",
    "key_variable": "Environment variable with its key.",
    "temperature": "Of an API judge; left out where the server refuses it.",
    "max_tokens": "Of an API judge's reply, a reasoning model's thoughts included.",
    "reasoning_effort": "Of a reasoning judge: low, medium, high, as its server names them.",
    "structured": "JSON replies; default: where the server can.",
    "budget_usd": "Hard stop for paid calls, in US dollars.",
    "usd_per_million_prompt_tokens": "The server's price; default: the list price of a usual model.",
    "usd_per_million_completion_tokens": "The server's price; default: the list price of a usual model.",
    "prices": 'JSON file {"model": [prompt, completion]} of prices a million tokens, before the list prices.',
    "num_concurrent": "Calls under way at once.",
    "request_timeout_seconds": "Of one call, from connecting to its last byte; six are tried.",
    "batch": "By the server's Batch API: half the price, within 24 hours, resumable.",
}


@with_flags(GenerateSettings, GENERATE_HELP)
def generate(
    sweep: Sweep = None,
    run: RunIds = None,
    model: Model = None,
    adapter: Adapters = None,
    quant: Quant = None,
    out: Annotated[Path, typer.Option(help="With --model: answers/ of each goes to a folder in it.")] = Path("answers"),
    questions: Annotated[str, typer.Option(help="embedded, or .jsonl with question_id and text.")] = "embedded",
    bench: Annotated[str, typer.Option(help="Name of the answers' file in each run folder.")] = "open",
    limit: Annotated[int | None, typer.Option(help="The first so many prompts.")] = None,
    fresh: Annotated[bool, typer.Option(help="Throw away answers that were made with other settings.")] = False,
    runs: Runs = None,
    as_json: Json = False,
    *,
    flags: GenerateSettings,
) -> None:
    """Answers of runs, of a model or of its adapters to open prompts, appended as they come; goes on where it ended."""
    with heavy_imports():
        from eval.commands.generate import generated_lines, run_generate
        from eval.systems import Target

    with friendly_errors():
        target = Target(
            model=model,
            adapters=tuple(adapter or ()),
            quant=quant,
            run_ids=tuple(run or ()),
            sweep=sweep,
            runs=runs,
        )
        with progress_bar("answers", as_json) as advance:
            summary = run_generate(target, questions, bench, limit, flags, fresh, advance, out)
        lines = [line for row in summary for line in generated_lines(row, flags.max_new_tokens)]
        show(summary, "\n".join(lines), as_json)


def self_targets(
    out: Annotated[Path, typer.Option(help="The file of rows (.jsonl); <out>.origins.jsonl says where each is from.")],
    right: Annotated[str, typer.Option(help="When an answer is right: exact, number (as in GSM8K), or contains.")],
    dataset: Annotated[str | None, typer.Option(help="A choice of conf/dataset; or give --data.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file of rows; its columns say its format.")] = None,
    run: RunIds = None,
    model: Model = None,
    adapter: Adapters = None,
    quant: Quant = None,
    otherwise: Annotated[
        str, typer.Option(help="Rows without a right answer: target (they keep theirs, S3FT) or drop (SELF-GUIDE).")
    ] = "target",
    samples: Annotated[int, typer.Option(min=1, help="Answers to a row at most; the first right one is taken.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="An answer's longest length; longer ones are never right.")] = 256,
    greedy: Annotated[bool, typer.Option(help="Always the likeliest token; one sample says all then.")] = False,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.7,
    seed: Annotated[int, typer.Option(help="With the row's line, the seed of its answer.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Throw away answers that were made with other settings.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Rows whose targets a model wrote itself, where they are right, as a file to train on.

    python -m eval self-targets --model smollm2 --dataset concise --right contains --out own.jsonl

    python -m harness.run model=smollm2 dataset=local dataset.path=own.jsonl
    """
    with heavy_imports():
        from eval.commands.self_targets import own_line, run_self_targets
        from eval.systems import Target

    with friendly_errors():
        target = Target(
            model=model, adapters=tuple(adapter or ()), quant=quant, run_ids=tuple(run or ()), sweep=None, runs=runs
        )
        settings = GenerateSettings(max_new_tokens=max_new_tokens, greedy=greedy, temperature=temperature, seed=seed)
        with progress_bar("answers", as_json) as advance:
            made = run_self_targets(
                target, dataset, data, right, otherwise, samples, limit, settings, out, fresh, advance
            )
        show(made, own_line(made), as_json)


@with_flags(JudgeFlags, JUDGE_HELP)
def judge(
    tournament: Annotated[Path, typer.Option(help="Folder for judgments.sqlite and verdicts.csv.")],
    answers: Annotated[list[Path] | None, typer.Argument(help="Answer files or run folders.")] = None,
    sweep: Sweep = None,
    run: RunIds = None,
    questions: Annotated[Path | None, typer.Option(help="Questions .jsonl; default: embedded.")] = None,
    bench: Annotated[str, typer.Option(help="Which answers of a run folder.")] = "open",
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="local:MODEL, replay:FILE.csv (#JUDGE behind it where it holds several judges'), or an API model; "
            "several, with commas or repeated, are an ensemble. "
            f"Default: {DEFAULT_JUDGE}."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="pairwise, or single: a grade from 1 to 10 for each answer by itself.")
    ] = "pairwise",
    reference: Annotated[str | None, typer.Option(help="Ten-point scores relative to this system.")] = None,
    reference_answers: Annotated[
        bool, typer.Option(help="Show the judge the reference answers of questions that have one.")
    ] = True,
    prompts: Annotated[Path | None, typer.Option(help="A released judge prompt file; default: our own.")] = None,
    null_control: Annotated[bool, typer.Option(help="Adds a contestant with one constant answer.")] = False,
    max_questions: Annotated[int | None, typer.Option(help="The first so many questions.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which matches are judged.")] = 0,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Only say what an API judge would cost.")] = False,
    retry_unparsed: Annotated[bool, typer.Option(help="Ask again where a reply could not be read.")] = False,
    reparse: Annotated[bool, typer.Option(help="Read stored replies anew; costs nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Pay without asking. Only a person at a terminal is asked; a script goes on.")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
    *,
    flags: JudgeFlags,
) -> None:
    """Every pair of systems on every question, in both orders; every judgment kept as it arrives."""
    with heavy_imports():
        from eval.commands.judge import judge_names, judge_options, run_estimate, run_judge, run_judges
        from eval.systems import judged_answers

    with friendly_errors():
        contest: dict[str, Any] = {
            "questions": questions,
            "benchmark": bench,
            "prompts": prompts,
            "null_control": null_control,
        }
        contest |= {"reference": reference, "max_questions": max_questions, "seed": seed}
        contest |= {"mode": mode, "reference_answers": reference_answers}
        contest |= {"retry_unparsed": retry_unparsed, "reparse": reparse}
        paths = judged_answers(tuple(answers or ()), sweep, tuple(run or ()), runs)
        names = judge_names(judge or [DEFAULT_JUDGE])
        options = [judge_options(paths, tournament, name, flags, **contest) for name in names]
        if estimate_only:
            values, texts = zip(*map(run_estimate, options), strict=True)
            show(values[0] if len(values) == 1 else values, "\n".join(texts), as_json)
            return
        confirm = None if yes or not (sys.stdin.isatty() and sys.stderr.isatty()) else partial(typer.confirm, err=True)
        shown = (partial(progress_bar, "judgments", as_json), STDERR.print, confirm)
        found, text, complete = run_judges(options, *shown) if len(options) > 1 else run_judge(options[0], *shown)
        show(found, text, as_json)
    if not complete:
        raise typer.Exit(1)


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
    people: Annotated[
        list[Path] | None, typer.Option(help="People's votes on some matches, .csv: they correct the judge's ratings.")
    ] = None,
    bench: Annotated[str | None, typer.Option(help=BENCH_HELP)] = None,
    turn: Annotated[int | None, typer.Option(help=TURN_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Elo, Bradley-Terry and Davidson ratings with honest intervals; position bias; what is separable."""
    from eval.commands.rate import rate_command
    from eval.ratings.rate import RateOptions
    from harness.files.atomic import write_json

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
            people=tuple(people or ()),
            benchmark=bench,
            turn=turn,
        )
        result, shown = rate_command(verdicts, options)
        if out is not None:
            write_json(out, result.to_json())
        show(result.to_json(), shown, as_json)


def agree(
    a: Annotated[Path, typer.Argument(help="Verdicts of one judge.")],
    b: Annotated[Path, typer.Argument(help="Verdicts of the other.")],
    without: Annotated[
        list[str] | None, typer.Option(help="A system to leave out, as gpt-4 makes any ranking agree; may be repeated.")
    ] = None,
    own_a: Annotated[str | None, typer.Option(help="The system that judge A itself is: its self-preference.")] = None,
    own_b: Annotated[str | None, typer.Option(help="Likewise for judge B.")] = None,
    answers: Annotated[list[Path] | None, typer.Option(help="Answers .jsonl, for each judge's length bias.")] = None,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    resamples: Annotated[int, typer.Option(help="Of the prompts, for intervals.")] = 1000,
    bench: Annotated[str | None, typer.Option(help=BENCH_HELP)] = None,
    turn: Annotated[int | None, typer.Option(help=TURN_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Do two judges agree? Fleiss kappa, Krippendorff alpha, Cohen, Kendall, Spearman, percent, with intervals."""
    from eval.commands.agree import agree_command
    from eval.ratings.agreement import AgreeOptions

    with friendly_errors():
        options = AgreeOptions(
            seed=seed,
            resamples=resamples,
            without=tuple(without or ()),
            own_a=own_a,
            own_b=own_b,
            answers=tuple(answers or ()),
            benchmark=bench,
            turn=turn,
        )
        result, shown = agree_command(a, b, options)
        show(result.to_json(), shown, as_json)


def add_contests(app: typer.Typer) -> None:
    """Adds these commands under their functions' names."""
    for command in (generate, self_targets, judge, rate, agree):
        app.command(command.__name__.replace("_", "-"))(command)

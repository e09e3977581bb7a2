"""Times a task that generates on our batches beside lm-eval's own HF model: the same answers, in turns A B A B.

    python -m benchmarks.evaluation.generative_tasks --prompts 32 --max-gen-toks 64
    python -m benchmarks.evaluation.generative_tasks --batch-size 32        # lm-eval's model in one padded batch

SmolLM2 in float32 on 2 threads; lm-eval's `gsm8k` with two worked examples over word problems that are written here.
lm-eval's model asks `--batch-size` prompts at a time, by default one, as its command does. Prints seconds of both, the
ratio and how many answers are equal. Records: benchmarks/results/generative-tasks-*.md.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.mmlu import PLAIN, Seconds, smollm2
from eval.benchmarks.tasks.score import load_tasks, score_tasks
from eval.benchmarks.tasks.settings import TasksSettings
from harness.banks.load import load_base
from harness.models.convert import checkpoint_folder

NAME = "local_gsm8k"
_THINGS = ("apples", "books", "coins", "stamps", "shells", "pencils", "marbles", "tickets")


def main() -> None:
    """Times both sides in turn and prints a line a turn."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    source, cache = smollm2(options.cache), Path(options.cache)
    base = load_base(source, PLAIN, torch.device("cpu"), cache)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    with TemporaryDirectory() as folder:
        settings = TasksSettings(
            names=[write_task(Path(folder), options.prompts)], folder=folder, max_gen_toks=options.max_gen_toks
        )
        for _ in range(options.repeats):
            start = Seconds.now()
            ours = score_tasks(base, {"smollm2": None}, settings)["smollm2"]
            ours_spent = Seconds.now() - start
            theirs_model = HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=options.batch_size)
            start = Seconds.now()
            theirs = lm_eval_answers(theirs_model, settings)
            theirs_spent = Seconds.now() - start
            answers = [prediction.responses[0] for prediction in ours.tasks[NAME].predictions]
            line = {
                "ours": ours_spent.rounded(),
                f"lm-eval, batch {options.batch_size}": theirs_spent.rounded(),
                "ratio_wall": theirs_spent.wall / ours_spent.wall,
                "ratio_cpu": theirs_spent.cpu / ours_spent.cpu,
                "equal_answers": sum(one == two for one, two in zip(answers, theirs, strict=True)),
                "of": len(theirs),
                "mean_characters": sum(map(len, theirs)) / len(theirs),
            }
            print(json.dumps(line), flush=True)


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--max-gen-toks", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default=".cache")
    return parser.parse_args()


def write_task(folder: Path, count: int) -> str:
    """Writes lm-eval's gsm8k over `count` problems of our own. -> its name"""
    data = folder / "problems.jsonl"
    data.write_text("".join(json.dumps(problem(number)) + "\n" for number in range(count)))
    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"),
        "task": NAME,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"train": str(data), "test": str(data)},
            "cache_dir": str(folder / "cache"),
        },
        "num_fewshot": 2,
    }
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(task))
    return NAME


def problem(number: int) -> dict[str, str]:
    """A word problem with its worked answer."""
    thing, have, more, times = _THINGS[number % len(_THINGS)], 3 + number, 2 + number % 5, 2 + number % 3
    worked = f"Together there are {have} + {more} = {have + more} {thing}."
    return {
        "question": f"Ann has {have} {thing} and finds {more} more. Ben has {times} times as many. How many has Ben?",
        "answer": f"{worked}\nBen has {times} * {have + more} = {times * (have + more)}.\n#### {times * (have + more)}",
    }


def lm_eval_answers(model: Any, settings: TasksSettings) -> list[str]:
    """The answers of lm-eval's HF model, in the questions' order."""
    loaded = load_tasks(settings)
    for task in loaded["tasks"].values():
        task.config.generation_kwargs["max_gen_toks"] = settings.max_gen_toks
    output: Any = evaluate(model, loaded, bootstrap_iters=0, log_samples=True)
    samples = {sample["doc_id"]: sample["resps"][0][0] for sample in output["samples"][NAME]}
    return [str(samples[doc_id]) for doc_id in sorted(samples)]


if __name__ == "__main__":
    main()

"""How much faster is MMLU here than lm-eval's HF model? The same questions, one process, A B A B.

    python -m benchmarks.mmlu --questions ../shared/data/mmlu/val.jsonl --shots ../shared/data/mmlu/dev.jsonl

SmolLM2 in float32 on 2 threads, 5-shot, the alphabetically first 12 subjects (171 questions of the
validation split). lm-eval runs at the batch size that was fastest on the first subjects. Prints seconds of
scoring (model loading and task building left out on both sides), the ratio, the largest difference of
a log-probability, and how many choices agree; `--adapters 4` times four adapters in one call beside one.
Records: benchmarks/results/mmlu-*.md.
"""

import argparse
import json
import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.lm_eval_reference import Reference, hf_model, score, write_tasks
from eval.mmlu import MmluSettings, encode_set, load_set, score_mmlu
from eval.mmlu_scores import MmluResult
from eval.questions import Role, load_questions
from eval.scoring import common_prefix
from harness.locate import ModelSource, locate_model
from harness.models import LoadedBase, checkpoint_folder, load_base
from harness.schema import AdapterConfig, DType, ModelConfig, PathsConfig, QuantConfig, QuantMethod

PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        settings = first_subjects(options.questions, options.shots, options.subjects, Path(name))
        source = smollm2(options.cache)
        base = load_base(source, PLAIN, torch.device("cpu"), Path(options.cache))
        print(json.dumps(token_counts(base, settings)))
        if options.adapters:
            time_adapters(base, settings, options.adapters, options.repeats)
        else:
            compare(base, source, settings, options, Path(name))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_memory_mib": round(peak_mib)}))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--shots", required=True)
    parser.add_argument("--subjects", type=int, default=12, help="the alphabetically first so many")
    parser.add_argument("--batch-sizes", default="1,4,8,16", help="that lm-eval may choose from")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=0, help="time so many adapters in one call instead")
    parser.add_argument("--cache", default=".cache")
    return parser.parse_args()


def first_subjects(questions: str, shots: str, count: int, folder: Path) -> MmluSettings:
    """A file with the questions of the alphabetically first subjects."""
    rows = [json.loads(line) for line in Path(questions).read_text().split("\n") if line]
    subjects = sorted({row["subject"] for row in rows})[:count]
    path = folder / f"first_{count}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["subject"] in subjects))
    return MmluSettings(questions=str(path), shots=shots)


def smollm2(cache: str) -> ModelSource:
    model = ModelConfig(name="smollm2", hub_id="embedded/smollm2-135m-instruct")
    source = locate_model(model, PathsConfig(cache=cache))
    assert isinstance(source, ModelSource), source
    return source


def token_counts(base: LoadedBase, settings: MmluSettings) -> dict[str, float]:
    """Tokens that a plain run and a shared-prefix run put through the model."""
    data = load_set(settings)
    groups: dict[str, list[list[int]]] = {}
    for question, encoded in zip(data.questions, encode_set(base, data, settings), strict=True):
        groups.setdefault(question.subject, []).append(encoded.tokens)
    plain = sum(len(tokens) for group in groups.values() for tokens in group)
    saved = sum((len(group) - 1) * common_prefix(group) for group in groups.values())
    return {"questions": len(data.questions), "plain": plain, "shared": plain - saved, "ratio": plain / (plain - saved)}


def compare(
    base: LoadedBase, source: ModelSource, settings: MmluSettings, options: argparse.Namespace, folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, Path(options.cache)), dtype=torch.float32)
    batch_size = best_batch_size(model, base, options, folder)
    questions = load_set(settings).questions
    tasks = write_tasks(folder, questions, load_questions(settings.shots, Role.shots), settings.num_shots)
    ratios = []
    for _ in range(options.repeats):
        ours_seconds, ours = time_ours(base, {"base": None}, settings)
        theirs_seconds, theirs = time_lm_eval(model, base, batch_size, folder, tasks)
        ratios.append(theirs_seconds / ours_seconds)
        line = {"ours_seconds": ours_seconds, "lm_eval_seconds": theirs_seconds, "ratio": ratios[-1]}
        print(json.dumps({**line, **agreement(ours["base"], theirs)}), flush=True)
    print(json.dumps({"lm_eval_batch_size": batch_size, "ratios": ratios, "mean_ratio": float(np.mean(ratios))}))


def best_batch_size(model: torch.nn.Module, base: LoadedBase, options: argparse.Namespace, folder: Path) -> int:
    """The fastest for lm-eval on two subjects."""
    settings = first_subjects(options.questions, options.shots, 2, folder)
    tasks = write_tasks(
        folder, load_set(settings).questions, load_questions(settings.shots, Role.shots), settings.num_shots
    )
    seconds = {}
    for size in [int(size) for size in options.batch_sizes.split(",")]:
        seconds[size], _ = time_lm_eval(model, base, size, folder, tasks)
    print(json.dumps({"lm_eval_seconds_by_batch_size": seconds}), flush=True)
    return min(seconds, key=lambda size: seconds[size])


def time_ours(
    base: LoadedBase, members: dict[str, str | None], settings: MmluSettings
) -> tuple[float, dict[str, MmluResult]]:
    start = time.perf_counter()
    results = score_mmlu(base, members, settings)
    return time.perf_counter() - start, results


def time_lm_eval(
    model: torch.nn.Module, base: LoadedBase, batch_size: int, folder: Path, tasks: dict[str, list[int]]
) -> tuple[float, dict[int, Reference]]:
    """Seconds inside lm-eval's `loglikelihood`: its tokenization and the model, as ours."""
    lm = hf_model(model, base.tokenizer, batch_size)
    spent = []
    inner = lm.loglikelihood

    def timed(requests: Sequence[object], **kwargs: object) -> object:
        start = time.perf_counter()
        found = inner(requests, **kwargs)
        spent.append(time.perf_counter() - start)
        return found

    lm.loglikelihood = timed
    results = score(lm, folder, tasks)
    return sum(spent), results


def agreement(ours: MmluResult, theirs: dict[int, Reference]) -> dict[str, float]:
    """How far the two are apart."""
    mine = np.array([prediction.logprobs for prediction in ours.predictions])
    reference = np.array([theirs[place].logprobs for place in range(len(mine))])
    same = mine.argmax(axis=1) == reference.argmax(axis=1)
    return {"equal_choices": int(same.sum()), "of": len(same), "max_difference": float(np.abs(mine - reference).max())}


def time_adapters(base: LoadedBase, settings: MmluSettings, count: int, repeats: int) -> None:
    """One adapter, then `count` of them in one call."""
    generator = torch.Generator().manual_seed(0)
    members: dict[str, str | None] = {f"adapter{number}": f"adapter{number}" for number in range(count)}
    for number, name in enumerate(members):
        base.bank.add_member(name, AdapterConfig(name="lora", lora_r=64, lora_alpha=16), seed=number)
        for parameter in base.bank.member_parameters(name).values():
            parameter.data.normal_(0, 0.01, generator=generator)
    base.bank.eval()
    for _ in range(repeats):
        one, _ = time_ours(base, {"adapter0": "adapter0"}, settings)
        several, _ = time_ours(base, members, settings)
        print(json.dumps({"one_seconds": one, f"{count}_seconds": several, "ratio": several / one}), flush=True)


if __name__ == "__main__":
    main()

"""Times our MMLU beside lm-eval's HF model: the same questions in one process, in turns A B A B.

    python -m benchmarks.evaluation.mmlu --questions ../shared/data/mmlu/val.jsonl --shots ../shared/data/mmlu/dev.jsonl

SmolLM2 in float32 on 2 threads, 5-shot, the alphabetically first 12 subjects (171 questions of the
validation split). lm-eval runs at the batch size that was fastest on the first subject. The two take turns,
a few subjects each, so that other work on the machine hits both. Prints seconds of scoring (model loading
and task building left out on both sides), on the wall and of the processor, their ratios, the largest
difference of a log-probability, and how many choices agree; `--adapters 4` times four adapters in one call beside one.
Before that: the processor, the share of our time that matrix products take, and how fast they are. `bound` is the ratio
that would be left if we spent our time on those products alone; how fast they are differs most between processors.
Records: benchmarks/results/mmlu-*.md.
"""

import argparse
import json
import logging
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from benchmarks.evaluation.lm_eval_reference import Reference, hf_model, score, write_tasks
from eval.benchmarks.mmlu.questions import Role, load_questions
from eval.benchmarks.mmlu.results import MmluResult
from eval.benchmarks.mmlu.score import encode_set, load_set, score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.scoring.next_token import common_prefix
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import AdapterConfig, DType, ModelConfig, PathsConfig, QuantConfig, QuantMethod
from harness.models.convert import checkpoint_folder
from harness.models.locate import ModelSource, locate_model

# those within attention belong to attention
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"})
PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)


@dataclass(frozen=True, slots=True)
class Seconds:
    """On the wall, and of the processor over all threads (which other work on the machine disturbs less)."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> "Seconds":
        """The two clocks at this moment."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def rounded(self) -> dict[str, float]:
        """Both numbers as the record shows them."""
        return {"wall": round(self.wall, 2), "cpu": round(self.cpu, 2)}


def main() -> None:
    """Runs the comparison that the command line asks for, and prints it."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        settings = first_subjects(options.questions, options.shots, options.subjects, Path(name))
        source = smollm2(options.cache)
        base = load_base(source, PLAIN, torch.device("cpu"), Path(options.cache))
        print(json.dumps({"processor": processor(), "threads": options.threads}))
        print(json.dumps(token_counts(base, settings)))
        if options.adapters:
            time_adapters(base, settings, options, Path(name))
        else:
            compare(base, source, settings, options, Path(name))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_memory_mib": round(peak_mib)}))


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--shots", required=True)
    parser.add_argument("--subjects", type=int, default=12, help="the alphabetically first so many")
    parser.add_argument("--batch-sizes", default="1,2,4,8", help="that lm-eval may choose from")
    parser.add_argument("--turn-subjects", type=int, default=3, help="subjects before the other side's turn")
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
    return MmluSettings(questions=str(path), shots_file=shots)


def smollm2(cache: str) -> ModelSource:
    """The checkpoint of the embedded SmolLM2."""
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
    """Times both sides on the same questions, in turns. -> the record"""
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, Path(options.cache)), dtype=torch.float32)
    batch_size = best_batch_size(model, base, settings, options, folder)
    products = time_products(base, next(in_parts(settings, options.turn_subjects, folder)))
    print(json.dumps(asdict(products)), flush=True)
    for _ in range(options.repeats):
        ours, theirs = Seconds(), Seconds()
        agreements = []
        for part in in_parts(settings, options.turn_subjects, folder):
            spent, results = time_ours(base, {"base": None}, part)
            ours = ours + spent
            spent, expected = time_lm_eval(model, base, batch_size, part, folder)
            theirs = theirs + spent
            agreements.append(agreement(results["base"], expected))
        line = {"ours": ours.rounded(), "lm_eval": theirs.rounded(), "lm_eval_batch_size": batch_size}
        line |= {"ratio_wall": theirs.wall / ours.wall, "ratio_cpu": theirs.cpu / ours.cpu}
        line |= {"bound": theirs.wall / (ours.wall * products.share)}
        line |= {key: sum(a[key] for a in agreements) for key in ("equal_choices", "of")}
        print(json.dumps({**line, "max_difference": max(a["max_difference"] for a in agreements)}), flush=True)


def best_batch_size(
    model: torch.nn.Module, base: LoadedBase, settings: MmluSettings, options: argparse.Namespace, folder: Path
) -> int:
    """The one of least processor time for lm-eval on the first subject."""
    first = next(in_parts(settings, 1, folder))
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    seconds = {size: time_lm_eval(model, base, size, first, folder)[0] for size in sizes}
    print(json.dumps({"lm_eval_by_batch_size": {k: v.rounded() for k, v in seconds.items()}}), flush=True)
    return min(sizes, key=lambda size: seconds[size].cpu)


def processor() -> str:
    """The processor's name, family and model, and its matrix units, as Linux shows them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].split("\n") if path.is_file() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [flag for flag in values.get("flags", "").split() if flag in ("avx2", "avx512f", "amx_tile")]
    parts = [f"{key} {values[key]}" for key in ("cpu family", "model") if key in values]
    return ", ".join([values.get("model name", platform.machine()), *parts, *units])


@dataclass(frozen=True, slots=True)
class Products:
    """Matrix products of a run."""

    share: float  # of the time that torch's operations take
    gflops_per_second: float

    @classmethod
    def of(cls, profiler: profile) -> "Products":
        """Those of a profile that counted floating-point operations."""
        events = profiler.events()
        products = [event for event in events if event.name in PRODUCTS]
        microseconds = sum(event.self_cpu_time_total for event in products)
        share = microseconds / sum(event.self_cpu_time_total for event in events)
        return cls(share=share, gflops_per_second=sum(map(operations, products)) / microseconds / 1e3)


def operations(event: Any) -> int:
    """Floating-point operations of a product; of oneDNN's torch counts none."""
    if event.flops or not event.name.startswith("mkldnn::"):
        return int(event.flops or 0)
    (num_rows, num_inputs), (num_outputs, _) = event.input_shapes[:2]
    return 2 * int(num_rows) * int(num_inputs) * int(num_outputs)


def time_products(base: LoadedBase, settings: MmluSettings) -> Products:
    """Scores the questions under a profiler."""
    with profile(activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True) as profiler:
        score_mmlu(base, {"base": None}, settings)
    return Products.of(profiler)


def in_parts(settings: MmluSettings, num_subjects: int, folder: Path) -> Iterator[MmluSettings]:
    """The questions, so many subjects at a time."""
    questions = load_set(settings).questions
    subjects = list(dict.fromkeys(question.subject for question in questions))
    for start in range(0, len(subjects), num_subjects):
        path = folder / f"part_{num_subjects}_{start}.jsonl"
        wanted = subjects[start : start + num_subjects]
        path.write_text("".join(json.dumps(asdict(q)) + "\n" for q in questions if q.subject in wanted))
        yield replace(settings, questions=str(path))


def time_ours(
    base: LoadedBase, members: dict[str, str | None], settings: MmluSettings
) -> tuple[Seconds, dict[str, MmluResult]]:
    """Scores the questions by our MMLU. -> seconds, and the results by member"""
    start = Seconds.now()
    results = score_mmlu(base, members, settings)
    return Seconds.now() - start, results


def time_lm_eval(
    model: torch.nn.Module, base: LoadedBase, batch_size: int, settings: MmluSettings, folder: Path
) -> tuple[Seconds, dict[int, Reference]]:
    """Seconds inside lm-eval's `loglikelihood`: its tokenization and the model, as ours."""
    shots = load_questions(settings.shots_file, Role.shots)
    tasks = write_tasks(folder, load_set(settings).questions, shots, settings.num_shots)
    lm = hf_model(model, base.tokenizer, batch_size)
    spent = []
    inner = lm.loglikelihood

    def timed(requests: Sequence[object], **kwargs: object) -> object:
        start = Seconds.now()
        found = inner(requests, **kwargs)
        spent.append(Seconds.now() - start)
        return found

    lm.loglikelihood = timed
    results = score(lm, folder, tasks)
    return sum(spent, Seconds()), results


def agreement(ours: MmluResult, theirs: dict[int, Reference]) -> dict[str, float]:
    """How far the two sides' log-probabilities and choices differ."""
    mine = np.array([prediction.logprobs for prediction in ours.predictions])
    reference = np.array([theirs[place].logprobs for place in range(len(mine))])
    same = mine.argmax(axis=1) == reference.argmax(axis=1)
    return {"equal_choices": int(same.sum()), "of": len(same), "max_difference": float(np.abs(mine - reference).max())}


def add_adapters(base: LoadedBase, count: int) -> list[str]:
    """Rank 64 on all layers, a hundredth of the base's weights in size, as trained ones are. -> their names.

    Large random ones would drive activations into denormal numbers, which a CPU multiplies 10 times slower.
    """
    generator = torch.Generator().manual_seed(0)
    names = [f"adapter{number}" for number in range(count)]
    for number, name in enumerate(names):
        base.bank.add_member(name, AdapterConfig(name="lora", lora_r=64, lora_alpha=16), seed=number)
        for key, parameter in base.bank.member_parameters(name).items():
            if ".lora_B." in key:
                parameter.data.normal_(0, 0.01, generator=generator)
    base.bank.eval()
    return names


def time_adapters(base: LoadedBase, settings: MmluSettings, options: argparse.Namespace, folder: Path) -> None:
    """One adapter, then several of them in one call, after a subject that counts for neither."""
    members: dict[str, str | None] = {name: name for name in add_adapters(base, options.adapters)}
    time_ours(base, members, next(in_parts(settings, 1, folder)))
    for _ in range(options.repeats):
        one, _ = time_ours(base, {"adapter0": "adapter0"}, settings)
        several, _ = time_ours(base, members, settings)
        line: dict[str, object] = {"one": one.rounded(), str(options.adapters): several.rounded()}
        line |= {"ratio_wall": several.wall / one.wall, "ratio_cpu": several.cpu / one.cpu}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

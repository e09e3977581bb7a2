"""Lists every benchmark by its name, for config, plan, jobs, commands, search and report."""

from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import Any

from eval.benchmarks.answers import AnswersBenchmark
from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.glue.benchmark import GlueBenchmark
from eval.benchmarks.mmlu.benchmark import MmluBenchmark
from eval.benchmarks.perplexity.benchmark import PerplexityBenchmark
from eval.benchmarks.rouge.benchmark import RougeBenchmark
from eval.benchmarks.settings import identity_of, plain
from eval.benchmarks.super_ni.benchmark import SuperNiBenchmark
from eval.benchmarks.tasks.benchmark import TasksBenchmark
from harness.config.schema import EvalConfig, typed

BENCHMARKS: dict[str, Benchmark] = {
    "mmlu": MmluBenchmark(),
    "perplexity": PerplexityBenchmark(),
    "tasks": TasksBenchmark(),
    "answers": AnswersBenchmark(),
    "glue": GlueBenchmark(),
    "super_ni": SuperNiBenchmark(),
    "rouge": RougeBenchmark(),
}


def eval_config() -> type[EvalConfig]:
    """The schema of the config's group `eval`: `after_training`, and the settings of each benchmark by its name."""
    return _eval_config(tuple((name, benchmark.settings_type) for name, benchmark in BENCHMARKS.items()))


@cache
def _eval_config(settings: tuple[tuple[str, type], ...]) -> type[EvalConfig]:
    nested = [(name, kind, field(default_factory=kind)) for name, kind in settings]
    return make_dataclass("Evaluations", nested, bases=(EvalConfig,), slots=True, kw_only=True)


def settings_of(evals: EvalConfig, name: str) -> Any:
    """A benchmark's settings; its defaults where the config was made without them."""
    known: Any = getattr(evals, name, None)
    return BENCHMARKS[name].settings_type() if known is None else known


def planned_settings(name: str, settings: Any) -> dict[str, Any]:
    """What a job keeps of the settings that decide its result, as plain values.

    The keys are flat, `mmlu_num_shots`, as those of jobs that were planned before settings were nested: equal
    settings are the same job.
    """
    return {f"{name}_{key}": value for key, value in identity_of(settings).items()}


def other_settings(name: str, settings: Any) -> dict[str, Any]:
    """What a job keeps of the settings that change no result, where they are set."""
    return {
        f"{name}_{declared.name}": plain(value)
        for declared in fields(settings)
        if not declared.metadata.get("identity", True) and (value := getattr(settings, declared.name)) is not None
    }


def settings_from(name: str, planned: Mapping[str, Any]) -> Any:
    """The settings of a planned job."""
    kind = BENCHMARKS[name].settings_type
    known = {declared.name for declared in fields(kind)}
    values = {key.removeprefix(f"{name}_"): value for key, value in planned.items()}
    return typed(kind, {key: value for key, value in values.items() if key in known})

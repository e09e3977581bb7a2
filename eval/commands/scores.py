"""Makes the commands of `python -m eval` that score models, one for each benchmark of the registry.

The options that all of them share are declared here once; those of a benchmark are its settings, and what its
`options` name. Heavy imports wait until a command runs.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.settings import default_of, plain
from harness.config.schema import ModelKind
from harness.console import friendly_errors, progress_bar, show
from harness.devices.process import heavy_imports

EnumT = TypeVar("EnumT", bound=Enum)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: HARNESS_RUNS, else runs/.")]
Sweep = Annotated[str | None, typer.Option("--sweep", help="All finished runs of this sweep.")]
RunIds = Annotated[list[str] | None, typer.Option("--run", help="A run id; may be repeated.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="A choice of conf/model, a folder, or proxy:LARGE+RUN (logits of LARGE + RUN - its base)."
    ),
]
Adapters = Annotated[list[Path] | None, typer.Option("--adapter", help="A PEFT adapter folder; may be repeated.")]
Quant = Annotated[str | None, typer.Option("--quant", help="A choice of conf/quant; default: the adapter's own.")]

COMMON: dict[str, tuple[Any, Any]] = {  # option -> its type and default
    "run": (RunIds, None),
    "sweep": (Sweep, None),
    "model": (Model, None),
    "adapter": (Adapters, None),
    "quant": (Quant, None),
    "out": (
        Annotated[Path, typer.Option(help="Folder for the result; several systems get a folder each in it.")],
        Path("scores"),
    ),
    "in_runs": (
        Annotated[
            bool,
            typer.Option(
                "--in-runs",
                help="With --sweep or --run: keep each result in its run's folder, where the report reads it; skip "
                "runs that have one.",
            ),
        ],
        False,
    ),
    "fresh": (Annotated[bool, typer.Option("--fresh", help="With --in-runs: score also runs that have one.")], False),
    "runs": (Runs, None),
    "as_json": (Json, False),
}
OWN_ROWS: dict[str, tuple[Any, Any]] = {  # of benchmarks that score each system on its own dataset
    "dataset": (
        Annotated[str | None, typer.Option(help="A choice of conf/dataset; default: what it was trained on.")],
        None,
    ),
    "split": (Annotated[str | None, typer.Option(help="Another of the dataset's splits.")], None),
}


BESIDE: dict[str, tuple[Any, Any]] = {  # of benchmarks in which several members of a base's bank are scored
    "with_base": (
        Annotated[bool, typer.Option("--with-base", help="Score the untouched base too, and each change from it.")],
        False,
    ),
    "adapter_scale": (
        Annotated[
            str | None,
            typer.Option("--adapter-scale", help="Score each adapter at these parts of its trained scale: 0,0.5,1."),
        ],
        None,
    ),
    "serving_gap": (
        Annotated[
            bool,
            typer.Option(
                "--serving-gap", help="Score each run unmerged, merged in 16 bits, and merged and quantized again."
            ),
        ],
        False,
    ),
}


def add_commands(app: typer.Typer) -> None:
    """Adds a command for each benchmark that is measured by one of its own."""
    for name, benchmark in BENCHMARKS.items():
        if benchmark.command == name:
            app.command(name, help=benchmark.about)(command_of(benchmark))


def command_of(benchmark: Benchmark) -> Callable[..., None]:
    """A function with the benchmark's options as parameters, as typer reads them."""
    declared = _settings_options(benchmark)
    declared |= {o.name: (_option(str | None, o.sentence, f"--{_dashed(o.name)}"), None) for o in benchmark.options}
    declared |= OWN_ROWS if benchmark.scores_own_dataset else {}
    declared |= (BESIDE if has_bases(benchmark) else {}) | COMMON

    def command(**options: Any) -> None:
        with friendly_errors():
            values, shown = _scored(benchmark, options)
        show(values, shown, options["as_json"])

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in declared.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {name: kind for name, (kind, _) in declared.items()}
    command.__name__ = benchmark.name
    return command


def has_bases(benchmark: Benchmark) -> bool:
    """Whether the untouched base can be scored beside its adapters, on the same questions."""
    has_own_rows = benchmark.scores_own_dataset or benchmark.run_problem(None) is not None
    return benchmark.kind is ModelKind.causal and not has_own_rows


def _scored(benchmark: Benchmark, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    with heavy_imports():
        from eval.commands.beside import Beside, read_scales
        from eval.commands.score_runs import OwnRows, score_in_runs, score_target
        from eval.systems import Target

    settings = benchmark.settings_of_options(_settings_values(benchmark, options))
    own_rows = OwnRows(dataset=options.get("dataset"), split=options.get("split"))
    target = Target(
        model=options["model"],
        adapters=tuple(options["adapter"] or ()),
        quant=options["quant"],
        run_ids=tuple(options["run"] or ()),
        sweep=options["sweep"],
        runs=options["runs"],
    )
    own = {option.name: options[option.name] for option in benchmark.options}
    if options["fresh"] and not options["in_runs"]:
        raise ValueError("--fresh: goes with --in-runs; without it, every system is scored anew")
    shown_beside = {name: options.get(name) or None for name in BESIDE}
    beside = Beside(
        with_base=bool(shown_beside["with_base"]),
        scales=read_scales(shown_beside["adapter_scale"]),
        serving_gap=bool(shown_beside["serving_gap"]),
    )
    with progress_bar(benchmark.parts, options["as_json"]) as on_progress:
        if options["in_runs"]:
            _refuse_own_options(own | shown_beside)
            return score_in_runs(benchmark, settings, target, own_rows, options["fresh"], on_progress)
        return score_target(benchmark, settings, target, own_rows, own, options["out"], on_progress, beside)


def _refuse_own_options(own: Mapping[str, Any]) -> None:
    for name, value in own.items():
        if value is not None:
            raise ValueError(f"--in-runs: keeps the score of a whole run; leave out --{_dashed(name)}")


def _settings_options(benchmark: Benchmark) -> dict[str, tuple[Any, Any]]:
    """The settings' fields as options: lists and enums are typed as text."""
    hints = get_type_hints(benchmark.settings_type)
    options: dict[str, tuple[Any, Any]] = {}
    for declared in fields(benchmark.settings_type):
        about = declared.metadata
        kind, default = hints[declared.name], default_of(declared)
        if _is_list(kind) or isinstance(default, Enum):
            kind, default = str, ",".join(default) if isinstance(default, list) else plain(default)
        if about["option_default"] is not None:
            default = about["option_default"]
        default = inspect.Parameter.empty if about["is_required"] else default
        options[declared.name] = (_option(kind, about["sentence"], *_flags(declared, kind)), default)
    return options


def _settings_values(benchmark: Benchmark, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are settings, each as its field has it. Raises ValueError for a word that is no choice."""
    hints = get_type_hints(benchmark.settings_type)
    values: dict[str, Any] = {}
    for declared in fields(benchmark.settings_type):
        kind, value = hints[declared.name], options[declared.name]
        if _is_list(kind):
            value = [item.strip() for item in value.split(",") if item.strip()]
        elif isinstance(kind, type) and issubclass(kind, Enum):
            value = choice_of(_flags(declared, kind)[0], kind, value)
        values[declared.name] = value
    return values


def choice_of(flag: str, kind: type[EnumT], text: str) -> EnumT:
    """The member of `kind` that an option names. Raises ValueError for a word that is none; names the option."""
    known = {str(choice.value): choice for choice in kind}
    if text not in known:
        raise ValueError(f"{flag} {text}: expected one of {', '.join(known)}")
    return known[text]


def _flags(declared: "Field[Any]", kind: Any) -> tuple[str, ...]:
    flag = declared.metadata["option"] or f"--{_dashed(declared.name)}"
    return (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)


def _option(kind: Any, sentence: str, *flags: str) -> Any:
    return Annotated[kind, typer.Option(*flags, help=sentence)]


def _is_list(kind: Any) -> bool:
    return kind is list or get_origin(kind) is list or any(get_origin(part) is list for part in get_args(kind))


def _dashed(name: str) -> str:
    return name.replace("_", "-")

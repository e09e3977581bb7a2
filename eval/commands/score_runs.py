"""The body of the score commands: opens the systems, scores them, writes the results and sums up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from eval.benchmarks.benchmark import Benchmark, Contestant, Place, result_values, save_results
from eval.benchmarks.changes import changes_table, of_groups
from eval.benchmarks.dataset_rows import EvalRows
from eval.commands.beside import NOTHING_BESIDE, Beside, base_names, require_scales, together_with
from eval.commands.serving_gap import each_serving, require_gap, row_names
from eval.logit_arithmetic import is_proxy
from eval.systems import (
    System,
    Target,
    adapter_names,
    adapters_quant,
    by_base,
    chosen_systems,
    each_base,
    load_adapter_of,
    loaded,
    named_model,
    record_beside,
    refuse_equal_names,
    require_causal,
    require_templates,
    run_folder_of,
    say_if_slow,
    serving_method,
    with_own_tokenizer,
)
from harness.banks.load import LoadedBase, load_base
from harness.banks.owned import OwnedBank
from harness.config.choices import dataset_choice, model_choice, quant_choice
from harness.config.paths import paths_of_environment
from harness.config.schema import (
    SHARED_BASE_METHODS,
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    Device,
    ModelKind,
    PathsConfig,
)
from harness.devices.torch_device import quiet_libraries, resolve_device, resolved_quant
from harness.files.atomic import write_json
from harness.files.hub import Missing
from harness.models.locate import locate_model
from harness.progress import Progress
from harness.runs.record import RECORD_FILE
from harness.runs.scores import eval_file
from harness.runs.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRows:
    """The rows that each system is scored on, where they depend on the system."""

    dataset: str | None = None  # a choice of conf/dataset; None: the one that each system was trained on
    split: str | None = None  # another of the dataset's splits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is needed to open the systems."""

    benchmark: Benchmark
    settings: Any
    target: Target
    own_rows: OwnRows
    paths: PathsConfig
    beside: Beside = NOTHING_BESIDE
    base_names: Mapping[str, str] = field(default_factory=dict)  # of runs whose untouched bases are scored too, by id
    only_missing: bool = False  # leave out runs whose folder has a result


def score_target(
    benchmark: Benchmark,
    settings: Any,
    target: Target,
    own_rows: OwnRows,
    options: Mapping[str, Any],
    out: Path,
    on_progress: Progress,
    beside: Beside = NOTHING_BESIDE,
) -> tuple[dict[str, Any], RenderableType]:
    """Scores the target and writes its results below `out`. -> their content by system, and a table of them.

    With what stands beside the systems it writes `changes.json` too: what each gained and lost from its base.

    Raises:
        ValueError: whatever the user can mend: something missing, a system that the benchmark doesn't score.
    """
    quiet_libraries()
    if beside.is_needed and (own := [name for name, value in options.items() if value is not None]):
        snapshots = "; snapshots: --model BASE --adapter runs/ID/adapters/step-..." if own[0] == "checkpoints" else ""
        option = f"--{own[0].replace('_', '-')}"
        raise ValueError(
            f"--with-base, --adapter-scale and --serving-gap: score whole runs; leave out {option}{snapshots}"
        )
    asked_for = benchmark.by_options(target, settings, options, out, on_progress)
    if asked_for is not None:
        return asked_for
    paths = paths_of_environment(target.runs)
    if problems := benchmark.problems(settings, paths, "--"):
        raise ValueError("\n".join(problems))
    if benchmark.wants_template(settings):
        require_templates(target)
    place = Place(paths=paths, partial=out / "partial", on_progress=on_progress)
    asked = _Asked(
        benchmark=benchmark,
        settings=settings,
        target=target,
        own_rows=own_rows,
        paths=paths,
        beside=beside,
        base_names=_names_of_bases(target, beside),
    )
    results: dict[str, Any] = {}
    bases: dict[str, str] = {}  # of each system, where it is scored too
    for base, contestants in _opened(asked):
        results |= benchmark.score(base, contestants, settings, place)
        bases |= _compared_with(contestants, beside, asked.base_names)
    save_results(benchmark, results, out)
    values = {name: result_values(benchmark, result) for name, result in results.items()}
    table = benchmark.table(results)
    if not beside.is_needed:
        return values, table
    changes = list(of_groups(benchmark, values, bases))
    write_json(out / "changes.json", {"schema_version": 1, "changes": [change.to_json() for change in changes]})
    before = "the unmerged run" if beside.serving_gap else "the untouched base"
    return values, Group(table, changes_table(changes, before)) if changes else table


def _names_of_bases(target: Target, beside: Beside) -> dict[str, str]:
    """run_id -> the name of its untouched base's row, where runs are scored with theirs."""
    if not beside.with_base or target.model is not None or (target.sweep is None and not target.run_ids):
        return {}  # `_of_runs` says that nothing is named
    return base_names(chosen_systems(target.sweep, target.run_ids, target.runs))


def _compared_with(contestants: Sequence[Contestant], beside: Beside, names: Mapping[str, str]) -> dict[str, str]:
    """-> the row that each contestant is compared with: its untouched base, or the run as it was trained.

    Args:
        contestants: of one load.
        beside: what stands beside them.
        names: run_id -> its untouched base's row.
    """
    if beside.serving_gap:
        return {one.name: row_names(one.system)[0] for one in contestants if one.system is not None}
    untouched = next((one.name for one in contestants if one.member is None), None)
    if untouched is not None:
        return {one.name: untouched for one in contestants}
    return {one.name: names[one.system.run_id] for one in contestants if one.system is not None and names}


def score_in_runs(
    benchmark: Benchmark, settings: Any, target: Target, own_rows: OwnRows, fresh: bool, on_progress: Progress
) -> tuple[dict[str, Any], RenderableType]:
    """Scores runs and keeps each result in its run's folder, where a sweep's evaluations lie too.

    Args:
        fresh: score also runs that have a result.

    Returns:
        As `score_target`, of the runs that were scored now.

    Raises:
        ValueError: as `score_target`; or a model is to be scored, which has no run folder.
    """
    quiet_libraries()
    if target.model is not None or target.adapters:
        raise ValueError("--in-runs: results go to run folders; name a --sweep or a --run, and no --model")
    paths = paths_of_environment(target.runs)
    if problems := benchmark.problems(settings, paths, "--"):
        raise ValueError("\n".join(problems))
    asked = _Asked(
        benchmark=benchmark,
        settings=settings,
        target=target,
        own_rows=own_rows,
        paths=paths,
        only_missing=not fresh,
    )
    place = Place(paths=paths, partial=Path(paths.cache) / "eval", on_progress=on_progress)
    results: dict[str, Any] = {}
    for base, contestants in _opened(asked):
        for name, result in benchmark.score(base, contestants, settings, place).items():
            folder = next(one.system.folder for one in contestants if one.name == name and one.system is not None)
            write_json(eval_file(folder, benchmark.name), result_values(benchmark, result) | {"system": name})
            results[name] = result
    return {name: result_values(benchmark, result) for name, result in results.items()}, benchmark.table(results)


def _opened(request: _Asked) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    """Each base with the systems that are loaded in its bank: all of a causal one's, one of any other's."""
    target = request.target
    if target.adapters and target.model is None:
        raise ValueError("--adapter needs --model: the base that the adapter was trained on")
    if request.beside.serving_gap:
        yield from _servings(request)
    elif target.model is None:
        yield from _of_runs(request)
    elif request.benchmark.kind is ModelKind.causal:
        named = named_model(target.model).name
        for base, members in each_base(target):
            rows = {name: _rows(request, None, name) for name in members}
            found = [Contestant(name=n, member=member, rows=rows[n]) for n, member in members.items()]
            yield base, together_with(base, found, request.beside, f"{named} base")
    else:
        yield from _of_model(request)


def _servings(request: _Asked) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    """Each run unmerged, merged, and merged and quantized again."""
    if request.target.model is not None:
        raise ValueError("--serving-gap: a run's record says how its base is quantized; name a --run or a --sweep")
    systems = chosen_systems(request.target.sweep, request.target.run_ids, request.target.runs)
    refuse_equal_names(systems)
    for system in systems:
        _require_kind(system, request.benchmark.kind)
    require_gap(systems)
    yield from each_serving(systems, request.paths, resolve_device(Device.auto))


def _of_runs(request: _Asked) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    kind = request.benchmark.kind
    systems = chosen_systems(request.target.sweep, request.target.run_ids, request.target.runs)
    refuse_equal_names(systems)
    for system in systems:
        _require_kind(system, kind)
    if request.only_missing:
        systems = [s for s in systems if not eval_file(s.folder, request.benchmark.name).is_file()]
    if request.beside.scales:
        require_scales(systems)
    rows = {system.run_id: _rows(request, system.spec.dataset, system.name) for system in systems}
    scored: set[str] = set()
    for together in by_base(systems) if kind is ModelKind.causal else [[system] for system in systems]:
        with loaded(together, request.paths, resolve_device(Device.auto)) as base:
            found = [contestant(system, system.name, rows[system.run_id]) for system in together]
            beside = together_with(base, found, request.beside, request.base_names.get(together[0].run_id, ""))
            yield base, beside
            scored |= {one.name for one in beside if one.member is None}
            if request.beside.with_base and isinstance(base.bank, OwnedBank):
                base.bank.remove_member(together[0].run_id)  # whoever scored it still holds it
    if request.beside.with_base:
        yield from _untouched(systems, scored, request)


def _untouched(
    systems: Sequence[System], scored: set[str], request: _Asked
) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    """The untouched bases of runs whose banks own theirs. Args: scored: names of those that were beside other runs."""
    for name, system in {request.base_names[system.run_id]: system for system in systems}.items():
        if name not in scored and serving_method(system) not in SHARED_BASE_METHODS:
            plain = replace(
                system, spec=replace(system.spec, adapter=AdapterConfig(name="none", method=AdapterMethod.none))
            )
            with loaded([plain], request.paths, resolve_device(Device.auto), with_adapters=False) as base:
                yield base, [Contestant(name=name, member=None)]


def contestant(system: System, name: str, rows: EvalRows | None) -> Contestant:
    """A run, under a name in the results."""
    return Contestant(name=name, member=system.member, rows=rows, system=system)


def _require_kind(system: System, kind: ModelKind) -> None:
    if kind is ModelKind.causal:
        require_causal(system.name, system.spec.model.kind)
    if system.spec.model.kind is not kind:
        raise ValueError(
            f"run {system.run_id} ({system.name}): model.kind={system.spec.model.kind.value}; this command scores "
            f"model.kind={kind.value}"
        )


def _of_model(request: _Asked) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    """A model of a kind whose bank owns its base: the model itself, or its adapters one after the other."""
    target, kind = request.target, request.benchmark.kind
    assert target.model is not None
    if is_proxy(target.model):
        raise ValueError(f"--model {target.model}: adds logits of causal models; this command scores {kind.value} ones")
    model = replace(model_choice(target.model), kind=kind)
    source = locate_model(model, request.paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    device = resolve_device(Device.auto)
    stored = adapters_quant(target.adapters) if target.quant is None else quant_choice(target.quant)
    quant = resolved_quant(stored, device)
    say_if_slow(quant, device)
    names = adapter_names(target.adapters)
    records = [record_beside(folder) for folder in target.adapters]
    files = [str(run_folder_of(folder) / RECORD_FILE) for folder in target.adapters]
    datasets = [
        None if record is None else RunSpec.from_dict(record.spec, file).dataset
        for record, file in zip(records, files, strict=True)
    ]
    rows = [_rows(request, dataset, name) for dataset, name in zip(datasets, names, strict=True)]
    own = None if target.adapters else _rows(request, None, model.name)
    base = load_base(source, quant, device, Path(request.paths.cache), kind)
    if not target.adapters:
        yield base, [Contestant(name=model.name, member=None, rows=own)]
    for folder, name, found in zip(target.adapters, names, rows, strict=True):
        load_adapter_of(base, name, folder, model)
        yield with_own_tokenizer(base, folder), [Contestant(name=name, member=name, rows=found)]
        base.bank.remove_member(name)


def _rows(request: _Asked, trained_on: DatasetConfig | None, name: str) -> EvalRows | None:
    if not request.benchmark.scores_own_dataset:
        return None
    own = request.own_rows
    dataset = trained_on if own.dataset is None else dataset_choice(own.dataset)
    if dataset is None:
        raise ValueError(f"{name}: nothing says which dataset it is for; name it by --dataset")
    split = own.split or dataset.eval_split
    return request.benchmark.rows(request.settings, replace(dataset, eval_split=split), request.paths)

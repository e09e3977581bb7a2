"""What `eval glue` and `eval super_ni` do once their options are read: one system after the other, each on its rows.

A run is scored on the evaluation split of the dataset that it was trained on, unless told otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from eval.benchmarks.dataset_rows import EvalRows, evaluation_rows
from eval.benchmarks.glue import GLUE_FILE, GlueResult, GlueSettings, score_glue
from eval.benchmarks.intervals import Score
from eval.benchmarks.super_ni import SUPER_NI_FILE, SuperNiResult, SuperNiSettings, score_super_ni
from eval.console import Advance
from eval.systems import (
    Target,
    adapter_names,
    adapters_quant,
    chosen_systems,
    load_adapter_of,
    loaded,
    record_beside,
    refuse_equal_names,
    say_if_slow,
)
from harness.banks.load import LoadedBase, load_base
from harness.config.choices import dataset_choice, model_choice, quant_choice
from harness.config.paths import paths_of_environment
from harness.config.schema import DatasetConfig, Device, ModelKind, PathsConfig
from harness.devices.torch_device import quiet_libraries, resolve_device, resolved_quant
from harness.files.atomic import write_json
from harness.files.hub import Missing
from harness.models.locate import locate_model
from harness.runs.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTarget(Target):
    """What is to be scored, and on which rows."""

    dataset: str | None  # a choice of conf/dataset; None: the one that each system was trained on
    data: Path | None  # a file of rows; None: the dataset's evaluation split
    split: str | None  # another split of the hub's


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contestant:
    name: str
    base: LoadedBase
    member: str | None
    rows: EvalRows


def run_glue(
    target: DatasetTarget, settings: GlueSettings, out: Path, advance: Advance
) -> tuple[dict[str, GlueResult], Table]:
    """Scores classifiers and writes glue.json. -> results by system, and a table of them."""

    def score(one: _Contestant) -> GlueResult:
        return score_glue(one.base, one.name, one.member, one.rows, settings, advance, out / "partial")

    results = {one.name: score(one) for one in _contestants(target, ModelKind.classifier)}
    _save({name: result.to_json() for name, result in results.items()}, out, GLUE_FILE)
    return results, _glue_table(results)


def run_super_ni(
    target: DatasetTarget, settings: SuperNiSettings, out: Path, advance: Advance
) -> tuple[dict[str, SuperNiResult], Table]:
    """Scores encoder-decoders and writes super_ni.json. -> results by system, and a table of them."""

    def score(one: _Contestant) -> SuperNiResult:
        return score_super_ni(one.base, one.name, one.member, one.rows, settings, advance, out / "partial")

    results = {one.name: score(one) for one in _contestants(target, ModelKind.seq2seq)}
    _save({name: result.to_json() for name, result in results.items()}, out, SUPER_NI_FILE)
    return results, _super_ni_table(results)


def _contestants(target: DatasetTarget, kind: ModelKind) -> Iterator[_Contestant]:
    """Each system in turn, loaded; a bank of this kind holds one member at a time."""
    quiet_libraries()
    paths = paths_of_environment(target.runs)
    if target.model is not None:
        yield from _of_model(target, kind, paths)
    elif target.adapters:
        raise ValueError("--adapter needs --model: the base that the adapter was trained on")
    else:
        yield from _of_runs(target, kind, paths)


def _of_runs(target: DatasetTarget, kind: ModelKind, paths: PathsConfig) -> Iterator[_Contestant]:
    systems = chosen_systems(target.sweep, target.run_ids, target.runs)
    refuse_equal_names(systems)
    for system in systems:
        if system.spec.model.kind is not kind:
            raise ValueError(
                f"run {system.run_id} ({system.name}): model.kind={system.spec.model.kind.value}; this command scores "
                f"model.kind={kind.value}"
            )
    asked = {system.run_id: _rows(target, system.spec.dataset, system.name, paths) for system in systems}
    for system in systems:
        with loaded([system], paths, resolve_device(Device.auto)) as base:
            yield _Contestant(name=system.name, base=base, member=system.member, rows=asked[system.run_id])


def _of_model(target: DatasetTarget, kind: ModelKind, paths: PathsConfig) -> Iterator[_Contestant]:
    assert target.model is not None
    model = replace(model_choice(target.model), kind=kind)
    source = locate_model(model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    device = resolve_device(Device.auto)
    quant = resolved_quant(
        adapters_quant(target.adapters) if target.quant is None else quant_choice(target.quant), device
    )
    say_if_slow(quant, device)
    if not target.adapters:
        rows = _rows(target, None, model.name, paths)
        base = load_base(source, quant, device, Path(paths.cache), kind)
        yield _Contestant(name=model.name, base=base, member=None, rows=rows)
        return
    names = adapter_names(target.adapters)
    records = [record_beside(folder) for folder in target.adapters]
    datasets = [None if r is None else RunSpec.from_dict(r.spec).dataset for r in records]
    asked = [_rows(target, dataset, name, paths) for dataset, name in zip(datasets, names, strict=True)]
    base = load_base(source, quant, device, Path(paths.cache), kind)
    for folder, name, rows in zip(target.adapters, names, asked, strict=True):
        load_adapter_of(base, name, folder, model)
        yield _Contestant(name=name, base=base, member=name, rows=rows)
        base.bank.remove_member(name)


def _rows(target: DatasetTarget, trained_on: DatasetConfig | None, name: str, paths: PathsConfig) -> EvalRows:
    dataset = trained_on if target.dataset is None else dataset_choice(target.dataset)
    if dataset is None:
        raise ValueError(f"{name}: nothing says which dataset it is for; name it by --dataset")
    return evaluation_rows(dataset, None if target.data is None else str(target.data), target.split, paths)


def _save(results: dict[str, dict[str, Any]], out: Path, file: str) -> None:
    for name, values in results.items():
        write_json((out if len(results) == 1 else out / name) / file, values)


def _glue_table(results: dict[str, GlueResult]) -> Table:
    table = Table(title="GLUE and other rows with labels", title_justify="left", caption="95 % intervals")
    for column in ("system", "task", "split", "score", "other", "n"):
        table.add_column(column, justify="right" if column in ("score", "n") else "left")
    for name, result in results.items():
        others = [metric for metric in result.official if metric != result.score_name]
        cells = [_cell(metric, result.metrics[metric]) for metric in (result.score_name, *others)]
        table.add_row(name, result.task, result.split_name, cells[0], ", ".join(cells[1:]), str(result.n))
    values = [result.score for result in results.values() if result.score is not None]
    tasks = {result.task for result in results.values()}
    if 1 < len(results) == len(tasks) == len(values):  # the mean that papers print has one system a task
        table.add_section()
        table.add_row(f"mean over {len(tasks)} tasks", "", "", f"{100 * fmean(values):.1f}", "", "")
    return table


def _super_ni_table(results: dict[str, SuperNiResult]) -> Table:
    table = Table(title="Super-NaturalInstructions", title_justify="left", caption="95 % intervals over tasks")
    for column in ("system", "split", "RougeL", "mean over tasks", "exact match", "tasks", "n"):
        table.add_column(column, justify="left" if column in ("system", "split") else "right")
    for name, result in results.items():
        score = _percent(Score(value=result.rouge_l, ci95=result.rouge_l_ci95))
        means = [f"{100 * value:.1f}" for value in (result.rouge_l_macro, result.exact_match)]
        table.add_row(name, result.split_name, score, *means, str(result.num_tasks), str(result.n))
    return table


def _cell(metric: str, score: Score) -> str:
    return f"{metric} {_percent(score)}"


def _percent(score: Score) -> str:
    """In hundredths, as the papers print all of these."""
    if score.value is None:
        return "not defined"
    if score.ci95 is None:
        return f"{100 * score.value:.1f}"
    return f"{100 * score.value:.1f} [{100 * score.ci95[0]:.1f}, {100 * score.ci95[1]:.1f}]"

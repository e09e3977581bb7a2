"""What a plan refuses and counts, by hand: devices, changed inputs, measurements, workers on a GPU."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.config.schema import Config, Device, LaunchConfig, Launcher, ModelKind, PathsConfig
from harness.devices.hardware import Place
from harness.files.hub import Missing
from harness.models.locate import ModelSource
from harness.runs.record import save_record
from sweeps.plan import evaluations, jobs, planned, preflight, slots
from sweeps.plan.estimate import _num_steps
from sweeps.plan.evaluations import _run_problems, evaluation_problems
from sweeps.plan.jobs import PlannedRun, plan_runs
from sweeps.plan.once import Once
from sweeps.plan.slots import Work
from tests.builders import config, evals, record


@pytest.fixture
def run() -> PlannedRun:
    return plan_runs([config()])[0]


def grid(*overrides: str) -> list[Config]:
    return [point.config for point in compose_grid(overrides, eval_config())]


def placed(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    found = None if size is None else Place(rank=0, size=size, local_rank=0)
    monkeypatch.setattr(planned, "place_of_environment", lambda: found)


@pytest.mark.parametrize(
    ("size", "launch", "problems"),
    [
        (None, {}, []),
        (None, {"devices_per_run": 2}, []),
        (2, {}, []),
        (2, {"devices_per_run": 2}, []),
        (2, {"devices_per_run": 3}, ["launch.devices_per_run=3: torchrun started 2 processes, and they are"]),
        (2, {"launcher": Launcher.ray}, ["launch=ray: torchrun has started these processes; give the command without"]),
        (None, {"shard_base": True}, ["launch.shard_base=true: there is one device to a run; say launch.devices_per"]),
        (None, {"shard_base": True, "devices_per_run": 2}, []),
        (2, {"shard_base": True}, []),
    ],
)
def test_devices_that_a_run_can_not_have(
    size: int | None, launch: dict[str, Any], problems: list[str], run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(monkeypatch, size)
    made = LaunchConfig(**launch)
    found = planned.device_problems([run], made)
    assert len(found) == len(problems)
    assert all(one.startswith(begin) for one, begin in zip(found, problems, strict=True))
    assert planned.num_devices(made) == (size or made.devices_per_run)
    assert planned._num_shards(made) == (planned.num_devices(made) if made.shard_base else 1)


def test_a_sharded_base_serves_some_methods_and_some_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    placed(monkeypatch, None)
    launch = LaunchConfig(shard_base=True, devices_per_run=2)
    (dora,) = plan_runs([config(adapter="dora")])
    assert len(planned.device_problems([dora], launch)) == 1
    (measured,) = plan_runs([config(eval=evals("mmlu", "answers"))])
    found = planned.device_problems([measured], launch)
    assert found == [jobs.whole_base_problem("answers")]


def test_folders_that_are_files_are_refused_by_their_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    paths = PathsConfig(runs=str(tmp_path / "new" / "runs"), cache=str(tmp_path / "file" / "cache"))
    assert planned._place_problems(paths) == [
        f"paths.cache={tmp_path / 'file' / 'cache'}: {tmp_path / 'file'} is a file; name a folder"
    ]
    assert planned._place_problems(PathsConfig(runs=str(tmp_path), cache=str(tmp_path))) == []


@pytest.mark.parametrize(
    ("device", "usable", "workers"),
    [(Device.cuda, 10, 2), (Device.cuda, None, 1), (Device.cpu, 10, 1), (Device.cpu, None, 1)],
)
def test_workers_that_share_a_gpu(
    device: Device, usable: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "planned_room", lambda launch: (device, usable))
    monkeypatch.setattr(slots, "local_slots", lambda launch, work: ["0", "0", "1"])
    assert slots.workers_on_device(LaunchConfig(), Work(num_passes=3, peak_bytes=None)) == workers


def finished(folder: Path, run: PlannedRun, **changes: Any) -> PathsConfig:
    values = {
        "run_id": run.run_id,
        "base_fingerprint": "base",
        "tokenizer_fingerprint": "tok",
        "data_fingerprint": "rows",
    }
    save_record(folder / run.run_id, dataclasses.replace(record(), **{**values, **changes}))
    return PathsConfig(runs=str(folder), cache=str(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"run_id": "another"}, None),
        ({"base_fingerprint": "b" * 20}, "was trained on other weights of llama7b: then bbbbbbbbbbbb, now base in "),
        ({"tokenizer_fingerprint": "other"}, "was trained with another tokenizer or chat template than "),
        ({"tokenizer_fingerprint": None}, None),
        (
            {"data_fingerprint": "other"},
            "was trained on other rows of oasst1: a.jsonl, b.jsonl has changed; say dataset",
        ),
        ({"data_fingerprint": None}, None),
    ],
)
def test_a_finished_run_whose_inputs_changed_is_not_passed_over(
    changes: dict[str, Any], words: str | None, tmp_path: Path, run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = finished(tmp_path, run, **changes)
    monkeypatch.setattr(preflight, "folder_fingerprint", lambda folder: "base")
    monkeypatch.setattr(preflight, "tokenizer_fingerprint", lambda folder: "tok")
    files = SimpleNamespace(files=["a.jsonl", "b.jsonl"])
    monkeypatch.setattr(preflight, "local_fingerprint", lambda dataset, paths: ("rows", files))
    here = ModelSource(location="/models/x", revision=None, kind="folder", max_length=9)
    found = preflight._changed_inputs(run, here, paths, Once())
    assert len(found) == (words is not None)
    if words is not None:
        assert found[0].startswith(f"run {run.run_id} ({run.label}) {words}")
        remedy = "to train runs of its own beside it, or restore the old files"
        assert found[0].endswith(
            f"; say dataset.path=... {remedy}" if "rows" in words else f"say model.path=/models/x {remedy}"
        )
    elsewhere = Missing(what="w", looked_in=(), remedy="r")
    about_data = "data_fingerprint" in changes and changes["data_fingerprint"]
    assert len(preflight._changed_inputs(run, elsewhere, paths, Once())) == bool(about_data)
    monkeypatch.setattr(preflight, "local_fingerprint", lambda dataset, paths: None)
    assert preflight._changed_inputs(run, elsewhere, paths, Once()) == []


def test_other_weights_are_said_once_and_no_record_is_no_change(
    tmp_path: Path, run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ModelSource(location="/models/x", revision=None, kind="folder", max_length=9)
    paths = PathsConfig(runs=str(tmp_path), cache=str(tmp_path))
    assert preflight._changed_inputs(run, here, paths, Once()) == []
    (tmp_path / run.run_id).mkdir()
    (tmp_path / run.run_id / "record.json").write_text("{")
    assert preflight._changed_inputs(run, here, paths, Once()) == []
    finished(tmp_path, run, base_fingerprint="x", tokenizer_fingerprint="y", data_fingerprint=None)
    monkeypatch.setattr(preflight, "folder_fingerprint", lambda folder: "base")
    monkeypatch.setattr(preflight, "tokenizer_fingerprint", lambda folder: "tok")
    (problem,) = preflight._changed_inputs(run, here, paths, Once())
    assert "other weights" in problem


@pytest.mark.parametrize(
    ("before", "asked", "said"),
    [
        ({}, {}, None),
        ({"snapshot_steps": 5}, {}, None),
        ({}, {"snapshot_steps": 5}, "train.snapshot_steps=5"),
        ({"snapshot_steps": 10}, {"snapshot_steps": 5}, "train.snapshot_steps=5"),
        ({"snapshot_steps": 5}, {"snapshot_steps": 10}, None),  # are there, and more
        ({}, {"snapshot_steps": 20}, "train.snapshot_steps=20"),
        ({}, {"snapshot_steps": 21}, None),  # of a run of 20 steps nothing would be kept
        ({"eval_rows": 4}, {"eval_every_steps": 19, "eval_rows": 4}, "train.eval_every_steps=19"),
        ({"eval_rows": 4}, {"eval_every_steps": 20, "eval_rows": 4}, None),  # the last step is measured anyway
        ({}, {"mmlu_every_steps": 50}, "train.mmlu_every_steps=50"),  # and after the last
        ({"mmlu_every_steps": 5}, {"mmlu_every_steps": 5}, None),
        (
            {"mmlu_every_steps": 5},
            {"mmlu_every_steps": 5, "mmlu_limit": 3},
            "train.mmlu_every_steps=5 train.mmlu_limit=3",
        ),
    ],
)
def test_what_only_training_leaves_is_missed_by_name(
    before: dict[str, Any], asked: dict[str, Any], said: str | None, tmp_path: Path, run: PlannedRun
) -> None:
    assert run.spec.train is not None
    trained, now = (dataclasses.replace(run.spec.train, **values) for values in (before, asked))
    spec = dataclasses.replace(run.spec, train=trained).to_dict()
    wanted = dataclasses.replace(run, spec=dataclasses.replace(run.spec, train=now))
    finished(tmp_path, wanted, num_steps=20, spec=spec)
    notes = preflight.unkept_notes([wanted], tmp_path)
    expected = f"{said}: finished runs that trained without it are not trained again: {wanted.run_id} ("
    assert [note.startswith(expected) for note in notes] == [True] * (said is not None)


def test_what_several_finished_runs_lack_is_one_note(tmp_path: Path) -> None:
    runs = plan_runs(grid("train.seed=0,1,2", "train.snapshot_steps=5", "train.max_steps=20", "model=llama7b"))
    for one in runs:
        of = dataclasses.replace(one.spec.train, snapshot_steps=None)
        finished(tmp_path, one, num_steps=20, spec=dataclasses.replace(one.spec, train=of).to_dict())
    [note] = preflight.unkept_notes(runs, tmp_path)
    assert note == (
        f"train.snapshot_steps=5: finished runs that trained without it are not trained again: {runs[0].run_id} "
        f"({runs[0].label}) and 2 more; to have it, move their folders out of {tmp_path} and give the command again"
    )
    assert preflight.unkept_notes([], tmp_path) == []


def test_what_a_gpu_is_missed_for() -> None:
    said = preflight._no_gpu({"llama7b": 6_740_000_000, "llama13b": 13_000_000_000})
    assert "a CUDA GPU for llama7b (6.7B parameters), llama13b (13.0B parameters)" in said
    assert "launch.device=cuda launch.dry_run=true, or accept a CPU with launch.device=cpu" in said


@pytest.mark.parametrize(("carve", "steps"), [(0, 15), (4, 3), (9, 3)])
def test_what_the_original_carved_out_leaves_a_row_at_least(carve: int, steps: int, run: PlannedRun) -> None:
    """Five rows in batches of one, three epochs."""
    assert run.spec.train is not None
    train = dataclasses.replace(
        run.spec.train, batch_size=1, max_steps=None, max_epochs=3.0, original_eval_carve=carve, warmup_steps=0
    )
    assert _num_steps(dataclasses.replace(run.spec, train=train), 5) == steps


def asked(*names: str, **settings: Any) -> PlannedRun:
    return plan_runs([config(eval=evals(*names, **settings))])[0]


def test_every_evaluation_is_looked_at_whatever_stands_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = asked("nothing", "mmlu")
    monkeypatch.setattr(evaluations, "_settings_problems", lambda name, settings, paths: [f"{name} has no questions"])
    found = evaluation_problems(run, PathsConfig(), Once())
    assert len(found) == 2
    assert found[0].startswith("eval.after_training: 'nothing' is no evaluation; there are: ")
    assert found[1] == "mmlu has no questions"


def test_runs_that_a_benchmark_can_not_score(run: PlannedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, dataset = PathsConfig(), run.spec.dataset
    assert _run_problems("mmlu", None, ModelKind.causal, dataset, paths) == []
    assert _run_problems("mmlu", None, ModelKind.seq2seq, None, paths) == [
        "eval.after_training: mmlu scores model.kind=causal, not seq2seq"
    ]
    of_runs = "eval.after_training: glue scores finetuned runs of model.kind=classifier, not "
    assert _run_problems("glue", None, ModelKind.classifier, None, paths) == [f"{of_runs}adapter=none"]
    assert _run_problems("glue", None, ModelKind.causal, dataset, paths) == [f"{of_runs}model.kind=causal"]
    glue = evaluations.BENCHMARKS["glue"]

    def rows(found: Callable[[], Any]) -> list[str]:
        monkeypatch.setattr(type(glue), "rows", lambda self, settings, dataset, paths: found())
        return _run_problems("glue", None, ModelKind.classifier, dataset, paths)

    def broken() -> None:
        raise ValueError("nowhere")

    assert rows(lambda: None) == []
    assert rows(broken) == ["eval glue: nowhere"]
    monkeypatch.setattr(evaluations, "check_rows", lambda *given: SimpleNamespace(problems=("a", "b"), num_examples=7))
    some = SimpleNamespace(dataset="d", source="s")
    assert rows(lambda: some) == ["eval glue: a", "eval glue: b"]
    assert evaluations._num_rows("glue", None, ModelKind.classifier, dataset, paths) == 7  # type: ignore[arg-type]
    monkeypatch.setattr(type(glue), "rows", lambda self, settings, dataset, paths: None)
    assert evaluations._num_rows("glue", None, ModelKind.classifier, dataset, paths) is None  # type: ignore[arg-type]
    monkeypatch.setattr(type(glue), "rows", lambda self, settings, dataset, paths: broken())
    assert evaluations._num_rows("glue", None, ModelKind.classifier, dataset, paths) is None  # type: ignore[arg-type]


def test_one_result_of_each_evaluation_is_kept() -> None:
    first, second = evals("nothing", "mmlu", mmlu={"num_shots": 1}), evals("nothing", "mmlu", mmlu={"num_shots": 2})
    spec = asked("mmlu").spec
    (problem,) = jobs._two_measurements(spec, first, second)
    assert problem.startswith(
        f"run {spec.run_id} ({spec.label}) would be measured with eval.mmlu.num_shots=1 and with eval"
    )
    assert jobs._two_measurements(spec, first, first) == []
    assert jobs._two_measurements(spec, first, evals("perplexity", mmlu={"num_shots": 2})) == []
    assert [name for name, _, _ in jobs._both_asked(first, second)] == ["mmlu"]


def test_several_values_that_nothing_uses_are_refused() -> None:
    both = grid("eval.mmlu.protocol=hendrycks,lm_eval")
    with pytest.raises(ValueError, match=r"eval\.mmlu\.protocol: several values, and no run .* add eval=mmlu") as error:
        jobs.plan_runs(both)
    assert len(str(error.value).splitlines()) == 1
    assert jobs.unasked_evaluations(both) == tuple(name for name in jobs.BENCHMARKS)
    for name, key in (
        ("tasks", "names=[piqa],[boolq]"),
        ("answers", "max_new_tokens=3,4"),
        ("perplexity", "limit=1,2"),
    ):
        with pytest.raises(ValueError, match=rf"add eval={name} "):
            jobs.plan_runs(grid(f"eval.{name}.{key}"))
    used = grid("eval=mmlu,none", "eval.mmlu.limit=3")
    assert [run.evals.after_training for run in jobs.plan_runs(used)] == [["mmlu"]]


def test_a_value_that_nothing_uses_is_named() -> None:
    [one] = grid("eval.mmlu.limit=3", "eval=tasks", "eval.tasks.names=[piqa]")
    [note] = evaluations.idle_notes([one])
    assert note.startswith(
        "eval.mmlu.limit=3: no run of the plan is measured by mmlu, so nothing uses it; add eval=mmlu"
    )
    assert "train.mmlu_*" in note
    [asked] = grid("eval=mmlu", "eval.mmlu.limit=3")
    assert evaluations.idle_notes([one, asked]) == evaluations.idle_notes([asked]) == []
    assert evaluations.idle_notes(grid("eval=none,mmlu")) == []


def test_files_count_by_their_content_and_folders_by_their_names_too(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.csv", "b.txt")]
    for file in files:
        file.write_text("x")
    own = hashlib.sha256(b"x").hexdigest()
    assert jobs._content_sha256(files[1:]) == own
    assert jobs._content_sha256(files[:1]) == hashlib.sha256(f"a.csv:{own}\n".encode()).hexdigest()
    assert jobs._content_sha256(files) == hashlib.sha256(f"a.csv:{own}\nb.txt:{own}\n".encode()).hexdigest()


def test_rows_of_the_store_are_part_of_what_an_evaluation_is_of(
    run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, glue = PathsConfig(), jobs.BENCHMARKS["glue"]
    measured = dataclasses.replace(run, evals=evals("glue"))

    def own(path: str | None = None, files: Any = ("f",), paths: Any = paths) -> dict[str, str]:
        rows = SimpleNamespace(dataset=SimpleNamespace(path=path), source=SimpleNamespace(files=files), sha256="s")
        monkeypatch.setattr(type(glue), "rows", lambda *given: rows)
        return jobs._own_rows(measured, "glue", paths)

    assert own() == {"glue_data_sha256": "s"}
    assert own(path="mine") == own(files=()) == own(paths=None) == {}
    monkeypatch.setattr(type(glue), "rows", lambda *given: None)
    assert jobs._own_rows(measured, "glue", paths) == {}
    assert jobs._own_rows(measured, "mmlu", paths) == {}

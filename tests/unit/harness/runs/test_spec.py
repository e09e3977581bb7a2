"""What is one run? `run_id` hashes what can change a result and nothing else; equal points are one run."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.registry import planned_settings, settings_from
from harness.config.choices import load_choice
from harness.config.schema import AdapterMethod, Config, DatasetConfig, Device, DType, EvalConfig, MasterWeights, typed
from harness.data.formats import DATASETS
from harness.files.atomic import sha256_file
from harness.runs.spec import RunSpec, recipe_row
from sweeps.plan.jobs import eval_settings, make_jobs, plan_runs
from sweeps.plan.labels import unique_labels
from sweeps.plan.preflight import preflight
from tests.builders import GROUPS, config, evals, spec
from tests.tiny import make_checkpoint

# If one of these changes, every finished run of every user is forgotten. A new field takes
# `metadata={"identity_since": <value that reproduces the old behaviour>}` in harness/config/schema.py; an id here is
# changed by hand only where the old run really can't be reproduced any more.
GOLDEN: list[tuple[str, dict[str, Any]]] = [
    ("5cc84b2ba340", {}),
    ("c3ead47eb5ac", {"model": "llama13b", "dataset": "flan"}),
    ("2259a6b22d84", {"model": "smollm2", "adapter": "none"}),
]


@pytest.mark.parametrize(("run_id", "choices"), GOLDEN)
def test_run_ids_are_stable(run_id: str, choices: dict[str, Any]) -> None:
    assert spec(**choices).run_id == run_id


def test_shorthand_is_the_same_run() -> None:
    assert spec(model="13b") == spec(model="llama13b")
    assert spec(model="13b").run_id == spec(model="llama13b").run_id


def test_untouched_base_is_one_run_over_all_datasets_and_recipes() -> None:
    ids = {
        spec(adapter="none", dataset=dataset, train=("default", {"seed": seed})).run_id
        for dataset in ("oasst1", "flan", "none")
        for seed in (0, 1)
    }
    assert len(ids) == 1
    assert spec(adapter="none", quant="int8").run_id not in ids


@pytest.mark.parametrize("method", ["int8", "none"])
def test_idle_quantization_settings_do_not_count(method: str) -> None:
    changed = {"block_size": 128, "double_quant": False, "name": "other"}
    assert spec(quant=(method, changed)).run_id == spec(quant=method).run_id
    assert spec(quant=("nf4", {"block_size": 128})).run_id != spec().run_id


def test_dtype_is_resolved_by_device_and_counts() -> None:
    cpu, cuda = spec(DType.float32), spec(DType.bfloat16)
    assert (cpu.quant.compute_dtype, cuda.quant.compute_dtype) == (DType.float32, DType.bfloat16)
    assert cpu.run_id != cuda.run_id
    assert spec(DType.bfloat16, quant=("nf4", {"compute_dtype": "float32"})).run_id == cpu.run_id


def full(quant: str, wanted: str, auto_dtype: DType = DType.float32) -> RunSpec:
    return spec(auto_dtype, quant=quant, adapter="full", train=("default", {"master_weights": wanted}))


def test_full_finetuning_of_16_bit_models_keeps_float32_weights_unless_told_otherwise() -> None:
    chosen = {wanted: full("bf16", wanted) for wanted in ("auto", "float32", "compute")}
    weights = {wanted: found.train.master_weights for wanted, found in chosen.items() if found.train is not None}
    assert weights["auto"] is weights["float32"] is MasterWeights.float32
    assert weights["compute"] is MasterWeights.compute
    assert spec(quant="bf16", adapter="full") == chosen["auto"]
    assert full("none", "auto", DType.bfloat16).run_id == chosen["auto"].run_id
    assert chosen["compute"].run_id == "bfdb48d52202"  # pure 16 bits was all there was
    assert chosen["auto"].run_id != chosen["compute"].run_id
    assert set(unique_labels([chosen["auto"], chosen["compute"]]).values()) == {
        "llama7b-oasst1-bf16-full-float32-weights",
        "llama7b-oasst1-bf16-full-compute-weights",
    }


@pytest.mark.parametrize("wanted", ["auto", "float32", "compute"])
def test_float32_models_and_adapters_have_one_id_whatever_the_master_weights(wanted: str) -> None:
    assert full("none", wanted).run_id == "b1b93593be91"
    lora = spec(DType.bfloat16, train=("default", {"master_weights": wanted}))
    assert (lora.run_id, lora.group) == ("adbcbf4a8510", "06a130dc683e")


def test_a_record_from_before_master_weights_is_of_pure_16_bits() -> None:
    values = full("bf16", "compute").to_dict()
    del values["train"]["master_weights"]
    assert RunSpec.from_dict(values) == full("bf16", "compute")


def fields(identity: bool) -> list[tuple[str, str]]:
    return [
        (group, field.name)
        for group, kind in GROUPS.items()
        for field in dataclasses.fields(kind)
        if field.metadata.get("identity", True) is identity
    ]


DECISIVE_AT_TIMES = (("train", "eval_every_steps"), ("dataset", "eval_split"))  # see the test of held-out rows below
OPTIONAL_NUMBERS = (  # None unless they are set
    "max_rows",
    "max_rows_per_task",
    "allora_eta",
    "lq_rounds",
    "qst_reduction",
    "qst_down_rank",
    "bits",
    "qst_reduction",
    "qst_down_rank",
    "lora_plus_ratio",
    "num_labels",
    "snapshot_steps",
    "mmlu_every_steps",
    "eval_every_steps",
    "mmlu_limit",
    "max_microbatch_tokens",
)


def changed(value: Any, name: str) -> Any:
    """Another valid value of the same type."""
    if isinstance(value, Enum):
        unlike = (value, AdapterMethod.none)  # beside which the adapter's other fields mean nothing
        return next(member for member in type(value) if member not in unlike)
    if isinstance(value, bool):
        return not value
    if name == "block_size":
        return 2 * value
    if name == "targets":
        return ["more"]  # beside all-linear another name means nothing
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, dict):
        return {**value, "more": next(iter(value.values()), 1)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        first = dataclasses.fields(value)[0].name
        return dataclasses.replace(value, **{first: getattr(value, first) + 1})
    if name in ("label_names", "ignore_columns"):
        return ["no", "maybe", "yes"]
    if name == "layers":
        return [0, 2]
    if name == "corda_keep":
        return "embedded"
    if name == "s2ft_share":
        return 0.5
    return f"{value}x" if isinstance(value, str) else 3 if name in OPTIONAL_NUMBERS else "x"


def mutated(base: RunSpec, keys: Sequence[tuple[str, str]]) -> RunSpec:
    for group, name in keys:
        part = getattr(base, group)
        value = changed(getattr(part, name), name)
        base = dataclasses.replace(base, **{group: dataclasses.replace(part, **{name: value})})
    return base


@cache
def plain() -> RunSpec:
    """Composed once: hundreds of its variants are made here."""
    return spec()


@pytest.mark.parametrize("key", fields(identity=True), ids=".".join)
def test_each_field_that_can_change_a_result_changes_the_id(key: tuple[str, str]) -> None:
    assert mutated(plain(), [key]).run_id != plain().run_id


@pytest.mark.parametrize("key", fields(identity=False), ids=".".join)
def test_names_paths_and_speed_do_not_change_the_id(key: tuple[str, str]) -> None:
    other = mutated(plain(), [key])
    assert other != plain(), "the field was not changed"
    assert other.run_id == plain().run_id
    assert other.group == plain().group


@settings(deadline=None)  # a loaded machine is no failure
@given(
    one=st.sets(st.sampled_from(fields(identity=True))),
    two=st.sets(st.sampled_from(fields(identity=True))),
    idle=st.lists(st.sampled_from([f for f in fields(identity=False) if f not in DECISIVE_AT_TIMES]), unique=True),
)
def test_ids_are_equal_just_where_the_identities_are(
    one: set[tuple[str, str]], two: set[tuple[str, str]], idle: list[tuple[str, str]]
) -> None:
    first = mutated(plain(), sorted(one))
    second = mutated(plain(), [*sorted(two), *idle])
    assert (first.run_id == second.run_id) == (one == two)


@settings(deadline=None, max_examples=30)
@given(keys=st.sets(st.sampled_from([*fields(identity=True), *fields(identity=False)])))
def test_spec_survives_its_file(keys: set[tuple[str, str]]) -> None:
    original = mutated(plain(), sorted(keys))
    assert RunSpec.from_dict(original.to_dict()) == original


def test_what_is_measured_on_held_out_rows_changes_the_id_just_where_it_changes_the_run() -> None:
    def held(**train: Any) -> str:
        return spec(train=("default", train)).run_id

    assert held() == spec().run_id
    assert held(eval_rows=0) == held()
    assert len({held(), held(eval_rows=8), held(eval_rows=9), held(eval_rows=8, eval_source="split")}) == 4
    assert held(eval_rows=8) == held(eval_rows=8, eval_every_steps=5)
    best = [held(eval_rows=8, eval_every_steps=every, keep_best=True) for every in (5, 6)]
    assert len({*best, held(eval_rows=8)}) == 3
    splits = [
        spec(dataset=("oasst1", {"eval_split": name}), train=("default", {"eval_rows": 8, "eval_source": "split"}))
        for name in ("validation", "test")
    ]
    assert splits[0].run_id != splits[1].run_id


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ({"eval_every_steps": 5}, r"train\.eval_every_steps=5: no rows are held out.*train\.eval_rows=N"),
        ({"keep_best": True}, r"train\.keep_best=true: no rows are held out"),
        ({"eval_source": "split"}, r"train\.eval_source=split: no rows are held out"),
        ({"eval_rows": 8, "keep_best": True}, r"train\.keep_best=true: .* train\.eval_every_steps=N"),
    ],
)
def test_settings_of_the_held_out_loss_that_do_not_go_together_are_refused(train: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spec(train=("default", train))


def test_local_data_is_known_by_its_content(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"input": "a", "output": "{text}"}}')

    def local(file: str, **more: Any) -> str:
        return spec(dataset=("local", {"path": str(tmp_path / f"{file}.jsonl"), **more})).run_id

    assert local("a") == local("b", name="other", hub_id="elsewhere/other", revision="v2")
    assert local("a") != local("c")
    assert local("a") != local("a", format="alpaca")
    assert local("a") == local("a", format="input_output"), "a format left open is the one that the columns name"
    whole = spec(dataset=("local", {"path": str(tmp_path / "a.jsonl")}))
    read = RunSpec.from_dict(whole.to_dict())
    assert read == whole
    assert read.data_sha256 == sha256_file(tmp_path / "a.jsonl")


def test_group_is_the_frozen_base() -> None:
    same = {spec(dataset=name, train=("default", {"seed": len(name)})).group for name in ("oasst1", "flan")}
    assert same == {spec(adapter="none").group}
    others = [
        spec(model="llama13b"),
        spec(quant="fp4"),
        spec(DType.bfloat16),
        spec(model=("llama7b", {"revision": "v2"})),
    ]
    assert len({other.group for other in others} | same) == 5


@pytest.mark.parametrize(
    ("model", "dataset", "expected"),
    [
        ("llama7b", "oasst1", (1875, 16, 2e-4, 0.1)),
        ("llama13b", "oasst1", (1875, 16, 2e-4, 0.05)),
        ("llama65b", "oasst1", (1875, 16, 1e-4, 0.05)),
        ("llama65b", "flan", (2500, 64, 1e-4, 0.05)),
        ("smollm2", "concise", (40, 8, 1e-3, 0.05)),
    ],
)
def test_recipe_fills_what_is_left_open(model: str, dataset: str, expected: tuple[int, int, float, float]) -> None:
    found = spec(model=model, dataset=dataset)
    assert found.train is not None
    got = (found.train.max_steps, found.train.batch_size, found.train.learning_rate, found.adapter.lora_dropout)
    assert got == expected


def test_what_is_said_beats_the_recipe() -> None:
    found = spec(train=("default", {"max_steps": 7, "learning_rate": 0.5}), adapter=("lora", {"lora_dropout": 0.0}))
    assert found.train is not None
    assert (found.train.max_steps, found.train.batch_size, found.train.learning_rate) == (7, 16, 0.5)
    assert found.adapter.lora_dropout == 0.0


def test_recipe_falls_back_to_the_papers_general_values() -> None:
    bare = typed(DatasetConfig, {"name": "x", "hub_id": "x", "format": "alpaca"})
    row = recipe_row(bare, config().model)
    assert (row.max_steps, row.batch_size, row.learning_rate, row.lora_dropout) == (1000, 16, 2e-4, 0.1)


def test_points_that_cannot_be_are_told_together() -> None:
    missing = config(dataset=("local", {"path": "nowhere.jsonl"}))
    with pytest.raises(ValueError, match="dataset=none goes with adapter=none only") as caught:
        plan_runs([config(), config(dataset="none"), missing, missing])
    assert str(caught.value).count("dataset.path=nowhere.jsonl: no such file") == 1


def test_two_local_checkpoints_are_two_sets_of_runs(tmp_path: Path) -> None:
    """Whoever comes first, under whatever names; the same weights in two places are one."""
    folders = {name: tmp_path / name for name in ("a", "b", "copy")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("b" if name == "b" else "a")
    one, other, copy = (config(model=("local", {"path": str(folder)})) for folder in folders.values())
    first, second = plan_runs([one, other, copy])
    assert first.run_id != second.run_id
    assert first.spec.group != second.spec.group, "a loaded base serves one checkpoint only"
    assert [run.run_id for run in plan_runs([other, one])] == [second.run_id, first.run_id]
    assert RunSpec.from_dict(first.spec.to_dict()) == first.spec
    renamed = config(model=("local", {"path": str(folders["a"]), "hub_id": "lab/other", "revision": "v2"}))
    assert [run.run_id for run in plan_runs([renamed])] == [first.run_id], "its content is its name"
    (untouched,) = plan_runs([dataclasses.replace(one, adapter=config(adapter="none").adapter)])
    assert untouched.spec.base_sha256 == first.spec.base_sha256
    (folders["a"] / "chat_template.jinja").write_text("{{ messages }}")
    assert plan_runs([one])[0].run_id not in (first.run_id, second.run_id), "a template decides, too"


def test_local_models_that_are_not_there_are_not_one_run() -> None:
    with pytest.raises(ValueError, match=r"model\.path=b: no such folder"):
        plan_runs([config(model=("local", {"path": path})) for path in ("a", "b")])


def test_a_stored_spec_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    values = spec().to_dict()
    for text in ("${oc.env:OPENAI_API_KEY}", r"\${oc.env:OPENAI_API_KEY}", "a ${b", "{{ m }}${model.name}"):
        values["dataset"]["chat_template"] = text
        values["model"]["aliases"] = [text]
        read = RunSpec.from_dict(values)
        assert read.dataset is not None
        assert (read.dataset.chat_template, read.model.aliases) == (text, [text])
    values["adapter"]["lora_r"] = "${oc.env:OPENAI_API_KEY}"
    with pytest.raises(ValueError, match="could not be converted to Integer") as refused:
        RunSpec.from_dict(values)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "model", "quant", "adapter", "dataset", "train", "data_sha256"])
@pytest.mark.parametrize(
    "value", [[], {"nmae": 1}, 10**400, True, "x", {"name": {}}, {"aliases": 3}, [[["x"]]], "\ud800"]
)
def test_a_stored_spec_that_is_none_is_refused_by_name(key: str, value: Any) -> None:
    values = spec().to_dict() | {key: value} if key else value
    if key == "data_sha256" and isinstance(value, str):
        assert RunSpec.from_dict(values).data_sha256 == value
        values |= {"dataset": None, "train": None, "adapter": {"name": "none", "method": "none"}}
    with pytest.raises(ValueError, match=f"record.json: {key}"):
        RunSpec.from_dict(values, "record.json")


@pytest.mark.parametrize("key", ["dataset", "train"])
def test_a_trained_adapter_has_learned_from_something(key: str) -> None:
    with pytest.raises(ValueError, match=r"record\.json: a trained adapter without dataset or train"):
        RunSpec.from_dict(spec().to_dict() | {key: None}, "record.json")


def test_equal_points_are_one_run_and_labels_differ() -> None:
    seeds = [config(train=("default", {"seed": seed})) for seed in (0, 1, 1)]
    rates = [config(model="7b", train=("default", {"learning_rate": 1e-3}))]
    runs = plan_runs([*seeds, *rates, config(adapter="none"), config(adapter="none", dataset="flan")])
    assert len(runs) == 4
    labels = [run.label for run in runs]
    assert len(set(labels)) == 4
    assert labels[-1] == "llama7b-base-nf4"
    assert all(label.startswith("llama7b-oasst1-nf4-") for label in labels[:-1])
    assert [run.label for run in plan_runs([config()])] == ["llama7b-oasst1-nf4"]


def test_two_measurements_of_one_run_are_refused() -> None:
    shots = [config(eval=evals("mmlu", mmlu={"num_shots": n})) for n in (0, 1, 1)]
    with pytest.raises(ValueError, match=r"run \w{12} \(llama7b-oasst1-nf4\).*num_shots=0 and .*num_shots=1.*two comm"):
        plan_runs(shots)
    assert len(plan_runs(shots[1:])) == 1
    unasked = [config(eval=evals(mmlu={"num_shots": n})) for n in (0, 1)]
    with pytest.raises(ValueError, match=r"eval\.mmlu\.num_shots: several values, .* add eval=mmlu"):
        plan_runs(unasked)


@pytest.mark.parametrize("file", ["questions.jsonl", "law_test.csv"])
def test_a_measurement_of_changed_questions_is_another(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("before")
    where = str(tmp_path if file.endswith(".csv") else tmp_path / file)
    asked = evals("mmlu", mmlu={"questions": where})
    before = eval_settings(asked, "mmlu")
    assert eval_settings(asked, "mmlu") == before
    (tmp_path / file).write_text("after")
    after = eval_settings(asked, "mmlu")
    assert {key for key in after if after[key] != before[key]} == {"mmlu_questions_sha256"}


def test_planned_settings_are_those_of_earlier_plans() -> None:
    """Equal settings stay the same job: what was added since then is kept only where it differs from its default."""
    before = {"mmlu_questions": "embedded", "mmlu_shots_file": "embedded", "mmlu_num_shots": 5}
    before |= {"mmlu_limit_per_subject": None}
    assert planned_settings("mmlu", MmluSettings()) == before
    assert planned_settings("mmlu", MmluSettings(row_tokens=64)) == before
    added = planned_settings("mmlu", MmluSettings(protocol=Protocol.hendrycks))
    assert added == before | {"mmlu_protocol": "hendrycks"}
    assert settings_from("mmlu", added | {"mmlu_questions_sha256": "0"}) == MmluSettings(protocol=Protocol.hendrycks)
    (_, job) = make_jobs(plan_runs([config(eval=evals("mmlu", mmlu={"row_tokens": 64}))]))
    (_, same) = make_jobs(plan_runs([config(eval=evals("mmlu"))]))
    assert job.job_id == same.job_id
    assert json.loads(job.payload)["settings"]["mmlu_row_tokens"] == 64


def test_embedded_questions_count_by_their_content() -> None:
    found = eval_settings(EvalConfig(), "mmlu")
    embedded = Path(__file__).resolve().parents[4] / "harness" / "data" / "embedded"
    assert found["mmlu_questions_sha256"] == sha256_file(embedded / "mmlu_questions.jsonl")
    assert found["mmlu_shots_file_sha256"] == sha256_file(embedded / "mmlu_shots.jsonl")


def test_every_model_of_one_name_is_looked_for(tmp_path: Path) -> None:
    points = [
        config(model=("local", {"path": str(tmp_path / path), "hub_id": f"lab/{path}"}), dataset="concise")
        for path in ("a", "b")
    ]
    problems = preflight(plan_runs(points), Config().paths, Device.cpu)
    assert len(problems) == 2
    assert all(f"model.path={tmp_path / path}" in problem for path, problem in zip("ab", problems, strict=True))


def test_jobs_wait_for_their_training() -> None:
    measured = evals("mmlu", mmlu={"limit_per_subject": 3})
    train, mmlu = make_jobs(plan_runs([config(eval=measured)]))
    assert (train.kind, mmlu.kind, mmlu.after) == ("train", "mmlu", train.job_id)
    (_, other) = make_jobs(plan_runs([config(eval=evals("mmlu", mmlu={"limit_per_subject": 3, "num_shots": 0}))]))
    assert other.job_id != mmlu.job_id, "other settings are another measurement"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (evals("mmmlu"), "eval.after_training: 'mmmlu' is no evaluation; there are: mmlu, perplexity"),
        (evals("mmlu", mmlu={"questions": "no.jsonl"}), "eval.mmlu.questions: no.jsonl: no such file"),
        (evals("mmlu", mmlu={"shots_file": "no.jsonl"}), "eval.mmlu.shots_file: no.jsonl: no such"),
        (evals("mmlu", mmlu={"num_shots": 9}), "eval.mmlu.num_shots: embedded: subject "),
        (evals("perplexity", perplexity={"text": "no.txt"}), "eval.perplexity.text: no.txt: no such"),
        (evals("tasks", tasks={"folder": "nowhere"}), "eval.tasks.folder=nowhere: no such folder"),
        (evals("answers", answers={"questions": "nowhere"}), "eval.answers.questions: nowhere: no such file"),
    ],
)
def test_evaluations_are_checked_before_the_first_step(asked: EvalConfig, expected: str) -> None:
    runs = plan_runs([config(model="smollm2", dataset="concise", eval=asked)] * 2)
    (problem,) = preflight(runs, Config().paths, Device.cpu)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (("miss", {"lora_r": 33}), "adapter.lora_r=33 with adapter=miss: up_proj has 32 inputs; use 32 or less"),
        (("pissa", {"lora_r": 64}), "this model's smallest layer has 16 rows or columns"),
        (("lora", {"layers": [1, 2]}), "adapter.layers=[2]: no such layer; this model has 2, counted from 0"),
        (("miss", {"lora_r": 32}), None),
    ],
)
def test_numbers_are_held_against_the_checkpoints_own_layers(
    tmp_path: Path, adapter: tuple[str, dict[str, Any]], problem: str | None
) -> None:
    """Of a model by its path, whatever its YAML says."""
    folder = make_checkpoint(tmp_path)
    runs = plan_runs([config(model=("llama7b", {"path": str(folder)}), dataset="concise", adapter=adapter)])
    found = preflight(runs, Config().paths, Device.cpu)
    assert found == [] if problem is None else [problem in line for line in found] == [True]


def test_a_heads_own_size_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    saved = json.loads((folder / "config.json").read_text()) | {"head_dim": 64}
    (folder / "config.json").write_text(json.dumps(saved))
    asked = ("peft", {"targets": ["k_proj"], "peft_type": "ROAD"})  # in groups of 64 outputs, not 16
    runs = plan_runs([config(model=("llama7b", {"path": str(folder)}), dataset="concise", adapter=asked)])
    assert preflight(runs, Config().paths, Device.cpu) == []


def test_questions_of_an_evaluation_that_is_not_asked_for_are_not_looked_for() -> None:
    runs = plan_runs([config(model="smollm2", dataset="concise", eval=evals(mmlu={"questions": "no.jsonl"}))])
    assert preflight(runs, Config().paths, Device.cpu) == []


def test_every_dataset_has_a_reader() -> None:
    folder = Path(__file__).resolve().parents[4] / "conf" / "dataset"
    formats: dict[str, Callable[..., Any]] = dict(DATASETS)
    names = {path.stem: load_choice("dataset", path.stem)["format"] for path in folder.glob("*.yaml")}
    assert {name: kind for name, kind in names.items() if kind not in formats} == {"none": "none", "local": "auto"}


def test_a_length_that_the_user_gives_is_not_limited_by_the_recipe() -> None:
    def length(**train: Any) -> tuple[int | None, float | None]:
        found = spec(dataset="oasst1", train=("default", train)).train
        assert found is not None
        return found.max_steps, found.max_epochs

    assert length() == (1875, 4.0)
    assert length(max_steps=500) == (500, None)
    assert length(max_epochs=3.0) == (None, 3.0)
    assert length(max_steps=500, max_epochs=2.0) == (500, 2.0)
    assert length(max_steps=10, warmup_steps=10) == (10, None)


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ({"warmup_steps": 1876}, "warmup_steps=1876: the run has at most 1875 steps"),
        ({"warmup_steps": 11, "max_steps": 10}, "warmup_steps=11: the run has at most 10 steps"),
        ({"warmup_steps": 5, "warmup_ratio": 0.03}, "give one of them"),
    ],
)
def test_a_warm_up_that_makes_no_sense_is_refused(train: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spec(dataset="oasst1", train=("default", train))


BY_ONE_CHOICE = [{"adapter": method.value} for method in AdapterMethod if method is not AdapterMethod.peft]


@pytest.mark.parametrize("choices", [*BY_ONE_CHOICE, {"adapter": "miss"}, {"model": "t5_small"}])
def test_only_adapters_over_a_frozen_causal_base_share_it(choices: dict[str, Any]) -> None:
    chosen = {"quant": "nf4" if choices.get("adapter") in ("loftq", "lq_lora") else "bf16", "dataset": "flan"} | choices
    groups = {spec(**chosen, train=("default", {"seed": seed})).group for seed in (0, 1)}
    shares = choices.get("adapter") in ("none", "lora", "rslora", "allora")
    assert len(groups) == (1 if shares else 2)


@pytest.mark.parametrize(
    ("choices", "label"),
    [
        ({"adapter": "none"}, "llama7b-base-nf4"),
        ({"adapter": "none", "quant": "none", "model": "smollm2"}, "smollm2-base"),
        ({}, "llama7b-oasst1-nf4"),
        ({"quant": "bf16", "adapter": "rslora", "model": "smollm2"}, "smollm2-oasst1-bf16-rslora"),
    ],
)
def test_short_names_of_runs(choices: dict[str, Any], label: str) -> None:
    assert spec(**choices).label == label


def test_faithful_mode_is_the_originals_batches() -> None:
    def chosen(**train: Any) -> tuple[Any, ...]:
        found = spec(train=("default", train)).train
        assert found is not None
        return found.loss_mean.value, found.group_by_length, found.max_microbatch_tokens

    assert chosen(mode="faithful") == ("example", True, 1)
    assert chosen() == ("token", False, None)


def test_plain_values_of_a_spec() -> None:
    values = spec(adapter="none").to_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["dataset"], values["quant"]["method"], values["adapter"]["method"]) == (None, "nf4", "none")
    assert (values["data_sha256"], values["base_sha256"]) == (None, None)

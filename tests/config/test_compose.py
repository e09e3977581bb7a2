"""A command line becomes typed grid points: the same as Hydra itself composes, every mistake reported once."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from eval.benchmarks.registry import eval_config
from harness.config import compose as composing
from harness.config.choices import CONF_FOLDER
from harness.config.compose import ConfigError, Point, register
from harness.config.schema import AdapterMethod, QuantMethod

EVALS = eval_config()
compose_points = partial(composing.compose_points, evals=EVALS)
to_config = partial(composing.to_config, evals=EVALS)


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    def never(_: object) -> None:
        raise AssertionError("the tests compose only")

    register(never, EVALS)
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_every_point_is_what_hydra_composes(loader: ConfigLoader) -> None:
    axes = {
        "model": ["llama7b", "13b", "smollm2"],
        "dataset": ["oasst1", "flan"],
        "quant": ["nf4", "int8"],
        "train.seed": ["0", "1"],
    }
    fixed = ["adapter.lora_r=8", "train.learning_rate=1e-3", "adapter.targets=[q_proj,v_proj]", "paths.runs=elsewhere"]
    points = compose_points(loader, [*fixed, *(f"{key}={','.join(values)}" for key, values in axes.items())])
    wanted = [
        [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
        for values in itertools.product(*axes.values())
    ]
    assert [list(point.overrides) for point in points] == [[*fixed, *overrides] for overrides in wanted]
    for point in points[::5]:
        assert point.config == to_config(compose("config", overrides=list(point.overrides)))
    assert {point.config.train.seed for point in points} == {0, 1}


def test_the_users_own_grid(loader: ConfigLoader) -> None:
    points = compose_points(loader, ["model=llama7b,13b", "dataset=oasst1,flan"])
    chosen = [(p.config.model.name, p.config.dataset.name) for p in points]
    assert chosen == [("llama7b", "oasst1"), ("llama7b", "flan"), ("llama13b", "oasst1"), ("llama13b", "flan")]
    assert {p.config.quant.method for p in points} == {QuantMethod.nf4}
    assert {p.config.adapter.lora_r for p in points} == {64}


def test_experiment_spans_the_union_of_its_parts(loader: ConfigLoader) -> None:
    points = compose_points(loader, ["+experiment=demo"])
    spanned = [(p.config.dataset.name, p.config.quant.name, p.config.adapter.method) for p in points]
    assert len(spanned) == 5
    assert set(spanned[:4]) == set(itertools.product(["concise", "stepwise"], ["nf4", "none"], [AdapterMethod.lora]))
    assert spanned[4][2] is AdapterMethod.none
    assert {p.config.sweep_name for p in points} == {"demo"}


def test_command_line_beats_the_experiment(loader: ConfigLoader) -> None:
    points = compose_points(loader, ["+experiment=demo", "train.max_steps=3", "quant=int8,fp4"])
    assert {p.config.train.max_steps for p in points} == {3}
    assert {p.config.quant.name for p in points} == {"int8", "fp4"}
    assert len(points) == 6, "two datasets and the base, each twice; the experiment's own quant is replaced"


def test_overlapping_parts_give_each_point_once(loader: ConfigLoader) -> None:
    points = compose_points(loader, ["grid=[{quant:'nf4,none'},{quant:'none,int8'}]"])
    assert [p.config.quant.name for p in points] == ["nf4", "none", "int8"]


def test_glob_and_range(loader: ConfigLoader) -> None:
    points = compose_points(loader, ["model=glob(llama2*)", "train.seed=range(0,2)"])
    assert [p.config.model.name for p in points[::2]] == ["llama2_13b", "llama2_70b", "llama2_7b"]
    with pytest.raises(ConfigError, match=r"model=glob\(zzz\*\): no grid point"):
        compose_points(loader, ["model=glob(zzz*)"])


def test_a_mistake_in_some_points_names_the_first(loader: ConfigLoader) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_points(loader, ["model=llama7b,13b,smollm2", "quant.block_size=64,63", "train.seed=3"])
    (problem,) = caught.value.problems
    assert problem.startswith("model=llama7b quant.block_size=63 and 2 more points: quant.block_size=63: ")


def test_a_mistake_in_all_points_is_told_once(loader: ConfigLoader) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_points(loader, ["model=llama7b,13b", "train.max_steps=-1"])
    assert caught.value.problems == ("train.max_steps=-1: must be above 0",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_steps=-1", "train.max_steps=-1: must be above 0"),
        ("quant.block_size=63", "quant.block_size=63: bitsandbytes takes a power of two from 64 to 4096"),
        ("train.learning_rate=1e400", "train.learning_rate=inf: expected a value between 0 and 1"),
        ("train.learning_rate=nan", "train.learning_rate=nan: expected a value between 0 and 1"),
        ("adapter.lora_r=0", "adapter.lora_r=0: must be above 0"),
        ("adapter.lora_dropout=1.0", "adapter.lora_dropout=1.0: expected a probability"),
        ("model=local", "model=local: say where it lies by model.path=..."),
        ("dataset=local", "dataset=local: say where it lies by dataset.path=..."),
    ],
)
def test_value_that_cannot_be(loader: ConfigLoader, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        to_config(compose("config", overrides=[override]))
    assert str(caught.value).startswith(message)


def test_paths_come_from_the_environment(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def paths() -> tuple[str, str | None, str | None, str]:
        (point,) = compose_points(loader, [])
        found = point.config.paths
        return found.runs, found.model_store, found.data_store, found.cache

    assert paths() == ("runs", None, None, ".cache")
    for name in ("RUNS", "MODEL_STORE", "DATA_STORE", "CACHE"):
        monkeypatch.setenv(f"HARNESS_{name}", f"{tmp_path}/{name}")
    assert paths() == (f"{tmp_path}/RUNS", f"{tmp_path}/MODEL_STORE", f"{tmp_path}/DATA_STORE", f"{tmp_path}/CACHE")


def test_point_keeps_what_was_asked_for(loader: ConfigLoader) -> None:
    (point,) = compose_points(loader, ["model=7b"])
    assert isinstance(point, Point)
    assert point.overrides == ("model=7b",)

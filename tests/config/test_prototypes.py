"""Points put together from parts equal Hydra's own composition, and what can't be put together goes to Hydra."""

import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from eval.benchmarks.registry import eval_config
from harness.config.choices import CONF_FOLDER, choices
from harness.config.compose import _load, register, to_config
from harness.config.overrides import GROUPS, first_cause
from harness.config.prototypes import Prototypes, parsed
from harness.config.schema import Config

EVALS = eval_config()
LOCAL_PATHS = {"model": "model.path=somewhere", "dataset": "dataset.path=rows.jsonl"}
VALUES = {
    "train.seed": ["0", "7", "123"],
    "train.learning_rate": ["1e-4", "3", "null", "0.5"],
    "train.max_steps": ["null", "10", "-1", "1.5"],
    "train.mode": ["fast", "faithful", "FAST"],
    "train.gradient_checkpointing": ["true", "no"],
    "adapter.lora_r": ["8", "64", "abc"],
    "adapter.targets": ["[q_proj,v_proj]", "[all-linear]", "[]"],
    "adapter.lora_dropout": ["0", "0.05", "1"],
    "quant.block_size": ["64", "128", "63"],
    "quant.compute_dtype": ["float16", "auto"],
    "dataset.max_rows": ["null", "10"],
    "dataset.path": ["rows.jsonl", "'a b.jsonl'", "null"],
    "model.path": ["somewhere", "null"],
    "model.shape.num_layers": ["2", "3"],
    "eval.after_training": ["[mmlu]", "[]"],
    "eval.mmlu.num_shots": ["2", "null", "-1"],
    "eval.tasks.names": ["[piqa]", "[]"],
    "launch.workers": ["2", "0"],
    "paths.runs": ["elsewhere", "'${oc.env:HOME}'"],
    "sweep_name": ["one", "two"],
    "adapter.lora_alpha": ["16", "'${adapter.lora_r}'", "'${train.seed}'"],
    "+dataset.recipe.7b.max_steps": ["3"],
    "++train.warmup_steps": ["1"],
}


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    yield from _loader(CONF_FOLDER)


def _loader(folder: Path) -> Iterator[ConfigLoader]:
    register(lambda compose: None, EVALS)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def outcome(make: partial[Config]) -> Config | str:
    """What came of it: the config, or the mistake in the words that a user reads."""
    try:
        return make()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return first_cause(error, EVALS)


def assert_parity(loader: ConfigLoader, fixed: Sequence[str], points: Sequence[Sequence[str]]) -> Prototypes:
    """Every point, in this order, from one set of prototypes."""
    prototypes = Prototypes(loader, fixed, partial(_load, loader), partial(to_config, evals=EVALS))
    for own in points:
        found = outcome(partial(prototypes.config, own))
        wanted = outcome(partial(lambda own: to_config(_load(loader, [*fixed, *own]), EVALS), own))
        assert found == wanted, [*fixed, *own]
    return prototypes


def _diagonals(shifts: Sequence[int]) -> list[list[str]]:
    """Points in which every choice of every group occurs, with other company for each shift."""
    names = {group: choices(group) for group in GROUPS if (CONF_FOLDER / group).is_dir()}
    points: list[list[str]] = []
    for shift in shifts:
        for row in range(max(map(len, names.values()))):
            chosen = {group: all_[(row + shift * n) % len(all_)] for n, (group, all_) in enumerate(names.items())}
            paths = [LOCAL_PATHS[group] for group in LOCAL_PATHS if chosen[group] == "local"]
            points.append([*(f"{group}={name}" for group, name in chosen.items()), *paths])
    return points


@pytest.mark.slow
def test_every_choice_of_every_group_in_changing_company(loader: ConfigLoader) -> None:
    points = _diagonals([0, 1, 2, 5])
    prototypes = assert_parity(loader, ["train.seed=1"], points)
    assert prototypes.num_composed < len(points) / 2


def test_choices_and_values_are_composed_once(loader: ConfigLoader) -> None:
    points = [
        [f"model={model}", f"dataset={dataset}", f"adapter.lora_r={r}", f"train.seed={seed}"]
        for model in ("7b", "t5_small")
        for dataset in ("flan", "oasst1")
        for r, seed in ((8, 0), (16, 1))
    ]
    prototypes = assert_parity(loader, ["train.learning_rate=1e-3", "quant=fp4"], points)
    assert prototypes.num_composed == 3, "two models and two datasets, the first of each in one point"


def test_nested_keys_and_keys_that_only_some_points_set_need_no_composition_of_their_own(loader: ConfigLoader) -> None:
    """As the paper's tables have them: `+grid=thousand` composed 337 of its points by Hydra."""
    mmlu = ["eval=mmlu", "eval.mmlu.questions=hub:test", "eval.mmlu.shots_file=hub:dev"]
    points = [[*mmlu, f"train.seed={seed}"] for seed in (0, 1)]
    points += [["eval=mmlu", "eval.mmlu.num_shots=2"], ["eval=mmlu", "eval.mmlu.num_shots=-1"]]
    points += [["train.max_steps=3"], ["train.max_steps=4", "model.shape.num_layers=3", "eval.tasks.names=[piqa]"]]
    prototypes = assert_parity(loader, [], points)
    assert prototypes.num_composed == 4, (
        "eval=mmlu with and without its files, no eval; a wrong one's message is Hydra's"
    )


def test_a_value_that_replaces_an_interpolation_does_not_follow_it(loader: ConfigLoader) -> None:
    points = [["eval.mmlu.num_shots=${train.seed}"], ["train.seed=3"], ["adapter.lora_alpha=5", "train.seed=4"]]
    prototypes = assert_parity(loader, ["adapter.lora_alpha=${train.seed}"], points)
    assert prototypes.num_composed == 2


@pytest.mark.parametrize("fixed", [["+experiment=demo"], ["adapter.lora_alpha=${adapter.lora_r}"]])
def test_experiments_and_interpolations(loader: ConfigLoader, fixed: list[str]) -> None:
    points = [[f"model={model}", f"adapter.lora_r={r}"] for model in ("7b", "13b") for r in (8, 16)]
    assert_parity(loader, fixed, points)


@pytest.mark.parametrize(
    "text", ["train.seed=0", "train.seed=12", "a_b.c=-7", "a=007", "a=1_000", "+a=3", "a=1.0", "a="]
)
def test_whole_numbers_are_read_as_the_grammar_reads_them(text: str) -> None:
    wanted = OverridesParser.create().parse_override(text)
    assert parsed(text) == wanted
    assert type(parsed(text).value()) is type(wanted.value())
    assert parsed(text).input_line == wanted.input_line


def _random_points(seed: int, num_points: int) -> list[list[str]]:
    rng = random.Random(seed)
    groups = [group for group in GROUPS if (CONF_FOLDER / group).is_dir()]
    chosen = {group: rng.sample(choices(group), min(2, len(choices(group)))) for group in rng.sample(groups, 3)}
    keys = rng.sample(sorted(VALUES), 3)
    points = []
    for _ in range(num_points):
        own = [f"{group}={rng.choice(names)}" for group, names in chosen.items()]
        own += [f"{key}={rng.choice(VALUES[key])}" for key in keys]
        rng.shuffle(own)
        points.append(own)
    return points


def test_random_points(loader: ConfigLoader) -> None:
    assert_parity(loader, [], _random_points(0, 4))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), experiment=st.booleans())
def test_random_points_property(loader: ConfigLoader, seed: int, experiment: bool) -> None:
    assert_parity(loader, ["+experiment=demo"] if experiment else ["adapter.lora_r=16"], _random_points(seed, 6))


TRICKS = {
    "model/other_package.yaml": "# @package _global_\ndefaults: [llama7b]\ntrain: {seed: 9}\n",
    "model/chooses.yaml": "defaults: [llama7b, {override /dataset: flan}, _self_]\nname: chooses\n",
    "model/reads.yaml": "defaults: [llama7b, _self_]\nname: reads\nmax_length: ${dataset.source_max_tokens}\n",
    "dataset/by_model.yaml": "defaults: [schema, 'for_${model}', _self_]\nname: by_model\n",
    "dataset/for_7b.yaml": "defaults: [oasst1]\n",
    "dataset/for_13b.yaml": "defaults: [flan]\n",
    "experiment/overriding.yaml": (
        "# @package _global_\n"
        "defaults: [{override /model: 13b}, {override /quant: int8}, _self_]\n"
        "model: {max_length: 77}\n"
        "adapter: {lora_alpha: '${train.seed}'}\n"
    ),
    "experiment/by_model.yaml": (
        "# @package _global_\ndefaults: [{override /dataset: 'for_${model}'}]\ntrain: {max_steps: 5}\n"
    ),
}


@pytest.fixture(scope="module")
def tricky_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's conf with files that reach beyond their group."""
    folder = tmp_path_factory.mktemp("tricky") / "conf"
    shutil.copytree(CONF_FOLDER, folder)
    for name, text in TRICKS.items():
        (folder / name).write_text(text)
    return folder


def slow(case: tuple[list[str], list[str], list[str]]) -> ParameterSet:
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("fixed", "models", "others"),
    [
        ([], ["7b", "other_package"], ["train.seed=1", "train.max_steps=3"]),
        ([], ["reads", "7b"], ["dataset.source_max_tokens=10", "dataset.source_max_tokens=20"]),
        slow(([], ["chooses", "7b"], ["dataset=alpaca", "quant=fp4"])),
        slow(([], ["7b", "13b"], ["dataset=by_model", "dataset=flan"])),
        slow((["+experiment=overriding"], ["7b", "13b"], ["train.seed=3", "train.seed=4"])),
        slow((["+experiment=by_model"], ["7b", "13b"], ["train.seed=3", "train.seed=4"])),
        slow((["model.max_length=9"], ["7b", "13b"], ["model.max_length=10", "~tracking.wandb_project"])),
    ],
)
def test_files_that_reach_beyond_their_group(
    tricky_conf: Path, fixed: list[str], models: list[str], others: list[str]
) -> None:
    points = [[f"model={model}", other] for model in models for other in others]
    for loader in _loader(tricky_conf):
        assert_parity(loader, fixed, points)


@pytest.mark.slow
def test_an_experiment_may_be_an_axis(tricky_conf: Path) -> None:
    points = [
        [f"+experiment={name}", f"train.seed={seed}", f"model={model}"]
        for name in ("demo", "overriding", "by_model")
        for seed in (1, 2)
        for model in ("7b", "13b")
    ]
    for loader in _loader(tricky_conf):
        prototypes = assert_parity(loader, [], points)
        assert prototypes.num_composed < len(points), "demo's points share its parts"


def test_the_order_of_overlapping_overrides_counts(loader: ConfigLoader) -> None:
    overlapping = ["dataset.recipe={7b:{max_steps:1}}", "+dataset.recipe.default={max_steps:2}"]
    unreadable = ["+dataset.recipe.13b=1"]
    points = [["train.seed=1", "train.seed=2"], overlapping, overlapping[::-1], ["model=7b", "model=13b"], unreadable]
    assert_parity(loader, [], points)

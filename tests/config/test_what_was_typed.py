"""A command line means what Hydra makes of it: order, keys that can't vary, a user's own folder, interpolations."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from eval.benchmarks.registry import eval_config
from harness.config import compose as composing
from harness.config.choices import CONF_FOLDER, OURS
from harness.config.compose import ConfigError, _fixed_and_axes, compose_grid, register, to_config
from harness.config.folders import user_folders
from harness.config.prototypes import Prototypes
from sweeps import run as command

EVALS = eval_config()


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    register(lambda compose: None, EVALS)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    ("overrides", "fixed", "axes"),
    [
        (["train.seed=1,2", "train.seed=7"], ["train.seed=7"], {}),
        (["train.seed=7", "train.seed=1,2"], ["train.seed=7"], {"train.seed": ["1", "2"]}),
        (["train.seed=1,2", "train.seed=3,4"], [], {"train.seed": ["3", "4"]}),
        (["train.seed=1,2", "++train.seed=7"], [], {"train.seed": ["1", "2"], "++train.seed": ["7"]}),
        (["model=7b,13b", "model.path=x"], ["model.path=x"], {"model": ["7b", "13b"]}),
        (["model=7b,13b", "model=smollm2"], ["model=smollm2"], {}),
        (
            ["eval.mmlu.num_shots=0,1", "eval.mmlu={num_shots:2}"],
            [],
            {"eval.mmlu.num_shots": ["0", "1"], "eval.mmlu": ["{num_shots:2}"]},
        ),
    ],
)
def test_the_later_of_two_overrides_counts(overrides: list[str], fixed: list[str], axes: dict[str, list[str]]) -> None:
    parsed = OverridesParser.create().parse_overrides(overrides)
    assert _fixed_and_axes(parsed, OURS) == (fixed, axes)


def test_one_seed_after_two_is_one_run(loader: ConfigLoader) -> None:
    compose = partial(composing.compose_points, loader, evals=EVALS)
    assert [point.config.train.seed for point in compose(["train.seed=1,2", "train.seed=7"])] == [7]
    assert [point.config.train.seed for point in compose(["train.seed=7", "train.seed=1,2"])] == [1, 2]


def test_a_grid_of_too_many_points_ends_at_the_limit(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "MAX_POINTS", 4)
    compose = partial(composing.compose_points, loader, evals=EVALS)
    assert len(compose(["train.seed=1,2", "train.data_seed=1,2"])) == 4
    with pytest.raises(ConfigError, match=r"^train\.seed=1,2 train\.data_seed=1,2,3: a sweep has at most "):
        compose(["train.seed=1,2", "train.data_seed=1,2,3"])


@pytest.mark.parametrize(
    "overrides", [["grid=[{launch.max_group_size:'1,2'}]"], ["train.seed=1,2", "paths.runs=runs-${train.seed}"]]
)
def test_what_a_sweep_has_once_is_not_varied_by_other_ways(loader: ConfigLoader, overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="can't vary within a sweep"):
        composing.compose_points(loader, overrides, EVALS)


def test_an_experiment_with_a_grid_is_not_one_of_several(loader: ConfigLoader) -> None:
    with pytest.raises(ConfigError, match="an experiment with a grid of its own can't be one of several"):
        composing.compose_points(loader, ["+experiment=demo,demo"], EVALS)


INTERPOLATED = [
    ["train.data_seed=${train.seed}", "sweep_name=by-${model.name}"],
    ["adapter.lora_alpha=${adapter.lora_r}", "adapter.lora_r=${train.batch_size}", "train.batch_size=4"],
    ["eval.mmlu.num_shots=${train.seed}", "tracking.wandb_project='${dataset.name}-${quant.method}'"],
]


@pytest.mark.parametrize("fixed", INTERPOLATED)
def test_points_with_interpolations_are_composed_once(loader: ConfigLoader, fixed: Sequence[str]) -> None:
    load, convert = partial(composing._load, loader), partial(to_config, evals=EVALS)
    prototypes = Prototypes(loader, fixed, load, convert)
    for seed in ("1", "2", "3"):
        found = prototypes.config([f"train.seed={seed}"])
    assert prototypes.num_composed == 1
    assert found == convert(load([*fixed, "train.seed=3"]))


@pytest.mark.parametrize(
    ("fixed", "problem"),
    [
        (["train.data_seed=${train.sed}"], "Interpolation key 'train.sed' not found"),
        (["train.data_seed=${train.learning_rate}", "train.learning_rate=0.5"], "could not be converted to Integer"),
        (["train.data_seed=${train.warmup_steps}", "train.warmup_steps=${train.data_seed}"], "Recursive interpolation"),
    ],
)
def test_interpolations_that_lead_nowhere(loader: ConfigLoader, fixed: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        composing.compose_points(loader, [*fixed, "train.seed=1,2"], EVALS)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's own folder of choices."""
    folder = tmp_path / "mine"
    for name, text in {
        "model/my_model.yaml": "defaults: [smollm2, _self_]\nname: my_model\npath: /nowhere\n",
        "dataset/my_rows.yaml": "defaults: [local, _self_]\nname: my_rows\npath: rows.jsonl\n",
        "dataset/only_path.yaml": "path: rows.jsonl\n",
        "grids/my_grid.yaml": (
            "title: mine\nnum_runs: 1\ncommand: c\n"
            "blocks: [{model: 'my_model,7b', dataset: my_rows, skip: [{model: my_model}]}]\n"
        ),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_users_own_folder_has_models_datasets_and_grids(mine: Path) -> None:
    searched = f"hydra.searchpath=[file://{mine}]"
    (one,) = compose_grid(["+grid=my_grid", searched], EVALS)
    assert (one.config.model.name, one.config.dataset.name) == ("llama7b", "my_rows")
    (other,) = compose_grid(["model=my_model", "dataset=only_path"], EVALS, config_dir=mine)
    rows = other.config.dataset
    assert (rows.name, rows.hub_id, rows.format, rows.path) == ("only_path", "local", "auto", "rows.jsonl")
    assert (other.config.model.name, other.config.model.path) == ("my_model", "/nowhere")
    with pytest.raises(ConfigError, match=r"model=my_modle: no such model\. Did you mean my_model"):
        compose_grid(["model=my_modle", searched], EVALS)


def test_folders_that_are_not_there_or_hide_a_choice(mine: Path) -> None:
    assert user_folders(["-m", "--config-dir", str(mine), f"hydra.searchpath=['{mine}']"]) == (mine,)
    assert user_folders(["hydra.searchpath=[pkg://conf]"]) == (CONF_FOLDER,)
    with pytest.raises(ValueError, match="no such folder of choices"):
        user_folders([], config_dir=mine / "nowhere")
    with pytest.raises(ValueError, match="expected a list of folders"):
        user_folders(["hydra.searchpath=mine"])
    (mine / "model" / "smollm2.yaml").write_text("name: smollm2\n")
    (mine / "grids" / "table5.yaml").write_text("title: other\n")
    with pytest.raises(ValueError, match=r"smollm2\.yaml: this project has one of that name itself") as refused:
        user_folders([], config_dir=mine)
    assert "table5.yaml" in str(refused.value)


def test_a_config_is_printed_without_the_ledgers_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()  # as in a process of its own
    monkeypatch.setenv("HARNESS_LEDGER_URL", "postgresql://me:secret@host/d")
    monkeypatch.setattr("sys.argv", ["harness.run", "--cfg", "job", "--resolve", "--package", "paths"])
    GlobalHydra.instance().clear()  # an earlier test of this process may have composed
    command.main()
    text = capsys.readouterr().out
    assert "ledger_url: postgresql://me:***@host/d" in text
    assert "secret" not in text

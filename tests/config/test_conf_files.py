"""Every YAML of conf/model and conf/dataset: fits the schema, composes, and says what is published."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from harness.config.schema import DatasetConfig, ModelConfig, ShapeConfig
from harness.data.formats import DATASETS

CONF = Path(__file__).resolve().parents[2] / "conf"
PAPER_VALUES = CONF.parent / "tests" / "golden" / "paper_values.csv"
SCHEMAS: dict[str, type] = {"model": ModelConfig, "dataset": DatasetConfig}
FILES = sorted(path for group in SCHEMAS for path in (CONF / group).glob("*.yaml"))
SHORTHANDS = {"7b": "llama7b", "13b": "llama13b", "33b": "llama33b", "65b": "llama65b"}

# Published totals; T5's from its checkpoints, the rest as in the papers' tables or model cards.
NUM_PARAMETERS = {
    "smollm2": 134.5e6,
    "llama7b": 6.738e9,
    "llama13b": 13.016e9,
    "llama33b": 32.529e9,
    "llama65b": 65.286e9,
    "llama2_7b": 6.738e9,
    "llama2_13b": 13.016e9,
    "llama2_70b": 68.977e9,
    "llama3_8b": 8.030e9,
    "llama3_70b": 70.554e9,
    "qwen2_5_7b": 7.616e9,
    "qwen3_8b": 8.191e9,
    "mistral7b": 7.242e9,
    "opt_125m": 125.2e6,
    "opt_1b3": 1.316e9,
    "opt_2b7": 2.652e9,
    "opt_6b7": 6.658e9,
    "opt_13b": 12.853e9,
    "opt_30b": 29.974e9,
    "pythia_160m": 162.3e6,
    "pythia_1b4": 1.4146e9,
    "pythia_6_9b": 6.857e9,
    "pythia_12b": 11.846e9,
    "bloom_560m": 559.2e6,
    "bloom_7b1": 7.069e9,
    "t5_small": 76.96e6,
    "t5_base": 247.6e6,
    "t5_large": 783.2e6,
    "t5_xl": 2.850e9,
    "t5_xxl": 11.135e9,
    "roberta_large": 355.4e6,
}


@pytest.fixture(scope="module", autouse=True)
def schemas() -> Iterator[None]:
    """What `harness.config.compose` registers too: the schema of each group. Other tests find the store as it was."""
    store = ConfigStore.instance()
    before = {group: store.repo.get(group, {}).get("schema.yaml") for group in SCHEMAS}
    for group, schema in SCHEMAS.items():
        store.store(group=group, name="schema", node=schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    for group, node in before.items():
        if node is not None:
            store.repo[group]["schema.yaml"] = node


def composed(group: str, name: str) -> Any:
    config = compose(config_name=f"{group}/{name}")
    return OmegaConf.to_object(config.get(group, config))


def load(path: Path) -> Any:
    return OmegaConf.load(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fits_the_schema(path: Path) -> None:
    assert path.read_text().startswith("# "), "begins with a comment that says what it is"
    values = load(path)
    defaults = values.pop("defaults")
    if path.stem in SHORTHANDS and path.parent.name == "model":
        assert defaults == [SHORTHANDS[path.stem]]
        assert not values
        return
    assert defaults == ["schema", "_self_"]
    assert values.name == path.stem
    OmegaConf.merge(OmegaConf.structured(SCHEMAS[path.parent.name]), values)


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "local"], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_composes(path: Path) -> None:
    config = composed(path.parent.name, path.stem)
    assert isinstance(config, SCHEMAS[path.parent.name])


@pytest.mark.parametrize(("short", "full"), SHORTHANDS.items())
def test_a_shorthand_is_the_same_model(short: str, full: str) -> None:
    assert composed("model", short) == composed("model", full)
    assert composed("model", short).name == full


def test_no_two_models_share_a_name_in_the_store() -> None:
    """Else `model=b` could find the checkpoint of `a`."""
    seen: dict[str, str] = {}
    for path in FILES:
        if path.parent.name == "model" and path.stem not in SHORTHANDS:
            values = load(path)
            for name in {values.name, values.hub_id, *values.get("aliases", [])}:
                assert seen.setdefault(name, path.stem) == path.stem, f"{name} names two models"


@pytest.mark.parametrize("path", sorted((CONF / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_dataset_has_a_rule_and_a_recipe(path: Path) -> None:
    values = load(path)
    if path.stem == "none":
        assert values.format == "none"
        return
    assert values.format in {*DATASETS, "auto"}
    recipe = set(values.get("recipe", {}))
    assert recipe in ({"7b", "13b", "33b", "65b"}, {"default"}, set())
    assert bool(recipe) == (path.stem != "local")


LEARNED_POSITIONS = {"opt": 2050, "roberta": 514}  # rows of the position table, which no shape states


def num_parameters(shape: ShapeConfig, kind: str) -> int:
    """Weights without biases and positions. A head has 64 dimensions in every T5, else its share of the width."""
    width, heads = shape.hidden_size, shape.num_heads
    head_size = 64 if kind == "seq2seq" else width // heads
    attention = 2 * width * head_size * (heads + shape.num_kv_heads)
    feed_forward = (3 if shape.gated_mlp else 2) * width * shape.intermediate_size
    layer = attention + feed_forward
    if kind == "seq2seq":  # as many decoder layers, with cross-attention
        layer = 2 * layer + attention
    return shape.num_layers * layer + (1 if shape.tied_embeddings else 2) * shape.vocab_size * width


def test_every_model_has_its_published_size_here() -> None:
    models = {path.stem for path in FILES if path.parent.name == "model"}
    assert set(NUM_PARAMETERS) == models - {"local", *SHORTHANDS}


@pytest.mark.parametrize(("name", "published"), NUM_PARAMETERS.items())
def test_shape_gives_the_published_size(name: str, published: float) -> None:
    model = composed("model", name)
    positions = LEARNED_POSITIONS.get(name.partition("_")[0], 0) * model.shape.hidden_size
    assert num_parameters(model.shape, model.kind.value) + positions == pytest.approx(published, rel=0.01)


def test_recipes_are_table_9_of_the_paper() -> None:
    columns = {"batch_size": "batch_size", "lr": "learning_rate", "steps": "max_steps"}
    limits = {"source_len": "source_max_tokens", "target_len": "target_max_tokens"}
    datasets = {"All": ["alpaca", "chip2", "flan", "self_instruct", "unnatural"], "OASST1": ["oasst1"]}
    datasets |= {"HH-RLHF": ["hh_rlhf"], "Longform": ["longform"]}
    loaded = {name: load(CONF / "dataset" / f"{name}.yaml") for names in datasets.values() for name in names}
    checked = 0
    with PAPER_VALUES.open(newline="") as file:
        cells = [cell for cell in csv.DictReader(file) if cell["table"] == "9"]
    for cell in cells:
        size, row = cell["row"].split()
        for name in datasets[row]:
            values = loaded[name]
            if cell["column"] in columns:
                assert values.recipe[size.lower()][columns[cell["column"]]] == float(cell["value"]), cell
            else:
                assert values[limits[cell["column"]]] == float(cell["value"]), cell
            checked += 1
    assert checked >= 4 * 3 * 8

"""Named grids: blocks, unions, filters, and that each file of sweeps/grid/ is what it says."""

from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from eval.benchmarks.registry import eval_config
from harness.config import grids
from harness.config.choices import CONF_FOLDER
from harness.config.compose import ConfigError, _load, compose_grid, named_grids, register, to_config
from harness.config.grids import choice_texts, expand, grid_names, load_grid
from harness.config.prototypes import Prototypes
from harness.config.schema import EmptyTargets, LossMean
from harness.training.schedule import num_steps
from sweeps.plan.jobs import PlannedRun, plan_runs
from tests import builders


def points(blocks: list[dict[str, object]], axes: dict[str, list[str]] | None = None, named: str = "") -> list[str]:
    found = expand(blocks, axes or {}, frozenset(named.split()))
    return [" ".join(f"{key}={value}" for key, value in variant.choices.items()) for variant in found]


def test_blocks_are_products_and_their_list_a_union() -> None:
    blocks = [{"model": ["7b", "13b"], "dataset": "oasst1,flan"}, {"adapter": "none"}]
    assert points(blocks) == [
        "model=7b dataset=oasst1",
        "model=7b dataset=flan",
        "model=13b dataset=oasst1",
        "model=13b dataset=flan",
        "adapter=none",
    ]
    assert points([], {"train.seed": ["0", "1"]}) == ["train.seed=0", "train.seed=1"]


def test_nested_blocks_are_multiplied_and_the_outer_choice_wins() -> None:
    blocks = [{"model": "7b", "train.seed": [0, 1], "blocks": [{"quant": ["nf4", "int8"], "train.seed": 5}]}]
    assert points(blocks) == [f"quant={q} model=7b train.seed={s}" for q in ("nf4", "int8") for s in (0, 1)]
    assert points(blocks, named="quant train.seed") == ["model=7b"]


def test_values_are_written_as_hydra_reads_them() -> None:
    assert choice_texts([None, True, 1.0e-5, "a", ["q_proj", "v_proj"], 3]) == [
        *("null", "true", "1e-05", "a", "[q_proj,v_proj]", "3")
    ]
    assert choice_texts("[a,b]") == ["[a,b]"]
    assert choice_texts(False) == ["false"]


def test_a_grid_that_includes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = grids.GridFile(name="ring", title="", num_runs=0, command="", blocks=[{"include": "ring"}])
    monkeypatch.setattr(grids, "load_grid", lambda name, folders: ring)
    with pytest.raises(ValueError, match=r"ring\.yaml includes itself: ring -> ring"):
        points([{"include": "ring"}])


def test_a_named_grid_is_spelled_out() -> None:
    assert named_grids(["-m", "+grid=table5", "launch.dry_run=true"]) == [
        *("-m", "grid=[{include:[table5]}]", "launch.dry_run=true", "sweep_name=table5")
    ]
    assert named_grids(["+grid=table4,table5", "model=7b"]) == ["grid=[{include:[table4,table5]}]", "model=7b"]
    assert named_grids(["+grid=table5", "sweep_name=mine"])[-1] == "sweep_name=mine"
    assert named_grids(["grid=[{quant:nf4}]", "model=7b"]) == ["grid=[{quant:nf4}]", "model=7b"]
    with pytest.raises(ConfigError, match=r"\+grid=tabel5: no such grid\. Did you mean table5"):
        named_grids(["+grid=tabel5"])


def test_skip_leaves_out_what_it_resolves_to() -> None:
    skip = "skip:[{model:65b,dataset:[flan,oasst1]},{train.seed:1}]"
    block = f"{{model:'llama65b,7b',dataset:'flan,alpaca',train.seed:'0,1',{skip}}}"
    found = compose_grid([f"grid=[{block}]"])
    assert [(p.config.model.name, p.config.dataset.name, p.config.train.seed) for p in found] == [
        *(("llama65b", "alpaca", 0), ("llama7b", "flan", 0), ("llama7b", "alpaca", 0))
    ]
    with pytest.raises(ConfigError, match=r"skip: train\.sed: no such key"):
        compose_grid(["grid=[{model:7b,skip:[{train.sed:1}]}]"])


def test_the_command_line_replaces_a_grids_choice() -> None:
    found = compose_grid(["+grid=table5", "model=7b", "train.seed=0,1"], eval_config())
    assert len(found) == 18
    assert {p.config.model.name for p in found} == {"llama7b"}
    assert {p.config.sweep_name for p in found} == {None}


Plan = Callable[[str], list[PlannedRun]]
QUICK = ("table5", "table6", "guanaco", "dropout_lr")  # they share their choices; the others are slow


@pytest.fixture(scope="module")
def plan() -> Iterator[Plan]:
    """The runs of a named grid; one set of prototypes serves all of them, as it does within `thousand`."""
    register(lambda compose: None, eval_config())
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        prototypes = Prototypes(loader, [], partial(_load, loader), partial(to_config, evals=eval_config()))

        @cache
        def plan_of(name: str) -> list[PlannedRun]:
            variants = expand(load_grid(name).blocks, {}, frozenset())
            return plan_runs([prototypes.config([f"{k}={value}" for k, value in v.choices.items()]) for v in variants])

        yield plan_of


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in grid_names()]
)
def test_every_grid_has_the_runs_that_it_says(name: str, plan: Plan) -> None:
    grid = load_grid(name)
    assert len(plan(name)) == grid.num_runs
    assert len({run.label for run in plan(name)}) == grid.num_runs
    assert grid.command == f"python -m sweeps run +grid={name}"
    assert not any("skip" in block for block in grid.blocks), "`plan` above doesn't look at filters"


@pytest.mark.slow
def test_the_thousand_are_the_union(plan: Plan) -> None:
    everything = {run.run_id for run in plan("thousand")}
    assert len(everything) > 1000
    for name in PAPERS:
        assert everything >= {run.run_id for run in plan(name)}, name
    asked = {tuple(sorted(run.evals.after_training)) for run in plan("thousand")}
    assert ("perplexity", "tasks") in asked, "LLaMA 7B untouched in 4 bits: of Table 2 and Figure 3"
    assert ("mmlu",) in asked, "and in 16 bits, of Table 5"


def test_steps_batch_and_rate_come_from_the_recipes(plan: Plan) -> None:
    found = {
        run.label: (run.spec.train.max_steps, run.spec.train.batch_size, run.spec.train.learning_rate)
        for run in plan("table5")
        if run.spec.train is not None
    }
    assert found["llama7b-flan-nf4"] == (10000, 16, 2e-4)
    assert found["llama65b-flan-nf4"] == (2500, 64, 1e-4)
    assert found["llama33b-longform-nf4"] == (2343, 32, 1e-4)
    assert found["llama65b-oasst1-nf4"] == (1875, 16, 1e-4)


# What the paper did (points 15 to 23 of its recipe), as the grids that carry its tables' names say it.


def choices(name: str) -> list[dict[str, str]]:
    return [variant.choices for variant in expand(load_grid(name).blocks, {}, frozenset())]


OUR_OWN = {"thousand", "methods", "methods_small"}
PAPERS = [name for name in grid_names() if name not in OUR_OWN]
OTHER_PROGRAMS = {"table3", "lora_search"}  # recipes of LoRA's and Tk-Instruct's programs; a search of our own


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_grid_trains_as_the_paper_did(name: str) -> None:
    for point in choices(name):
        trains = point.get("adapter") != "none"
        assert point.get("dataset") not in {"alpaca", "unnatural"}, "the cleaned rows, and all of them"
        assert not trains or name in OTHER_PROGRAMS or point["train"] == "faithful"
        assert point.get("quant") != "fp4" or point["quant.double_quant"] == "false"
        assert point.get("dataset") != "oasst1" or point["train.original_eval_carve"] == "1024"


@pytest.mark.parametrize(
    ("name", "eval"),
    [
        *(("table2", "perplexity"), ("table4", "mmlu"), ("table5", "mmlu"), ("table6", "answers"), ("table8", "tasks")),
        *(("table10", "mmlu"), ("table11", "mmlu"), ("guanaco", "answers"), ("data_types", "tasks")),
    ],
)
def test_a_table_is_scored_by_its_grid(name: str, eval: str) -> None:
    assert {point["eval"] for point in choices(name)} == {eval}


def test_no_tuning_is_the_16_bit_model() -> None:
    for name in ("table5", "table8"):
        untouched = [point for point in choices(name) if point.get("adapter") == "none"]
        assert {point["quant"] for point in untouched} == {"bf16"}


def test_rows_and_passes_of_table_11_bind() -> None:
    found = {(point["dataset.max_rows"], point["train.max_epochs"]) for point in choices("table11")}
    assert found == {(rows, epochs) for rows in ("50000", "100000", "150000") for epochs in "123"}
    train = {"max_epochs": 3.0}
    spec = builders.spec(model="7b", dataset=("chip2", {"max_rows": 50000}), train=("faithful", train))
    assert spec.train is not None
    assert (spec.train.max_steps, num_steps(spec.train, 50000)) == (None, 9375)  # not the recipe's 10,000


def test_full_finetuning_of_figure_2_is_stanfords() -> None:
    full = [point for point in choices("lora_placement") if point.get("adapter") == "full"]
    assert {(p["train.schedule"], p["train.warmup_ratio"], p["train.max_epochs"]) for p in full} == {
        ("cosine", "0.03", "3")
    }
    assert any((p["train.batch_size"], p["train.learning_rate"]) == ("128", "2e-05") for p in full)


def test_faithful_is_one_example_a_pass_grouped_and_averaged_by_example() -> None:
    spec = builders.spec(model="7b", dataset="oasst1", train="faithful")
    assert spec.train is not None
    assert (spec.train.loss_mean, spec.train.group_by_length) == (LossMean.example, True)
    assert (spec.train.row_tokens, spec.train.gradient_checkpointing) == (1, True)


@pytest.mark.parametrize("name", ["alpaca", "alpaca_clean", "chip2", "hh_rlhf", "longform", "self_instruct"])
def test_blank_targets_are_kept_as_in_the_original(name: str) -> None:
    spec = builders.spec(dataset=name)
    assert spec.dataset is not None
    assert spec.dataset.empty_targets is EmptyTargets.keep

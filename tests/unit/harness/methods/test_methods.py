"""The table of methods is whole, its page is true, and keys that a method doesn't have are refused."""

import dataclasses
import json
from typing import Any

import pytest
from peft import PeftConfig
from peft.config import PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from harness.config.choices import choices, load_choice
from harness.config.schema import (
    AdapterConfig,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    typed,
)
from harness.methods.__main__ import main, markdown, overview, values_of
from harness.methods.keys import keys_problem, peft_values
from harness.methods.peft_fields import defaults_of, fields_of
from harness.methods.sizes import Layer, size_problem
from harness.methods.table import METHODS
from harness.runs.compatibility import method_problem, shape_problem
from tests.builders import spec
from tests.lab import REPOSITORY


def adapter(**values: Any) -> AdapterConfig:
    made: AdapterConfig = typed(AdapterConfig, {"name": "peft", "method": "peft", **values})
    return made


def test_the_page_is_the_tables() -> None:
    assert (REPOSITORY / "docs" / "methods.md").read_text() == markdown(), "python -m harness.methods --markdown"


def test_the_command_prints_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out.splitlines() == overview()
    main(["--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(METHODS)
    main(["--json", "OFT", "hft"])
    oft, hft = json.loads(capsys.readouterr().out)
    assert [oft, hft] == [values_of(METHODS["oft"]), values_of(METHODS["hft"])]
    assert (oft["command"], oft["weights"]) == ("adapter=oft", ["fp4", "int8", "nf4", "none"])
    assert "oft_block_size" in oft["peft_fields"]
    assert (hft["keys"], hft["weights"], hft["refused"]) == ([], ["none"], None)
    assert all((one["command"] is None) is (one["refused"] is not None) for one in listed)
    main(["oft"])
    assert capsys.readouterr().out.startswith("OFT\n  paper: arXiv 2306.07280")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none_such"], "error: none_such: no such method; known: lora, "),
        (["--json", "none_such"], "error: none_such: no such method; known: lora, "),
        (["--markdown", "oft"], "error: --markdown: writes the page of all methods; leave the names out"),
        (["--jsonn"], "unrecognized arguments: --jsonn"),
        (["--json", "--markdown"], "not allowed with argument --json"),
    ],
)
def test_wrong_arguments_of_the_command_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    found = capsys.readouterr()
    assert (left.value.code, found.out) == (2, "")
    assert said in found.err


def test_every_method_of_peft_has_its_row_and_its_fields() -> None:
    common = {field.name for field in dataclasses.fields(PeftConfig)}
    for peft_type, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        assert peft_type.value.lower() in METHODS
        if not issubclass(kind, PromptLearningConfig):
            own = {field.name for field in dataclasses.fields(kind) if field.init} - common
            assert set(fields_of(peft_type.value)) == own
    assert all(row.refused or row.formula for row in METHODS.values())


def test_every_choice_of_adapter_is_in_the_table() -> None:
    for name in choices("adapter"):
        chosen: AdapterConfig = typed(AdapterConfig, load_choice("adapter", name))
        given = {"trainable_tokens": {"token_indices": [5]}}.get(name, chosen.peft)
        if name not in ("none", "peft", "lora_t5", "lora_t5_xl"):
            assert chosen.method_name == name
            assert METHODS[name].refused == ""
            assert keys_problem(dataclasses.replace(chosen, peft=given)) is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"peft_type": "MISS", "lora_alpha": 32}, "adapter.lora_alpha=32: MiSS (Bone) has no such number"),
        ({"peft_type": "OFT", "lora_r": 8}, "adapter.lora_r=8: OFT has no such number"),
        ({"peft_type": "SHIRA", "lora_dropout": 0.1}, "adapter.lora_dropout=0.1: SHiRA has no such number"),
        ({"peft_type": "OFT", "peft": {"oft_block": 4}}, "PEFT's OFT has no such field; it has bias, block_share"),
        (
            {"peft_type": "OFT", "peft": {"oft_block_size": "x"}},
            "oft_block_size='x': PEFT's OFT takes int",
        ),
        ({"peft_type": "OFT", "peft": {"coft": 1}}, "adapter.peft.coft=1: PEFT's OFT takes bool"),
        ({"peft_type": "OFT", "peft": {"module_dropout": 0.1}}, "a generator that all runs share"),
        ({"peft_type": "MISS", "peft": {"r": 4}}, "adapter.peft.r=4: this is set by adapter.lora_r"),
        ({"peft_type": "MISS", "peft": {"target_modules": ["q"]}}, "this is set by adapter.targets"),
        ({"peft_type": "MISS", "peft": {"task_type": "CAUSAL_LM"}}, "this is set by model.kind"),
        (
            {"peft_type": "ADALORA", "peft": {"use_dora": True}},
            "use_dora=True: this is no part of AdaLoRA",
        ),
        ({"peft_type": "ADALORA", "lora_r": 8, "peft": {"init_r": 8}}, "AdaLoRA begins with more ranks than it keeps"),
        ({"peft_type": "TRAINABLE_TOKENS"}, "needs +adapter.peft.token_indices=... (list[int])"),
        ({"peft_type": "PROMPT_TUNING"}, "its tokens stand before a sequence; use adapter=lora"),
        ({"peft_type": "NOPE"}, "no method that was tried here; known: ADALORA"),
        ({"peft_type": "LORA"}, "use adapter=lora"),
        ({}, "say which method, by adapter.peft_type=VBLORA"),
        ({"method": "lora", "peft_type": "OFT"}, "of adapter=peft only"),
        ({"method": "full", "lora_plus_ratio": 16.0}, "it has no trained A and B whose rates could differ"),
    ],
)
def test_what_a_method_does_not_have_is_refused_by_name(values: dict[str, Any], problem: str) -> None:
    assert problem in str(keys_problem(adapter(**values)))


def test_defaults_are_read_from_pefts_source() -> None:
    for peft_type in ("MISS", "OFT", "BOFT", "FOURIERFT", "VBLORA", "C3A", "GRALORA", "ROAD"):
        kind = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)]
        theirs = {field.name: field.default for field in dataclasses.fields(kind)}
        own = defaults_of(peft_type)
        assert own == {key: theirs[key] for key in own}
        assert all(key.endswith("_pattern") for key in set(fields_of(peft_type)) - set(own))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"peft_type": "MISS", "lora_r": 33},
            "adapter.lora_r=33 with adapter=miss: q_proj has 32 inputs; use 32 or less",
        ),
        ({"peft_type": "MISS", "lora_r": 32}, None),
        (
            {"peft_type": "MISS", "lora_r": 12, "peft": {"init_weights": "bat"}},
            "k_proj has 64 inputs, which it doesn't",
        ),
        ({"peft_type": "MISS", "lora_r": 12, "peft": {"init_weights": "mini", "mini_r": 5}}, "peft.mini_r=5"),
        (
            {"peft_type": "OFT", "peft": {"oft_block_size": 24}},
            "64 inputs, which it doesn't divide; use one of 2, 4, 8",
        ),
        (
            {"peft_type": "OFT", "peft": {"r": 3, "oft_block_size": 0}},
            "adapter.peft.r=3 with adapter=oft: k_proj has 64",
        ),
        ({"peft_type": "OFT", "peft": {"r": 4}}, "adapter.peft.r=4 says the same in another way"),
        ({"peft_type": "OFT", "peft": {"r": 4, "oft_block_size": 0}}, None),
        ({"peft_type": "BOFT", "peft": {"boft_block_size": 5}}, "64 inputs, which it doesn't divide"),
        (
            {"peft_type": "BOFT", "peft": {"boft_block_size": 8, "boft_n_butterfly_factor": 4}},
            "q_proj has 4 blocks of 8",
        ),
        ({"peft_type": "BOFT", "peft": {"boft_block_size": 8, "boft_n_butterfly_factor": 2}}, None),
        ({"peft_type": "FOURIERFT", "peft": {"n_frequency": 2049}}, "k_proj has 2,048 weights; use fewer"),
        ({"peft_type": "WAVEFT", "peft": {"n_frequency": 2048}}, None),
        ({"peft_type": "SHIRA", "lora_r": 22}, "LoRA of this rank has more; use 21 or less"),
        ({"peft_type": "VBLORA", "lora_r": 4}, "adapter.peft.vector_length=256"),
        ({"peft_type": "C3A", "peft": {"block_size": 64}}, "k_proj has 32 outputs, which it doesn't divide"),
        ({"peft_type": "ROAD"}, "adapter.peft.group_size=64 with adapter=road: k_proj has 32 outputs"),
        ({"peft_type": "GRALORA", "lora_r": 5}, "adapter.peft.gralora_k=2 doesn't divide it"),
        ({"peft_type": "PSOFT", "lora_r": 33}, "use 32 or less"),
        ({"peft_type": "VERA", "lora_r": 4096}, None),
        ({"peft_type": "RANDLORA", "lora_r": 4096}, None),
    ],
)
def test_numbers_that_do_not_fit_a_layer_are_refused(values: dict[str, Any], problem: str | None) -> None:
    found = size_problem(adapter(**values), [Layer(64, 32, "k_proj"), Layer(32, 64, "q_proj")])
    assert found == problem if problem is None or found is None else problem in found


def test_a_plan_knows_the_sizes_of_a_models_layers() -> None:
    """By its YAML; a checkpoint in `model.path` has a shape of its own, which the plan's checks read."""
    shape, plain = ShapeConfig(hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=2), QuantConfig(name="q")
    model = ModelConfig(name="m", hub_id="a/b", shape=shape)
    narrow = adapter(peft_type="ROAD", targets=["k_proj"])
    assert "k_proj has 32 outputs" in str(method_problem(narrow, plain, model))
    assert "up_proj has 64 inputs" in str(method_problem(adapter(peft_type="MISS", lora_r=65), plain, model))
    elsewhere = dataclasses.replace(model, path="/somewhere")
    assert method_problem(adapter(peft_type="MISS", lora_r=65), plain, elsewhere) is None
    assert shape_problem(narrow, ModelKind.causal, shape, head_size=32) is None
    t5 = dataclasses.replace(model, kind=ModelKind.seq2seq)
    assert "up_proj has 64 inputs" in str(method_problem(adapter(peft_type="MISS", lora_r=65), plain, t5))


def test_adaloras_schedule_is_held_against_a_runs_steps() -> None:
    chosen = {"lora_r": 8, "peft": {"tinit": 90, "tfinal": 20}}
    with pytest.raises(ValueError, match=r"adapter.peft.tinit=90, tfinal=20: the run has 100 steps"):
        spec(adapter=("adalora", chosen), train=("default", {"max_steps": 100}))
    assert spec(adapter=("adalora", chosen), train=("default", {"max_steps": 111})).adapter.peft == chosen["peft"]


def test_a_name_may_be_written_small_and_equal_points_are_one_run() -> None:
    assert adapter(peft_type="vera", lora_r=8).peft_type == "VERA"
    assert peft_values(adapter(peft_type="vera", lora_r=8, lora_dropout=0.1)) == {"r": 8, "vera_dropout": 0.1}
    assert peft_values(adapter(peft_type="adalora", lora_r=8))["init_r"] == 12


@pytest.mark.parametrize("name", ["LOHA", "LOKR", "HRA", "UNILORA", "PSOFT"])
def test_weights_that_a_method_fails_on_are_refused_with_what_works(name: str) -> None:
    nf4, plain = QuantConfig(name="nf4"), QuantConfig(name="fp32", method=QuantMethod.none)
    chosen, model = adapter(peft_type=name, lora_r=8), ModelConfig(name="m", hub_id="a/b")
    problem = str(method_problem(chosen, nf4, model))
    assert f"adapter.peft_type={name} with quant.method=nf4" in problem
    assert "use quant.method=none, or one of adapter=lora" in problem
    assert method_problem(chosen, plain, model) is None


def test_a_recipe_of_dropout_is_for_methods_that_drop_inputs() -> None:
    assert spec(adapter="shira").adapter.lora_dropout == 0.0
    assert spec(adapter="hira").adapter.lora_dropout == spec(adapter="lora").adapter.lora_dropout == 0.1
    assert spec(adapter="shira").label.endswith("-nf4-shira")
    assert spec(adapter="lora_plus").run_id != spec(adapter="lora").run_id

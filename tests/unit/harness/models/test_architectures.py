"""What the plan says of an architecture before anything is loaded."""

import json
from pathlib import Path

import pytest

from harness.config.schema import AdapterConfig, AdapterMethod, ModelKind, QuantConfig, QuantMethod
from harness.models.architectures import PACKED, PADDED, architecture_note, architecture_problem
from tests.builders import PLAIN
from tests.families import MORE_PACKED, MORE_PADDED, PACKED_FAMILIES, PADDED_FAMILIES

NF4 = QuantConfig(name="nf4", method=QuantMethod.nf4)
LORA = AdapterConfig(name="lora")


def folder_of(tmp_path: Path, **config: object) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_what_is_listed_is_what_is_tested() -> None:
    assert {config.model_type for config in (PACKED_FAMILIES | MORE_PACKED).values()} == PACKED
    assert {config.model_type for config in (PADDED_FAMILIES | MORE_PADDED).values()} == PADDED


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_experts_are_refused_where_nothing_would_reach_them(key: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_type="some_moe", **{key: 8})
    problem = architecture_problem(folder, ModelKind.causal, NF4, LORA)
    assert problem is not None
    assert "some_moe has 8 experts" in problem
    attention = AdapterConfig(name="lora", targets=["q_proj"])
    untouched = AdapterConfig(name="none", method=AdapterMethod.none)
    assert architecture_problem(folder, ModelKind.causal, NF4, untouched) is not None
    assert architecture_problem(folder, ModelKind.causal, PLAIN, LORA) is not None
    assert architecture_problem(folder, ModelKind.causal, PLAIN, attention) is None
    assert architecture_problem(folder, ModelKind.causal, PLAIN, untouched) is None


@pytest.mark.parametrize("target", ["gate_proj", "w1", "model.layers.0.mlp.down_proj"])
def test_targets_that_peft_would_read_as_experts_are_refused(target: str, tmp_path: Path) -> None:
    adapter = AdapterConfig(name="lora", targets=["q_proj", target])
    problem = architecture_problem(
        folder_of(tmp_path, model_type="moe", num_experts=8), ModelKind.causal, PLAIN, adapter
    )
    assert f"adapter.targets=['{target.rpartition('.')[2]}']: model_type moe has 8 experts" in str(problem)
    assert architecture_problem(folder_of(tmp_path, model_type="llama"), ModelKind.causal, PLAIN, adapter) is None


def test_experts_are_found_where_a_config_nests_them_and_not_where_they_are_off(tmp_path: Path) -> None:
    nested = folder_of(tmp_path, model_type="dbrx", ffn_config={"moe_num_experts": 4})
    assert "dbrx has 4 experts" in str(architecture_problem(nested, ModelKind.causal, NF4, LORA))
    assert "dbrx has 4 experts" in str(architecture_problem(nested, ModelKind.classifier, NF4, LORA))
    dense = folder_of(tmp_path, model_type="doge", num_experts=16384, is_moe=False)
    assert architecture_problem(dense, ModelKind.causal, NF4, LORA) is None


def test_one_that_is_known_passes_and_one_that_is_not_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, model_type="llama", num_experts=1)
    assert architecture_problem(folder, ModelKind.causal, NF4, LORA) is None
    assert architecture_note(folder) is None
    note = architecture_note(folder_of(tmp_path, model_type="brand_new"))
    assert note is not None
    assert "brand_new is not among the architectures that are tested" in note
    assert "takes its linear layers apart" in str(
        architecture_problem(folder_of(tmp_path, model_type="mamba"), ModelKind.causal, PLAIN, LORA)
    )


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "phi"])
def test_a_side_network_has_its_families(model_type: str, tmp_path: Path) -> None:
    qst = AdapterConfig(name="qst", method=AdapterMethod.qst)
    found = architecture_problem(folder_of(tmp_path, model_type=model_type), ModelKind.causal, NF4, qst)
    if model_type in ("llama", "mistral", "qwen2"):
        assert found is None
    else:
        assert f"adapter=qst with model_type {model_type}: known are llama, mistral, qwen2; use adapter=lora" in str(
            found
        )


@pytest.mark.parametrize(
    ("model_type", "target", "why"),
    [
        ("phimoe", "router", "chooses experts"),
        ("phimoe", "model.layers.0.mlp.router", "chooses experts"),
        ("deepseek_v4", "o_a_proj", "multiplies by groups of heads"),
    ],
)
def test_layers_that_are_linear_by_their_class_only_get_no_adapter(
    model_type: str, target: str, why: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, model_type=model_type, num_local_experts=4)
    adapter = AdapterConfig(name="lora", targets=["q_proj", target])
    problem = str(architecture_problem(folder, ModelKind.causal, PLAIN, adapter))
    assert f"adapter.targets={target.rpartition('.')[2]}: this layer of model_type {model_type} {why}" in problem
    fine = AdapterConfig(name="lora", targets=["q_proj"])
    assert architecture_problem(folder, ModelKind.causal, PLAIN, fine) is None

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

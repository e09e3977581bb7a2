"""An adapter's config and the names of its tensors: what is written, who can serve it, which layers it means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.config.schema import AdapterConfig, AdapterMethod
from harness.runs.adapter_files import (
    bank_method,
    listed,
    peft_config,
    peft_only,
    read_peft_config,
    saved_method,
    serving_fields,
    short_names,
    starts_from_weights,
    targeted,
    tensor_shapes,
)

SAVED = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
IN_A_BLOCK = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
LAYERS = [f"model.layers.{block}.self_attn.{name}" for block in (0, 1) for name in ("q_proj", "v_proj")]


def write(folder: Path, tensor: str | None = IN_A_BLOCK, **fields: Any) -> dict[str, Any]:
    saved = {key: value for key, value in (SAVED | fields).items() if value != "absent"}
    (folder / "adapter_config.json").write_text(json.dumps(saved))
    if tensor is not None:
        save_file({tensor: np.zeros((4, 2), np.float32)}, folder / "adapter_model.safetensors")
    return saved


def test_a_config_says_what_peft_reads() -> None:
    config = AdapterConfig(name="a", method=AdapterMethod.rslora, lora_r=3, lora_alpha=5, lora_dropout=0.25)
    written = peft_config(config, ("q_proj", "v_proj"), "lab/base", "v2")
    assert written == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "lab/base",
        "revision": "v2",
        "r": 3,
        "lora_alpha": 5,
        "lora_dropout": 0.25,
        "target_modules": ["q_proj", "v_proj"],
        "use_rslora": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    plain = peft_config(AdapterConfig(name="a"), ["q_proj"], "b", "main")
    assert (plain["use_rslora"], plain["lora_dropout"]) == (False, 0.0)


@pytest.mark.parametrize(
    ("fields", "tensor", "parts"),
    [
        ({}, IN_A_BLOCK, []),
        ({"bias": "absent", "rank_pattern": {}, "modules_to_save": [], "use_dora": False}, IN_A_BLOCK, []),
        ({"layers_to_transform": 0}, IN_A_BLOCK, ["layers_to_transform"]),
        ({"bias": "all", "use_dora": True}, IN_A_BLOCK, ["use_dora", "bias"]),
        ({"init_lora_weights": "pissa"}, IN_A_BLOCK, ["init_lora_weights"]),
        ({"init_lora_weights": "gaussian"}, IN_A_BLOCK, []),
        ({"target_modules": None}, IN_A_BLOCK, ["target_modules"]),
        ({"target_modules": "absent"}, IN_A_BLOCK, ["target_modules"]),
        ({}, "base_model.model.lm_head.lora_B.weight", ["base_model.model.lm_head.lora_B.weight"]),
        ({}, "model.layers.0.q_proj.lora_A.weight", ["model.layers.0.q_proj.lora_A.weight"]),
        ({}, "base_model.model.layers.0.q.lora_embedding_A", ["base_model.model.layers.0.q.lora_embedding_A"]),
    ],
)
def test_what_only_peft_serves_is_named(tmp_path: Path, fields: dict[str, Any], tensor: str, parts: list[str]) -> None:
    saved = write(tmp_path, tensor, **fields)
    assert read_peft_config(tmp_path) == saved
    assert peft_only(tmp_path, saved) == parts
    assert bank_method(tmp_path) is (AdapterMethod.dora if parts else AdapterMethod.lora)


def test_tensors_come_from_safetensors_or_a_pickle(tmp_path: Path) -> None:
    saved = write(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    assert tensor_shapes(tmp_path) == {IN_A_BLOCK: (4, 2)}
    (tmp_path / "adapter_model.safetensors").unlink()
    assert tensor_shapes(tmp_path) is None
    assert peft_only(tmp_path, saved | {"lora_bias": True}) == ["lora_bias", "adapter_model.bin"]
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(ValueError, match=r"no file adapter_model\.safetensors or adapter_model\.bin"):
        tensor_shapes(tmp_path)


def test_whose_bank_serves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert bank_method(tmp_path) is AdapterMethod.full
    write(tmp_path)
    assert bank_method(tmp_path) is AdapterMethod.lora, "an adapter beside the base that it is for"
    assert saved_method(tmp_path) is AdapterMethod.lora
    assert not starts_from_weights(tmp_path)
    (tmp_path / "residual.json").write_text('{"method": "pissa"}')
    assert bank_method(tmp_path) is AdapterMethod.dora
    assert saved_method(tmp_path) is AdapterMethod.pissa
    assert starts_from_weights(tmp_path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"modules_to_save": []}, False),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"init_lora_weights": "olora"}, True),
        ({"init_lora_weights": True}, False),
    ],
)
def test_who_needs_the_weights_in_16_bits(tmp_path: Path, fields: dict[str, Any], expected: bool) -> None:
    write(tmp_path, **fields)
    assert starts_from_weights(tmp_path) is expected


def test_the_fields_that_change_a_result() -> None:
    asked = {"use_rslora": True, "bias": "all", "alpha_pattern": {"q": 1}, "layers_to_transform": 0}
    idle = {"lora_dropout": 0.1, "use_dora": True, "modules_to_save": None, "rank_pattern": {}, "r": 4}
    assert serving_fields(SAVED) == {}
    assert serving_fields(SAVED | asked | idle) == asked
    assert list(serving_fields(SAVED | asked)) == sorted(asked)
    assert serving_fields(SAVED | {"init_lora_weights": "pissa"}) == {"init_lora_weights": "pissa"}
    assert serving_fields(SAVED | {"init_lora_weights": "gaussian"}) == {}


@pytest.mark.parametrize(
    ("wanted", "excluded", "places"),
    [
        ("all-linear", None, [0, 1, 2, 3]),
        (["all-linear"], [], [0, 1, 2, 3]),
        (["all-linear"], ["v_proj"], [0, 2]),
        (["q_proj"], None, [0, 2]),
        (["proj"], None, []),
        ([LAYERS[1]], None, [1]),
        (["q_proj", "v_proj"], [LAYERS[0]], [1, 2, 3]),
        (r".*\.1\..*_proj", None, [2, 3]),
        (r".*\.1", None, []),
        (["q_proj"], r".*\.0\..*", [2]),
    ],
)
def test_the_layers_that_are_meant(wanted: Any, excluded: Any, places: list[int]) -> None:
    saved = {"target_modules": wanted, "exclude_modules": excluded}
    assert targeted(saved, LAYERS) == [LAYERS[place] for place in places]


def test_short_names_where_they_mean_the_same() -> None:
    assert short_names(LAYERS, LAYERS) == ["q_proj", "v_proj"]
    assert short_names([LAYERS[1], LAYERS[3]], LAYERS) == ["v_proj"]
    assert short_names(LAYERS[:2], LAYERS) == LAYERS[:2]
    dense = ["layer.0.dense", "layer.1.dense"]
    assert short_names(dense, dense) == dense, "a head may have a layer of that name"
    assert short_names(["b.z", "a.y", "c.x"], ["b.z", "a.y", "c.x"]) == ["x", "y", "z"]


def test_a_list_of_names_ends_somewhere() -> None:
    assert listed("edcba") == "a, b, c, d, e"
    assert listed("fedcba") == "a, b, c, d, e and 1 more"
    assert listed("hgfedcba") == "a, b, c, d, e and 3 more"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"peft_type": "absent"}, "peft_type=None: only LoRA"),
        ({"r": 0}, "r=0: expected a number above 0"),
        ({"lora_alpha": -1}, "lora_alpha=-1: expected a number above 0"),
        ({"lora_alpha": True}, "lora_alpha=True: expected a whole number or a number$"),
        ({"lora_dropout": "0.1"}, "lora_dropout='0.1': expected a whole number or a number$"),
        ({"use_dora": 1}, "use_dora=1: expected true or false$"),
        ({"bias": None}, "bias=None: expected a text$"),
        ({"bias": "some"}, "bias='some': expected none, all or lora_only"),
        ({"exclude_modules": {}}, "exclude_modules={}: expected a list or a text or null$"),
        ({"alpha_pattern": []}, r"alpha_pattern=\[\]: expected an object or null$"),
        ({"rank_pattern": {"q": 1.5}}, r"rank_pattern\['q'\]=1.5: expected a number"),
        ({"rank_pattern": {"q": True}}, r"rank_pattern\['q'\]=True: expected a number"),
        ({"alpha_pattern": {"q": "1"}}, r"alpha_pattern\['q'\]='1': expected a number"),
        ({"task_type": "SEQ_CLS"}, r"task_type=SEQ_CLS: .*\(CAUSAL_LM\)"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda': it was trained on a base that had changed"),
        ({"zebra": 1, "apple": [2], "idle": None, "off": False}, r"apple=\[2\], zebra=1: can't be served here$"),
    ],
)
def test_a_config_that_cannot_be_served_is_named(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    write(tmp_path, None, **fields)
    with pytest.raises(ValueError, match=rf"adapter_config\.json: {problem}"):
        read_peft_config(tmp_path, "CAUSAL_LM")


@pytest.mark.parametrize(
    "fields",
    [
        {"task_type": None},
        {"task_type": "CAUSAL_LM"},
        {"r": 1, "lora_alpha": 0.5, "lora_dropout": 0},
        {"r": "absent", "lora_alpha": "absent"},
        {"alpha_pattern": {"q": 0.5}, "rank_pattern": {"q": 2}},
        {"bias": "lora_only", "init_lora_weights": "eva"},
        {"megatron_config": None, "use_qalora": False, "arrow_config": {}},
        {"layers_to_transform": 1, "target_modules": "q_proj"},
    ],
)
def test_a_config_that_is_served(tmp_path: Path, fields: dict[str, Any]) -> None:
    saved = write(tmp_path, None, **fields)
    assert read_peft_config(tmp_path, "CAUSAL_LM") == saved


def test_another_kind_of_model_is_accepted_where_nobody_says_which(tmp_path: Path) -> None:
    saved = write(tmp_path, None, task_type="SEQ_CLS")
    assert read_peft_config(tmp_path) == saved

"""Knows which architectures train and score exactly, and which can't, for the plan.

The list is what tests/unit/harness/banks/test_families.py holds against transformers (docs/models.md). One that isn't
in it is not refused: when it is loaded, `harness.nn.rows` tries what the plan can't know.
"""

import json
from pathlib import Path
from typing import Any

from harness.config.schema import (
    ALL_LINEAR,
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    ModelKind,
    QuantConfig,
    QuantMethod,
)
from harness.methods.side import family_problem

PACKED = frozenset(
    [
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "phi",
        "phi3",
        "gemma",
        "gemma3_text",
        "granite",
        "cohere",
        "cohere2",
        "olmo2",
        "starcoder2",
        "gpt_neox",
        "gpt2",
        "gpt_bigcode",
        "opt",
        "apertus",
        "arcee",
        "biogpt",
        "bitnet",
        "ctrl",
        "cwm",
        "diffllama",
        "ernie4_5",
        "exaone4",
        "gemma4_text",
        "glm",
        "glm4",
        "helium",
        "hunyuan_v1_dense",
        "hyperclovax",
        "internlm3",
        "iquestcoder",
        "jais2",
        "minicpm3",
        "ministral",
        "ministral3",
        "nanochat",
        "olmo",
        "olmo3",
        "persimmon",
        "seed_oss",
        "smollm3",
    ]
)
PADDED = frozenset(
    [
        *("gemma2", "stablelm", "falcon", "gptj", "codegen", "bloom", "mpt", "nemotron", "lfm2", "recurrent_gemma"),
        *("gpt_neo", "gpt_neox_japanese", "granite_swa", "lfm3", "openai-gpt", "vaultgemma", "xglm"),
    ]
)
_APART = frozenset(  # multiply by weights of layers that they don't call, some in training only
    {
        *("mamba", "mamba2", "falcon_mamba", "falcon_h1", "bamba", "jamba", "granitemoehybrid", "rwkv", "nemotron_h"),
        *("hunyuan_v1_moe", "hy_v4"),  # their routers
    }
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_SWITCHES = ("is_moe", "enable_moe_block")  # off: a dense model, whatever numbers of experts its config keeps
_EXPERT_LAYERS = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3"})

_OWN_LAYERS = {  # linear by their class only: they return more than a product, or multiply by groups
    "deepseek_v4": {"o_a_proj": "multiplies by groups of heads"},
    "phimoe": {"router": "chooses experts"},
    "llama4_text": {"router": "chooses experts"},
}


def architecture_problem(folder: Path, kind: ModelKind, quant: QuantConfig, adapter: AdapterConfig) -> str | None:
    """-> why a checkpoint's architecture can't be trained so, with the remedy; None if nothing is known against it."""
    saved = _config(folder)
    model_type = saved.get("model_type")
    if kind is ModelKind.seq2seq:
        return None
    if model_type in _APART:
        return f"{folder}: model_type {model_type} takes its linear layers apart, so they can't be adapted"
    if adapter.method is AdapterMethod.qst and (problem := family_problem(str(model_type))):
        return f"{folder}: {problem}"
    if problem := _own_layer_problem(folder, str(model_type), adapter):
        return problem
    experts = _num_experts(saved)
    adapts = adapter.method not in {AdapterMethod.none, *WHOLE_METHODS}
    named = sorted(_EXPERT_LAYERS & {name.rpartition(".")[2] for name in adapter.targets}) if adapts else []
    adapts_all = adapts and adapter.targets == [ALL_LINEAR]
    if experts is None or (quant.method is QuantMethod.none and not adapts_all and not named):
        return None
    if named and quant.method is QuantMethod.none:
        return (
            f"{folder}: adapter.targets={named}: model_type {model_type} has {experts} experts, whose layers of these "
            "names are fused to one tensor, and PEFT reads an adapter of these names as one of that tensor; name its "
            "attention's layers"
        )
    return (
        f"{folder}: model_type {model_type} has {experts} experts, which transformers fuses to one tensor a layer: "
        f"neither quantization nor an adapter of all linear layers reaches them, most of the model. Use a dense model, "
        "or quant=bf16 with adapter.targets that name its attention's layers"
    )


def _own_layer_problem(folder: Path, model_type: str, adapter: AdapterConfig) -> str | None:
    """Why an adapter can't be around a layer that `adapter.targets` names: its forward pass is no plain product."""
    if adapter.method in {AdapterMethod.none, *WHOLE_METHODS}:
        return None
    own = _OWN_LAYERS.get(model_type, {})
    named = next((name for target in adapter.targets if (name := target.rpartition(".")[2]) in own), None)
    if named is None:
        return None
    return (
        f"{folder}: adapter.targets={named}: this layer of model_type {model_type} {own[named]}, so no adapter fits "
        "around it; leave it out, and name its attention's other layers"
    )


def _num_experts(saved: dict[str, Any]) -> int | None:
    """Of a config.json, DBRX's nested numbers included; None of a dense model."""
    if any(saved.get(switch) is False for switch in _SWITCHES):
        return None
    nested = saved.get("ffn_config")
    saved = saved | nested if isinstance(nested, dict) else saved
    return next((saved[key] for key in _EXPERTS if isinstance(saved.get(key), int) and saved[key] > 1), None)


def architecture_note(folder: Path) -> str | None:
    """A note that this architecture was never compared with transformers; None if it is on the list."""
    model_type = _config(folder).get("model_type")
    if model_type is None or model_type in PACKED | PADDED:
        return None
    return (
        f"model_type {model_type} is not among the architectures that are tested (docs/models.md); when it is loaded, "
        "its rows are compared with its own forward pass, and it is refused if they differ"
    )


def _config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json, its text model's for one of text and images; empty where it can't be read."""
    try:
        saved: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    text = saved.get("text_config")
    return saved | text if isinstance(text, dict) else saved

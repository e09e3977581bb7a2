"""The files of an adapter in PEFT's format: their names, and `adapter_config.json` written and read. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.schema import AdapterConfig, AdapterMethod

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def peft_config(config: AdapterConfig, targets: Sequence[str], base_model: str, revision: str) -> dict[str, Any]:
    """What `peft.PeftModel.from_pretrained` reads."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": revision,
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout or 0.0,
        "target_modules": list(targets),
        "use_rslora": config.method is AdapterMethod.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def read_peft_config(folder: Path) -> dict[str, Any]:
    """Reads and checks `adapter_config.json`.

    Raises:
        ValueError: no such file, or an adapter of a kind that the bank doesn't serve.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no {ADAPTER_CONFIG}; expected a folder written by PEFT or by a run")
    saved: dict[str, Any] = json.loads(path.read_text())
    unsupported = [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if saved.get(key)]
    if saved.get("peft_type") != "LORA" or saved.get("bias", "none") != "none" or unsupported:
        raise ValueError(
            f"{path}: only plain LoRA without bias is served here, not {saved.get('peft_type')} {unsupported}"
        )
    return saved

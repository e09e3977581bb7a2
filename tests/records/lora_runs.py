"""Folders of finished runs with random LoRA adapters of the tiny model, written without training one."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from harness.config.schema import AdapterConfig, DatasetConfig, ModelConfig, TrainConfig
from harness.files.atomic import sha256_files
from harness.models.locate import folder_fingerprint, tokenizer_fingerprint
from harness.runs.adapter_files import peft_config
from harness.runs.record import save_record
from harness.runs.spec import RunSpec
from tests.builders import PLAIN, record

SHAPES = {"q_proj": (32, 32), "v_proj": (16, 32), "down_proj": (32, 64)}  # out, in of the tiny model's layers


def write_lora_run(
    runs: Path,
    checkpoint: Path,
    seed: int,
    targets: Sequence[str] = ("q_proj", "down_proj"),
    rank: int = 4,
    **changes: Any,
) -> Path:
    """-> the run's folder

    Args:
        runs: the folder of runs.
        checkpoint: of the tiny model.
        seed: of the factors, and of the run; its label is `s<seed>`.
        targets: layers that have factors.
        rank: of the factors.
        changes: fields of the record (`base_fingerprint`, `label`), of the adapter (`adapter`), or of the spec.
    """
    adapter = AdapterConfig(name="lora", lora_r=rank, lora_alpha=8 + seed, lora_dropout=0.0, targets=list(targets))
    fields: dict[str, Any] = {
        "model": ModelConfig(name="tiny", hub_id="lab/tiny", path=str(checkpoint)),
        "quant": PLAIN,
        "dataset": DatasetConfig(name="chats", hub_id="lab/chats", format="alpaca"),
        "train": TrainConfig(max_steps=3, batch_size=2, learning_rate=1e-3, seed=seed),
    }
    of_record = {key: changes.pop(key) for key in ("base_fingerprint", "label") if key in changes}
    spec = RunSpec(adapter=dataclasses.replace(adapter, **changes.pop("adapter", {})), **fields | changes)
    folder = runs / spec.run_id
    facts = {
        "run_id": spec.run_id,
        "group": spec.group,
        "spec": spec.to_dict(),
        "label": f"s{seed}",
        "notes": (),
        "base_fingerprint": folder_fingerprint(checkpoint),
        "tokenizer_fingerprint": tokenizer_fingerprint(checkpoint),
        "adapter_sha256": _write_adapter(folder / "adapter", spec.adapter, seed),
    }
    save_record(folder, dataclasses.replace(record(), **facts | of_record))
    (folder / "config.yaml").write_text(yaml.safe_dump(spec.to_dict()))
    return folder


def _write_adapter(folder: Path, adapter: AdapterConfig, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for name in adapter.targets:
            key = f"base_model.model.model.layers.{layer}.{'mlp' if 'down' in name else 'self_attn'}.{name}"
            outputs, inputs = SHAPES[name]
            tensors[f"{key}.lora_A.weight"] = torch.randn(adapter.lora_r, inputs, generator=generator) * 0.3
            tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, adapter.lora_r, generator=generator) * 0.3
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(adapter, adapter.targets, "lab/tiny", "main")))
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    return sha256_files([folder / "adapter_model.safetensors"])

"""Identifies the model that produced a number, by a digest of base weights, quantization and adapter.

A cached result must never serve another model: lm-eval's own cache leaves the model out of its key.
"""

import hashlib
import json
from typing import Any

import torch

from harness.banks.load import LoadedBase
from harness.config.schema import AdapterMethod


def model_sha256(base: LoadedBase, member: str | None) -> str:
    """A digest of the base's weight files, how its layers are stored, and the adapter's tensors and scale.

    Args:
        member: the adapter's name in the bank; None for the untouched base.
    """
    bank: Any = base.bank
    layer = next(iter(bank.layers.values()))
    weight = layer.base.weight
    state = getattr(weight, "quant_state", None)
    storage = [type(layer.base).__name__, str(weight.dtype), str(bank.dtype)]
    if state is not None:
        storage += [str(state.quant_type), str(state.blocksize), str(state.nested), str(state.dtype)]
    digest = hashlib.sha256(json.dumps([base.fingerprint, storage]).encode())
    if member is not None:
        config = base.bank.configs[member]
        parts: list[Any] = [config.lora_r, config.lora_alpha]
        if config.method not in (AdapterMethod.lora, AdapterMethod.allora):  # rsLoRA scales the same tensors otherwise
            parts.append(config.method.value)
        if of_peft := getattr(bank, "serving_fields", None):  # what only PEFT's own layers compute
            parts.append(of_peft)
        if (factor := getattr(bank, "factors", {}).get(member, 1)) != 1:
            parts.append({"factor": factor})
        digest.update(json.dumps(parts, sort_keys=True).encode())
        for name, tensor in sorted(base.bank.member_parameters(member).items()):
            digest.update(name.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


def read_by(base: LoadedBase) -> str:
    """A digest of the tokenizer and chat template that turn texts into the tokens which a model scores.

    Apart from `model_sha256`, which results of earlier versions have: by both together, unfinished parts are kept.
    """
    return str(base.tokenizer_fingerprint)

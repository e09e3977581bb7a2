"""PEFT's other methods: each trains what PEFT's own model trains, is saved, read again and resumed exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.banks.causal import PeftBank
from harness.banks.layers import layer_names, quantize_layers
from harness.config.schema import AdapterConfig, AdapterMethod, QuantConfig
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, losses, make_items

FIELDS: dict[str, dict[str, Any]] = {
    "miss": {"lora_r": 4},
    "oft": {"peft": {"oft_block_size": 4}},
    "boft": {"peft": {"boft_block_size": 4}},
    "shira": {"lora_r": 4},
    "hira": {"lora_r": 4},
    "vera": {"lora_r": 4},
    "randlora": {"lora_r": 4},
    "fourierft": {"peft": {"n_frequency": 20, "scaling": 20.0}},
    "ia3": {"targets": ["k_proj", "v_proj", "down_proj"], "peft": {"feedforward_modules": ["down_proj"]}},
    "adalora": {"lora_r": 4},
    "trainable_tokens": {"peft": {"token_indices": [5, 6, 7, 40, 41, 42, 43]}},
    "vblora": {"lora_r": 4, "peft": {"vector_length": 16, "num_vectors": 8}},
    "c3a": {"peft": {"block_size": 8}},
    "ln_tuning": {},
    "road": {"peft": {"group_size": 8}},
}


def config(name: str, dropout: float = 0.0, **changes: object) -> AdapterConfig:
    fields = dict(FIELDS[name])
    made = AdapterConfig(name=name, method=AdapterMethod.peft, peft_type=name, lora_dropout=dropout, **fields)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def plain_base(folder: Path, quant: QuantConfig) -> Any:
    """transformers' own model, its layers quantized, as PEFT's own loading expects it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    quantize_layers(model, layer_names(model), quant, CPU)
    model.is_loaded_in_4bit = quant.name == "nf4"
    return model


def plain_losses(model: torch.nn.Module) -> Tensor:
    """By transformers and PEFT alone, an example at a time."""
    parts: list[Tensor] = []
    for item in make_items():
        ids = torch.from_numpy(item.tokens).long()[None]
        logits = model(ids).logits[0, item.num_source - 1 : -1].float()
        parts.append(torch.nn.functional.cross_entropy(logits, ids[0, item.num_source :], reduction="none"))
    return torch.cat(parts)


@pytest.mark.parametrize("quant", ["none", "nf4"])
@pytest.mark.parametrize("name", list(FIELDS))
def test_steps_are_those_of_pefts_own_model(folder: Path, tmp_path: Path, name: str, quant: str) -> None:
    bank = PeftBank(folder, QUANTS[quant], CPU)
    bank.add_member("a", config(name), seed=3)
    bank.save_member("a", tmp_path / "start", "tiny", "main")
    model: Any = PeftModel.from_pretrained(plain_base(folder, QUANTS[quant]), tmp_path / "start", is_trainable=True)
    ours = torch.optim.AdamW(bank.member_parameters("a").values(), lr=1e-2)
    theirs = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    first = None
    for _ in range(3):
        mine, own = bank.item_losses(make_items()), plain_losses(model)
        torch.testing.assert_close(mine, own, rtol=0, atol=2e-4)
        first = mine.detach() if first is None else first
        for optimizer, loss in ((ours, mine), (theirs, own)):
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
    assert float((mine - first).abs().max()) > 1e-4
    bank.save_member("a", tmp_path / "end", "tiny", "main")
    again = PeftBank(folder, QUANTS[quant], CPU)
    again.load_member("a", tmp_path / "end")
    assert torch.equal(losses(again), losses(bank.eval()))  # type: ignore[arg-type]
    plain = PeftModel.from_pretrained(plain_base(folder, QUANTS[quant]), tmp_path / "end").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain_losses(plain), losses(again), rtol=0, atol=2e-4)

"""PEFT's other methods: each trains what PEFT's own model trains, is saved, read again and resumed exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.banks.adapters.layers import layer_names, quantize_layers
from harness.banks.causal import PeftBank
from harness.config.schema import AdapterConfig, AdapterMethod, QuantConfig
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, TRAIN, losses, make_examples, make_items

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


@pytest.mark.parametrize(("name", "quant"), [(n, quant) for n in FIELDS for quant in ("nf4", "none")])
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


@pytest.mark.parametrize("keep", [None, "embedded"])
def test_corda_trains_what_its_examples_need_most_or_least(folder: Path, keep: str | None) -> None:
    """B0 A0 times the scale is a part of the singular value decomposition of W C: the first r vectors, or the last."""
    bank, name = PeftBank(folder, QUANTS["none"], CPU), "model.layers.0.mlp.down_proj"
    bank.calibrate(make_items())
    inputs: list[Tensor] = []
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.get_submodule(name).register_forward_hook(lambda _, given, __: inputs.append(given[0][0].detach()))
    with torch.no_grad():
        for item in make_items():
            model(torch.from_numpy(item.tokens).long()[None])
    x_NI = torch.cat(inputs) / torch.cat(inputs).max()
    c_II = x_NI.T @ x_NI
    c_II += 0.01 * c_II.diag().mean() * torch.eye(len(c_II))
    u_OR, s_R, v_RI = torch.linalg.svd(model.get_submodule(name).weight @ c_II, full_matrices=False)
    part = slice(-4, None) if keep else slice(4)
    wanted = (u_OR[:, part] * s_R[part]) @ v_RI[part] @ torch.linalg.inv(c_II)
    config = AdapterConfig(name="corda", method=AdapterMethod.corda, lora_r=4, lora_alpha=8, corda_keep=keep)
    bank.add_member("a", config, seed=3)
    factors = {key: value.detach() for key, value in bank.member_parameters("a").items() if name in key}
    a_RI, b_OR = (next(value for key, value in factors.items() if f".lora_{ab}." in key) for ab in "AB")
    torch.testing.assert_close(2 * b_OR @ a_RI, wanted.detach(), rtol=0, atol=1e-3)


def members(tmp_path: Path, name: str, **changes: object) -> tuple[Member, list[StepMetrics]]:
    seen: list[StepMetrics] = []
    member = Member(
        run_id="a",
        adapter=config(name, **changes),  # type: ignore[arg-type]
        train=replace(TRAIN, max_steps=6),
        examples=make_examples(),  # type: ignore[arg-type]
        checkpoint_folder=tmp_path / "checkpoint",
        on_step=seen.append,
    )
    return member, seen


@pytest.mark.parametrize(("name", "dropout"), [("adalora", 0.1), ("shira", 0.0)])
def test_a_resumed_run_is_the_same_run(folder: Path, tmp_path: Path, name: str, dropout: float) -> None:
    straight, resumed = (PeftBank(folder, QUANTS["nf4"], CPU) for _ in range(2))
    train_group(straight, [members(tmp_path / "straight", name, dropout=dropout)[0]])
    stopped, seen = members(tmp_path, name, dropout=dropout)
    with pytest.raises(TrainingInterrupted):
        train_group(PeftBank(folder, QUANTS["nf4"], CPU), [stopped], lambda: len(seen) >= 3)
    again, _ = members(tmp_path, name, dropout=dropout)
    train_group(resumed, [again])
    assert again.error is None
    assert "resumed at step 3" in again.notes
    assert torch.equal(losses(straight), losses(resumed))


def test_adalora_ends_with_the_ranks_that_it_was_given(folder: Path, tmp_path: Path) -> None:
    """Pruned triplets are zeros, as many as the budget says, and stay so when the adapter is read by PEFT."""
    bank = PeftBank(folder, QUANTS["none"], CPU)
    train_group(bank, [members(tmp_path, "adalora")[0]])
    kept = [p for key, p in bank.member_parameters("a").items() if ".lora_E" in key]
    assert sum(int(p.count_nonzero()) for p in kept) == 4 * len(kept)
    assert all(len(p) == 6 for p in kept)
    bank.save_member("a", tmp_path / "saved", "tiny", "main")
    plain = PeftModel.from_pretrained(plain_base(folder, QUANTS["none"]), tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain_losses(plain), losses(bank), rtol=0, atol=2e-4)


def test_adaloras_schedule_has_to_fit_the_run(folder: Path, tmp_path: Path) -> None:
    member, _ = members(tmp_path, "adalora", peft={"tinit": 4, "tfinal": 2})
    train_group(PeftBank(folder, QUANTS["none"], CPU), [member])
    assert "adapter.peft.tinit=4, tfinal=2: the run has 6 steps" in str(member.error)

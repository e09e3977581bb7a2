"""Our own methods: each trains, over several steps, what its paper's equation makes of transformers' own model."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from harness.banks.load import make_bank
from harness.config.schema import AdapterConfig, AdapterMethod, ModelConfig, ModelKind, ShapeConfig, typed
from harness.methods.blocks import block_of
from harness.methods.keys import keys_problem
from harness.runs.adapter_files import ADAPTER_WEIGHTS, PEFT_PREFIX
from harness.runs.compatibility import method_problem
from harness.training.loop import train_group
from harness.variants.hft import chosen_half, kind_of
from tests.builders import make_member, spec, weights
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, losses, make_items
from tests.unit.harness.banks.test_peft_methods import plain_base, plain_losses

OWN: dict[str, dict[str, Any]] = {
    "allora": {"lora_r": 4, "lora_alpha": 4, "allora_eta": 10.0},
    "hft": {},
    "s2ft": {"s2ft_share": 0.1, "targets": ["o_proj", "down_proj"]},
}
SHARED = ("allora",)
QUANT_DTYPES = {"none": torch.float32, "bf16": torch.bfloat16}


def config(name: str) -> AdapterConfig:
    return AdapterConfig(name=name, method=AdapterMethod(name), lora_dropout=0.0, **OWN[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def own_bank(folder: Path, name: str, quant: str) -> Any:
    return make_bank(folder, ModelKind.causal, AdapterMethod(name), QUANTS[quant], CPU)


def allora_by_hand(model: nn.Module) -> None:
    """Of each row of B, as the equation has it."""
    for name, parameter in model.named_parameters():
        if ".lora_B." in name and parameter.grad is not None:
            for row, gradient in zip(parameter.detach(), parameter.grad, strict=True):
                gradient *= 1 / (float(row.square().sum()) ** 0.5 + 1 / 10.0**2) ** 0.5


def s2ft_by_hand(model: nn.Module) -> None:
    """What selects columns doesn't learn."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.grad = None


BY_HAND: dict[str, Callable[[nn.Module], None]] = {"allora": allora_by_hand, "s2ft": s2ft_by_hand}


@pytest.mark.parametrize(("name", "quant"), [(name, quant) for name in BY_HAND for quant in ("nf4", "none")])
def test_steps_are_those_of_the_equation(folder: Path, tmp_path: Path, name: str, quant: str) -> None:
    bank = own_bank(folder, name, quant)
    bank.add_member("a", config(name), seed=3)
    bank.save_member("a", tmp_path / "start", "tiny", "main")
    model: Any = PeftModel.from_pretrained(plain_base(folder, QUANTS[quant]), tmp_path / "start", is_trainable=True)
    ours, theirs = (
        torch.optim.SGD([p for p in trained if p.requires_grad], lr=0.1)
        for trained in (bank.member_parameters("a").values(), model.parameters())
    )
    first: Tensor | None = None
    for _ in range(3):
        mine, own = bank.item_losses(make_items()), plain_losses(model)
        torch.testing.assert_close(mine, own, rtol=0, atol=2e-4)
        first = mine.detach() if first is None else first
        for half in (mine[: len(mine) // 2], mine[len(mine) // 2 :]):  # a step's passes add up
            (half.sum() / len(mine)).backward(retain_graph=True)
        own.mean().backward()
        BY_HAND[name](model)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    assert float((mine.detach() - first).abs().max()) > 1e-3
    bank.eval()
    bank.save_member("a", tmp_path / "end", "tiny", "main")
    plain = PeftModel.from_pretrained(plain_base(folder, QUANTS[quant]), tmp_path / "end").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain_losses(plain), losses(bank), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", SHARED)
def test_a_run_in_a_group_equals_the_run_alone(folder: Path, tmp_path: Path, name: str) -> None:
    own = {"method": AdapterMethod(name), "lora_dropout": 0.0, **OWN[name]}
    together, alone = own_bank(folder, name, "nf4"), own_bank(folder, name, "nf4")
    members = [
        make_member("a", tmp_path / "group", adapter=own, max_steps=3)[0],
        make_member("b", tmp_path / "group", seed=1, adapter=own | {"layers": [1]}, max_steps=3)[0],
        make_member("c", tmp_path / "group", seed=2, max_steps=3)[0],
    ]
    train_group(together, members)
    train_group(alone, [make_member("a", tmp_path / "alone", adapter=own, max_steps=3)[0]])
    mine, other = weights(together, "a"), weights(alone, "a")
    assert all(torch.allclose(mine[key], other[key], rtol=0, atol=1e-5) for key in mine)
    assert {key.split(".layers.")[1][0] for key in weights(together, "b")} == {"1"}


@pytest.mark.parametrize("quant", ["none", "bf16"])
def test_hft_steps_are_those_of_the_chosen_half(folder: Path, tmp_path: Path, quant: str) -> None:
    """Of full finetuning whose other half has no gradient; the rest ends as it was, to the last bit."""
    bank = own_bank(folder, "hft", quant)
    bank.add_member("a", config("hft"), seed=3)
    trained = bank.member_parameters("a")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    theirs = torch.optim.SGD([p for name, p in model.named_parameters() if name in trained], lr=0.05)
    ours = torch.optim.SGD(trained.values(), lr=0.05)
    for _ in range(3):
        mine, own = bank.item_losses(make_items()), plain_losses(model)
        if quant == "none":
            torch.testing.assert_close(mine, own, rtol=0, atol=2e-4)
        for optimizer, loss in ((ours, mine), (theirs, own)):
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
    bank.save_member("a", tmp_path, "tiny", "main")
    again = own_bank(folder, "hft", quant)
    again.load_member("a", tmp_path)
    torch.testing.assert_close(losses(again), losses(bank.eval()), rtol=0, atol=1e-5)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    as_read = {name: value.to(QUANT_DTYPES[quant]).float() for name, value in start.items()}
    frozen = set(start) - set(trained)
    assert all(torch.equal(saved[name], as_read[name]) for name in frozen)
    assert not any(torch.equal(saved[name], start[name]) for name in trained)


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_resumed_run_is_the_same_run(folder: Path, tmp_path: Path, name: str) -> None:
    """What is chosen by the run's seed is chosen again."""
    banks = [own_bank(folder, name, "none") for _ in range(3)]
    for bank, place, until in zip(banks, ("straight", "stopped", "stopped"), (None, 2, None), strict=True):
        member, _ = make_member("a", tmp_path / place, max_steps=4)
        member.adapter, member.until = config(name), until
        train_group(bank, [member])
        assert member.error is None
    straight, stopped, resumed = (weights(bank, "a") for bank in banks)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not all(torch.equal(straight[key], stopped[key]) for key in straight)


def test_s2ft_trains_submatrices_in_place(folder: Path, tmp_path: Path) -> None:
    """Held against the model itself, of whose weights only the chosen columns and rows have a gradient."""
    chosen = replace(config("s2ft"), targets=["o_proj", "down_proj", "up_proj"])
    bank = own_bank(folder, "s2ft", "none")
    bank.add_member("a", chosen, seed=3)
    bank.save_member("a", tmp_path, "tiny", "main")
    masks: dict[str, Tensor] = {}
    for key, tensor in load_file(tmp_path / ADAPTER_WEIGHTS).items():
        takes = ".lora_A." in key
        if takes is not (".up_proj." in key):
            name = key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]
            masks[f"{name}.weight"] = tensor.sum(0)[None] if takes else tensor.sum(1)[:, None]
    for block in (0, 1):
        down, up = (masks[f"model.layers.{block}.mlp.{layer}.weight"].flatten() for layer in ("down_proj", "up_proj"))
        assert torch.equal(down, up)
        assert float(down.sum()) == round(0.1 * 64)
        heads = masks[f"model.layers.{block}.self_attn.o_proj.weight"].view(4, 8).sum(1)
        assert sorted(heads.tolist()) == [0, 0, 0, 8]
    assert not torch.equal(masks["model.layers.0.mlp.up_proj.weight"], masks["model.layers.1.mlp.up_proj.weight"])
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    learning = {name: parameter for name, parameter in model.named_parameters() if name in masks}
    ours, theirs = (
        torch.optim.SGD(bank.member_parameters("a").values(), lr=0.1),
        torch.optim.SGD(learning.values(), lr=0.1),
    )
    for _ in range(3):
        mine, own = bank.item_losses(make_items()), plain_losses(model)
        torch.testing.assert_close(mine, own, rtol=0, atol=2e-4)
        for optimizer, loss in ((ours, mine), (theirs, own)):
            optimizer.zero_grad()
            loss.mean().backward()
        for name, parameter in learning.items():
            assert parameter.grad is not None
            parameter.grad *= masks[name]
        ours.step()
        theirs.step()


def test_a_half_of_each_kind_of_weight_learns(folder: Path) -> None:
    bank = own_bank(folder, "hft", "none")
    bank.add_member("a", config("hft"), seed=3)
    chosen = [name.removesuffix(".weight") for name in bank.member_parameters("a")]
    kinds = Counter((block_of(f"{name}."), kind_of(name)) for name in chosen)
    stack = "model.layers"
    assert kinds == {
        **{((stack, block), "attention"): 2 for block in (0, 1)},
        **{((stack, block), "norm"): 1 for block in (0, 1)},
        ((stack, 0), "feed-forward"): 1,
        ((stack, 1), "feed-forward"): 2,
    }
    halves = {frozenset(chosen_half([*categories_of(bank)], None, seed)) for seed in range(20)}
    assert len(halves) > 10


def categories_of(bank: Any) -> list[str]:
    return [name.rpartition(".")[0] for name, _ in bank.base.named_parameters() if ".layers." in name]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("model.layers.0.self_attn.o_proj", "attention"),
        ("model.layers.0.input_layernorm", "norm"),
        ("model.layers.0.self_attn.q_norm", "norm"),
        ("model.layers.0.mlp.gate_proj", "feed-forward"),
        ("transformer.h.1.ln_2", "norm"),
        ("transformer.h.1.attn.c_proj", "attention"),
        ("roberta.encoder.layer.0.attention.output.LayerNorm", "norm"),
        ("roberta.encoder.layer.0.intermediate.dense", "feed-forward"),
        ("decoder.block.0.layer.1.EncDecAttention.q", "attention"),
    ],
)
def test_the_kind_of_a_weight(module: str, kind: str) -> None:
    assert kind_of(module) == kind


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"method": "allora"}, "adapter=allora needs adapter.allora_eta"),
        (
            {"method": "lora", "allora_eta": 3.0},
            "adapter.allora_eta=3.0: of adapter=allora only, and this is adapter=lora",
        ),
        ({"method": "allora", "allora_eta": 3.0, "lora_alpha": 32}, "adapter.lora_alpha=32: ALLoRA has no such number"),
        ({"method": "allora", "allora_eta": 3.0, "lora_dropout": 0.1}, "adapter.lora_dropout=0.1: ALLoRA has no such"),
        ({"method": "allora", "allora_eta": 3.0, "lora_plus_ratio": 4.0}, None),
        ({"method": "hft", "lora_r": 8}, "adapter.lora_r=8: HFT, half finetuning has no such number"),
        (
            {"method": "hft", "targets": ["q_proj"]},
            "adapter.targets=['q_proj']: HFT, half finetuning has no such number",
        ),
        ({"method": "hft"}, None),
        ({"method": "corda", "corda_keep_sha256": "ab"}, "the plan fills it in; give adapter.corda_keep"),
        ({"method": "lq_lora"}, "adapter=lq_lora needs adapter.lq_rounds"),
        ({"method": "lq_lora", "lq_rounds": 2, "bits": 2.75, "fisher": True}, None),
        ({"method": "loftq", "bits": 2.75}, "adapter.bits=2.75: of adapter=lq_lora only, and this is adapter=loftq"),
        ({"method": "lora", "fisher": True}, "adapter.fisher=True: of adapter=lq_lora only"),
        ({"method": "lora", "layers": [0], "corda_keep": "embedded"}, "adapter.corda_keep=embedded: of adapter=corda"),
        ({"method": "s2ft", "s2ft_share": 0.1, "targets": ["q_proj"]}, "adapter.targets=['q_proj'] with adapter=s2ft"),
        (
            {"method": "s2ft", "s2ft_share": 0.1},
            "adapter.targets=['all-linear'] with adapter=s2ft: it trains parts",
        ),
        (
            {"method": "s2ft", "s2ft_share": 0.1, "targets": ["o_proj"], "lora_r": 8},
            "adapter.lora_r=8: S2FT has no",
        ),
        ({"method": "s2ft", "targets": ["o_proj"]}, "adapter=s2ft needs adapter.s2ft_share"),
    ],
)
def test_keys_that_a_method_does_not_have_are_refused(values: dict[str, Any], problem: str | None) -> None:
    found = keys_problem(typed(AdapterConfig, {"name": "a"} | values))
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize(("num_kv_heads", "is_refused"), [(2, True), (4, False)])
def test_heads_of_values_that_queries_share_are_not_chosen(folder: Path, num_kv_heads: int, is_refused: bool) -> None:
    shape = ShapeConfig(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=num_kv_heads)
    chosen = replace(config("s2ft"), targets=["v_proj", "o_proj"])
    problem = method_problem(chosen, QUANTS["nf4"], ModelConfig(name="m", hub_id="a/b", shape=shape))
    assert ("fewer heads of values than its 4 of queries" in str(problem)) is is_refused
    if is_refused:
        with pytest.raises(ValueError, match=r"fewer heads of values.*use adapter.targets=\[o_proj,down_proj\]"):
            own_bank(folder, "s2ft", "none").add_member("a", chosen, seed=3)


def test_a_spec_has_the_scale_that_is_trained() -> None:
    planned = spec(adapter=("allora", {"lora_r": 8}))
    assert (planned.adapter.lora_alpha, planned.adapter.lora_dropout) == (8, 0.0)
    assert planned.group == spec(adapter="lora").group
    with pytest.raises(ValueError, match=r"adapter.method=hft with quant.method=nf4: quantized weights"):
        spec(adapter="hft")
    assert spec(adapter="hft", quant="bf16").group != spec(adapter="full", quant="bf16").group

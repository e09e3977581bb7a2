"""Blocks are found by the names of layers and tensors; only those that are named learn, each at its own rate."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.banks.causal import FullBank, PeftBank
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import AdapterConfig, AdapterMethod, Optimizer, typed
from harness.identity.proof import NotTheMethodError, prove
from harness.methods.blocks import block_of, depths, in_blocks, rate_ratio
from harness.runs.compatibility import method_problem
from harness.training.loop import train_group
from tests.builders import config as composed
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint
from tests.tiny_encoders import make_t5
from tests.unit.harness.banks import test_causal
from tests.unit.harness.banks.test_causal import CPU, QUANTS
from tests.unit.harness.training.test_loop import make_bank


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("base_model.model.model.layers.3.mlp.up_proj.lora_A.weight", ("model.layers", 3)),
        ("model.layers.10.self_attn.q_proj.weight", ("model.layers", 10)),
        ("transformer.h.0.attn.c_attn.weight", ("transformer.h", 0)),
        ("decoder.block.2.layer.1.EncDecAttention.q.weight", ("decoder.block", 2)),
        ("gpt_neox.layers.4.attention.dense.weight", ("gpt_neox.layers", 4)),
        ("model.embed_tokens.weight", None),
        ("base_model.model.classifier.dense.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_the_block_of_a_tensor(name: str, place: tuple[str, int] | None) -> None:
    assert block_of(name) == place


def test_layers_of_some_blocks() -> None:
    names = [f"model.layers.{block}.mlp.{layer}" for block in range(3) for layer in ("up_proj", "down_proj")]
    assert in_blocks(names, None) == names
    assert in_blocks(names, [2]) == names[4:]
    with pytest.raises(ValueError, match=r"adapter.layers=\[3, 7\]: no such layer; this model has 3, counted from 0"):
        in_blocks(names, [0, 3, 7])


def test_rates_fall_from_the_last_block_to_the_embeddings() -> None:
    blocks = depths(["model.layers.0.mlp.up_proj", "model.layers.3.mlp.up_proj"])
    ratios = {
        name: rate_ratio(name, 0.5, blocks)
        for name in (
            "model.embed_tokens.weight",
            "model.layers.0.x.w",
            "model.layers.3.x.w",
            "model.norm.w",
            "lm_head.w",
        )
    }
    assert list(ratios.values()) == [1 / 16, 1 / 8, 1, 1, 1]
    assert [rate_ratio(f"{name}.weight", 0.5, blocks) for name in ("embed_out", "transformer.wte")] == [1, 1 / 16]


def test_the_first_update_of_a_block_is_its_rate(folder: Path, tmp_path: Path) -> None:
    """AdamW's first update is the rate itself, by the sign of the gradient; LoRA+'s ratio comes on top."""
    bank, updates = make_bank(folder), dict[str, float]()
    changes: dict[str, Any] = {"layer_lr_decay": 0.25, "learning_rate": 1e-2, "optimizer": Optimizer.adamw}
    member, _ = make_member("a", tmp_path, max_steps=1, adapter={"lora_plus_ratio": 4.0}, **changes)
    train_group(bank, [member])
    for key, value in weights(bank, "a").items():
        if ".lora_B." in key:
            updates[str(block_of(key))] = float(value.abs().max())
    assert updates == {
        "('model.layers', 0)": pytest.approx(4 * 0.25 * 1e-2, rel=1e-3),
        "('model.layers', 1)": pytest.approx(4 * 1e-2, rel=1e-3),
    }


def test_rates_by_block_go_on_after_a_stop(folder: Path, tmp_path: Path) -> None:
    straight, resumed = make_bank(folder), make_bank(folder)
    train_group(straight, [make_member("a", tmp_path / "straight", max_steps=4, layer_lr_decay=0.5)[0]])
    stopped = make_member("a", tmp_path, max_steps=4, layer_lr_decay=0.5)[0]
    stopped.until = 2
    train_group(make_bank(folder), [stopped])
    train_group(resumed, [make_member("a", tmp_path, max_steps=4, layer_lr_decay=0.5)[0]])
    mine, other = weights(straight, "a"), weights(resumed, "a")
    assert all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.mark.parametrize("method", ["dora", "pissa", "lora_fa"])
def test_methods_of_peft_learn_in_these_blocks_alone(folder: Path, tmp_path: Path, method: str) -> None:
    bank, chosen = PeftBank(folder, QUANTS["nf4"], CPU), test_causal.config(method, layers=[1])
    bank.add_member("a", chosen, seed=3)
    assert prove(bank, "a", chosen).checks["parameters"] == "passed"
    assert {block_of(key) for key in bank.member_parameters("a")} == {("model.layers", 1)}
    bank.eval()
    bank.save_member("a", tmp_path, "tiny", "main")
    again = PeftBank(folder, QUANTS["nf4"], CPU)
    again.load_member("a", tmp_path)
    assert torch.equal(test_causal.losses(again), test_causal.losses(bank))


def test_blocks_of_both_stacks_of_a_t5(tmp_path: Path) -> None:
    bank = Seq2SeqBank(make_t5(tmp_path), QUANTS["none"], CPU)
    bank.add_member("a", test_causal.config("lora", layers=[1]), seed=3)
    assert {block_of(key) for key in bank.member_parameters("a")} == {("encoder.block", 1), ("decoder.block", 1)}


def test_what_trains_another_block_is_refused(folder: Path) -> None:
    bank = make_bank(folder)
    bank.add_member("a", test_causal.config("lora"), seed=3)
    with pytest.raises(NotTheMethodError, match=r"identity, parameters: .*adapter.layers=\[1\], and .*layers.0"):
        prove(bank, "a", test_causal.config("lora", layers=[1]))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"layers": [3, 32]}, "adapter.layers=[32]: no such layer; this model has 32, counted from 0"),
        ({"layers": [31]}, None),
        ({"method": "peft", "peft_type": "TRAINABLE_TOKENS", "layers": [1]}, "rows of a table, in no block"),
        (
            {"method": "peft", "peft_type": "MISS", "layers": [1], "peft": {"layers_to_transform": [1]}},
            "give one of them",
        ),
    ],
)
def test_blocks_are_checked_when_a_run_is_planned(values: dict[str, Any], problem: str | None) -> None:
    chosen = composed(quant="nf4")
    found = method_problem(typed(AdapterConfig, {"name": "a"} | values), chosen.quant, chosen.model)
    assert found is None if problem is None else problem in str(found)


def test_equal_sets_of_blocks_are_one_run() -> None:
    assert AdapterConfig(name="a", layers=[3, 1, 3]).layers == [1, 3]
    for layers in ([], [-1]):
        with pytest.raises(ValueError, match="name at least one block, counted from 0"):
            AdapterConfig(name="a", method=AdapterMethod.lora, layers=layers)


def test_full_finetuning_of_some_blocks_freezes_all_else(folder: Path) -> None:
    bank = FullBank(folder, QUANTS["bf16"], CPU)
    bank.add_member("a", AdapterConfig(name="full", method=AdapterMethod.full, layers=[0]), seed=3)
    trained = bank.member_parameters("a")
    assert {block_of(key) for key in trained} == {("model.layers", 0)}
    frozen = {p.dtype for name, p in bank.base.named_parameters() if name not in trained}
    assert (frozen, {p.dtype for p in trained.values()}) == ({torch.bfloat16}, {torch.float32})
    bank.item_losses(test_causal.make_items()).mean().backward()
    assert all(p.grad is not None for p in trained.values())

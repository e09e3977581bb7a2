"""Classifiers: transformers' own label loss for RoBERTa; a causal model read at its last token; the head is saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from harness.banks.classifier import ClassifierBank
from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod
from harness.nn.batch import Item
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
FLOAT = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
NF4 = QuantConfig(name="nf4", compute_dtype=DType.float32)
NUM_LABELS = 3


def make_roberta(folder: Path) -> Path:
    torch.manual_seed(0)
    more: dict[str, Any] = {"num_labels": 2}  # another number than the task's
    config = RobertaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=1,
        **more,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["roberta", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return make_roberta(folder) if request.param == "roberta" else make_checkpoint(folder)


def make_items() -> list[Item]:
    rng = np.random.default_rng(0)
    made: list[Item] = []
    for i, length in enumerate(rng.integers(4, 30, size=6)):
        tokens = rng.integers(3, VOCAB_SIZE, size=int(length)).astype(np.int32)
        made.append(Item(member="a", tokens=tokens, num_source=0, dropout_key=i, weight=1.0, label=i % NUM_LABELS))
    return made


def config(method: str = "lora") -> AdapterConfig:
    return AdapterConfig(name=method, method=AdapterMethod(method), lora_r=4, lora_alpha=8, lora_dropout=0.1)


def make_bank(folder: Path, quant: QuantConfig = FLOAT) -> ClassifierBank:
    return ClassifierBank(folder, quant, CPU, num_labels=NUM_LABELS)


@torch.no_grad()
def losses(bank: ClassifierBank) -> Tensor:
    return bank.item_losses(make_items())


@pytest.mark.parametrize(
    ("method", "quant"),
    [
        ("lora", FLOAT),
        ("pissa", NF4),
        ("dora", NF4),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in (("lora", NF4), ("pissa", FLOAT), ("dora", FLOAT))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_learns_and_is_read_again(folder: Path, tmp_path: Path, method: str, quant: QuantConfig) -> None:
    bank = make_bank(folder, quant)
    bank.add_member("a", config(method), seed=3)
    before = losses(bank.eval())
    optimizer = torch.optim.AdamW(bank.member_parameters("a").values(), lr=5e-3)
    bank.train()
    for _ in range(30):
        bank.item_losses(make_items()).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = losses(bank.eval())
    assert float(after.mean()) < 0.7 * float(before.mean())
    bank.save_member("a", tmp_path, "tiny", "main")
    again = ClassifierBank(folder, quant, CPU)  # the number of classes comes with the head
    again.load_member("a", tmp_path)
    assert torch.equal(losses(again), after)


def test_plain_peft_reads_adapter_and_head(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    bank.add_member("a", config(), seed=3)
    bank.eval()
    with torch.no_grad():
        for parameter in bank.member_parameters("a").values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    bank.save_member("a", tmp_path, "tiny", "main")
    base = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=NUM_LABELS, ignore_mismatched_sizes=True
    )
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        expected = [
            float(theirs(torch.from_numpy(i.tokens.astype(np.int64))[None], labels=torch.tensor([i.label])).loss)
            for i in make_items()
        ]
    assert losses(bank).tolist() == pytest.approx(expected, rel=1e-4)


def test_full_finetuning_saves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    bank = make_bank(folder)
    bank.add_member("a", AdapterConfig(name="full", method=AdapterMethod.full), seed=3)
    bank.save_member("a", tmp_path, "tiny", "main")
    again = ClassifierBank(folder, FLOAT, CPU)
    again.load_member("a", tmp_path)
    assert torch.equal(losses(again.eval()), losses(bank.eval()))


def test_the_head_is_the_seeds_and_stays_in_floating_point(folder: Path) -> None:
    found: list[Tensor] = []
    for seed in (1, 1, 2):
        bank = make_bank(folder, NF4)
        bank.add_member("a", config(), seed=seed)
        heads = {n: p for n, p in bank.member_parameters("a").items() if "lora_" not in n}
        assert heads
        assert all(p.dtype is torch.float32 for p in heads.values())
        assert any(isinstance(layer.base, bnb.nn.Linear4bit) for layer in bank.layers.values())
        found.append(torch.cat([p.detach().flatten() for p in heads.values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_dropout_is_repeated_by_its_key(folder: Path) -> None:
    bank, items = make_bank(folder), make_items()
    bank.add_member("a", config("dora"), seed=3)
    with torch.no_grad():
        for parameter in bank.member_parameters("a").values():
            parameter.add_(0.05)
        bank.train()
        first, second = bank.item_losses(items), bank.item_losses(items)
        other = bank.item_losses([replace(item, dropout_key=item.dropout_key + 50) for item in items])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_an_item_has_one_target() -> None:
    assert all(item.num_targets == 1 for item in make_items())


@pytest.mark.parametrize("label", [None, -1, NUM_LABELS])
def test_a_label_that_is_no_class_is_refused(folder: Path, label: int | None) -> None:
    with pytest.raises(ValueError, match=rf"label {label}: .* from 0 to 2"):
        make_bank(folder).item_losses([replace(make_items()[0], label=label)])


def test_a_model_that_is_another_in_company_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ClassifierBank.read

    def leaking(*args: Any) -> Any:
        model: Any = read(*args)
        layer = next(module for name, module in model.named_modules() if name.endswith(("mlp", "intermediate")))
        layer.register_forward_hook(lambda *call: call[2] + call[2].mean(dim=(0, 1)))
        return model

    monkeypatch.setattr(ClassifierBank, "read", leaking)
    with pytest.raises(ValueError, match=r"can.t be trained or scored here .* beside another one, by"):
        make_bank(folder).add_member("a", config(), seed=0)

"""Full finetuning: the losses and gradients of transformers, every weight trained, a checkpoint that anyone reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.banks.causal import FullBank
from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod, TrainConfig
from harness.data.tokens import TokenizedExample
from harness.nn.batch import Item
from harness.nn.loss import trained_head_losses
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
FLOAT = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
FULL = AdapterConfig(name="full", method=AdapterMethod.full)


def make_examples() -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, VOCAB_SIZE, size=int(n)).astype(np.int32) for n in rng.integers(8, 30, size=6)]
    return [TokenizedExample(input_ids=row, num_source=len(row) // 3) for row in rows]


def make_items() -> list[Item]:
    return [
        Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=i, weight=1.0)
        for i, e in enumerate(make_examples())
    ]


def make_member(tmp: Path, max_steps: int = 4) -> tuple[Member, list[StepMetrics]]:
    log: list[StepMetrics] = []
    train = TrainConfig(max_steps=max_steps, batch_size=3, learning_rate=3e-3, max_epochs=100.0, checkpoint_steps=2)
    checkpoint = tmp / "checkpoint"
    return Member(
        run_id="a",
        adapter=FULL,
        train=train,
        examples=make_examples(),
        checkpoint_folder=checkpoint,
        on_step=log.append,
    ), log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def test_head_losses_and_gradients_are_cross_entropys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.nn.loss.CHUNK_BYTES", 4 * 50 * 3)  # three positions a chunk
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(10, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (10,), generator=generator)
    ours = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    theirs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    factors = torch.rand(10, generator=generator)
    (trained_head_losses(ours[0], ours[1], targets) * factors).sum().backward()
    (functional.cross_entropy(theirs[0] @ theirs[1].T, targets, reduction="none") * factors).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_every_weight_gets_the_gradient_of_transformers(folder: Path) -> None:
    bank = FullBank(folder, FLOAT, CPU)
    bank.add_member("a", FULL, seed=0)
    bank.train()
    losses = bank.item_losses(make_items())
    losses.sum().backward()
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    expected = []
    for item in make_items():
        ids = torch.from_numpy(item.tokens.astype(np.int64))[None]
        logits = model(ids).logits[0, item.num_source - 1 : -1]
        expected.append(functional.cross_entropy(logits, ids[0, item.num_source :], reduction="none"))
    torch.testing.assert_close(losses, torch.cat(expected), rtol=1e-4, atol=1e-4)
    torch.cat(expected).sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters()}
    ours = bank.member_parameters("a")
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-4)


def test_what_is_saved_is_a_checkpoint_for_anyone(folder: Path, tmp_path: Path) -> None:
    bank = FullBank(folder, FLOAT, CPU)
    member, log = make_member(tmp_path, max_steps=25)
    train_group(bank, [member])
    assert sum(m.loss for m in log[-3:]) < 0.7 * sum(m.loss for m in log[:3])
    digest = bank.save_member("a", tmp_path / "saved", "tiny", "main")
    assert len(digest) == 64
    with torch.no_grad():
        expected = bank.item_losses(make_items())
        again = FullBank(folder, FLOAT, CPU)
        again.load_member("a", tmp_path / "saved")
        assert torch.equal(again.item_losses(make_items()), expected)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        ids = torch.from_numpy(make_items()[0].tokens.astype(np.int64))[None]
        source = make_items()[0].num_source
        theirs = functional.cross_entropy(plain(ids).logits[0, source - 1 : -1], ids[0, source:], reduction="none")
    torch.testing.assert_close(expected[: len(theirs)], theirs, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token == "</s>"


def test_resume_is_bit_identical(folder: Path, tmp_path: Path) -> None:
    straight = FullBank(folder, FLOAT, CPU)
    train_group(straight, [make_member(tmp_path / "straight")[0]])
    stopped, log = make_member(tmp_path / "stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(FullBank(folder, FLOAT, CPU), [stopped], should_stop=lambda: len(log) >= 3)
    resumed = FullBank(folder, FLOAT, CPU)
    train_group(resumed, [make_member(tmp_path / "stopped")[0]])
    for name, tensor in straight.member_parameters("a").items():
        assert torch.equal(tensor, resumed.member_parameters("a")[name]), name


def test_quantized_weights_are_refused(folder: Path) -> None:
    bank = FullBank(folder, QuantConfig(name="nf4", compute_dtype=DType.float32), CPU)
    with pytest.raises(ValueError, match=r"adapter.method=full with quant.method=nf4: .* use quant=bf16"):
        bank.add_member("a", FULL, seed=0)

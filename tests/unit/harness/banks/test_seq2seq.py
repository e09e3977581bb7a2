"""T5: transformers' own label loss, target by target; resume; the saved adapter in plain PEFT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, T5Config
from transformers import T5ForConditionalGeneration as T5

from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod, TrainConfig
from harness.data.tokens import TokenizedExample
from harness.nn.batch import Item, padded_batches
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group

CPU = torch.device("cpu")
VOCAB_SIZE, EOS = 300, 1
FLOAT = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
NF4 = QuantConfig(name="nf4", compute_dtype=DType.float32)
INT8 = QuantConfig(name="int8", method=QuantMethod.int8, compute_dtype=DType.float32)


def make_t5(folder: Path, scaled: bool) -> Path:
    """A tiny T5: `scaled` as the original (tied, ReLU), else as v1.1 (gated)."""
    torch.manual_seed(0)
    more: dict[str, Any] = {"tie_word_embeddings": scaled, "decoder_start_token_id": 0}
    config = T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="relu" if scaled else "gated-gelu",
        **more,
    )
    T5(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5"), scaled=False)


def make_examples() -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    made: list[TokenizedExample] = []
    for source, target in rng.integers(3, 20, size=(6, 2)):
        tokens = rng.integers(3, VOCAB_SIZE, size=int(source + target)).astype(np.int32)
        tokens[-1] = EOS
        made.append(TokenizedExample(input_ids=tokens, num_source=int(source)))
    return made


def make_items() -> list[Item]:
    return [
        Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=i, weight=1.0)
        for i, e in enumerate(make_examples())
    ]


def config(method: str = "lora", dropout: float = 0.0) -> AdapterConfig:
    return AdapterConfig(name=method, method=AdapterMethod(method), lora_r=4, lora_alpha=8, lora_dropout=dropout)


@torch.no_grad()
def moved(bank: Seq2SeqBank, method: str = "lora") -> Seq2SeqBank:
    bank.add_member("a", config(method), seed=3)
    bank.eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in bank.member_parameters("a").values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return bank


@torch.no_grad()
def label_losses(model: torch.nn.Module) -> list[float]:
    """transformers' mean loss of each example, by `labels=`."""
    found: list[float] = []
    for item in make_items():
        source = torch.tensor([[*item.tokens[: item.num_source].tolist(), EOS]])
        labels = torch.from_numpy(item.tokens[item.num_source :].astype(np.int64))[None]
        found.append(float(model(input_ids=source, labels=labels).loss))
    return found


@torch.no_grad()
def our_losses(bank: Seq2SeqBank) -> tuple[Tensor, list[float]]:
    items = make_items()
    losses = bank.item_losses(items)
    return losses, [float(part.mean()) for part in losses.split([item.num_targets for item in items])]


@pytest.mark.parametrize("scaled", [True, False])
def test_the_loss_is_transformers_label_loss(tmp_path: Path, scaled: bool) -> None:
    make_t5(tmp_path, scaled)
    _, ours = our_losses(Seq2SeqBank(tmp_path, FLOAT, CPU))
    assert ours == pytest.approx(label_losses(AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "dora", "pissa"])
def test_plain_peft_reads_the_adapter(folder: Path, tmp_path: Path, method: str) -> None:
    bank = moved(Seq2SeqBank(folder, FLOAT, CPU), method)
    bank.save_member("a", tmp_path, "tiny", "main")
    _, ours = our_losses(bank)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    untouched = label_losses(base)
    theirs = label_losses(PeftModel.from_pretrained(base, str(tmp_path)).eval())
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours != pytest.approx(untouched, rel=1e-2)


@pytest.mark.parametrize("quant", [FLOAT, NF4, INT8], ids=lambda quant: quant.name)
@pytest.mark.parametrize("method", ["lora", "dora", "olora", "full"])
def test_trains_and_reads_again(folder: Path, tmp_path: Path, method: str, quant: QuantConfig) -> None:
    bank = Seq2SeqBank(folder, quant, CPU)
    if method == "full" and quant is not FLOAT:
        with pytest.raises(ValueError, match=r"adapter.method=full with quant.method"):
            bank.add_member("a", config(method), seed=3)
        return
    moved(bank, method)
    bank.train()
    bank.item_losses(make_items()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bank.member_parameters("a").values())
    bank.eval()
    bank.save_member("a", tmp_path, "tiny", "main")
    again = Seq2SeqBank(folder, quant, CPU)
    again.load_member("a", tmp_path)
    assert torch.equal(our_losses(again)[0], our_losses(bank)[0])


def test_every_linear_layer_is_quantized(folder: Path) -> None:
    bank = Seq2SeqBank(folder, NF4, CPU)
    kinds = {name.rsplit(".", 1)[-1]: type(layer.base) for name, layer in bank.layers.items()}
    assert kinds.pop("lm_head") is torch.nn.Linear
    assert set(kinds) == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    assert set(kinds.values()) == {bnb.nn.Linear4bit}
    bank.add_member("a", config(), seed=0)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in bank.member_parameters("a")}
    assert adapted == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}


def test_order_and_company_do_not_matter(folder: Path) -> None:
    bank, items = moved(Seq2SeqBank(folder, FLOAT, CPU)), make_items()
    with torch.no_grad():
        together = bank.item_losses(items).split([item.num_targets for item in items])
        for item, part in zip(items, together, strict=True):
            torch.testing.assert_close(bank.item_losses([item]), part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quant", [FLOAT, NF4], ids=lambda quant: quant.name)
def test_resume_is_bit_identical(folder: Path, tmp_path: Path, quant: QuantConfig) -> None:
    """With dropout in the adapter and in T5 itself."""

    def member(name: str) -> tuple[Member, list[StepMetrics]]:
        log: list[StepMetrics] = []
        train = TrainConfig(max_steps=4, batch_size=3, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=2)
        folder = tmp_path / name
        made = Member(
            run_id="a",
            adapter=config(dropout=0.2),
            train=train,
            examples=make_examples(),
            checkpoint_folder=folder,
            on_step=log.append,
        )
        return made, log

    straight = Seq2SeqBank(folder, quant, CPU)
    train_group(straight, [member("straight")[0]])
    stopped, log = member("stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(Seq2SeqBank(folder, quant, CPU), [stopped], should_stop=lambda: len(log) >= 3)
    torch.manual_seed(99)  # the global generator has no part in it
    resumed = Seq2SeqBank(folder, quant, CPU)
    train_group(resumed, [member("stopped")[0]])
    for name, tensor in straight.member_parameters("a").items():
        assert torch.equal(tensor, resumed.member_parameters("a")[name]), name


def test_generation_is_greedy(folder: Path) -> None:
    bank = moved(Seq2SeqBank(folder, FLOAT, CPU))
    with torch.no_grad():
        bank.model.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(2))  # varied outputs
    sources = [item.tokens[: item.num_source].tolist() for item in make_items()]
    together = bank.generate(sources, max_new_tokens=5)
    assert together == [greedy(bank, source) for source in sources]
    assert any(together)


@torch.no_grad()
def greedy(bank: Seq2SeqBank, source: list[int]) -> list[int]:
    """Five steps without a cache."""
    tokens = [0]
    while len(tokens) < 6 and EOS not in tokens:
        ids = torch.tensor([[*source, EOS]])
        tokens.append(int(bank.model(input_ids=ids, decoder_input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return [token for token in tokens if token not in (0, EOS)]


def test_an_example_without_a_source_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset.train_on_source=false"):
        Seq2SeqBank(folder, FLOAT, CPU).item_losses([replace(make_items()[0], num_source=0)])


def test_another_encoder_decoder_is_refused(tmp_path: Path) -> None:
    bart = BartConfig(
        vocab_size=50,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    BartForConditionalGeneration(bart).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type bart; model.kind=seq2seq serves t5"):
        Seq2SeqBank(tmp_path, FLOAT, CPU).add_member("a", config(), seed=0)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_padded_batches_hold_each_example_once_within_the_budget(lengths: list[int]) -> None:
    batches = padded_batches(lengths)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= sum(lengths) for batch in batches)


@pytest.mark.parametrize("planted", ["leak", "nan"])
def test_a_model_that_is_another_in_company_is_refused(
    folder: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Seq2SeqBank.read

    def spoiled(*args: Any) -> Any:
        model: Any = read(*args)
        spoil = (lambda x: x + x.mean(dim=(0, 1))) if planted == "leak" else (lambda x: x * torch.nan)
        model.get_encoder().block[-1].layer[-1].register_forward_hook(lambda *call: spoil(call[2]))
        return model

    monkeypatch.setattr(Seq2SeqBank, "read", spoiled)
    reason = "alone is not what it gives beside another one" if planted == "leak" else "gives NaN or infinite numbers"
    with pytest.raises(ValueError, match=rf"model_type t5 can't be trained or scored here in torch.float32.*{reason}"):
        Seq2SeqBank(folder, FLOAT, CPU).add_member("a", config(), seed=0)


def test_answers_of_no_numbers_end_in_one_message(folder: Path) -> None:
    bank = moved(Seq2SeqBank(folder, FLOAT, CPU))
    next(iter(bank.member_parameters("a").values())).data.fill_(torch.nan)
    with pytest.raises(ValueError, match=rf"{folder}, a: its logits are NaN or infinite after 0 tokens"):
        bank.generate([[5, 6, 7]], 3)


def test_blocks_are_recomputed_where_checkpointing_is_on(folder: Path) -> None:
    bank = Seq2SeqBank(folder, FLOAT, CPU)
    bank.train()  # the loop does so before the member comes
    bank.add_member("a", config(), seed=0)
    for on, calls in ((False, 1), (True, 2)):
        bank.set_checkpointing(on)
        called: list[int] = []
        blocks = (bank.base.encoder.block[1], bank.base.decoder.block[1])
        hooks = [block.layer[0].register_forward_hook(lambda *_, seen=called: seen.append(1)) for block in blocks]
        bank.item_losses(make_items()[:1]).sum().backward()
        assert len(called) == 2 * calls
        for hook in hooks:
            hook.remove()

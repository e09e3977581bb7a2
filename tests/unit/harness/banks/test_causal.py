"""PEFT's variants: each starts where its base is, trains, resumes exactly and is read again, also by plain PEFT."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from harness.banks.adapters.layers import layer_names, resolve_targets
from harness.banks.causal import FullBank, PackedBank, PeftBank
from harness.banks.load import NUM_CALIBRATION_EXAMPLES, calibrate, make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DType,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.data.tokens import TokenizedExample
from harness.nn.attention import PACKED, Packed
from harness.nn.batch import Item, Segment
from harness.runs.adapter_files import RESIDUAL_FILE
from harness.runs.compatibility import method_problem
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from tests.in_memory import quantize_linear_layers
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
METHODS = ["dora", "pissa", "olora", "corda", "eva", "loftq", "lora_ga", "lq_lora"]
ON_QUANTIZED = ("loftq", "lq_lora")
RESIDUAL = ["pissa", "olora", "corda", "lora_ga"]
QUANTS = {
    "none": QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32),
    "bf16": QuantConfig(name="bf16", method=QuantMethod.none, compute_dtype=DType.bfloat16),
    "nf4": QuantConfig(name="nf4", method=QuantMethod.nf4, block_size=128, compute_dtype=DType.float32),
    "fp4": QuantConfig(name="fp4", method=QuantMethod.fp4, compute_dtype=DType.float32),
    "int8": QuantConfig(name="int8", method=QuantMethod.int8, compute_dtype=DType.float32),
    "nf4-bf16": QuantConfig(name="nf4", method=QuantMethod.nf4, compute_dtype=DType.bfloat16),
}
TRAINABLE = [
    (m, q) for m in METHODS for q in QUANTS if m not in ON_QUANTIZED or QUANTS[q].method is not QuantMethod.none
]
TRAIN = TrainConfig(max_steps=4, batch_size=2, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=2)


def make_examples(count: int = 6) -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    tokens: list[NDArray[np.int32]] = [
        rng.integers(3, VOCAB_SIZE, size=int(n)).astype(np.int32) for n in rng.integers(8, 30, size=count)
    ]
    return [TokenizedExample(input_ids=t, num_source=len(t) // 3) for t in tokens]


def make_items(member: str | None = "a") -> list[Item]:
    return [
        Item(member=member, tokens=e.input_ids, num_source=e.num_source, dropout_key=i, weight=1.0)  # type: ignore[arg-type]
        for i, e in enumerate(make_examples())
    ]


def config(method: str, dropout: float = 0.0, **changes: object) -> AdapterConfig:
    made = AdapterConfig(name=method, method=AdapterMethod(method), lora_r=4, lora_alpha=8, lora_dropout=dropout)
    made.lq_rounds = 3 if method == "lq_lora" else None
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def make_peft_bank(folder: Path, quant: str) -> PeftBank:
    bank = PeftBank(folder, QUANTS[quant], CPU)
    bank.calibrate(make_items())
    return bank


@torch.no_grad()
def move(bank: PackedBank, size: float = 0.05) -> None:
    """Stands for training: every tensor of the member changes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in bank.member_parameters("a").values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def losses(bank: PeftBank | AdapterBank, member: str | None = "a") -> Tensor:
    with torch.no_grad():
        return bank.item_losses(make_items(member))


@torch.no_grad()
def plain_losses(model: torch.nn.Module) -> Tensor:
    """By transformers and PEFT alone, an example at a time."""
    parts: list[Tensor] = []
    for item in make_items():
        ids = torch.from_numpy(item.tokens.astype(np.int64))[None]
        logits = model(ids).logits[0, item.num_source - 1 : -1].float()
        parts.append(torch.nn.functional.cross_entropy(logits, ids[0, item.num_source :], reduction="none"))
    return torch.cat(parts)


@pytest.mark.parametrize(("method", "quant"), TRAINABLE)
def test_what_is_saved_is_what_was_trained(folder: Path, tmp_path: Path, method: str, quant: str) -> None:
    bank = make_peft_bank(folder, quant)
    untouched = losses(bank, None)
    bank.add_member("a", config(method), seed=3)
    bank.train()
    bank.item_losses(make_items()).mean().backward()
    gradients = [p.grad for p in bank.member_parameters("a").values()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(bool(g.abs().sum() > 0) for g in gradients if g is not None) >= len(gradients) // 2  # B = 0 hides A's
    bank.eval()
    started = losses(bank)
    if method in ("dora", "eva"):
        torch.testing.assert_close(started, untouched, rtol=0, atol=2e-5 if "bf16" not in quant else 0.2)
    elif quant == "none":
        torch.testing.assert_close(started, untouched, rtol=0, atol=1e-4)
    move(bank)
    trained = losses(bank)
    assert float((trained - started).abs().max()) > 0.05
    bank.save_member("a", tmp_path, "tiny", "main")
    again = PeftBank(folder, QUANTS[quant], CPU)
    again.load_member("a", tmp_path)
    assert torch.equal(losses(again), trained)


@pytest.mark.parametrize("method", ["rslora", "dora", "eva", *RESIDUAL])
def test_plain_peft_computes_the_same_on_a_float_base(folder: Path, tmp_path: Path, method: str) -> None:
    bank = make_peft_bank(folder, "none")
    bank.add_member("a", config(method), seed=3)
    bank.eval()
    move(bank)
    bank.save_member("a", tmp_path, "tiny", "main")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path)).eval()
    torch.testing.assert_close(plain_losses(theirs), losses(bank), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_plain_peft_on_a_quantized_base(folder: Path, tmp_path: Path, method: str) -> None:
    """The same where the base is only quantized; where it is a residual, off by a quantization error, and marked."""
    bank = make_peft_bank(folder, "nf4")
    bank.add_member("a", config(method), seed=3)
    bank.eval()
    move(bank)
    bank.save_member("a", tmp_path, "tiny", "main")
    base = AutoModelForCausalLM.from_pretrained(folder)
    quantize_linear_layers(base, QUANTS["nf4"], CPU)
    theirs = plain_losses(PeftModel.from_pretrained(base, str(tmp_path)).eval())
    changes_its_base = method in (*RESIDUAL, "lq_lora")
    assert (tmp_path / RESIDUAL_FILE).is_file() == changes_its_base
    if changes_its_base:
        assert float((theirs - losses(bank)).abs().max()) > 1e-2
    else:
        torch.testing.assert_close(theirs, losses(bank), rtol=1e-4, atol=1e-4)


def test_loftq_takes_up_the_quantization_error(folder: Path) -> None:
    bank = make_peft_bank(folder, "nf4")
    original = AutoModelForCausalLM.from_pretrained(folder)
    bank.add_member("a", config("loftq", lora_r=16, lora_alpha=4), seed=0)
    from peft.utils.integrations import dequantize_module_weight

    for name in layer_names(original):
        weight = original.get_submodule(name).weight
        layer = bank.model.get_submodule(name)
        quantized = dequantize_module_weight(layer.base_layer)
        without = (weight - quantized).norm()
        assert (weight - quantized - layer.get_delta_weight("default")).norm() < 0.75 * without, name


def test_eva_shares_the_ranks_out_and_keeps_their_sum(folder: Path) -> None:
    bank = make_peft_bank(folder, "nf4")
    bank.add_member("a", config("eva"), seed=0)
    ranks = [len(p) for name, p in bank.member_parameters("a").items() if "lora_A" in name]
    assert sum(ranks) == 4 * len(layer_names(AutoModelForCausalLM.from_pretrained(folder)))
    assert len(set(ranks)) > 1


def test_lora_equals_the_adapter_bank(folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED)
    shared = AdapterBank(base).eval()
    shared.add_member("a", config("lora", dropout=0.3), seed=5)
    with torch.no_grad():
        for name, parameter in shared.member_parameters("a").items():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    shared.save_member("a", tmp_path, "tiny", "main")
    own = PeftBank(folder, QUANTS["none"], CPU)
    own.load_member("a", tmp_path)
    torch.testing.assert_close(losses(own), losses(shared), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        tokens, segments = torch.tensor([[5, 9, 100, 7]]), [Segment(num_tokens=4, member="a")]
        hidden = own(tokens, segments, plan=Packed([4]))
        torch.testing.assert_close(own.logits(hidden[0]), shared.logits(shared(tokens, segments)[0]))


def test_dropout_is_the_examples_own(folder: Path) -> None:
    bank = make_peft_bank(folder, "none")
    bank.add_member("a", config("dora", dropout=0.3), seed=3)
    move(bank)
    bank.train()
    items = make_items()
    with torch.no_grad():
        together = bank.item_losses(items)
        apart = torch.cat([bank.item_losses([item]) for item in items])
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
        other = bank.item_losses([replace(item, dropout_key=item.dropout_key + 100) for item in items])
    assert float((together - other).abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["dora", "pissa", "full"])
def test_a_model_that_cannot_be_packed_is_padded(tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(tmp_path)
    bank: PackedBank = FullBank(tmp_path, QUANTS["none"], CPU) if method == "full" else make_peft_bank(tmp_path, "none")
    assert not bank.layout.is_packed
    assert bank.layout.keeps_cache, "decoding goes on from its own cache"
    bank.add_member("a", config(method, dropout=0.3), seed=3)
    items = make_items()
    with torch.no_grad():
        bank.eval()
        expected = plain_losses(AutoModelForCausalLM.from_pretrained(tmp_path))
        torch.testing.assert_close(bank.item_losses(items), expected, rtol=1e-4, atol=1e-4)
        move(bank)
        bank.train()
        if method != "full":  # its dropout is the model's own, and BLOOM has none
            assert not torch.allclose(bank.item_losses(items), bank.eval().item_losses(items))
            bank.train()
        apart = torch.cat([bank.item_losses([item]) for item in items])
        torch.testing.assert_close(bank.item_losses(items), apart, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="can't share prefixes"):
        bank(torch.tensor([[5, 6]]), [Segment(num_tokens=2, member="a")], plan=Packed([2]))
    if method == "dora":
        with pytest.raises(ValueError, match="model_type bloom"):
            make_peft_bank(tmp_path, "none").add_member("a", config("eva"), seed=3)


def make_member(name: str, tmp: Path, method: str) -> tuple[Member, list[StepMetrics]]:
    log: list[StepMetrics] = []
    member = Member(
        run_id=name,
        adapter=config(method, dropout=0.2),
        train=TRAIN,
        examples=make_examples(),
        checkpoint_folder=tmp / "checkpoint",
        on_step=log.append,
    )
    return member, log


@pytest.mark.parametrize(
    ("method", "quant"), [("dora", "none"), ("dora", "nf4"), ("pissa", "nf4"), ("lora_ga", "none")]
)
def test_resume_is_bit_identical(folder: Path, tmp_path: Path, method: str, quant: str) -> None:
    straight = make_peft_bank(folder, quant)
    train_group(straight, [make_member("a", tmp_path / "straight", method)[0]])
    stopped, log = make_member("a", tmp_path / "stopped", method)
    with pytest.raises(TrainingInterrupted):
        train_group(make_peft_bank(folder, quant), [stopped], should_stop=lambda: len(log) >= 3)
    resumed = make_peft_bank(folder, quant)
    second, later = make_member("a", tmp_path / "stopped", method)
    train_group(resumed, [second])
    assert [m.step for m in later] == [4]
    for name, tensor in straight.member_parameters("a").items():
        assert torch.equal(tensor, resumed.member_parameters("a")[name]), name
    assert torch.equal(losses(straight), losses(resumed))


def test_a_removed_member_leaves_no_trace(folder: Path) -> None:
    fresh, used = make_peft_bank(folder, "nf4"), make_peft_bank(folder, "nf4")
    used.add_member("a", config("pissa"), seed=1)
    used.remove_member("a")
    for bank in (fresh, used):
        bank.add_member("a", config("olora"), seed=3)
        bank.eval()
    assert torch.equal(losses(fresh), losses(used))


def test_gradient_checkpointing_changes_no_gradient(folder: Path) -> None:
    found: list[dict[str, Tensor]] = []
    for on in (False, True):
        bank = make_peft_bank(folder, "nf4")
        bank.add_member("a", config("dora", dropout=0.2), seed=3)
        bank.set_checkpointing(on)
        bank.train()
        bank.item_losses(make_items()).sum().backward()
        found.append({n: p.grad for n, p in bank.member_parameters("a").items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize("method", ["dora", "full"])
def test_a_member_has_the_banks_mode(folder: Path, method: str) -> None:
    for training in (True, False):
        bank = make_peft_bank(folder, "none")
        bank.train(training)  # before it has a model, as the loop does
        bank.add_member("a", config(method), seed=3)
        assert {module.training for module in bank.base.modules()} == {training}


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("dora", {"targets": ["q_proj", "nope"]}, r"adapter.targets=\['nope'\]"),
        ("pissa", {"lora_r": 20}, "adapter.lora_r=20 .* use adapter.lora_r=16 or less"),
        ("lora_ga", {"lora_r": 9}, "use adapter.lora_r=8 or less"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    folder: Path, method: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_peft_bank(folder, "none").add_member("a", config(method, **changes), seed=0)


def test_the_bank_refuses_what_it_cannot_serve(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter.method=loftq with quant.method=none"):
        make_peft_bank(folder, "none").add_member("a", config("loftq"), seed=0)
    with pytest.raises(ValueError, match=r"adapter.method=eva starts from data"):
        PeftBank(folder, QUANTS["none"], CPU).add_member("a", config("eva"), seed=0)
    bank = make_peft_bank(folder, "none")
    bank.add_member("a", config("dora"), seed=0)
    with pytest.raises(ValueError, match="holds one"):
        bank.add_member("b", config("dora"), seed=0)
    with pytest.raises(ValueError, match=r"not .*None"):
        losses(bank, None)
    bank.save_member("a", tmp_path, "tiny", "main")
    other = make_checkpoint(tmp_path / "other", seed=1)  # twice as wide
    with pytest.raises(ValueError, match="made for tiny"):
        PeftBank(other, QUANTS["none"], CPU).load_member("a", tmp_path)
    with pytest.raises(ValueError, match=r"no adapter_config\.json; expected a folder"):
        PeftBank(folder, QUANTS["none"], CPU).load_member("a", tmp_path / "nothing")


SHAPE = ShapeConfig(hidden_size=576, intermediate_size=1536, num_heads=9, num_kv_heads=3)


@pytest.mark.parametrize(
    ("method", "quant", "kind", "rank", "problem"),
    [
        ("lora", "nf4", "causal", 64, None),
        ("dora", "int8", "causal", 64, None),
        ("pissa", "nf4", "causal", 192, None),
        ("pissa", "nf4", "causal", 193, "adapter.lora_r=192 or less"),
        ("lora_ga", "none", "causal", 97, "adapter.lora_r=96 or less"),
        ("loftq", "none", "causal", 8, "adapter.method=loftq with quant.method=none"),
        ("loftq", "nf4", "seq2seq", 8, None),
        ("full", "nf4", "causal", 8, "adapter.method=full with quant.method=nf4"),
        ("full", "bf16", "seq2seq", 8, None),
        ("eva", "nf4", "seq2seq", 8, "adapter.method=eva with model.kind=seq2seq"),
    ],
)
def test_method_problem(method: str, quant: str, kind: str, rank: int, problem: str | None) -> None:
    model = ModelConfig(name="m", hub_id="a/b", kind=ModelKind(kind), shape=SHAPE)
    found = method_problem(config(method, lora_r=rank), QUANTS[quant], model)
    assert found is None if problem is None else found is not None and problem in found


def test_targets_by_last_part_and_by_name() -> None:
    names = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    assert resolve_targets(names, ["all-linear"]) == names
    assert resolve_targets(names, ["q_proj"]) == [names[0], names[2]]
    assert resolve_targets(names, [names[1]]) == [names[1]]


class _Listening:
    """Keeps what `calibrate` hands over."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def calibrate(self, items: Sequence[Item]) -> None:
        self.items = list(items)


def test_calibration_examples_follow_the_data_seed() -> None:
    first, second, other, none = (_Listening() for _ in range(4))
    examples = make_examples(count=NUM_CALIBRATION_EXAMPLES + 20)
    calibrate(first, config("eva"), examples, TRAIN)
    calibrate(second, config("corda"), examples, TRAIN)
    calibrate(other, config("lora_ga"), examples, replace(TRAIN, data_seed=7))
    calibrate(none, config("dora"), examples, TRAIN)
    assert len(first.items) == NUM_CALIBRATION_EXAMPLES
    assert not none.items
    same = [np.array_equal(a.tokens, b.tokens) for a, b in zip(first.items, second.items, strict=True)]
    changed = [np.array_equal(a.tokens, b.tokens) for a, b in zip(first.items, other.items, strict=True)]
    assert all(same)
    assert not all(changed)


def test_make_bank_chooses(folder: Path) -> None:
    def chosen(method: str) -> type:
        return type(make_bank(folder, ModelKind.causal, AdapterMethod(method), QUANTS["none"], CPU))

    assert chosen("lora") is chosen("none") is AdapterBank
    assert chosen("dora") is PeftBank
    assert chosen("full") is FullBank

"""LQ-LoRA: every round comes nearer to the weight, the first is LoftQ's, and a bank's start is what was taken apart."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from harness.banks.adapters.layers import quantization_of
from harness.banks.causal import PeftBank
from harness.banks.classifier import ClassifierBank
from harness.banks.seq2seq import Seq2SeqBank
from harness.identity.proof import NotTheMethodError, prove
from harness.methods.formats import format_of
from harness.nn.quant import dequantized
from harness.runs.adapter_files import RESIDUAL_FILE
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from harness.variants.lq_fisher import mean_squared_gradients
from harness.variants.lq_lora import Factors, best_factors, take_apart
from harness.variants.lq_rounding import SimulatedLinear
from tests.tiny import VOCAB_SIZE, make_checkpoint
from tests.unit.harness.banks import test_causal, test_classifier, test_seq2seq
from tests.unit.harness.banks.test_causal import CPU, QUANTS

RANK, SCALE = 4, 2.0


def weight() -> torch.Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(0))


def quantized(taken: Factors) -> torch.Tensor:
    return quantization_of(weight() - SCALE * (taken.b_OR @ taken.a_RI), QUANTS["nf4"], CPU)


def test_rounds_come_nearer_and_the_first_is_loftqs() -> None:
    parts = [take_apart(weight(), RANK, SCALE, quantized, rounds) for rounds in (1, 2, 5, 50)]
    errors = [part.error for part in parts]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.99 * errors[0]
    loftq = best_factors(weight() - quantized(Factors(torch.zeros(RANK, 96), torch.zeros(64, RANK))), RANK, SCALE)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(parts[0].learned, loftq, strict=True))
    assert not any(factor.any() for factor in parts[0].taken)
    own = weight() - quantized(parts[3].taken) - SCALE * (parts[3].learned.b_OR @ parts[3].learned.a_RI)
    assert float(own.norm()) == pytest.approx(parts[3].error, rel=1e-5)


def test_it_ends_before_the_error_grows() -> None:
    """Quantization that is worse each time: the second round is not taken."""
    noise = iter((0.1, 10.0, 0.0))
    parts = take_apart(weight(), RANK, SCALE, lambda _: weight() + next(noise) * weight().flip(0), 3)
    assert not any(factor.any() for factor in parts.taken)
    assert next(noise) == 0.0


def test_a_bank_starts_nearer_to_the_weights_than_loftq(tmp_path: Path) -> None:
    folder, errors = make_checkpoint(tmp_path), dict[str, float]()
    plain = PeftBank(folder, QUANTS["none"], CPU)
    originals = {name: layer.base.weight.detach().clone() for name, layer in plain.layers.items()}
    for method in ("loftq", "lq_lora"):
        bank = PeftBank(folder, QUANTS["nf4"], CPU)
        bank.add_member("a", test_causal.config(method), seed=3)
        factors = {key.removeprefix("base_model.model."): p.detach() for key, p in bank.member_parameters("a").items()}
        squares = 0.0
        for name, layer in bank.layers.items():
            stored = dequantized(layer.base)
            if stored is None:  # the output layer
                continue
            added = 2 * factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
            squares += float((originals[name] - stored - added).square().sum())
        errors[method] = squares
    assert errors["lq_lora"] < 0.99 * errors["loftq"]


BY_DATA: dict[str, dict[str, Any]] = {
    "fisher": {"fisher": True},
    "bits": {"bits": 2.75},
    "bits by fisher": {"bits": 2.75, "fisher": True},
}


@pytest.mark.parametrize(
    ("keys", "quant"),
    [*((BY_DATA[name], "nf4") for name in BY_DATA), (BY_DATA["bits by fisher"], "nf4-bf16")],
    ids=[*BY_DATA, "bf16"],
)
def test_what_is_saved_is_what_was_trained_and_a_start_is_the_same_again(
    tmp_path: Path, keys: dict[str, Any], quant: str
) -> None:
    folder = make_checkpoint(tmp_path / "model")
    bank = test_causal.make_peft_bank(folder, quant)
    bank.add_member("a", test_causal.config("lq_lora", **keys), seed=3)
    bank.eval()
    started = test_causal.losses(bank)
    test_causal.move(bank)
    trained = test_causal.losses(bank)
    assert float((trained - started).abs().max()) > 0.05
    bank.save_member("a", tmp_path / "adapter", "tiny", "main")
    again = PeftBank(folder, QUANTS[quant], CPU)
    again.load_member("a", tmp_path / "adapter")
    assert torch.equal(test_causal.losses(again), trained)
    assert again.storage("a") == bank.storage("a")
    assert again.quantized_share == bank.quantized_share > 0.3
    twin = test_causal.make_peft_bank(folder, quant)
    twin.add_member("a", test_causal.config("lq_lora", **keys), seed=3)
    assert torch.equal(test_causal.losses(twin.eval()), started)  # as a resumed run begins


def test_a_budget_is_kept_and_layers_without_an_adapter_stay_as_quant_says(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    bank = PeftBank(folder, QUANTS["nf4"], CPU)
    bank.add_member("a", test_causal.config("lq_lora", bits=3.0, targets=["q_proj", "down_proj"]), seed=3)
    storage = bank.storage("a")
    assert storage is not None
    assert 2.9 < storage["bits"] <= 3.0
    assert sum(storage["layers"].values()) == 4  # of two blocks
    assert storage["num_weights"] == 2 * (32 * 32 + 32 * 64)
    for name, layer in bank.layers.items():
        adapted = name.endswith(("q_proj", "down_proj"))
        assert isinstance(layer.base, SimulatedLinear) is adapted, name
        if adapted:
            kind = format_of(bank._started.formats[name])  # type: ignore[union-attr]
            assert len(layer.base.weight[0, : kind.block_size].unique()) <= 2**kind.bits
        else:
            assert name == "lm_head" or dequantized(layer.base) is not None, name
    with pytest.raises(ValueError, match=r"adapter\.bits: .* raise it"):  # a small matrix has an offset of 32 bits
        PeftBank(folder, QUANTS["nf4"], CPU).add_member("a", test_causal.config("lq_lora", bits=2.04), seed=3)


def test_formats_of_other_layers_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    bank = PeftBank(folder, QUANTS["nf4"], CPU)
    bank.add_member("a", test_causal.config("lq_lora", bits=3.0), seed=3)
    bank.save_member("a", tmp_path / "adapter", "tiny", "main")
    about = tmp_path / "adapter" / RESIDUAL_FILE
    saved = json.loads(about.read_text())

    def reading(formats: object) -> None:
        about.write_text(json.dumps(saved | {"formats": formats}))
        PeftBank(folder, QUANTS["nf4"], CPU).load_member("a", tmp_path / "adapter")

    whole = saved["formats"]
    reading(whole)
    name = next(iter(whole))
    for formats, message in (
        ({key: kind for key, kind in whole.items() if key != name}, f"no format, or no adapter, for {name}"),
        (whole | {"model.nowhere": whole[name]}, "no format, or no adapter, for model.nowhere"),
        (whole | {name: "nf5"}, rf"{RESIDUAL_FILE}: nf5: no format of LQ-LoRA's"),
        ([name], "its formats aren't names by layer"),
    ):
        with pytest.raises(ValueError, match=message):
            reading(formats)


def test_data_keeps_the_weights_that_count_nearer(tmp_path: Path) -> None:
    """By the Fisher information of the examples, a start with them is nearer to the weights than one without."""
    folder, errors = make_checkpoint(tmp_path), dict[bool, float]()
    plain = test_causal.make_peft_bank(folder, "none")
    weights = {name: layer.base.weight for name, layer in plain.layers.items() if name != "lm_head"}
    examples = plain.calibration()
    assert examples is not None
    fisher = mean_squared_gradients(plain.base, weights, examples.losses(plain.base))  # type: ignore[arg-type]
    for with_data in (False, True):
        bank = test_causal.make_peft_bank(folder, "nf4")
        bank.add_member("a", test_causal.config("lq_lora", bits=2.75, fisher=with_data), seed=3)
        factors = {key.removeprefix("base_model.model."): p.detach() for key, p in bank.member_parameters("a").items()}
        errors[with_data] = 0.0
        for name, weight in weights.items():
            added = 2 * factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
            left = weight.detach() - bank.layers[name].base.weight.detach() - added
            errors[with_data] += float((fisher[name] * left.square()).sum())
    assert errors[True] < 0.8 * errors[False]


@pytest.mark.parametrize("method", ["lq_lora", "corda"])
def test_a_resumed_run_goes_on_from_the_start_that_it_had(tmp_path: Path, method: str) -> None:
    """On the very base: when it goes on, the examples' sums are rounded otherwise, as on another machine."""
    folder, keys = make_checkpoint(tmp_path / "model"), BY_DATA["bits by fisher"] if method == "lq_lora" else {}

    def member(name: str) -> tuple[Member, list[StepMetrics]]:
        made, log = test_causal.make_member("a", tmp_path / name, method)
        made.adapter = test_causal.config(method, dropout=0.2, **keys)
        return made, log

    banks = [test_causal.make_peft_bank(folder, "nf4") for _ in range(3)]
    train_group(banks[0], [member("straight")[0]])
    stopped, log = member("stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(banks[1], [stopped], should_stop=lambda: len(log) >= 3)
    second, later = member("stopped")
    banks[2].calibrate(test_causal.make_items()[:3])
    train_group(banks[2], [second])
    assert [metrics.step for metrics in later] == [4]
    assert banks[0].storage("a") == banks[2].storage("a")
    assert torch.equal(test_causal.losses(banks[0]), test_causal.losses(banks[2]))
    for place, bank in (("first", banks[0]), ("second", banks[2])):
        bank.save_member("a", tmp_path / place, "tiny", "main")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert RESIDUAL_FILE in files
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert banks[2].configs["a"] == second.adapter


@pytest.mark.parametrize("is_training", [False, True])
def test_what_is_started_again_is_in_the_banks_mode(tmp_path: Path, is_training: bool) -> None:
    folder, config = make_checkpoint(tmp_path / "model"), test_causal.config("pissa", dropout=0.2)
    first, again = (PeftBank(folder, QUANTS["nf4"], CPU).train(is_training) for _ in range(2))
    first.add_member("a", config, seed=3)
    first.save_member("a", tmp_path / "start", "", "")
    again.add_again("a", config, 3, tmp_path / "start")

    def modes(bank: PeftBank) -> dict[str, bool]:
        return {name: module.training for name, module in bank.named_modules()}

    assert set(modes(first).values()) == {is_training}
    assert modes(first) == modes(again)
    assert torch.equal(test_causal.losses(first), test_causal.losses(again))


@pytest.mark.parametrize(("kind", "quant"), [("t5", "nf4-bf16"), ("roberta", "nf4"), ("bloom", "nf4")])
def test_other_models_have_formats_too(tmp_path: Path, kind: str, quant: str) -> None:
    folder = MAKE[kind](tmp_path / "model")
    banks = {"t5": Seq2SeqBank, "roberta": ClassifierBank, "bloom": PeftBank}

    def bank() -> Any:
        more = {"num_labels": test_classifier.NUM_LABELS} if kind == "roberta" else {}
        return banks[kind](folder, QUANTS[quant], CPU, **more)

    items = {"t5": test_seq2seq, "roberta": test_classifier, "bloom": test_causal}[kind].make_items()
    trained, again = bank(), bank()
    trained.calibrate(items)
    trained.add_member("a", test_causal.config("lq_lora", bits=3.2, fisher=kind == "bloom"), seed=3)
    trained.eval()
    test_causal.move(trained)
    trained.save_member("a", tmp_path / "adapter", "tiny", "main")
    again.load_member("a", tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again.item_losses(items), trained.item_losses(items))
    assert again.storage("a") == trained.storage("a")
    assert again.storage("a")["bits"] <= 3.2


@pytest.mark.parametrize("method", ["pissa", "loftq", "lq_lora"])
def test_weights_that_lie_transposed_are_refused(tmp_path: Path, method: str) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"adapter\.method={method}: .*c_attn holds its weight transposed"):
        PeftBank(tmp_path, QUANTS["nf4"], CPU).add_member("a", test_causal.config(method), seed=3)


def test_a_run_proves_its_bits(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    bank = test_causal.make_peft_bank(folder, "nf4")
    config = test_causal.config("lq_lora", bits=3.0, fisher=True)
    bank.add_member("a", config, seed=3)
    proof = prove(bank, "a", config)
    assert proof.method == "lq_lora_fisher_3_bits"
    assert proof.checks["parameters"] == proof.checks["saved"] == "passed"
    assert proof.checks["bits"].startswith("passed: 2.9") or proof.checks["bits"].startswith("passed: 3.000")
    with pytest.raises(NotTheMethodError, match=r"identity, bits: .* bits a weight, adapter\.bits=2\.5"):
        prove(bank, "a", replace(config, bits=2.5))
    impostor = test_causal.make_peft_bank(folder, "nf4")
    impostor.add_member("a", replace(config, bits=None), seed=3)
    with pytest.raises(NotTheMethodError, match=r"identity, bits: .* 0 of 14 adapted layers are in a format"):
        prove(impostor, "a", config)


def bloom(folder: Path) -> Path:
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(folder)
    return folder


MAKE: dict[str, Callable[[Path], Path]] = {
    "t5": lambda folder: test_seq2seq.make_t5(folder, scaled=False),
    "roberta": test_classifier.make_roberta,
    "bloom": bloom,
}

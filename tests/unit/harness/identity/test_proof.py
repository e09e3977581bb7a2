"""A method is what it says, or it is refused by the name of the check: also PEFT's own impostors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.hira.bnb import Linear4bit as HiraLinear4bit

from harness.banks.causal import PeftBank
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.identity import kept
from harness.identity.proof import NotTheMethodError, Proof, prove
from harness.methods.table import METHODS
from harness.training.loop import train_group
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint
from tests.tiny_encoders import make_t5
from tests.unit.harness.banks import test_causal, test_peft_methods
from tests.unit.harness.banks.test_causal import CPU, QUANTS, make_items
from tests.unit.harness.training.test_loop import make_bank
from tests.unit.harness.variants import test_own_steps

OF_LORA = [
    "corda_kpm",
    "lq_lora",
    "lora",
    "rslora",
    "dora",
    "pissa",
    "olora",
    "corda",
    "eva",
    "loftq",
    "lora_ga",
    "lora_fa",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def of_lora(name: str) -> AdapterConfig:
    keeps = name == "corda_kpm"
    return test_causal.config("corda", corda_keep="embedded") if keeps else test_causal.config(name)


def proof_of(folder: Path, config: AdapterConfig, quant: str = "nf4") -> tuple[Proof, Any]:
    bank: Any = PeftBank(folder, QUANTS[quant], CPU)
    bank.calibrate(make_items())
    bank.add_member("a", config, seed=3)
    return prove(bank, "a", config), bank


def test_the_table_claims_what_is_tested() -> None:
    steps = {name for name, row in METHODS.items() if "steps" in row.verified}
    assert steps == set(test_peft_methods.FIELDS) | set(test_own_steps.OWN) | {"qst"}  # test_qst.py
    assert {name for name, row in METHODS.items() if "proof" in row.verified} == steps | set(OF_LORA)


@pytest.mark.parametrize("name", [*OF_LORA, *test_peft_methods.FIELDS])
def test_a_method_is_what_it_says(folder: Path, name: str) -> None:
    config = of_lora(name) if name in OF_LORA else test_peft_methods.config(name)
    proof, _ = proof_of(folder, config)
    assert set(proof.checks) == {"parameters", "start", "learns", "differs from LoRA", "frozen", "saved"}
    assert all(result.startswith(("passed", "not made")) for result in proof.checks.values())
    assert proof.checks["parameters"] == ("passed" if METHODS[name].count else "not made: no formula")
    for check in ("learns", "frozen", "saved"):
        assert proof.checks[check] == "passed"


@pytest.mark.parametrize(
    ("name", "quant"),
    [("allora", "nf4"), ("allora", "none"), ("hft", "none"), ("hft", "bf16"), ("lora", "nf4"), ("s2ft", "nf4-bf16")],
)
def test_and_so_is_one_of_our_own(folder: Path, name: str, quant: str) -> None:
    """On its own bank: LoRA's layers in a shared one are held against s B A x, too."""
    config = test_causal.config("lora") if name == "lora" else test_own_steps.config(name)
    bank = test_own_steps.own_bank(folder, name, quant)
    bank.add_member("a", config, seed=3)
    checks = prove(bank, "a", config).checks
    assert [checks[name] for name in ("parameters", "start", "learns", "frozen", "saved")] == ["passed"] * 5
    assert checks["differs from LoRA"].startswith("passed")


def test_a_small_scale_is_not_lost_in_16_bits(folder: Path) -> None:
    """Of 1 / 512: s B A x beside W x, rounded to 8 bits."""
    bank, config = (
        test_own_steps.own_bank(folder, "lora", "nf4-bf16"),
        test_causal.config("lora", lora_r=512, lora_alpha=1),
    )
    bank.add_member("a", config, seed=3)
    assert prove(bank, "a", config).checks["differs from LoRA"] == "passed: LoRA itself, of the scale alpha / r"


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"lora_alpha": 8}, "differs from LoRA.*compute no B A x"),
        ({"allora_eta": None}, "differs from LoRA.*B's gradient isn't"),
        ({"lora_r": 8}, "parameters"),
    ],
)
def test_an_impostor_in_a_shared_bank_is_refused(folder: Path, changes: dict[str, Any], check: str) -> None:
    config = test_own_steps.config("allora")
    bank = test_own_steps.own_bank(folder, "allora", "nf4")
    bank.add_member("a", replace(config, **changes), seed=3)
    if "lora_r" in changes:
        key = next(iter(bank.member_parameters("a")))
        layer = bank.layers[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
        layer.lora_a["a"] = torch.nn.Parameter(torch.zeros(9, layer.lora_a["a"].shape[1]))
    with pytest.raises(NotTheMethodError, match=f"identity, {check}"):
        prove(bank, "a", config)


@pytest.mark.parametrize("variant", ["use_qalora", "kasa_config", "monteclora_config"])
def test_what_trains_plain_lora_under_another_name_is_refused(folder: Path, variant: str) -> None:
    value: Any = True if variant == "use_qalora" else {}
    config = AdapterConfig(
        name="peft", method=AdapterMethod.peft, peft_type="LORA", lora_r=4, lora_alpha=8, peft={variant: value}
    )
    with pytest.raises(NotTheMethodError, match=r"identity, differs from LoRA: adapter=lora\+.*plain LoRA"):
        proof_of(folder, config)


def test_a_planted_impostor_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HiRA whose layers compute B A x instead of (W * B A) x."""

    def as_lora(layer: Any, x: torch.Tensor) -> torch.Tensor:
        low_rank = x @ layer.hira_A["default"].T @ layer.hira_B["default"].T
        base = layer.base_layer(x)
        return base if layer.disable_adapters else base + low_rank

    monkeypatch.setattr(HiraLinear4bit, "forward", as_lora)
    with pytest.raises(NotTheMethodError, match="identity, differs from LoRA: adapter=hira"):
        proof_of(folder, test_peft_methods.config("hira"))


def test_what_trains_nothing_is_refused(folder: Path) -> None:
    """PEFT's Uni-LoRA on 4 bits reaches no layer."""
    config = AdapterConfig(name="peft", method=AdapterMethod.peft, peft_type="UNILORA", lora_r=4)
    with pytest.raises(NotTheMethodError, match="identity, learns: adapter=unilora"):
        proof_of(folder, config)


@pytest.mark.parametrize("name", ["dora", "lora_fa", "ia3", "adalora"])
def test_and_so_it_is_in_16_bits(folder: Path, name: str) -> None:
    """PEFT trains AdaLoRA's divisor there, and IA3's 4-bit layers hand float32 on."""
    config = test_causal.config(name) if name in OF_LORA else test_peft_methods.config(name)
    proof, _ = proof_of(folder, config, "nf4-bf16")
    assert all(result.startswith(("passed", "not made")) for result in proof.checks.values())


def test_and_so_it_is_in_a_t5(tmp_path: Path) -> None:
    """Its `wo` has packed bytes that are stored as floats."""
    config = test_causal.config("pissa")
    bank = Seq2SeqBank(make_t5(tmp_path), QUANTS["nf4"], CPU)
    bank.add_member("a", config, seed=3)
    assert prove(bank, "a", config).checks["frozen"] == "passed"


def test_a_bank_is_left_as_it_was(folder: Path) -> None:
    bank, config = PeftBank(folder, QUANTS["nf4"], CPU), test_peft_methods.config("hira")
    bank.add_member("a", config, seed=3)
    before = {key: value.detach().clone() for key, value in bank.member_parameters("a").items()}
    bank.train()
    prove(bank, "a", config)
    after = bank.member_parameters("a")
    assert bank.training
    assert all(torch.equal(before[key], after[key]) and after[key].grad is None for key in before)


def test_a_method_is_proved_once_on_a_base_and_counted_for_every_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, proofs = make_bank(folder), list[str]()
    monkeypatch.setattr(kept, "prove", lambda *given: proofs.append(given[1]) or prove(*given))
    numbers = []
    for name, rank in (("a", 4), ("b", 8)):
        config = test_causal.config("lora", lora_r=rank)
        bank.add_member(name, config, seed=1)
        numbers.append(kept.proved(bank, name, config, "weights", tmp_path).num_trained)
    assert proofs == ["a"]
    assert numbers[1] == 2 * numbers[0]
    first = kept.proved(bank, "a", test_causal.config("lora", lora_r=4), "weights", tmp_path)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(kept, "_KEPT", {})  # as in another process
    assert kept.proved(bank, "a", test_causal.config("lora", lora_r=4), "weights", tmp_path) == first
    assert proofs == ["a"]
    monkeypatch.setattr(kept, "_KEPT", {})
    file.write_text(file.read_text()[:50])
    assert kept.proved(bank, "a", test_causal.config("lora", lora_r=4), "weights", tmp_path) == first
    assert proofs == ["a", "a"]
    kept.proved(bank, "a", test_causal.config("lora", lora_r=4), "other weights", tmp_path)
    assert proofs == ["a", "a", "a"]


def test_a_failed_proof_is_kept_by_its_process_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, config = make_bank(folder), test_causal.config("lora", lora_r=4)
    bank.add_member("a", config, seed=1)

    def fails(*given: Any) -> Any:
        raise NotTheMethodError("identity, learns: no")

    real = kept.prove
    monkeypatch.setattr(kept, "_KEPT", {})
    monkeypatch.setattr(kept, "prove", fails)
    for _ in range(2):
        with pytest.raises(NotTheMethodError, match="identity, learns: no"):
            kept.proved(bank, "a", config, "weights", tmp_path)
        monkeypatch.setattr(kept, "prove", real)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(kept, "_KEPT", {})
    assert kept.proved(bank, "a", config, "weights", tmp_path).checks["learns"] == "passed"


def test_a_run_is_the_same_with_and_without_its_proof(folder: Path, tmp_path: Path) -> None:
    plain, proved = make_bank(folder), make_bank(folder)
    train_group(plain, [make_member("a", tmp_path / "plain", max_steps=3)[0]])
    member, _ = make_member("a", tmp_path / "proved", max_steps=3)
    member.on_added = lambda: (prove(proved, "a", member.adapter), None)[1]
    train_group(proved, [member])
    own, other = weights(plain, "a"), weights(proved, "a")
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_a_member_that_fails_its_proof_fails_alone(folder: Path, tmp_path: Path) -> None:
    def refuse() -> None:
        raise NotTheMethodError("identity, learns: no")

    bad, good = make_member("a", tmp_path, max_steps=2)[0], make_member("b", tmp_path, max_steps=2)[0]
    bad.on_added = refuse
    train_group(make_bank(folder), [bad, good])
    assert (bad.error, bad.step, good.error, good.step) == ("identity, learns: no", 0, None, 2)

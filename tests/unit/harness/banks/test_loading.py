"""Adapters that plain PEFT saved: served to the logits that PEFT computes, or refused by the name of what isn't."""

import json
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, MixtralConfig, MixtralForCausalLM

from eval.scoring.model_key import model_sha256
from eval.systems import Target, each_base
from harness.banks.causal import PeftBank
from harness.banks.classifier import ClassifierBank
from harness.banks.load import LoadedBase, make_bank
from harness.banks.shared import AdapterBank
from harness.config.choices import quant_choice
from harness.config.schema import AdapterConfig, AdapterMethod, DType, ModelKind, QuantConfig, QuantMethod
from harness.devices.torch_device import resolved_quant
from harness.export.merge import round_to_quantized
from harness.nn.batch import Item, Segment
from harness.runs.adapter_files import bank_method
from tests.builders import PLAIN
from tests.families import FAMILIES, draw_weights
from tests.tiny import VOCAB_SIZE, make_checkpoint, make_tokenizer

CPU = torch.device("cpu")
TOKENS = torch.tensor([[1, 17, 42, 99, 7, 250, 3]])
ATTENTION = ["q_proj", "v_proj"]
LAYER_0_Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


def save_peft(base: Path, folder: Path, vocabulary: int | None = None, **fields: Any) -> Path:
    """An adapter by PEFT alone, every tensor that it trains moved a little."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary)
    values = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **fields}
    adapted = get_peft_model(model, LoraConfig(**values))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if vocabulary is not None:
            model.get_input_embeddings().weight[VOCAB_SIZE:].normal_()
    adapted.save_pretrained(folder)
    return folder


@torch.no_grad()
def peft_logits(base: Path, adapter: Path, vocabulary: int | None = None, tokens: Tensor = TOKENS) -> Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary)
    logits: Tensor = PeftModel.from_pretrained(model, str(adapter)).eval()(tokens).logits[0]
    return logits


def served(base: Path, *adapters: Path, quant: str = "fp32") -> list[tuple[LoadedBase, dict[str, str | None]]]:
    """By the road of `python -m eval ... --model --adapter`."""
    target = Target(model=str(base), adapters=adapters, quant=quant, run_ids=(), sweep=None, runs=None)
    return list(each_base(target))


@torch.no_grad()
def our_logits(found: LoadedBase, member: str | None, tokens: Tensor = TOKENS) -> Tensor:
    bank = found.bank
    hidden = bank(tokens, [Segment(num_tokens=tokens.shape[1], member=member)])
    return bank.logits(hidden[0])


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "a pattern of layers": {"target_modules": r".*\.layers\.1\..*\.(q_proj|down_proj)"},
    "excluded": {"target_modules": ["q_proj", "up_proj"], "exclude_modules": [LAYER_0_Q]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "all"},
    "bias of lora": {"bias": "lora_only"},
    "ranks": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}},
    "alphas": {"alpha_pattern": {"v_proj": 32}},
    "ranks, rslora": {"rank_pattern": {"q_proj": 2}, "use_rslora": True},
    "layer 0": {"layers_to_transform": 0},
    "layers, their pattern": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "output layer": {"target_modules": [*ATTENTION, "lm_head"]},
    "embeddings": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "embeddings, dora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True},
    "saved modules": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "a saved layer": {"modules_to_save": ["down_proj"]},
    "tokens": {"trainable_token_indices": [17, 42]},
    "tokens of the output": {"trainable_token_indices": {"embed_tokens": [7], "lm_head": [9]}},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}
BY_OURS = ("plain", "rslora", "a pattern of layers", "excluded", "gaussian")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_computes_what_peft_computes(base: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_peft(base, tmp_path / "adapter-of-others", **KINDS[kind])
    ((found, members),) = served(base, adapter)
    ((name, member),) = members.items()
    assert name == "adapter-of-others"
    assert isinstance(found.bank, AdapterBank if kind in BY_OURS else PeftBank)
    wanted = peft_logits(base, adapter)
    torch.testing.assert_close(our_logits(found, member), wanted, rtol=1e-5, atol=1e-5)
    item = Item(member=member, tokens=TOKENS[0].numpy(), num_source=3, dropout_key=0, weight=1.0)
    losses = torch.nn.functional.cross_entropy(wanted[2:-1], TOKENS[0, 3:], reduction="none")
    torch.testing.assert_close(found.bank.item_losses([item]).detach(), losses, rtol=1e-4, atol=1e-5)


def test_a_resized_vocabulary_and_its_tokenizer(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(base, tmp_path / "a", vocabulary=VOCAB_SIZE + 5)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokens = torch.tensor([[1, VOCAB_SIZE + 2, 17, VOCAB_SIZE]])
    ((found, members),) = served(base, adapter)
    logits = our_logits(found, *members.values(), tokens)
    assert logits.shape == (4, VOCAB_SIZE + 5)
    torch.testing.assert_close(logits, peft_logits(base, adapter, VOCAB_SIZE + 5, tokens), rtol=1e-5, atol=1e-5)
    parts = {name.rsplit(".", 2)[-2] for name in found.bank.member_parameters(str(members["a"]))}
    assert {"embed_tokens", "lm_head"} <= parts, "they are the adapter's: two with others are two models"
    assert len(found.tokenizer) == len(make_tokenizer())
    tokenizer.save_pretrained(adapter)
    ((found, _),) = served(base, adapter)
    assert found.tokenizer.encode("<think>", add_special_tokens=False) == [len(tokenizer) - 1]


def test_adapted_embeddings_need_no_copy_of_the_bases_own(base: Path, tmp_path: Path) -> None:
    """Which PEFT writes unless it is told not to."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    ((found, members),) = served(base, tmp_path / "a")
    torch.testing.assert_close(our_logits(found, *members.values()), peft_logits(base, tmp_path / "a"))


FAMILY_KINDS: dict[str, dict[str, Any]] = {  # what differs from Llama: Conv1D, ties, biases, rows that are padded
    "gpt2": {"target_modules": ["c_attn", "lm_head"], "fan_in_fan_out": True, "bias": "all"},
    "phi": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "gemma2": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "granite": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5], "lm_head": [7]}},
    "bloom": {"target_modules": ["query_key_value"], "lora_bias": True, "layers_to_transform": [1]},
    "opt": {"target_modules": ["q_proj", "embed_tokens"], "alpha_pattern": {"q_proj": 32}},
}


@pytest.mark.parametrize("family", FAMILY_KINDS)
def test_each_family_computes_what_peft_computes(tmp_path: Path, family: str) -> None:
    folder = tmp_path / family
    draw_weights(AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]))).save_pretrained(folder)
    adapter = save_peft(folder, tmp_path / "a", **FAMILY_KINDS[family])
    bank: Any = make_bank(folder, ModelKind.causal, bank_method(adapter), PLAIN, CPU)
    bank.load_member("m", adapter)
    tokens = torch.tensor([[17, 42, 99, 7, 50, 3]])
    segments = [Segment(num_tokens=n, member="m") for n in (4, 2)]
    with torch.no_grad():
        ours = bank.eval().logits(bank(tokens, segments)[0])
    wanted = torch.cat([peft_logits(folder, adapter, tokens=part) for part in tokens.split([4, 2], dim=1)])
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_a_resized_vocabulary_whose_embeddings_are_saved_modules(base: Path, tmp_path: Path) -> None:
    """As people add tokens: PEFT then writes the embeddings under three names."""
    size = VOCAB_SIZE + 5
    adapter = save_peft(base, tmp_path / "a", vocabulary=size, modules_to_save=["embed_tokens", "lm_head"])
    ((found, members),) = served(base, adapter)
    (member,) = members.values()
    tokens = torch.tensor([[1, 17, VOCAB_SIZE + 2, 7]])
    torch.testing.assert_close(our_logits(found, member, tokens), peft_logits(base, adapter, size, tokens))


def test_a_pickle_of_weights_is_read_and_a_pickle_of_code_is_not(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(base, tmp_path / "a")
    wanted = peft_logits(base, adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    ((found, members),) = served(base, adapter)
    torch.testing.assert_close(our_logits(found, *members.values()), wanted, rtol=1e-5, atol=1e-5)
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(ValueError, match=r"adapter_model\.bin: can't be read as weights only"):
        served(base, adapter)


def test_experts_of_a_mixture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=VOCAB_SIZE, num_hidden_layers=1, num_local_experts=2, **shape)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    adapter = save_peft(tmp_path / "base", tmp_path / "a", target_parameters=["experts.gate_up_proj"])
    ((found, members),) = served(tmp_path / "base", adapter)
    wanted = peft_logits(tmp_path / "base", adapter)
    torch.testing.assert_close(our_logits(found, *members.values()), wanted, rtol=1e-5, atol=1e-5)


def test_a_classifier_of_others_with_its_head(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = {"num_labels": 3, "pad_token_id": 0}
    start: Any = AutoModelForSequenceClassification.from_pretrained(base, **labels)
    config = LoraConfig(r=4, target_modules=ATTENTION, task_type="SEQ_CLS", init_lora_weights=False)
    get_peft_model(start, config).save_pretrained(tmp_path / "a")
    plain: Any = AutoModelForSequenceClassification.from_pretrained(base, **labels)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(plain, str(tmp_path / "a")).eval()(TOKENS).logits[0]
        bank = ClassifierBank(base, QuantConfig(name="q", method=QuantMethod.none, compute_dtype=DType.float32), CPU)
        bank.load_member("a", tmp_path / "a")
        item = Item(member="a", tokens=TOKENS[0].numpy(), num_source=7, dropout_key=0, weight=1.0, label=0)
        torch.testing.assert_close(bank.label_logits([item])[0], wanted, rtol=1e-5, atol=1e-5)
    bank.remove_member("a")
    bank.num_labels = 2
    change(tmp_path / "a", modules_to_save=None, use_qalora=True)
    with pytest.raises(ValueError, match="use_qalora"):
        bank.load_member("a", tmp_path / "a")
    assert (bank.num_labels, bank.configs) == (2, {})
    change(tmp_path / "a", use_qalora=False)
    with pytest.raises(ValueError, match="task_type=SEQ_CLS"):
        served(base, tmp_path / "a")


def test_saved_modules_on_a_quantized_base(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(base, tmp_path / "a", modules_to_save=["down_proj"], target_modules=["q_proj"])
    ((found, members),) = served(base, adapter, quant="nf4")
    rounded: Any = AutoModelForCausalLM.from_pretrained(base)
    round_to_quantized(rounded, QuantConfig(name="nf4", compute_dtype=DType.float32))
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(rounded, str(adapter)).eval()(TOKENS).logits[0]
    torch.testing.assert_close(our_logits(found, *members.values()), wanted, rtol=1e-4, atol=1e-4)
    kinds = {name.rsplit(".", 1)[-1]: type(layer.base).__name__ for name, layer in found.bank.layers.items()}
    assert kinds["q_proj"] == "Linear4bit"


def test_a_start_from_the_weights_comes_out_of_them_before_they_are_quantized(base: Path, tmp_path: Path) -> None:
    """Somebody else's PiSSA adapter on NF4: what is quantized is what its first factors leave."""
    adapter = save_peft(base, tmp_path / "a", init_lora_weights="pissa", target_modules=["q_proj"])
    ((found, members),) = served(base, adapter, quant="nf4")
    wanted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    round_to_quantized(wanted.get_base_model(), QuantConfig(name="nf4", compute_dtype=DType.float32))
    with torch.no_grad():
        torch.testing.assert_close(our_logits(found, *members.values()), wanted(TOKENS).logits[0], rtol=1e-4, atol=1e-4)
    assert found.bank.quantized_share > 0.4, "all of its layers, beside two tables"


def test_several_are_served_one_after_another(base: Path, tmp_path: Path) -> None:
    folders = [
        save_peft(base, tmp_path / "saved", modules_to_save=["lm_head"]),
        save_peft(base, tmp_path / "plain"),
        save_peft(base, tmp_path / "dora", use_dora=True),
        save_peft(base, tmp_path / "also-plain", lora_alpha=3),
        save_peft(base, tmp_path / "alpha", alpha_pattern={"v_proj": 32}),
    ]
    keys: dict[str, str] = {}
    target = Target(model=str(base), adapters=tuple(folders), quant="fp32", run_ids=(), sweep=None, runs=None)
    for found, members in each_base(target):
        for name, member in members.items():
            torch.testing.assert_close(
                our_logits(found, member), peft_logits(base, tmp_path / name), rtol=1e-5, atol=1e-5
            )
            keys[name] = model_sha256(found, member)
    assert list(keys) == ["saved", "dora", "alpha", "plain", "also-plain"]
    assert len(set(keys.values())) == 5


@pytest.mark.parametrize(
    ("method", "quant"), [("rslora", "nf4"), ("dora", "nf4"), ("pissa", "nf4"), ("olora", "fp32"), ("full", "fp32")]
)
def test_our_own_runs_are_read_by_the_same_road(base: Path, tmp_path: Path, method: str, quant: str) -> None:
    chosen = resolved_quant(quant_choice(quant), torch.device("cpu"))
    bank = make_bank(base, ModelKind.causal, AdapterMethod(method), chosen, torch.device("cpu"))
    bank.add_member("a", AdapterConfig(name=method, method=AdapterMethod(method), lora_r=4, lora_alpha=8), seed=1)
    with torch.no_grad():
        for parameter in bank.member_parameters("a").values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
        bank.eval()
        hidden = bank(TOKENS, [Segment(num_tokens=TOKENS.shape[1], member="a")])
        trained = bank.logits(hidden[0])
    bank.save_member("a", tmp_path / "run" / "adapter", "tiny", "main")
    ((found, members),) = served(base, tmp_path / "run" / "adapter", quant=quant)
    assert list(members) == ["run"]
    assert torch.equal(our_logits(found, members["run"]), trained)


def test_the_key_of_a_model_knows_the_fields_that_change_its_result(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(base, tmp_path / "a", alpha_pattern={"v_proj": 32})
    ((found, _),) = served(base, adapter)
    before = model_sha256(found, "adapter")
    change(adapter, alpha_pattern={"v_proj": 16})
    ((found, _),) = served(base, adapter)
    assert model_sha256(found, "adapter") != before


def change(adapter: Path, **fields: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(adapter: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "8"),
        ("r", 0),
        ("r", None),
        ("r", True),
        ("lora_alpha", "16"),
        ("use_rslora", "false"),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", "("),
        ("exclude_modules", "["),
        ("rank_pattern", {"(": 2}),
        ("modules_to_save", "lm_head"),
        ("rank_pattern", {"q_proj": "2"}),
        ("bias", "some"),
        ("peft_type", "LOHA"),
        ("task_type", "SEQ_CLS"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "loftq"),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 1}),
        ("megatron_config", {"a": 1}),
        ("field_of_tomorrow", 0.5),
    ],
)
def test_a_field_that_nothing_here_serves_is_named(base: Path, plain: Path, field: str, value: Any) -> None:
    before = (plain / "adapter_config.json").read_text()
    try:
        change(plain, **{field: value})
        with pytest.raises(ValueError, match=rf"adapter_config\.json: {field}\b") as refused:
            served(base, plain)
        assert "\n" not in str(refused.value)
    finally:
        (plain / "adapter_config.json").write_text(before)


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_peft(base, tmp_path_factory.mktemp("plain"))


def rename(tensors: dict[str, Tensor], old: str, new: str) -> None:
    for key in [key for key in tensors if old in key]:
        tensors[key.replace(old, new)] = tensors.pop(key)


BROKEN: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], Any], str]] = {
    "no LoRA tensors": ({}, lambda t: [t.clear(), t.update(x=torch.ones(1))], r"no LoRA tensors in it, but x"),
    "no tensors": ({}, lambda t: t.clear(), r"no LoRA tensors in it"),
    "another tensor": ({}, lambda t: t.update(extra=torch.ones(1)), r"nothing in it has a use for extra"),
    "a name of PEFT's inside": ({}, lambda t: rename(t, ".weight", ".default.weight"), r"lora_A\.default\.weight"),
    "no prefix": ({}, lambda t: rename(t, "base_model.model.", ""), r"has a use for model\.layers"),
    "half a layer": ({}, lambda t: t.pop(f"base_model.model.{LAYER_0_Q}.lora_B.weight"), r"has no .*lora_B.*beside it"),
    "a layer less": ({}, lambda t: [t.pop(k) for k in list(t) if LAYER_0_Q in k], r"differ in .*layers\.0.*q_proj"),
    "a layer more": (
        {},
        lambda t: t.update({k.replace("v_proj", "k_proj"): v.clone() for k, v in t.items()}),
        r"k_proj",
    ),
    "another rank": ({"r": 2}, lambda t: None, r"r=2 .*factors of \[4, 32\]"),
    "another rank, PEFT": ({"use_dora": True}, lambda t: rename(t, "lora_A", "lora_X"), r"has a use for .*lora_X"),
    "no magnitudes": ({"use_dora": True}, lambda t: None, r"lacks .*lora_magnitude_vector.*adapter_config"),
    "no saved module": ({"modules_to_save": ["lm_head"]}, lambda t: None, r"lacks .*lm_head.weight.*adapter_config"),
    "shapes for PEFT": ({"rank_pattern": {"q_proj": 2}}, lambda t: None, r"q_proj.* has the shape \[4, 32\], here \[2"),
    "half a vocabulary": (
        {},
        lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(VOCAB_SIZE + 1, 32)}),
        r"its vocabulary has 385.* tokens in some of lm_head, model\.embed_tokens",
    ),
    "no such layer": ({"target_modules": ["W_pack"], "use_dora": True}, lambda t: None, r"doesn't fit this base model"),
    "NaN": ({}, lambda t: next(iter(t.values())).view(-1)[3].fill_(torch.nan), r"NaN or infinite numbers in .*lora_A"),
    "infinite, PEFT": (
        {"rank_pattern": {"q_proj": 4}},
        lambda t: t[f"base_model.model.{LAYER_0_Q}.lora_B.weight"].view(-1)[0].fill_(torch.inf),
        r"NaN or infinite numbers in .*q_proj\.lora_B",
    ),
    "a broken pattern": ({"target_modules": "(q_proj", "use_dora": True}, lambda t: None, r"no regular expression"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_has_no_place_or_is_missing_is_named(base: Path, tmp_path: Path, plain: Path, case: str) -> None:
    fields, edit, message = BROKEN[case]
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path, **fields)
    change_tensors(tmp_path, edit)
    with pytest.raises(ValueError, match=message) as refused:
        served(base, tmp_path)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_files_that_are_no_files(base: Path, tmp_path: Path) -> None:
    adapter = save_peft(base, tmp_path / "a")
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    text, data = config.read_text(), weights.read_bytes()
    for broken, message in (("{", "not JSON"), ("[1]", "expected an object, found list")):
        config.write_text(broken)
        with pytest.raises(ValueError, match=rf"adapter_config\.json: {message}"):
            served(base, adapter)
    config.write_text(text)
    for cut in (data[:4], data[:-8], b"\xff" * 100):
        weights.write_bytes(cut)
        with pytest.raises(ValueError, match=r"safetensors: damaged .*; copy it anew"):
            served(base, adapter)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(ValueError, match=r"no file adapter_model\.safetensors or adapter_model\.bin"):
        served(base, adapter)
    with pytest.raises(ValueError, match=r"no adapter_config\.json; expected a folder"):
        served(base, config)


def test_an_adapter_of_another_folder_with_other_weights_is_refused_and_another_name_is_said(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = make_checkpoint(tmp_path / "twin", seed=2)
    adapter = save_peft(twin, tmp_path / "a")
    with pytest.raises(ValueError, match=r"it was made for .*twin \(base_model_name_or_path\), whose weights are not"):
        served(base, adapter)
    assert "note" not in capsys.readouterr().err
    change(adapter, base_model_name_or_path="lab/other-7b", revision="v2")
    served(base, adapter)
    assert "names lab/other-7b, revision v2 for its base; it is scored on" in capsys.readouterr().err

"""Parts of the banks by hand: positions, calibration examples, layers and scales of members, what is saved and told."""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, RobertaConfig

from harness.banks import causal
from harness.banks.adapters.layers import layer_names, quantize_layers, resolve_targets
from harness.banks.adapters.peft import converted, residual, split
from harness.banks.causal import PeftBank, SegmentDropout
from harness.banks.classifier import ClassifierBank, _saved_labels
from harness.banks.load import LoadedBase, calibrate, load_base, make_bank, set_master_weights, set_num_labels
from harness.banks.load import _num_positions as num_positions
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DType,
    MasterWeights,
    ModelKind,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.data.tokens import TokenizedExample
from harness.models.locate import ModelSource
from harness.nn.attention import PACKED
from harness.nn.batch import Item, Segment
from harness.nn.shards import ShardedLayers
from tests.builders import PLAIN
from tests.tiny import make_checkpoint

CPU = torch.device("cpu")
TOKENS = torch.tensor([[1, 17, 42, 99, 7]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bank(folder: Path) -> AdapterBank:
    return AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED))


def config(method: str = "lora", **changes: Any) -> AdapterConfig:
    return AdapterConfig(name=method, method=AdapterMethod(method), **changes)


# Loading.


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=100), 100),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=None), 513),
        (PretrainedConfig(), None),
    ],
)
def test_how_many_tokens_a_models_positions_allow(config: PretrainedConfig, expected: int | None) -> None:
    assert num_positions(config) == expected


def loaded(folder: Path, **arguments: Any) -> LoadedBase:
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=arguments.pop("most", 999))
    return load_base(source, PLAIN, CPU, folder, **arguments)


def test_a_loaded_base(folder: Path) -> None:
    found = loaded(folder)
    assert isinstance(found.bank, AdapterBank)
    assert not found.bank.training
    assert found.bank.layout.is_packed
    assert (found.max_length, found.tokenizer.eos_token) == (999, "</s>")
    assert len(found.fingerprint) == len(found.tokenizer_fingerprint or "") == 64
    assert found.fingerprint != found.tokenizer_fingerprint
    peft = loaded(folder, method=AdapterMethod.dora, most=9999)
    assert isinstance(peft.bank, PeftBank)
    assert peft.max_length == 2048, "the model's own positions"
    assert isinstance(loaded(folder, kind=ModelKind.classifier).bank, ClassifierBank)


def test_a_bank_that_owns_its_base_is_not_sharded(folder: Path) -> None:
    shards: ShardedLayers = SimpleNamespace()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"launch\.shard_base=true with model\.kind=causal, adapter\.method=dora"):
        make_bank(folder, ModelKind.causal, AdapterMethod.dora, PLAIN, CPU, shards)


class Calibrated:
    """A bank that notes what it is given."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.num_labels: int | None = None
        self.master_weights = MasterWeights.float32

    def calibrate(self, items: Sequence[Item]) -> None:
        self.items = list(items)


@pytest.mark.parametrize(("count", "taken"), [(5, 5), (80, 64)])
def test_the_examples_that_a_start_is_computed_from(count: int, taken: int) -> None:
    examples = [TokenizedExample(input_ids=np.full(3, n, np.int32), num_source=n) for n in range(count)]
    bank: Any = Calibrated()
    for method in ("lora", "dora", "pissa", "full"):
        calibrate(bank, config(method), examples, TrainConfig())
        assert bank.items == []
    orders = {}
    for seed in (42, 7):
        calibrate(bank, config("eva"), examples, TrainConfig(data_seed=seed))
        orders[seed] = [item.num_source for item in bank.items]
        assert orders[seed] == np.random.default_rng([seed, 0]).permutation(count)[:taken].tolist()
    assert [item.dropout_key for item in bank.items] == list(range(taken))
    assert {item.weight for item in bank.items} == {1.0}
    assert [int(item.tokens[0]) for item in bank.items] == orders[7]


def test_what_the_next_member_gets() -> None:
    bank: Any = Calibrated()
    set_num_labels(bank, 3)
    assert bank.num_labels == 3
    train = TrainConfig(master_weights=MasterWeights.compute)
    set_master_weights(bank, config("lora"), train)
    assert bank.master_weights is MasterWeights.float32
    set_master_weights(bank, config("full"), train)
    assert bank.master_weights is MasterWeights.compute


# Layers.


def test_heads_and_the_output_layer_are_left_alone(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.add_module("score", nn.Linear(2, 2))
    names = layer_names(model)
    assert len(names) == 14
    assert "lm_head" not in names
    assert "score" not in names
    assert resolve_targets(names, ["all-linear"]) == names
    assert resolve_targets(names, ["v_proj", names[0]]) == [names[0], names[2], names[9]]
    with pytest.raises(
        ValueError, match=r"adapter\.targets=\['a', 'all-linear'\]: no such linear layer; this model has"
    ):
        resolve_targets(names, ["q_proj", "all-linear", "a"])


@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.int8])
def test_the_error_of_quantization_is_kept_where_it_is_asked_for(folder: Path, method: QuantMethod) -> None:
    from peft.utils.integrations import dequantize_module_weight

    quant = QuantConfig(name="q", method=method, compute_dtype=DType.float32)
    model = AutoModelForCausalLM.from_pretrained(folder)
    names = layer_names(model)[:2]
    whole = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    assert quantize_layers(model, names, replace(quant, method=QuantMethod.none), CPU, names) == {}
    errors = quantize_layers(model, names, quant, CPU, names[1:])
    assert list(errors) == names[1:]
    now = dequantize_module_weight(model.get_submodule(names[1])).float()
    assert torch.equal(errors[names[1]], whole[names[1]] - now)
    assert 0 < float(errors[names[1]].abs().max()) < 0.5
    before = model.get_submodule(names[0])
    assert quantize_layers(model, names, quant, CPU, names) == {}, "they are quantized already"
    assert model.get_submodule(names[0]) is before


# Many members over one base.


def test_a_member_starts_as_pefts_and_by_its_own_seed(bank: AdapterBank) -> None:
    bank.add_member("a", config(lora_r=4, targets=["q_proj", "down_proj"]), seed=1)
    bank.add_member("b", config(lora_r=4), seed=1)
    bank.add_member("c", config(lora_r=4), seed=2)
    mine = bank.member_parameters("a")
    assert len(mine) == 8
    assert len(bank.member_parameters("b")) == 28
    for name, parameter in mine.items():
        if ".lora_A." in name:
            bound = math.sqrt(1 / parameter.shape[1])
            assert 0.9 * bound < float(parameter.detach().abs().max()) <= bound
            assert float(parameter.detach().min()) < -0.8 * bound
            assert torch.equal(parameter, bank.member_parameters("b")[name]), "a layer's own, whatever else is adapted"
            assert not torch.equal(parameter, bank.member_parameters("c")[name])
        else:
            assert not parameter.any()
    drawn = [p.flatten()[:8].tolist() for name, p in mine.items() if ".lora_A." in name]
    assert drawn[0] != drawn[2], "layers differ"


def test_members_scales_and_dropout(bank: AdapterBank) -> None:
    bank.add_member("a", config(lora_r=4, lora_alpha=10, lora_dropout=0.25), seed=5)
    bank.add_member("b", config("rslora", lora_r=4, lora_alpha=10), seed=6)
    bank.add_member("base", config("none"), seed=7)
    layer = next(iter(bank.layers.values()))
    assert layer.scale == {"a": 2.5, "b": 5.0}
    assert bank.row.dropout == {"a": (0.25, 5), "b": (0.0, 6)}
    assert bank.member_parameters("base") == {}
    bank.remove_member("a")
    bank.remove_member("base")
    assert (layer.scale, list(layer.lora_a), list(layer.lora_b)) == ({"b": 5.0}, ["b"], ["b"])
    assert (list(bank.configs), list(bank.row.dropout)) == (["b"], ["b"])
    with pytest.raises(ValueError, match=r"adapter\.targets=\['nope'\]: no such linear layer; this model has \['down"):
        bank.add_member("d", config(targets=["q_proj", "nope"]), seed=0)


def test_what_a_bank_saves(bank: AdapterBank, tmp_path: Path) -> None:
    bank.add_member("a", config(lora_r=2, lora_alpha=3, lora_dropout=0.5, targets=["v_proj"]), seed=1)
    digest = bank.save_member("a", tmp_path / "new" / "a", "lab/base", "v2")
    weights = tmp_path / "new" / "a" / "adapter_model.safetensors"
    assert digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert all(torch.equal(value, load_file(weights)[name]) for name, value in bank.member_parameters("a").items())
    with safe_open(weights, "pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers refuses files without it"
    saved = json.loads((weights.parent / "adapter_config.json").read_text())
    assert (saved["target_modules"], saved["r"], saved["lora_alpha"]) == (["v_proj"], 2, 3)
    assert (saved["base_model_name_or_path"], saved["revision"], saved["lora_dropout"]) == ("lab/base", "v2", 0.5)
    bank.load_member("b", weights.parent)
    assert bank.configs["b"] == config(lora_r=2, lora_alpha=3, lora_dropout=0.5)
    assert bank.row.dropout["b"] == (0.5, 0)


def test_a_member_of_a_name_that_was_another_ones_is_itself(bank: AdapterBank) -> None:
    """Nothing of the first one's row serves the second, in evaluation, where rows of one shape share what they cast."""
    bank.eval()

    def hidden(seed: int) -> Tensor:
        bank.add_member("a", config(lora_r=4), seed=seed)
        for parameter in bank.member_parameters("a").values():
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            found: Tensor = bank(TOKENS, [Segment(num_tokens=5, member="a")])
        bank.remove_member("a")
        return found

    first, second, again = hidden(1), hidden(2), hidden(1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)


def test_a_member_that_is_started_anew_is_its_start(bank: AdapterBank) -> None:
    """Over itself, without its removal."""
    bank.eval().add_member("a", config(lora_r=4), seed=1)
    for parameter in bank.member_parameters("a").values():
        parameter.data.fill_(0.1)
    with torch.no_grad():
        moved = bank(TOKENS, [Segment(num_tokens=5, member="a")])
        bank.add_member("a", config(lora_r=4), seed=1)
        anew, base = (bank(TOKENS, [Segment(num_tokens=5, member=who)]) for who in ("a", None))
    assert torch.equal(anew, base), "B is 0"
    assert not torch.allclose(moved, base)


def test_segments_have_to_cover_the_row(bank: AdapterBank, folder: Path) -> None:
    own = PeftBank(folder, PLAIN, CPU)
    for either in (bank, own):
        with pytest.raises(ValueError, match="segments cover 4 tokens, the row has 5"):
            either(TOKENS, [Segment(num_tokens=4, member=None)])
    with pytest.raises(ValueError, match=r"this bank serves the untouched base, not \{'a'\}"):
        own(TOKENS, [Segment(num_tokens=5, member="a")])
    with torch.no_grad():
        ours = own(TOKENS, [Segment(num_tokens=5, member=None)])
        torch.testing.assert_close(ours, bank(TOKENS, [Segment(num_tokens=5, member=None)]))


def test_positions_may_be_given(bank: AdapterBank) -> None:
    segments = [Segment(num_tokens=5, member=None)]
    with torch.no_grad():
        plain = bank(TOKENS, segments)
        assert torch.equal(bank(TOKENS, segments, torch.arange(5)[None]), plain)
        assert not torch.equal(bank(TOKENS, segments, 2 * torch.arange(5)[None]), plain)


# Banks of one member.


def test_dropout_of_a_segment_is_its_examples_in_a_row_and_in_a_batch() -> None:
    segments: list[Segment] = []
    dropout = SegmentDropout(0.5, 3, 1, segments)
    x = torch.ones(1, 9, 40)
    segments[:] = [Segment(num_tokens=n, member="a", dropout_key=key) for n, key in ((4, 1), (5, 2))]
    row = dropout(x)
    assert set(row.unique().tolist()) == {0.0, 2.0}
    batch = dropout(torch.ones(2, 6, 40))
    assert torch.equal(batch[0, :4], row[0, :4])
    assert torch.equal(batch[1, :5], row[0, 4:])
    assert torch.equal(batch[:, 5], torch.full((2, 40), 2.0)), "padding isn't drawn for"
    assert dropout.eval()(x) is x


def test_rows_of_calibration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 tokens: a last row that is shorter than half of the longest is left out."""
    monkeypatch.setattr(causal, "CALIBRATION_TOKENS", 10)
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        causal,
        "_calibrate_row",
        lambda model, layout, row, backward: seen.append((row.input_ids_1N.shape[1], backward)),
    )
    bank = PeftBank(folder, PLAIN, CPU)
    assert bank.calibration() is None
    for last, lengths in ((5, [10, 10, 5]), (4, [10, 10])):
        sizes = [6, 4, 10, last]
        bank.calibrate(
            [
                Item(member="", tokens=np.arange(3, 3 + n, dtype=np.int32), num_source=1, dropout_key=0, weight=1.0)
                for n in sizes
            ]
        )
        run = bank.calibration()
        assert run is not None
        run(nn.Module(), True)
        assert seen == [(length, True) for length in lengths]
        seen.clear()


def test_a_bank_of_one_member_is_read_and_let_go(folder: Path) -> None:
    bank = PeftBank(folder, PLAIN, CPU)
    assert (bank.device, bank.dtype, bank.quantized_share) == (CPU, torch.float32, 0.0)
    state = torch.get_rng_state()
    bank.add_member("a", config("dora", lora_r=2), seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator has no part in it"
    first = bank.model
    names = [name for name in bank.member_parameters("a") if ".lora_A." in name]
    assert len(names) == 14
    assert set(bank.layers) == {*layer_names(AutoModelForCausalLM.from_pretrained(folder)), "lm_head"}
    with pytest.raises(ValueError, match=r"no member b in this bank; it holds \['a'\]"):
        bank.member_parameters("b")
    with pytest.raises(ValueError, match=r"member b: a is in this bank, and it holds one"):
        bank.add_member("b", config("dora", lora_r=2), seed=1)
    bank.remove_member("a")
    assert (bank.configs, bank.serving_fields) == ({}, {})
    assert bank.base is not first
    assert not bank.base.training
    assert not any(parameter.requires_grad for parameter in bank.base.parameters())


@pytest.mark.parametrize("method", ["dora", "eva"])
def test_a_saved_config_is_pefts_own(
    folder: Path, tmp_path: Path, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of what starts an adapter nothing is left: who reads it must not start it anew. Starting shows no bar."""
    bank = PeftBank(folder, PLAIN, CPU)
    tokens = np.arange(3, 60, dtype=np.int32)
    bank.calibrate([Item(member="", tokens=tokens, num_source=1, dropout_key=0, weight=1.0)])
    bank.add_member("a", config(method, lora_r=2, targets=["q_proj"]), seed=1)
    bank.save_member("a", tmp_path / "ours", "lab/base", "v2")
    assert bank._started is not None
    bank._started.model.save_pretrained(tmp_path / "pefts")
    ours, pefts = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "pefts"))
    changed = {"base_model_name_or_path": "lab/base", "revision": "v2", "init_lora_weights": True}
    gone = {"eva_config", "corda_config", "lora_ga_config", "loftq_config"}
    lists = {key: sorted(value) for key, value in pefts.items() if isinstance(value, list)}
    assert ours == {key: value for key, value in (pefts | lists | changed).items() if key not in gone}
    assert ours["inference_mode"] is True
    assert {part.split(":")[0] for part in capfd.readouterr().err.splitlines()} <= {"", "Loading weights"}


def test_a_start_from_gradients_warns_of_no_hook(folder: Path) -> None:
    """torch's warning is of the first layer, whose input has no gradient and needs none."""
    bank = PeftBank(folder, PLAIN, CPU)
    tokens = np.arange(3, 60, dtype=np.int32)
    bank.calibrate([Item(member="", tokens=tokens, num_source=1, dropout_key=0, weight=1.0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Full backward hook")
        bank.add_member("a", config("lora_ga", lora_r=2), seed=1)
    assert any(bool(p.any()) for name, p in bank.member_parameters("a").items() if ".lora_B." in name)


def test_a_trial_leaves_modules_in_the_mode_they_had(folder: Path) -> None:
    bank = PeftBank(folder, PLAIN, CPU)
    modules = list(bank.base.modules())
    modules[3].training = True
    modes = [module.training for module in modules]
    with bank._evaluating():
        assert not any(module.training for module in modules)
        assert not torch.is_grad_enabled()
    assert [module.training for module in modules] == modes


@pytest.mark.parametrize(
    ("ours", "own", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, 2.0019], [1.0, 2.0], None),
        ([1.0, 2.01], [1.0, 2.0], "by 0.005 of its size"),
        ([1.0, float("nan")], [1.0, 2.0], "by nan of its size"),
        ([1.0, 2.0], [1.0, float("inf")], "gives NaN or infinite numbers"),
    ],
)
def test_results_in_company_are_held_against_those_alone(
    folder: Path, ours: list[float], own: list[float], problem: str | None
) -> None:
    bank = PeftBank(folder, PLAIN, CPU)
    bank.model = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    if problem is None:
        bank._require_own(torch.tensor(ours), torch.tensor(own))
    else:
        with pytest.raises(ValueError, match=rf"model_type llama can't be trained or scored here in .*{problem}"):
            bank._require_own(torch.tensor(ours), torch.tensor(own))


def test_a_residual_adapter_is_written_as_one_of_twice_the_rank() -> None:
    torch.manual_seed(0)
    prefix = "base_model.model.l"
    start = {f"{prefix}.lora_A.weight": torch.randn(2, 5), f"{prefix}.lora_B.weight": torch.randn(3, 2)}
    trained = {name: torch.randn_like(value) for name, value in start.items()} | {"head": torch.ones(1)}
    whole = converted(trained, start)
    a, b = whole[f"{prefix}.lora_A.weight"], whole[f"{prefix}.lora_B.weight"]
    own, first = ([t[f"{prefix}.lora_{f}.weight"] for f in "BA"] for t in (trained, start))
    torch.testing.assert_close(b @ a, own[0] @ own[1] - first[0] @ first[1])
    again, initial = split(whole, 2)
    assert all(torch.equal(again[name], value) for name, value in trained.items())
    assert initial.keys() == start.keys()
    assert all(torch.equal(initial[name], value) for name, value in start.items())
    weight = torch.randn(3, 5)
    torch.testing.assert_close(residual(weight, start, "l", 0.5), weight - 0.5 * first[0] @ first[1])
    assert residual(weight.bfloat16(), start, "l", 0.5).dtype is torch.bfloat16


def test_a_number_to_predict_has_a_squared_error_of_its_own(folder: Path) -> None:
    bank = ClassifierBank(folder, PLAIN, CPU, num_labels=1)
    tokens = np.array([5, 6, 7], dtype=np.int32)
    items = [
        Item(member="", tokens=tokens, num_source=0, dropout_key=0, weight=1.0, label=label) for label in (-3.5, 2.0)
    ]
    with torch.no_grad():
        scores = bank.label_logits(items)
        assert scores.shape == (2, 1)
        torch.testing.assert_close(bank.item_losses(items), (scores[:, 0] - torch.tensor([-3.5, 2.0])).square())


def test_a_saved_checkpoint_says_how_many_classes_it_has(tmp_path: Path) -> None:
    assert _saved_labels(tmp_path) is None
    for about, expected in (
        ({"id2label": {"0": "no", "1": "yes", "2": "maybe"}}, 3),
        ({"id2label": {}}, None),
        ({}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(about))
        assert _saved_labels(tmp_path) == expected

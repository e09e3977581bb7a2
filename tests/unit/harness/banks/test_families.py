"""What each family's own model computes for a sequence alone, our bank trains on and scores, in company or alone."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    ElectraConfig,
    GptOssConfig,
    MambaConfig,
    PhimoeConfig,
    PretrainedConfig,
    ProphetNetConfig,
)

from eval.scoring.continuations import Continuation, score_continuations
from harness.banks.load import LoadedBase, make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, AdapterMethod, ModelKind
from harness.models.locate import ModelSource
from harness.models.reading import without_dropout
from harness.nn.batch import Item, Segment
from harness.nn.rows import Layout, fitting_layout
from tests.builders import PLAIN
from tests.families import (
    FAMILIES,
    GROUPED,
    MORE_FAMILIES,
    MORE_PACKED,
    PACKED_FAMILIES,
    SIZES,
    draw_weights,
)
from tests.tiny import make_tokenizer

LENGTHS = (5, 9, 7)
CPU = torch.device("cpu")


@cache
def checkpoint(family: str, root: Path) -> Path:
    draw_weights(AutoModelForCausalLM.from_config(deepcopy((FAMILIES | MORE_FAMILIES)[family]))).save_pretrained(
        root / family
    )
    return root / family


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def bank_of(folder: Path) -> AdapterBank:
    return make_bank(folder, ModelKind.causal, AdapterMethod.lora, PLAIN, CPU)


def rows() -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 100, length).astype(np.int32) for length in LENGTHS]


def items(member: str = "a") -> list[Item]:
    return [Item(member=member, tokens=t, num_source=2, dropout_key=i, weight=1.0) for i, t in enumerate(rows())]


def own_logprobs(model: nn.Module) -> list[Tensor]:
    """Of each sequence alone, by the model's own forward: [T, V]."""
    with torch.no_grad():
        return [model(torch.from_numpy(row.astype(np.int64))[None]).logits[0].log_softmax(-1) for row in rows()]


def own_losses(model: nn.Module) -> Tensor:
    parts = []
    for row in rows():
        ids = torch.from_numpy(row.astype(np.int64))[None]
        parts.append(functional.cross_entropy(model(ids).logits[0, 1:-1], ids[0, 2:], reduction="none"))
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_scores_are_the_models_own(family: str, root: Path) -> None:
    require_its_own(family, root)


@pytest.mark.slow
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_more_families_are_their_models_own(family: str, root: Path, tmp_path: Path) -> None:
    require_its_own(family, root)
    test_gradients_and_the_saved_adapter_are_pefts(family, root, tmp_path)


def require_its_own(family: str, root: Path) -> None:
    """Losses of a member that changes nothing, hidden states and scores, in company and against `forward` alone."""
    folder = checkpoint(family, root)
    plain, bank = AutoModelForCausalLM.from_pretrained(folder), bank_of(folder)
    assert bank.layout.is_packed == (family in PACKED_FAMILIES | MORE_PACKED)
    bank.add_member("a", AdapterConfig(name="lora", lora_r=2), seed=1)
    own = own_logprobs(plain)
    bank.train()
    first, again = bank.item_losses(items()), bank.item_losses(items())  # the base's own dropout is off
    torch.testing.assert_close(first, own_losses(plain), rtol=1e-4, atol=1e-4)
    assert torch.equal(first, again)
    bank.eval()
    with torch.no_grad():
        segments = [Segment(num_tokens=length, member=None) for length in LENGTHS]
        hidden = bank(torch.from_numpy(np.concatenate(rows()).astype(np.int64))[None], segments)
        torch.testing.assert_close(bank.logits(hidden[0]).log_softmax(-1), torch.cat(own), rtol=1e-4, atol=1e-4)
    requests = [Continuation(tokens=row.tolist(), num_context=1, group="all") for row in rows()]
    for places, scores in score_continuations(loaded(bank), requests):
        for place, score in zip(places, scores, strict=True):
            targets = torch.from_numpy(rows()[place][1:].astype(np.int64))
            expected = own[place][:-1].gather(1, targets[:, None])[:, 0]
            torch.testing.assert_close(torch.from_numpy(score.logprobs), expected, rtol=1e-4, atol=1e-4)


def loaded(bank: AdapterBank) -> LoadedBase:
    source = ModelSource(kind="folder", location="", revision="main", max_length=64)
    return LoadedBase(bank=bank, tokenizer=make_tokenizer(), source=source, fingerprint="", max_length=64)


@pytest.mark.parametrize("family", ["phi", "gemma2", "granite", "gpt2", "falcon_alibi", "stablelm", "lfm2"])
def test_gradients_and_the_saved_adapter_are_pefts(family: str, root: Path, tmp_path: Path) -> None:
    folder = checkpoint(family, root)
    bank = bank_of(folder)
    bank.add_member("a", AdapterConfig(name="lora", lora_r=2, lora_alpha=4, lora_dropout=0.0), seed=1)
    generator = torch.Generator().manual_seed(1)
    for parameter in bank.member_parameters("a").values():
        parameter.data.normal_(0, 0.2, generator=generator)
    bank.save_member("a", tmp_path, str(folder), "main")
    bank.train()
    losses = bank.item_losses(items())
    losses.mean().backward()
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path, is_trainable=True).eval()
    expected = own_losses(peft)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    expected.mean().backward()
    theirs = {name.replace(".default.", "."): parameter.grad for name, parameter in peft.named_parameters()}
    for name, parameter in bank.member_parameters("a").items():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma3"])
def test_an_adapter_drops_out_alike_alone_and_in_company(family: str, root: Path) -> None:
    bank = bank_of(checkpoint(family, root))
    bank.add_member("a", AdapterConfig(name="lora", lora_r=4, lora_dropout=0.3), seed=1)
    for name, parameter in bank.member_parameters("a").items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    bank.train()
    with torch.no_grad():
        alone = torch.cat([bank.item_losses([item]) for item in items()])
        together = bank.item_losses(items())
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    bank.eval()
    assert not torch.allclose(bank.item_losses(items()), together)


def test_terms_that_packed_rows_would_lose_are_noticed() -> None:
    """GPT-OSS adds a score that no token has (sinks): rows that are padded keep it."""
    config = GptOssConfig(**GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=64)
    model = draw_weights(AutoModelForCausalLM.from_config(config))
    assert not fitting_layout(model, "here").is_packed
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("limit", [{"sliding_window": 64}, {"attention_chunk_size": 64}])
def test_layers_that_see_less_than_their_attention_is_told_are_not_packed(limit: dict[str, int]) -> None:
    """The trial's sequences are shorter than any window."""
    config = deepcopy(FAMILIES["llama"])
    model = draw_weights(AutoModelForCausalLM.from_config(config))
    for key, value in limit.items():
        setattr(config, key, value)
        setattr(model.config, key, value)
    assert not fitting_layout(model, "here").is_packed


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("back", [True, False])
def test_a_layer_that_looks_at_neighbours_is_noticed(layer: int, back: bool) -> None:
    """In any layer, at the token before or the one after, by a twentieth of it."""
    model = draw_weights(AutoModelForCausalLM.from_config(deepcopy(FAMILIES["llama"])))
    shift = 1 if back else -1
    model.model.layers[layer].mlp.register_forward_hook(lambda *call: call[2] + 0.05 * call[2].roll(shift, dims=1))
    with pytest.raises(ValueError, match=r"Packed: its logits differ by .* Padded: its logits differ"):
        fitting_layout(model, "here")


@pytest.mark.parametrize("place", ["norm", "NaN in a row of the output layer", "overflow in a row of it"])
def test_numbers_that_overflow_are_named(place: str) -> None:
    model = draw_weights(AutoModelForCausalLM.from_config(deepcopy(FAMILIES["llama"])))
    if place == "norm":
        model.model.norm.weight.data.fill_(torch.inf)
    else:
        model.lm_head.weight.data[7] = torch.nan if "NaN" in place else 3e38
    with pytest.raises(ValueError, match=r"here: computes NaN or infinite numbers in torch.float32 from a short text"):
        fitting_layout(model, "here")


def test_a_model_that_neither_layout_serves_is_refused() -> None:
    """One whose layers mix the sequences of a batch."""
    model = draw_weights(AutoModelForCausalLM.from_config(deepcopy(FAMILIES["bloom"])))
    layer: nn.Module = model.transformer.h[0].mlp
    layer.register_forward_hook(lambda *call: call[2] + call[2].mean(dim=(0, 1)))
    with pytest.raises(ValueError, match=r"here: model_type bloom can't be trained or scored.*Packed: .*Padded: "):
        fitting_layout(model, "here")


def test_a_model_that_counts_its_positions_itself_is_not_packed() -> None:
    """BART's decoder takes no positions; the second sequence of a row would get those behind the first one's."""
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
    layout = layout_of(BartConfig(**sizes, vocab_size=100, max_position_embeddings=64, is_decoder=True))
    assert not layout.is_packed
    assert not layout.keeps_cache, "nor does it see where a sequence begins that is padded on the left"
    assert layout_of(deepcopy(FAMILIES["bloom"])).keeps_cache, "it counts by the mask"
    assert layout_of(deepcopy(FAMILIES["mpt"])).keeps_cache


def layout_of(config: PretrainedConfig) -> Layout:
    without_dropout(config)
    return fitting_layout(draw_weights(AutoModelForCausalLM.from_config(config)), "here")


def refusal(config: PretrainedConfig) -> str:
    with pytest.raises(ValueError, match="can't be trained or scored here") as refused:
        fitting_layout(draw_weights(AutoModelForCausalLM.from_config(config)), "here")
    return str(refused.value)


def test_a_model_that_looks_ahead_is_refused() -> None:
    """BERT and its kin are loaded as language models, and see the very token that is to be predicted."""
    assert "here: model_type bert can't be trained or scored here: it looks at tokens that follow" in refusal(
        BertConfig(**SIZES)
    )


def test_a_model_that_computes_otherwise_in_training_is_refused() -> None:
    config = PhimoeConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, input_jitter_noise=0.5)
    assert "model_type phimoe can't be trained or scored here: it computes otherwise in training" in refusal(config)


def test_a_head_that_fails_is_told_by_the_bank_too(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(ElectraConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"{tmp_path}: model_type electra can't be trained .* its own forward pass fails"
    ):
        bank_of(tmp_path)


def test_an_attribute_that_is_missing_elsewhere_is_no_layer_taken_apart() -> None:
    """ProphetNet's head asks its decoder for what it didn't return."""
    config = ProphetNetConfig(
        **{"vocab_size": 100, "hidden_size": 32, "num_decoder_layers": 2, "num_decoder_attention_heads": 4},
        **{"decoder_ffn_dim": 64, "max_position_embeddings": 64, "is_decoder": True},
    )
    assert "its own forward pass fails on a short text (AttributeError: 'NoneType'" in refusal(config)


def test_what_a_models_own_code_raises_is_told_with_model_family_and_remedy() -> None:
    """ELECTRA's head reads something else than its decoder's states; a broken rotary size fails in the first layer."""
    told = refusal(ElectraConfig(**SIZES))
    assert (
        "here: model_type electra can't be trained or scored here: its own forward pass fails on a short text" in told
    )
    broken = deepcopy(FAMILIES["gptj"])
    broken.rotary_dim = 64
    assert "model_type gptj can't be trained or scored here: its own forward pass fails" in refusal(broken)


def test_a_model_that_takes_its_layers_apart_is_refused(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type mamba can't be trained .* it takes linear layers apart"):
        bank_of(tmp_path)

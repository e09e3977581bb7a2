"""Answers of families whose rows are padded, and of packed ones with windows, scales, biases or caps of their own:
those of transformers' `generate`, one prompt at a time.
"""

import dataclasses
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from eval.answers import padded_batch
from eval.answers.decoding import decode
from eval.answers.sequences import Decoded, DecodingRequest, DecodingSettings
from harness.banks.load import LoadedBase, make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, AdapterMethod, ModelKind
from harness.models.locate import ModelSource
from tests.builders import PLAIN
from tests.families import FAMILIES, PADDED_FAMILIES, draw_weights
from tests.tiny import make_tokenizer

GREEDY = DecodingSettings(max_new_tokens=5, greedy=True, temperature=1.0, top_p=1.0, num_slots=4)
SAMPLING = dataclasses.replace(GREEDY, greedy=False, temperature=0.9, top_p=0.9)
EOS = 2
LENGTHS = (3, 9, 1, 6, 5)


def base_of(family: str, folder: Path) -> LoadedBase:
    config = deepcopy(FAMILIES[family])
    config.use_cache = False  # what a config asks for is `generate`'s to follow
    draw_weights(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    bank = make_bank(folder, ModelKind.causal, AdapterMethod.lora, PLAIN, torch.device("cpu"))
    assert isinstance(bank, AdapterBank)
    bank.add_member("tuned", AdapterConfig(name="lora", lora_r=2, lora_alpha=4), seed=1)
    generator = torch.Generator().manual_seed(1)
    for parameter in bank.member_parameters("tuned").values():
        parameter.data.normal_(0, 0.3, generator=generator)
    bank.eval()
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=64)
    return LoadedBase(bank=bank, tokenizer=make_tokenizer(), source=source, fingerprint="", max_length=64)


def requests() -> list[DecodingRequest]:
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randint(3, 100, (length,), generator=generator).tolist() for length in LENGTHS]
    return [
        DecodingRequest(tokens=tokens, member=("tuned", None)[place % 2], seed=place)
        for place, tokens in enumerate(drawn)
    ]


def answers(base: LoadedBase, asked: list[DecodingRequest], settings: DecodingSettings) -> dict[int, Decoded]:
    return {done.index: done for done in decode(base, asked, settings, frozenset({EOS}))}


def own_answer(base: LoadedBase, folder: Path, request: DecodingRequest) -> list[int]:
    """By the model's own `generate`, the adapter's terms added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, layer in base.bank.layers.items() if request.member else ():
        term_OI = layer.lora_b["tuned"] @ layer.lora_a["tuned"] * layer.scale["tuned"]
        model.get_submodule(name).weight.data += term_OI.detach()
    ids_1T = torch.tensor([request.tokens])
    made = model.generate(
        ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        max_new_tokens=GREEDY.max_new_tokens,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    new = made[0, ids_1T.shape[1] :].tolist()
    return new[: new.index(EOS)] if EOS in new else new


@pytest.mark.parametrize("family", [*PADDED_FAMILIES, "mistral", "gemma3", "cohere2", "granite", "phi", "opt"])
def test_greedy_answers_are_those_of_generate(family: str, tmp_path: Path) -> None:
    base, asked = base_of(family, tmp_path), requests()
    assert base.bank.layout.keeps_cache == (family in PADDED_FAMILIES and family != "recurrent_gemma")
    found = answers(base, asked, GREEDY)
    for place in (0, 1):  # the adapter's, and the base's longest
        assert list(found[place].tokens) == own_answer(base, tmp_path, asked[place])


@pytest.mark.parametrize("family", ["bloom", "recurrent_gemma"])
def test_samples_depend_on_nobody_else(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on a pass for which the device had no room."""
    base, asked = base_of(family, tmp_path), requests()
    alone = {place: answers(base, [request], SAMPLING)[0].tokens for place, request in enumerate(asked)}
    advance, num_passes = padded_batch.PaddedBatch.advance, 0

    def failing(batch: padded_batch.PaddedBatch, waiting: object, *sizes: int) -> object:
        nonlocal num_passes
        num_passes += 1
        stepped = advance(batch, waiting, *sizes)  # type: ignore[arg-type]
        if num_passes == 3:
            for row in stepped:
                row.new_tokens.pop()  # as it is where the failure came before the choice
            raise torch.OutOfMemoryError("no room")
        return stepped

    monkeypatch.setattr(padded_batch.PaddedBatch, "advance", failing)
    together = answers(base, asked, SAMPLING)
    assert {place: done.tokens for place, done in together.items()} == alone


@pytest.mark.parametrize("settings", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_end_in_one_message(
    tmp_path: Path, settings: DecodingSettings, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, asked = base_of("bloom", tmp_path), [dataclasses.replace(requests()[0], system="diverged")]
    logits = base.bank.logits
    monkeypatch.setattr(base.bank, "logits", lambda hidden: logits(hidden).fill_(number))
    with pytest.raises(ValueError, match=rf"{tmp_path} with adapter diverged: its logits are NaN or infinite after 3"):
        answers(base, asked, settings)

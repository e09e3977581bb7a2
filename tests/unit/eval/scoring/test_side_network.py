"""A side network scores and answers, beside its base's caches and shared beginnings, as the equation has it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.answers.decoding import decode
from eval.answers.sequences import DecodingRequest, DecodingSettings
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.next_token import Prompt, next_token_logprobs
from eval.scoring.row_sizes import kept_token_bytes, pass_token_bytes, row_sizes
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import AdapterMethod, ModelKind
from harness.models.locate import ModelSource
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, move
from tests.unit.harness.variants.test_qst import ByHand, config

GREEDY = DecodingSettings(max_new_tokens=10, greedy=True, temperature=1.0, top_p=1.0, num_slots=3)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, 384, size=size).tolist() for size in (5, 30, 11, 3, 17, 8)]
SHARED = RNG.integers(3, 384, size=24).tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"))
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=256)
    loaded = load_base(source, QUANTS["none"], CPU, folder, ModelKind.causal, AdapterMethod.qst)
    bank: Any = loaded.bank
    bank.add_member("a", config(), seed=3)
    move(bank, size=0.5)
    bank.eval()
    return loaded


@pytest.fixture(scope="module")
def hand(base: LoadedBase) -> ByHand:
    bank: Any = base.bank
    return ByHand(Path(base.source.location), bank.side)


@torch.no_grad()
def by_hand(hand: ByHand, tokens: list[int]) -> Tensor:
    """-> log-probabilities of what follows each token, [T, V], of one sequence without any cache"""
    return hand.logits(torch.tensor([tokens]))[0].log_softmax(-1)


@pytest.mark.parametrize("num_slots", [1, 3])
def test_answers_from_the_caches_are_those_of_whole_passes(base: LoadedBase, hand: ByHand, num_slots: int) -> None:
    requests = [DecodingRequest(tokens=prompt, member="a", seed=0) for prompt in PROMPTS]
    settings = dataclasses.replace(GREEDY, num_slots=num_slots)
    found = {decoded.index: decoded.tokens for decoded in decode(base, requests, settings, frozenset())}
    for index, prompt in enumerate(PROMPTS):
        expected: list[int] = []
        for _ in range(GREEDY.max_new_tokens):
            expected.append(int(by_hand(hand, prompt + expected)[-1].argmax()))
        assert list(found[index]) == expected


def test_continuations_that_share_a_beginning(base: LoadedBase, hand: ByHand) -> None:
    asked = [Continuation(tokens=SHARED + prompt, num_context=26, member="a", group="one") for prompt in PROMPTS]
    for places, scores in score_continuations(base, asked):
        for place, score in zip(places, scores, strict=True):
            tokens = list(asked[place].tokens)
            expected = by_hand(hand, tokens)[25:-1].gather(1, torch.tensor(tokens[26:])[:, None])[:, 0]
            np.testing.assert_allclose(score.logprobs, expected, atol=2e-4)


def test_next_tokens_behind_a_shared_prefix(base: LoadedBase, hand: ByHand) -> None:
    prompts = [Prompt(tokens=SHARED + prompt, member="a", group="one") for prompt in PROMPTS]
    found = next_token_logprobs(base, prompts, [5, 7, 9])
    expected = np.stack([by_hand(hand, SHARED + prompt)[-1, [5, 7, 9]].numpy() for prompt in PROMPTS])
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_side_networks_room_is_counted(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a quarter of the width its keys take a quarter of the room beside the base's, and so do the states of a pass:
    32 numbers of 4 bytes in each of 2 layers.
    """
    monkeypatch.setattr("eval.scoring.row_sizes.free_bytes", lambda device: 10**7)
    model, bank = base.bank.base, base.bank
    sizes = row_sizes(bank)
    assert sizes.kept_tokens == 6_000_000 // (kept_token_bytes(model) * 5 // 4)
    assert sizes.row_tokens == 1024
    on_gpu = SimpleNamespace(device=torch.device("cuda"), base=model, beside_share=0.25)
    assert row_sizes(on_gpu).row_tokens == 2_500_000 // (pass_token_bytes(model) + 2 * 32 * 4 // 4)

"""Continuations: each token's log-probability equals that of plain transformers passes, however the row is shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig

from eval.benchmarks.mmlu.prompts import prompt_text
from eval.benchmarks.mmlu.score import load_set, score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.next_token import Prompt
from eval.scoring.padded import score_padded
from harness.banks.load import LoadedBase
from harness.nn import head
from tests.builders import open_base, questions
from tests.tiny import VOCAB_SIZE, make_checkpoint, make_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = tmp_path_factory.mktemp("bloom")
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return open_base(folder)


def score(
    base: LoadedBase, requests: list[Continuation], row_tokens: int | None = None
) -> list[tuple[np.ndarray, bool]]:
    found: dict[int, tuple[np.ndarray, bool]] = {}
    for places, scores in score_continuations(base, requests, row_tokens):
        found.update({p: (s.logprobs, s.is_greedy) for p, s in zip(places, scores, strict=True)})
    return [found[place] for place in range(len(requests))]


def plain(base: LoadedBase, request: Continuation) -> tuple[np.ndarray, bool]:
    """transformers' own model, one sequence, whole logits."""
    model = AutoModelForCausalLM.from_pretrained(base.source.location, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([list(request.tokens)])).logits[0].log_softmax(-1)[request.num_context - 1 : -1]
    targets = torch.tensor(list(request.tokens[request.num_context :]))
    return logits.gather(1, targets[:, None])[:, 0].numpy(), bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize("which", ["base", "bloom"])
def test_shared_beginnings_equal_plain_passes(which: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedBase = request.getfixturevalue(which)
    asked = questions(3, seed=1)
    for found, one in zip(score(loaded, asked), asked, strict=True):
        expected, greedy = plain(loaded, one)
        np.testing.assert_allclose(found[0], expected, atol=2e-4)
        assert found[1] == greedy


def test_a_common_beginning_stands_in_the_row_once(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = base.bank.forward

    def counting(tokens: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        rows.append(tokens.shape[1])
        return forward(tokens, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(base.bank, "forward", counting)
    score(base, questions(1, seed=1, prefix=50))
    assert rows == [50 + 0 + 2 + 5 + 0]  # of an ending all but its last token; the beginning once


def test_a_beginning_that_ends_within_the_context_is_shared_too(base: LoadedBase) -> None:
    """Winogrande: the context differs between the options, the scored end is the same."""
    rng = np.random.default_rng(5)
    common, end = rng.integers(3, VOCAB_SIZE, 30).tolist(), rng.integers(3, VOCAB_SIZE, 4).tolist()
    asked = [
        Continuation(tokens=[*common, *option, *end], num_context=30 + len(option), group="w", member=member)
        for option in ([7], [8, 9])
        for member in (None, "tuned")
    ]
    together, alone = score(base, asked), [score(base, [one])[0] for one in asked]
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found[0], expected[0], atol=2e-4)
    assert abs(together[0][0] - together[1][0]).max() > 0.01  # the adapter counts


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(0, 99), st.integers(2, 60), st.integers(1, 200))
def test_rows_of_any_size_say_the_same(base: LoadedBase, count: int, seed: int, prefix: int, row_tokens: int) -> None:
    asked = questions(count, seed, prefix)
    for found, expected in zip(score(base, asked, row_tokens), score(base, asked), strict=True):
        np.testing.assert_allclose(found[0], expected[0], atol=3e-4)


def test_logits_are_chunked(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(2, seed=2)
    whole = score(base, asked)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCAB_SIZE * 3)  # three positions at once
    seen: list[int] = []
    logits = base.bank.logits

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(base.bank, "logits", counting)
    for found, expected in zip(score(base, asked), whole, strict=True):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)  # products of 3 rows may round otherwise than of 6
    assert max(seen) == 3


def test_requests_that_can_not_be_scored_are_named(base: LoadedBase) -> None:
    with pytest.raises(ValueError, match="request 1: 0 tokens of context of 2"):
        score(base, [Continuation(tokens=[1, 5], num_context=1), Continuation(tokens=[1, 5], num_context=0)])
    with pytest.raises(ValueError, match="request 0 has 2050 tokens; this model takes 2048"):
        score(base, [Continuation(tokens=[5] * 2050, num_context=1)])
    with pytest.raises(ValueError, match=r"adapter other is not loaded; loaded are \['tuned'\]"):
        score(base, [Continuation(tokens=[1, 5], num_context=1, member="other")])


def test_mmlu_of_bloom_is_scored_on_the_plain_path(bloom: LoadedBase) -> None:
    settings = MmluSettings(limit=4, num_shots=2)
    data = load_set(settings)
    result = score_mmlu(bloom, {"base": None, "tuned": "tuned"}, settings)
    model = AutoModelForCausalLM.from_pretrained(bloom.source.location, dtype=torch.float32)
    for question, prediction in zip(data.questions, result["base"].predictions, strict=True):
        text = prompt_text(settings.protocol, data.shots[question.subject], question)
        letters = [bloom.tokenizer.encode(f" {letter}", add_special_tokens=False)[0] for letter in "ABCD"]
        with torch.no_grad():
            logits = model(torch.tensor([bloom.tokenizer.encode(text)[-bloom.max_length :]])).logits[0, -1]
        np.testing.assert_allclose(prediction.logprobs, logits.log_softmax(-1)[letters].numpy(), atol=1e-4)
    assert result["tuned"].predictions != result["base"].predictions


def test_padded_next_tokens_equal_transformers_own(bloom: LoadedBase) -> None:
    """The path of MMLU on BLOOM, whose attention can't share prefixes."""
    rng = np.random.default_rng(0)
    tokens = [rng.integers(3, VOCAB_SIZE, length).tolist() for length in (40, 5, 17, 800, 31)]
    prompts = [Prompt(tokens=t, member=member) for t in tokens for member in (None, "tuned")]
    candidates = [rng.integers(3, VOCAB_SIZE, 4).tolist() for _ in prompts]
    found: dict[int, np.ndarray] = {}
    for places, scores in score_padded(bloom, prompts, candidates):
        found.update(dict(zip(places, scores, strict=True)))
    model = AutoModelForCausalLM.from_pretrained(bloom.source.location, dtype=torch.float32)
    for place, prompt in enumerate(prompts):
        if prompt.member is None:
            with torch.no_grad():
                expected = model(torch.tensor([prompt.tokens])).logits[0, -1].log_softmax(-1)[candidates[place]]
            np.testing.assert_allclose(found[place], expected.numpy(), atol=1e-4)
        else:
            assert abs(found[place] - found[place - 1]).max() > 0.01

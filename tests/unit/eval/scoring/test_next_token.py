"""Shared-prefix scores are those of plain passes over whole prompts, whoever shares the row."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from eval.scoring.next_token import Prompt, common_prefix, next_token_logprobs, score_rows
from harness.banks.load import LoadedBase
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig
from harness.models.locate import ModelSource
from harness.nn.batch import Segment
from harness.nn.rows import Layout

VOCAB = 97
CANDIDATES = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    """A random LLaMA with grouped-query attention and two adapters of different rank, B not zero; lean."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed")
    bank = AdapterBank(model, layout=Layout(is_packed=True, is_lean=True))
    for name, rank in (("narrow", 2), ("wide", 7)):
        bank.add_member(name, AdapterConfig(name="lora", lora_r=rank, lora_alpha=16), seed=rank)
        for parameter in bank.member_parameters(name).values():
            parameter.data.normal_(0, 0.2)
    bank.eval()
    source = ModelSource(kind="folder", location="tiny", revision="main", max_length=128)
    return LoadedBase(bank=bank, tokenizer=None, source=source, fingerprint="", max_length=128)  # type: ignore[arg-type]


def make_prompts(rng: np.random.Generator, members: list[str | None], num_groups: int = 3) -> list[Prompt]:
    prompts = []
    for member in members:
        for group in range(num_groups):
            prefix = rng.integers(0, VOCAB, size=17 + 5 * group).tolist()
            for _ in range(4):
                own = rng.integers(0, VOCAB, size=rng.integers(1, 20)).tolist()
                prompts.append(Prompt(tokens=prefix + own, member=member, group=str(group)))
    order = rng.permutation(len(prompts))
    return [prompts[index] for index in order]


def plain_logprobs(base: LoadedBase, prompt: Prompt) -> np.ndarray:
    tokens = torch.tensor([list(prompt.tokens)])
    with torch.no_grad():
        hidden = base.bank(tokens, [Segment(num_tokens=len(prompt.tokens), member=prompt.member)])
        return base.bank.logits(hidden[0, -1:]).log_softmax(-1)[0, CANDIDATES].numpy()


@pytest.mark.parametrize("row_tokens", [1, 40, 150, 100_000])
def test_shared_prefix_scores_equal_plain_scores_for_base_and_two_adapters(base: LoadedBase, row_tokens: int) -> None:
    prompts = make_prompts(np.random.default_rng(1), [None, "narrow", "wide"])
    scores = next_token_logprobs(base, prompts, CANDIDATES, row_tokens=row_tokens)
    plain = np.stack([plain_logprobs(base, prompt) for prompt in prompts])
    np.testing.assert_allclose(scores, plain, atol=1e-4, rtol=0)
    assert np.abs(plain - plain[0]).max() > 0.1  # the prompts and adapters do differ


def test_the_adapters_change_the_scores(base: LoadedBase) -> None:
    tokens = list(range(20))
    prompts = [Prompt(tokens=tokens, member=member) for member in (None, "narrow", "wide")]
    scores = next_token_logprobs(base, prompts, CANDIDATES)
    assert np.abs(scores[0] - scores[1]).max() > 0.05
    assert np.abs(scores[1] - scores[2]).max() > 0.05


def test_equal_prompts_prompts_that_prefix_others_and_groups_of_one(base: LoadedBase) -> None:
    long = list(range(1, 60))
    prompts = [
        Prompt(tokens=long, group="a"),
        Prompt(tokens=long, group="a"),
        Prompt(tokens=long[:30], group="a"),
        Prompt(tokens=[3], group="b"),
        Prompt(tokens=[9, 8, 7], group="c"),
        Prompt(tokens=[9, 2], group="c"),
    ]
    scores = next_token_logprobs(base, prompts, CANDIDATES)
    np.testing.assert_allclose(scores, np.stack([plain_logprobs(base, p) for p in prompts]), atol=1e-4)


def test_candidates_can_differ_by_prompt_and_sum_to_one_over_the_vocabulary(base: LoadedBase) -> None:
    prompts = make_prompts(np.random.default_rng(2), [None], num_groups=1)
    everything = next_token_logprobs(base, prompts, list(range(VOCAB)))
    np.testing.assert_allclose(np.exp(everything).sum(axis=1), 1.0, atol=1e-5)
    table = [[index, 2 * index] for index in range(len(prompts))]
    picked = next_token_logprobs(base, prompts, table)
    np.testing.assert_allclose(picked, np.take_along_axis(everything, np.array(table), axis=1), atol=1e-6)


def test_a_prefix_is_encoded_once(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = make_prompts(np.random.default_rng(3), [None, "wide"])
    num_tokens = _count_tokens(base, monkeypatch)
    for _ in score_rows(base, prompts, CANDIDATES, row_tokens=40):
        pass
    distinct = {(p.member, p.group): 17 + 5 * int(p.group) for p in prompts}
    own = sum(len(p.tokens) - distinct[p.member, p.group] for p in prompts)
    assert num_tokens() == sum(distinct.values()) + own


def _count_tokens(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    seen = []
    forward = base.bank.forward

    def counting(input_ids: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.append(input_ids.shape[1])
        return forward(input_ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(base.bank, "forward", counting)
    return lambda: sum(seen)


def test_progress_counts_every_prompt(base: LoadedBase) -> None:
    prompts = make_prompts(np.random.default_rng(4), [None])
    calls: list[tuple[int, int]] = []
    next_token_logprobs(base, prompts, CANDIDATES, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(prompts), len(prompts))


@pytest.mark.parametrize(
    ("prompts", "candidates", "message"),
    [
        ([Prompt(tokens=[])], CANDIDATES, "prompt 0 .* has 0 tokens"),
        ([Prompt(tokens=[1] * 129, group="law")], CANDIDATES, "'law'.* has 129 tokens; this model takes 1 to 128"),
        ([Prompt(tokens=[1], member="ghost")], CANDIDATES, r"ghost is not loaded; loaded are \['narrow', 'wide'\]"),
        ([Prompt(tokens=[1])], [[1], [2]], "one row a prompt"),
    ],
)
def test_bad_input_is_named(base: LoadedBase, prompts: list[Prompt], candidates: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next_token_logprobs(base, prompts, candidates)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix_is_the_longest(sequences: list[list[int]]) -> None:
    length = common_prefix(sequences)
    assert all(sequence[:length] == sequences[0][:length] for sequence in sequences)
    longer = {tuple(sequence[: length + 1]) for sequence in sequences}
    assert len(longer) > 1 or any(len(sequence) == length for sequence in sequences)

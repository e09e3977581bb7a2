"""Logit arithmetic: scores and answers are those of logits that are added by hand, in every way a row is computed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from eval.answers.decoding import decode
from eval.answers.sequences import DecodingRequest, DecodingSettings
from eval.benchmarks.benchmark import Contestant
from eval.commands.beside import at_scales
from eval.logit_arithmetic import MEMBER, ProxySpec, parse_proxy
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.model_key import model_sha256
from eval.scoring.next_token import Prompt, next_token_logprobs
from eval.systems import Target, each_base, require_templates
from harness.banks.load import LoadedBase
from harness.config.schema import AdapterMethod
from tests.builders import questions
from tests.records.lora_runs import write_lora_run
from tests.tiny import VOCAB_SIZE, make_checkpoint

ALPHA = 0.6
GREEDY = DecodingSettings(max_new_tokens=6, greedy=True, temperature=1.0, top_p=1.0, num_slots=3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small and a large model of one tokenizer, and a run of the small one."""
    folder = tmp_path_factory.mktemp("lab")
    small, large = make_checkpoint(folder / "small"), make_checkpoint(folder / "large", seed=1)
    run = write_lora_run(folder / "runs", small, 0)
    run.rename(folder / "runs" / "tuned")
    assert large.is_dir()
    return folder


def opened(lab: Path, model: str = f"proxy:{{}}/large+tuned@{ALPHA}", runs: str = "runs") -> tuple[LoadedBase, str]:
    target = Target(model=model.format(lab), adapters=(), quant="none", run_ids=(), sweep=None, runs=lab / runs)
    ((base, members),) = each_base(target)
    ((name, member),) = members.items()
    assert member == MEMBER
    return base, name


@pytest.fixture(scope="module")
def base(lab: Path) -> LoadedBase:
    base, name = opened(lab)
    assert name == "large+s0@0.6"
    return base


@pytest.fixture(scope="module")
def by_hand(lab: Path) -> Callable[..., torch.Tensor]:
    """[T, V] of a sequence, by three models of transformers and PEFT."""
    large = AutoModelForCausalLM.from_pretrained(lab / "large")
    small = AutoModelForCausalLM.from_pretrained(lab / "small")
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(lab / "small"), lab / "runs" / "tuned" / "adapter"
    )

    @torch.no_grad()
    def logits(tokens: list[int], alpha: float = ALPHA) -> torch.Tensor:
        ids = torch.tensor([tokens])
        wide, one, two = (model(input_ids=ids).logits[0] for model in (large, tuned, small))
        return torch.as_tensor(wide + alpha * (one - two))

    return logits


@pytest.mark.parametrize("member", [MEMBER, None])
def test_continuations_are_scored_by_the_sum_of_logits(
    base: LoadedBase, by_hand: Callable[..., torch.Tensor], member: str | None
) -> None:
    requests = [
        Continuation(tokens=one.tokens, num_context=one.num_context, group=one.group, member=member)
        for one in questions(3, seed=0)
    ]
    for places, scores in score_continuations(base, requests, row_tokens=64):
        for place, score in zip(places, scores, strict=True):
            tokens = list(requests[place].tokens)
            logprobs = by_hand(tokens, ALPHA if member else 0.0).log_softmax(dim=-1)
            wanted = [float(logprobs[at - 1, tokens[at]]) for at in range(requests[place].num_context, len(tokens))]
            assert score.logprobs == pytest.approx(wanted, abs=2e-4)


def test_next_tokens_after_a_shared_prefix_are_scored_by_it(
    base: LoadedBase, by_hand: Callable[..., torch.Tensor]
) -> None:
    rng = np.random.default_rng(1)
    shared = rng.integers(3, VOCAB_SIZE, 24).tolist()
    members = [MEMBER, None, MEMBER, MEMBER, None]
    prompts = [
        Prompt(tokens=shared + rng.integers(3, VOCAB_SIZE, 2 + n).tolist(), member=member, group="s")
        for n, member in enumerate(members)
    ]
    found = next_token_logprobs(base, prompts, [5, 6, 7, 8])
    for prompt, row in zip(prompts, found, strict=True):
        logprobs = by_hand(list(prompt.tokens), ALPHA if prompt.member else 0.0)[-1].log_softmax(dim=-1)
        assert row == pytest.approx(logprobs[5:9].numpy(), abs=2e-4)


def test_answers_are_decoded_from_it(base: LoadedBase, by_hand: Callable[..., torch.Tensor]) -> None:
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, VOCAB_SIZE, length).tolist() for length in (5, 17, 9, 3, 12)]
    requests = [DecodingRequest(tokens=tokens, member=MEMBER, seed=0) for tokens in prompts]
    found = {answer.index: list(answer.tokens) for answer in decode(base, requests, GREEDY, frozenset())}
    for index, prompt in enumerate(prompts):
        known = list(prompt)
        for _ in range(GREEDY.max_new_tokens):
            known.append(int(by_hand(known)[-1].argmax()))
        assert found[index] == known[len(prompt) :]


def test_alpha_and_both_models_are_in_what_results_are_tied_to(lab: Path, base: LoadedBase) -> None:
    whole, name = opened(lab, "proxy:{}/large+tuned")
    assert name == "large+s0"
    digests = {model_sha256(base, MEMBER), model_sha256(whole, MEMBER), model_sha256(whole, None)}
    assert len(digests) == 3
    assert base.max_length == whole.max_length == 2048


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("proxy:llama13b+abc", ProxySpec(large="llama13b", run="abc")),
        ("proxy:/m/a+b+runs/x@-0.5", ProxySpec(large="/m/a+b", run="runs/x", alpha=-0.5)),
    ],
)
def test_a_spec_names_model_run_and_alpha(name: str, spec: ProxySpec) -> None:
    assert parse_proxy(name) == spec


@pytest.mark.parametrize("name", ["proxy:", "proxy:large", "proxy:+run", "proxy:large+", "proxy:a+b@", "proxy:a+b@nan"])
def test_other_specs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected proxy:LARGE\+RUN"):
        parse_proxy(name)


def test_another_vocabulary_is_refused_by_name(lab: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", seed=1)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(other)
    with pytest.raises(ValueError, match=r"other\+s0: .*other and .*small have other vocabularies \(4 and 384 tokens"):
        opened(lab, f"proxy:{other}+tuned")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (AdapterMethod.dora, "s2 is adapter.method=dora, beside which its untouched"),
        (AdapterMethod.none, "is an untouched base"),
    ],
)
def test_runs_whose_difference_is_not_at_hand_are_refused(lab: Path, method: AdapterMethod, message: str) -> None:
    run = write_lora_run(lab / f"runs_{method.value}", lab / "small", 2, adapter={"method": method})
    saved = run / "adapter" / "adapter_config.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"use_dora": method is AdapterMethod.dora}))
    with pytest.raises(ValueError, match=message):
        opened(lab, f"proxy:{{}}/large+{run.name}", f"runs_{method.value}")


def test_options_that_mean_another_thing_are_refused(lab: Path, base: LoadedBase) -> None:
    with pytest.raises(ValueError, match=r"say its alpha in the name instead, as @0\.5"):
        at_scales(base, [Contestant(name="x", member=MEMBER)], [0.5])
    model = f"proxy:{lab / 'large'}+tuned"
    target = Target(model=model, adapters=(lab,), quant=None, run_ids=(), sweep=None, runs=lab / "runs")
    with pytest.raises(ValueError, match="its run says which adapter; leave --adapter out"):
        next(each_base(target))
    bare = Target(model=model, adapters=(), quant=None, run_ids=(), sweep=None, runs=lab / "runs")
    with pytest.raises(ValueError, match="large: its tokenizer has no chat template"):
        require_templates(bare)

"""Rows follow the free memory, and every evaluation gives the same numbers where the device has too little."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, LlamaForCausalLM

from eval.benchmarks.dataset_rows import evaluation_rows
from eval.benchmarks.glue.score import score_glue
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.benchmarks.perplexity.score import score_perplexity
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.super_ni.score import score_super_ni
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.judges.local import LocalJudge
from eval.judging.matches import Judgment
from eval.scoring import row_sizes
from eval.scoring.continuations import score_continuations
from eval.scoring.next_token import Prompt, next_token_logprobs
from eval.scoring.padded import score_padded
from eval.scoring.row_sizes import Backoff, kept_token_bytes, pass_token_bytes
from harness.banks.load import LoadedBase, load_base, set_num_labels
from harness.banks.shared import AdapterBank
from harness.config.choices import dataset_choice
from harness.config.schema import AdapterConfig, DType, ModelKind, PathsConfig, QuantConfig, QuantMethod
from harness.console import friendly_errors
from harness.models.locate import ModelSource
from harness.nn.batch import Segment
from tests.builders import a_match, open_base, questions
from tests.lab import write_rows
from tests.tiny import TEXT, VOCAB_SIZE, make_checkpoint, make_tokenizer, tiny_config
from tests.tiny_encoders import WORDS, make_roberta, make_t5, super_ni_rows
from tests.unit.eval.judges.test_local import base as judge_base  # noqa: F401  # a fixture

PLAIN = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
GIB = 2**30
ERRORS = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


@dataclass(slots=True)
class Cramped:
    """Makes a device fail for pieces above a size, after the work is done; counts."""

    failures: int = 0
    passes: int = 0

    def limit(self, patch: pytest.MonkeyPatch, target: Any, name: str, size: Callable[..., int], most: int) -> None:
        call = getattr(target, name)

        def limited(*args: Any, **options: Any) -> Any:
            found = call(*args, **options)
            if size(*args) > most:
                self.failures += 1
                raise ERRORS[self.failures % 2]()
            self.passes += 1
            return found

        patch.setattr(target, name, limited)


@pytest.fixture
def cramped() -> Cramped:
    return Cramped()


def num_row_tokens(input_ids: torch.Tensor, *rest: Any) -> int:
    return input_ids.shape[1]


def llama() -> Any:
    """The shape of LLaMA 7B in 16 bits, without weights; one block of it."""
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=1)).bfloat16()


def test_bytes_a_token_are_those_of_the_models_shape() -> None:
    model = llama()
    model.config.num_hidden_layers = 32
    assert kept_token_bytes(model) == 2 * 32 * 4096 * 2  # the half MiB of LLaMA 7B
    model.config.num_key_value_heads = 8
    assert kept_token_bytes(model) == 2 * 32 * 1024 * 2
    tiny = LlamaForCausalLM(tiny_config())
    assert kept_token_bytes(tiny) == 2 * 2 * (2 * 8) * 4  # layers, key/value heads of 8, float32
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=9, hidden_size=32, n_layer=3, n_head=4))
    assert kept_token_bytes(bloom) == 2 * 3 * 32 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_takes_no_more_than_is_reckoned(dtype: torch.dtype) -> None:
    """Weighed by torch's profiler: what lives at the worst moment of a packed pass with an adapter."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=128, intermediate_size=344, num_hidden_layers=2, num_attention_heads=4
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed").to(dtype).eval()
    bank = AdapterBank(model)
    bank.add_member("a", AdapterConfig(name="lora", lora_r=8), seed=0)
    bank.eval()
    num_tokens = 1000
    ids, segments = torch.full((1, num_tokens), 5), [Segment(num_tokens=num_tokens // 4, member="a")] * 4
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        bank(ids, segments)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    peak = int(np.cumsum(changes).max())
    assert peak <= num_tokens * pass_token_bytes(model) <= 2.5 * peak


@pytest.mark.parametrize(
    ("device", "free", "asked", "expected"),
    [
        ("cpu", 64 * GIB, None, 1024),
        ("cpu", 2**20, None, 1024),  # a CPU's rows don't depend on what else runs
        ("cuda", 100 * GIB, None, 16_384),
        ("cuda", 2 * GIB, None, 3158),
        ("cuda", 2**20, None, 128),
        ("cuda", 2**20, 5000, 5000),  # the user knows
        ("mps", 100 * GIB, None, 1024),
    ],
)
def test_rows_follow_the_free_memory(
    device: str, free: int, asked: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sizes, "free_bytes", lambda device: free)
    model = llama()
    bank = SimpleNamespace(device=torch.device(device), base=model)
    sizes = row_sizes.row_sizes(bank, asked)
    assert sizes.row_tokens == pytest.approx(expected, rel=0.1)
    assert sizes.kept_tokens * kept_token_bytes(model) == pytest.approx(0.6 * free, rel=0.02)


def test_a_size_is_halved_down_to_the_smallest_piece() -> None:
    backoff = Backoff(100, torch.device("cpu"), "row", "buy more")
    sizes: list[int] = []

    def work(size: int) -> str:
        sizes.append(size)
        if size > 30:
            raise ERRORS[len(sizes) % 2]()
        return "done"

    given_up: list[int] = []
    assert backoff.run(work, smallest=30, give_up=lambda: given_up.append(1)) == "done"
    assert sizes == [100, 50, 30]
    assert (len(given_up), backoff.size, backoff.num_halvings) == (2, 30, 2)
    assert backoff.run(work, smallest=1) == "done"  # it stays small
    with pytest.raises(torch.OutOfMemoryError, match=r"GiB of cpu are free.*too few for one row.*: buy more, load"):
        Backoff(40, torch.device("cpu"), "row", "buy more").run(work, smallest=40)


def test_a_failed_pass_is_free_before_the_next_try() -> None:
    """The error's traceback would hold its tensors."""
    alive: list[int] = []

    class Held:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def work(size: int) -> int:
        tensor = Held()
        assert len(alive) == 1
        if size > 1:
            raise torch.OutOfMemoryError("no room")
        return len([tensor])

    assert Backoff(8, torch.device("cpu"), "row", "x").run(work, smallest=1) == 1


def test_batches_hold_everything_once() -> None:
    backoff = Backoff(8, torch.device("cpu"), "row", "x")

    def work(batch: list[int]) -> int:
        if len(batch) > 3:
            raise ERRORS[0]()
        return sum(batch)

    def take(waiting: Any, size: int) -> list[int]:
        return list(waiting)[:size]

    found = list(backoff.in_batches(deque(range(11)), take, work, smallest=lambda _: 1))
    assert [place for batch, _ in found for place in batch] == list(range(11))
    assert all(total == sum(batch) for batch, total in found)
    assert max(len(batch) for batch, _ in found) == 2


def make_prompts() -> list[Prompt]:
    rng = np.random.default_rng(0)
    prompts = []
    for member in (None, "tuned"):
        for group in range(3):
            beginning = rng.integers(3, VOCAB_SIZE, 20 + group).tolist()
            for _ in range(4):
                own = rng.integers(3, VOCAB_SIZE, rng.integers(1, 20)).tolist()
                prompts.append(Prompt(tokens=beginning + own, member=member, group=str(group)))
    return prompts


def test_shared_prefixes(base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = make_prompts()
    expected = next_token_logprobs(base, prompts, [5, 6, 7])
    cramped.limit(monkeypatch, base.bank, "forward", num_row_tokens, most=40)
    progress: list[int] = []
    found = next_token_logprobs(base, prompts, [5, 6, 7], lambda done, total: progress.append(done))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert cramped.failures > 1
    assert progress == sorted(set(progress))
    assert progress[-1] == len(prompts)


def test_prefixes_are_dropped_where_they_take_the_room(
    base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that fails as long as the prefixes of more than two groups are kept."""
    prompts = make_prompts()
    expected = next_token_logprobs(base, prompts, [5])

    def kept(input_ids: torch.Tensor, segments: Any, *rest: Any, plan: Any = None, **options: Any) -> int:
        return sum(bool(group.prefix) for group in getattr(plan, "groups", ()))

    call = base.bank.forward

    def limited(*args: Any, **options: Any) -> Any:
        found = call(*args, **options)
        if kept(*args, **options) > 2:
            cramped.failures += 1
            raise ERRORS[0]()
        return found

    monkeypatch.setattr(base.bank, "forward", limited)
    np.testing.assert_allclose(next_token_logprobs(base, prompts, [5]), expected, atol=1e-4)
    assert cramped.failures


def test_a_prompt_that_does_not_fit_is_named(
    base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped.limit(monkeypatch, base.bank, "forward", num_row_tokens, most=10)
    with pytest.raises(torch.OutOfMemoryError, match="too few for one prompt of this evaluation: shorten the prompts"):
        next_token_logprobs(base, make_prompts(), [5])


def test_continuations_and_groups_that_are_cut(
    base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(5, seed=1)
    expected = dict(_scored(score_continuations(base, asked)))
    cramped.limit(monkeypatch, base.bank, "forward", num_row_tokens, most=30)  # a group alone has more
    found = dict(_scored(score_continuations(base, asked)))
    assert sorted(found) == list(range(len(asked)))
    for place, logprobs in expected.items():
        np.testing.assert_allclose(found[place], logprobs, atol=2e-4)
    assert cramped.failures > 1


def _scored(rows: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    seen: set[int] = set()
    for places, scores in rows:
        assert not seen & set(places), "scored twice"
        seen |= set(places)
        yield from ((place, score.logprobs) for place, score in zip(places, scores, strict=True))


def test_perplexity(base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PerplexitySettings(text="t", window=32, stride=8)
    members = {"base": None, "tuned": "tuned"}
    expected = score_perplexity(base, members, TEXT, settings)
    cramped.limit(monkeypatch, base.bank, "forward", num_row_tokens, most=70)
    found = score_perplexity(base, members, TEXT, settings)
    for name, result in expected.items():
        assert found[name].token_perplexity == pytest.approx(result.token_perplexity, rel=1e-4)
        assert found[name].num_tokens == result.num_tokens
    assert cramped.failures


def test_the_user_says_how_long_rows_are(base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    cramped.limit(monkeypatch, base.bank, "forward", num_row_tokens, most=10**6)
    passes = []
    for row_tokens in (40, None):
        cramped.passes = 0
        score_perplexity(base, {"base": None}, TEXT, PerplexitySettings(text="t", window=32, row_tokens=row_tokens))
        score_mmlu(base, {"base": None}, MmluSettings(limit=6, num_shots=1, row_tokens=row_tokens))
        passes.append(cramped.passes)
    assert passes[0] > passes[1]
    for settings in (MmluSettings, lambda **rest: PerplexitySettings(text="t", **rest)):
        with pytest.raises(ValueError, match="row_tokens=0: expected 1 or more"):
            settings(row_tokens=0)


def test_commands_say_in_a_sentence_that_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), friendly_errors():
        raise torch.OutOfMemoryError("0.1 GiB of cuda are free: shorten the prompts")
    assert "error: 0.1 GiB of cuda are free: shorten the prompts" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="shapes"), friendly_errors():
        raise RuntimeError("shapes")


def test_padded_batches(tmp_path: Path, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    bloom = open_base(tmp_path)
    prompts, candidates = make_prompts(), [[5, 6]] * 24
    expected = _table(score_padded(bloom, prompts, candidates))
    cramped.limit(monkeypatch, bloom.bank, "forward", num_row_tokens, most=100)
    np.testing.assert_allclose(_table(score_padded(bloom, prompts, candidates)), expected, atol=1e-4)
    assert cramped.failures


def _table(batches: Iterator[Any]) -> np.ndarray:
    found = {place: row for places, rows in batches for place, row in zip(places, rows, strict=True)}
    assert sorted(found) == list(range(24))
    return np.stack([found[place] for place in range(24)])


def test_a_local_judge(judge_base: LoadedBase, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    matches = [a_match(f"one {n}", f"two {n * n}", f"Why {n}?") for n in range(4)]

    def judged() -> list[Judgment]:
        found: list[Judgment] = []
        assert LocalJudge(judge_base, "tiny").judge(matches, found.append) == []
        return sorted(found, key=lambda judgment: judgment.question_id)

    expected = judged()
    cramped.limit(monkeypatch, judge_base.bank, "forward", num_row_tokens, most=250)
    for ours, theirs in zip(judged(), expected, strict=True):
        assert (ours.question_id, ours.verdict) == (theirs.question_id, theirs.verdict)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert cramped.failures


def test_a_classifier(tmp_path: Path, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = [{"sentence": f"A {WORDS[i % 8]} day " * (1 + i % 3), "label": i % 2, "idx": i} for i in range(16)]
    write_rows(tmp_path / "store" / "glue_sst2" / "validation.jsonl", sentences)
    paths = PathsConfig(data_store=str(tmp_path / "store"), cache="unused")
    folder = make_roberta(tmp_path / "model")
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=512)
    loaded = load_base(source, PLAIN, torch.device("cpu"), folder, ModelKind.classifier)
    set_num_labels(loaded.bank, 2)
    loaded.bank.add_member("a", AdapterConfig(name="lora", lora_r=2), seed=0)
    loaded.bank.eval()
    rows = evaluation_rows(dataset_choice("glue_sst2"), None, None, paths)
    expected = score_glue(loaded, "s", "a", rows, GlueSettings())
    cramped.limit(monkeypatch, loaded.bank, "label_logits", lambda items: sum(len(i.tokens) for i in items), most=60)
    found = score_glue(loaded, "s", "a", rows, GlueSettings(), partial_dir=tmp_path)
    assert len(found.predictions) == 16
    for ours, theirs in zip(found.predictions, expected.predictions, strict=True):
        assert ours.line == theirs.line
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    assert cramped.failures


def test_an_encoder_decoder(tmp_path: Path, cramped: Cramped, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "super_ni" / "test.jsonl", super_ni_rows(9))
    rows = evaluation_rows(
        dataset_choice("super_ni"), None, None, PathsConfig(data_store=str(tmp_path), cache="unused")
    )
    folder = make_t5(tmp_path / "t5")
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=1024)
    loaded = load_base(source, PLAIN, torch.device("cpu"), folder, ModelKind.seq2seq)
    loaded.bank.add_member("a", AdapterConfig(name="lora", lora_r=2, lora_dropout=0.0), seed=0)
    loaded.bank.eval()
    settings = SuperNiSettings(max_new_tokens=8)
    expected = score_super_ni(loaded, "s", "a", rows, settings)
    cramped.limit(monkeypatch, loaded.bank, "generate", lambda sources, count: len(sources), most=2)
    found = score_super_ni(loaded, "s", "a", rows, settings)
    assert [p.answer for p in found.predictions] == [p.answer for p in expected.predictions]
    assert cramped.failures

"""RougeL on held-out rows: asked in training's own tokens, several runs of a base together, kept as it comes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from eval.answers.generate import eos_tokens
from eval.answers.sequences import Decoded
from eval.benchmarks.benchmark import Contestant, Place
from eval.benchmarks.intervals import mean_score, mean_share
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.score import RougeResult, score_rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.systems import System, load_members
from harness.banks.load import LoadedBase
from harness.config.schema import EvalConfig, TrainConfig
from harness.data.encoding import source_tokens
from harness.data.formats import input_output
from sweeps.plan.evaluations import evaluation_problems
from sweeps.plan.jobs import plan_runs
from sweeps.plan.once import Once
from tests.lab import write_rows
from tests.tiny import make_checkpoint
from tests.worker import ROWS, OneWorker

NUM_HELD_OUT = 6
Score = Callable[..., dict[str, RougeResult]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[OneWorker]:
    """Two runs that hold out the same rows, one that holds out others."""
    made = OneWorker(tmp_path_factory.mktemp("worker"), model)
    made.plan([made.config(eval_rows=NUM_HELD_OUT, **changes) for changes in ({}, {"seed": 5}, {"data_seed": 9})])
    made.work()
    yield made
    made.ledger.close()


@pytest.fixture(scope="module")
def systems(worker: OneWorker) -> list[System]:
    runs = plan_runs([worker.config(eval_rows=NUM_HELD_OUT, **c) for c in ({}, {"seed": 5}, {"data_seed": 9})])
    return [
        System(name=f"run {place}", run_id=run.run_id, spec=run.spec, folder=worker.folder / "runs" / run.run_id)
        for place, run in enumerate(runs)
    ]


@pytest.fixture(scope="module")
def base(worker: OneWorker, systems: list[System]) -> LoadedBase:
    base = worker.context.base(systems[0].spec)
    load_members(base, systems)
    return base


@pytest.fixture
def score(worker: OneWorker, base: LoadedBase, systems: list[System], tmp_path: Path) -> Score:
    def call(of: Sequence[System] = systems, on_progress: Any = lambda done, total: None, **settings: Any) -> Any:
        contestants = [Contestant(name=one.name, member=one.member, system=one) for one in of]
        place = Place(paths=worker.paths, partial=tmp_path / "partial", on_progress=on_progress)
        return score_rouge(base, contestants, RougeSettings(**{"max_new_tokens": 12, **settings}), place)

    return call


def test_the_rows_are_those_that_were_held_out(score: Score, systems: list[System]) -> None:
    progress: list[tuple[int, int]] = []
    results = score(on_progress=lambda done, total: progress.append((done, total)))
    assert list(results) == [one.name for one in systems]
    assert progress == [(done, 18) for done in range(1, 19)]
    names = [{p.name for p in result.predictions} for result in results.values()]
    assert names[0] == names[1] != names[2]
    assert [len(those) for those in names] == [NUM_HELD_OUT] * 3
    outputs = {row["output"] for row in ROWS}
    assert all(p.reference in outputs for result in results.values() for p in result.predictions)
    one, other, third = results.values()
    assert one.settings_sha256 == other.settings_sha256 != third.settings_sha256
    assert one.model_sha256 != other.model_sha256


def test_scores_by_hand(score: Score, systems: list[System], base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference itself; half of its words; nothing of it."""
    ((_, plain),) = score(systems[:1]).items()
    texts = [prediction.reference for prediction in plain.predictions]
    words = [" ".join(text.split()[:2]) for text in texts]  # "It is" of "It is 5, as ever.": P 1, R 2/5, F 4/7
    answers = [texts[0], words[1], "zebra", texts[3].upper(), "", words[5]]

    def decode(base: LoadedBase, requests: Sequence[Any], settings: Any, *rest: Any) -> Iterator[Any]:
        assert settings.greedy
        for index in reversed(range(len(requests))):
            tokens = tuple(base.tokenizer.encode(answers[index], add_special_tokens=False))
            reason = "length" if index == 2 else "eos"
            yield Decoded(index=index, tokens=tokens, finish_reason=reason)

    monkeypatch.setattr(rouge, "decode", decode)
    result = score(systems[:1], max_new_tokens=13)[systems[0].name]
    found = [round(prediction.rouge_l, 4) for prediction in result.predictions]
    assert found == [1.0, 0.5714, 0.0, 1.0, 0.0, 0.5714]
    assert [prediction.exact_match for prediction in result.predictions] == [True, False, False, True, False, False]
    assert result.rouge_l == pytest.approx((2 + 2 * 4 / 7) / 6)
    assert result.exact_match == pytest.approx(2 / 6)
    assert (result.n, result.num_cut) == (6, 1)
    assert [prediction.is_cut for prediction in result.predictions].index(True) == 2
    assert result.rouge_l_ci95 is not None
    assert result.rouge_l_ci95[0] < result.rouge_l < result.rouge_l_ci95[1]
    values = result.to_json()
    by_metric = {one.metric: one for one in BENCHMARKS["rouge"].by_question(values)}
    assert by_metric["rouge_l"].values == pytest.approx([p.rouge_l for p in result.predictions])
    assert by_metric["exact_match"].given == [p.answer for p in result.predictions]
    assert BENCHMARKS["rouge"].headline(result).estimate.value == result.rouge_l


def test_answers_are_those_of_peft(score: Score, systems: list[System], base: LoadedBase, model: Path) -> None:
    system = systems[1]
    result = score([system], limit=2)[system.name]
    assert result.n == 2
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(system.folder / "adapter"))
    for prediction in result.predictions:
        (row,) = [row for row in ROWS if row["output"] == prediction.reference]
        (example,) = input_output(row)
        prompt = [*source_tokens(example.input, base.tokenizer)]
        ids = torch.tensor([prompt])
        end = list(eos_tokens(base))
        written = plain.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=end)[0, len(prompt) :]
        assert base.tokenizer.decode(written, skip_special_tokens=True).strip() == prediction.answer


def test_a_killed_call_goes_on(score: Score, systems: list[System], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(max_new_tokens=5)
    real, asked = rouge.decode, list[int]()

    def counted(base: LoadedBase, requests: Sequence[Any], *rest: Any) -> Iterator[Any]:
        asked.append(len(requests))
        return real(base, requests, *rest)

    monkeypatch.setattr(rouge, "decode", counted)

    def killed(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(max_new_tokens=4, on_progress=killed)
    again = score(max_new_tokens=4)
    assert asked == [18, 14]
    assert [r.n for r in again.values()] == [r.n for r in whole.values()]


def test_what_has_no_held_out_rows_is_refused(
    score: Score, systems: list[System], worker: OneWorker, tmp_path: Path
) -> None:
    bare = worker.config()
    bare.eval = replace(EvalConfig(), after_training=["rouge"])
    (run,) = plan_runs([bare])
    (problem,) = evaluation_problems(run, worker.paths, Once())
    assert problem == ("eval.after_training: rouge answers held-out rows, and the run has none; add train.eval_rows=N")
    assert BENCHMARKS["rouge"].run_problem(None) == "answers held-out rows, and an untouched base has none"
    assert BENCHMARKS["rouge"].run_problem(TrainConfig(eval_rows=1)) is None
    with pytest.raises(ValueError, match=r"run 0 has no held-out rows; name runs that were trained with train.eval"):
        score([replace(systems[0], spec=run.spec)])
    text = worker.rows.read_text()
    write_rows(worker.rows, ROWS[:-1])
    try:
        with pytest.raises(ValueError, match=r"its rows have changed since run .* was trained"):
            score(systems[:1])
    finally:
        worker.rows.write_text(text)


def test_an_interval_of_two_answers_stays_between_nothing_and_all() -> None:
    assert mean_share([[0.5, 0.8]]).ci95 == (0.0, 1.0)
    assert mean_share([[0.5, 0.52, 0.51]]) == mean_score([[0.5, 0.52, 0.51]])
    assert mean_share([[0.5]]).ci95 is None


@pytest.mark.parametrize("settings", [{"limit": 0}, {"max_new_tokens": 0}])
def test_settings_below_one_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        RougeSettings(**settings)

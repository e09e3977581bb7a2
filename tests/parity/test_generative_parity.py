"""lm-eval's generating tasks on our batches, beside lm-eval's own HF model: equal answers and scores, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from eval.benchmarks.tasks.results import TasksResult
from eval.benchmarks.tasks.score import score_tasks
from eval.benchmarks.tasks.settings import TasksSettings
from harness.banks.load import LoadedBase, load_base
from harness.models.convert import checkpoint_folder
from tests.builders import PLAIN, open_base, smollm2
from tests.tiny import make_checkpoint

pytest.importorskip("lm_eval", reason="needs the `tasks` extra (lm-eval)")
local = pytest.importorskip("tests.records.generative_tasks", reason="needs the `tasks` extra (lm-eval)")
CHAT = (
    "{% for m in messages %}[{{m.role}}] {{m.content}}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TasksSettings:
    folder = tmp_path_factory.mktemp("tasks")
    return TasksSettings(names=local.write_generative_tasks(folder), folder=str(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedBase, PreTrainedModel]:
    """The tiny base, and the same weights as transformers has them."""
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny") / "base")
    return open_base(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def theirs(base: LoadedBase, model: Any, settings: TasksSettings, batch_size: int = 1) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True} if settings.chat else {}
    hf_model = HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=batch_size, max_length=base.max_length)
    loaded = TaskManager(include_path=str(settings.folder), include_defaults=False).load(list(settings.names))
    for task in loaded["tasks"].values():  # as `simple_evaluate` does
        task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(seed=1234)
    return dict(evaluate(hf_model, loaded, bootstrap_iters=0, log_samples=True, limit=settings.limit, **chat))


def assert_equal(ours: TasksResult, expected: dict[str, Any]) -> None:
    """Every answer, and every metric of every filter, is lm-eval's."""
    assert set(ours.tasks) == set(expected["samples"])
    for task, score in ours.tasks.items():
        for prediction in score.predictions:
            samples = [s for s in expected["samples"][task] if s["doc_id"] == prediction.doc_id]
            assert list(prediction.responses) == samples[0]["resps"][0], task
        reported = {
            key.removesuffix(",none"): value
            for key, value in expected["results"][task].items()
            if "," in key and "_stderr" not in key and "bypass" not in key
        }
        assert {name: metric.value for name, metric in score.metrics.items()} == pytest.approx(reported), task


def test_answers_and_scores_of_base_and_adapter_are_lm_evals(
    tiny: tuple[LoadedBase, PreTrainedModel], settings: TasksSettings, tmp_path: Path
) -> None:
    base, model = tiny
    base.bank.save_member("tuned", tmp_path / "tuned", "tiny", "main")
    ours = score_tasks(base, {"base": None, "tuned": "tuned"}, settings)
    assert_equal(ours["base"], theirs(base, model, settings))
    answers = {
        name: [p.responses for t in result.tasks.values() for p in t.predictions] for name, result in ours.items()
    }
    assert answers["base"] != answers["tuned"]
    copy = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32)
    of_adapter = PeftModel.from_pretrained(copy, tmp_path / "tuned")
    assert_equal(ours["tuned"], theirs(base, of_adapter, settings))


def test_a_prompt_too_long_is_cut_on_the_left(
    tiny: tuple[LoadedBase, PreTrainedModel], settings: TasksSettings
) -> None:
    short = replace(tiny[0], max_length=50)
    cut = replace(settings, names=["local_gsm8k", "local_mbpp"])
    ours = score_tasks(short, {"base": None}, cut)["base"]
    assert_equal(ours, theirs(short, tiny[1], cut))
    whole = score_tasks(tiny[0], {"base": None}, cut)["base"]
    assert [p.responses for p in ours.tasks["local_gsm8k"].predictions] != [
        p.responses for p in whole.tasks["local_gsm8k"].predictions
    ]


def test_a_chat_template_and_a_models_penalty_are_followed(
    tiny: tuple[LoadedBase, PreTrainedModel], settings: TasksSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, model = tiny
    asked = replace(settings, names=["local_gsm8k", "local_ifeval"], chat=True)
    monkeypatch.setattr(base.tokenizer, "chat_template", CHAT)
    for of_model in (base.bank.base, model):
        monkeypatch.setattr(of_model.generation_config, "repetition_penalty", 1.7)
    assert_equal(score_tasks(base, {"base": None}, asked)["base"], theirs(base, model, asked))


@pytest.mark.slow
def test_answers_and_scores_are_lm_evals_on_smollm2(settings: TasksSettings) -> None:
    source, cache = smollm2()
    base = load_base(source, PLAIN, torch.device("cpu"), cache)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    for asked in (settings, replace(settings, chat=True)):
        assert_equal(score_tasks(base, {"base": None}, asked)["base"], theirs(base, model, asked))

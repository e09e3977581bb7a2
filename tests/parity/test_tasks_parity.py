"""lm-eval's tasks on our loaded base, beside lm-eval's own HF model: the same choices, log-likelihoods to 1e-3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from eval.benchmarks.tasks.score import score_tasks
from eval.benchmarks.tasks.settings import TasksSettings
from harness.banks.load import LoadedBase, load_base
from harness.models.convert import checkpoint_folder
from tests.builders import PLAIN, open_base, smollm2
from tests.tiny import make_checkpoint

lm_eval = pytest.importorskip("lm_eval", reason="needs the `tasks` extra (lm-eval)")
local = pytest.importorskip("tests.local_tasks", reason="needs the `tasks` extra (lm-eval)")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TasksSettings:
    folder = tmp_path_factory.mktemp("tasks")
    return TasksSettings(names=list(local.write_local_tasks(folder)), folder=str(folder))


def compare(base: LoadedBase, member: str | None, model: Any, settings: TasksSettings) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = score_tasks(base, {"ours": member}, settings)["ours"]
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=4, max_length=base.max_length),
        tasks=list(settings.names),
        task_manager=TaskManager(include_path=str(settings.folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert set(found.tasks) == set(theirs["samples"]) == set(settings.names)
    for task, score in found.tasks.items():
        samples = sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])
        for prediction, sample in zip(score.predictions, samples, strict=True):
            responses = sample["filtered_resps"]
            expected = [r[0] if isinstance(r, (tuple, list)) else r for r in responses]
            np.testing.assert_allclose(prediction.logprobs, expected, atol=1e-3, rtol=1e-5)
            assert int(np.argmax(prediction.logprobs)) == int(np.argmax(expected))
        for name, metric in score.metrics.items():
            assert metric.value == pytest.approx(theirs["results"][task][f"{name},none"], rel=1e-4), (task, name)


def test_every_task_equals_lm_evals_hf_model_on_a_tiny_one(settings: TasksSettings, tmp_path: Path) -> None:
    base = open_base(make_checkpoint(tmp_path / "base"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    compare(base, None, model, settings)
    base.bank.save_member("tuned", tmp_path / "tuned", "tiny", "main")
    compare(base, "tuned", PeftModel.from_pretrained(model, tmp_path / "tuned"), settings)


@pytest.mark.slow
def test_every_task_equals_lm_evals_hf_model_on_smollm2(settings: TasksSettings) -> None:
    source, cache = smollm2()
    base = load_base(source, PLAIN, torch.device("cpu"), cache)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    compare(base, None, model, settings)

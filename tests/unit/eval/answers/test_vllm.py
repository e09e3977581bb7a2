"""vLLM is not installed here: a stand-in module shows which arguments would reach it, and nothing more is claimed."""

import dataclasses
import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from eval.answers.dialogue import HUMAN_STOPS
from eval.answers.generate import generate_answers
from eval.answers.questions import load_open_questions
from eval.answers.settings import GenerateSettings
from eval.answers.vllm import load_vllm
from eval.commands.generate import run_generate
from eval.systems import System, Target, open_system
from harness.banks.load import load_base
from harness.config.schema import PathsConfig
from harness.models.locate import folder_fingerprint
from harness.runs.record import save_record
from tests.builders import record, spec
from tests.tiny import make_checkpoint

SETTINGS = GenerateSettings(max_new_tokens=8, seed=5, engine="vllm")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in was asked for."""
    seen: dict[str, Any] = {"generate": []}

    class LLM:
        def __init__(self, **options: Any) -> None:
            seen["llm"] = options

        def generate(self, prompts: Any, **options: Any) -> list[Any]:
            seen["generate"].append((prompts, options))
            ends = [("stop", None, (70, 2)), ("length", None, (70, 71)), ("stop", "### Human:", (70, 71))]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(finish_reason=r, stop_reason=s, token_ids=t)])
                for r, s, t in (ends[place % 3] for place in range(len(prompts)))
            ]

    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    vllm.LLM = LLM  # type: ignore[attr-defined]
    vllm.SamplingParams = lambda **options: options  # type: ignore[attr-defined]
    request.LoRARequest = lambda name, number, path: (name, number, path)  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def make_run(runs: Path, folder: Path, run_id: str, **choices: Any) -> System:
    model = ("local", {"path": str(folder), "hub_id": "tiny", "max_length": 512})
    one = spec(model=model, **choices)
    about = {"label": run_id, "spec": one.to_dict(), "base_fingerprint": folder_fingerprint(folder)}
    save_record(runs / run_id, dataclasses.replace(record(), run_id=run_id, **about))
    (runs / run_id / "config.yaml").write_text(yaml.safe_dump(one.to_dict()))
    return open_system(runs / run_id)


def test_vllm_forks_no_process_that_may_have_asked_cuda(
    calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = [make_run(tmp_path, make_checkpoint(tmp_path / "tiny"), "base", adapter="none")]
    name = "VLLM_WORKER_MULTIPROCESSING_METHOD"
    for before, after in (("", "spawn"), ("forkserver", "forkserver")):
        monkeypatch.delenv(name, raising=False)
        if before:
            monkeypatch.setenv(name, before)
        load_vllm(systems, PathsConfig(cache=str(tmp_path / "cache")))
        assert os.environ[name] == after, "the user's own word stands"


def test_arguments_reach_vllm_and_answers_come_back(calls: dict[str, Any], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    systems = [make_run(tmp_path, folder, "base", adapter="none"), make_run(tmp_path, folder, "tuned")]
    base = load_vllm(systems, PathsConfig(cache=str(tmp_path / "cache")))
    assert calls["llm"] == {
        "model": str(folder),
        "dtype": "float32",
        "max_model_len": 512,
        "quantization": "bitsandbytes",
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 64,
    }
    questions = load_open_questions("embedded", 2)
    answers = generate_answers(base, systems, questions, "open", SETTINGS)
    ((prompts, options),) = calls["generate"]
    assert len(prompts) == 4
    assert all(isinstance(token, int) for token in prompts[0]["prompt_token_ids"])
    assert options["lora_request"] == [None, None, *[("tuned", 1, str(tmp_path / "tuned" / "adapter"))] * 2]
    first = options["sampling_params"][0]
    assert {key: first[key] for key in ("max_tokens", "temperature", "top_p")} == {
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    assert (first["stop"], first["stop_token_ids"]) == (
        list(HUMAN_STOPS),
        [2],
    )  # the paper's format; EOS
    assert len({params["seed"] for params in options["sampling_params"]}) == 2  # a prompt's own, whoever answers
    reasons = [answer.finish_reason for name in ("base", "tuned") for answer in answers[name]]
    assert reasons == ["eos", "length", "stop", "eos"]
    assert answers["base"][0].num_tokens == 1  # EOS is left out
    own = load_base(base.source, systems[0].spec.quant, torch.device("cpu"), tmp_path)
    with pytest.raises(ValueError, match=r"holds answers made otherwise \(the model\)"):  # vLLM's are not ours
        generate_answers(own, systems[:1], questions, "open", dataclasses.replace(SETTINGS, engine="own"))


def test_greedy_and_unquantized(calls: dict[str, Any], tmp_path: Path) -> None:
    systems = [make_run(tmp_path, make_checkpoint(tmp_path / "tiny"), "base", adapter="none", quant="none")]
    base = load_vllm(systems, PathsConfig(cache=str(tmp_path / "cache")))
    assert set(calls["llm"]) == {"model", "dtype", "max_model_len"}
    generate_answers(
        base, systems, load_open_questions("embedded", 1), "open", dataclasses.replace(SETTINGS, greedy=True)
    )
    options = calls["generate"][0][1]
    assert options["lora_request"] is None
    assert (options["sampling_params"][0]["temperature"], options["sampling_params"][0]["top_p"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"quant": "fp4"}, "quant=fp4: --engine vllm serves quant=nf4"),
        ({"adapter": "dora"}, "adapter.method=dora: --engine vllm serves lora"),
        ({"adapter": ("lora", {"lora_r": 1024})}, "adapter.lora_r=1024"),
    ],
)
def test_runs_that_vllm_would_serve_otherwise_are_refused(
    calls: dict[str, Any], tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    system = make_run(tmp_path, tmp_path, "run", **choices)
    with pytest.raises(ValueError, match=message):
        load_vllm([system], PathsConfig(cache=str(tmp_path)))


def test_without_vllm_the_command_says_so(tmp_path: Path) -> None:
    target = Target(model=None, adapters=(), quant=None, run_ids=("x",), sweep=None, runs=tmp_path)
    with pytest.raises(ValueError, match="vLLM is not installed; pip install vllm"):
        run_generate(target, "embedded", "open", 1, SETTINGS, False, lambda done, total: None, tmp_path)
    with pytest.raises(ValueError, match="engine=tgi: expected one of own, vllm"):
        GenerateSettings(engine="tgi")

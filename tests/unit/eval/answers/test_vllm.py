"""vLLM is not installed here: a stand-in module shows which arguments would reach it, and nothing more is claimed."""

import dataclasses
import hashlib
import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from eval.answers import vllm
from eval.answers.dialogue import HUMAN_STOPS
from eval.answers.generate import generate_answers
from eval.answers.questions import load_open_questions
from eval.answers.settings import GenerateSettings
from eval.answers.vllm import load_vllm
from eval.commands.generate import run_generate
from eval.systems import System, Target, open_system
from harness.banks.load import load_base
from harness.config.schema import ModelKind, PathsConfig
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


@pytest.mark.parametrize(("lora_r", "rank"), [(1, 8), (8, 8), (9, 16), (257, 320), (320, 320), (321, 512), (512, 512)])
def test_adapters_are_served_by_the_next_rank_that_kernels_have(
    calls: dict[str, Any], tmp_path: Path, lora_r: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in needs no weights: what is located, read and compared is passed over."""
    monkeypatch.setattr(vllm, "locate_model", lambda model, paths: SimpleNamespace(location="x", max_length=64))
    monkeypatch.setattr(vllm, "checkpoint_folder", lambda source, cache: tmp_path)
    for name in ("folder_fingerprint", "tokenizer_fingerprint"):
        monkeypatch.setattr(vllm, name, lambda folder: "f")
    for name in ("require_same_base", "require_same_tokenizer"):
        monkeypatch.setattr(vllm, name, lambda *given: None)
    config = SimpleNamespace(eos_token_id=[3, None], max_position_embeddings=32)
    monkeypatch.setattr(vllm, "AutoConfig", SimpleNamespace(from_pretrained=lambda folder: config))
    tokenizer = SimpleNamespace(eos_token_id=4)
    monkeypatch.setattr(vllm, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda folder: tokenizer))
    one = spec(adapter=("lora", {"lora_r": lora_r}))
    systems: Any = [
        SimpleNamespace(name=name, spec=one, member=name, folder=tmp_path / name) for name in ("first", "second")
    ]
    base = load_vllm(systems, PathsConfig(cache=str(tmp_path)))
    assert (calls["llm"]["max_lora_rank"], calls["llm"]["max_loras"], calls["llm"]["max_model_len"]) == (rank, 2, 32)
    assert (base.max_length, base.eos_tokens) == (32, {3, 4})
    assert base.loras["second"] == ("second", 2, str(tmp_path / "second" / "adapter"))


def test_prompts_go_in_chunks_and_keep_their_places(calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "CHUNK_PROMPTS", 2)
    llm = sys.modules["vllm"].LLM()
    base: Any = SimpleNamespace(llm=llm, max_length=10, loras={})
    requests: Any = [SimpleNamespace(tokens=[1] * size, seed=size, member=None) for size in (3, 8, 5)]
    settings: Any = SimpleNamespace(max_new_tokens=4, greedy=False, temperature=0.5, top_p=0.25)
    found = list(vllm.decode_vllm(base, requests, settings, frozenset({9, 2}), ["stop"]))
    assert [(one.index, one.tokens, one.finish_reason) for one in found] == [
        (0, (70,), "eos"), (1, (70, 71), "length"), (2, (70,), "eos"),
    ]  # fmt: skip
    assert [len(prompts) for prompts, _ in calls["generate"]] == [2, 1]
    sampled = [one for _, options in calls["generate"] for one in options["sampling_params"]]
    assert [one["max_tokens"] for one in sampled] == [4, 2, 4]
    assert sampled[0] | {"seed": 0} == {
        "max_tokens": 4, "temperature": 0.5, "top_p": 0.25, "seed": 0, "stop": ["stop"], "stop_token_ids": [2, 9],
        "include_stop_str_in_output": True,
    }  # fmt: skip
    assert calls["generate"][0][1]["use_tqdm"] is False


@pytest.mark.parametrize("change", [{"double_quant": False}, {"block_size": 128}])
def test_only_one_kind_of_nf4_is_served(change: dict[str, Any]) -> None:
    one = spec()
    odd = dataclasses.replace(one, quant=dataclasses.replace(one.quant, **change))
    system: Any = SimpleNamespace(name="s", spec=odd, member="s")
    with pytest.raises(ValueError, match=r"s: quant=.*: --engine vllm serves quant=nf4 \(double quantization"):
        vllm._require_served(system)
    vllm._require_served(SimpleNamespace(name="s", spec=one, member="s"))  # type: ignore[arg-type]
    widest = dataclasses.replace(one, adapter=dataclasses.replace(one.adapter, lora_r=512))
    vllm._require_served(SimpleNamespace(name="s", spec=widest, member="s"))  # type: ignore[arg-type]
    encoder = dataclasses.replace(one, model=dataclasses.replace(one.model, kind=ModelKind.seq2seq))
    with pytest.raises(ValueError, match="s: a model of kind seq2seq scores no next token"):
        vllm._require_served(SimpleNamespace(name="s", spec=encoder, member="s"))  # type: ignore[arg-type]


def test_a_models_digest_is_of_its_base_its_bits_and_its_adapter_where_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    weights, config = tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "adapter" / "adapter_config.json"
    weights.write_bytes(b"w")
    config.write_bytes(b"c")

    def digest(member: str | None, fingerprint: str = "base", quant: str = "nf4") -> str:
        base: Any = SimpleNamespace(fingerprint=fingerprint, quant=spec(quant=quant).quant)
        return vllm.VllmBase.model_sha256(base, SimpleNamespace(member=member, folder=tmp_path))  # type: ignore[arg-type]

    found = {digest("a"), digest(None), digest(None, "other"), digest(None, quant="none")}
    tuned, plain = digest("a"), digest(None)
    config.write_bytes(b"d")
    assert (digest(None), digest("a") == tuned) == (plain, False)
    weights.write_bytes(b"x")
    assert len(found | {digest("a")}) == 5
    assert digest(None) == hashlib.sha256(b'["vllm", "base", "nf4"]').hexdigest()

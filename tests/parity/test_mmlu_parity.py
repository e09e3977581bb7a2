"""MMLU beside lm-eval 0.4.13: the same prompt text, the same choice, log-probabilities to 1e-3."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from eval.benchmarks.mmlu.prompts import chat_text, prompt_text
from eval.benchmarks.mmlu.questions import Role, load_questions
from eval.benchmarks.mmlu.score import load_set, score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import AdapterConfig, DType, QuantConfig, QuantMethod
from harness.models.convert import checkpoint_folder
from harness.models.locate import ModelSource
from tests.builders import PLAIN, smollm2
from tests.lab import REPOSITORY
from tests.tiny import make_checkpoint

reference = pytest.importorskip("benchmarks.evaluation.lm_eval_reference", reason="needs the `parity` extra (lm-eval)")
MMLU = REPOSITORY.parent / "shared" / "data" / "mmlu"
SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "business_ethics")
NF4 = QuantConfig(name="nf4", method=QuantMethod.nf4, compute_dtype=DType.float32)

needs_data = pytest.mark.skipif(not MMLU.is_dir(), reason="no reference data beside this checkout")


def four_subjects(folder: Path, limit_per_subject: int | None = None) -> MmluSettings:
    """Writes the questions of `SUBJECTS` to a file of their own."""
    path = folder / "questions.jsonl"
    lines = (MMLU / "val.jsonl").read_text().split("\n")
    path.write_text("\n".join(line for line in lines if any(f'"subject":"{s}"' in line for s in SUBJECTS)))
    return MmluSettings(questions=str(path), shots_file=str(MMLU / "dev.jsonl"), limit_per_subject=limit_per_subject)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load_base(
        ModelSource(kind="folder", location=str(folder), revision="main", max_length=2048),
        PLAIN,
        torch.device("cpu"),
        folder,
    )


@needs_data
@pytest.mark.parametrize("num_shots", [0, 5])
def test_prompts_and_scores_are_lm_evals_on_a_tiny_model(tiny: LoadedBase, tmp_path: Path, num_shots: int) -> None:
    settings = four_subjects(tmp_path, limit_per_subject=2)
    settings = MmluSettings(
        questions=settings.questions, shots_file=settings.shots_file, limit_per_subject=2, num_shots=num_shots
    )
    _compare(tiny, str(tiny.source.location), settings, tmp_path)


@pytest.mark.slow
@needs_data
def test_every_choice_and_log_probability_is_lm_evals_on_smollm2(tmp_path: Path) -> None:
    source, cache = smollm2()
    base = load_base(source, PLAIN, torch.device("cpu"), cache)
    _compare(base, str(checkpoint_folder(source, cache)), four_subjects(tmp_path), tmp_path)


@pytest.mark.slow
@needs_data
def test_shared_prefix_equals_whole_prompts_on_nf4_with_adapters(tmp_path: Path) -> None:
    """The quantized base and two adapters, against passes of one whole prompt each (rows of groups of one)."""
    source, cache = smollm2()
    base = load_base(source, NF4, torch.device("cpu"), cache)
    torch.manual_seed(0)
    for name, rank in (("narrow", 4), ("wide", 16)):
        base.bank.add_member(name, AdapterConfig(name="lora", lora_r=rank, lora_alpha=16), seed=rank)
        for key, parameter in base.bank.member_parameters(name).items():
            if "lora_B" in key:
                parameter.data.normal_(0, 0.01)
    base.bank.eval()
    settings = four_subjects(tmp_path, limit_per_subject=2)
    members = {"base": None, "narrow": "narrow", "wide": "wide"}
    together = score_mmlu(base, members, settings)
    for name, member in members.items():
        for place, question in enumerate(load_set(settings).questions):
            alone = _write_one(tmp_path, question)
            single = score_mmlu(base, {name: member}, MmluSettings(questions=alone, shots_file=settings.shots_file))[
                name
            ].predictions[0]
            prediction = together[name].predictions[place]
            np.testing.assert_allclose(prediction.logprobs, single.logprobs, atol=1e-3)
            assert prediction.choice == single.choice


def test_the_chat_prompt_is_lm_evals(tiny: LoadedBase) -> None:
    """lm-eval's `--apply_chat_template`: description as system, shots and question as one user turn."""
    from lm_eval.api.utils import Message, multiturn_to_singleturn

    questions, shots = load_questions("embedded", Role.questions), load_questions("embedded", Role.shots)
    question = questions[0]
    shown = [shot for shot in shots if shot.subject == question.subject][:2]
    whole = prompt_text(Protocol.lm_eval, shown, question)
    description, rest = whole.split("\n\n", 1)
    turns = multiturn_to_singleturn([Message("system", description + "\n\n"), Message("user", rest)])
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<go>"
    tiny.tokenizer.chat_template = template
    try:
        text = chat_text(tiny.tokenizer, Protocol.lm_eval, shown, question)
    finally:
        tiny.tokenizer.chat_template = None
    assert text == "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<go>"


def _compare(base: LoadedBase, checkpoint: str, settings: MmluSettings, folder: Path) -> None:
    questions = load_set(settings).questions
    shots = load_questions(settings.shots_file, Role.shots)
    tasks = reference.write_tasks(folder, questions, shots, settings.num_shots)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    expected = reference.score(reference.hf_model(model, base.tokenizer, batch_size=8), folder, tasks)
    found = score_mmlu(base, {"base": None}, settings)["base"].predictions
    assert sorted(expected) == list(range(len(found)))
    for place, prediction in enumerate(found):
        question = questions[place]
        shown = [shot for shot in shots if shot.subject == question.subject][: settings.num_shots]
        assert prompt_text(settings.protocol, shown, question) == expected[place].prompt
        np.testing.assert_allclose(prediction.logprobs, expected[place].logprobs, atol=1e-3, rtol=0)
        assert prediction.choice == int(np.argmax(expected[place].logprobs))


def _write_one(folder: Path, question: object) -> str:
    import json
    from dataclasses import asdict

    path = folder / "one.jsonl"
    path.write_text(json.dumps(asdict(question)))  # type: ignore[call-overload]
    return str(path)

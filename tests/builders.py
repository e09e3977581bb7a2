"""Configs, specs, records, members and loaded bases that several test modules build alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BloomConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from eval.answers.questions import Question
from eval.benchmarks.registry import BENCHMARKS, eval_config
from eval.judging.matches import Failure, Judgment, Match
from eval.judging.parse import judgment_of
from eval.judging.prompts import JudgePrompt, Mode, PromptSet, own_prompts, render
from eval.scoring.continuations import Continuation
from harness.banks.load import LoadedBase, load_base
from harness.banks.shared import AdapterBank
from harness.config.choices import load_choice
from harness.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    DType,
    EvalConfig,
    ModelConfig,
    PathsConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
    typed,
)
from harness.files.atomic import sha256_file
from harness.models.locate import ModelSource, locate_model
from harness.runs.record import RunRecord
from harness.runs.spec import RunSpec, make_spec
from harness.training.group import Member, StepMetrics
from tests.lab import REPOSITORY
from tests.tiny import VOCAB_SIZE

PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=16),
    "opt": OPTConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=32,
        dropout=0.0,
    ),
    "pythia": GPTNeoXConfig(**SIZES),
    "bloom": BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4),
}
ROW = {"subject": "astronomy", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 0}

GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "dataset": DatasetConfig,
    "quant": QuantConfig,
    "adapter": AdapterConfig,
    "train": TrainConfig,
}

TRAIN = TrainConfig(max_steps=6, batch_size=4, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=2)
LORA = AdapterConfig(name="lora", lora_r=4, lora_alpha=8, lora_dropout=0.2)


def smollm2() -> tuple[ModelSource, Path]:
    cache = REPOSITORY / ".cache"
    model = ModelConfig(name="smollm2", hub_id="embedded/smollm2-135m-instruct")
    source = locate_model(model, PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource), source
    return source, cache


def open_base(folder: Path) -> LoadedBase:
    """The checkpoint with one adapter, `tuned`, that changes it much."""
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=2048)
    loaded = load_base(source, PLAIN, torch.device("cpu"), folder)
    loaded.bank.add_member("tuned", AdapterConfig(name="lora", lora_r=3, lora_alpha=16), seed=3)
    torch.manual_seed(3)
    for parameter in loaded.bank.member_parameters("tuned").values():
        parameter.data.normal_(0, 0.2)
    return loaded


def questions(count: int, seed: int, prefix: int = 20) -> list[Continuation]:
    """Of each question four endings of 1 to 6 tokens behind one context."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        context = rng.integers(3, VOCAB_SIZE, prefix + number).tolist()
        for length in (1, 3, 6, 1):
            tokens = context + rng.integers(3, VOCAB_SIZE, length).tolist()
            found.append(Continuation(tokens=tokens, num_context=len(context), group=f"q{number}"))
    return found


def a_match(one: str, two: str, question: str = "Why?", systems: tuple[str, str] = ("ann", "bob")) -> Match:
    return Match(
        question=Question(question_id=question, category="generic", text=question),
        system_a=systems[0],
        system_b=systems[1],
        answer_a=one,
        answer_b=two,
    )


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def evals(*names: str, **settings: dict[str, Any]) -> EvalConfig:
    """As `eval.after_training=[NAMES]` with values of settings, `mmlu={"num_shots": 0}`, composes."""
    chosen = {name: BENCHMARKS[name].settings_type(**values) for name, values in settings.items()}
    return eval_config()(after_training=list(names), **chosen)


def config(**choices: Any) -> Config:
    """As `model=... quant=... train={...}` composes: a choice by its name, or a choice and changed values."""
    chosen = {"model": "llama7b", "dataset": "oasst1", "quant": "nf4", "adapter": "lora", "train": "default"} | choices
    parts: dict[str, Any] = {}
    for group, kind in GROUPS.items():
        name, changed = chosen[group] if isinstance(chosen[group], tuple) else (chosen[group], {})
        parts[group] = typed(kind, load_choice(group, name) | changed)
    return Config(**parts, eval=choices.get("eval", evals()))


def spec(auto_dtype: DType = DType.float32, **choices: Any) -> RunSpec:
    return make_spec(config(**choices), auto_dtype, sha256_file)


def record() -> RunRecord:
    return RunRecord(
        run_id="0123456789ab",
        label="tiny",
        group="ba9876543210",
        spec={},
        status="done",
        num_steps=2,
        num_examples=3,
        num_truncated_sources=0,
        num_truncated_targets=0,
        target_tokens=10,
        final_loss=1.5,
        train_seconds=0.1,
        peak_memory_bytes=1,
        base_fingerprint="f",
        data_fingerprint="d",
        adapter_sha256="s",
        optimizer_used="adamw",
        device="cpu",
        notes=("resumed at step 1",),
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00",
        git_commit=None,
        git_dirty=None,
    )


@dataclass
class Example:
    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int


def make_examples(seed: int, count: int = 10) -> list[Example]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 30, size=count)
    return [Example(rng.integers(3, VOCAB_SIZE, size=n).astype(np.int32), int(n) // 3) for n in lengths]


def make_member(name: str, tmp: Path, seed: int = 0, **changes: object) -> tuple[Member, list[StepMetrics]]:
    log: list[StepMetrics] = []
    member = Member(
        run_id=name,
        adapter=replace(LORA, **changes.pop("adapter", {})),  # type: ignore[arg-type]
        train=replace(TRAIN, seed=seed, **changes),  # type: ignore[arg-type]
        examples=make_examples(seed),
        checkpoint_folder=tmp / name / "checkpoint",
        on_step=log.append,
    )
    return member, log


def weights(bank: AdapterBank, name: str) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in bank.member_parameters(name).items()}


class ScriptedJudge:
    """A judge whose text `reply` writes; the usual parser reads it."""

    is_waiting = False
    stopped: str | None = None

    def __init__(
        self, reply: Callable[[JudgePrompt, Match], str], name: str = "scripted", prompts: PromptSet | None = None
    ) -> None:
        self.name = name
        self._reply = reply
        self._prompts = prompts or own_prompts(Mode.pairwise)
        self.settings: Mapping[str, Any] = {"kind": "scripted", "prompts_sha256": self._prompts.sha256}

    def prompt_sha256(self, match: Match) -> str:
        """Of the rendered prompt."""
        return render(self._prompts, match).sha256

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Asks the script."""
        for match in matches:
            prompt = render(self._prompts, match)
            on_judgment(judgment_of(match.key, prompt.sha256, self._prompts.mode, self._reply(prompt, match)))
        return []

"""Distilling step-by-step on T5: a step's loss is the weighted mean of label loss and rationale loss."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import AdapterConfig, AdapterMethod, DatasetConfig, LossMean, PathsConfig, TrainConfig
from harness.data.selection.holdout import divided, shared_lines
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import TokenizedDataset, tokenize_dataset
from harness.files.hub import Missing
from harness.training.group import Member
from harness.training.passes import _weighted_losses
from harness.training.step import step_items
from tests.builders import PLAIN, spec
from tests.lab import write_rows
from tests.tiny_encoders import make_t5

ROWS = [
    {"input": f"a {word} red thing", "output": word, "rationale": f"the thing is {word} since it is {word}, not {n}"}
    for n, word in enumerate(("warm", "cold", "tall", "small"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5"))


def tokenized(folder: Path, tmp_path: Path, weight: float) -> TokenizedDataset:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    config = DatasetConfig(name="mine", hub_id="local", format="step_by_step", path=str(rows), rationale_weight=weight)
    source = locate_dataset(config, PathsConfig())
    assert not isinstance(source, Missing)
    assert isinstance(source, DataSource)
    return tokenize_dataset(config, source, AutoTokenizer.from_pretrained(folder), tmp_path)


@torch.no_grad()
def by_hand(folder: Path, prefix: str, field: str) -> float:
    """transformers' own mean loss of each row's target, averaged over the rows."""
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    losses = []
    for row in ROWS:
        source, target = (
            torch.tensor([[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]])
            for text in (f"{prefix} {row['input']}", row[field])
        )
        losses.append(float(model(input_ids=source, labels=target).loss))
    return float(np.mean(losses))


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_steps_loss_is_the_mean_of_two_losses(folder: Path, tmp_path: Path, weight: float) -> None:
    data = tokenized(folder, tmp_path, weight)
    assert len(data) == 2 * len(ROWS)
    train = TrainConfig(max_steps=1, batch_size=8, learning_rate=1e-3, loss_mean=LossMean.example)
    member = Member(
        run_id="a",
        adapter=AdapterConfig(name="lora", lora_r=2),
        train=train,
        examples=data,
        num_characters=data.num_characters.astype(np.int64),
        checkpoint_folder=tmp_path,
        on_step=lambda metrics: None,
    )
    bank: Any = Seq2SeqBank(folder, PLAIN, torch.device("cpu"))
    bank.add_member("a", replace(member.adapter, method=AdapterMethod.lora, lora_dropout=0.0), seed=0)
    bank.eval()
    with torch.no_grad():
        loss = float(_weighted_losses(bank, list(step_items(member))).sum())
    label, rationale = by_hand(folder, "[label]", "output"), by_hand(folder, "[rationale]", "rationale")
    assert abs(label - rationale) > 1e-3
    assert loss == pytest.approx((label + weight * rationale) / (1 + weight), rel=1e-5)


def test_label_and_rationale_of_a_row_are_held_out_together(folder: Path, tmp_path: Path) -> None:
    data = tokenized(folder, tmp_path, 1.0)
    config = DatasetConfig(name="mine", hub_id="local", format="step_by_step")
    lines = shared_lines(config, data)
    assert lines is not None
    parts = divided(data, data.num_characters.astype(np.int64), TrainConfig(eval_rows=2), lines)
    assert parts.held_out is not None
    assert (len(parts.examples), len(parts.held_out)) == (4, 4)
    assert shared_lines(replace(config, format="input_output"), data) is None


def test_a_mean_over_tokens_and_a_weight_of_nothing_are_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS))
    mine: dict[str, Any] = {"path": str(rows), "format": "step_by_step"}
    by_example = ("default", {"loss_mean": "example"})
    with pytest.raises(ValueError, match=r"say train\.loss_mean=example, so that the loss is a mean of the two losses"):
        spec(model="t5_base", dataset=("local", mine), quant="fp32")
    plain = spec(model="t5_base", dataset=("local", mine), quant="fp32", train=by_example)
    half = spec(model="t5_base", dataset=("local", mine | {"rationale_weight": 0.5}), quant="fp32", train=by_example)
    assert plain.run_id != half.run_id
    with pytest.raises(ValueError, match=r"its rows have no rationales; it goes with dataset\.format=step_by_step"):
        spec(dataset=("oasst1", {"rationale_weight": 0.5}))
    with pytest.raises(ValueError, match=r"dataset\.rationale_weight=-1"):
        DatasetConfig(name="mine", hub_id="local", format="step_by_step", rationale_weight=-1.0)

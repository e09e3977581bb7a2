"""What can't be measured is said in one sentence: adapters of another base or damaged, models that score no text."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from transformers import T5Config, T5ForConditionalGeneration

from eval.answers.files import read_contestants
from eval.benchmarks.mmlu.prompts import Protocol
from eval.benchmarks.mmlu.score import MmluSettings, score_mmlu
from eval.systems import Target, each_base
from harness.banks.load import LoadedBase
from harness.models.locate import folder_fingerprint
from harness.runs.adapter_files import ADAPTER_WEIGHTS
from harness.runs.record import save_record
from tests.builders import ROW, open_base, record, spec, write_rows
from tests.tiny import VOCAB_SIZE, make_checkpoint, make_tokenizer


def open_target(model: Path | None = None, *adapters: Path, runs: Path | None = None, run: str = "") -> LoadedBase:
    target = Target(
        model=None if model is None else str(model),
        adapters=adapters,
        quant="none",
        run_ids=(run,) if run else (),
        sweep=None,
        runs=runs,
    )
    ((base, _),) = each_base(target)
    return base


def save_adapter(folder: Path, run: Path) -> Path:
    """An adapter of the checkpoint in `folder`, with its run's record beside it."""
    open_base(folder).bank.save_member("tuned", run / "adapter", "tiny", "main")
    save_record(run, dataclasses.replace(record(), base_fingerprint=folder_fingerprint(folder)))
    return run / "adapter"


def test_an_adapter_of_other_weights_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    one, twin = make_checkpoint(tmp_path / "one"), make_checkpoint(tmp_path / "twin", seed=2)
    adapter = save_adapter(one, tmp_path / "run")
    assert "adapter0" in open_target(one, adapter).bank.configs
    with pytest.raises(ValueError, match=r"run 0123456789ab \(tiny\) was trained on other weights .* --model"):
        open_target(twin, adapter)


def test_adapters_of_other_shapes_damaged_or_missing_are_named(tmp_path: Path) -> None:
    one, wide = make_checkpoint(tmp_path / "one"), make_checkpoint(tmp_path / "wide", seed=1)
    adapter = save_adapter(wide, tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    with pytest.raises(ValueError, match=r"its layer .* doesn't fit this base model; it was made for tiny"):
        open_target(one, adapter)
    weights = adapter / ADAPTER_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{ADAPTER_WEIGHTS}: damaged .*; copy it anew"):
        open_target(wide, adapter)
    with pytest.raises(ValueError, match=r"nowhere: no adapter_config\.json"):
        open_target(one, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--adapter needs --model"):
        open_target(None, adapter)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=VOCAB_SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="a model of kind seq2seq scores no next token"):
        open_target(tmp_path / "t5")
    one = spec(model="t5_small", adapter="none")
    save_record(tmp_path / "runs" / "r", dataclasses.replace(record(), run_id="r", label="t5"))
    (tmp_path / "runs" / "r" / "config.yaml").write_text(yaml.safe_dump(one.to_dict()))
    with pytest.raises(ValueError, match="t5: a model of kind seq2seq"):
        open_target(runs=tmp_path / "runs", run="r")


def test_a_question_that_does_not_fit_is_named_by_its_row(tmp_path: Path) -> None:
    base = open_base(make_checkpoint(tmp_path / "one"))
    where = write_rows(tmp_path / "q.jsonl", [ROW, {**ROW, "question": "word " * 1500}])
    settings = MmluSettings(questions=where, num_shots=0, protocol=Protocol.hendrycks)
    with pytest.raises(ValueError, match=r"q\.jsonl, question 2: subject astronomy: .* without any example"):
        score_mmlu(base, {"base": None}, settings)


def test_an_empty_answer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"none\.jsonl: holds no answers"):
        read_contestants([tmp_path / "none.jsonl"])

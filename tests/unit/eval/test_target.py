"""What can't be measured is said in one sentence: adapters of another base or damaged, models that score no text."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from eval.answers.files import read_contestants
from eval.answers.generate import eos_tokens
from eval.answers.prompt_format import PromptFormat
from eval.answers.settings import GenerateSettings
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.registry import BENCHMARKS
from eval.commands.generate import run_generate
from eval.commands.score_runs import OwnRows, score_target
from eval.systems import Target, each_base, load_members, open_system
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


def ignore(done: int, total: int) -> None:
    """No progress is shown."""


def of_runs(runs: Path, *run_ids: str) -> Target:
    return Target(model=None, adapters=(), quant=None, run_ids=run_ids, sweep=None, runs=runs)


def save_adapter(folder: Path, run: Path) -> Path:
    """An adapter of the checkpoint in `folder`, with its run's record beside it."""
    digest = open_base(folder).bank.save_member("tuned", run / "adapter", "tiny", "main")
    made = dataclasses.replace(record(), base_fingerprint=folder_fingerprint(folder), adapter_sha256=digest)
    save_record(run, made)
    return run / "adapter"


def test_an_adapter_of_other_weights_is_refused_though_its_shapes_fit(tmp_path: Path) -> None:
    one, twin = make_checkpoint(tmp_path / "one"), make_checkpoint(tmp_path / "twin", seed=2)
    adapter = save_adapter(one, tmp_path / "run")
    assert "adapter0" in open_target(one, adapter).bank.configs
    with pytest.raises(ValueError, match=r"run 0123456789ab \(tiny\) was trained on another base than .*twin"):
        open_target(twin, adapter)


def put_run(runs: Path, model: Path, adapter: str = "lora") -> str:
    """A finished run of a checkpoint: its folder as `harness.run` leaves it. -> its id"""
    run = runs / "0123456789ab"
    save_adapter(model, run)
    made = spec(model=("local", {"path": str(model)}), quant="fp32", adapter=adapter)
    (run / "config.yaml").write_text(yaml.safe_dump(made.to_dict()))
    return run.name


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_run_whose_base_was_replaced_is_refused_by_every_command(tmp_path: Path, adapter: str) -> None:
    model = make_checkpoint(tmp_path / "model")
    run = put_run(tmp_path / "runs", model, adapter)
    assert open_target(run=run, runs=tmp_path / "runs").bank is not None
    make_checkpoint(model, seed=2)  # other weights of the same shape
    refused = r"run 0123456789ab \(tiny\) was trained on another base than .*model: then .*, now .*"
    with pytest.raises(ValueError, match=refused):
        open_target(run=run, runs=tmp_path / "runs")
    with pytest.raises(ValueError, match=refused):
        run_generate(
            of_runs(tmp_path / "runs", run), "embedded", "open", 1, GenerateSettings(), False, ignore, tmp_path
        )
    system = open_system(tmp_path / "runs" / run)
    with pytest.raises(ValueError, match=refused):  # as a worker does that has loaded the base already
        load_members(open_base(model), [system])


def test_an_adapter_whose_files_changed_is_refused_by_a_worker_and_by_name(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    run = tmp_path / "runs" / put_run(tmp_path / "runs", model)
    weights = run / "adapter" / ADAPTER_WEIGHTS
    save_file({key: value * 1.01 for key, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: sha256 .*changed after training"):
        load_members(open_base(model), [open_system(run)])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors: sha256 .*changed after training"):
        open_target(model, run / "adapter")


def test_a_chat_format_without_a_template_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_checkpoint(tmp_path / "model")
    run = put_run(tmp_path / "runs", model)
    adapter = tmp_path / "runs" / run / "adapter"

    def loads(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("eval.systems.load_base", loads)
    settings = GenerateSettings(prompt_format=PromptFormat.chat)
    mmlu = MmluSettings(questions=write_rows(tmp_path / "q.jsonl", [ROW]), num_shots=0, chat=True)
    of_model = Target(model=str(model), adapters=(), quant="none", run_ids=(), sweep=None, runs=None)
    targets = of_model, dataclasses.replace(of_model, adapters=(adapter,)), of_runs(tmp_path / "runs", run)
    for target in targets:
        with pytest.raises(ValueError, match=r"model: its tokenizer has no chat template, and is to be asked through"):
            run_generate(target, "embedded", "open", 1, settings, False, ignore, tmp_path / "out")
        with pytest.raises(ValueError, match="has no chat template"):
            score_target(BENCHMARKS["mmlu"], mmlu, target, OwnRows(), {"checkpoints": None}, tmp_path / "out", ignore)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)  # its own is enough
    with pytest.raises(AssertionError, match="loaded"):
        run_generate(targets[1], "embedded", "open", 1, settings, False, ignore, tmp_path / "out")


def test_a_refused_adapter_leaves_no_trace_of_its_member(tmp_path: Path) -> None:
    one, wide = make_checkpoint(tmp_path / "one"), make_checkpoint(tmp_path / "wide", seed=1)
    adapter = save_adapter(one, tmp_path / "run")
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    bank = open_base(wide).bank
    bank.remove_member("tuned")
    with pytest.raises(ValueError, match="doesn't fit this base model"):
        bank.load_member("new", adapter)
    assert bank.configs == {}
    assert bank.member_parameters("new") == {}
    last = sorted(key for key in tensors if "lora_B" in key)[-1]
    save_file({key: value for key, value in tensors.items() if key != last}, adapter / ADAPTER_WEIGHTS)
    bank = open_base(one).bank
    with pytest.raises(ValueError, match=r"lora_A.weight has no .*lora_B.weight beside it"):
        bank.load_member("new", adapter)
    assert "new" not in bank.configs
    assert bank.member_parameters("new") == {}


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


TEMPLATE = "{% for turn in messages %}[{{ turn['content'] }}]{% endfor %}"


def test_a_model_and_its_adapters_answer_by_the_template_beside_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT, TRL and Axolotl save the template, or the whole tokenizer, with an adapter."""
    model = make_checkpoint(tmp_path / "model")
    plain, chat, whole, broken = (save_adapter(model, tmp_path / name) for name in ("plain", "chat", "whole", "broken"))
    (chat / "chat_template.jinja").write_text(TEMPLATE)
    make_tokenizer().save_pretrained(plain)  # the base's own: nothing differs
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "a"
    tokenizer.save_pretrained(whole)
    target = Target(model=str(model), adapters=(plain, chat, whole), quant="none", run_ids=(), sweep=None, runs=None)
    opened = {name: base for base, members in each_base(target) for name in members}
    assert opened["chat"].bank is opened["plain"].bank is opened["whole"].bank  # loaded once
    assert [opened[name].tokenizer.chat_template for name in ("plain", "chat", "whole")] == [None, TEMPLATE, None]
    assert eos_tokens(opened["plain"]) == {2}
    assert eos_tokens(opened["whole"]) == {2, make_tokenizer().convert_tokens_to_ids("a")}
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("read by the tokenizer and the chat template in it") == 2
    settings = GenerateSettings(max_new_tokens=2, greedy=True)
    rows = run_generate(target, "embedded", "open", 1, settings, False, ignore, tmp_path / "out")
    assert [row["system"] for row in rows] == ["plain", "chat", "whole"]
    answers = read_contestants([tmp_path / "out" / name for name in ("plain", "chat", "whole")])
    assert [len(answers[name]) for name in ("plain", "chat", "whole")] == [1, 1, 1]
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="broken/adapter: its tokenizer can't be read"):
        list(each_base(dataclasses.replace(target, adapters=(broken,))))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_ids": ("x",)}, "name runs in a call of their own"),
        ({"model": None}, "--adapter needs --model"),
        ({"model": None, "adapters": (), "run_ids": ("x",)}, "--quant: a run's own record"),
    ],
)
def test_who_answers_is_said_once(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    named = Target(model="tiny", adapters=(tmp_path,), quant="none", run_ids=(), sweep=None, runs=tmp_path)
    target = dataclasses.replace(named, **changes)
    with pytest.raises(ValueError, match=reason):
        run_generate(target, "embedded", "open", 1, GenerateSettings(), False, ignore, tmp_path / "out")

"""Export: a card that PEFT and the hub's reader agree with, changed files refused, merges that say what they do."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, PeftModel
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eval.systems import with_own_tokenizer
from harness.banks.load import load_base, make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    DType,
    ModelConfig,
    ModelKind,
    PathsConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.export.__main__ import main
from harness.export.adapter import export
from harness.export.checks import ExportRefusedError
from harness.export.merge import dequantized
from harness.files.atomic import write_json
from harness.models.locate import ModelSource, folder_fingerprint
from harness.nn.batch import Item, Segment
from harness.nn.quant import quantize_linear
from harness.runs.adapter_files import bank_method
from harness.runs.compatibility import CALIBRATED_METHODS
from harness.runs.record import RunRecord, load_record, save_record
from harness.runs.spec import RunSpec
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
LORA = AdapterConfig(name="lora", lora_r=4, lora_alpha=8, lora_dropout=0.1)
PLAIN = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
NF4 = QuantConfig(name="nf4", compute_dtype=DType.float32)
TOKENS = torch.tensor([[1, 17, 42, 99, 7, 250, 3]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture
def paths(tmp_path: Path) -> PathsConfig:
    return PathsConfig(runs=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))


def make_run(tmp_path: Path, checkpoint: Path, quant: QuantConfig = PLAIN, **changes: Any) -> Path:
    """A finished run's folder with a real adapter whose B is not zero, and an MMLU score."""
    model = ModelConfig(name="tiny", hub_id="lab/tiny", path=changes.pop("path", str(checkpoint)))
    spec = RunSpec(
        model=model,
        quant=quant,
        adapter=changes.pop("adapter", LORA),
        dataset=DatasetConfig(name="chats", hub_id="lab/chats", format="alpaca", path=str(tmp_path / "chats.jsonl")),
        train=TrainConfig(max_steps=3, batch_size=2, learning_rate=1e-3),
        data_sha256="d" * 64,
    )
    if changes.pop("from_hub", False):
        assert spec.dataset is not None
        hub_data = dataclasses.replace(spec.dataset, path=None)
        spec = dataclasses.replace(spec, model=dataclasses.replace(model, path=None), dataset=hub_data)
    folder = tmp_path / "runs" / spec.run_id
    base = load_base(source(checkpoint), quant, CPU, tmp_path / "cache", method=spec.adapter.method)
    bank: Any = base.bank
    if spec.adapter.method in CALIBRATED_METHODS:
        tokens = [np.random.default_rng(n).integers(3, VOCAB_SIZE, 24).astype(np.int32) for n in range(6)]
        bank.calibrate([Item(member="", tokens=t, num_source=8, dropout_key=0, weight=1.0) for t in tokens])
    digest = storage = None
    if spec.adapter.method is not AdapterMethod.none:
        base.bank.add_member("m", spec.adapter, seed=0)
        storage = base.bank.storage("m")
        generator = torch.Generator().manual_seed(1)
        for parameter in base.bank.member_parameters("m").values():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        digest = base.bank.save_member("m", folder / "adapter", model.hub_id, "main")
    record = dataclasses.replace(make_record(spec, digest, base.fingerprint), storage=storage)
    score = {"accuracy_macro": 0.5, "accuracy_macro_ci95": [0.4, 0.6], "n": 40, "protocol": "lm_eval", "num_shots": 5}
    write_json(folder / "eval" / "mmlu" / "mmlu.json", score)
    save_record(folder, dataclasses.replace(record, **changes))
    return folder


def make_record(spec: RunSpec, digest: str | None, fingerprint: str) -> RunRecord:
    return RunRecord(
        run_id=spec.run_id,
        label="tiny-chats",
        group=spec.group,
        spec=spec.to_dict(),
        status="done",
        num_steps=3,
        num_examples=10,
        num_truncated_sources=0,
        num_truncated_targets=1,
        target_tokens=1234,
        final_loss=1.5,
        train_seconds=9.0,
        peak_memory_bytes=10**9,
        base_fingerprint=fingerprint,
        data_fingerprint="e" * 64,
        adapter_sha256=digest,
        optimizer_used="adamw",
        device="cpu",
        notes=("resumed from /home/somebody/runs/x",),
        started="2026-11-22T12:00:00+00:00",
        finished="2026-11-22T12:01:00+00:00",
        git_commit="0" * 40,
        git_dirty=True,
        packages={"torch": "2.13.0"},
        python="3.11.7",
    )


def source(checkpoint: Path) -> ModelSource:
    return ModelSource(kind="folder", location=str(checkpoint), revision="main", max_length=2048)


def run_logits(run: Path, checkpoint: Path, quant: QuantConfig, tmp_path: Path) -> torch.Tensor:
    """Of the base as the run had it, with its adapter, unmerged."""
    method = RunSpec.from_dict(load_record(run).spec).adapter.method  # type: ignore[union-attr]
    bank = load_base(source(checkpoint), quant, CPU, tmp_path / "cache", method=method).bank
    bank.load_member("m", run / "adapter")
    return bank_logits(bank)


def bank_logits(bank: AdapterBank) -> torch.Tensor:
    with torch.inference_mode():
        hidden = bank(TOKENS, [Segment(num_tokens=TOKENS.shape[1], member="m")])
        return bank.logits(hidden[0]).float()


def run_snippet(card: str, base: Path | None, exported: Path) -> dict[str, Any]:
    """Executes the card's own code, its ids pointed at folders of this machine."""
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(code) == 1
    text = re.sub(r'^(ADAPTER|MODEL) = ".*?"', rf'\1 = "{exported}"', code[0], flags=re.MULTILINE)
    text = re.sub(r'^BASE = ".*?"', f'BASE = "{base}"', text, flags=re.MULTILINE)
    names: dict[str, Any] = {}
    exec(text, names)
    return names


@pytest.mark.parametrize("quant", [PLAIN, NF4])
def test_the_cards_snippet_loads_what_was_trained(tmp_path: Path, checkpoint: Path, quant: QuantConfig) -> None:
    run = make_run(tmp_path, checkpoint, quant)
    done = export(run, tmp_path / "out")
    assert done.files == ("README.md", "adapter_config.json", "adapter_model.safetensors")
    names = run_snippet((done.folder / "README.md").read_text(), checkpoint, done.folder)
    assert isinstance(names["model"], PeftModel)
    for module in names["model"].modules():
        if isinstance(module, bnb.nn.Linear4bit):
            # else bitsandbytes computes in bfloat16 on CPUs that can, and fails on layers narrower than a block
            module.support_avx512bf16_for_cpu = False
    with torch.inference_mode():
        loaded = names["model"].eval()(TOKENS).logits[0].float()
    assert torch.allclose(loaded, run_logits(run, checkpoint, quant, tmp_path), atol=1e-4)


def test_the_front_matter_is_the_hubs(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint, NF4, from_hub=True)
    out = export(run, tmp_path / "out", license_id="apache-2.0").folder
    card = ModelCard((out / "README.md").read_text())
    assert card.data.to_dict() == {
        "base_model": "lab/tiny",
        "base_model_relation": "adapter",
        "datasets": ["lab/chats"],
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["qlora", "lora", "qlora-harness"],
    }


def test_a_local_base_and_an_unknown_license_are_not_made_up(tmp_path: Path, checkpoint: Path) -> None:
    card = ModelCard((export(make_run(tmp_path, checkpoint), tmp_path / "out").folder / "README.md").read_text())
    assert "base_model" not in card.data.to_dict()
    assert "datasets" not in card.data.to_dict()
    assert card.data.to_dict()["license"] == "unknown"


def test_the_card_says_what_was_done(tmp_path: Path, checkpoint: Path) -> None:
    text = (export(make_run(tmp_path, checkpoint, NF4), tmp_path / "out").folder / "README.md").read_text()
    assert "| mmlu accuracy_macro | 0.5 | 0.4 to 0.6 | 40 | protocol lm_eval, num_shots 5 |" in text
    assert "e" * 64 in text  # the data's fingerprint
    assert "| rank r, alpha, dropout | 4, 8, 0.1 |" in text
    assert "| learning rate | 0.001, constant, 0 warm-up steps |" in text
    assert "nf4, blocks of 64, double quantization" in text
    assert "| torch | 2.13.0 |" in text
    assert "chats.jsonl" in text


@pytest.mark.parametrize(("from_hub", "base"), [(True, None), (False, "lab/tiny")])
def test_no_machine_path_leaves(tmp_path: Path, checkpoint: Path, from_hub: bool, base: str | None) -> None:
    run = make_run(tmp_path, checkpoint, NF4, from_hub=from_hub)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(checkpoint)
    (run / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    out = export(run, tmp_path / "out", base=base).folder
    for file in ("README.md", "adapter_config.json"):
        text = (out / file).read_text()
        assert str(tmp_path) not in text
        assert str(checkpoint.parent) not in text
        assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_no_scores_is_said(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    (run / "eval" / "mmlu" / "mmlu.json").unlink()
    assert "None were measured" in (export(run, tmp_path / "out").folder / "README.md").read_text()


def test_a_changed_adapter_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    weights = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ExportRefusedError, match="changed after training"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_template_that_a_run_was_trained_in_goes_with_it(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    assert not (export(run, tmp_path / "plain").folder / "chat_template.jinja").exists()
    record = load_record(run)
    assert record is not None
    dialogues = record.spec["dataset"] | {"format": "chat", "chat_template": "{{ messages[0]['content'] }}"}
    save_record(run, dataclasses.replace(record, spec=record.spec | {"dataset": dialogues}))
    folder = export(run, tmp_path / "chat").folder
    assert (folder / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    base = load_base(source(checkpoint), PLAIN, CPU, tmp_path / "cache")
    for adapter in (folder, run / "adapter"):  # the run's own has its record beside it
        read = with_own_tokenizer(base, adapter)
        assert read.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_a_changed_scale_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    path = run / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 99}))
    with pytest.raises(ExportRefusedError, match="lora_alpha"):
        export(run, tmp_path / "out")


def test_an_unfinished_run_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    (run / "record.json").unlink()
    with pytest.raises(ExportRefusedError, match="cut off"):
        export(run, tmp_path / "out")


def test_an_untouched_base_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint, adapter=AdapterConfig(name="none", method=AdapterMethod.none))
    with pytest.raises(ExportRefusedError, match="untouched base"):
        export(run, tmp_path / "out")


@pytest.mark.parametrize("merge", [False, True])
def test_a_side_network_is_refused(tmp_path: Path, checkpoint: Path, merge: bool) -> None:
    adapter = AdapterConfig(name="qst", method=AdapterMethod.qst, qst_reduction=4, qst_down_rank=4)
    run = make_run(tmp_path, checkpoint, adapter=adapter)
    with pytest.raises(ExportRefusedError, match=r"side network beside its base.*no other program reads it"):
        export(run, tmp_path / "out", merge)


METHODS = ["rslora", "dora", "pissa", "olora", "corda", "lora_ga", "eva", "loftq"]
RESIDUAL = ("pissa", "olora", "corda", "lora_ga")


def of_method(method: str) -> AdapterConfig:
    return AdapterConfig(name=method, method=AdapterMethod(method), lora_r=4, lora_alpha=8, lora_dropout=0.0)


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(TOKENS).logits[0].float()
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_exported_as_it_was_trained(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quant = NF4 if method == "loftq" else PLAIN
    run = make_run(tmp_path, checkpoint, quant, adapter=of_method(method))
    trained = run_logits(run, checkpoint, quant, tmp_path)
    merged = export(run, tmp_path / "merged", merge=True, force_merge=True, paths=paths)
    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    torch.testing.assert_close(logits_of(model), trained, rtol=1e-4, atol=1e-4)
    assert (merged.notes, merged.merged) == ((), True)
    main([run.name, "--runs", str(run.parent), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert f"names its base by a folder of this machine, {checkpoint}" in told
    assert method not in told
    if quant is PLAIN:
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(logits_of(model), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["dora", "pissa", "corda"])
def test_what_plain_peft_computes_otherwise_on_a_quantized_base_is_said(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig, method: str
) -> None:
    run = make_run(tmp_path, checkpoint, NF4, adapter=of_method(method))
    trained = run_logits(run, checkpoint, NF4, tmp_path)
    done = export(run, tmp_path / "out", paths=paths)
    said = "Plain PEFT on nf4 of the plain weights is a quantization error off"
    assert (said in (done.folder / "README.md").read_text()) == (method in RESIDUAL)
    assert any(said in note for note in done.notes) == (method in RESIDUAL)
    bank = make_bank(checkpoint, ModelKind.causal, bank_method(done.folder), NF4, CPU)
    bank.load_member("m", done.folder)
    assert torch.equal(bank_logits(bank), trained)  # by this project, from the exported files alone
    merged = export(run, tmp_path / "merged", force_merge=True, paths=paths)
    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    torch.testing.assert_close(logits_of(model), trained, rtol=1e-4, atol=1e-4)


def test_layers_in_formats_of_their_own_are_exported_as_they_were_trained(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig
) -> None:
    adapter = dataclasses.replace(of_method("lq_lora"), lq_rounds=2, bits=3.0)
    run = make_run(tmp_path, checkpoint, NF4, adapter=adapter)
    trained = run_logits(run, checkpoint, NF4, tmp_path)
    done = export(run, tmp_path / "out", paths=paths)
    assert any("each layer rounded to a format of its own, 3 bits a weight together" in note for note in done.notes)
    bank = make_bank(checkpoint, ModelKind.causal, bank_method(done.folder), NF4, CPU)
    bank.load_member("m", done.folder)
    assert torch.equal(bank_logits(bank), trained)
    merged = export(run, tmp_path / "merged", force_merge=True, paths=paths)
    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    torch.testing.assert_close(logits_of(model), trained, rtol=1e-4, atol=1e-4)


def test_half_precision_is_said_of_residual_methods_only(tmp_path: Path, checkpoint: Path, paths: PathsConfig) -> None:
    bf16 = QuantConfig(name="bf16", method=QuantMethod.none, compute_dtype=DType.bfloat16)
    for method in ("pissa", "dora"):
        run = make_run(tmp_path, checkpoint, bf16, adapter=of_method(method))
        done = export(run, tmp_path / f"out-{method}", paths=paths, base="lab/tiny")
        assert any("exact up to rounding in 16 bits" in note for note in done.notes) == (method == "pissa")
        merged = export(run, tmp_path / f"merged-{method}", merge=True, paths=paths)
        model = AutoModelForCausalLM.from_pretrained(merged.folder)
        assert model.dtype is torch.bfloat16
        trained = run_logits(run, checkpoint, bf16, tmp_path)
        assert (logits_of(model) - trained).norm() < 0.03 * trained.norm()


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_of_every_weight_is_exported_as_a_model(tmp_path: Path, checkpoint: Path, merge: bool) -> None:
    run = make_run(tmp_path, checkpoint, adapter=of_method("full"))
    done = export(run, tmp_path / "out", merge)
    text = (done.folder / "README.md").read_text()
    names = run_snippet(text, None, done.folder)
    assert torch.equal(logits_of(names["model"]), run_logits(run, checkpoint, PLAIN, tmp_path))
    assert names["tokenizer"].decode([17]) != ""
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"
    assert "| trained | every weight |" in text
    assert "rank r" not in text
    assert str(tmp_path) not in (done.folder / "config.json").read_text()
    weights = run / "adapter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(ExportRefusedError, match="changed after training"):
        export(run, tmp_path / "again")


def test_the_base_is_named_so_that_it_can_be_found(tmp_path: Path, checkpoint: Path, paths: PathsConfig) -> None:
    def named(folder: Path) -> tuple[str, str | None]:
        saved = json.loads((folder / "adapter_config.json").read_text())
        return saved["base_model_name_or_path"], saved["revision"]

    run = make_run(tmp_path, checkpoint)
    assert named(export(run, tmp_path / "path", paths=paths).folder) == (str(checkpoint), None)
    assert named(export(run, tmp_path / "given", paths=paths, base="me/mine").folder) == ("me/mine", None)
    hub = make_run(tmp_path, checkpoint, from_hub=True)
    done = export(hub, tmp_path / "hub", paths=paths)
    assert (named(done.folder), done.notes) == (("lab/tiny", "main"), ())
    gone = make_run(tmp_path, checkpoint, path=str(tmp_path / "gone" / "tiny"))
    done = export(gone, tmp_path / "left", paths=paths)
    assert named(done.folder) == ("tiny", None)
    assert "say where it is by --base" in done.notes[0]
    other = make_run(tmp_path, checkpoint, path=str(make_checkpoint(tmp_path / "other", seed=2)))
    with pytest.raises(ExportRefusedError, match="was trained on"):
        export(other, tmp_path / "wrong", paths=paths)


def test_nothing_is_written_over(tmp_path: Path, checkpoint: Path) -> None:
    run = make_run(tmp_path, checkpoint)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ExportRefusedError, match="something already"):
        export(run, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_merging_into_a_quantized_base_is_refused_and_explained(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig
) -> None:
    run = make_run(tmp_path, checkpoint, NF4)
    with pytest.raises(ExportRefusedError, match=r"drift.*--force-merge"):
        export(run, tmp_path / "out", merge=True, paths=paths)


@pytest.mark.parametrize("method", [QuantMethod.none, QuantMethod.nf4, QuantMethod.int8])
def test_a_merged_model_is_base_and_adapter(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig, method: QuantMethod
) -> None:
    quant = QuantConfig(name="q", method=method, compute_dtype=DType.float32)
    run = make_run(tmp_path, checkpoint, quant)
    quantized = method is not QuantMethod.none
    out = export(run, tmp_path / "out", merge=True, force_merge=quantized, paths=paths).folder
    text = (out / "README.md").read_text()
    assert ("measure before you rely on them" in text) == quantized
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"
    names = run_snippet(text, None, out)
    with torch.inference_mode():
        merged = names["model"].eval()(TOKENS).logits[0].float()
        plain = AutoModelForCausalLM.from_pretrained(checkpoint).eval()(TOKENS).logits[0]
    expected = run_logits(run, checkpoint, quant, tmp_path)
    # LLM.int8 rounds its inputs too, to a 127th of the largest, which no merged weight can do
    limit = 0.03 if method is QuantMethod.int8 else 1e-4
    assert (merged - expected).norm() < limit * expected.norm()
    assert not torch.allclose(merged, plain, atol=0.1)
    assert names["tokenizer"].decode([17]) != ""


@pytest.mark.parametrize(("method", "limit"), [(QuantMethod.nf4, 0.2), (QuantMethod.int8, 1 / 127)])
def test_dequantized_weights_are_near_the_originals(method: QuantMethod, limit: float) -> None:
    linear = torch.nn.Linear(128, 64, bias=False)
    linear.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    wanted = linear.weight.data.clone()
    quant = QuantConfig(name="q", method=method, compute_dtype=DType.float32)
    found = dequantized(quantize_linear(linear, quant, CPU))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= limit * wanted.abs().max()


def test_another_base_is_not_merged_into(tmp_path: Path, checkpoint: Path, paths: PathsConfig) -> None:
    other = make_checkpoint(tmp_path / "other", seed=2)
    run = make_run(tmp_path, checkpoint, path=str(other))
    assert folder_fingerprint(other) != load_record(run).base_fingerprint  # type: ignore[union-attr]
    with pytest.raises(ExportRefusedError, match="was trained on"):
        export(run, tmp_path / "out", merge=True, paths=paths)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, checkpoint, NF4)
    arguments = [run.name, "--runs", str(run.parent), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--merge"])
    assert "--force-merge" in capsys.readouterr().err
    main(arguments)
    assert "adapter_model.safetensors" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


def test_a_merged_model_that_computes_something_else_is_refused(
    tmp_path: Path, checkpoint: Path, paths: PathsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, checkpoint)
    monkeypatch.setattr(BaseTuner, "merge_and_unload", lambda model: model.unload())  # without the adapter
    with pytest.raises(ExportRefusedError, match="merged into its base it is not the model that was trained"):
        export(run, tmp_path / "out", merge=True, paths=paths)
    assert not (tmp_path / "out").exists()

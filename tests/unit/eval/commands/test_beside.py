"""The untouched base and other scales beside the systems: one load, right names, paired changes, refusals."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import IA3Config, get_peft_model
from transformers import AutoModelForCausalLM

from eval.benchmarks.benchmark import Benchmark, Contestant, QuestionScores
from eval.benchmarks.changes import changes_from, front
from eval.benchmarks.mmlu.checkpoints import snapshot_folder
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.registry import BENCHMARKS
from eval.commands.beside import Beside, at_scales, base_names, read_scales, together_with
from eval.commands.score_runs import OwnRows, score_target
from eval.systems import System, Target, adapter_names, adapters_quant, load_adapter_of, open_system, record_beside
from harness.banks.load import LoadedBase
from harness.config.schema import AdapterConfig, AdapterMethod, DType
from harness.files.atomic import sha256_files
from harness.runs.record import load_record, save_record
from tests.builders import PLAIN, open_base, spec
from tests.records.lora_runs import write_lora_run
from tests.tiny import make_checkpoint

SETTINGS = MmluSettings(num_shots=0, limit=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny") / "base"))


def test_a_scale_is_a_part_of_the_trained_update(base: LoadedBase) -> None:
    tuned = Contestant(name="run", member="tuned")
    scaled = at_scales(base, [tuned, Contestant(name="base", member=None)], (0.0, 0.5, 1.0))
    assert [one.name for one in scaled] == ["run x0", "run x0.5", "run x1", "base"]
    results = score_mmlu(base, {one.name: one.member for one in [tuned, *scaled]}, SETTINGS)
    logprobs = {name: np.array([p.logprobs for p in result.predictions]) for name, result in results.items()}
    np.testing.assert_allclose(logprobs["run x0"], logprobs["base"], atol=1e-5)
    np.testing.assert_allclose(logprobs["run x1"], logprobs["run"], atol=1e-5)
    assert np.abs(logprobs["run"] - logprobs["base"]).min() > 1e-3
    layer = next(iter(base.bank.layers.values()))
    kept = layer.scale["tuned"]
    layer_scales = [other.scale for other in base.bank.layers.values() if "tuned" in other.scale]
    for scale in layer_scales:
        scale["tuned"] = kept / 2
    halved = score_mmlu(base, {"half": "tuned"}, SETTINGS)["half"]
    for scale in layer_scales:
        scale["tuned"] = kept
    np.testing.assert_allclose(logprobs["run x0.5"], np.array([p.logprobs for p in halved.predictions]), atol=1e-5)
    hashes = {name: result.model_sha256 for name, result in results.items()}
    assert hashes["run x1"] == hashes["run"]
    assert len(set(hashes.values())) == 4
    for one in scaled[:3]:
        assert one.member is not None
        base.bank.remove_member(one.member)
    assert list(base.bank.configs) == list(layer.lora_a) == ["tuned"]


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "nan", "1,1.0", "1e9"])
def test_what_is_no_scale_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--adapter-scale"):
        read_scales(text)


def test_scales_are_read() -> None:
    assert read_scales(None) == ()
    assert read_scales("0,0.25,1.25") == (0.0, 0.25, 1.25)


def test_what_is_needed_beside_the_systems_and_a_gap_is_alone() -> None:
    assert not Beside().is_needed
    assert all(Beside(**one).is_needed for one in ({"with_base": True}, {"scales": (0.5,)}, {"serving_gap": True}))
    for one in ({"with_base": True}, {"scales": (0.5,)}):
        with pytest.raises(ValueError, match="leave --with-base and --adapter-scale out"):
            Beside(serving_gap=True, **one)  # type: ignore[arg-type]


def test_a_method_without_a_scale_is_refused(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AdapterConfig(name="dora", method=AdapterMethod.dora)
    monkeypatch.setitem(base.bank.configs, "tuned", config)
    with pytest.raises(ValueError, match=r"run is adapter\.method=dora, .* it goes with allora, lora, rslora"):
        at_scales(base, [Contestant(name="run", member="tuned")], (0.5,))


def test_the_base_stands_there_once(base: LoadedBase) -> None:
    both = Beside(with_base=True)
    tuned, untouched = Contestant(name="run", member="tuned"), Contestant(name="plain", member=None)
    assert [one.name for one in together_with(base, [tuned], both, "b")] == ["b", "run"]
    assert [one.name for one in together_with(base, [tuned, untouched], both, "b")] == ["run", "plain"]
    assert [one.name for one in together_with(base, [tuned], Beside(), "b")] == ["run"]


def test_a_command_writes_rows_and_changes_of_an_adapter(base: LoadedBase, tmp_path: Path) -> None:
    base.bank.save_member("tuned", tmp_path / "tuned", "tiny", "main")
    target = Target(
        model=base.source.location,
        adapters=(tmp_path / "tuned",),
        quant="none",
        run_ids=(),
        sweep=None,
        runs=tmp_path / "runs",
    )

    def scored(options: dict[str, Any], out: Path) -> dict[str, Any]:
        beside = Beside(with_base=True, scales=(0.0, 1.0))
        values, _ = score_target(
            BENCHMARKS["mmlu"], SETTINGS, target, OwnRows(), options, out, lambda done, total: None, beside
        )
        return values

    out = tmp_path / "out"
    values = scored({"checkpoints": None}, out)
    untouched = next(name for name in values if name.endswith("base"))
    assert set(values) == {untouched, "tuned x0", "tuned x1"}
    assert {path.parent.name for path in out.glob("*/mmlu.json")} == set(values)
    changes = {change["system"]: change for change in json.loads((out / "changes.json").read_text())["changes"]}
    assert changes["tuned x0"]["change"]["value"] == 0.0
    expected = values["tuned x1"]["accuracy_micro"] - values[untouched]["accuracy_micro"]
    assert changes["tuned x1"]["change"]["value"] == pytest.approx(expected)
    assert changes["tuned x1"]["change"]["n"] == 6
    with pytest.raises(
        ValueError, match=r"leave out --checkpoints; snapshots: --model BASE --adapter runs/ID/adapters/step-"
    ):
        scored({"checkpoints": "all"}, out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run, and a run whose bank owns its base, of one tiny model."""
    folder = tmp_path_factory.mktemp("methods")
    checkpoint = make_checkpoint(folder / "tiny")
    write_lora_run(folder / "runs", checkpoint, 0, label="low").rename(folder / "runs" / "low")
    ia3 = {"name": "ia3", "method": AdapterMethod.peft, "peft_type": "IA3"}
    run = write_lora_run(folder / "runs", checkpoint, 1, label="scaled", adapter=ia3).rename(folder / "runs" / "scaled")
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), config)
    for name, parameter in model.named_parameters():
        if "ia3" in name:
            parameter.data.fill_(1.5)
    model.save_pretrained(run / "adapter")
    digest = sha256_files([run / "adapter" / "adapter_model.safetensors"])
    record = load_record(run)
    assert record is not None
    save_record(run, dataclasses.replace(record, adapter_sha256=digest))
    return folder / "runs"


def test_every_method_is_compared_with_its_untouched_base(runs: Path, tmp_path: Path) -> None:
    """Also one whose bank owns its base, for which the untouched one is loaded again."""
    (tmp_path / "t.txt").write_text("What is the capital of France? The capital of France is Paris.")

    def scored(*run_ids: str, scales: tuple[float, ...] = ()) -> dict[str, float]:
        target = Target(model=None, adapters=(), quant=None, run_ids=run_ids, sweep=None, runs=runs)
        settings = PerplexitySettings(text=str(tmp_path / "t.txt"))
        beside = Beside(with_base=True, scales=scales)
        out = tmp_path / "-".join(run_ids)
        values, _ = score_target(
            BENCHMARKS["perplexity"], settings, target, OwnRows(), {}, out, lambda done, total: None, beside
        )
        changes = json.loads((out / "changes.json").read_text())["changes"]
        found = {name: math.log(of["token_perplexity"]) for name, of in values.items()}
        for change in changes:
            assert change["change"]["value"] == pytest.approx(found[change["system"]] - found[change["base"]], abs=1e-6)
        assert {change["system"] for change in changes} == {"low", "scaled"} & set(found)
        return found

    alone, both = scored("scaled"), scored("scaled", "low")
    assert set(alone) == {"scaled", "tiny none base"}
    assert alone.items() <= both.items()
    assert abs(alone["scaled"] - alone["tiny none base"]) > 1e-3
    with pytest.raises(ValueError, match=r"scaled is adapter=ia3 \(adapter\.method=peft\), whose update is not linear"):
        scored("low", "scaled", scales=(0.0, 1.0))


def named(**changes: Any) -> System:
    made = spec(**changes)
    return System(name=made.run_id, run_id=made.run_id, spec=made, folder=Path(made.run_id))


def test_bases_of_one_name_have_a_row_each() -> None:
    plain, seeded = named(), named(train=("default", {"seed": 1}))
    short = f"{plain.spec.model.name} nf4 base"
    assert base_names([plain, seeded]) == {plain.run_id: short, seeded.run_id: short}
    coarse = named(quant=("nf4", {"block_size": 128}))
    older = named(model=("llama7b", {"revision": "v1"}))
    half = named(quant=("nf4", {"compute_dtype": "float16"}))
    revision = plain.spec.model.revision
    assert list(base_names([plain, coarse, seeded]).values()) == [f"{short} (block_size={n})" for n in (64, 128, 64)]
    assert list(base_names([plain, older]).values()) == [f"{short} (revision={name})" for name in (revision, "v1")]
    dtypes = [f"{short} (compute_dtype={one.spec.quant.compute_dtype.value})" for one in (plain, half)]
    assert list(base_names([plain, half]).values()) == dtypes
    local = [
        dataclasses.replace(one, spec=dataclasses.replace(one.spec, base_sha256=16 * "ab")) for one in (plain, older)
    ]
    assert set(base_names(local).values()) == {short}  # the checkpoint's content is the base
    other = dataclasses.replace(seeded, spec=dataclasses.replace(seeded.spec, base_sha256=16 * "cd"))
    assert list(base_names([local[0], other]).values()) == [f"{short} (weights={6 * two})" for two in ("ab", "cd")]


def test_each_run_is_compared_with_its_own_of_two_bases_of_one_name(runs: Path, tmp_path: Path) -> None:
    checkpoint = Path(open_system(runs / "low").spec.model.path or "")
    write_lora_run(runs, checkpoint, 2, label="half", quant=dataclasses.replace(PLAIN, compute_dtype=DType.bfloat16))
    half = next(folder.name for folder in runs.iterdir() if open_system(folder).name == "half")
    (tmp_path / "t.txt").write_text("What is the capital of France? The capital of France is Paris.")
    target = Target(model=None, adapters=(), quant=None, run_ids=("low", half), sweep=None, runs=runs)
    settings, both = PerplexitySettings(text=str(tmp_path / "t.txt")), Beside(with_base=True)
    scored = BENCHMARKS["perplexity"], settings, target, OwnRows(), {}, tmp_path, lambda done, total: None, both
    values, _ = score_target(*scored)
    full, short = (f"tiny none base (compute_dtype={dtype})" for dtype in ("float32", "bfloat16"))
    assert set(values) == {"low", "half", full, short}
    assert values[full]["token_perplexity"] != values[short]["token_perplexity"]
    changes = json.loads((tmp_path / "changes.json").read_text())["changes"]
    assert {change["system"]: change["base"] for change in changes} == {"low": full, "half": short}


def test_a_snapshot_is_of_its_run_and_scaled_in_the_same_load(runs: Path, tmp_path: Path) -> None:
    run = runs / "low"
    kept = snapshot_folder(run, 3)
    shutil.copytree(run / "adapter", kept)
    assert adapter_names([kept, run / "adapter", snapshot_folder(runs / "half", 3), tmp_path]) == [
        "low step-00000003",
        "low",
        "half step-00000003",
        tmp_path.name,
    ]
    assert record_beside(kept) == record_beside(run / "adapter") == load_record(run)
    assert record_beside(tmp_path / "adapters" / "x") is None
    quant = adapters_quant([kept, run / "adapter"])
    assert quant == open_system(run).spec.quant
    (tmp_path / "t.txt").write_text("What is the capital of France? The capital of France is Paris.")
    model = open_system(run).spec.model.path
    target = Target(model=model, adapters=(kept, run / "adapter"), quant=None, run_ids=(), sweep=None, runs=runs)
    settings, beside = PerplexitySettings(text=str(tmp_path / "t.txt")), Beside(with_base=True, scales=(0.0, 0.5))
    ends = lambda done, total: None  # noqa: E731
    values, _ = score_target(BENCHMARKS["perplexity"], settings, target, OwnRows(), {}, tmp_path, ends, beside)
    found = {name: of["token_perplexity"] for name, of in values.items()}
    assert set(found) == {"tiny base", *(f"low{step} x{at}" for step in ("", " step-00000003") for at in ("0", "0.5"))}
    assert found["low step-00000003 x0"] == pytest.approx(found["tiny base"], rel=1e-5)
    assert found["low step-00000003 x0.5"] == found["low x0.5"] != found["tiny base"]


def test_a_snapshot_of_other_weights_is_refused(runs: Path, base: LoadedBase) -> None:
    """By the record of its run, as the run's last adapter is."""
    model, other = open_system(runs / "low").spec.model, dataclasses.replace(base, fingerprint="f" * 64)
    with pytest.raises(ValueError, match="was trained on another base than"):
        load_adapter_of(other, "m", snapshot_folder(runs / "low", 3), model)


class _Parts(Benchmark):
    """Questions as the test gives them: {part: values}."""

    name = "parts"

    def by_question(self, values: Any) -> Any:
        for part, (numbers, weights, higher) in values.items():
            names = [f"q{place}" for place in range(len(numbers))]
            yield QuestionScores(
                metric="m", unit="", higher_is_better=higher, names=names, values=numbers, weights=weights, part=part
            )


def test_changes_are_paired_and_weighted() -> None:
    before = {"gain": ([0.0, 1.0, 0.0, 1.0], None, True), "loss": ([2.0, 4.0], [1.0, 3.0], False)}
    after = {"gain": ([1.0, 1.0, 0.0, 1.0], None, True), "loss": ([3.0, 4.0], [1.0, 3.0], False)}
    gain, loss = changes_from(_Parts(), ("base", before), {"run": after})
    assert (gain.measure, gain.before, gain.after, gain.change.value) == ("gain m", 0.5, 0.75, 0.25)
    difference = np.array([1.0, 0.0, 0.0, 0.0])
    half = 3.182446 * difference.std(ddof=1) / 2
    assert gain.change.ci95 == pytest.approx((0.25 - half, 0.25 + half), rel=1e-5)
    assert (loss.before, loss.after, loss.change.value) == (3.5, 3.75, 0.25)


def test_the_front_has_what_no_other_row_beats() -> None:
    def values(gain: float, loss: float) -> dict[str, Any]:
        return {"gain": ([gain, gain], None, True), "loss": ([loss, loss], None, False)}

    rows = {"low": values(1, 1), "high": values(3, 3), "worse": values(1, 2), "same": values(1, 1)}
    found = changes_from(_Parts(), ("base", values(0, 0)), rows)
    assert front(found) == ["low", "high", "same"]


def test_other_questions_are_no_pair() -> None:
    with pytest.raises(ValueError, match="run and base were asked other questions"):
        changes_from(_Parts(), ("base", {"a": ([1.0], None, True)}), {"run": {"a": ([1.0, 2.0], None, True)}})

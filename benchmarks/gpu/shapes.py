"""Peak memory, speed and arithmetic of one LLaMA shape on this device, beside what the memory predictor says.

    python -m benchmarks.gpu.shapes --size 7b                 # a CUDA device; one of 7b, 13b, 33b, 65b
    python -m benchmarks.gpu.shapes --size 65b --steps 3 --tokens 528 --checkpointing
    python -m benchmarks.gpu.shapes --tiny                    # any CPU, seconds: what the tests run

LLaMA shapes with random weights: each linear layer is drawn on the device, quantized and dropped, so that the
16-bit model never exists; nothing is downloaded. The model then trains through the harness's own loop
(`harness.training.loop.train_group`) at the recipe's settings: r = 64 on all layers, batch 16, sequences of OASST1's
limits (16 source and 512 target tokens), paged AdamW where it has to page, a checkpoint after every step.
Needs torch, transformers, peft, bitsandbytes, omegaconf.

Peak memory is `torch.cuda.max_memory_allocated` after the first step (the optimizer's state exists), which
leaves out the CUDA context and state that pages. The share of peak arithmetic
counts the products that training needs (4 a frozen weight and token, 6 a trained one, attention), never what
checkpointing computes again, against the dense 16-bit peak of the maker's data sheet.
`python -m benchmarks.gpu_qlora` runs this for several lengths and much more.
"""

import argparse
import json
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.banks.shared import AdapterBank
from harness.config.choices import quant_choice
from harness.config.schema import AdapterConfig, DType, QuantConfig, QuantMethod, ShapeConfig, TrainConfig
from harness.files.atomic import write_atomically, write_json
from harness.memory.activations import linears
from harness.memory.paper import LLAMA_SIZES, llama_shape
from harness.memory.predict import predict, trained_tensors
from harness.models.locate import num_parameters
from harness.nn.attention import PACKED
from harness.nn.quant import TORCH_DTYPES, linear_layers, quantize_linear
from harness.runs.record import package_versions
from harness.training.group import Member, StepMetrics
from harness.training.loop import train_group
from harness.training.optim import OptimizerKind

# dense bf16 peak of the maker's data sheet, floating-point operations a second; by a part of the device's name
PEAK_ARITHMETIC = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "RTX 4090": 165e12,
}
TINY = ShapeConfig(vocab_size=512, hidden_size=64, intermediate_size=176, num_layers=2, num_heads=4, num_kv_heads=4)
SOURCE_TOKENS, TARGET_TOKENS = 16, 512  # recipe.md: OASST1
LEARNING_RATES = {"33b": 1e-4, "65b": 1e-4}
DROPOUTS = {"13b": 0.05, "33b": 0.05, "65b": 0.05}  # of the released scripts
RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured."""

    size: str  # 7b, 13b, 33b, 65b or tiny
    quant: str = "nf4"  # a choice of conf/quant
    steps: int = 4  # optimizer steps; the first is not timed
    tokens: int = SOURCE_TOKENS + TARGET_TOKENS  # of a microbatch; the recipe's is one sequence a pass
    source_tokens: int = SOURCE_TOKENS
    target_tokens: int = TARGET_TOKENS
    batch_size: int = 16
    lora_r: int = 64
    checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A random example of the recipe's longest length."""

    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int


def flops_per_token(shape: ShapeConfig, adapter: AdapterConfig, sequence: int) -> float:
    """Floating-point operations that a token's training needs.

    Frozen weights: 2 forward and 2 for the input's gradient; the output layer likewise. Adapters: 6. Attention:
    two products over half the sequence (causal), forward once and backward twice.
    """
    frozen = shape.num_layers * sum(n.in_features * n.out_features for n in linears(shape))
    frozen += shape.vocab_size * shape.hidden_size
    attention = shape.num_layers * 3 * 2 * 2 * shape.hidden_size * sequence / 2
    return 4 * frozen + 6 * sum(trained_tensors(shape, adapter)) + attention


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRecord:
    """One measurement. None: not measured, `notes` say why."""

    options: Options
    device: str
    date: str
    num_parameters: int
    num_trained: int
    peak_bytes: int | None
    weights_bytes: int | None  # allocated when the base stands
    predicted: dict[str, int]
    expected_bytes: int  # of the prediction, what the allocator should show: all but paged state
    peak_over_predicted: float | None
    tokens_per_second: float
    step_seconds: list[float]
    losses: list[float]
    flops_per_token: float
    share_of_peak_arithmetic: float | None
    optimizer_used: str
    packages: dict[str, str]
    python: str
    notes: list[str]


def main() -> None:
    """Measures, prints, and writes the record."""
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and arguments.options.size != "tiny":
        raise SystemExit(
            f"--size {arguments.options.size} needs a CUDA device and torch sees none; --tiny runs on a CPU"
        )
    record = measure(arguments.options, device)
    text = as_markdown(record)
    print(json.dumps(asdict(record), indent=2) if arguments.json else text)
    if arguments.out is not None:
        save(record, arguments.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """A parsed command line."""

    options: Options
    json: bool
    out: Path | None


def parse_arguments(command_line: Sequence[str] | None = None) -> Arguments:
    """Flags; a CPU run writes no record unless `--out` says where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=LLAMA_SIZES, default="7b")
    parser.add_argument("--tiny", action="store_true", help="two small layers and short sequences, for a CPU")
    parser.add_argument("--quant", default="nf4", help="a choice of conf/quant")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps, at least 2: the first is not timed")
    parser.add_argument("--tokens", type=int, help="of a microbatch; default: one sequence")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument(
        "--out", type=Path, help=f"folder of the record; default on CUDA: {RESULTS.name}/ beside this file"
    )
    given = parser.parse_args(command_line)
    if given.steps < 2:
        parser.error(f"--steps {given.steps}: at least 2, the first is not timed")
    source, target = (4, 28) if given.tiny else (SOURCE_TOKENS, TARGET_TOKENS)
    options = Options(
        size="tiny" if given.tiny else given.size,
        quant=given.quant,
        steps=given.steps,
        tokens=given.tokens or source + target,
        source_tokens=source,
        target_tokens=target,
        batch_size=given.batch,
        lora_r=8 if given.tiny else 64,
        checkpointing=given.checkpointing,
    )
    out = given.out or (RESULTS if torch.cuda.is_available() else None)
    return Arguments(options=options, json=given.json, out=out)


def measure(options: Options, device: torch.device, bank: AdapterBank | None = None) -> GpuRecord:
    """Trains some steps and holds the peak against the prediction.

    Args:
        options: what is measured.
        device: where.
        bank: the base of `options.size` and `options.quant` with no member in it; None builds one.
    """
    on_cuda = device.type == "cuda"
    shape = shape_of(options.size)
    quant = quant_config(options.quant, device)
    adapter = AdapterConfig(
        name="lora", lora_r=options.lora_r, lora_alpha=16, lora_dropout=DROPOUTS.get(options.size, 0.1)
    )
    train = train_config(options)
    bank = bank or AdapterBank(build_base(shape, quant, device))
    weights_bytes = torch.cuda.memory_allocated(device) if on_cuda else None
    steps, peak_bytes, kind = train_steps(bank, adapter, train, options)
    sequence = options.source_tokens + options.target_tokens
    predicted = predict(shape, quant, adapter, train, options.tokens, sequence)
    expected = predicted.resident_bytes if kind.paged else predicted.total_bytes  # paged state is not the allocator's
    timed = [step.seconds for step in steps[1:]]
    tokens_per_second = options.batch_size * sequence * len(timed) / sum(timed)
    flops = flops_per_token(shape, adapter, sequence)
    name = torch.cuda.get_device_name(device) if on_cuda else f"cpu ({platform.machine()})"
    peak_flops = peak_arithmetic(name)
    notes = [] if on_cuda else ["on a CPU: peak memory and the share of peak arithmetic are open"]
    if on_cuda and peak_flops is None:
        notes.append(f"no peak arithmetic is known here for {name}")
    return GpuRecord(
        options=options,
        device=name,
        date=datetime.now(UTC).date().isoformat(),
        num_parameters=num_parameters(shape),
        num_trained=sum(trained_tensors(shape, adapter)),
        peak_bytes=peak_bytes,
        weights_bytes=weights_bytes,
        predicted=predicted.to_dict(),
        expected_bytes=expected,
        peak_over_predicted=peak_bytes / expected if peak_bytes is not None else None,
        tokens_per_second=tokens_per_second,
        step_seconds=[step.seconds for step in steps],
        losses=[step.loss for step in steps],
        flops_per_token=flops,
        share_of_peak_arithmetic=None if peak_flops is None else tokens_per_second * flops / peak_flops,
        optimizer_used=kind.value,
        packages=package_versions(),
        python=platform.python_version(),
        notes=notes,
    )


def shape_of(size: str) -> ShapeConfig:
    """7b, 13b, 33b, 65b or tiny."""
    return TINY if size == "tiny" else llama_shape(size)


def quant_config(name: str, device: torch.device) -> QuantConfig:
    """A choice of conf/quant with its compute dtype resolved as the plan does."""
    quant = quant_choice(name)
    if quant.compute_dtype is DType.auto:
        quant.compute_dtype = DType.bfloat16 if device.type == "cuda" else DType.float32
    return quant


def train_config(options: Options) -> TrainConfig:
    """The recipe of the Guanaco models, in as many steps as asked for."""
    return TrainConfig(
        max_steps=options.steps,
        max_epochs=1e9,
        batch_size=options.batch_size,
        learning_rate=LEARNING_RATES.get(options.size, 2e-4),
        max_microbatch_tokens=options.tokens,
        gradient_checkpointing=options.checkpointing,
        checkpoint_steps=1,
    )


def llama_config(shape: ShapeConfig) -> LlamaConfig:
    """What transformers builds a LLaMA of this shape from."""
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=shape.tied_embeddings,
    )


def build_base(shape: ShapeConfig, quant: QuantConfig, device: torch.device) -> nn.Module:
    """A LLaMA of this shape with random weights, its linear layers quantized one by one as they are drawn."""
    config = llama_config(shape)
    dtype = TORCH_DTYPES[quant.compute_dtype]
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=dtype)
    generator = torch.Generator(device=device).manual_seed(0)
    for name, linear in list(linear_layers(model)):
        draw(linear, dtype, device, generator)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, quantized(linear, quant, device))
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            draw(module, dtype, device, generator)
    rotary = model.get_submodule("model.rotary_emb")
    model.set_submodule("model.rotary_emb", type(rotary)(config).to(device))
    if shape.tied_embeddings:
        model.tie_weights()  # type: ignore[operator]
    return model


def draw(module: nn.Module, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    """Gives a module on the meta device real weights: norms ones, matrices N(0, 0.02)."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        weight = torch.ones(parameter.shape, dtype=dtype, device=device)
        if weight.ndim > 1:
            weight.normal_(0, 0.02, generator=generator)
        setattr(module, name, nn.Parameter(weight, requires_grad=False))


def quantized(linear: nn.Module, quant: QuantConfig, device: torch.device) -> nn.Module:
    """One layer as the harness stores it."""
    if quant.method is QuantMethod.none:
        return linear
    if quant.method is QuantMethod.int8:
        linear = linear.cpu()  # bitsandbytes quantizes to int8 on the way from the host only
    return quantize_linear(linear, quant, device)


def train_steps(
    bank: AdapterBank, adapter: AdapterConfig, train: TrainConfig, options: Options
) -> tuple[list[StepMetrics], int | None, OptimizerKind]:
    """-> each step's numbers, the most allocated from the second step on (None without CUDA), the optimizer."""
    device, steps = bank.device, []

    def note(step: StepMetrics) -> None:
        steps.append(step)
        if step.step == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    with tempfile.TemporaryDirectory() as folder:
        member = Member(
            run_id="benchmark",
            adapter=adapter,
            train=train,
            examples=samples(options, num_tokens=bank.head.weight.shape[0]),
            checkpoint_folder=Path(folder),
            on_step=note,
        )
        train_group(bank, [member])
    bank.remove_member(member.run_id)
    if member.error is not None:
        raise RuntimeError(member.error)
    assert member.optimizer_kind is not None
    return steps, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None, member.optimizer_kind


def samples(options: Options, num_tokens: int) -> list[Sample]:
    """A step's worth of random sequences."""
    rng = np.random.default_rng(0)
    length = options.source_tokens + options.target_tokens
    rows = rng.integers(3, num_tokens, (options.batch_size, length)).astype(np.int32)
    return [Sample(input_ids=row, num_source=options.source_tokens) for row in rows]


def peak_arithmetic(device_name: str) -> float | None:
    """Of a device by its name; None for one that the table doesn't have."""
    return next((flops for part, flops in PEAK_ARITHMETIC.items() if part in device_name), None)


def as_markdown(record: GpuRecord) -> str:
    """The record for people."""
    options, predicted = record.options, record.predicted
    rows = [
        ("peak memory, measured", _giga(record.peak_bytes)),
        ("peak memory, predicted", _giga(record.expected_bytes)),
        ("measured / predicted", _number(record.peak_over_predicted)),
        ("base weights, measured", _giga(record.weights_bytes)),
        ("base weights, predicted", _giga(predicted["weights_bytes"])),
        ("tokens a second", f"{record.tokens_per_second:,.0f}"),
        ("share of peak arithmetic", _number(record.share_of_peak_arithmetic)),
        ("seconds a step", ", ".join(f"{seconds:.2f}" for seconds in record.step_seconds)),
        ("loss a step", ", ".join(f"{loss:.3f}" for loss in record.losses)),
    ]
    packages = ", ".join(f"{name} {version}" for name, version in record.packages.items())
    checkpointing = "with" if options.checkpointing else "without"
    lines = [
        f"# QLoRA, LLaMA {options.size}, {options.quant}, on {record.device}, {record.date}",
        "",
        f"{options.steps} steps of {options.batch_size} x {options.source_tokens + options.target_tokens} tokens, "
        f"{options.tokens} a microbatch, r = {options.lora_r}, {record.optimizer_used}, {checkpointing} checkpointing; "
        "random weights.",
        f"Python {record.python}, {packages}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in rows),
        "",
        "Predicted, by what it is for: "
        + ", ".join(f"{name.removesuffix('_bytes')} {_giga(value)}" for name, value in predicted.items())
        + ".",
        *(f"\nNote: {note}." for note in record.notes),
    ]
    return "\n".join(lines) + "\n"


def save(record: GpuRecord, folder: Path) -> Path:
    """Writes gpu-qlora-<device>-<date>-<what>.json and .md. -> the latter's path"""
    options = record.options
    device = re.sub(r"[^a-z0-9]+", "-", record.device.lower()).strip("-")
    what = f"{options.size}-{options.quant}-{options.tokens}" + ("-checkpointing" if options.checkpointing else "")
    stem = folder / f"gpu-qlora-{device}-{record.date}-{what}"
    write_json(stem.with_name(stem.name + ".json"), record)
    path = stem.with_name(stem.name + ".md")
    write_atomically(path, as_markdown(record))
    return path


def _giga(value: int | None) -> str:
    return "open" if value is None else f"{value / 1e9:,.3f} GB"


def _number(value: float | None) -> str:
    return "open" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()

"""The command `python -m harness.memory`: what a model needs to be finetuned, predicted or measured.

Without a model it shows the paper's figures beside ours (`harness.memory.paper`).
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from harness.config.choices import choices, load_choice, model_choice, quant_choice
from harness.config.schema import (
    SHARED_BASE_METHODS,
    AdapterConfig,
    DType,
    ModelConfig,
    ModelKind,
    Optimizer,
    QuantConfig,
    ShapeConfig,
    TrainConfig,
    typed,
)
from harness.console import TextTable, friendly_errors, new_parser, show
from harness.devices.process import heavy_imports
from harness.files.hub import cached_snapshot
from harness.memory import paper
from harness.memory.floor import least
from harness.memory.other_methods import predict_other
from harness.memory.padded import predict_padded
from harness.memory.predict import MemoryPrediction, predict
from harness.methods.keys import uses_dropout
from harness.models.locate import ModelSource, checkpoint_shape
from harness.runs.spec import DEFAULT_RECIPE

if TYPE_CHECKING:
    from harness.memory.measured.program import Measured

USAGE = """What a model needs on a GPU to be finetuned: by arithmetic, or by running the program itself on tensors
without data, which needs no GPU and little memory. Without --model: QLoRA on LLaMA 7B to 65B, beside what the paper
states.

examples:
  python -m harness.memory
  python -m harness.memory --model 65b --checkpointing
  python -m harness.memory --model 65b --checkpointing --gpu 48 --measure
  python -m harness.memory --model 7b --quant int8 --members 8 --tokens 4224 --measure --at-peak
  python -m harness.memory --model t5_large --adapter lora_t5 --tokens 4608 --sequence 1152 --source 1024
  python -m harness.memory --model 7b --adapter dora --tokens 2048 --measure --json > memory.json
  python -m harness.memory --model path/to/checkpoint --measure

A plan says what your own runs need: python -m harness.run ... launch.dry_run=true"""
MEASURED = "--measure runs the program itself"
STATIC = ("weights_bytes", "adapter_bytes", "gradient_bytes", "optimizer_bytes", "paged_optimizer_bytes")
GIGABYTE, MEGABYTE = 10**9, 10**6
_LEAST_GIGABYTES = 0.01  # that two places show
KINDS = {"ForSequenceClassification": ModelKind.classifier, "ForMaskedLM": ModelKind.classifier}  # ends of names


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about."""

    model: ModelConfig
    quant: QuantConfig
    adapter: AdapterConfig
    train: TrainConfig
    tokens: int
    sequence: int
    source: int
    members: int
    gpu_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What arithmetic says."""

    peak: MemoryPrediction | None = None
    why: str = ""  # there is no peak
    least: MemoryPrediction | None = None  # then: what lies there before any activation, where that is known


def main(arguments: Sequence[str]) -> None:
    """Prints what a model needs, or the paper's figures beside ours; `--json` for JSON alone."""
    options = _parser().parse_args(arguments)
    with friendly_errors():
        if options.model is None:
            if options.measure:
                raise ValueError("--measure: say of which model, such as --model 65b")
            values, shown = paper.report()
            show(values, shown, options.json)
            return
        asked = _question(options)
        answer = _answer(asked)
        measured = None
        if options.measure:
            with heavy_imports():
                from harness.memory.measured.program import Case, measure
            measured = measure(
                Case(
                    model=asked.model,
                    quant=asked.quant,
                    adapter=asked.adapter,
                    train=asked.train,
                    tokens=asked.tokens,
                    sequence=asked.sequence,
                    source=asked.source,
                    members=asked.members,
                    gpu_bytes=asked.gpu_bytes,
                )
            )
        elif answer.peak is None and answer.least is None:
            raise ValueError(f"model {asked.model.name}: {answer.why}; {MEASURED}")
        show(_values(asked, answer, measured), _shown(asked, answer, measured, options.at_peak), options.json)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("python -m harness.memory", USAGE)
    parser.add_argument(
        "--model", help="a choice of conf/model (65b), a folder with a config.json, or a hub id whose config is here"
    )
    parser.add_argument("--measure", action="store_true", help="run the program on tensors without data")
    parser.add_argument("--quant", default="nf4", help="a choice of conf/quant (default: %(default)s)")
    parser.add_argument("--adapter", default="lora", help="a choice of conf/adapter (default: %(default)s)")
    parser.add_argument("--tokens", type=_positive, default=528, help="of a packed row (default: %(default)s)")
    parser.add_argument(
        "--sequence", type=_positive, help="tokens of an example at most (default: the row's, 528 at most)"
    )
    parser.add_argument(
        "--source", type=_positive, help="of them, tokens that a T5's encoder reads (default: half of them)"
    )
    parser.add_argument("--members", type=_positive, default=1, help="runs that share the base (default: %(default)s)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument(
        "--optimizer",
        choices=[each.value for each in Optimizer],
        default=Optimizer.paged_adamw_32bit.value,
        help="default: %(default)s",
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="to compute in")
    parser.add_argument(
        "--gpu", type=_positive, default=80, help="its memory in GB (1e9 bytes), which decides what pages (default: 80)"
    )
    parser.add_argument("--at-peak", action="store_true", help="with --measure: list what lay there, by operation")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on standard output")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 on")
    return number


def _question(options: argparse.Namespace) -> Question:
    """The choices of a command line. Raises ValueError for names that aren't there."""
    adapter: AdapterConfig = typed(AdapterConfig, load_choice("adapter", options.adapter))
    if adapter.lora_dropout is None:
        adapter = replace(adapter, lora_dropout=DEFAULT_RECIPE.lora_dropout if uses_dropout(adapter) else 0.0)
    sequence = min(options.sequence or 528, options.tokens)
    return Question(
        model=_model(options.model),
        quant=replace(quant_choice(options.quant), compute_dtype=DType(options.dtype)),
        adapter=adapter,
        train=TrainConfig(
            optimizer=Optimizer(options.optimizer),
            gradient_checkpointing=options.checkpointing,
            max_microbatch_tokens=options.tokens,
        ),
        tokens=options.tokens,
        sequence=sequence,
        source=min(options.source or max(1, sequence // 2), sequence - 1),
        members=options.members,
        gpu_bytes=options.gpu * GIGABYTE,
    )


def _model(name: str) -> ModelConfig:
    """A choice of conf/model, a folder, or a hub id; of the latter two, kind and shape by their config.json."""
    if name in choices("model"):
        return model_choice(name)
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None and "/" in name:
        folder = cached_snapshot(name, "main")
        if folder is None:
            raise ValueError(
                f"--model {name}: no such folder, and the hub's cache on this machine has no config of that name; "
                f"download it: huggingface-cli download {name} config.json"
            )
    if folder is None:
        return model_choice(name)  # which names the near matches
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model {name}: {folder} has no config.json")
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=2048)
    shape = checkpoint_shape(source) or ShapeConfig()
    saved = json.loads((folder / "config.json").read_text())
    return ModelConfig(name=name, hub_id=name, path=str(folder), kind=_kind(saved), shape=shape)


def _kind(saved: Mapping[str, Any]) -> ModelKind:
    """A model's kind by its config.json."""
    if saved.get("is_encoder_decoder"):
        return ModelKind.seq2seq
    names = saved.get("architectures") or []
    return next((kind for end, kind in KINDS.items() if any(n.endswith(end) for n in names)), ModelKind.causal)


def _answer(asked: Question) -> Answer:
    """The prediction, or why there is none and what is known nevertheless."""
    alone = asked.model.kind is not ModelKind.causal or asked.adapter.method not in SHARED_BASE_METHODS
    if alone and asked.members > 1:
        raise ValueError(
            f"--members {asked.members}: a {asked.model.kind.value} model with adapter={asked.adapter.method_name} has "
            "a base of its own, so its runs train one after the other, and each needs what one does; leave it out"
        )
    try:
        return Answer(peak=_peak(asked))
    except ValueError as error:
        return Answer(why=str(error), least=least(asked.model, asked.quant, asked.adapter, asked.train))


def _peak(asked: Question) -> MemoryPrediction:
    """Raises ValueError where it isn't known."""
    model, quant, adapter, train = asked.model, asked.quant, asked.adapter, asked.train
    if model.kind is ModelKind.causal:
        other = predict_other(model, quant, adapter, train, asked.tokens, asked.sequence)
        return other or predict(model.shape, quant, adapter, train, asked.tokens, asked.sequence, asked.members)
    found = predict_padded(model, quant, adapter, train, asked.tokens, asked.sequence, asked.source)
    if found is None:
        raise ValueError(f"what adapter={adapter.method_name} keeps of a {model.kind.value}'s pass can't be predicted")
    return found


def expected_bytes(prediction: MemoryPrediction, optimizer: str) -> int:
    """What a measurement should show: state that pages is not in it."""
    return prediction.resident_bytes if optimizer.startswith("paged") else prediction.total_bytes


def _values(asked: Question, answer: Answer, measured: "Measured | None") -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": asked.model.name,
        "quant": asked.quant.name,
        "adapter": asked.adapter.name,
        "tokens": asked.tokens,
        "sequence": asked.sequence,
        "source": asked.source if asked.model.kind is ModelKind.seq2seq else None,
        "members": asked.members,
        "checkpointing": asked.train.gradient_checkpointing,
        "gpu_bytes": asked.gpu_bytes,
        "predicted": None if answer.peak is None else answer.peak.to_dict(),
        "not_predicted": answer.why or None,
        "at_least": None if answer.least is None else _static(answer.least),
    }
    if measured is not None:
        values["measured"] = {
            "peak_bytes": measured.peak.num_bytes,
            "by_category": dict(measured.peak.by_category),
            "by_origin": dict(measured.peak.by_origin),
            "loading_bytes": measured.loading_bytes,
            "optimizer": measured.optimizer,
        }
    return values


def _static(least: MemoryPrediction) -> dict[str, int]:
    """What is known where activations are not, and its sum; optimizer state that pages is in it."""
    return {name: getattr(least, name) for name in STATIC} | {"total_bytes": least.total_bytes}


def _shown(asked: Question, answer: Answer, measured: "Measured | None", at_peak: bool) -> Group:
    what = f"{asked.model.name}, {asked.quant.name}, {asked.adapter.name}, rows of {asked.tokens} tokens"
    what += f", {asked.members} runs" if asked.members > 1 else ""
    what += ", checkpointing" if asked.train.gradient_checkpointing else ""
    parts: list[TextTable | Text] = []
    if measured is not None:
        parts += [Text(f"Measured: {what}"), _gigabytes(measured.peak.by_category)]
        parts.append(Text("\n".join(_sentences(asked, answer, measured)) + "\n"))
        if at_peak:
            parts += [Text("What the pass held at its peak"), _gigabytes(measured.peak.by_origin, MEGABYTE)]
    if answer.peak is not None:
        terms = {name.removesuffix("_bytes").replace("_", " "): n for name, n in answer.peak.to_dict().items()}
        parts += [Text(f"Predicted: {what}"), _gigabytes(terms)]
    elif answer.least is not None:
        terms = {name.removesuffix("_bytes").replace("_", " "): n for name, n in _static(answer.least).items()}
        parts += [Text(f"At least, before any activation: {what}"), _gigabytes(terms)]
        parts.append(Text(f"Not predicted: {answer.why}." + ("" if measured else f" {MEASURED}.")))
    return Group(*parts)


def _sentences(asked: Question, answer: Answer, measured: "Measured") -> list[str]:
    """The peak, whether it fits, and how far the prediction is from it."""
    peak = measured.peak.num_bytes
    fits = "fits in" if peak <= asked.gpu_bytes else "does not fit in"
    lines = [f"Peak of a step: {amount(peak)} with {measured.optimizer}; {fits} {asked.gpu_bytes / 1e9:.0f} GB."]
    lines += [f"Peak while the base is read: {amount(measured.loading_bytes)}."]
    if answer.peak is None:
        return lines if answer.least is not None else [*lines, f"Not predicted: {answer.why}."]
    expected = expected_bytes(answer.peak, measured.optimizer)
    return [*lines, f"Predicted: {amount(expected)}, {expected / peak - 1:+.1%}."]


def amount(num_bytes: int) -> str:
    """A number of bytes in words: `34.46 GB`; below 0.01 GB in MB with three significant digits: `3.21 MB`."""
    if not 0 < num_bytes < _LEAST_GIGABYTES * GIGABYTE:
        return f"{num_bytes / GIGABYTE:,.2f} GB"
    return f"{_three_digits(num_bytes / MEGABYTE)} MB"


def _gigabytes(values: Mapping[str, int], unit: int = GIGABYTE) -> TextTable:
    """A table of bytes. Args: unit: of its column; of a model all of whose numbers are small it is MB."""
    if max(values.values(), default=0) < _LEAST_GIGABYTES * GIGABYTE:
        unit = MEGABYTE
    name = "GB" if unit == GIGABYTE else "MB"
    return TextTable(
        columns=("what", name),
        rows=[(what, _cell(number / unit)) for what, number in values.items()],
        numbers=(name,),
    )


def _cell(number: float) -> str:
    """With two places, or three significant digits where these would show next to nothing."""
    return _three_digits(number) if 0 < number < _LEAST_GIGABYTES else f"{number:,.2f}"


def _three_digits(number: float) -> str:
    return f"{number:.{max(0, 2 - math.floor(math.log10(number)))}f}"

"""Grouped QLoRA training on a CPU: our groups beside the transformers Trainer + PEFT, one run after another.

    python -m benchmarks.group_training                          # groups of 1 to 16, 64 and 128 tokens each, NF4
    python -m benchmarks.group_training --members 8 --tokens 64 --rounds 3 --json
    python -m benchmarks.group_training --quick                  # a minute: does it run, and what takes the time?
    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.group_training --members 4 --tokens 128 --sides ours

Each member's step is one sequence of random tokens, all of them targets; SmolLM2, rank 16 on every linear layer,
AdamW, clipping, two threads. In a round each side takes its turn, A B A B, in one process. The sides:

- `ours`: `harness.training.loop.train_group`, as a worker runs it: its kernels, the base kept dequantized.
- `loop`: the same with every member computed alone and the base dequantized in each pass, the reference of the tests.
- `trainer`: the Trainer with a PEFT model over the same quantized base. It trains one run, whose step is counted once
  for each member: they would come one after another.

A turn is so many steps, of which the fastest counts, after one that warms up; ratios compare turns of one round.
Processor seconds are of all threads: what they ran, or spun, not what they waited for others on the same cores.
`roofline` is the time that the frozen layers' and the output layer's products take alone, the best of several, by the
same library in the same run, as a share of the step. A last step of ours is profiled: `parts` says what took its time.
"""

import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from harness.devices.process import prepare_process

prepare_process()  # before torch

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.evaluation.mmlu import processor  # noqa: E402
from harness.banks.load import LoadedBase, load_base  # noqa: E402
from harness.banks.shared import AdapterBank  # noqa: E402
from harness.config.choices import model_choice, quant_choice  # noqa: E402
from harness.config.schema import AdapterConfig, DType, PathsConfig, QuantConfig, QuantMethod, TrainConfig  # noqa: E402
from harness.devices.product import linear  # noqa: E402
from harness.devices.torch_device import quiet_libraries  # noqa: E402
from harness.models.convert import checkpoint_folder  # noqa: E402
from harness.models.locate import ModelSource, locate_model  # noqa: E402
from harness.nn.batch import Item  # noqa: E402
from harness.nn.member_row import Kernels  # noqa: E402
from harness.nn.quant import features  # noqa: E402
from harness.training.group import Member  # noqa: E402
from harness.training.loop import train_group  # noqa: E402

RANK, ALPHA, RATE, MAX_NORM = 16, 16, 2e-4, 0.3
SIDES = ("ours", "loop", "trainer")
WARM_STEPS = 4  # before the profiled one: the first three take 20 times the page faults of later ones
_LOW_RANK, _LOSS = ("_AddLowRank", "_AddLowRankBackward"), ("_LinearCrossEntropy", "_LinearCrossEntropyBackward")
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm_", "mkldnn::_linear_pointwise")


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenized example."""

    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int = 0


@dataclass(frozen=True, slots=True)
class Seconds:
    """A step's time: by the clock, and of all this process's threads together."""

    wall: float
    processor: float


@dataclass(slots=True, kw_only=True)
class Measured:
    """One size of a group."""

    members: int
    tokens: int  # a step of a member has
    turns: dict[str, list[Seconds]] = field(default_factory=dict)  # side -> its fastest step in each round
    ratios: dict[str, list[float]] = field(default_factory=dict)  # side -> its time over ours, in each round
    processor_ratios: dict[str, list[float]] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    loss_difference: float | None = None  # of the first step, to the PEFT model's, relative
    roofline: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # shares of a profiled step


def main(
    members: Annotated[str, typer.Option(help="Sizes of groups, comma-separated.")] = "1,2,4,8,16",
    tokens: Annotated[str, typer.Option(help="Tokens of a member's step, comma-separated.")] = "64,128",
    sides: Annotated[str, typer.Option(help="Which to run, comma-separated; ours always is.")] = ",".join(SIDES),
    quant: Annotated[str, typer.Option(help="A choice of conf/quant: nf4, nf4_single, fp4, fp32.")] = "nf4",
    dropout: Annotated[float, typer.Option(help="LoRA's dropout; the paper's is 0.1 or 0.05.")] = 0.05,
    uneven: Annotated[bool, typer.Option(help="Members' lengths go from half of the tokens to all of them.")] = False,
    steps: Annotated[int, typer.Option(help="Steps of a turn, beside one that warms up.")] = 3,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 2,
    threads: int = 2,
    quick: Annotated[bool, typer.Option(help="Groups of 1 and 4 with 32 tokens, one round of one step.")] = False,
    cache: Path = Path(".cache"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Times the sides in turn and prints their ratios, and what a step of ours consists of."""
    if quick:
        members, tokens, steps, rounds = "1,4", "32", 1, 1
    quiet_libraries()
    torch.set_num_threads(threads)
    bench = Bench(quant_choice(quant), dropout, uneven, cache, [side for side in sides.split(",") if side != "ours"])
    record: dict[str, Any] = {"processor": processor(), "threads": threads, "quant": quant, "dropout": dropout}
    record |= {"uneven": uneven, "load_before": os.getloadavg(), "sizes": []}
    for num_tokens in map(int, tokens.split(",")):
        for num_members in map(int, members.split(",")):
            measured = bench.measure(num_members, num_tokens, steps, rounds)
            record["sizes"].append(asdict(measured))
            print(text(measured), file=sys.stderr if as_json else sys.stdout, flush=True)
    record["load_after"] = os.getloadavg()
    if as_json:
        print(json.dumps(record, indent=2))
    else:
        print(f"{record['processor']}; load {record['load_before'][0]:.1f} to {record['load_after'][0]:.1f}")


class Bench:
    """Both sides in memory."""

    def __init__(self, quant: QuantConfig, dropout: float, uneven: bool, cache: Path, others: Sequence[str]) -> None:
        source = locate_model(model_choice("smollm2"), PathsConfig(cache=str(cache)))
        assert isinstance(source, ModelSource)
        quant.compute_dtype = DType.float32
        base: LoadedBase = load_base(source, quant, torch.device("cpu"), cache)
        assert isinstance(base.bank, AdapterBank)
        self.bank, self.others, self.uneven = base.bank, others, uneven
        self.adapter = AdapterConfig(name="lora", lora_r=RANK, lora_alpha=ALPHA, lora_dropout=dropout)
        self.model: Any = peft_model(checkpoint_folder(source, cache), quant, dropout) if "trainer" in others else None

    def measure(self, num_members: int, num_tokens: int, steps: int, rounds: int) -> Measured:
        """Takes the turns of one size of a group."""
        examples = list(self._examples(num_members, num_tokens))
        measured = Measured(members=num_members, tokens=num_tokens)
        makers: dict[str, Callable[[], Seconds]] = {
            "ours": lambda: self.ours(examples, steps),
            "loop": lambda: self.ours(examples, steps, reference=True),
            "trainer": lambda: self.trainer(examples, steps),
        }
        for _ in range(rounds):
            for side in ("ours", *self.others):
                turn = makers[side]()
                measured.turns.setdefault(side, []).append(turn)
                print(f"{num_members} x {num_tokens} {side}: {json.dumps(asdict(turn))}", file=sys.stderr, flush=True)
                gc.collect()
        ours = measured.turns["ours"]
        for side in self.others:
            pairs = list(zip(measured.turns[side], ours, strict=True))
            measured.ratios[side] = [theirs.wall / own.wall for theirs, own in pairs]
            measured.processor_ratios[side] = [theirs.processor / own.processor for theirs, own in pairs]
        fastest = min(turn.wall for turn in ours)
        total = sum(len(example.input_ids) for example in examples)
        measured.tokens_per_second = total / fastest
        measured.roofline = products_seconds(self.bank, total) / fastest
        measured.parts = self._parts(examples)
        measured.loss_difference = self._loss_difference(examples[0]) if self.model is not None else None
        return measured

    def ours(self, examples: Sequence[Example], steps: int, reference: bool = False) -> Seconds:
        """A turn of `train_group`."""
        self._set_up(reference)
        times: list[Seconds] = []
        self._train(examples, steps, lambda: times.append(now()))
        return fastest_step(times)

    def _set_up(self, reference: bool = False) -> None:
        """Chooses the kernels, and whether the base is kept dequantized."""
        self.bank.row.kernels = Kernels() if reference else Kernels.of(self.bank.device)
        self.bank.keep_dequantized(not reference)

    def _train(self, examples: Sequence[Example], steps: int, between_steps: Callable[[], None]) -> None:
        """Trains a group of fresh members, one more step than `steps`."""
        train = TrainConfig(
            max_steps=steps + 1, max_epochs=1e9, batch_size=1, learning_rate=RATE, checkpoint_steps=10**9
        )
        with TemporaryDirectory() as folder:
            members = [
                Member(
                    run_id=f"m{place}",
                    adapter=self.adapter,
                    train=train,
                    examples=[example],  # type: ignore[arg-type]
                    checkpoint_folder=Path(folder) / str(place),
                    on_step=lambda _: None,
                )
                for place, example in enumerate(examples)
            ]
            train_group(self.bank, members, between_steps=lambda _: between_steps())
        for member in members:
            assert member.error is None, member.error
            self.bank.remove_member(member.run_id)

    def trainer(self, examples: Sequence[Example], steps: int) -> Seconds:
        """A turn of the Trainer: one run's step, for each of the members."""
        watch = StepTimes()
        lengths = sorted(len(example.input_ids) for example in examples)
        middle = next(e for e in examples if len(e.input_ids) == lengths[len(lengths) // 2])
        ids = torch.from_numpy(middle.input_ids.astype(np.int64))
        rows = [{"input_ids": ids, "labels": ids}] * (steps + 1)
        with TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=steps + 1,
                per_device_train_batch_size=1,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                optim="adamw_torch_fused",
                max_grad_norm=MAX_NORM,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            )
            trainer = Trainer(model=self.model, args=arguments, train_dataset=rows, callbacks=[watch])  # type: ignore[arg-type]
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        step = fastest_step(watch.times)
        return Seconds(step.wall * len(examples), step.processor * len(examples))

    def _parts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Shares of a step's time, by what the profiler saw in it: of one after those that fault fresh memory in."""
        profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        calls: list[Seconds] = []

        def between_steps() -> None:
            calls.append(now())
            if len(calls) == WARM_STEPS + 1:
                profiler.__enter__()
                calls[-1] = now()
            elif len(calls) == WARM_STEPS + 2:
                profiler.__exit__(None, None, None)

        self._set_up()
        self._train(examples, WARM_STEPS, between_steps)
        seconds = Counter[str]()
        weights = {features(layer.base)[::-1] for layer in self.bank.layers.values()}
        for event in profiler.events():
            seconds[part_of(event, weights, self.bank.head.weight.shape[0])] += event.self_cpu_time_total / 1e6
        total = calls[-1].wall - calls[-2].wall
        seconds["outside of torch's operations"] = total - seconds.total()
        return {name: value / total for name, value in seconds.most_common()}

    def _loss_difference(self, example: Example) -> float:
        """How far the losses of a fresh adapter are apart, relative.

        PEFT's model stays in training mode: on some processors bitsandbytes repacks weights that are evaluated, to
        compute in bfloat16.
        """
        item = Item(member="m", tokens=example.input_ids, num_source=0, dropout_key=0, weight=1.0)
        ids_1T = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        self.bank.add_member("m", self.adapter, seed=0)
        with torch.no_grad(), self.model.disable_adapter():  # as a fresh one, whose B is zero
            ours = float(self.bank.eval().item_losses([item]).mean())
            theirs = float(self.model.train()(input_ids=ids_1T, labels=ids_1T).loss)
        self.bank.remove_member("m")
        return abs(ours - theirs) / theirs

    def _examples(self, num_members: int, num_tokens: int) -> Iterator[Example]:
        rng = np.random.default_rng(0)
        for place in range(num_members):
            shorter = (num_tokens // 2) * place // max(1, num_members - 1) if self.uneven else 0
            yield Example(rng.integers(5, 40_000, size=num_tokens - shorter).astype(np.int32))


class StepTimes(TrainerCallback):
    """Notes when the Trainer's steps end, and when the first begins."""

    def __init__(self) -> None:
        self.times: list[Seconds] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Of the first step only: between two steps lies nothing but the next example."""
        self.times += [] if self.times else [now()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer's step."""
        self.times.append(now())


def now() -> Seconds:
    """Both clocks."""
    return Seconds(time.perf_counter(), time.process_time())


def fastest_step(times: Sequence[Seconds]) -> Seconds:
    """The fastest by each clock, without the first, which warms up."""
    steps = [Seconds(end.wall - begin.wall, end.processor - begin.processor) for begin, end in pairwise(times[1:])]
    return Seconds(min(step.wall for step in steps), min(step.processor for step in steps))


def peft_model(folder: Path, quant: QuantConfig, dropout: float) -> Any:
    """PEFT's LoRA over the model as transformers quantizes it."""
    config = None
    if quant.method is not QuantMethod.none:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quant.method.value,
            bnb_4bit_use_double_quant=quant.double_quant,
            bnb_4bit_compute_dtype=torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    if config is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora)


def products_seconds(bank: AdapterBank, num_tokens: int) -> float:
    """Of the frozen products of a step, forward and for the input's gradient: the best of several of each shape."""
    shapes = Counter(features(layer.base)[::-1] for layer in bank.layers.values())
    shapes[tuple(bank.head.weight.shape)] += 1  # type: ignore[index]
    seconds = 0.0
    for (num_outputs, num_inputs), count in shapes.items():
        weight, x = torch.randn(num_outputs, num_inputs), torch.randn(num_tokens, num_inputs)
        grad = torch.randn(num_tokens, num_outputs)
        for product in (lambda x=x, w=weight: linear(x, w), lambda g=grad, w=weight: linear(g, w.T)):
            taken = []
            for _ in range(7):
                began = time.perf_counter()
                product()
                taken.append(time.perf_counter() - began)
            seconds += count * min(taken)
    return seconds


def part_of(event: Any, weights: set[tuple[int, int]], vocab_size: int) -> str:
    """What an operation of a profiled step belongs to."""
    names, parent = [event.name], event.cpu_parent
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    shapes = [tuple(shape) for shape in event.input_shapes if isinstance(shape, list | tuple)]
    if any(name in _LOW_RANK for name in names):
        return "low-rank products" if event.name in _PRODUCTS else "low-rank terms: masks, scales, gradients"
    if any(name in _LOSS for name in names):
        return "output layer's products" if event.name in _PRODUCTS else "loss"
    if any(name.startswith("bitsandbytes::dequantize") for name in names):
        return "dequantization"
    if event.name in _PRODUCTS and any(shape in weights or shape[::-1] in weights for shape in shapes):
        return "frozen layers' products"
    if any("scaled_dot_product" in name for name in names):
        return "attention"
    if any(name.startswith(("Optimizer.", "aten::_fused", "aten::_foreach")) for name in names):
        return "optimizer and clipping"
    if any("AccumulateGrad" in name for name in names):
        return "gradients handed on"
    return "elementwise and the rest"


def text(measured: Measured) -> str:
    """One size for people."""
    lines = [
        f"{measured.members} x {measured.tokens} tokens: {measured.tokens_per_second:.0f} tokens/s, "
        f"{min(turn.wall for turn in measured.turns['ours']):.2f} s a step, roofline {measured.roofline:.0%}"
    ]
    for side, ratios in measured.ratios.items():
        by_clock = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        by_processor = ", ".join(f"{ratio:.2f}" for ratio in measured.processor_ratios[side])
        lines.append(f"  {side} takes {by_clock} x as long (processor time: {by_processor})")
    if measured.loss_difference is not None:
        lines.append(f"  a fresh adapter's loss differs from PEFT's by {measured.loss_difference:.1e}")
    lines += [f"  {share:6.1%} {name}" for name, share in measured.parts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)

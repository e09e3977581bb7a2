"""Useful target tokens a second: our packed training beside the transformers Trainer and TRL's SFTTrainer.

    pip install -c constraints.txt trl==1.16.0
    python -m benchmarks.training --rows alpaca.jsonl --format alpaca --source-max-tokens 384 --target-max-tokens 128
    python -m benchmarks.training --rows openassistant_guanaco_text.jsonl --format oasst1

Same SmolLM2 base in float32, same examples in the same order, microbatch of 4, rank 64, dropout 0.1, no checkpointing,
AdamW, two threads. `trainer` is transformers' Trainer + PEFT: each microbatch is padded to its longest example and all
logits are computed, as the original does. `trl` is SFTTrainer with packing ("bfd", its default) to rows of source +
target tokens, 4 rows a microbatch. `ours` packs the same four examples as the Trainer. Each turn of each side is a
process of its own, in turns A B C A B C: seconds exclude loading and one warm-up; the peak is the process's
resident memory.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from harness.devices.process import prepare_process

MICROBATCH = 4
RANK, ALPHA, DROPOUT = 64, 16, 0.1
LEARNING_RATE = 2e-4
SIDES = ("ours", "trainer", "trl")

Train = Callable[[Sequence[Any]], None]  # one pass over examples


def main(
    rows: Annotated[Path, typer.Option(help="Rows to train on.")],
    row_format: Annotated[str, typer.Option("--format", help="How a row is read: alpaca, oasst1, ...")],
    source_max_tokens: int = 16,
    target_max_tokens: int = 512,
    examples: Annotated[int, typer.Option(help="Examples a turn.")] = 48,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 2,
    sides: Annotated[str, typer.Option(help="Which to run, comma-separated.")] = ",".join(SIDES),
    side: Annotated[str, typer.Option(hidden=True, help="Run this one here and now.")] = "",
    cache: Path = Path(".cache"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Times the sides in turn and prints tokens a second, peak memory and the ratios to ours."""
    if side:
        print(json.dumps(one_turn(side, rows, row_format, source_max_tokens, target_max_tokens, examples, cache)))
        return
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides.split(",")}
    for _ in range(rounds):
        for name, done in turns.items():
            command = [sys.executable, "-m", "benchmarks.training", "--side", name]
            command += ["--rows", str(rows), "--format", row_format, "--examples", str(examples)]
            command += ["--source-max-tokens", str(source_max_tokens), "--target-max-tokens", str(target_max_tokens)]
            child = subprocess.run([*command, "--cache", str(cache)], stdout=subprocess.PIPE, text=True, check=True)
            done.append(json.loads(child.stdout.splitlines()[-1]))
            print(f"{name:8} {json.dumps(done[-1])}", file=sys.stderr)
    record: dict[str, Any] = {"rows": rows.name, "examples": examples, "turns": turns, "ratios": {}}
    for name in turns.keys() - {"ours"}:
        pairs = zip(turns.get("ours", []), turns[name], strict=False)
        record["ratios"][name] = [a["target_tokens_per_second"] / b["target_tokens_per_second"] for a, b in pairs]
    print(json.dumps(record, indent=None if as_json else 2))


def one_turn(
    side: str, rows: Path, row_format: str, source_max: int, target_max: int, num_examples: int, cache: Path
) -> dict[str, float]:
    """Warms up on two microbatches and times one pass over the examples."""
    prepare_process()
    import torch
    from transformers import AutoTokenizer

    from harness.config.schema import DatasetConfig, ModelConfig, PathsConfig
    from harness.data.source import DataSource
    from harness.data.tokens import tokenize_dataset
    from harness.devices.torch_device import quiet_libraries
    from harness.models.convert import checkpoint_folder
    from harness.models.locate import ModelSource, locate_model

    quiet_libraries()
    torch.set_num_threads(2)
    model = ModelConfig(name="smollm2", hub_id="embedded/smollm2-135m-instruct")
    source = locate_model(model, PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource)
    config = DatasetConfig(
        name="bench",
        hub_id="local",
        format=row_format,
        path=str(rows),
        source_max_tokens=source_max,
        target_max_tokens=target_max,
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(source, cache))
    data = tokenize_dataset(config, DataSource(name="bench", files=(rows,)), tokenizer, cache / "tokenized")
    chosen = [data[index % len(data)] for index in range(num_examples)]
    makers: dict[str, Callable[[], Train]] = {
        "ours": lambda: make_ours(source, cache),
        "trainer": lambda: make_trainer(source, cache),
        "trl": lambda: make_trl(source, cache, tokenizer, source_max + target_max),
    }
    train = makers[side]()
    train(chosen[: 2 * MICROBATCH])
    began = time.perf_counter()
    train(chosen)
    seconds = time.perf_counter() - began
    tokens = token_counts(chosen)
    return {
        "target_tokens_per_second": tokens["target_tokens"] / seconds,
        "seconds": seconds,
        **tokens,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def token_counts(examples: Sequence[Any]) -> dict[str, int]:
    """How many tokens are targets, how many there are, and how many with a microbatch padded to its longest."""
    lengths = [len(example.input_ids) for example in examples]
    microbatches = [lengths[start : start + MICROBATCH] for start in range(0, len(lengths), MICROBATCH)]
    return {
        "target_tokens": sum(len(e.input_ids) - max(e.num_source, 1) for e in examples),
        "tokens": sum(lengths),
        "padded_tokens": sum(MICROBATCH * max(microbatch) for microbatch in microbatches),
    }


def make_ours(source: Any, cache: Path) -> Train:
    """One optimizer step a microbatch, as the Trainer takes them."""
    import torch

    from harness.banks.load import load_base
    from harness.config.schema import AdapterConfig, DType, QuantConfig, QuantMethod, TrainConfig
    from harness.nn.batch import Item
    from harness.training.optim import make_optimizer, used_optimizer

    quant = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
    bank = load_base(source, quant, torch.device("cpu"), cache).bank
    bank.add_member("a", AdapterConfig(name="lora", lora_r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT), seed=0)
    train = TrainConfig(learning_rate=LEARNING_RATE)
    parameters = list(bank.member_parameters("a").values())

    def run(chosen: Sequence[Any]) -> None:
        optimizer = make_optimizer(parameters, train, used_optimizer(train.optimizer, bank.device))
        bank.train()
        for start in range(0, len(chosen), MICROBATCH):
            items = [
                Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=start + i, weight=1.0)
                for i, e in enumerate(chosen[start : start + MICROBATCH])
            ]
            bank.item_losses(items).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def make_trainer(source: Any, cache: Path) -> Train:
    """The transformers Trainer with PEFT, padded microbatches in the given order."""
    import numpy as np
    import torch
    from peft import get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        examples = [row["example"] for row in batch]
        longest = max(len(e.input_ids) for e in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, e in enumerate(examples):
            length = len(e.input_ids)
            ids[row, :length] = torch.from_numpy(e.input_ids.astype(np.int64))
            mask[row, :length] = 1
            labels[row, e.num_source : length] = ids[row, e.num_source : length]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    peft_model = get_peft_model(load_plain(source, cache), lora_config())

    def run(chosen: Sequence[Any]) -> None:
        with TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=-(-len(chosen) // MICROBATCH),
                remove_unused_columns=False,
                **arguments_of(),
            )
            dataset = [{"example": example} for example in chosen]
            InOrder(model=peft_model, args=arguments, train_dataset=dataset, data_collator=collate).train()

    return run


def make_trl(source: Any, cache: Path, tokenizer: Any, row_tokens: int) -> Train:
    """TRL's SFTTrainer with packed rows of `row_tokens`, one epoch."""
    from datasets import Dataset
    from peft import get_peft_model
    from trl import SFTConfig, SFTTrainer

    peft_model = get_peft_model(load_plain(source, cache), lora_config())

    def run(chosen: Sequence[Any]) -> None:
        examples = [
            {"input_ids": e.input_ids.tolist(), "labels": [-100] * e.num_source + e.input_ids[e.num_source :].tolist()}
            for e in chosen
        ]
        with TemporaryDirectory() as folder:
            arguments = SFTConfig(
                output_dir=folder,
                num_train_epochs=1,
                packing=True,
                max_length=row_tokens,
                gradient_checkpointing=False,
                bf16=False,
                **arguments_of(),
            )
            trainer = SFTTrainer(
                model=peft_model,
                args=arguments,
                train_dataset=Dataset.from_list(examples),
                processing_class=tokenizer,
            )
            trainer.train()

    return run


def load_plain(source: Any, cache: Path) -> Any:
    """The same weights in a plain transformers model, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.models.convert import checkpoint_folder

    return AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)


def lora_config() -> Any:
    """The adapter of the benchmark, as PEFT's config."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def arguments_of() -> dict[str, Any]:
    """The training arguments of both trainers."""
    return {
        "per_device_train_batch_size": MICROBATCH,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 0.3,
        "logging_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    typer.run(main)

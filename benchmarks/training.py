"""Useful target tokens a second: our packed training beside the transformers Trainer with PEFT and padding.

    python -m benchmarks.training --rows ../shared/data/datasets/alpaca.jsonl --format alpaca [--rounds 3] [--json]

Same SmolLM2 base in float32, same examples in the same order, microbatch of 4, rank 64, dropout 0.1, no
checkpointing, AdamW, two threads. The Trainer pads each microbatch to its longest example and computes all logits, as
the original does; ours packs the same four examples. Turns A B A B in one process; ratios are what counts.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from harness.process import prepare_process

MICROBATCH = 4
RANK, ALPHA, DROPOUT = 64, 16, 0.1


def main(
    rows: Annotated[Path, typer.Option(help="Rows to train on.")],
    row_format: Annotated[str, typer.Option("--format", help="How a row is read: alpaca, oasst1, ...")],
    source_max_tokens: int = 384,
    target_max_tokens: int = 128,
    steps: Annotated[int, typer.Option(help="Microbatches a turn.")] = 6,
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 3,
    cache: Path = Path(".cache"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Times both sides in turn and prints tokens a second and their ratios."""
    prepare_process()
    import torch

    from harness.data import DataSource
    from harness.locate import ModelSource, locate_model
    from harness.models import load_base, quiet_libraries
    from harness.schema import AdapterConfig, DatasetConfig, DType, ModelConfig, PathsConfig, QuantConfig, QuantMethod
    from harness.tokens import tokenize_dataset

    quiet_libraries()
    torch.set_num_threads(2)
    model = ModelConfig(name="smollm2", hub_id="embedded/smollm2-135m-instruct")
    source = locate_model(model, PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource)
    quant = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
    base = load_base(source, quant, torch.device("cpu"), cache)
    config = DatasetConfig(
        name="bench",
        hub_id="local",
        format=row_format,
        path=str(rows),
        source_max_tokens=source_max_tokens,
        target_max_tokens=target_max_tokens,
    )
    data = tokenize_dataset(config, DataSource(name="bench", files=(rows,)), base.tokenizer, cache / "tokenized")
    chosen = [data[index % len(data)] for index in range(steps * MICROBATCH)]
    targets = sum(len(example.input_ids) - max(example.num_source, 1) for example in chosen)
    base.bank.add_member("a", AdapterConfig(name="lora", lora_r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT), seed=0)
    trainer = make_trainer(source, cache, chosen, steps)
    rates: dict[str, list[float]] = {"ours": [], "trainer": []}
    for turn in range(rounds + 1):  # the first of each warms up
        for name, run in (("ours", lambda: train_ours(base.bank, chosen)), ("trainer", trainer)):
            began = time.perf_counter()
            run()
            if turn:
                rates[name].append(targets / (time.perf_counter() - began))
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["trainer"], strict=True)]
    padded = sum(
        MICROBATCH * max(len(e.input_ids) for e in chosen[start : start + MICROBATCH])
        for start in range(0, len(chosen), MICROBATCH)
    )
    record: dict[str, Any] = {
        "rows": rows.name,
        "microbatches": steps,
        "target_tokens": targets,
        "tokens": sum(len(example.input_ids) for example in chosen),
        "padded_tokens": padded,
        "target_tokens_per_second": rates,
        "ratios": ratios,
        "median_ratio": sorted(ratios)[len(ratios) // 2],
    }
    print(json.dumps(record) if as_json else json.dumps(record, indent=2))


def train_ours(bank: Any, chosen: list[Any]) -> None:
    """One optimizer step a microbatch, as the Trainer takes them."""
    import torch

    from harness.collate import Item
    from harness.optim import make_optimizer
    from harness.schema import TrainConfig

    train = TrainConfig(learning_rate=2e-4)
    parameters = list(bank.member_parameters("a").values())
    optimizer = make_optimizer(parameters, train, bank.device)
    bank.train()
    for start in range(0, len(chosen), MICROBATCH):
        part = chosen[start : start + MICROBATCH]
        items = [
            Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=start + i, weight=1.0)
            for i, e in enumerate(part)
        ]
        bank.item_losses(items).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def make_trainer(source: Any, cache: Path, chosen: list[Any], steps: int) -> Any:
    """-> a function that trains the same microbatches once with the transformers Trainer and PEFT."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from harness.models import checkpoint_folder

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

    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    peft_model = get_peft_model(model, config)

    def run() -> None:
        with TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=MICROBATCH,
                max_steps=steps,
                learning_rate=2e-4,
                lr_scheduler_type="constant",
                optim="adamw_torch",
                max_grad_norm=0.3,
                logging_strategy="no",
                report_to=[],
                use_cpu=True,
                save_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            dataset = [{"example": example} for example in chosen]
            InOrder(model=peft_model, args=arguments, train_dataset=dataset, data_collator=collate).train()

    return run


if __name__ == "__main__":
    typer.run(main)

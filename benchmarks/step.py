"""Seconds of one training step of 4 x 128 tokens on SmolLM2, to hold thread settings against each other.

    GOMP_SPINCOUNT=10000 python -m benchmarks.step --quant nf4
    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.step

The setting is the environment's alone: `harness.devices.process` is not called here.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from harness.banks.load import load_base
from harness.config.choices import model_choice, quant_choice
from harness.config.schema import AdapterConfig, DType, PathsConfig
from harness.devices.torch_device import quiet_libraries
from harness.models.locate import ModelSource, locate_model
from harness.nn.batch import Item


def main(
    quant: Annotated[str, typer.Option(help="A choice of conf/quant.")] = "fp32",
    steps: int = 3,
    cache: Path = Path(".cache"),
) -> None:
    """Prints forward and backward seconds of each step; the first warms up."""
    quiet_libraries()
    torch.set_num_threads(2)
    source = locate_model(model_choice("smollm2"), PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource)
    stored = quant_choice(quant)
    stored.compute_dtype = DType.float32
    bank = load_base(source, stored, torch.device("cpu"), cache).bank
    bank.add_member("a", AdapterConfig(name="lora", lora_r=16, lora_dropout=0.05), seed=0)
    bank.train()
    rng = np.random.default_rng(0)
    items = [
        Item(
            member="a",
            tokens=rng.integers(5, 40_000, size=128).astype(np.int32),
            num_source=64,
            dropout_key=key,
            weight=1.0,
        )
        for key in range(4)
    ]
    for _ in range(steps):
        began = time.perf_counter()
        loss = bank.item_losses(items).mean()
        middle = time.perf_counter()
        loss.backward()
        print(f"forward {middle - began:.2f} s, backward {time.perf_counter() - middle:.2f} s")


if __name__ == "__main__":
    typer.run(main)

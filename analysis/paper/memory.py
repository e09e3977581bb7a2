"""The memory columns of Tables 1 and 6: predicted bytes of a model that answers, beside the printed gigabytes.

What answers are made with: the base's weights and an adapter of r = 64 on all layers, in 16 bits; no activations,
whose length the paper doesn't say. The program itself, measured on tensors without data, has these very bytes of
weights (`python -m harness.memory --model 65b --measure`), so that what is missing beside the printed column are other
settings: `alternatives` has those that come closest. Source: QLoRA (arXiv 2305.14314), Tables 1 and 6.
"""

import re
from dataclasses import replace

from analysis.paper.values import value
from harness.memory.paper import RECIPE_QUANT, answering_bytes, llama_shape, recipe_prediction
from harness.memory.predict import weights_bytes
from harness.models.locate import num_parameters

HALF_A_GIGABYTE = 0.5  # the columns are printed to the whole one
SIZES = ("7b", "13b", "33b", "65b")
IN_16_BITS = frozenset({"vicuna-13b", "open-assistant-33b"})  # the paper's, without an adapter
BASIS = "predicted: weights, and an adapter of r = 64 in 16 bits; no activations"
ALTERNATIVES = "Memory, GB, of other settings: what the printed column agrees with"
ALTERNATIVES_HEADER = ("size", "ours", "one level of constants", "and the adapter in 32 bits", "Table 1", "left")
UNKNOWN = "not a model whose shape is known"


def memory_gb(row: str) -> float | None:
    """Gigabytes (10^9 bytes) of a row's model; None where its shape isn't known."""
    size = re.search(r"-(\d+b)$", row)
    if size is None or size[1] not in SIZES:
        return None
    if row in IN_16_BITS:
        return 2 * num_parameters(llama_shape(size[1])) / 1e9
    return answering_bytes(size[1]) / 1e9


def alternatives() -> tuple[tuple[str, ...], ...]:
    """-> rows of `ALTERNATIVES_HEADER`

    Constants that aren't quantized again, and an adapter in 32 bits, come within half a gigabyte of 33B's 21 GB, of
    65B's 41, and of the 5 that Table 6 has for 7B. Of Table 1's 6 GB for 7B and 10 for 13B 1.2 are left, unexplained.
    """
    rows = []
    for size in SIZES:
        ours = memory_gb(f"guanaco-{size}")
        assert ours is not None
        single = weights_bytes(llama_shape(size), replace(RECIPE_QUANT, double_quant=False)) / 1e9
        adapter = recipe_prediction(size).adapter_bytes / 1e9
        printed = float(value("1", f"guanaco-{size}", "memory_gb"))
        numbers = (ours, single + adapter / 2, single + adapter)
        rows.append((size, *(f"{number:.1f}" for number in numbers), f"{printed:g}", f"{printed - numbers[-1]:+.1f}"))
    return tuple(rows)

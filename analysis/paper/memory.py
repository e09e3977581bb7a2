"""The memory columns of Tables 1 and 6: predicted bytes of a model that answers, beside the printed gigabytes.

What answers are made with: the base's weights and an adapter of r = 64 on all layers, in 16 bits; no activations,
whose length the paper doesn't say. Source: QLoRA (arXiv 2305.14314), Tables 1 and 6; `harness.memory.predict`.
"""

import re

from harness.memory.paper import llama_shape, recipe_prediction
from harness.models.locate import num_parameters

HALF_A_GIGABYTE = 0.5  # the columns are printed to the whole one
SIZES = ("7b", "13b", "33b", "65b")
IN_16_BITS = frozenset({"vicuna-13b", "open-assistant-33b"})  # the paper's, without an adapter
BASIS = "predicted: weights, and an adapter of r = 64 in 16 bits; no activations"
UNKNOWN = "not a model whose shape is known"


def memory_gb(row: str) -> float | None:
    """Gigabytes (10^9 bytes) of a row's model; None where its shape isn't known."""
    size = re.search(r"-(\d+b)$", row)
    if size is None or size[1] not in SIZES:
        return None
    if row in IN_16_BITS:
        return 2 * num_parameters(llama_shape(size[1])) / 1e9
    prediction = recipe_prediction(size[1])
    return (prediction.weights_bytes + prediction.adapter_bytes / 2) / 1e9

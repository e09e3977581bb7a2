"""How large the buffers are that a pass over a row fills again and again, piece by piece.

The passes of `harness.nn` keep to these sizes, and the arithmetic of `harness.memory` counts with them. It runs
without torch, and so does this module.
"""

CHUNK_BYTES = 64 * 2**20  # of float32 logits held at once, by the losses
DRAW_BYTES = 64 * 2**20  # of float32 random numbers held at once, by dropout
MIN_PAGED_ELEMENTS = 100_000  # bitsandbytes pages the optimizer's state of tensors from here on

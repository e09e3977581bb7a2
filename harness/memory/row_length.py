"""Decides how many tokens a packed row holds, where `train.max_microbatch_tokens` leaves it open.

A frozen layer is dequantized, and its kernels are launched, once a row, whoever is in it: longer rows cost less a
token, and need more memory. On a GPU a row is the longest of `GPU_ROW_TOKENS` whose predicted peak, all of the
optimizer's state included, fits: no run pages for a longer row. A plan and a worker call the same function, the plan
with a device's whole memory, the worker with what is free on it once the base is loaded. A run that fits nowhere is
tried with the shortest row; where memory runs out, `harness.training.loop` halves rows and then recomputes activations.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.config.schema import SHARED_BASE_METHODS, SHORTEST_ROW_TOKENS, AdapterMethod, Device, ModelKind
from harness.memory.predict import MemoryPrediction
from harness.memory.runs import memory_key, predict_run
from harness.runs.spec import RunSpec

GPU_ROW_TOKENS = (SHORTEST_ROW_TOKENS, 4096, 8192, 16384)
COMFORTABLE_ROW_TOKENS = 8192  # beyond it rows gain little: a device's memory goes to a further worker first
UNKNOWN_ROW_TOKENS = 4096  # on a GPU, where the predictor doesn't reach; the most of runs with a base of their own
CONTEXT_BYTES = 1_000_000_000  # of a process on a GPU beside its tensors: CUDA's context, kernels, cuBLAS' workspace
USABLE = 0.95  # of a device's memory; the rest is the driver's, the allocator's and the prediction's error


def usable_bytes(total_bytes: int, num_workers: int = 1) -> int:
    """Bytes that each of the workers that share a GPU has for its tensors, weights included."""
    return int(USABLE * total_bytes) // num_workers - CONTEXT_BYTES


def row_tokens(
    specs: Sequence[RunSpec],
    device: Device,
    usable: int | None,
    num_shards: int = 1,
    most: int = GPU_ROW_TOKENS[-1],
) -> int:
    """Tokens of a row that these runs train in together.

    Args:
        specs: of one group, `train` set; their models' shapes filled in where they are known.
        device: cpu or cuda.
        usable: bytes for tensors, weights included; None where the device isn't known.
        num_shards: devices that share the base.
        most: no automatic row is longer.

    Returns:
        The largest number that a run names, or the automatic one, if a run names none and that is larger.
    """
    named = [spec.train.max_microbatch_tokens for spec in specs if spec.train is not None]
    largest = max((tokens for tokens in named if tokens is not None), default=0)
    if None not in named:
        return largest
    return max(largest, _automatic(specs, device, usable, num_shards, most))


def group_bytes(specs: Sequence[RunSpec], tokens: int, num_shards: int = 1) -> int | None:
    """The peak, in bytes, of runs that share a base and rows of `tokens` tokens, with all of the optimizer's state.

    None if one of them can't be predicted.
    """
    predictions: list[MemoryPrediction | None] = []
    for same in _alike(specs):
        train = same[0].train
        spec = same[0] if train is None else replace(same[0], train=replace(train, max_microbatch_tokens=tokens))
        predictions.append(predict_run(spec, num_shards, num_members=len(same)))
    known = [prediction for prediction in predictions if prediction is not None]
    if not known or len(known) < len(predictions):
        return None
    own = sum(p.static_bytes - p.weights_bytes + p.paged_optimizer_bytes for p in known)
    shared_row = sum(p.factor_copies_bytes for p in known) + max(p.passing_bytes for p in known)
    return known[0].weights_bytes + own + max(shared_row, *(p.full_row_bytes for p in known))


def _alike(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Groups runs whose predictions are equal."""
    by_key: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_key.setdefault(memory_key(spec), []).append(spec)
    return list(by_key.values())


def _automatic(specs: Sequence[RunSpec], device: Device, usable: int | None, num_shards: int, most: int) -> int:
    if device is not Device.cuda or usable is None:
        return SHORTEST_ROW_TOKENS
    if any(spec.adapter.method is AdapterMethod.full for spec in specs):
        return UNKNOWN_ROW_TOKENS
    alone = (s.adapter.method not in SHARED_BASE_METHODS or s.model.kind is not ModelKind.causal for s in specs)
    if any(alone):  # one run at a time has less use for long rows, and padding may take more than is predicted
        most = min(most, UNKNOWN_ROW_TOKENS)
    peaks = {tokens: group_bytes(specs, tokens, num_shards) for tokens in GPU_ROW_TOKENS if tokens <= most}
    if None in peaks.values():
        return min(UNKNOWN_ROW_TOKENS, most)
    fitting = [tokens for tokens, peak in peaks.items() if peak is not None and peak <= usable]
    return max(fitting, default=SHORTEST_ROW_TOKENS)

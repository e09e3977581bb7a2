"""Predicts the memory of planned runs, and says which of them need the same."""

from harness.config.schema import AdapterMethod, ModelKind
from harness.memory.other_methods import predict_other
from harness.memory.padded import predict_padded
from harness.memory.predict import MemoryPrediction, predict
from harness.runs.spec import RunSpec


def predict_run(spec: RunSpec, num_shards: int = 1, num_members: int = 1) -> MemoryPrediction | None:
    """The memory of a planned run, by the shape in its model's YAML; None where this arithmetic doesn't apply.

    It doesn't apply to models without a shape, layers by other names, and methods whose activations are not derived
    (`harness.memory.floor` tells the least of some).

    Args:
        num_shards: devices that share the base; each needs as much.
        num_members: runs like it that train in one pass; 1 is the run alone.
    """
    row = spec.train.row_tokens if spec.train is not None and spec.dataset is not None else 0
    longest = longest_sequence(spec)
    if spec.model.kind is not ModelKind.causal:
        return predict_padded(spec.model, spec.quant, spec.adapter, spec.train, row, longest, _longest_source(spec))
    other = predict_other(spec.model, spec.quant, spec.adapter, spec.train, row, longest)
    if other is not None:
        return other
    try:
        return predict(spec.model.shape, spec.quant, spec.adapter, spec.train, row, longest, num_members, num_shards)
    except ValueError:
        return None


def longest_sequence(spec: RunSpec) -> int:
    """The most tokens that an example of the run can have; those of both stacks of an encoder-decoder together."""
    if spec.dataset is None:
        return 0
    source, target, most = _longest_source(spec), spec.dataset.target_max_tokens, spec.model.max_length
    if spec.model.kind is ModelKind.classifier:
        return source
    return source + min(target, most) if spec.model.kind is ModelKind.seq2seq else min(source + target, most)


def _longest_source(spec: RunSpec) -> int:
    """Of them, tokens before the target."""
    return 0 if spec.dataset is None else min(spec.model.max_length, spec.dataset.source_max_tokens)


def memory_key(spec: RunSpec) -> str:
    """A key that is equal for runs with the same prediction, such as runs that differ in rate or seed."""
    train, used = spec.train, None
    source = _longest_source(spec) if spec.model.kind is ModelKind.seq2seq else 0  # longer ones meet shorter targets
    if train is not None:
        seed = train.seed if spec.adapter.method is AdapterMethod.hft else 0  # which draws matrices of several sizes
        used = train.optimizer, train.gradient_checkpointing, train.max_microbatch_tokens, train.master_weights, seed
    return repr([spec.model, spec.quant, spec.adapter, used, longest_sequence(spec), source])

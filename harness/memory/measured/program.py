"""Trains steps of the real program on a GPU without data, and says what lay there at the worst moment.

The program is the one that trains: `harness.banks.load.make_bank` reads a checkpoint (quantizing layer by layer, and
trying its rows), and `harness.training.loop.train_group` makes steps: packed rows or padded batches, adapters, dropout,
checkpointing, loss, backward pass, clipping, optimizer.

Three steps show every state that a group comes by. The first has short rows and makes the optimizer's state. The second
ends with a full row, when every member has gradients of an earlier row. The third, of a group, is one full row that all
members share.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.banks.bank import Bank
from harness.banks.load import make_bank, set_master_weights, set_num_labels
from harness.config.schema import AdapterConfig, AdapterMethod, ModelConfig, ModelKind, QuantConfig, TrainConfig
from harness.devices.torch_device import quiet_libraries
from harness.memory.measured.checkpoints import write_checkpoint
from harness.memory.measured.gpu import CUDA, gpu_without_data
from harness.memory.measured.storages import ADAPTERS, GRADIENTS, OPTIMIZER, WEIGHTS, LiveStorages, Peak
from harness.runs.compatibility import CALIBRATED_METHODS
from harness.training.group import Member, StepMetrics
from harness.training.loop import train_group
from harness.training.schedule import batch_indices

SHORT = 4  # tokens of an example that only has to be there
FIRST_TOKEN = 10  # what the examples are made of: no padding, no EOS
NUM_LABELS = 2
STARTS_FROM_NUMBERS = CALIBRATED_METHODS | {AdapterMethod.pissa, AdapterMethod.olora, AdapterMethod.loftq}
DEFAULT_GPU_BYTES = 80_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What trains."""

    model: ModelConfig
    quant: QuantConfig  # `compute_dtype` resolved, not auto
    adapter: AdapterConfig
    tokens: int = 528  # of a row: one sequence of OASST1's limits
    sequence: int = 528  # the most tokens of an example
    source: int | None = None  # of them, what a T5's encoder reads; None: half
    members: int = 1
    train: TrainConfig = field(default_factory=TrainConfig)  # its optimizer and checkpointing count
    gpu_bytes: int = DEFAULT_GPU_BYTES  # decides whether the optimizer's state pages

    @property
    def num_long(self) -> int:
        """Examples of a full row."""
        return -(-self.tokens // self.sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes on the device."""

    loading_bytes: int  # the most before the first step: the base is read, the members are added
    peak: Peak  # of a step, whose optimizer has its state
    optimizer: str  # that ran


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int
    label: float | None = None


def measure(case: Case) -> Measured:
    """Reads the model and trains it, on a GPU without data.

    Raises:
        ValueError: what the program refuses, or a member's error; a method that needs numbers to start from.
    """
    if case.adapter.method in STARTS_FROM_NUMBERS or case.adapter.peft_type == "SHIRA":
        raise ValueError(
            f"--measure: adapter={case.adapter.method_name} starts from numbers of the weights, or of data, which "
            "tensors without data don't have; what LoRA's layers hold is measured with --adapter lora_fa or lq_lora"
        )
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder, gpu_without_data(case.gpu_bytes) as storages:
        path = write_checkpoint(case.model, case.quant.compute_dtype, Path(folder))
        bank = make_bank(path, case.model.kind, case.adapter.method, case.quant, CUDA)
        if case.model.kind is ModelKind.classifier:
            set_num_labels(bank, NUM_LABELS)
        set_master_weights(bank, case.adapter, case.train)
        return train(bank, case, storages)


def train(bank: Bank, case: Case, storages: LiveStorages) -> Measured:
    """Trains, and looks from the second step on, when the optimizer has its state."""
    num_steps = 2 if case.members == 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        members = [_member(case, place, num_steps, Path(folder)) for place in range(case.members)]
        steps_begun = loading_bytes = 0

        def between_steps(active: Sequence[Member]) -> None:
            nonlocal steps_begun, loading_bytes
            if steps_begun == 0:
                loading_bytes = storages.peak_bytes
                _mark_trained(bank, members, storages)
            elif steps_begun == 1:
                storages.start_pass()
            steps_begun += 1

        def made_state(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            states = [value for of in optimizer.state.values() for value in of.values()]
            tensors = [value for value in states if isinstance(value, torch.Tensor)]
            storages.mark((tensor for tensor in tensors if not hasattr(tensor, "is_paged")), OPTIMIZER)

        handle = register_optimizer_step_post_hook(made_state)
        try:
            train_group(bank, members, between_steps=between_steps)
        finally:
            handle.remove()
        for member in members:
            if member.error is not None:
                raise ValueError(member.error)
        kinds = {str(member.optimizer_kind) for member in members}
        return Measured(loading_bytes=loading_bytes, peak=storages.peak(), optimizer=" and ".join(sorted(kinds)))


def _mark_trained(bank: Bank, members: Sequence[Member], storages: LiveStorages) -> None:
    storages.mark_all(WEIGHTS)  # of a bank that reads its base when the member comes
    for member in members:
        if member.error is not None:
            raise ValueError(member.error)
        parameters = list(bank.member_parameters(member.run_id).values())
        storages.mark(parameters, ADAPTERS)
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: storages.mark([p.grad], GRADIENTS))


def _member(case: Case, place: int, num_steps: int, folder: Path) -> Member:
    """The last member has the long examples; each of the others has a short one a step."""
    is_last = place == case.members - 1
    batch_size = 2 * case.num_long if is_last else 1
    train = replace(
        case.train,
        max_steps=num_steps,
        max_epochs=None,
        batch_size=batch_size,
        learning_rate=1e-4,
        max_microbatch_tokens=case.tokens,
        checkpoint_steps=num_steps,
    )
    return Member(
        run_id=f"member{place}",
        adapter=case.adapter,
        train=train,
        examples=_examples(case, train, is_last),
        checkpoint_folder=folder / str(place),
        on_step=_ignore,
    )


def _ignore(step: StepMetrics) -> None:
    """Steps on tensors without data have no numbers."""


def _examples(case: Case, train: TrainConfig, is_last: bool) -> list[_Example]:
    """Examples in such places that each step draws those that it needs."""
    assert train.max_steps is not None
    assert train.batch_size is not None
    num_examples = train.max_steps * train.batch_size
    examples = [_example(case, SHORT)] * num_examples
    for step in range(train.max_steps):
        lengths = _lengths(case, step, train.batch_size, is_last)
        for index, length in zip(batch_indices(train, np.zeros(num_examples, int), step), lengths, strict=True):
            examples[index] = _example(case, length)
    return examples


def _lengths(case: Case, step: int, batch_size: int, is_last: bool) -> list[int]:
    """Tokens of a member's examples in a step, by the module's plan."""
    if step == 2:  # all members in one row, equal shares
        share = case.tokens // case.members
        return [max(SHORT, min(case.sequence, share // batch_size))] * batch_size
    if step == 0 or not is_last:
        return [SHORT] * batch_size
    full = [case.sequence] * (case.num_long - 1) + [case.tokens - case.sequence * (case.num_long - 1)]
    return [SHORT, *[case.sequence] * (case.num_long - 1), *full]


def _example(case: Case, length: int) -> _Example:
    """A sequence with one source token; of a T5, its share of the sequence; of a classifier, all with a label."""
    tokens = np.full(length, FIRST_TOKEN, dtype=np.int32)
    if case.model.kind is ModelKind.classifier:
        return _Example(input_ids=tokens, num_source=0, label=1.0)
    if case.model.kind is ModelKind.seq2seq:
        source = case.sequence // 2 if case.source is None else case.source
        return _Example(input_ids=tokens, num_source=max(1, length * source // case.sequence))
    return _Example(input_ids=tokens, num_source=1)

"""After a run's last step: its adapter, its record, and the word to the ledger."""

import os
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.banks.load import LoadedBase
from harness.config.schema import AdapterMethod, DatasetConfig
from harness.data.source import STREAM_SEED
from harness.data.tokens import SAMPLE_SEED
from harness.files.atomic import is_out_of_space
from harness.runs.folder import folder_problem
from harness.runs.record import (
    CHECKPOINT_FOLDER,
    RunRecord,
    git_state,
    load_record,
    now,
    package_versions,
    python_version,
    save_record,
)
from harness.training.group import Member
from harness.training.held_out import EvalPoint
from sweeps.jobs.claimed_run import ClaimedRun
from sweeps.jobs.context import Context
from sweeps.plan.jobs import EVAL_BITS, EVAL_LOSS, EVAL_STEP, train_result


def adopt(context: Context, run: ClaimedRun) -> bool:
    """Takes a whole run folder for what it is, where the ledger was lost or its worker died before it was told."""
    if folder_problem(run.folder, run.spec.adapter.method is not AdapterMethod.none, run.claim.run_id) is not None:
        return False
    record = load_record(run.folder)
    assert record is not None
    shutil.rmtree(run.folder / CHECKPOINT_FOLDER, ignore_errors=True)  # its worker may have died before that, too
    context.finish(run.claim, train_result(record), record.train_seconds)
    return True


def settle(context: Context, base: LoadedBase, run: ClaimedRun) -> None:
    """Saves the adapter and the record, last of all tells the ledger; does nothing if the claim was lost."""
    member = run.member
    if member is not None and member.error is not None:
        context.fail(run.claim, member.error, retry=False)
        return
    if member is not None and member.stopped:
        _stop(context, run, member)
        return
    try:
        began = time.monotonic()
        partial, digest = _write_adapter(base, run) if run.member is not None else (None, None)
        save_seconds = time.monotonic() - began
        record = _record(base, run, digest, context.peers.ranks.size)
        if not context.still_held(run.claim):  # asked as late as can be: what is another's is not overwritten
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            return
        if partial is not None:
            _publish_adapter(partial, run.folder / "adapter")
        save_record(run.folder, record)
    except OSError as error:  # one run's folder; the others of the group are still to be saved
        if is_out_of_space(error):
            raise
        context.fail(run.claim, f"{type(error).__name__}: {error}; its last checkpoint is kept", retry=True)
        return
    shutil.rmtree(run.folder / CHECKPOINT_FOLDER, ignore_errors=True)
    context.finish(run.claim, train_result(record), record.train_seconds, save_seconds=save_seconds)


def _stop(context: Context, run: ClaimedRun, member: Member) -> None:
    """Tells the ledger of a run that has stopped to be judged; its checkpoint stays in the run folder."""
    point = run.points.get(member.step)
    values = {} if point is None else asdict(point)
    measured = {key: values.get(key) for key in (EVAL_LOSS, EVAL_BITS)}
    result = measured | {EVAL_STEP: member.step, "num_steps": member.total_steps}
    shown = "not measured" if point is None else f"{point.eval_loss:.4f}"
    reason = f"stopped at step {member.step} of {member.total_steps} to be judged, held-out loss {shown}"
    context.stop(run.claim, result, sum(m.seconds / m.num_members for m in run.metrics), reason)


def _write_adapter(base: LoadedBase, run: ClaimedRun) -> tuple[Path, str]:
    """Writes the adapter to a folder beside its final one. -> that folder, and the sha256 of the weights"""
    partial = run.folder / f".adapter.partial-{os.getpid()}"
    model = run.spec.model
    try:
        return partial, base.bank.save_member(run.claim.run_id, partial, model.hub_id, model.revision)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # half of it would take up the room that is missing
        raise


def _publish_adapter(partial: Path, adapter: Path) -> None:
    shutil.rmtree(adapter, ignore_errors=True)
    os.replace(partial, adapter)


def _record(base: LoadedBase, run: ClaimedRun, adapter_sha256: str | None, num_devices: int) -> RunRecord:
    device = base.bank.device
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    commit, dirty = git_state()
    last = run.metrics[-max(1, len(run.metrics) // 10) :]
    kept = _kept_point(run)
    storage = None if run.member is None else base.bank.storage(run.claim.run_id)
    return RunRecord(
        run_id=run.claim.run_id,
        label=run.label,
        group=run.claim.group,
        spec=run.spec.to_dict(),
        status="done",
        num_steps=run.member.step if run.member else 0,
        num_examples=len(run.data) if run.data else 0,
        num_truncated_sources=run.data.num_truncated_sources if run.data else 0,
        num_truncated_targets=run.data.num_truncated_targets if run.data else 0,
        target_tokens=sum(m.target_tokens for m in run.metrics),
        final_loss=sum(m.loss for m in last) / len(last) if last else None,
        train_seconds=sum(m.seconds / m.num_members for m in run.metrics),
        peak_memory_bytes=_peak_memory_bytes(device),
        base_fingerprint=base.fingerprint,
        data_fingerprint=run.data_fingerprint,
        tokenizer_fingerprint=base.tokenizer_fingerprint,
        quantized_share=base.bank.quantized_share,
        adapter_sha256=adapter_sha256,
        optimizer_used=run.member.optimizer_kind.value if run.member and run.member.optimizer_kind else None,
        device=device_name if num_devices == 1 else f"{num_devices} x {device_name}",
        storage=storage,
        notes=(
            *(base.bank.notes if run.member else ()),
            *_storage_notes(storage),
            *([] if run.data is not None and run.data.has_all_rows else _sample_notes(run.spec.dataset)),
            *(run.data.notes if run.data else ()),
            *run.notes,
            *(run.member.notes if run.member else ()),
        ),
        row_tokens=run.member.train.row_tokens if run.member else None,
        num_eval_examples=len(run.member.held_out.examples) if run.member and run.member.held_out else None,
        eval_loss=None if kept is None else kept.eval_loss,
        eval_bits_per_byte=None if kept is None else kept.eval_bits_per_byte,
        eval_step=None if kept is None else kept.step,
        eval_seconds=sum(point.eval_seconds for point in run.points.values()) if kept else None,
        identity=None if run.proof is None else run.proof.to_dict(),
        started=run.started,
        finished=now(),
        git_commit=commit,
        git_dirty=dirty,
        packages=package_versions(),
        python=python_version(),
    )


def _kept_point(run: ClaimedRun) -> EvalPoint | None:
    """The held-out loss of the weights that the run leaves; None where it has no such rows."""
    member = run.member
    if member is None or member.held_out is None:
        return None
    return run.points.get(member.step if member.best is None else member.best.step)


def _storage_notes(storage: Mapping[str, Any] | None) -> list[str]:
    """How many bits the layers' own formats take, where they have some."""
    if storage is None:
        return []
    return [
        f"{sum(storage['layers'].values())} layers in {len(storage['layers'])} formats of their own, "
        f"{storage['bits']:.3f} bits a weight; simulated: held in the compute dtype"
    ]


def _sample_notes(dataset: DatasetConfig | None) -> list[str]:
    """Which part of the rows was read, where it was not all of them."""
    if dataset is None or (dataset.max_rows is None and dataset.max_rows_per_task is None):
        return []
    by_task = "" if dataset.max_rows_per_task is None else f"{dataset.max_rows_per_task:,} of each task, "
    most = "" if dataset.max_rows is None else f"{dataset.max_rows:,} at most, "
    how = f"of the hub's stream, seed {STREAM_SEED}" if dataset.stream else f"seed {SAMPLE_SEED}"
    return [f"{dataset.name}: a sample of the rows, {by_task}{most}{how}"]


def _peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of the GPU, or on a CPU of this worker process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

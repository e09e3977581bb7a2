"""The job kind `train`: trains several claimed runs over one base, and leaves a whole run folder of each."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from eval.benchmarks.held_out_rows import split_examples
from harness.banks.load import LoadedBase, calibrate, set_master_weights, set_num_labels
from harness.config.schema import AdapterConfig, AdapterMethod, DatasetConfig, ModelKind
from harness.data.holdout import divided, shared_lines
from harness.data.labels import num_labels
from harness.data.selection.knowledge import knowledge_file, knowledge_texts
from harness.data.selection.rows import SELECTED_FILE, write_selected
from harness.data.source import STREAM_SEED, fingerprint, locate_dataset
from harness.data.tokens import (
    SAMPLE_SEED,
    EncodedExamples,
    Lengths,
    TokenizedDataset,
    TokenizedExample,
    tokenize_dataset,
)
from harness.files.atomic import append_jsonl, is_out_of_space, read_jsonl, to_json, write_atomically, write_json
from harness.files.hub import Missing
from harness.identity.kept import proved
from harness.identity.proof import Proof
from harness.ledger.tables import JobRow, LedgerError
from harness.runs.folder import folder_problem
from harness.runs.record import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    RECORD_FILE,
    RunRecord,
    git_state,
    load_record,
    now,
    package_versions,
    python_version,
    save_record,
)
from harness.runs.spec import RunSpec
from harness.runs.start import start_digest
from harness.training.checkpoint import checkpoints
from harness.training.group import Member, Places, StepMetrics
from harness.training.held_out import EvalPoint, HeldOut
from harness.training.loop import train_group
from harness.training.schedule import num_steps
from harness.training.tracking import Tracker
from sweeps.jobs.callbacks import MmluPoint, StepCallbacks, Watched, remove_callback_files
from sweeps.jobs.context import Context, Workplace
from sweeps.jobs.held_out import target_bytes
from sweeps.jobs.row_tokens import agreed_row_tokens, keep_dequantized, num_fitting
from sweeps.jobs.selection import Chosen, chosen_parts
from sweeps.plan.inputs import DATA, inputs_of, require_planned
from sweeps.plan.jobs import EVAL_BITS, EVAL_LOSS, EVAL_STEP, TRAIN, UNTIL, train_result

_KEPT_TOKENS = 512  # of a text whose knowledge is kept
_EVAL = "eval_"  # how the names of a held-out loss's numbers begin in metrics.jsonl
_YAML = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, ten times as fast, where libyaml is there


@dataclass(slots=True, kw_only=True)
class _Run:
    """One claimed run while its group trains."""

    claim: JobRow
    spec: RunSpec
    label: str
    folder: Path
    started: str
    until: int | None  # the step after which it stops to be judged
    inputs: dict[str, str]  # signs of what it was planned to read
    data: TokenizedDataset | None = None
    data_fingerprint: str | None = None
    member: Member | None = None
    tracker: Tracker | None = None
    proof: Proof | None = None  # of its method
    metrics: list[StepMetrics] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on its rows
    points: dict[int, EvalPoint] = field(default_factory=dict)  # by step

    @classmethod
    def of(cls, claim: JobRow, place: Workplace) -> "_Run":
        payload = json.loads(claim.payload)
        return cls(
            claim=claim,
            spec=RunSpec.from_dict(payload["spec"]),
            label=payload["label"],
            folder=place.run_folder(claim.run_id),
            started=now(),
            until=payload.get(UNTIL),
            inputs=inputs_of(payload),
        )


def train_jobs(context: Context, claims: Sequence[JobRow]) -> None:
    """Trains the claimed runs of one group together and settles each claim.

    A run whose data is broken, or whose loss is not finite, fails alone with its reason.

    Raises:
        TrainingInterrupted: asked to stop; checkpoints are written and the claims still held.
    """
    base, runs = _prepared(context, _not_adopted(context, claims))
    context.peers.broadcast([run.claim.run_id for run in runs if run.member is not None])
    if base is None:
        return
    for run in runs:
        if run.member is None:  # an untouched base
            _settle(context, base, run)
    _train(context, base, [run for run in runs if run.member is not None])


def _runs_of(claims: Sequence[JobRow], place: Workplace) -> list[_Run]:
    return [_Run.of(claim, place) for claim in claims]


def _not_adopted(context: Context, claims: Sequence[JobRow]) -> list[_Run]:
    return [run for run in _runs_of(claims, context) if not _adopt(context, run)]


def _prepared(context: Context, runs: Sequence[_Run]) -> tuple[LoadedBase | None, list[_Run]]:
    """Loads the base that the runs share and prepares each. -> the base and the runs that can start."""
    if not runs:
        return None, []
    base = context.base(runs[0].spec, trains=True, planned=runs[0].inputs)
    return base, _ready(context, base, runs)


def _ready(context: Context, base: LoadedBase, runs: Sequence[_Run], inside: Sequence[RunSpec] = ()) -> list[_Run]:
    """Prepares each run. -> those that can start

    Args:
        context: takes the others' failures.
        base: of all of them.
        runs: of one group.
        inside: runs that train on the base already.
    """
    ready: list[_Run] = []
    for run in _fitting(context, base, runs, inside):
        try:
            require_planned(run.inputs, context.signs, run.spec)
            _prepare(context, base, run)
        except ValueError as error:
            context.fail(run.claim, str(error), retry=False)
        except Exception as error:  # the boundary of a run: what nobody foresaw in one is not the others' failure
            if is_out_of_space(error):
                raise
            context.fail_with(run.claim, error)
        else:
            ready.append(run)
    return ready


def _train(context: Context, base: LoadedBase, runs: Sequence[_Run]) -> None:
    """Takes the steps of all runs and settles them; afterwards the bank holds none of their members.

    In a worker of one process a run is settled when it ends, and the next queued one of the group takes its place.
    """
    if base.bank.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.bank.device)
    members = [run.member for run in runs if run.member is not None]
    peers = context.peers if context.shards_base else None
    by_id = {run.claim.run_id: run for run in runs}
    inside = _Inside(context=context, base=base, runs=by_id, group=runs[0].claim.group if runs else "")
    try:
        if members:
            inside.row_tokens = _use_memory(context, base, runs)
            inside.callbacks = StepCallbacks(base, _watched(runs), context.should_stop, peers)
            places = inside.places if context.peers.ranks.size == 1 else None
            train_group(base.bank, members, context.should_stop, inside.callbacks, context.peers.ranks, places)
        for run in inside.runs.values():
            _settle(context, base, run)
    finally:
        for run in inside.runs.values():
            _leave(base, run)


def _leave(base: LoadedBase, run: _Run) -> None:
    """Ends a run's mirror, and takes its member out of the bank."""
    if run.tracker is not None:
        run.tracker.finish()
    if run.claim.run_id in base.bank.configs:
        base.bank.remove_member(run.claim.run_id)


@dataclass(slots=True, kw_only=True)
class _Inside:
    """The runs that are in a group, as members end and others take their places."""

    context: Context
    base: LoadedBase
    runs: dict[str, _Run]  # by id
    group: str  # of all of them
    row_tokens: int = 0
    callbacks: StepCallbacks | None = None

    @property
    def places(self) -> Places:
        """The group's places: as many as a claim takes runs at once."""
        return Places(number=self.context.settings.launch.max_group_size, on_end=self.end, refill=self.refill)

    def end(self, member: Member) -> None:
        """Settles a run whose member has ended."""
        run = self.runs[member.run_id]
        if member.deferred:
            self.context.give_back([run.claim])
        else:
            _settle(self.context, self.base, run)
        _leave(self.base, self.runs.pop(member.run_id))

    def refill(self, number: int) -> list[Member]:
        """Claims the next queued runs of this base and prepares them."""
        if number < 1 or self.context.should_stop():
            return []
        assert self.callbacks is not None
        try:
            claims = self.context.claim([TRAIN], number, self.group)
        except LedgerError:  # gone for longer than it waits: those that are in train on
            return []
        runs = _not_adopted(self.context, claims)
        others = [run for run in runs if not self.context.serves(run.spec, run.inputs)]
        self.context.give_back([run.claim for run in others])  # their base is read anew, after this group
        served = [run for run in runs if run not in others]
        found = _ready(self.context, self.base, served, [run.spec for run in self.runs.values()])
        new: list[Member] = []
        for run in found:
            if run.member is None:  # an untouched base
                _settle(self.context, self.base, run)
                continue
            run.member.train = replace(run.member.train, max_microbatch_tokens=self.row_tokens)
            self.runs[run.claim.run_id] = run
            new.append(run.member)
        self.callbacks.runs |= _watched(found)
        return new


def _watched(runs: Sequence[_Run]) -> dict[str, Watched]:
    def log_of(run: _Run) -> Callable[[MmluPoint], None]:
        return lambda point: run.tracker.log_values(point.step, asdict(point)) if run.tracker is not None else None

    return {run.claim.run_id: Watched(spec=run.spec, folder=run.folder, log=log_of(run)) for run in runs}


def follow_training(place: Workplace, claims: Sequence[JobRow]) -> None:
    """Makes the same steps as rank 0, over this rank's share of their examples. Only rank 0 writes files.

    Raises:
        TrainingInterrupted: the ranks agreed to stop.
        PeerLostError: another rank ended.
    """
    runs = _runs_of(claims, place)
    base = place.base(runs[0].spec, trains=True, planned=runs[0].inputs)  # while rank 0 reads its own
    wanted = place.peers.receive()  # by then rank 0 has tokenized, and put away checkpoints of other inputs
    runs = [run for run in runs if run.claim.run_id in wanted]
    for run in runs:
        run.member = _member(base, run, _read_rows(place, base, run), Path(place.settings.paths.cache), lambda _: None)
    members = [run.member for run in runs if run.member is not None]
    watched = {run.claim.run_id: Watched(spec=run.spec, folder=run.folder, log=lambda _: None) for run in runs}
    callbacks = StepCallbacks(base, watched, place.should_stop, place.peers) if place.shards_base else lambda _: None
    try:
        if members:
            _use_memory(place, base, runs)
            train_group(base.bank, members, place.should_stop, callbacks, place.peers.ranks)
    finally:
        for member in members:
            if member.run_id in base.bank.configs:
                base.bank.remove_member(member.run_id)


def _adopt(context: Context, run: _Run) -> bool:
    """Takes a whole run folder for what it is, where the ledger was lost or its worker died before it was told."""
    if folder_problem(run.folder, run.spec.adapter.method is not AdapterMethod.none, run.claim.run_id) is not None:
        return False
    record = load_record(run.folder)
    assert record is not None
    shutil.rmtree(run.folder / CHECKPOINT_FOLDER, ignore_errors=True)  # its worker may have died before that, too
    context.finish(run.claim, train_result(record), record.train_seconds)
    return True


def _prepare(context: Context, base: LoadedBase, run: _Run) -> None:
    """Writes the resolved config, tokenizes, opens the member. Raises ValueError for what a user can mend."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / RECORD_FILE).unlink(missing_ok=True)  # from here on the folder is not done
    write_atomically(run.folder / CONFIG_FILE, yaml.dump(run.spec.to_dict(), Dumper=_YAML, sort_keys=False))
    if run.spec.dataset is None:
        return
    assert run.spec.train is not None
    context.tell(run.claim, phase="tokenizing")
    rows = _read_rows(context, base, run)
    if rows.chosen.selected is not None and rows.chosen.lines is not None:
        write_selected(run.folder, rows.chosen.selected, rows.chosen.lines)
        run.notes.append(
            f"{len(rows.chosen.selected.places):,} of {len(rows.chosen.lines):,} rows train, chosen by "
            f"dataset.select={run.spec.dataset.select.value}: {SELECTED_FILE}"
        )
    for note in run.data.notes if run.data is not None else ():
        context.tell(run.claim, phase="note", note=f"note: {note}")
    total = num_steps(run.spec.train, len(rows.examples))
    _drop_checkpoint_of_other_inputs(run, base)
    if not checkpoints(run.folder / CHECKPOINT_FOLDER):
        remove_callback_files(run.folder)
    run.metrics, run.points = earlier_metrics(run.folder)
    run.tracker = Tracker.start(context.settings.tracking, run.spec, run.label, context.settings.sweep, run.folder)

    def on_step(metrics: StepMetrics) -> None:
        if context.is_lost(run.claim):
            return
        if run.metrics and run.metrics[-1].step >= metrics.step:
            _rewind_metrics(run, metrics.step)
        run.metrics.append(metrics)
        append_jsonl(run.folder / METRICS_FILE, asdict(metrics))
        assert run.tracker is not None
        run.tracker.log(metrics)
        context.tell(run.claim, phase="training", step=metrics.step, total=total, loss=metrics.loss)

    def on_eval(point: EvalPoint) -> None:
        run.points[point.step] = point
        _write_metrics(run)
        assert run.tracker is not None
        run.tracker.log_values(point.step, asdict(point))

    run.member = _member(base, run, rows, Path(context.settings.paths.cache), on_step)
    run.member.on_eval = on_eval
    run.member.lost = lambda: context.is_lost(run.claim)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What a run trains on, and what it is measured on."""

    examples: EncodedExamples
    num_characters: Lengths  # of each
    held_out: HeldOut | None
    chosen: Chosen


def _read_rows(place: Workplace, base: LoadedBase, run: _Run) -> _Rows:
    """Tokenizes what isn't in the cache yet, and holds rows out."""
    assert run.spec.dataset is not None
    assert run.spec.train is not None
    source = locate_dataset(run.spec.dataset, place.settings.paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    run.data_fingerprint = fingerprint(source)
    if source.files:
        require_planned(run.inputs, {DATA: run.data_fingerprint}, run.spec)
    run.data = tokenize_dataset(
        run.spec.dataset,
        source,
        base.tokenizer,
        Path(place.settings.paths.cache) / "tokenized",
        empty_targets=run.spec.dataset.empty_targets.value,
    )
    run.data.require_fits(base.max_length, apart=run.spec.model.kind is ModelKind.seq2seq)
    if run.data.labels is not None:
        set_num_labels(base.bank, num_labels(run.spec.dataset, float(run.data.labels.max())))
    lines = shared_lines(run.spec.dataset, run.data)
    parts = divided(run.data, run.data.num_characters.astype(np.int64), run.spec.train, lines)
    if parts.num_twins:
        run.notes.append(f"{parts.num_twins:,} rows are equal to held-out ones and were left out of training")
    held_out = split_examples(run.spec, base, place.settings.paths) or parts.held_out
    chosen = chosen_parts(run.spec, base, run.data, parts, place.settings.paths)
    parts = chosen.parts
    calibrate(base.bank, run.spec.adapter, _calibration(base, run.spec.adapter, parts.examples), run.spec.train)
    set_master_weights(base.bank, run.spec.adapter, run.spec.train)
    return _Rows(
        examples=parts.examples,
        num_characters=parts.num_characters,
        held_out=None if held_out is None else HeldOut(held_out, target_bytes(held_out, base.tokenizer)),
        chosen=chosen,
    )


def _calibration(
    base: LoadedBase, adapter: AdapterConfig, examples: EncodedExamples
) -> EncodedExamples | list[TokenizedExample]:
    """What a method starts from: the rows that train, or those whose knowledge it keeps, cut to 512 tokens."""
    if adapter.corda_keep is None:
        return examples
    texts = knowledge_texts(knowledge_file(adapter.corda_keep), adapter.corda_keep_sha256)
    ids = (np.array(base.tokenizer(text)["input_ids"][:_KEPT_TOKENS], dtype=np.int32) for text in texts)
    return [TokenizedExample(input_ids=tokens, num_source=1) for tokens in ids if len(tokens) > 1]


def _member(base: LoadedBase, run: _Run, rows: _Rows, cache: Path, on_step: Callable[[StepMetrics], None]) -> Member:
    assert run.spec.train is not None

    def on_added() -> None:
        weights = f"{base.fingerprint} {run.spec.quant}"
        run.proof = proved(base.bank, run.claim.run_id, run.spec.adapter, weights, cache / "identity")
        _take_start(base, run)

    return Member(
        run_id=run.claim.run_id,
        adapter=run.spec.adapter,
        train=run.spec.train,
        examples=rows.examples,
        num_characters=rows.num_characters,
        held_out=rows.held_out,
        until=run.until,
        checkpoint_folder=run.folder / CHECKPOINT_FOLDER,
        on_step=on_step,
        on_added=on_added,
    )


def _take_start(base: LoadedBase, run: _Run) -> None:
    """Gives a fresh member the tensors of `train.start_from`. Raises ValueError where they aren't the planned ones."""
    if run.spec.train is None or run.spec.train.start_from is None:
        return
    folder = Path(run.spec.train.start_from)
    if start_digest(folder) != run.spec.start_sha256:
        raise ValueError(
            f"train.start_from={folder}: the adapter was changed after this run was planned; plan it again"
        )
    base.bank.read_again(run.claim.run_id, folder)
    run.notes.append(f"started from {folder}")


def _fitting(context: Context, base: LoadedBase, runs: Sequence[_Run], inside: Sequence[RunSpec] = ()) -> list[_Run]:
    """The runs that the predictor has room for beside those that train; the others are given back."""
    number = num_fitting(context, base, inside, [run.spec for run in runs])
    if number < len(runs):
        context.give_back([run.claim for run in runs[number:]])
    return list(runs[:number])


def _use_memory(place: Workplace, base: LoadedBase, runs: Sequence[_Run]) -> int:
    """Gives the members the row length that the device has room for, and the base its dequantized layers.

    Every rank calls it. -> the row length
    """
    tokens = agreed_row_tokens(place, base, [run.spec for run in runs])
    keep_dequantized(place, base, [run.spec for run in runs], tokens)
    for run in runs:
        if run.member is not None:
            run.member.train = replace(run.member.train, max_microbatch_tokens=tokens)
    return tokens


def _drop_checkpoint_of_other_inputs(run: _Run, base: LoadedBase) -> None:
    """Removes a checkpoint of other weights or rows, which were changed while the run was stopped."""
    inputs = {"base_fingerprint": base.fingerprint, "data_fingerprint": run.data_fingerprint}
    path = run.folder / CHECKPOINT_FOLDER / "inputs.json"
    if path.is_file() and json.loads(path.read_text()) != inputs:
        shutil.rmtree(path.parent)
    write_json(path, inputs)


def earlier_metrics(folder: Path) -> tuple[list[StepMetrics], dict[int, EvalPoint]]:
    """The steps in metrics.jsonl of a run that was stopped, and the held-out losses that were measured after them.

    Nothing if another version of the code wrote them.
    """
    metrics, points = list[StepMetrics](), dict[int, EvalPoint]()
    try:
        for row in read_jsonl(folder / METRICS_FILE):
            measured = {key: row.pop(key) for key in list(row) if key.startswith(_EVAL)}
            metrics.append(StepMetrics(**row))
            if measured:
                points[row["step"]] = EvalPoint(step=row["step"], **measured)
    except (FileNotFoundError, TypeError, ValueError):
        return [], {}
    return metrics, points


def _rewind_metrics(run: _Run, step: int) -> None:
    """Removes the steps after the checkpoint from metrics.jsonl, because they are done again."""
    run.metrics = [metrics for metrics in run.metrics if metrics.step < step]
    run.points = {measured: point for measured, point in run.points.items() if measured < step}
    _write_metrics(run)


def _write_metrics(run: _Run) -> None:
    """Writes metrics.jsonl anew: a line a step, with the held-out loss where it was measured after it."""
    path = run.folder / METRICS_FILE
    rows = (asdict(m) | (asdict(run.points[m.step]) if m.step in run.points else {}) for m in run.metrics)
    write_atomically(path, "".join(to_json(row, where=str(path)) + "\n" for row in rows))


def _settle(context: Context, base: LoadedBase, run: _Run) -> None:
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


def _stop(context: Context, run: _Run, member: Member) -> None:
    """Tells the ledger of a run that has stopped to be judged; its checkpoint stays in the run folder."""
    point = run.points.get(member.step)
    values = {} if point is None else asdict(point)
    measured = {key: values.get(key) for key in (EVAL_LOSS, EVAL_BITS)}
    result = measured | {EVAL_STEP: member.step, "num_steps": member.total_steps}
    shown = "not measured" if point is None else f"{point.eval_loss:.4f}"
    reason = f"stopped at step {member.step} of {member.total_steps} to be judged, held-out loss {shown}"
    context.stop(run.claim, result, sum(m.seconds / m.num_members for m in run.metrics), reason)


def _write_adapter(base: LoadedBase, run: _Run) -> tuple[Path, str]:
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


def _record(base: LoadedBase, run: _Run, adapter_sha256: str | None, num_devices: int) -> RunRecord:
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


def _kept_point(run: _Run) -> EvalPoint | None:
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

"""The job kind `train`: trains several claimed runs over one base, and leaves a whole run folder of each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from harness.banks.load import LoadedBase
from harness.files.atomic import is_out_of_space
from harness.ledger.tables import JobRow, LedgerError
from harness.runs.spec import RunSpec
from harness.training.group import Member, Places
from harness.training.loop import train_group
from sweeps.jobs.callbacks import MmluPoint, StepCallbacks, Watched
from sweeps.jobs.claimed_run import ClaimedRun
from sweeps.jobs.context import Context, Workplace
from sweeps.jobs.preparing import member_of, prepare, read_rows
from sweeps.jobs.row_tokens import agreed_row_tokens, keep_dequantized, num_fitting
from sweeps.jobs.settling import adopt, settle
from sweeps.plan.inputs import require_planned
from sweeps.plan.jobs import TRAIN, fixed_group_note


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
            settle(context, base, run)
    _train(context, base, [run for run in runs if run.member is not None])


def _runs_of(claims: Sequence[JobRow], place: Workplace) -> list[ClaimedRun]:
    return [ClaimedRun.of(claim, place) for claim in claims]


def _not_adopted(context: Context, claims: Sequence[JobRow]) -> list[ClaimedRun]:
    return [run for run in _runs_of(claims, context) if not adopt(context, run)]


def _prepared(context: Context, runs: Sequence[ClaimedRun]) -> tuple[LoadedBase | None, list[ClaimedRun]]:
    """Loads the base that the runs share and prepares each. -> the base and the runs that can start."""
    if not runs:
        return None, []
    base = context.base(runs[0].spec, trains=True, planned=runs[0].inputs)
    return base, _ready(context, base, runs)


def _ready(
    context: Context, base: LoadedBase, runs: Sequence[ClaimedRun], inside: Sequence[RunSpec] = ()
) -> list[ClaimedRun]:
    """Prepares each run. -> those that can start

    Args:
        context: takes the others' failures.
        base: of all of them.
        runs: of one group.
        inside: runs that train on the base already.
    """
    ready: list[ClaimedRun] = []
    for run in _fitting(context, base, runs, inside):
        try:
            require_planned(run.inputs, context.signs, run.spec)
            prepare(context, base, run)
        except ValueError as error:
            context.fail(run.claim, str(error), retry=False)
        except Exception as error:  # the boundary of a run: what nobody foresaw in one is not the others' failure
            if is_out_of_space(error):
                raise
            context.fail_with(run.claim, error)
        else:
            ready.append(run)
    return ready


def _train(context: Context, base: LoadedBase, runs: Sequence[ClaimedRun]) -> None:
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
            if (note := fixed_group_note(len(members), context.peers.ranks.size, context.shards_base)) is not None:
                context.send({"phase": "note", "label": "", "note": f"note: {note}"})
            train_group(base.bank, members, context.should_stop, inside.callbacks, context.peers.ranks, places)
        for run in inside.runs.values():
            settle(context, base, run)
    finally:
        for run in inside.runs.values():
            _leave(base, run)


def _leave(base: LoadedBase, run: ClaimedRun) -> None:
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
    runs: dict[str, ClaimedRun]  # by id
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
            settle(self.context, self.base, run)
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
                settle(self.context, self.base, run)
                continue
            run.member.train = replace(run.member.train, max_microbatch_tokens=self.row_tokens)
            self.runs[run.claim.run_id] = run
            new.append(run.member)
        self.callbacks.runs |= _watched(found)
        return new


def _watched(runs: Sequence[ClaimedRun]) -> dict[str, Watched]:
    def log_of(run: ClaimedRun) -> Callable[[MmluPoint], None]:
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
        run.member = member_of(base, run, read_rows(place, base, run), Path(place.settings.paths.cache), lambda _: None)
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


def _fitting(
    context: Context, base: LoadedBase, runs: Sequence[ClaimedRun], inside: Sequence[RunSpec] = ()
) -> list[ClaimedRun]:
    """The runs that the predictor has room for beside those that train; the others are given back."""
    number = num_fitting(context, base, inside, [run.spec for run in runs])
    if number < len(runs):
        context.give_back([run.claim for run in runs[number:]])
    return list(runs[:number])


def _use_memory(place: Workplace, base: LoadedBase, runs: Sequence[ClaimedRun]) -> int:
    """Gives the members the row length that the device has room for, and the base its dequantized layers.

    Every rank calls it. -> the row length
    """
    tokens = agreed_row_tokens(place, base, [run.spec for run in runs])
    keep_dequantized(place, base, [run.spec for run in runs], tokens)
    for run in runs:
        if run.member is not None:
            run.member.train = replace(run.member.train, max_microbatch_tokens=tokens)
    return tokens

"""What a worker gives to the jobs that it runs: settings, the loaded base, and what becomes of its claims."""

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.banks.load import LoadedBase, load_base
from harness.devices.torch_device import require_bfloat16, resolve_device, slow_dtype
from harness.files.hub import Missing
from harness.files.names import file_name
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, LedgerError, LedgerUnavailableError
from harness.models.locate import locate_model
from harness.models.sign import checkpoint_signs
from harness.nn.shards import ShardedLayers
from harness.runs.spec import RunSpec
from sweeps.jobs.peers import Peers
from sweeps.jobs.settings import WorkerSettings


@dataclass(slots=True, kw_only=True)
class Workplace:
    """What every rank of a worker has. A base stays loaded until a job needs another one."""

    settings: WorkerSettings
    should_stop: Callable[[], bool]
    send: Callable[[dict[str, Any]], None]
    peers: Peers = field(default_factory=Peers)
    signs: dict[str, str] = field(default_factory=dict)  # of the loaded base's files, taken when it was read
    _base: LoadedBase | None = None
    _group: str | None = None

    @property
    def device(self) -> torch.device:
        """The device that this worker computes on."""
        return self.peers.ranks.device or resolve_device(self.settings.launch.device)

    @property
    def shards_base(self) -> bool:
        """Whether each rank keeps only its part of the base."""
        return self.settings.launch.shard_base and self.peers.ranks.size > 1

    def run_folder(self, run_id: str) -> Path:
        """Where a run lies. Raises ValueError for an id that leads out of the folder of runs."""
        return Path(self.settings.paths.runs) / file_name(run_id, "run")

    def base(self, spec: RunSpec, trains: bool = False, planned: Mapping[str, str] | None = None) -> LoadedBase:
        """The frozen base of a run, loaded once for all jobs of its group.

        Args:
            trains: whether it is loaded for training, which is refused on a device that only emulates its data type.
            planned: signs of the run's inputs; files that changed since they were read are read anew, unless the plan
                is older than the change. Whether they are the planned ones is for the caller to ask of `signs`.

        Raises:
            ValueError: its weights are nowhere to be found, or the device doesn't compute in its data type.
        """
        if trains:
            require_bfloat16(spec.quant.compute_dtype, self.device)
        if self._base is not None and self._group == spec.group and not self._is_outdated(spec, planned or {}):
            return self._base
        self._base = None  # frees the old one before the new one is read
        source = locate_model(spec.model, self.settings.paths)
        if isinstance(source, Missing):
            raise ValueError(str(source))
        self.send({"phase": "loading", "label": f"{spec.model.name} {spec.quant.label}"})
        if (line := slow_dtype(spec.quant.compute_dtype, self.device)) is not None:
            self.send({"phase": "note", "label": "", "note": f"note: {spec.model.name} {spec.quant.label}: {line}"})
        cache = Path(self.settings.paths.cache)
        shards = ShardedLayers(self.peers.ranks) if self.shards_base else None
        self._base = load_base(source, spec.quant, self.device, cache, spec.model.kind, spec.adapter.method, shards)
        self._group, self.signs = spec.group, checkpoint_signs(source)
        return self._base

    def serves(self, spec: RunSpec, planned: Mapping[str, str]) -> bool:
        """Whether the loaded base is the one that a run was planned with."""
        return self._base is not None and self._group == spec.group and not self._is_outdated(spec, planned)

    def _is_outdated(self, spec: RunSpec, planned: Mapping[str, str]) -> bool:
        """Whether the plan names other files than the loaded ones, and other ones are there now."""
        if all(planned.get(name, sign) == sign for name, sign in self.signs.items()):
            return False
        source = locate_model(spec.model, self.settings.paths)
        return not isinstance(source, Missing) and checkpoint_signs(source) != self.signs


@dataclass(slots=True, kw_only=True)
class Context(Workplace):
    """What the rank that claims and settles jobs has in addition: the only process, or rank 0."""

    ledger: Ledger
    worker: str = ""  # its name in the ledger
    held: list[JobRow] = field(default_factory=list)  # the claims under way, settled ones included
    settled: set[str] = field(default_factory=set)  # job_ids of the claims under way that are finished or failed
    lost: set[str] = field(default_factory=set)  # job_ids that somebody else holds now, or that were cancelled
    renewed: float = 0.0  # when the leases were last renewed

    def claim(self, kinds: Sequence[str], number: int, group: str | None = None) -> list[JobRow]:
        """Claims up to so many jobs of one kind and group, and holds them beside those that it has."""
        launch = self.settings.launch
        claims = self.ledger.claim(
            self.worker,
            kinds,
            max_jobs=number,
            lease_seconds=launch.lease_seconds,
            max_attempts=launch.max_attempts,
            sweep=self.settings.sweep,
            group=group,
        )
        self.held += claims
        self.settled -= {claim.job_id for claim in claims}  # one that was given back before is held anew
        return claims

    def give_back(self, claims: Collection[JobRow]) -> None:
        """Gives those claims back that aren't settled; the attempt is not counted."""
        self.ledger.release([claim for claim in claims if claim.job_id not in self.settled])
        self.settled |= {claim.job_id for claim in claims}

    def tell(self, claim: JobRow, **what: Any) -> None:
        """Reports progress to the launch that watches; where none does, nothing happens."""
        self.send({"kind": claim.kind, "label": claim.label, **what})

    def still_held(self, claim: JobRow) -> bool:
        """Whether this worker still holds the claim, by the ledger, which renews its lease."""
        return claim.job_id in self.ledger.heartbeat([claim], self.settings.launch.lease_seconds)

    def renew(self, claims: Collection[JobRow]) -> None:
        """Renews the leases of those that aren't settled, and notes which are lost."""
        unsettled = [claim for claim in claims if claim.job_id not in self.settled]
        began = now_awake_or_not()
        try:
            held = self.ledger.heartbeat(unsettled, self.settings.launch.lease_seconds) if unsettled else set()
        except LedgerError:  # gone for longer than it waits: the work goes on; the next heartbeat or `finish` decides
            return
        self.lost |= {claim.job_id for claim in unsettled} - held - self.settled  # some end while it is under way
        self.renewed = began

    def is_lost(self, claim: JobRow) -> bool:
        """Whether another worker holds the job now. Asks the ledger only if this process slept through its lease."""
        if now_awake_or_not() - self.renewed > self.settings.launch.lease_seconds and claim.job_id not in self.lost:
            self.lost |= set() if self.still_held(claim) else {claim.job_id}
        return claim.job_id in self.lost

    def finish(self, claim: JobRow, result: dict[str, Any], seconds: float, **what: Any) -> None:
        """Args: what: more for whoever watches; the ledger doesn't keep it."""
        self.settled.add(claim.job_id)
        if self.ledger.finish(claim, result, seconds):
            self.tell(claim, phase="done", seconds=seconds, **what)

    def stop(self, claim: JobRow, result: dict[str, Any], seconds: float, reason: str) -> None:
        """Ends a job that stopped before its last step, to be judged."""
        self.settled.add(claim.job_id)
        if self.ledger.stop(claim, result, seconds, reason):
            self.tell(claim, phase="judged", seconds=seconds, reason=reason)

    def fail(self, claim: JobRow, reason: str, retry: bool) -> None:
        """Fails a job, or queues it again where `retry` and attempts are left."""
        self.settled.add(claim.job_id)
        if self.ledger.fail(claim, reason, retry):
            self.tell(claim, phase="failed", reason=reason)

    def fail_with(self, claim: JobRow, error: Exception) -> None:
        """Fails a job by an unexpected error, and writes its stack trace to a file. Tries it again if that can help."""
        reason = f"{type(error).__name__}: {error}"
        try:
            log = self.run_folder(claim.run_id) / "error.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(error)))
            reason += f" ({log})"
        except (OSError, ValueError) as unwritten:  # the reason reaches the ledger all the same
            reason += f" (no stack trace: {unwritten})"
        a_users = isinstance(error, ValueError) and not isinstance(error, LedgerUnavailableError)
        self.fail(claim, reason, retry=not a_users)


def now_awake_or_not() -> float:
    """A clock in seconds that also runs while the machine sleeps or this process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""Callbacks between training steps: score MMLU and save adapters, without a change to training.

`train.mmlu_every_steps` scores the members of a group that are due in one call, by the original's protocol (qlora's
MMLUEvalCallback: its prompts on the validation questions), and writes a line each to `runs/<run_id>/mmlu.jsonl`.
`train.snapshot_steps` saves the adapter alone to `runs/<run_id>/adapters/step-...`, in PEFT's format, for
`python -m eval mmlu --run RUN_ID --checkpoints all`. Nothing random is drawn (scoring has no dropout and no
sampling), and no gradient is touched: tests/unit/sweeps/jobs/test_callbacks.py holds trained weights bit for bit
against those without.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks.mmlu.benchmark import training_settings
from eval.benchmarks.mmlu.checkpoints import snapshot_folder
from eval.benchmarks.mmlu.results import MmluResult
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from harness.banks.load import LoadedBase
from harness.files.atomic import read_jsonl, to_json, write_atomically
from harness.runs.spec import RunSpec
from harness.training.group import Member
from sweeps.jobs.peers import Peers

MMLU_LOG = "mmlu.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class MmluPoint:
    """MMLU at one step of a run; a line of mmlu.jsonl."""

    step: int  # optimizer steps done
    mmlu_accuracy_macro: float
    mmlu_accuracy_micro: float
    mmlu_answer_loss: float  # mean negative log-likelihood of the right letter, nats
    num_questions: int
    protocol: str
    settings_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A run under way, as the callbacks see it."""

    spec: RunSpec
    folder: Path  # runs/<run_id>
    log: Callable[[MmluPoint], None]


class StepCallbacks:
    """Called between the steps of a group.

    Args:
        base: with the group's members in its bank.
        runs: by run_id.
        should_stop: cuts scoring off; the scores are made when the run goes on.
        peers: the ranks among which the base is sharded. All score together and to the end; rank 0 decides which
            members are scored and keeps the results. None: the base is whole, and this process scores alone.
    """

    def __init__(
        self,
        base: LoadedBase,
        runs: Mapping[str, Watched],
        should_stop: Callable[[], bool],
        peers: Peers | None = None,
    ) -> None:
        self.base, self.runs, self.should_stop, self.peers = base, dict(runs), should_stop, peers
        self.leads = peers is None or peers.ranks.leads

    def __call__(self, members: Sequence[Member]) -> None:
        for member in members:
            if self.leads and _is_due(member, member.train.snapshot_steps) and not member.lost():
                self._keep(member)
        due = self._agreed([m for m in members if _is_due(m, m.train.mmlu_every_steps, after_last=True)])
        if due:
            self.base.bank.eval()  # no dropout
            try:
                self._score(due)
            finally:
                self.base.bank.train()

    def _agreed(self, due: Sequence[Member]) -> list[Member]:
        """Leaves out members that were scored before or were lost; `due` is the same on all ranks."""
        if not due:
            return []
        if self.leads:
            wanted = [member.run_id for member in due if not self._scored(member) and not member.lost()]
            if self.peers is not None:
                self.peers.broadcast(wanted)
        else:
            assert self.peers is not None
            wanted = self.peers.receive()
        return [member for member in due if member.run_id in wanted]

    def _score(self, due: Sequence[Member]) -> None:
        by_settings: dict[MmluSettings, list[Member]] = {}
        for member in due:
            by_settings.setdefault(training_settings(member.train), []).append(member)
        try:
            for settings, same in by_settings.items():
                ids: dict[str, str | None] = {member.run_id: member.run_id for member in same}
                results = score_mmlu(self.base, ids, settings, on_progress=self._stop_if_asked)
                for member in same if self.leads else []:
                    self._write(member, results[member.run_id])
        except _Stopped:
            for member in due:
                if member.done and not self._scored(member):
                    member.notes.append(f"MMLU at step {member.step} was cut off: the run was asked to stop")

    def _keep(self, member: Member) -> None:
        watched = self.runs[member.run_id]
        target = snapshot_folder(watched.folder, member.step)
        if target.is_dir():
            return
        partial = target.with_name(f".partial-{os.getpid()}-{member.step}")
        model = watched.spec.model
        self.base.bank.save_member(member.run_id, partial, model.hub_id, model.revision)
        os.replace(partial, target)

    def _scored(self, member: Member) -> bool:
        return any(point["step"] == member.step for point in _points(self.runs[member.run_id].folder))

    def _write(self, member: Member, result: MmluResult) -> None:
        right = [prediction.logprobs[prediction.answer] for prediction in result.predictions]
        point = MmluPoint(
            step=member.step,
            mmlu_accuracy_macro=result.accuracy_macro,
            mmlu_accuracy_micro=result.accuracy_micro,
            mmlu_answer_loss=-sum(right) / len(right),
            num_questions=result.n,
            protocol=result.protocol,
            settings_sha256=result.settings_sha256,
        )
        folder = self.runs[member.run_id].folder
        path = folder / MMLU_LOG
        before = [row for row in _points(folder) if row["step"] < member.step]
        write_atomically(path, "".join(to_json(row, where=str(path)) + "\n" for row in [*before, asdict(point)]))
        self.runs[member.run_id].log(point)

    def _stop_if_asked(self, done: int, total: int) -> None:
        if self.peers is None and self.should_stop():
            raise _Stopped


class _Stopped(Exception):
    """Raised when the run was asked to stop while questions were scored."""


def remove_callback_files(folder: Path) -> None:
    """Removes the files of an earlier attempt, before training begins anew. Args: folder: runs/<run_id>."""
    (folder / MMLU_LOG).unlink(missing_ok=True)
    shutil.rmtree(snapshot_folder(folder, 0).parent, ignore_errors=True)


def _is_due(member: Member, every: int | None, after_last: bool = False) -> bool:
    if every is None or member.step == 0:
        return False
    return member.step % every == 0 or (after_last and member.step >= member.total_steps)


def _points(folder: Path) -> list[dict[str, Any]]:
    path = folder / MMLU_LOG
    return read_jsonl(path) if path.is_file() else []

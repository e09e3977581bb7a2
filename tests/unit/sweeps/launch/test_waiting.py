"""A launcher waits as long as a job is open and a worker may do it: the ledger's counts and the clock are scripted."""

from typing import Any

import pytest

from harness.ledger.tables import JobStatus
from sweeps.launch import waiting
from sweeps.launch.waiting import SETTLE_SECONDS, NoWorkersError, open_jobs, wait_for_jobs

Counts = dict[str, dict[JobStatus, int]]
QUEUED, CLAIMED, DONE = ({"train": {status: 1}} for status in (JobStatus.queued, JobStatus.claimed, JobStatus.done))


class Scripted:
    """A ledger whose counts follow a script, and a clock that a wait advances by a second."""

    def __init__(self, *script: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.seconds = list(script), 0.0
        monkeypatch.setattr(waiting.time, "sleep", self.sleep)
        monkeypatch.setattr(waiting.time, "monotonic", lambda: 100.0 + self.seconds)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        assert self.seconds < 1000, "it waits for ever"

    def counts(self, sweep: str | None) -> Counts:
        assert sweep == "s"
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


def wait(ledger: Any, workers: list[bool]) -> None:
    wait_for_jobs(ledger, "s", lambda _: None, lambda: workers.pop(0) if len(workers) > 1 else workers[0])


@pytest.mark.parametrize("still_open", [QUEUED, CLAIMED])
def test_queued_and_claimed_jobs_are_waited_for(still_open: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Scripted(still_open, still_open, still_open, DONE, monkeypatch=monkeypatch)
    wait(ledger, [True])
    assert ledger.seconds == 3 * waiting.POLL_SECONDS
    assert open_jobs(Scripted(still_open, monkeypatch=monkeypatch), "s") == 1  # type: ignore[arg-type]
    assert open_jobs(Scripted(DONE, monkeypatch=monkeypatch), "s") == 0  # type: ignore[arg-type]


def test_workers_that_ended_are_given_time_for_their_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Scripted(CLAIMED, monkeypatch=monkeypatch)
    with pytest.raises(NoWorkersError, match="but 1 jobs are open"):
        wait(ledger, [True, True, False])
    assert ledger.seconds == 2 + SETTLE_SECONDS + 1  # the first poll later than that
    last_word = Scripted(*[CLAIMED] * int(SETTLE_SECONDS), DONE, monkeypatch=monkeypatch)
    wait(last_word, [False])
    assert last_word.seconds == SETTLE_SECONDS


def test_a_worker_that_comes_back_starts_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Scripted(QUEUED, monkeypatch=monkeypatch)
    with pytest.raises(NoWorkersError):
        wait(ledger, [False, False, False, False, True, False])
    assert ledger.seconds == 5 + SETTLE_SECONDS + 1

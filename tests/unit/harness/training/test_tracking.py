"""The mirror of metrics never fails a run."""

import logging
from typing import Any

import pytest
import wandb
from wandb.sdk.mailbox import MailboxClosedError

from harness.training.loop import StepMetrics
from harness.training.tracking import Tracker

METRICS = StepMetrics(step=1, loss=1.0, learning_rate=1e-4, grad_norm=0.1, target_tokens=3, seconds=0.1, num_members=1)


class Mirror:
    """wandb's run object; raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[str] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self._note(f"log {step} {values['loss']}")

    def finish(self) -> None:
        self._note("finish")

    def _note(self, text: str) -> None:
        self.calls.append(text)
        if self.error is not None:
            raise self.error


def test_metrics_are_mirrored() -> None:
    mirror = Mirror()
    tracker = Tracker(lambda: mirror)
    tracker.log(METRICS)
    tracker.finish()
    tracker.finish()
    assert mirror.calls == ["log 1 1.0", "finish"]


@pytest.mark.parametrize("error", [ConnectionResetError("lost"), wandb.Error("gone"), MailboxClosedError("closed")])
def test_a_lost_mirror_is_warned_of_once_and_let_go(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror(error)
    tracker = Tracker(lambda: mirror)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tracker.log(METRICS)
        tracker.finish()
    assert mirror.calls == ["log 1 1.0"]
    assert len(caplog.records) == 1
    assert type(error).__name__ in caplog.text
    tracker = Tracker(lambda: Mirror(error))
    tracker.finish()


def test_our_own_mistakes_still_show() -> None:
    tracker = Tracker(lambda: Mirror(KeyError("loss")))
    tracker.log(METRICS)
    with pytest.raises(KeyError):
        tracker.finish()


def test_a_mirror_that_cannot_be_opened_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Mirror:
        raise OSError("no room")

    tracker = Tracker(refuse)
    with caplog.at_level(logging.WARNING):
        tracker.log(METRICS)
        tracker.finish()
    assert "OSError" in caplog.text

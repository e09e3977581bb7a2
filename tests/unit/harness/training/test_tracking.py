"""The mirror of metrics never fails a run."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk.mailbox import MailboxClosedError

from harness.config.schema import TrackingConfig, WandbMode
from harness.training.group import StepMetrics
from harness.training.tracking import Tracker
from tests.builders import spec

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


def test_an_early_mistake_shows_at_a_later_step() -> None:
    tracker = Tracker(lambda: Mirror(KeyError("loss")))
    tracker.log(METRICS)
    tracker._told[0].exception()  # until it is done
    with pytest.raises(KeyError):
        tracker.log(METRICS)


def test_one_thread_talks_for_all_runs() -> None:
    """The second run's calls wait for the first one's opening."""
    opened, threads = threading.Event(), list[int]()

    def open_mirror() -> Mirror:
        threads.append(threading.get_ident())
        opened.wait(timeout=60)
        return Mirror()

    trackers = [Tracker(open_mirror), Tracker(open_mirror)]
    opened.set()
    for tracker in trackers:
        tracker.finish()
    assert len(threads) == 2
    assert len({*threads, threading.get_ident()}) == 2


def start(mode: WandbMode, folder: Path) -> Tracker:
    config = TrackingConfig(wandb_mode=mode, wandb_project="project")
    return Tracker.start(config, spec(), "label", "sweep", folder)


def test_what_wandb_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **values: told.append(values) or Mirror())
    start(WandbMode.disabled, tmp_path).finish()
    assert told == []
    start(WandbMode.offline, tmp_path).finish()
    values = told[0]
    quiet = values.pop("settings")
    assert values == {
        "project": "project",
        "name": "label",
        "id": spec().run_id,
        "group": "sweep",
        "dir": tmp_path,
        "config": spec().to_dict(),
        "mode": "offline",
        "reinit": "create_new",
    }
    assert (quiet.silent, quiet.console, quiet.save_code, quiet.disable_git) == (True, "off", False, True)
    assert (quiet.x_disable_meta, quiet.x_disable_stats, quiet.x_save_requirements) == (True, True, False)


def test_only_a_server_can_refuse_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.Error("no key")

    monkeypatch.setattr(wandb, "init", refuse)
    start(WandbMode.offline, tmp_path).finish()
    with pytest.raises(wandb.Error, match="no key"):
        start(WandbMode.online, tmp_path)

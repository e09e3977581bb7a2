"""Mirrors metrics to Weights & Biases, offline unless the user says otherwise; the run folder keeps them in any case.

One thread of a worker talks to wandb, for all its runs: importing and opening it takes a second, in which training
begins. wandb writes through a process of its own. Where that one is lost (SLURM's SIGTERM reaches every process of a
task, and it ends before the worker has saved), the mirror ends with a warning and the run goes on.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from harness.config.schema import TrackingConfig, WandbMode
from harness.runs.spec import RunSpec
from harness.training.group import StepMetrics

LOG = logging.getLogger(__name__)
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wandb")


class Tracker:
    """The mirror of one run in Weights & Biases. With `tracking.wandb_mode=disabled` it does nothing."""

    def __init__(self, open_mirror: Callable[[], Any] | None) -> None:
        """Args: open_mirror: gives wandb's run; None: there is no mirror."""
        self._opened = None if open_mirror is None else _THREAD.submit(open_mirror)
        self._told: deque[Future[None]] = deque()
        self._is_lost = False

    @classmethod
    def start(cls, config: TrackingConfig, spec: RunSpec, label: str, sweep: str | None, folder: Path) -> "Tracker":
        """Opens the mirror in `<folder>/wandb`; runs of a sweep share a wandb group.

        Raises:
            wandb.Error: the server can't be reached or asks for a key (`tracking.wandb_mode=online`).
        """
        if config.wandb_mode is WandbMode.disabled:
            return cls(None)
        tracker = cls(partial(_open, config, spec, label, sweep, folder))
        if config.wandb_mode is not WandbMode.offline and tracker._opened is not None:
            tracker._opened.result()
        return tracker

    def log(self, metrics: StepMetrics) -> None:
        """Sends the metrics of one step."""
        self.log_values(metrics.step, asdict(metrics))

    def log_values(self, step: int, values: dict[str, Any]) -> None:
        """Sends values measured at a step. Raises the error of an earlier call, unless wandb's process was lost."""
        while self._told and self._told[0].done():
            self._told.popleft().result()
        self._tell(lambda run: run.log(values, step=step))

    def finish(self) -> None:
        """Waits until all is written."""
        self._tell(lambda run: run.finish())
        self._opened = None
        while self._told:
            self._told.popleft().result()

    def _tell(self, call: Callable[[Any], object]) -> None:
        if self._opened is not None and not self._is_lost:
            self._told.append(_THREAD.submit(self._call, self._opened, call))

    def _call(self, opened: "Future[Any]", call: Callable[[Any], object]) -> None:
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        if self._is_lost:
            return
        try:
            call(opened.result())
        except (OSError, wandb.Error, HandleAbandonedError, MailboxClosedError) as error:
            LOG.warning("wandb's own process was lost (%s): this run's mirror ends here", type(error).__name__)
            self._is_lost = True


def _open(config: TrackingConfig, spec: RunSpec, label: str, sweep: str | None, folder: Path) -> Any:
    import wandb

    return wandb.init(
        project=config.wandb_project,
        name=label,
        id=spec.run_id,
        group=sweep,
        dir=folder,
        config=spec.to_dict(),
        mode=config.wandb_mode.value,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,  # a list of all packages costs 0.1 s a run; the record has what counts
        ),
    )

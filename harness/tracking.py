"""Metrics mirrored to Weights & Biases, offline unless the user says otherwise. The ledger is the truth.

wandb writes through a process of its own. Where that one is lost (SLURM's SIGTERM reaches every process of a task, and
it ends before the worker has saved), the mirror ends with a warning and the run goes on.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.plan import RunSpec
from harness.schema import TrackingConfig, WandbMode
from harness.train import StepMetrics

LOG = logging.getLogger(__name__)


class Tracker:
    """One run's mirror. With `tracking.wandb_mode=disabled` it does nothing."""

    def __init__(self, run: Any | None) -> None:
        self._run = run

    @classmethod
    def start(cls, config: TrackingConfig, spec: RunSpec, label: str, sweep: str | None, folder: Path) -> "Tracker":
        """Opens the mirror in `<folder>/wandb`; runs of a sweep share a wandb group."""
        if config.wandb_mode is WandbMode.disabled:
            return cls(None)
        import wandb

        run = wandb.init(
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
        return cls(run)

    def log(self, metrics: StepMetrics) -> None:
        self.log_values(metrics.step, asdict(metrics))

    def log_values(self, step: int, values: dict[str, Any]) -> None:
        """What was measured at a step."""
        if (run := self._run) is not None:
            self._tell(lambda: run.log(values, step=step))

    def finish(self) -> None:
        if (run := self._run) is not None:
            self._tell(run.finish)
            self._run = None

    def _tell(self, call: Callable[[], object]) -> None:
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        try:
            call()
        except (OSError, wandb.Error, HandleAbandonedError, MailboxClosedError) as error:
            LOG.warning("wandb's own process was lost (%s): this run's mirror ends here", type(error).__name__)
            self._run = None

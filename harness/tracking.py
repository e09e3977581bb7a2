"""Metrics mirrored to Weights & Biases, offline unless the user says otherwise. The ledger is the truth."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.plan import RunSpec
from harness.schema import TrackingConfig, WandbMode
from harness.train import StepMetrics


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
        if self._run is not None:
            self._run.log(values, step=step)

    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

"""Logs frames as tables of Weights & Biases, offline unless it is told otherwise.

`wandb sync FOLDER` uploads what was written offline.
"""

from pathlib import Path
from typing import Any

import pandas as pd

PROJECT = "qlora-harness"


def write_wandb(frames: dict[str, pd.DataFrame], out: Path, name: str, project: str = PROJECT) -> Path:
    """Logs one run with a table for each frame. -> the folder that `wandb sync` takes

    Args:
        frames: by the tables' names.
        out: the folder that `wandb/` is made in.
        name: of the run.
        project: its project.
    """
    import wandb

    out.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=project,
        name=name,
        dir=str(out),
        mode="offline",
        job_type="tables",
        settings=wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,  # what names this machine stays here
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    ) as run:
        run.log({title: table_of(frame) for title, frame in frames.items()})
        return Path(run.dir).parent


def table_of(frame: pd.DataFrame) -> Any:
    """A frame as wandb's table: categories as text, times as ISO 8601, what is missing as None."""
    import wandb

    plain = frame.copy()
    for name in plain.select_dtypes(include=["datetimetz", "datetime"]):
        plain[name] = plain[name].map(lambda moment: None if pd.isna(moment) else moment.isoformat())
    rows = plain.astype("object").where(plain.notna(), None)
    return wandb.Table(columns=[str(column) for column in rows], data=rows.to_numpy().tolist(), allow_mixed_types=True)
